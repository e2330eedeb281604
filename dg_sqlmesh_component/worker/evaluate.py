"""Request -> exactly one `Context.run` -> events.

Everything is read from SQLMesh's state: the project's models are not parsed (`load=False`), because
what runs is what the environment has promoted, whatever the local files say.

How the evidence is gathered: a console that SQLMesh calls while it works (`Tracker`), and the two
things that pass through the public extension point `Context.create_scheduler` (`_RecordingContext`):
the evaluator whose `audit` returns every audit's result, and the scheduler that knows the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from sqlmesh.core.context import Context
from sqlmesh.core.scheduler import Scheduler
from sqlmesh.core.snapshot import (
    DeployabilityIndex,
    Snapshot,
    SnapshotEvaluator,
    missing_intervals,
)
from sqlmesh.utils import CompletionStatus
from sqlmesh.utils.date import to_datetime, to_timestamp

from dg_sqlmesh_component import events as e
from dg_sqlmesh_component.errors import EnvironmentNotReadyError, EvaluationError, SQLMeshComponentError

from .describe import audit_arguments
from .opening import (
    describe_error,
    explain,
    open_context,
    plan_command,
)
from .pipe import Pipe
from .tracker import Tracker, ancestors

_STATUS: dict[CompletionStatus, e.Status] = {
    CompletionStatus.SUCCESS: "success",
    CompletionStatus.FAILURE: "failure",
    CompletionStatus.NOTHING_TO_DO: "nothing_to_do",
}


def evaluate(request: e.EvaluationRequest, pipe: Pipe) -> None:
    """Run what is requested; every fact goes into the pipe as it becomes known."""
    tracker = Tracker(pipe)
    context = open_context(request.project, tracker, load=False, context_type=_RecordingContext)
    context.console = tracker
    context.prepare(tracker, {*request.models, *request.standalone_audits})
    try:
        pipe.send(_evaluate(request, context, tracker))
    except SQLMeshComponentError:
        raise
    except Exception as error:  # SQLMesh, its engine's driver and a project's signals raise anything
        raise explain(error, request.project) from error
    finally:
        context.close()


def _evaluate(request: e.EvaluationRequest, context: _RecordingContext, tracker: Tracker) -> e.EvaluationFinished:
    opened = _open_environment(request, context)
    tracker.pipe.send(opened)
    if opened.missing:
        return e.EvaluationFinished("not_run")
    status: e.Status = "not_run"
    nodes = {*request.models, *request.standalone_audits}
    if request.models:
        result = context.run(
            request.environment,
            execution_time=request.execution_time,
            skip_janitor=True,
            select_models=["*"],  # narrowed to exactly the requested nodes in `create_scheduler`
            no_auto_upstream=True,
        )
        status = _STATUS[result]
    elif request.standalone_audits:
        raise EvaluationError("Standalone audits can only run beside a model.")
    if tracker.was_cancelled:
        raise EvaluationError("The run was cancelled: batches in flight were finished, no new one was started.")
    if context.current_scheduler is not None:
        for event in _idle_nodes(request, nodes, context.current_scheduler, tracker):
            tracker.pipe.send(event)
    if request.audit_only:
        _audit_only(request, context, tracker.pipe)
    return e.EvaluationFinished(status)


def _open_environment(request: e.EvaluationRequest, context: Context) -> e.EnvironmentOpened:
    plan = plan_command(request.project, request.environment, context)
    environment = context.state_reader.get_environment(request.environment)
    if environment is None:
        raise EnvironmentNotReadyError(
            f"Environment {request.environment!r} does not exist in the state of the SQLMesh project at "
            f"{', '.join(request.project.paths)} (gateway {context.selected_gateway!r}). "
            f"Nothing can run before its first plan is applied: `{plan}`"
        )
    known = {snapshot.name: snapshot for snapshot in environment.snapshots}
    requested = dict.fromkeys([*request.models, *request.standalone_audits, *request.audit_only])
    return e.EnvironmentOpened(
        environment=environment.name,
        plan_id=environment.plan_id,
        promoted={
            fqn: e.PromotedNode(
                version=known[fqn].version,
                data_hash=known[fqn].fingerprint.data_hash,
                metadata_hash=known[fqn].fingerprint.metadata_hash,
            )
            for fqn in requested
            if fqn in known
        },
        missing=tuple(fqn for fqn in requested if fqn not in known),
        plan_command=plan,
    )


class _RecordingContext(Context):
    """A Context that shows what passes between it, its scheduler and its evaluator."""

    current_scheduler: Scheduler | None = None

    def prepare(self, tracker: Tracker, requested: set[str]) -> None:
        self._tracker = tracker
        self._requested = requested

    def create_scheduler(self, snapshots: Iterable[Snapshot], snapshot_evaluator: SnapshotEvaluator) -> Scheduler:
        _record_audits(snapshot_evaluator, self._tracker.pipe.send)
        if self.current_scheduler is not None:
            self._tracker.start_over()
        scheduler = super().create_scheduler(snapshots, snapshot_evaluator)
        run = scheduler.run

        def run_requested(*args: Any, **kwargs: Any) -> CompletionStatus:
            # SQLMesh's selection language cannot say what is needed here: it has no quoting for names
            # with spaces or dashes, cannot name standalone audits, ignores what it does not find, and
            # its parser recurses once per name (about a thousand overflow Python's stack).
            return run(*args, **{**kwargs, "selected_snapshots": self._requested})

        scheduler.run = run_requested
        self.current_scheduler = scheduler
        return scheduler


def _record_audits(evaluator: SnapshotEvaluator, send: Callable[[e.Event], None]) -> None:
    """Send every audit's result. A restarted run brings the same evaluator again: it is wrapped once."""
    if getattr(evaluator, "_dg_sqlmesh_recorded", False):
        return
    evaluator._dg_sqlmesh_recorded = True
    audit = evaluator.audit

    def audit_and_send(snapshot: Snapshot, **kwargs: Any) -> list[Any]:
        results = audit(snapshot, **kwargs)
        interval = (to_timestamp(kwargs["start"]), to_timestamp(kwargs["end"]))
        for position, result in enumerate(results):
            dialect = evaluator.get_adapter(snapshot.model_gateway).dialect
            send(
                e.AuditEvaluated(
                    fqn=snapshot.name,
                    name=result.audit.name,
                    position=position,
                    args=audit_arguments(
                        {k: v for k, v in (result.audit_args or {}).items() if k != "blocking"},
                        dialect,
                    ),
                    blocking=result.blocking,
                    failing_rows=None if result.skipped else result.count or 0,
                    query=result.query.sql(dialect=dialect) if result.query is not None else None,
                    interval=interval,
                )
            )
        return results

    evaluator.audit = audit_and_send


