"""What a run (`run`) and a restatement (`restatement`) have in common: `evaluate` serves either of them.

It does this, in order:

1. `_open`: open the project and its state. If another process holds the DuckDB file, wait and try again.
2. `state_lock.locked_context`: wait until no other run uses the state. The lock is held until the step has stored
   everything.
3. `_evaluate`: read the environment, compare it with Dagster's records, compute the requested nodes, then evaluate
   audits of nodes that do not run.

Everything comes from SQLMesh's state. The project's models are not parsed, because a run executes promoted models,
whatever the local files contain.

Facts come from two sources: SQLMesh calls its console while it works (`RunTracker`), and it calls
`Context.create_scheduler`, a public extension point (`EvaluationContext`).
"""

from __future__ import annotations

import sys
import time
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Set
from dataclasses import replace
from functools import partial
from typing import Any

from sqlglot import exp
from sqlmesh.core.config.run import RunConfig
from sqlmesh.core.context import Context
from sqlmesh.core.environment import Environment
from sqlmesh.core.scheduler import Scheduler
from sqlmesh.core.snapshot import Snapshot, SnapshotEvaluator, SnapshotTableInfo
from sqlmesh.utils import CorrelationId
from sqlmesh.utils.date import TimeLike, is_date, to_datetime, to_timestamp
from sqlmesh.utils.errors import SignalEvalError

from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.errors import (
    ConfigurationError,
    EnvironmentNotReadyError,
    EvaluationError,
    SQLMeshComponentError,
    StatementError,
)
from dg_sqlmesh_component.protocol.formatting import counted, plan_block, utc_text
from dg_sqlmesh_component.worker.commands import how_to_finish_plan, plan_command
from dg_sqlmesh_component.worker.context import closed_on_error, connection_of, open_context
from dg_sqlmesh_component.worker.environment import (
    has_table,
    promoted_version,
    refuse_lost_versions,
    sharing_a_table,
    stored_environment,
)
from dg_sqlmesh_component.worker.evaluate.idle_nodes import idle_nodes, unaccepted_rows_shown
from dg_sqlmesh_component.worker.evaluate.stale_manifest import refuse_changed_defaults, refuse_unknown_upstream
from dg_sqlmesh_component.worker.explain import describe_error, explain, unfinished_plan
from dg_sqlmesh_component.worker.intervals.coverage import Coverages
from dg_sqlmesh_component.worker.intervals.known import ExternalTables, KnownToDagster
from dg_sqlmesh_component.worker.intervals.records import compare
from dg_sqlmesh_component.worker.intervals.tables import copied_intervals, deployability, shows_others, snapshots_now
from dg_sqlmesh_component.worker.observe.audits import audit_alone, audit_up_to_date, record_audits
from dg_sqlmesh_component.worker.observe.computed_table import ComputedTables
from dg_sqlmesh_component.worker.observe.earlier_rows import EarlierRowsAudits
from dg_sqlmesh_component.worker.observe.run_tracker import Observed, RunTracker
from dg_sqlmesh_component.worker.own_bugs import own_bug
from dg_sqlmesh_component.worker.pipe import Pipe
from dg_sqlmesh_component.worker.project_exits import exits_as_exceptions
from dg_sqlmesh_component.worker.running_queries import watch_queries
from dg_sqlmesh_component.worker.sqlmesh_internals import computed_ranges, limit_batches
from dg_sqlmesh_component.worker.state_lock import locked_context

ENVIRONMENT_CHECK_SECONDS = 5
"""How often a run checks whether the plan that is updating its environment has finished."""

_DAY = 24 * 60 * 60 * 1000


def evaluate(request: msg.EvaluationRequest, pipe: Pipe, context_type: type[EvaluationContext]) -> None:
    """Serve the request. Every fact goes into the pipe as soon as it is known."""
    open_project = partial(_open, request, pipe, context_type)
    with locked_context(request, open_project, pipe, writes=request.WRITES) as context:
        _serve(context)
        pipe.await_release()


def _serve(context: EvaluationContext) -> None:
    """Send all events. An error becomes one here, so that the lock is still held when the step stores its results."""
    pipe = context.tracker.pipe
    try:
        pipe.send(_evaluate(context))
    except SignalEvalError as error:
        pipe.fail(context.tracker.fail_signal(error))
    except Exception as error:  # noqa: BLE001  # SQLMesh, its engine's driver and a project's signals raise anything
        pipe.fail(explain(error, context.request.project, context.request.environment))


