"""Request -> exactly one `Context.run` -> events.

Everything is read from SQLMesh's state: the project's models are not parsed (`load=False`), because
what runs is what the environment has promoted, whatever the local files say.

How the evidence is gathered: a console that SQLMesh calls while it works (`Tracker`), and the two
things that pass through the public extension point `Context.create_scheduler` (`_RecordingContext`):
the evaluator whose `audit` returns every audit's result, and the scheduler that knows the graph.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import replace
from functools import partial
from typing import Any

from sqlglot import exp
from sqlmesh.core.config.connection import DuckDBConnectionConfig
from sqlmesh.core.config.run import RunConfig
from sqlmesh.core.environment import Environment, EnvironmentNamingInfo
from sqlmesh.core.scheduler import Scheduler
from sqlmesh.core.snapshot import (
    Snapshot,
    SnapshotEvaluator,
    SnapshotTableInfo,
    missing_intervals,
)
from sqlmesh.utils import CompletionStatus
from sqlmesh.utils.date import to_datetime, to_timestamp
from sqlmesh.utils.errors import SignalEvalError

from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.errors import (
    DeclarationError,
    EnvironmentNotReadyError,
    EvaluationError,
    SQLMeshComponentError,
    StatementError,
)
from dg_sqlmesh_component.protocol.formatting import bare, block
from dg_sqlmesh_component.worker.context import (
    SteadyContext,
    describe_error,
    environment_name,
    explain,
    open_context,
    plan_command,
    state_connection,
    unfinished_plan,
)
from dg_sqlmesh_component.worker.duckdb_lock_holder import show_holder
from dg_sqlmesh_component.worker.evaluate.audits import (
    altered_at,
    audit_alone,
    audited,
    computed,
    data_altered_at,
    deployability,
    record_audits,
)
from dg_sqlmesh_component.worker.evaluate.circuit_breaker import unless_unchanged
from dg_sqlmesh_component.worker.evaluate.pending_upstream import mind_unselected_upstream
from dg_sqlmesh_component.worker.evaluate.restatements import restated_without_its_source
from dg_sqlmesh_component.worker.evaluate.running_queries import cut_off_queries
from dg_sqlmesh_component.worker.evaluate.state_lock import Patience, alone_on_its_state
from dg_sqlmesh_component.worker.evaluate.tracker import Tracker, ancestors
from dg_sqlmesh_component.worker.evaluate.unknown_upstream import refuse_what_nobody_described
from dg_sqlmesh_component.worker.pipe import Pipe
from dg_sqlmesh_component.worker.sqlmesh_internals import replace_run

ENVIRONMENT_CHECK_SECONDS = 5
"""How often a run looks whether the plan that is updating its environment has finished."""

_STATUS: dict[CompletionStatus, msg.Status] = {
    CompletionStatus.SUCCESS: "success",
    CompletionStatus.FAILURE: "failure",
    CompletionStatus.NOTHING_TO_DO: "nothing_to_do",
}


def evaluate(request: msg.EvaluationRequest, pipe: Pipe) -> None:
    """Run what is requested; every fact goes into the pipe as it becomes known."""
    show_holder(request.holder)
    tracker = Tracker(pipe)
    patience = Patience(pipe, request.overlap_timeout)
    context = patience.until(partial(_open, request, tracker))
    try:
        with alone_on_its_state(context, request, patience, pipe):
            pipe.send(_evaluate(request, context, tracker))
    except SQLMeshComponentError:
        raise
    except SignalEvalError as error:
        raise tracker.fail_signal(error) from error
    except Exception as error:  # SQLMesh, its engine's driver and a project's signals raise anything
        raise explain(error, request.project, request.environment) from error
    finally:
        context.close()


def _open(request: msg.EvaluationRequest, tracker: Tracker) -> _RecordingContext:
    """Open the project and its state, which is what finds a locked database file."""
    context = open_context(
        request.project,
        tracker,
        load=False,
        context_type=_RecordingContext,
        concurrent_tasks=request.concurrent_tasks,
    )
    try:
        _refuse_other_defaults(request, context)
    except DeclarationError:
        context.close()
        raise
    context.console = tracker
    context.prepare(tracker, request)
    context.config.run = RunConfig(
        environment_check_interval=min(ENVIRONMENT_CHECK_SECONDS, max(request.environment_timeout, 1)),
        environment_check_max_wait=max(request.environment_timeout, 1),
    )
    try:
        context.state_reader.get_environment(request.environment)
    except Exception as error:  # a driver's, or SQLMesh's about the version of the state
        context.close()
        raise explain(error, request.project, request.environment) from error
    return context


def _refuse_other_defaults(request: msg.EvaluationRequest, context: SteadyContext) -> None:
    """Refuse another environment or gateway than those of which the assets were made: it would be told as these."""
    described = request.described_as
    if described is None:
        return
    is_default = described.environment is not None
    now = {
        "gateway": context.selected_gateway,
        **({"environment": environment_name(request.project, context)} if is_default else {}),
    }
    for name, found in now.items():
        stored = getattr(described, name)
        if found != stored:
            raise DeclarationError(
                f"The stored manifest of the SQLMesh project is of its {name} {stored!r}, while its configuration "
                f"now says {found!r}, perhaps because of an environment variable. Set `project.{name}` in "
                "defs.yaml, or refresh the manifest with the variables of this deployment: dg utils refresh-defs-state"
            )


def _evaluate(request: msg.EvaluationRequest, context: _RecordingContext, tracker: Tracker) -> msg.EvaluationFinished:
    _refuse_wrong_bounds(request)
    opened = _open_environment(request, context)
    context.leave_out(opened.missing)
    tracker.pipe.send(opened)
    status: msg.Status = "not_run"
    failed_behind: Exception | None = None
    tracker.pipe.begin()
    if context.requested:
        try:
            status = _STATUS[_run(request, context)]
        except Exception as error:  # a statement's: any driver's
            if not tracker.is_through:
                raise
            failed_behind = error
    if status == "nothing_to_do":  # SQLMesh has planned nothing, and so has announced no plan
        tracker.tell_idle_nodes()
    if tracker.was_cancelled:  # what SQLMesh left out is what it was told to leave out
        in_flight = "cut off" if tracker.was_cut_off else "finished"
        raise EvaluationError(f"The run was cancelled: batches in flight were {in_flight}, no new one was started.")
    scheduler = context.current_scheduler
    if scheduler is not None and (blocked := tracker.blocked_by(_parents(scheduler))):
        tracker.pipe.send(msg.NodesBlocked(blocked))
    if failed_behind is not None:
        # Never transient: an attempt with nothing to do has nothing to run such a statement behind.
        raise StatementError(
            "SQLMesh was done with the models when it ended with an error, as it does when an `after_all` statement "
            f"fails: {describe_error(failed_behind).rstrip('.')}. SQLMesh repeats it behind the next models that it "
            "computes; a run with nothing due before that, such as a retry of this one, is green without it."
        ) from failed_behind
    if request.audit_only:
        _block_until_finalized(request, context, tracker.pipe)
        audit_alone(request, context.scheduler(environment=request.environment), tracker.pipe)
    return msg.EvaluationFinished(status)


def _block_until_finalized(request: msg.EvaluationRequest, context: _RecordingContext, pipe: Pipe) -> None:
    """Wait for a plan that is updating the environment, as SQLMesh's run does: its views may be of two plans till then.

    Raises:
        EnvironmentNotReadyError: The plan has not finished in time.
    """
    wait = context.config.run
    for _ in range(max(1, wait.environment_check_max_wait // wait.environment_check_interval)):
        environment = context.state_reader.get_environment(request.environment)
        if environment is None or environment.finalized_ts:  # None: said by what opens it next
            return
        if pipe.is_cancelled:
            raise EvaluationError("The evaluation of audits was cancelled.")
        time.sleep(wait.environment_check_interval)
    raise unfinished_plan(request.project, request.environment)


def _run(request: msg.EvaluationRequest, context: _RecordingContext) -> CompletionStatus:
    return context.run(
        request.environment,
        start=request.start,
        end=request.end,
        execution_time=request.execution_time,
        ignore_cron=request.ignore_cron,
        skip_janitor=request.skip_janitor,
        select_models=["*"],  # narrowed to exactly the requested nodes in `create_scheduler`
        no_auto_upstream=True,
    )


def _refuse_wrong_bounds(request: msg.EvaluationRequest) -> None:
    bounds = {}
    for name, said in (("start", request.start), ("end", request.end)):
        try:
            bounds[name] = to_timestamp(said, relative_base=to_datetime(request.execution_time)) if said else None
        except Exception as error:  # dateparser's errors are of many classes
            raise DeclarationError(
                f"The run config's {name} {said!r} is no point in time that SQLMesh understands. "
                "Write a date, an instant or words such as '1 week ago'."
            ) from error
    start, end = bounds["start"], bounds["end"]
    if start is not None and end is not None and start > end:
        raise DeclarationError(
            f"The run config's start {request.start!r} lies behind its end {request.end!r}: nothing would be computed."
        )


def _stored_environment(request: msg.EvaluationRequest, context: _RecordingContext) -> tuple[Environment, str]:
    """The environment as the state has it, and the `sqlmesh plan` that updates it.

    Raises:
        EnvironmentNotReadyError: It does not exist, has promoted nothing of the project, or is not what the manifest
            describes.
    """
    environment = context.state_reader.get_environment(request.environment)
    plan = plan_command(request.project, request.environment, context, is_new=environment is None)
    if environment is None:
        raise EnvironmentNotReadyError(
            f"Environment {request.environment!r} does not exist in the state of the SQLMesh project at "
            f"{', '.join(request.project.paths)} (gateway {context.selected_gateway!r}). {_memory_advice(context)}"
            f"Nothing can run before its first plan is applied:{block(plan)}"
        )
    refuse_what_nobody_described(request, environment, plan)
    ours = {*_requested(request), *_assets(request)}
    if not any(snapshot.name in ours for snapshot in environment.snapshots):
        raise EnvironmentNotReadyError(
            f"Environment {request.environment!r} has promoted none of the models of the SQLMesh project at "
            f"{', '.join(request.project.paths)}, so nothing can run. To promote them:{block(plan)}"
        )
    return environment, plan


def _requested(request: msg.EvaluationRequest) -> Iterable[str]:
    return dict.fromkeys([*request.models, *request.standalone_audits, *request.audit_only])


def _assets(request: msg.EvaluationRequest) -> frozenset[str]:
    """The models that are assets of the component that asks."""
    return request.described_as.assets if request.described_as else frozenset()


def _open_environment(request: msg.EvaluationRequest, context: _RecordingContext) -> msg.EnvironmentOpened:
    environment, plan = _stored_environment(request, context)
    requested, assets = _requested(request), _assets(request)
    # What was promoted as external or embedded is not computed, whatever the local files have made of it since.
    known = {
        snapshot.name: snapshot
        for snapshot in environment.snapshots
        if snapshot.is_symbolic == (snapshot.name in request.external_models)
    }
    context.naming = environment.naming_info
    context.promoted = {snapshot.name for snapshot in environment.promoted_snapshots}
    return msg.EnvironmentOpened(
        environment=environment.name,
        promoted={
            fqn: msg.PromotedNode(
                version=known[fqn].version,
                data_hash=known[fqn].fingerprint.data_hash,
                metadata_hash=known[fqn].fingerprint.metadata_hash,
                table_name=context.table_name(known[fqn]),
            )
            for fqn in requested
            if fqn in known
        },
        missing=tuple(fqn for fqn in requested if fqn not in known),
        plan_command=plan,
        others=tuple(
            sorted(
                snapshot.name
                for snapshot in environment.snapshots
                if snapshot.is_model and not snapshot.is_symbolic and snapshot.name not in assets
            )
        ),
    )


def _memory_advice(context: SteadyContext) -> str:
    state = state_connection(context)
    if not isinstance(state, DuckDBConnectionConfig) or state.catalogs or state.database not in (None, "", ":memory:"):
        return ""
    return (
        "That state is in the memory of the process that opens it, so what a plan has applied is gone when it ends: "
        "give the gateway's connection a file (`database: warehouse.duckdb`). "
    )


class _RecordingContext(SteadyContext):
    """A Context that shows what passes between it, its scheduler and its evaluator."""

    current_scheduler: Scheduler | None = None
    """What runs the requested nodes, or has run them; another one after SQLMesh has started over."""
    naming: EnvironmentNamingInfo
    promoted: Set[str]
    """Nodes that the environment has views of: in development, those that a plan has changed."""

    def prepare(self, tracker: Tracker, request: msg.EvaluationRequest) -> None:
        self._tracker = tracker
        self._request = request
        self._requested = {*request.models, *request.standalone_audits}
        self._count_rows = request.count_rows
        self._query_characters = request.query_characters

    def view(self, snapshot: Snapshot | SnapshotTableInfo) -> exp.Table | None:
        """What consumers read of a model in the environment; None where it shows no table of SQLMesh's."""
        if not snapshot.is_model or snapshot.is_symbolic or snapshot.name not in self.promoted:
            return None
        dialect = self.config.get_connection(snapshot.model_gateway or self.selected_gateway).DIALECT
        return snapshot.qualified_view_name.table_for_environment(self.naming, dialect=dialect)

    def table_name(self, snapshot: SnapshotTableInfo) -> str | None:
        """The name of that table, unquoted and dotted."""
        view = self.view(snapshot)
        return None if view is None else ".".join(part.name for part in view.parts)

    def create_scheduler(self, snapshots: Iterable[Snapshot], snapshot_evaluator: SnapshotEvaluator) -> Scheduler:
        pipe = self._tracker.pipe
        pipe.cut_off_queries = partial(self._cut_off, snapshot_evaluator)
        record_audits(snapshot_evaluator, pipe.send, self._query_characters)
        if self._count_rows:
            self._tracker.count_rows = partial(self._rows_of, snapshot_evaluator)
        scheduler = super().create_scheduler(snapshots, snapshot_evaluator)
        run = scheduler.run

        def run_requested(*args: Any, **kwargs: Any) -> CompletionStatus:
            if self.current_scheduler is not None:  # not the first to run: to evaluate audits, one is made too
                self._start_over()
            self.current_scheduler = scheduler
            self._tracker.idle_nodes = lambda: _idle_nodes(self._request, self.requested, scheduler, self._tracker)
            # SQLMesh's selection language cannot say what is needed here: it has no quoting for names
            # with spaces or dashes, cannot name standalone audits, ignores what it does not find, and
            # its parser recurses once per name (about a thousand overflow Python's stack).
            asked = {
                **kwargs,
                "selected_snapshots": self._requested,
                "circuit_breaker": unless_unchanged(kwargs["circuit_breaker"], self.state_reader, self.naming.name),
                "auto_restatement_enabled": kwargs["auto_restatement_enabled"] and self._may_restate(scheduler),
            }
            return run(*args, **asked)

        replace_run(scheduler, run_requested)
        mind_unselected_upstream(scheduler, self._tracker.hold_back)
        return scheduler

    def _cut_off(self, evaluator: SnapshotEvaluator) -> None:
        """Called from the thread that listens."""
        self._tracker.tell_in_flight()
        cut_off_queries(evaluator.adapters.values(), self._tracker.pipe)

    def _may_restate(self, scheduler: Scheduler) -> bool:
        snapshots, now = scheduler.snapshots_by_name, self._request.execution_time
        reader = restated_without_its_source(snapshots, self._requested, now)
        if reader is not None:
            text = (
                f"Automatic restatements that are due are left to a run of all that they reach: {bare(reader)} would "
                "be restated in this run before what it reads."
            )
            self._tracker.pipe.send(msg.LogLine("info", text, "dg_sqlmesh"))
        return reader is None

    def _start_over(self) -> None:
        """A plan has landed: other versions are promoted now, and some nodes perhaps not any more."""
        self._tracker.start_over()
        opened = _open_environment(self._request, self)
        self._tracker.pipe.send(opened)
        self.leave_out(opened.missing)

    def leave_out(self, missing: Iterable[str]) -> None:
        """Run the requested nodes without these, which the environment does not have."""
        self._requested -= {*missing}

    @property
    def requested(self) -> frozenset[str]:
        """The nodes to run, as far as they are in the environment."""
        return frozenset(self._requested)

    def _rows_of(self, evaluator: SnapshotEvaluator, snapshot: Snapshot) -> int | None:
        view = self.view(snapshot)
        if view is None:
            return None
        query = exp.select(exp.Count(this=exp.Star())).from_(view)
        (rows,) = evaluator.get_adapter(snapshot.model_gateway).fetchone(query, quote_identifiers=True)
        return int(rows)


