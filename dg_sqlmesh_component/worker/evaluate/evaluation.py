"""Serve an `EvaluationRequest`: exactly one `Context.run`, or one restatement, and its facts as events.

`evaluate` is the entry. It does this, in order:

1. `_open`: open the project and its state. If another process holds the DuckDB file, wait and try again.
2. `state_lock.locked_context`: wait until no other run uses the state. The lock is held until the step has stored
   everything.
3. `_evaluate`: read the environment, compare it with Dagster's records, run its requested nodes or restate them, then
   evaluate audits of nodes that do not run.

Everything comes from SQLMesh's state. The project's models are not parsed (`load=False`), because a run executes
promoted models, whatever the local files contain.

Facts about the run come from two sources: SQLMesh calls its console while it works (`Tracker`), and it calls
`Context.create_scheduler`, a public extension point (`_RecordingContext`). There the worker replaces the scheduler's
`run`, and the evaluator's `audit`, which returns every audit's result.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import replace
from functools import partial
from typing import Any

from sqlglot import exp
from sqlmesh.core.config.connection import DuckDBConnectionConfig
from sqlmesh.core.config.run import RunConfig
from sqlmesh.core.environment import Environment, EnvironmentNamingInfo
from sqlmesh.core.plan import Plan
from sqlmesh.core.scheduler import Scheduler
from sqlmesh.core.snapshot import Snapshot, SnapshotEvaluator, SnapshotTableInfo, missing_intervals
from sqlmesh.utils import CompletionStatus
from sqlmesh.utils.errors import PlanError, SignalEvalError

from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.errors import (
    ConfigurationError,
    EnvironmentNotReadyError,
    EvaluationError,
    SQLMeshComponentError,
    StatementError,
)
from dg_sqlmesh_component.protocol.formatting import block, unquoted
from dg_sqlmesh_component.worker.changes import Comparison
from dg_sqlmesh_component.worker.context import (
    ExistingStateContext,
    closed_on_error,
    describe_error,
    environment_name,
    explain,
    open_context,
    plan_command,
    state_connection,
    unfinished_plan,
)
from dg_sqlmesh_component.worker.coverage import Coverages, is_incremental
from dg_sqlmesh_component.worker.evaluate.audits import audit_alone, deployability, record_audits
from dg_sqlmesh_component.worker.evaluate.automatic_restatements import restated_before_its_source
from dg_sqlmesh_component.worker.evaluate.bounds import resolved_range
from dg_sqlmesh_component.worker.evaluate.circuit_breaker import cached_circuit_breaker
from dg_sqlmesh_component.worker.evaluate.idle_nodes import idle_nodes
from dg_sqlmesh_component.worker.evaluate.pending_upstream import hold_back_pending_upstream
from dg_sqlmesh_component.worker.evaluate.restatement import ExactSelector, plan_restatement
from dg_sqlmesh_component.worker.evaluate.tracker import Tracker
from dg_sqlmesh_component.worker.evaluate.unknown_upstream import refuse_unknown_upstream
from dg_sqlmesh_component.worker.own_bugs import is_own_bug
from dg_sqlmesh_component.worker.pipe import Pipe, failed
from dg_sqlmesh_component.worker.promoted import promoted_version
from dg_sqlmesh_component.worker.running_queries import cut_off_queries
from dg_sqlmesh_component.worker.sqlmesh_internals import replace_run
from dg_sqlmesh_component.worker.state_lock import locked_context

ENVIRONMENT_CHECK_SECONDS = 5
"""How often a run checks whether the plan that is updating its environment has finished."""

_STATUS: dict[CompletionStatus, msg.Status] = {
    CompletionStatus.SUCCESS: "success",
    CompletionStatus.FAILURE: "failure",
    CompletionStatus.NOTHING_TO_DO: "nothing_to_do",
}


def evaluate(request: msg.EvaluationRequest, pipe: Pipe) -> None:
    """Run the requested nodes. Every fact goes into the pipe as soon as it is known."""
    tracker = Tracker(pipe)
    try:
        with locked_context(request, partial(_open, request, tracker), pipe) as context:
            pipe.send(_served(request, context, tracker))
            pipe.await_release()
    except SQLMeshComponentError:
        raise
    except Exception as error:  # any driver's
        raise explain(error, request.project, request.environment) from error


def _served(
    request: msg.EvaluationRequest, context: _RecordingContext, tracker: Tracker
) -> msg.EvaluationFinished | msg.RequestFailed:
    """The last event. An error becomes one here, so that the lock is still held when the step stores its results."""
    try:
        return _evaluate(request, context, tracker)
    except SQLMeshComponentError as error:
        return failed(error)
    except SignalEvalError as error:
        return failed(tracker.fail_signal(error))
    except Exception as error:  # noqa: BLE001  # SQLMesh, its engine's driver and a project's signals raise anything
        return failed(explain(error, request.project, request.environment))


# -- open the project and its state ---------------------------------------------------------------


def _open(request: msg.EvaluationRequest, tracker: Tracker) -> _RecordingContext:
    """Open the project, then its state. A locked DuckDB file raises an error here."""
    context = open_context(
        request.project,
        tracker,
        load=False,
        context_type=_RestatingContext if request.restate else _RecordingContext,
        concurrent_tasks=request.concurrent_tasks,
    )
    context.prepare(tracker, request)
    context.config.run = RunConfig(
        environment_check_interval=min(ENVIRONMENT_CHECK_SECONDS, max(request.environment_timeout, 1)),
        environment_check_max_wait=max(request.environment_timeout, 1),
    )
    with closed_on_error(context, request.project, request.environment):
        _refuse_changed_defaults(request, context)
        context.state_reader.get_environment(request.environment)
    return context


def _refuse_changed_defaults(request: msg.EvaluationRequest, context: ExistingStateContext) -> None:
    """Refuse a gateway or environment other than the manifest's: its results would be reported for the wrong assets."""
    manifest = request.manifest_facts
    if manifest is None:
        return
    defaults = [("gateway", manifest.gateway, context.selected_gateway)]
    if manifest.environment is not None:
        defaults.append(("environment", manifest.environment, environment_name(request.project, context)))
    for name, in_manifest, in_project in defaults:
        if in_project != in_manifest:
            raise ConfigurationError(
                f"The manifest of the SQLMesh project was created for {name} {in_manifest!r}, but the project's "
                f"configuration now has {name} {in_project!r}, perhaps because of an environment variable. Set "
                f"`project.{name}` in defs.yaml, or refresh the manifest with the variables of this deployment:"
                f"{block('dg utils refresh-defs-state')}"
            )


