"""Restatements that have not computed all of their ranges.

On engines without transactions, SQLMesh deletes the rows of a range before it inserts others. If that fails, the rows
are gone, and SQLMesh's state still has the range as computed. So the run that restates is the memory: it has a tag from
its beginning, and an event with its ranges. The tag changes when the run has computed all of them, or when a later run
or tick finds that somebody has.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import dagster as dg
from pydantic import TypeAdapter, ValidationError

from dg_sqlmesh_component.dagster_internals import log_step_metadata, step_metadata
from dg_sqlmesh_component.history.stored_record import internal, internal_part
from dg_sqlmesh_component.protocol import messages as msg

_TAG = "sqlmesh/restatement"
_FINISHED = "finished"
_RANGES = "unfinished_restatement"


@dataclass(frozen=True)
class _Left:
    """The ranges of a model that are left, and SQLMesh's version of its table."""

    version: str
    ranges: tuple[msg.Interval, ...]


@dataclass(frozen=True)
class _StepMemory:
    """What a step remembers: when its restatement began, and what is left of it, by fqn. Stored as JSON."""

    since: int
    models: Mapping[str, _Left]


_STORED = TypeAdapter(_StepMemory)


def begin(instance: dg.DagsterInstance, run_id: str, state: str) -> None:
    """Mark the run of a restatement, until it is finished."""
    instance.add_run_tags(run_id, {_TAG: _unfinished(state)})


def remember(
    context: dg.AssetExecutionContext, message: str, since: int, left: Mapping[str, tuple[str, Sequence[msg.Interval]]]
) -> None:
    """Log what a step has to restate: this is its memory, in place of an earlier one.

    It restates since an instant, by fqn, SQLMesh's version of the table, and the ranges.
    """
    models = {fqn: _Left(version, tuple(intervals)) for fqn, (version, intervals) in left.items()}
    stored = _STORED.dump_python(_StepMemory(since, models), mode="json")
    log_step_metadata(context, message, internal(**{_RANGES: stored}))


def has_left(instance: dg.DagsterInstance, run_id: str) -> bool:
    """Whether a step of the run has remembered ranges that are left."""
    return bool(_ranges_of(instance, run_id))


def finish(instance: dg.DagsterInstance, run_ids: Collection[str]) -> None:
    """Forget the ranges of these runs, because somebody has computed them."""
    for run_id in run_ids:
        instance.add_run_tags(run_id, {_TAG: _FINISHED})


def unfinished_restatements(
    instance: dg.DagsterInstance, state: str, *, except_run: str | None = None
) -> tuple[msg.UnfinishedRestatement, ...]:
    """The ranges that restatements in a state have not computed, as far as Dagster knows; perhaps of others too."""
    found: list[msg.UnfinishedRestatement] = []
    for run in instance.get_runs(dg.RunsFilter(tags={_TAG: _unfinished(state)})):
        if run.run_id == except_run:
            continue
        ranges = _ranges_of(instance, run.run_id)
        if ranges is None and run.is_finished:  # it was launched again, with a copy of the first run's tag
            finish(instance, [run.run_id])
        found += ranges or ()
    return tuple(found)


def _unfinished(state: str) -> str:
    return f"unfinished {state}"


def _ranges_of(instance: dg.DagsterInstance, run_id: str) -> list[msg.UnfinishedRestatement] | None:
    """The ranges in the last event of each step of a run; None if no step has remembered any."""
    stored = {
        step: ranges
        for step, metadata in step_metadata(instance, run_id)
        if (ranges := internal_part(metadata, _RANGES)) is not None
    }
    if not stored:
        return None
    last = []
    for value in stored.values():
        with suppress(ValidationError):  # another version of this package has stored it
            last.append(_STORED.validate_python(value))
    return [
        msg.UnfinishedRestatement(run_id, fqn, left.version, left.ranges, memory.since)
        for memory in last
        for fqn, left in memory.models.items()
    ]