def _idle_nodes(
    request: e.EvaluationRequest, nodes: set[str], scheduler: Scheduler, tracker: Tracker
) -> Iterable[e.Event]:
    """Why nodes did not run: blocked by a failure, waiting for a signal, or nothing to do."""
    snapshots = scheduler.snapshots_by_name

    def parents(fqn: str) -> list[str]:
        return [parent.name for parent in snapshots[fqn].parents] if fqn in snapshots else []

    blocked = tracker.blocked_by(parents)
    if blocked:
        yield e.NodesBlocked(blocked)
    overdue = missing_intervals(snapshots.values(), execution_time=request.execution_time, ignore_cron=True)
    not_due = {snapshot.name for snapshot in overdue}
    for fqn in sorted(nodes):
        batches = tracker.planned.get(fqn)
        if batches is None:
            yield _up_to_date(snapshots[fqn], fqn in not_due, request.execution_time)
        elif not batches:
            unready = tracker.unready_signals
            yield e.NodeWaiting(
                fqn=fqn,
                signals=tuple(unready.get(fqn, ())),
                upstream=tuple(sorted(ancestors(fqn, parents) & unready.keys())),
            )


def _up_to_date(snapshot: Snapshot, is_overdue: bool, execution_time: int) -> e.NodeUpToDate:
    last_interval_end = snapshot.intervals[-1][1] if snapshot.intervals else None
    if snapshot.is_seed:
        return e.NodeUpToDate(snapshot.name, "the seed has not changed since it was loaded", None, last_interval_end)
    reason = (
        f"its cron {snapshot.node.cron!r} is not due" if is_overdue else "every interval that is over has been computed"
    )
    next_due = to_timestamp(snapshot.node.cron_next(to_datetime(execution_time)))
    return e.NodeUpToDate(snapshot.name, reason, next_due, last_interval_end)


def _audit_only(request: e.EvaluationRequest, context: _RecordingContext, pipe: Pipe) -> None:
    """Evaluate audits over everything that was computed, as `sqlmesh audit` does."""
    scheduler = context.scheduler(environment=request.environment)
    snapshots = scheduler.snapshots_by_name
    index = (
        DeployabilityIndex.all_deployable()
        if request.environment == "prod"
        else DeployabilityIndex.create(snapshots.values())
    )
    due = {
        snapshot.name: tuple((start, end) for start, end in intervals)
        for snapshot, intervals in missing_intervals(snapshots.values(), execution_time=request.execution_time).items()
    }
    for fqn in request.audit_only:
        if pipe.is_cancelled:
            raise EvaluationError("The evaluation of audits was cancelled.")
        snapshot, error = snapshots[fqn], None
        if not snapshot.intervals:
            error = "Nothing has been computed yet, so there is nothing to audit."
        else:
            try:
                scheduler.snapshot_evaluator.audit(
                    snapshot,
                    snapshots=snapshots,
                    start=snapshot.intervals[0][0],
                    end=snapshot.intervals[-1][1],
                    execution_time=request.execution_time,
                    deployability_index=index,
                )
            except Exception as cause:  # any driver's error; it becomes this one node's error
                error = describe_error(cause)
        pipe.send(e.NodeAudited(fqn, due.get(fqn, ()), error))
