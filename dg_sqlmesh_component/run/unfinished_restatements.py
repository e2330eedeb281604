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
from dg_sqlmesh_component.definitions.op import PROJECT_TAG
from dg_sqlmesh_component.definitions.project_assets import ProjectAssets
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.intervals import subtract
from dg_sqlmesh_component.report.outcomes import NodeOutcome
from dg_sqlmesh_component.report.wording import Wording

_TAG = "sqlmesh/restatement"
_FINISHED = "finished"
_RANGES = "sqlmesh/unfinished_restatement"


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


class RestatementMemory:
    """Remembers the ranges of one step's restatement. If the step restates nothing, it does nothing.

    Attributes:
        project: The tag of the op that identifies its project.
        planned: The restatement; None until SQLMesh has planned it.
    """

    def __init__(self, context: dg.AssetExecutionContext, assets: ProjectAssets) -> None:
        self._context = context
        self._assets = assets
        self.project = context.op_execution_context.op_def.tags[PROJECT_TAG]
        self.planned: msg.RestatementPlanned | None = None
        self._versions: dict[str, str] = {}

    def begin(self, promoted: Mapping[str, msg.PromotedVersion]) -> None:
        """Remember all ranges, before SQLMesh computes anything."""
        if self.planned is None:
            return
        self._versions |= {fqn: version.version for fqn, version in promoted.items()}
        incremental = {fqn: [interval] for fqn, (interval, _) in self.planned.ranges.items() if self._loses_rows(fqn)}
        self._log("Ranges that this run restates", incremental)
        self._context.instance.add_run_tags(self._context.run.run_id, {_TAG: _unfinished(self.project)})

    def end(self, outcomes: Sequence[NodeOutcome], wording: Wording) -> list[str]:
        """Remember only the ranges that were not computed. Return texts about those without a coverage."""
        if self.planned is None or not self._versions:
            return []
        reported = {outcome.fqn: outcome.coverage.unrestated for outcome in outcomes if outcome.coverage}
        unreported = {
            outcome.fqn: subtract([self.planned.ranges[outcome.fqn][0]], outcome.intervals)
            for outcome in outcomes
            if outcome.outcome.is_failure and outcome.fqn in self.planned.ranges and self._loses_rows(outcome.fqn)
            if outcome.fqn not in reported and not (outcome.is_cancelled and outcome.was_not_started)
        }
        left = {fqn: intervals for fqn, intervals in {**reported, **unreported}.items() if intervals}
        nothing = "No range of this restatement was begun and not finished"
        self._log("Ranges whose rows may be missing or old" if left else nothing, left)
        if not _ranges_of(self._context.instance, self._context.run.run_id):  # of no other step of the run either
            finish(self._context.instance, [self._context.run.run_id])
        return [sentence for fqn, ranges in unreported.items() for sentence in wording.unrestated(fqn, ranges)]

    def _loses_rows(self, fqn: str) -> bool:
        return fqn in self._assets.models and self._assets.models[fqn].is_incremental

    def _log(self, message: str, ranges: Mapping[str, Sequence[msg.Interval]]) -> None:
        assert self.planned is not None, "the restatement has begun"
        models = {
            fqn: _Left(self._versions[fqn], tuple(intervals))
            for fqn, intervals in ranges.items()
            if fqn in self._versions
        }
        memory = _StepMemory(self.planned.planned_at, models)
        log_step_metadata(
            self._context, message, {_RANGES: dg.MetadataValue.json(_STORED.dump_python(memory, mode="json"))}
        )


def finish(instance: dg.DagsterInstance, run_ids: Collection[str]) -> None:
    """Forget the ranges of these runs, because somebody has computed them."""
    for run_id in run_ids:
        instance.add_run_tags(run_id, {_TAG: _FINISHED})


def unfinished_restatements(
    instance: dg.DagsterInstance, project: str, *, except_run: str | None = None
) -> tuple[msg.UnfinishedRestatement, ...]:
    """The ranges that restatements of a project have not computed, as far as Dagster knows."""
    found: list[msg.UnfinishedRestatement] = []
    for run in instance.get_runs(dg.RunsFilter(tags={_TAG: _unfinished(project)})):
        if run.run_id == except_run:
            continue
        ranges = _ranges_of(instance, run.run_id)
        if ranges is None and run.is_finished:  # it was launched again, with a copy of the first run's tag
            finish(instance, [run.run_id])
        found += ranges or ()
    return tuple(found)


def _unfinished(project: str) -> str:
    return f"unfinished {project}"


def _ranges_of(instance: dg.DagsterInstance, run_id: str) -> list[msg.UnfinishedRestatement] | None:
    """The ranges in the last event of each step of a run; None if no step has remembered any."""
    stored = {
        step: metadata[_RANGES].value for step, metadata in step_metadata(instance, run_id) if _RANGES in metadata
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
