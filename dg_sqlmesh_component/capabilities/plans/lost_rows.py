"""The rows that a plan loses, in words. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from dg_sqlmesh_component.capabilities.plans import messages as msg
from dg_sqlmesh_component.protocol.formatting import instant_text, ranges
from dg_sqlmesh_component.protocol.intervals import ALL_TIME, merged, subtract


def refused(lost: msg.LostRows) -> msg.LostRows:
    """Those that neither the next run nor the load of a source brings back. The run config must accept them."""
    intervals = subtract(lost.intervals, [*lost.not_loaded, *lost.until_run])
    return replace(lost, intervals=intervals, not_loaded=(), until_run=())


def is_refused(lost: msg.LostRows) -> bool:
    """Whether the run config must accept the loss."""
    return bool(refused(lost))


def lost_text(lost: msg.LostRows) -> str:
    """All of these rows and how long they are lost: `rows before 2026-11-25, rows of ... until later runs`."""
    later = lost.until_later_runs
    brought_back = [*lost.not_loaded, *lost.until_run, *later]
    gone = subtract(lost.intervals, brought_back)
    parts = [rows_text(gone, without_time=lost.without_time)] if gone or lost.without_time else []
    parts += ["rows that the source does not have any more"] if lost.of_past else []
    parts += [f"{rows_text(later)} until later runs compute them"] if later else []
    parts += [f"{rows_text(lost.not_loaded)} until their source is loaded"] if lost.not_loaded else []
    parts += [f"{rows_text(lost.until_run)} until the next run"] if lost.until_run else []
    return ", ".join(parts)


def rows_text(intervals: Sequence[msg.Interval], *, without_time: bool = False) -> str:
    """Rows by their time: `rows of 2026-11-26, rows before 2026-11-20, rows without a time`."""
    first, last = ALL_TIME
    if tuple(intervals) == (ALL_TIME,):
        return "all rows"
    parts = [f"rows before {instant_text(end)}" for start, end in intervals if start == first]
    bounded = [(start, end) for start, end in intervals if start != first and end != last]
    parts += [f"rows of {ranges(bounded, None)}"] if bounded else []
    parts += [f"rows from {instant_text(start)} on" for start, end in intervals if end == last]
    parts += ["rows without a time"] if without_time else []
    return ", ".join(parts)


def all_lost(rows: msg.PlannedRows) -> msg.LostRows:
    """What a model loses by its own change, and by those of models that it shows or reads."""
    own, read = rows.loses, rows.reads_lost
    return msg.LostRows(
        merged([*own.intervals, *read.intervals]),
        merged([*own.not_loaded, *read.not_loaded]),
        merged([*own.until_run, *read.until_run]),
        merged([*own.until_later_runs, *read.until_later_runs]),
        own.without_time or read.without_time,
        own.of_past or read.of_past,
    )
