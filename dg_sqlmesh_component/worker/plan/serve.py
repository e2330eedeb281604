"""Serve a `PlanRequest`: build a plan from the project's files, and apply it if Dagster's process approves it.

Dagster's process decides, by the facts of the plan alone (`report/plan_gate.py`). A refused plan is never applied: the
worker is stopped while it waits for the approval.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from sqlmesh.core.context import Context
from sqlmesh.core.environment import EnvironmentSummary
from sqlmesh.core.plan import Plan
from sqlmesh.core.scheduler import Scheduler
from sqlmesh.core.snapshot import Snapshot, SnapshotEvaluator
from sqlmesh.utils.errors import CircuitBreakerError, ConflictingPlanError, LinterError, PlanError

from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.errors import (
    ConfigurationError,
    EnvironmentNotReadyError,
    EvaluationError,
    SQLMeshComponentError,
)
from dg_sqlmesh_component.protocol.formatting import plain
from dg_sqlmesh_component.worker.changes import Comparison
from dg_sqlmesh_component.worker.context import closed_on_error, describe_error, explain, open_context
from dg_sqlmesh_component.worker.environment import stored_environment
from dg_sqlmesh_component.worker.evaluate.audits import record_audits
from dg_sqlmesh_component.worker.evaluate.tracker import Tracker
from dg_sqlmesh_component.worker.pipe import Pipe
from dg_sqlmesh_component.worker.plan.facts import plan_built
from dg_sqlmesh_component.worker.running_queries import cut_off_queries
from dg_sqlmesh_component.worker.state_lock import locked_context


def serve_plan(request: msg.PlanRequest, pipe: Pipe) -> None:
    """Build the plan, send it, and apply it if the request applies and an approval comes."""
    try:
        with locked_context(request, partial(_open, request, pipe), pipe, writes=request.applies) as context:
            _serve(request, context)
            if request.applies:
                pipe.await_release()
    except SQLMeshComponentError:
        raise
    except Exception as error:  # any driver's
        raise explain(error, request.project) from error


def _serve(request: msg.PlanRequest, context: _PlanContext) -> None:
    """Send all events. An error becomes one here, so that the lock is still held when the step stores its results."""
    tracker = context.tracker
    try:
        plan = _built(request, context)
        tracker.pipe.send(plan_built(plan, request, context))
        if request.applies:
            approval = tracker.pipe.receive_approval()
            tracker.pipe.begin()
            tracker.pipe.send(_applied(request, context, plan, approval))
        else:
            tracker.pipe.send(msg.EvaluationFinished("not_run"))
    except SQLMeshComponentError as error:
        tracker.pipe.fail(error)
    except Exception as error:  # noqa: BLE001  # SQLMesh, its engine's driver and code of the project raise anything
        tracker.pipe.fail(explain(error, request.project))


class _PlanTracker(Tracker):
    """SQLMesh's console while a plan is built and applied."""

    def start_evaluation_progress(
        self, batched_intervals: dict[Snapshot, list[msg.Interval]], *args: Any, **kwargs: Any
    ) -> None:
        """A plan computes in two stages, before and after it promotes. The second one adds to the first."""
        self.plan_more({snapshot.name: tuple(intervals) for snapshot, intervals in batched_intervals.items()})

    def log_test_results(self, result: Any, *_: Any, **__: Any) -> None:
        for test, problem in [*result.failures, *result.errors]:
            self.pipe.log("error", f"The unit test {test} failed:\n{plain(problem)}", "sqlmesh")

    def show_linter_violations(self, violations: Any, model: Any, is_error: bool = False) -> None:
        for violation in violations:
            level: msg.Level = "error" if is_error else "warning"
            self.pipe.log(level, f"{model.name}: {violation.rule.name}: {violation.violation_msg}", "sqlmesh linter")

    def log_additive_change(self, snapshot_name: str, *_: Any, **__: Any) -> None:
        self.pipe.log("error", f"{snapshot_name} has an additive change, which its `on_additive_change` does not allow")