def _open(request: msg.EvaluationRequest, pipe: Pipe, context_type: type[EvaluationContext]) -> EvaluationContext:
    """Open the project, then its state. A locked DuckDB file raises an error here."""
    tracker = RunTracker(pipe)
    context = open_context(
        request.project,
        tracker,
        context_type=partial(context_type, request, tracker),
        concurrent_tasks=request.job.concurrent_tasks,
    )
    context.config.run = RunConfig(
        environment_check_interval=min(ENVIRONMENT_CHECK_SECONDS, max(request.environment_timeout, 1)),
        environment_check_max_wait=max(request.environment_timeout, 1),
    )
    with closed_on_error(context, request.project, request.environment):
        refuse_changed_defaults(request, context)
        context.state_reader.get_environment(request.environment)
    return context


def _evaluate(context: EvaluationContext) -> msg.EvaluationFinished:
    tracker, pipe = context.tracker, context.tracker.pipe
    if asked_for := resolved_range(context.request):
        pipe.log("info", f"The run config asks for the range {asked_for}.")
    pipe.send(msg.StateLocked(context.reads_of_promoted()))
    context.records = pipe.receive(msg.Records)
    name_unfinished_plan(context)
    context.prepare()
    context.open_environment()
    status: msg.Status = "not_run"
    late_error: Exception | None = None
    pipe.begin()
    if context.requested:
        try:
            with exits_as_exceptions():
                status = context.compute()
        except Exception as error:  # a statement's: any driver's
            if not tracker.is_through or isinstance(error, SQLMeshComponentError) or own_bug(error):
                raise
            late_error = error
    tracker.report_unfinished_coverage()
    if tracker.failed or tracker.was_cancelled:
        context.report_unaccepted_rows(context.requested)
    if tracker.lost_lock is not None:
        raise tracker.lost_lock
    if tracker.was_cancelled:  # before blocked nodes: SQLMesh left them out because the worker stopped the run
        in_flight = "cut off" if tracker.cut_off else "finished"
        raise EvaluationError(f"The run was cancelled: batches in flight were {in_flight}, no new batch was started.")
    tracker.report_idle_nodes()  # if no batch has started
    scheduler = context.current_scheduler
    if scheduler is not None and (blocked := tracker.blocked_by(scheduler.snapshots_by_name)):
        pipe.send(msg.NodesBlocked(blocked))
    if late_error is not None:
        # Never transient: a retry finds no pending intervals, and SQLMesh executes `after_all` only if there are some.
        raise StatementError(
            "SQLMesh had finished the models and then ended with an error, as it does if an `after_all` statement "
            f"fails: {describe_error(late_error).rstrip('.')}. SQLMesh executes the statement again after the next "
            "models that it computes. Until then, a run without pending intervals, such as a retry of this run, "
            "succeeds without executing it."
        ) from late_error
    if scheduler is not None and tracker.up_to_date:
        pipe.send(msg.NodesUpToDate(tuple(tracker.up_to_date)))
        wanted = pipe.receive(msg.AuditsWanted).audits
        audit_up_to_date(wanted, context.request, scheduler, context.coverages, pipe)
    if context.request.audit_only:
        await_finalized_environment(context)
        scheduler = context.scheduler(environment=context.request.environment)
        context.report_unaccepted_rows(scheduler.snapshots_by_name.keys() & context.request.audit_only)
        audit_alone(context.request, scheduler, context.coverages, pipe)
    return msg.EvaluationFinished(status)


