"""Serve a `DryRunRequest`: predict a run or a restatement.

A prediction has the events of a run up to its first batch. Nothing is written to the state, and the lock of runs is not
taken: what a run in progress has not computed yet counts as pending.
"""

from __future__ import annotations

from sqlmesh.core.scheduler import Scheduler

from dg_sqlmesh_component.capabilities.dry_run.messages import DryRunRequest
from dg_sqlmesh_component.capabilities.restatements.worker.restatement import RestatementContext
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.worker.evaluate.evaluation import await_finalized_environment, evaluate
from dg_sqlmesh_component.worker.evaluate.run import RunContext
from dg_sqlmesh_component.worker.intervals.tables import find_missing
from dg_sqlmesh_component.worker.pipe import Pipe


def serve_dry_run(request: DryRunRequest, pipe: Pipe) -> None:
    """Predict what would be computed."""
    evaluate(request, pipe, DryRunContext if request.restate is None else DryRestatementContext)


class DryRunContext(RunContext):
    """A context that plans what a run would compute."""

    def prepare(self) -> None:
        await_finalized_environment(self)

    def compute(self) -> msg.Status:
        return _plan_batches(self, self.scheduler(environment=self.request.environment))


class DryRestatementContext(RestatementContext):
    """A context that plans what a restatement would compute."""

    def compute(self) -> msg.Status:
        scheduler = self.scheduler(environment=self.request.environment)
        for of_model in self.computed_again():
            for interval in of_model.intervals:
                scheduler.snapshots[of_model.snapshot.snapshot_id].remove_interval(interval)
        return _plan_batches(self, scheduler)


def _plan_batches(context: RunContext, scheduler: Scheduler) -> msg.Status:
    request = context.request
    missing, index = find_missing(
        scheduler,
        request.environment,
        request.execution_time,
        restates=context.may_restate_automatically(scheduler),
        **context.bounds,
        ignore_cron=request.ignore_cron,
        selected_snapshots=set(context.requested),
    )
    if not missing:
        return "nothing_to_do"
    context.tracker.start_evaluation_progress(
        scheduler.batch_intervals(missing, index, context.environment.naming_info)
    )
    return "not_run"