# -- run, then audit ------------------------------------------------------------------------------


def _evaluate(request: msg.EvaluationRequest, context: _RecordingContext, tracker: Tracker) -> msg.EvaluationFinished:
    if asked_for := resolved_range(request):
        tracker.pipe.log("info", f"The run config asks for the range {asked_for}.")
    tracker.pipe.send(msg.StateLocked())
    context.records = tracker.pipe.receive_records()
    restatement = _plan_restatement(request, context, tracker) if request.restate else None
    context.open_environment()
    status: msg.Status = "not_run"
    late_error: Exception | None = None
    tracker.pipe.begin()
    if context.requested:
        try:
            status = _run(request, context) if restatement is None else _restate(restatement, context, tracker)
        except Exception as error:  # a statement's: any driver's
            if not tracker.is_through or is_own_bug(error):
                raise
            late_error = error
    if status == "nothing_to_do":  # SQLMesh has planned nothing, so it has called no method of the console
        tracker.report_idle_nodes()
    tracker.report_unfinished_coverage()
    if tracker.was_cancelled:  # before blocked nodes: SQLMesh left them out because the worker stopped the run
        in_flight = "cut off" if tracker.cut_off else "finished"
        raise EvaluationError(f"The run was cancelled: batches in flight were {in_flight}, no new batch was started.")
    scheduler = context.current_scheduler
    if scheduler is not None and (blocked := tracker.blocked_by(scheduler.snapshots_by_name)):
        tracker.pipe.send(msg.NodesBlocked(blocked))
    if late_error is not None:
        # Never transient: a retry finds no pending intervals, and SQLMesh executes `after_all` only if there are some.
        raise StatementError(
            "SQLMesh had finished the models and then ended with an error, as it does if an `after_all` statement "
            f"fails: {describe_error(late_error).rstrip('.')}. SQLMesh executes the statement again after the next "
            "models that it computes. Until then, a run without pending intervals, such as a retry of this run, "
            "succeeds without executing it."
        ) from late_error
    if request.audit_only:
        _block_until_finalized(request, context, tracker.pipe)
        scheduler = context.scheduler(environment=request.environment)
        audit_alone(request, scheduler, context.unrestated, tracker.pipe)
    return msg.EvaluationFinished(status)