def resolved_range(request: msg.EvaluationRequest) -> str:
    """`start` and `end` of the run config as SQLMesh resolves them, `from <instant> to <instant>`; empty without both.

    Raises a ConfigurationError if SQLMesh cannot parse them, or if the range is empty.
    """
    wanted = request.restate or request
    bounds = {}
    for name, text in (("start", wanted.start), ("end", wanted.end)):
        if text is None:
            continue
        try:
            bounds[name] = to_timestamp(resolved(text, request))
        except Exception as error:  # dateparser's errors are of many classes
            raise ConfigurationError(
                f"SQLMesh cannot parse {name} {text!r} of the run config as a date or time. "
                "Write a date, an instant or words such as '1 week ago'."
            ) from error
    if len(bounds) == 2 and bounds["start"] > bounds["end"]:
        raise ConfigurationError(
            f"In the run config, start {wanted.start!r} ({utc_text(bounds['start'])}) is after end {wanted.end!r} "
            f"({utc_text(bounds['end'])}), so nothing would be computed. Correct one of them."
        )
    if wanted.end is not None and is_date(wanted.end):  # SQLMesh includes that day
        bounds["end"] += _DAY
    return " ".join(
        f"{word} {utc_text(bounds[name])}" for word, name in (("from", "start"), ("to", "end")) if name in bounds
    )


def resolved(bound: str, request: msg.EvaluationRequest) -> TimeLike:
    """`start` or `end` of the run config, relative to the start of the run. A date stays: SQLMesh includes that day.

    SQLMesh resolves words at each use, relative to the clock: they would mean another range after a wait for a lock.
    """
    return bound if is_date(bound) else to_datetime(bound, relative_base=to_datetime(request.execution_time))


def _correlation_id(request: msg.EvaluationRequest) -> CorrelationId | None:
    """What SQLMesh adds to each query: the id of the Dagster run. Before SQLMesh 0.236, only plans have one."""
    return CorrelationId.from_run_id(request.job.run_id) if hasattr(CorrelationId, "from_run_id") else None


