"""The interval coverage of a model as metadata, and the verdict of its check. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import dagster as dg

from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.formatting import counted, duration_text, listed, ranges, utc_text
from dg_sqlmesh_component.protocol.intervals import common, subtract
from dg_sqlmesh_component.report.wording import restate_config

_HOUR = 3_600_000
_DAY = 24 * _HOUR
_MAX_NAMED = 5
"""How many gaps the description of the check names. Its metadata lists more."""


def coverage_metadata(coverage: msg.IntervalCoverage | None) -> dict[str, Any]:
    """The covered range. If something is not computed: also a table of these ranges. If something is outdated: that."""
    if coverage is None:
        return {}
    metadata: dict[str, Any] = {}
    if coverage.computed is not None:
        metadata["sqlmesh/coverage"] = _computed(coverage)
    if rows := _not_computed(coverage):
        columns = [dg.TableColumn("range"), dg.TableColumn("why")]
        metadata["sqlmesh/not_computed"] = dg.MetadataValue.table(rows, dg.TableSchema(columns))
    if coverage.outdated:
        metadata["sqlmesh/outdated"] = ranges(coverage.outdated)
    return metadata


def _not_computed(coverage: msg.IntervalCoverage) -> list[dg.TableRecord]:
    """The oldest gaps and all waiting ranges, in order."""
    waiting = [(range_, "waits for a source or a signal") for range_ in coverage.waiting]
    found = sorted([*((gap, "missing: a run computes it") for gap in coverage.gaps), *waiting])
    rows = [dg.TableRecord({"range": ranges([range_]), "why": why}) for range_, why in found]
    if left_out := coverage.gap_count - len(coverage.gaps):
        rows.append(dg.TableRecord({"range": f"and {counted(left_out, 'newer gap')}", "why": "missing"}))
    return rows


def _computed(coverage: msg.IntervalCoverage) -> str:
    """The range from the first to the last computed interval, with how much of it is computed."""
    assert coverage.computed is not None, "something is computed"
    (start, end), lacking = coverage.computed, coverage.lacking
    if not lacking:
        return ranges([coverage.computed])
    size, unit = next(
        (size, unit)
        for size, unit in ((_DAY, "day"), (_HOUR, "hour"), (_HOUR // 60, "minute"))
        if (end - start) % size == lacking % size == 0
    )
    share = f"{(end - start - lacking) // size} of {counted((end - start) // size, unit)}"
    return f"{ranges([coverage.computed]).partition(' (')[0]} ({share})"


def outdated_sentence(
    name: str, outdated: Sequence[msg.Interval], before_start: Sequence[msg.Interval] = (), first: Sequence[str] = ()
) -> str:
    """That a model of this name has read others too early, and what to do.

    Args:
        before_start: The ranges before the model's `start`, also others.
        first: The names of the models upstream that have to be restated. None if it is only this one.
    """
    text = (
        f"Outdated: {ranges(outdated)}. {name} was computed for these ranges before a model that it reads, so it lacks "
        "rows."
    )
    before_start = common(outdated, before_start)
    if restated := subtract(outdated, before_start):
        config = restate_config(restated[0][0], restated[-1][1])
        follows = f" It also computes {name}." if first else ""
        text += f" To read them, launch a run of {listed(first or [name])} with `{config}` in the run config.{follows}"
    return text + before_start_sentence(name, before_start)


def before_start_sentence(name: str, before_start: Sequence[msg.Interval]) -> str:
    """That no run can compute these ranges of a model again, and what to do."""
    if not before_start:
        return ""
    return (
        f" Before the `start` of {name}, so computed by no run: {ranges(before_start)}. To have these rows, set an "
        "earlier `start` and apply a plan first."
    )


def is_complete(coverage: msg.IntervalCoverage, slack: timedelta, now: int) -> bool:
    """True if no interval is missing for longer than the slack at the instant of the run, epoch milliseconds."""
    since = coverage.missing_since
    return since is None or since + slack / timedelta(milliseconds=1) >= now


def skipped_sentence(name: str, skipped: Sequence[msg.Interval]) -> str:
    """That runs have left out ranges of a model of this name, because it has no `start`, and what to do."""
    return (
        f"No run computes {_named(skipped, len(skipped))}: {name} has no `start`, so a run computes only its newest "
        "interval. To have these rows, set a `start`, for example in `model_defaults`, and apply a plan."
    )


def _named(gaps: Sequence[msg.Interval], number: int) -> str:
    more = number - _MAX_NAMED
    return ranges(gaps[:_MAX_NAMED]) + (f", and {counted(more, 'more gap')}" if more > 0 else "")


def coverage_sentences(
    name: str, coverage: msg.IntervalCoverage, slack: timedelta, now: int, *, advises: bool = True
) -> str:
    """What a model of this name lacks, since when, and what to do. `advises`: whether to advise a run of the model."""
    waits = f" Waiting: {ranges(coverage.waiting)}." if coverage.waiting else ""
    if coverage.missing_since is None:
        covered = f" in {_computed(coverage)}" if coverage.computed else ""
        return f"{name} has no gaps{' that a run computes' if coverage.skipped else ''}{covered}.{waits}"
    named = _named(coverage.gaps, coverage.gap_count)
    missing = f"{name} lacks {counted(coverage.missing_intervals, 'interval')}: {named}.{waits}"
    since = f"The oldest one became due at {utc_text(coverage.missing_since)}"
    if is_complete(coverage, slack, now):
        return f"{missing} {since}, which is within the slack of {duration_text(slack)}."
    longer = f", longer ago than the slack of {duration_text(slack)}" if slack else ""
    advice = (
        " Launch a run of the model, without `start` and `end` in the run config. It computes the intervals even if "
        "newer ones are computed. No restatement is needed."
    )
    return f"{missing} {since}{longer}.{advice if advises else ''}"