def _idle_nodes(
    request: msg.EvaluationRequest, nodes: frozenset[str], scheduler: Scheduler, tracker: Tracker
) -> Iterable[msg.Event]:
    """Why nodes are not going to run: waiting for a signal, or nothing to do."""
    snapshots, parents = scheduler.snapshots_by_name, _parents(scheduler)
    index = deployability(request, snapshots.values())
    overdue = missing_intervals(
        snapshots.values(), execution_time=request.execution_time, ignore_cron=True, deployability_index=index
    )
    not_due = {snapshot.name for snapshot in overdue}
    bounds = " and ".join(f"{name} {said!r}" for name, said in (("start", request.start), ("end", request.end)) if said)
    altered = data_altered_at(snapshots, index, {fqn for fqn, batches in tracker.planned.items() if batches})
    for fqn in sorted(nodes):
        batches = tracker.planned.get(fqn)
        if batches:
            continue
        snapshot = snapshots[fqn]
        intervals = computed(snapshot, index)
        idle: msg.NodeUpToDate | msg.NodeWaiting
        if batches is None:
            idle = _up_to_date(snapshot, fqn in not_due, bounds, request.execution_time)
        else:
            idle = _waiting(fqn, tracker, snapshots, parents)
        idle = replace(
            idle,
            last_interval_end=intervals[-1][1] if intervals else None,
            of=audited(snapshot, index),
            altered_at=altered[fqn] or None,
        )
        if isinstance(idle, msg.NodeUpToDate) and snapshot.is_model and not snapshot.is_symbolic:
            idle = replace(idle, intervals=tuple(intervals), computed_at=altered_at(snapshot, index))
        yield idle