def _plan_restatement(request: msg.EvaluationRequest, context: _RecordingContext, tracker: Tracker) -> Plan:
    """Plan the restatement. From then on, the models that SQLMesh adds count as requested."""
    _stored_environment(request, context)
    _block_until_finalized(request, context, tracker.pipe)
    plan = plan_restatement(request, context, tracker.pipe)
    computed = {missing.snapshot_id.name for missing in plan.missing_intervals if missing.intervals}
    context.prepare(tracker, replace(request, models=tuple(dict.fromkeys([*request.models, *sorted(computed)]))))
    return plan


def _restate(plan: Plan, context: _RecordingContext, tracker: Tracker) -> msg.Status:
    try:
        context.apply(plan)
    except PlanError:
        if not tracker.is_through:  # else SQLMesh has reported the failed models
            raise
        return "failure"
    return "success"


def _run(request: msg.EvaluationRequest, context: _RecordingContext) -> msg.Status:
    status: CompletionStatus = context.run(
        request.environment,
        start=request.start,
        end=request.end,
        execution_time=request.execution_time,
        ignore_cron=request.ignore_cron,
        skip_janitor=request.skip_janitor,
        select_models=["*"],  # narrowed to exactly the requested nodes in `create_scheduler`
        no_auto_upstream=True,
    )
    return _STATUS[status]