class EvaluationContext(Context):
    """A Context that computes exactly the requested nodes and records results of its scheduler and evaluator."""

    requested: Set[str]
    """The nodes to compute: those of the request that are in the environment."""
    environment: Environment
    """As it was when it was opened."""
    promoted: Set[str]
    """Nodes that have views in the environment. In a development environment, only changed nodes have views."""

    def __init__(self, request: msg.EvaluationRequest, tracker: RunTracker, **options: Any) -> None:
        super().__init__(**options)
        self.request = request
        self.tracker = tracker
        self.records = msg.Records()
        """What Dagster has recorded, or knows from this worker."""
        self.current_scheduler: Scheduler | None = None
        """The scheduler that computes or has computed the nodes. SQLMesh makes another one when it starts over."""
        self.known = KnownToDagster(ExternalTables(request.tables.incomplete, request.tables.read))
        self._correlation_id = _correlation_id(request)

    def prepare(self) -> None:
        """Called before the environment is opened."""

    @abstractmethod
    def compute(self) -> msg.Status:
        """Compute the requested nodes."""

    @abstractmethod
    def watch(self, scheduler: Scheduler) -> None:
        """Called with each new scheduler, before it is used."""

    @property
    def bounds(self) -> dict[str, TimeLike | None]:
        """`start` and `end` of the run config as arguments of SQLMesh: each means one instant, whenever it is read."""
        request = self.request
        return {
            name: None if bound is None else resolved(bound, request)
            for name, bound in (("start", request.start), ("end", request.end))
        }

    def observed(self, scheduler: Scheduler) -> Observed:
        """What the tracker has to know about the nodes of a scheduler."""
        index = deployability(self.request.environment, scheduler.snapshots.values(), self.bounds["start"])
        tables = ComputedTables(self.tracker.pipe, scheduler.snapshot_evaluator, index, self._counts_rows)
        return Observed(
            partial(self._explain_idle, scheduler.snapshots_by_name),
            report_table=tables.report,
            earlier_rows=EarlierRowsAudits(
                self.request, scheduler, index, self.tracker.pipe, partial(computed_ranges, self)
            ),
        )

    def _counts_rows(self, snapshot: Snapshot) -> bool:
        """An environment without a view of a model shows none of its rows."""
        return self.request.job.count_rows and self._view(snapshot) is not None

    def _explain_idle(self, snapshots: Mapping[str, Snapshot]) -> tuple[Coverages, Iterable[msg.Event]]:
        coverages = self.coverages(snapshots)
        return coverages, idle_nodes(self.request, self.requested, snapshots, self.tracker, coverages)

    def create_scheduler(self, snapshots: Iterable[Snapshot], snapshot_evaluator: SnapshotEvaluator) -> Scheduler:
        """SQLMesh calls this before it computes, before it starts over, and before audits are evaluated."""
        pipe = self.tracker.pipe
        if self._correlation_id:
            snapshot_evaluator = snapshot_evaluator.set_correlation_id(self._correlation_id)
        watch_queries(pipe, snapshot_evaluator.adapters, partial(self.tracker.running, self.selected_gateway))
        record_audits(snapshot_evaluator, self.request.sampling, pipe)
        scheduler = super().create_scheduler(snapshots, snapshot_evaluator)
        if any(info.name not in scheduler.snapshots_by_name for info in self.environment.snapshots):
            # Read again: if a plan has landed, the scheduler has the versions of the new environment.
            refuse_lost_versions(self.stored_environment(), scheduler.snapshots_by_name)
        limit_batches(scheduler, self.request.job.tag_limits)
        self.watch(scheduler)
        self.tracker.observe(self.observed(scheduler))
        return scheduler

    # -- the environment --------------------------------------------------------------------------

    def stored_environment(self) -> Environment:
        """The environment, as in the state now.

        Raises an EnvironmentNotReadyError if it does not exist, or has promoted nothing of the project.
        """
        request, ours = self.request, {*self._nodes, *self._assets}
        environment = stored_environment(request.project, request.environment, self)
        if not any(snapshot.name in ours for snapshot in environment.snapshots):
            raise EnvironmentNotReadyError(
                f"Environment {request.environment!r} has promoted none of the models of the SQLMesh project at "
                f"{', '.join(request.project.paths)}, so nothing can run. To promote them:"
                f"{plan_block(self._plan_command)}"
            )
        return environment

    def open_environment(self) -> None:
        """Read the environment, report its versions, and drop requested nodes that it does not have."""
        environment, nodes, assets = self.stored_environment(), self._nodes, self._assets
        refuse_unknown_upstream(self.request, environment, self._plan_command)
        # A node promoted as external or embedded is not computed, even if the local files have changed its kind.
        known = {
            snapshot.name: snapshot
            for snapshot in environment.snapshots
            if snapshot.is_symbolic == (snapshot.name in self.request.external_models)
        }
        refused = sharing_a_table(environment)
        self.requested = (known.keys() - refused) & {*self.request.models, *self.request.standalone_audits}
        self.environment = environment
        self.promoted = {snapshot.name for snapshot in environment.promoted_snapshots}
        others = (
            snapshot.name for snapshot in environment.snapshots if has_table(snapshot) and snapshot.name not in assets
        )
        self.tracker.pipe.send(
            msg.EnvironmentOpened(
                environment=environment.name,
                promoted={
                    fqn: promoted_version(known[fqn], self._table_name(known[fqn])) for fqn in nodes if fqn in known
                },
                missing=tuple(fqn for fqn in nodes if fqn not in known),
                plan_command=self._plan_command,
                others=tuple(sorted(others)),
                refused={fqn: refused[fqn] for fqn in self.request.models if fqn in refused and fqn in known},
                correlation_id=str(self._correlation_id) if self._correlation_id else None,
            )
        )
        self._compare_with_records(environment)

    def _compare_with_records(self, environment: Environment) -> None:
        """Report data that Dagster has not recorded; after a plan has landed, only data of versions that are new."""
        comparison = compare(self.records, environment, self)
        self.known = KnownToDagster(self.read_tables(environment), comparison.late, comparison.early_reads.of)
        tables = ComputedTables(self.tracker.pipe, self.snapshot_evaluator, comparison.index, self._counts_rows)
        self.tracker.pipe.send(comparison.event(count=tables.count))
        # The run reports its own data itself.
        infos = {info.name: info for info in environment.snapshots}
        data = {
            fqn: _all_recorded(infos[fqn], recorded) if fqn in infos else recorded
            for fqn, recorded in self.records.data.items()
        }
        self.records = replace(self.records, data=data)

    def read_tables(self, environment: Environment) -> ExternalTables:
        """The tables for which the promoted versions wait."""
        return ExternalTables.of_promoted(self.request.tables, environment, self, self.tracker.pipe)

    def reads_of_promoted(self) -> dict[str, msg.PromotedReads]:
        """What the promoted versions read, if tables are awaited."""
        if self.request.tables.are_all:
            return {}
        environment = self.stored_environment()
        return self.read_tables(environment).reads_of(environment)

    @property
    def _nodes(self) -> list[str]:
        """Every node of the request, once."""
        request = self.request
        return list(dict.fromkeys([*request.models, *request.standalone_audits, *request.audit_only]))

    @property
    def _assets(self) -> Set[str]:
        """The models that are assets of the requesting component."""
        return self.request.manifest_facts.assets if self.request.manifest_facts else frozenset()

    @property
    def _plan_command(self) -> str:
        if self.request.deploy_jobs is not None:
            return f"dg launch --job {self.request.deploy_jobs[0]}"
        return plan_command(self.request.project, self.request.environment, self)

    # -- its tables -------------------------------------------------------------------------------

    def coverages(self, snapshots: Mapping[str, Snapshot]) -> Coverages:
        """The coverages of a scheduler's snapshots. They have the intervals of the state."""
        index = deployability(self.request.environment, snapshots.values(), self.bounds["start"])
        copied = copied_intervals(snapshots.values(), index, self)
        unready = self.tracker.waiting.unready
        return Coverages(snapshots, index, self.request.execution_time, self.known, copied, unready)

    def report_unaccepted_rows(self, nodes: Iterable[str]) -> None:
        """Report which of these nodes are views of rows that are old or refused now."""
        scheduler = self.current_scheduler or self.scheduler(environment=self.request.environment)
        shown = scheduler.snapshots_by_name
        if any(shows_others(shown[fqn]) for fqn in nodes if shown[fqn].is_model):
            now = snapshots_now(self, shown.values())
            index = deployability(self.request.environment, now.values(), self.bounds["start"])
            for event in unaccepted_rows_shown(nodes, now, index):
                self.tracker.pipe.send(event)

    def _table_name(self, snapshot: SnapshotTableInfo) -> str | None:
        """The name of the model's view, unquoted and dotted."""
        view = self._view(snapshot)
        return None if view is None else ".".join(part.name for part in view.parts)

    def _view(self, snapshot: Snapshot | SnapshotTableInfo) -> exp.Table | None:
        """The view of a model that consumers read in the environment; None if it has no such view."""
        if not has_table(snapshot) or snapshot.name not in self.promoted:
            return None
        dialect = connection_of(snapshot.model_gateway or self.selected_gateway, self).DIALECT
        return snapshot.qualified_view_name.table_for_environment(self.environment.naming_info, dialect=dialect)