def _parents(scheduler: Scheduler) -> Callable[[str], list[str]]:
    snapshots = scheduler.snapshots_by_name
    return lambda fqn: [parent.name for parent in snapshots[fqn].parents] if fqn in snapshots else []


def _waiting(
    fqn: str, tracker: Tracker, snapshots: Mapping[str, Snapshot], parents: Callable[[str], Iterable[str]]
) -> msg.NodeWaiting:
    unready, unselected = tracker.unready_signals, tracker.held_back_by.get(fqn, frozenset())
    unheard = {name for name in unselected if snapshots[name].model.signals}
    asked = ancestors(fqn, parents) & unready.keys() if unready else set()
    return msg.NodeWaiting(
        fqn=fqn,
        signals=tuple(unready.get(fqn, ())),
        upstream=tuple(sorted(asked | unheard)),
        unselected=tuple(sorted(unselected - unheard)),
    )


def _up_to_date(snapshot: Snapshot, is_overdue: bool, bounds: str, execution_time: int) -> msg.NodeUpToDate:
    if snapshot.is_seed:
        return msg.NodeUpToDate(snapshot.name, "the seed has not changed since it was loaded", None, None)
    if not is_overdue:
        reason = "all complete intervals are computed"
    elif bounds:
        reason = f"nothing is due within the {bounds} that the run was given"
    else:
        reason = f"its cron {snapshot.node.cron!r} is not due"
    next_due = to_timestamp(snapshot.node.cron_next(to_datetime(execution_time)))
    return msg.NodeUpToDate(snapshot.name, reason, next_due, None)