def _block_until_finalized(request: msg.EvaluationRequest, context: _RecordingContext, pipe: Pipe) -> None:
    """Wait for a plan that is updating the environment, as SQLMesh's run does: until then, views may mix two plans.

    Raises:
        EnvironmentNotReadyError: The plan has not finished in time.
    """
    wait = context.config.run
    for _ in range(max(1, wait.environment_check_max_wait // wait.environment_check_interval)):
        environment = context.state_reader.get_environment(request.environment)
        if environment is None or environment.finalized_ts:  # None: opening its scheduler raises the error
            return
        if pipe.is_cancelled:
            raise EvaluationError("The evaluation of audits was cancelled.")
        time.sleep(wait.environment_check_interval)
    raise unfinished_plan(request.project, request.environment)


# -- the environment ------------------------------------------------------------------------------


def _stored_environment(request: msg.EvaluationRequest, context: ExistingStateContext) -> tuple[Environment, str]:
    """The environment from the state, and the `sqlmesh plan` command that updates it.

    Raises:
        EnvironmentNotReadyError: It does not exist, has promoted nothing of the project, or has promoted models that
            depend on models missing from the manifest.
    """
    environment = context.state_reader.get_environment(request.environment)
    plan = plan_command(request.project, request.environment, context, is_new=environment is None)
    paths = ", ".join(request.project.paths)
    if environment is None:
        raise EnvironmentNotReadyError(
            f"Environment {request.environment!r} does not exist in the state of the SQLMesh project at "
            f"{paths} (gateway {context.selected_gateway!r}). {_memory_advice(context)}"
            f"Nothing can run before its first plan is applied:{block(plan)}"
        )
    refuse_unknown_upstream(request, environment, plan)
    ours = {*_requested(request), *_assets(request)}
    if not any(snapshot.name in ours for snapshot in environment.snapshots):
        raise EnvironmentNotReadyError(
            f"Environment {request.environment!r} has promoted none of the models of the SQLMesh project at "
            f"{paths}, so nothing can run. To promote them:{block(plan)}"
        )
    return environment, plan


def _memory_advice(context: ExistingStateContext) -> str:
    state = state_connection(context)
    if not isinstance(state, DuckDBConnectionConfig) or state.catalogs or state.database not in (None, "", ":memory:"):
        return ""
    return (
        "SQLMesh keeps this state in memory, so a plan's result is lost when the process that applied it ends. "
        "Give the gateway's connection a file (`database: warehouse.duckdb`). "
    )


def _requested(request: msg.EvaluationRequest) -> Iterable[str]:
    return dict.fromkeys([*request.models, *request.standalone_audits, *request.audit_only])


def _assets(request: msg.EvaluationRequest) -> frozenset[str]:
    """The models that are assets of the requesting component."""
    return request.manifest_facts.assets if request.manifest_facts else frozenset()


# -- the context of the run -----------------------------------------------------------------------


class _RecordingContext(ExistingStateContext):
    """A Context that runs exactly the requested nodes and records results of its scheduler and evaluator."""

    requested: frozenset[str]
    """The nodes to run, as far as they are in the environment."""
    naming: EnvironmentNamingInfo
    promoted: Set[str]
    """Nodes that have views in the environment. In a development environment, only changed nodes have views."""
    current_scheduler: Scheduler | None = None
    """The scheduler that runs or has run the requested nodes. SQLMesh makes another one when it starts over."""
    records: msg.Records
    """What Dagster has recorded, or knows from this worker."""
    unrestated: Mapping[str, Sequence[msg.Interval]] = {}
    """The ranges of each model whose restatement has not finished, by fqn."""

    def prepare(self, tracker: Tracker, request: msg.EvaluationRequest) -> None:
        self._tracker = tracker
        self._request = request
        self.requested = frozenset([*request.models, *request.standalone_audits])

    def open_environment(self) -> None:
        """Read the environment, report its versions, and drop requested nodes that it does not have."""
        request = self._request
        environment, plan = _stored_environment(request, self)
        assets = _assets(request)
        # A node promoted as external or embedded is not computed, even if the local files have changed its kind.
        known = {
            snapshot.name: snapshot
            for snapshot in environment.snapshots
            if snapshot.is_symbolic == (snapshot.name in request.external_models)
        }
        self.requested = frozenset(self.requested & known.keys())
        self.naming = environment.naming_info
        self.promoted = {snapshot.name for snapshot in environment.promoted_snapshots}
        self._tracker.pipe.send(
            msg.EnvironmentOpened(
                environment=environment.name,
                promoted={
                    fqn: promoted_version(known[fqn], self._table_name(known[fqn]))
                    for fqn in _requested(request)
                    if fqn in known
                },
                missing=tuple(fqn for fqn in _requested(request) if fqn not in known),
                plan_command=plan,
                others=tuple(
                    sorted(
                        snapshot.name
                        for snapshot in environment.snapshots
                        if snapshot.is_model and not snapshot.is_symbolic and snapshot.name not in assets
                    )
                ),
            )
        )
        self._compare_with_records(environment)

    def _compare_with_records(self, environment: Environment) -> None:
        """Report data that Dagster has not recorded; after a plan has landed, only data of versions that are new."""
        comparison = Comparison(self.records, environment, self)
        self.unrestated = comparison.unrestated
        self._tracker.pipe.send(comparison.event())
        # The run reports its own data itself.
        compared = {info.name: msg.RecordedData(info.version, sys.maxsize) for info in environment.snapshots}
        data = {fqn: compared.get(fqn, recorded) for fqn, recorded in self.records.data.items()}
        self.records = replace(self.records, data=data)

    def create_scheduler(self, snapshots: Iterable[Snapshot], snapshot_evaluator: SnapshotEvaluator) -> Scheduler:
        """SQLMesh calls this before a run, before it starts over, and before audits are evaluated."""
        pipe = self._tracker.pipe
        pipe.cut_off_queries = partial(self._cut_off, snapshot_evaluator)
        record_audits(snapshot_evaluator, pipe.send)
        if self._request.count_rows:
            self._tracker.count_rows = partial(self._rows_of, snapshot_evaluator)
        scheduler = super().create_scheduler(snapshots, snapshot_evaluator)
        if self._request.restate is not None:  # the plan has chosen models and intervals
            self.current_scheduler = scheduler
            self._tracker.coverages = self._coverages(scheduler.snapshots_by_name)
            incremental = [snapshot for snapshot in scheduler.snapshots.values() if is_incremental(snapshot)]
            self._tracker.replaces_table = {
                snapshot.name for snapshot in incremental if snapshot.full_history_restatement_only
            }
            self._tracker.replaces_rows = {
                snapshot.name
                for snapshot in incremental
                if not snapshot.full_history_restatement_only
                and not snapshot_evaluator.get_adapter(snapshot.model_gateway).SUPPORTS_TRANSACTIONS
            }
            return scheduler
        run = scheduler.run

        def run_requested(*args: Any, **kwargs: Any) -> CompletionStatus:
            if self.current_scheduler is not None:  # a plan has landed: other versions and nodes may be promoted now
                self._tracker.start_over()
                self.open_environment()
            self.current_scheduler = scheduler
            self._tracker.idle_nodes = partial(self._idle_nodes, scheduler.snapshots_by_name)
            # SQLMesh's selection language cannot select these nodes: it has no quoting for names
            # with spaces or dashes, cannot name standalone audits, ignores what it does not find, and
            # its parser recurses once per name (about a thousand overflow Python's stack).
            kwargs.update(
                selected_snapshots=set(self.requested),
                circuit_breaker=cached_circuit_breaker(kwargs["circuit_breaker"], self.state_reader, self.naming.name),
                auto_restatement_enabled=kwargs["auto_restatement_enabled"] and self._may_restate(scheduler),
            )
            return run(*args, **kwargs)

        replace_run(scheduler, run_requested)
        hold_back_pending_upstream(scheduler, self._tracker.note_held_back)
        return scheduler

    def _idle_nodes(self, snapshots: Mapping[str, Snapshot]) -> Iterable[msg.Event]:
        coverages = self._tracker.coverages = self._coverages(snapshots)
        return idle_nodes(self._request, self.requested, snapshots, self._tracker, coverages)

    def _coverages(self, snapshots: Mapping[str, Snapshot]) -> Coverages:
        """The coverages as in the state. A scheduler's snapshots lack the intervals that SQLMesh restates."""
        is_restatement = self._request.restate is not None
        restated = {
            name: snapshot.copy()
            for name, snapshot in snapshots.items()
            if is_restatement or (snapshot.is_model and snapshot.pending_restatement_intervals)
        }
        self.state_reader.refresh_snapshot_intervals(restated.values())
        snapshots, now = {**snapshots, **restated}, self._request.execution_time
        index = deployability(self._request, snapshots.values())
        pending = missing_intervals(
            snapshots.values(), execution_time=now, ignore_cron=not is_restatement, deployability_index=index
        )
        return Coverages(snapshots, index, now, pending, self.unrestated)

    def _cut_off(self, evaluator: SnapshotEvaluator) -> None:
        """The pipe's listening thread calls this."""
        self._tracker.report_in_flight()
        cut_off_queries(evaluator.adapters.values(), self._tracker.pipe)

    def _may_restate(self, scheduler: Scheduler) -> bool:
        snapshots, now = scheduler.snapshots_by_name, self._request.execution_time
        model = restated_before_its_source(snapshots, self.requested, now)
        if model is not None:
            text = (
                f"This run does no automatic restatements: it would restate {unquoted(model)} before models "
                "upstream of it that are not in this run. A run of all of them restates them."
            )
            self._tracker.pipe.log("info", text)
        return model is None

    def _rows_of(self, evaluator: SnapshotEvaluator, snapshot: Snapshot) -> int | None:
        view = self._view(snapshot)
        if view is None:
            return None
        query = exp.select(exp.Count(this=exp.Star())).from_(view)
        (rows,) = evaluator.get_adapter(snapshot.model_gateway).fetchone(query, quote_identifiers=True)
        return int(rows)

    def _table_name(self, snapshot: SnapshotTableInfo) -> str | None:
        """The name of the model's view, unquoted and dotted."""
        view = self._view(snapshot)
        return None if view is None else ".".join(part.name for part in view.parts)

    def _view(self, snapshot: Snapshot | SnapshotTableInfo) -> exp.Table | None:
        """The view of a model that consumers read in the environment; None if it has no such view."""
        if not snapshot.is_model or snapshot.is_symbolic or snapshot.name not in self.promoted:
            return None
        dialect = self.config.get_connection(snapshot.model_gateway or self.selected_gateway).DIALECT
        return snapshot.qualified_view_name.table_for_environment(self.naming, dialect=dialect)


class _RestatingContext(_RecordingContext):
    """The context of a restatement, whose selections are fqns."""

    def __init__(self, **options: Any) -> None:
        super().__init__(selector=ExactSelector, **options)