class _PlanContext(Context):
    """A Context that sends batches and audit results while it applies a plan."""

    def __init__(self, request: msg.PlanRequest, tracker: _PlanTracker, **options: Any) -> None:
        super().__init__(**options)
        self._request = request
        self.tracker = tracker
        self.nodes: dict[str, Snapshot] = {}

    def create_scheduler(self, snapshots: Iterable[Snapshot], snapshot_evaluator: SnapshotEvaluator) -> Scheduler:
        """SQLMesh calls this before each stage that computes or audits."""
        pipe = self.tracker.pipe
        pipe.cut_off_queries = partial(self._cut_off, snapshot_evaluator)
        record_audits(snapshot_evaluator, self._request.sampling, pipe)
        scheduler = super().create_scheduler(snapshots, snapshot_evaluator)
        self.nodes.update(scheduler.snapshots_by_name)
        return scheduler

    def _cut_off(self, evaluator: SnapshotEvaluator) -> None:
        self.tracker.report_in_flight()
        cut_off_queries(evaluator.adapters.values(), self.tracker.pipe)


def _open(request: msg.PlanRequest, pipe: Pipe) -> _PlanContext:
    tracker = _PlanTracker(pipe)
    context = open_context(
        request.project,
        tracker,
        context_type=partial(_PlanContext, request, tracker),
        load=True,
        concurrent_tasks=request.concurrent_tasks,
    )
    with closed_on_error(context, request.project):
        context.state_reader.get_environments_summary()
    return context


def _built(request: msg.PlanRequest, context: _PlanContext) -> Plan:
    """The plan of `sqlmesh plan`, after the linter and the unit tests, as there.

    All destructive changes are allowed while it is built: SQLMesh's own error names no model. It is applied only with
    the approved ones.
    """
    try:
        return context.plan_builder(request.environment, allow_destructive_models=["*"]).build()
    except (PlanError, LinterError) as error:
        raise ConfigurationError(f"SQLMesh builds no plan: {describe_error(error)}") from error


def _applied(
    request: msg.PlanRequest, context: _PlanContext, plan: Plan, approval: msg.PlanApproval
) -> msg.EvaluationFinished:
    tracker = context.tracker
    approved = plan.copy(update={"allow_destructive_models": set(approval.allow_destructive)})
    try:
        context.apply(approved, circuit_breaker=_has_moved(context, plan))
    except (CircuitBreakerError, ConflictingPlanError) as error:
        raise EnvironmentNotReadyError(
            f"Another plan has changed environment {request.environment} since this one was built, so this one was "
            "stopped. The environment shows that other plan. Computed tables are kept. Build a new plan."
        ) from error
    except PlanError as error:
        if blocked := tracker.blocked_by(context.nodes):
            tracker.pipe.send(msg.NodesBlocked(blocked))
        # SQLMesh's own error has no text of its own if it has reported the failed models.
        reason = "" if tracker.failed or tracker.was_cancelled else f" {plain(error).rstrip('.')}."
        raise EvaluationError(_what_is_promoted(request, context, plan) + reason) from error
    environment = stored_environment(request.project, request.environment, context)
    tracker.pipe.send(Comparison(approval.records, environment, context).event())
    return msg.EvaluationFinished("success")


def _what_is_promoted(request: msg.PlanRequest, context: _PlanContext, plan: Plan) -> str:
    """What the environment shows after the plan has failed or was cancelled."""
    failed = "was cancelled" if context.tracker.was_cancelled else "failed"
    environment = context.state_reader.get_environment(request.environment)
    if environment is None or environment.plan_id != plan.plan_id:
        return f"The plan {failed} before it was promoted: environment {request.environment} is as it was before."
    return (
        f"The plan {failed} after it had begun to change environment {request.environment}, which is now between two "
        "plans. Runs wait until it is finished. To finish it, correct the cause and launch this job again with the "
        "same digest. If the files have to change, apply a new plan with `sqlmesh plan`."
    )


def _has_moved(context: Context, plan: Plan) -> Callable[[], bool]:
    """Whether another plan has landed since this one was built. SQLMesh asks this before each model.

    SQLMesh computes some models after it has promoted this plan itself.
    """
    name, expected = plan.environment_naming_info.name, (plan.previous_plan_id, plan.plan_id)

    def has_moved() -> bool:
        summaries: list[EnvironmentSummary] = context.state_reader.get_environments_summary()
        return any(summary.name == name and summary.plan_id not in expected for summary in summaries)

    return has_moved
