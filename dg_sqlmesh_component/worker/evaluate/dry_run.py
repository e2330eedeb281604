"""Serve an `EvaluationRequest` with `dry_run`: plan what a run or a restatement would compute, and compute nothing.

The events are those of a run up to its first batch. Nothing is written to the state, and the lock of runs is not
taken: what a run in progress has not computed yet counts as pending.
"""

from __future__ import annotations

from sqlmesh.core.scheduler import Scheduler, SnapshotToIntervals
from sqlmesh.core.snapshot import DeployabilityIndex
from sqlmesh.core.snapshot.definition import merge_intervals

from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.worker.evaluate.evaluation import EvaluationContext, await_finalized_environment
from dg_sqlmesh_component.worker.evaluate.restatement import RestatementContext
from dg_sqlmesh_component.worker.evaluate.run import RunContext
from dg_sqlmesh_component.worker.intervals.tables import find_missing


class DryRunContext(RunContext):
    """A context that plans what a run would compute."""

    def prepare(self) -> None:
        await_finalized_environment(self)

    def compute(self) -> msg.Status:
        request = self.request
        scheduler = self.scheduler(environment=request.environment)
        missing, index = find_missing(
            scheduler,
            request.environment,
            request.execution_time,
            restates=self.may_restate_automatically(scheduler),
            **self.bounds,
            ignore_cron=request.ignore_cron,
            selected_snapshots=set(self.requested),
        )
        return _report_batches(self, scheduler, missing, index)


class DryRestatementContext(RestatementContext):
    """A context that plans what a restatement would compute."""

    def compute(self) -> msg.Status:
        plan = self.restatement
        snapshots = plan.context_diff.snapshots
        missing = {
            snapshots[intervals.snapshot_id]: merge_intervals(intervals.intervals)
            for intervals in plan.missing_intervals
            if intervals.intervals
        }
        scheduler = self.create_scheduler(snapshots.values(), self.snapshot_evaluator)
        return _report_batches(self, scheduler, missing, plan.deployability_index)


def _report_batches(
    context: EvaluationContext, scheduler: Scheduler, missing: SnapshotToIntervals, index: DeployabilityIndex
) -> msg.Status:
    if not missing:
        return "nothing_to_do"
    context.tracker.start_evaluation_progress(
        scheduler.batch_intervals(missing, index, context.environment.naming_info)
    )
    return "not_run"