def name_unfinished_plan(context: EvaluationContext) -> None:
    """Log which plan is updating the environment. SQLMesh waits for it and logs nothing."""
    request, environment = context.request, context.stored_environment()
    if environment.finalized_ts is None:
        apply_job = request.deploy_jobs[1] if request.deploy_jobs else None
        remedy = how_to_finish_plan(request.project, request.environment, environment.plan_id, apply_job)
        context.tracker.pipe.log(
            "warning",
            f"Plan {environment.plan_id} is updating environment {request.environment}. This run waits for it, for "
            f"{counted(request.environment_timeout, 'second')} at most (`execution.environment_timeout` in "
            f"defs.yaml). {remedy}",
        )


def await_finalized_environment(context: EvaluationContext) -> None:
    """Wait for a plan that is updating the environment, as SQLMesh's run does: until then, views may mix two plans.

    Raises an EnvironmentNotReadyError if the plan has not finished in time.
    """
    wait = context.config.run
    for _ in range(max(1, wait.environment_check_max_wait // wait.environment_check_interval)):
        if context.stored_environment().finalized_ts:
            return
        if context.tracker.pipe.is_cancelled:
            raise EvaluationError("The evaluation of audits was cancelled.")
        time.sleep(wait.environment_check_interval)
    raise unfinished_plan(context.request.project, context.request.environment)


def _all_recorded(info: SnapshotTableInfo, recorded: msg.RecordedData | None) -> msg.RecordedData:
    """The record of a version as if it described all of its data."""
    known = recorded if recorded is not None and recorded.version == info.version else msg.RecordedData("", 0)
    return msg.RecordedData(info.version, sys.maxsize, outdated=known.outdated, compared_at=known.compared_at)
