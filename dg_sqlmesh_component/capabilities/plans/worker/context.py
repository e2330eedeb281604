"""A SQLMesh context that builds a plan and applies it, and sends what happens meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from functools import partial
from types import MappingProxyType
from typing import Any

from sqlmesh.core.context import Context
from sqlmesh.core.environment import EnvironmentSummary
from sqlmesh.core.plan import Plan
from sqlmesh.core.scheduler import Scheduler
from sqlmesh.core.snapshot import DeployabilityIndex, Snapshot, SnapshotEvaluator, SnapshotId
from sqlmesh.utils.errors import LinterError, PlanError

from dg_sqlmesh_component.capabilities.plans import messages as msg
from dg_sqlmesh_component.capabilities.plans.worker.stored_snapshots import StoredSnapshots
from dg_sqlmesh_component.protocol.errors import (
    AdditiveChangeError,
    ConfigurationError,
    LinterRuleError,
    ProjectRuleError,
    UnitTestError,
)
from dg_sqlmesh_component.protocol.formatting import block, listed, unquoted
from dg_sqlmesh_component.worker.commands import sqlmesh_command
from dg_sqlmesh_component.worker.context import closed_on_error, open_context
from dg_sqlmesh_component.worker.explain import describe_error
from dg_sqlmesh_component.worker.intervals.causes import Waiting
from dg_sqlmesh_component.worker.intervals.held_back import forget_and_hold_back
from dg_sqlmesh_component.worker.intervals.known import ExternalTables, KnownToDagster
from dg_sqlmesh_component.worker.observe.audits import record_audits
from dg_sqlmesh_component.worker.observe.computed_table import ComputedTables
from dg_sqlmesh_component.worker.observe.tracker import Tracker
from dg_sqlmesh_component.worker.pipe import Pipe
from dg_sqlmesh_component.worker.running_queries import watch_queries
from dg_sqlmesh_component.worker.sqlmesh_internals import (
    end_as_before_an_unfinished_plan,
    ignore_signals,
    limit_batches,
    plan_only_what_is_computed,
    promote_in_one_transaction,
)
from dg_sqlmesh_component.worker.state_lock import refuse_unlockable


class PlanTracker(Tracker):
    """SQLMesh's console while a plan is built and applied.

    Attributes:
        report_table: Reports what a model's table has after its last batch.
    """

    def __init__(self, pipe: Pipe) -> None:
        super().__init__(pipe)
        self.report_table: Callable[[Snapshot], None] = lambda _: None

    def after_last_batch(self, snapshot: Snapshot) -> None:
        self.report_table(snapshot)

    def start_evaluation_progress(
        self, batched_intervals: dict[Snapshot, list[msg.Interval]], *args: Any, **kwargs: Any
    ) -> None:
        """SQLMesh calls this in each stage that computes. A stage adds its batches to those of the stages before.

        Nothing is computed of nodes that have to wait, so they have no outcome.
        """
        batches = {snapshot.name: tuple(intervals) for snapshot, intervals in batched_intervals.items() if intervals}
        self.progress.add(batches)
        self._start_reports()
        self.pipe.send(msg.EvaluationPlanned(batches, continues=True))

    def log_additive_change(self, snapshot_name: str, alter_operations: Any, dialect: str, error: bool = True) -> None:
        alterations = listed([operation.expression.sql(dialect) for operation in alter_operations])
        text = f"{unquoted(snapshot_name)} gains columns ({alterations})"
        if error:
            refused = f"{text}, which its `on_additive_change` does not allow."
            self.violations[AdditiveChangeError].append(refused)
        else:
            self.pipe.log("warning", f"{text}. Its `on_additive_change` asks for this warning.")


def _violation(rule: type[ProjectRuleError], texts: Iterable[str], project: msg.OpenProject) -> ProjectRuleError:
    """The error for rules of the project that its files break."""
    remedies = {
        UnitTestError: f"Correct the models or the tests. To run the tests:{block(sqlmesh_command(project, 'test'))}",
        LinterRuleError: f"Correct the models or the linter's rules:{block(sqlmesh_command(project, 'lint'))}",
        AdditiveChangeError: "To allow the new columns, set `on_additive_change: allow` in the model.",
    }
    return rule("\n\n".join(["SQLMesh cannot build a plan.", *texts, remedies[rule]]))


class PlanContext(Context):
    """A Context that sends batches and audit results while it applies a plan.

    Attributes:
        nodes: The snapshots of all stages so far, by name.
        stored: Reads those of the state.
        waiting: What its schedulers have left out.
        left_out: By name, the changes of the files that `select` leaves out.
        shown: What the environment of the plan showed right before the plan was built.
    """

    def __init__(self, request: msg.PlanRequest, tracker: PlanTracker, **options: Any) -> None:
        super().__init__(**options)
        self.request = request
        self.tracker = tracker
        self.known = KnownToDagster(ExternalTables(request.tables.incomplete, request.tables.read))
        self.nodes: dict[str, Snapshot] = {}
        self.stored = StoredSnapshots(lambda: self.state_reader)
        self.waiting = Waiting()
        self.left_out: dict[str, msg.Change] = {}
        self.shown = _NOTHING

    def create_scheduler(
        self,
        snapshots: Iterable[Snapshot],
        snapshot_evaluator: SnapshotEvaluator,
        pending: Mapping[str, Sequence[msg.Interval]] = MappingProxyType({}),
    ) -> Scheduler:
        """SQLMesh calls this before each stage that computes.

        Args:
            pending: The intervals that each model lacks, by name. They hold back models downstream.
        """
        scheduler = self._observed_scheduler(snapshots, snapshot_evaluator)
        forget_and_hold_back(scheduler, self.known.tables, self.tracker.report_forgotten, self.waiting, pending)
        return scheduler

    def auditing_scheduler(self, snapshots: Iterable[Snapshot], snapshot_evaluator: SnapshotEvaluator) -> Scheduler:
        """One for `run_merged_intervals` with `audit_only`. It audits rows that exist: nothing holds them back."""
        scheduler = self._observed_scheduler(snapshots, snapshot_evaluator)
        ignore_signals(scheduler)
        plan_only_what_is_computed(scheduler)
        return scheduler

    def _observed_scheduler(self, snapshots: Iterable[Snapshot], snapshot_evaluator: SnapshotEvaluator) -> Scheduler:
        pipe = self.tracker.pipe
        watch_queries(pipe, snapshot_evaluator.adapters, partial(self.tracker.running, self.selected_gateway))
        record_audits(snapshot_evaluator, self.request.sampling, pipe)
        if not isinstance(self.request, msg.PreviewRequest):  # no asset is materialized by a preview
            index = DeployabilityIndex.all_deployable()
            self.tracker.report_table = ComputedTables(pipe, snapshot_evaluator, index).report
        scheduler = super().create_scheduler(snapshots, snapshot_evaluator)
        limit_batches(scheduler, self.request.job.tag_limits)
        self.nodes.update(scheduler.snapshots_by_name)
        return scheduler


def open_plan_context(request: msg.PlanRequest, pipe: Pipe) -> PlanContext:
    """Open the project with all of its models, then its state. A locked DuckDB file raises an error here."""
    tracker = PlanTracker(pipe)
    context = open_context(
        request.project,
        tracker,
        context_type=partial(PlanContext, request, tracker),
        load=(),  # all models
        concurrent_tasks=request.job.concurrent_tasks,
    )
    with closed_on_error(context, request.project):
        if isinstance(request, msg.PreviewRequest):
            refuse_unlockable(
                context,
                "A preview",
                "Remove `preview` in defs.yaml. At a time without runs, use:"
                f"{block(sqlmesh_command(request.project, 'plan', request.environment))}",
            )
        context.state_reader.get_environments_summary()  # opens the state
        promote_in_one_transaction(context)
        end_as_before_an_unfinished_plan(context)
    return context


def built(context: PlanContext, environment: str, **options: Any) -> Plan:
    """Build the plan that `sqlmesh plan` would build, after the linter and the unit tests.

    The `options` are those of `Context.plan_builder`. Raises a ProjectRuleError if the project breaks a rule of its
    own, or a ConfigurationError.
    """
    context.shown = versions_shown(context, environment)
    try:
        # SQLMesh's own refusal of a destructive change names no model. `apply_approved` allows only the approved ones.
        plan = context.plan_builder(environment, allow_destructive_models=["*"], **options).build()
    except (PlanError, LinterError) as error:
        for rule, texts in context.tracker.violations.items():
            raise _violation(rule, texts, context.request.project) from error
        raise ConfigurationError(f"SQLMesh cannot build a plan: {describe_error(error)}") from error
    # A model that is added again may have the table of an earlier version. SQLMesh finds out when it applies the plan.
    added = [snapshot for snapshot in plan.new_snapshots if snapshot.snapshot_id in plan.context_diff.added]
    for snapshot in context.state_reader.refresh_snapshot_intervals(added):
        snapshot.dev_intervals = snapshot.intervals.copy() if snapshot.is_forward_only else []
    return plan


def refuse_long_names(plan: Plan, context: Context, remedy: str) -> None:
    """Refuse before anything is computed. SQLMesh creates views last, and only then finds that a name is too long."""
    naming = plan.environment_naming_info
    for info in plan.environment.promoted_snapshots:
        adapter = context.engine_adapters[info.model_gateway or context.selected_gateway]
        view = info.qualified_view_name.table_for_environment(naming, dialect=adapter.dialect)
        longest, limit = max((part.name for part in view.parts), key=len), adapter.MAX_IDENTIFIER_LENGTH
        if limit is not None and len(longest) > limit:
            raise ConfigurationError(
                f"Nothing was computed, because a name would be too long: {longest} has {len(longest)} characters, and "
                f"{adapter.dialect} allows {limit}. {remedy}"
            )


def apply_approved(context: PlanContext, plan: Plan, approval: msg.PlanApproval) -> None:
    """Apply the plan, with the approved losses only. SQLMesh and drivers raise anything (`Promotion.explained`).

    SQLMesh applies nothing if nothing differs. It would never execute an `after_all` statement at which an earlier
    attempt has failed: the environment is finished before that, and the state does not tell. So each plan is applied.
    """
    diff = plan.context_diff
    finished = diff.previous_finalized_snapshots if diff.is_unfinalized_environment else diff.environment_snapshots
    differs = {"is_unfinalized_environment": True, "previous_finalized_snapshots": finished}
    approved = {"allow_destructive_models": set(approval.allow_destructive), "context_diff": diff.copy(update=differs)}
    context.apply(plan.copy(update=approved), circuit_breaker=_has_moved(context, plan))


def _has_moved(context: PlanContext, plan: Plan) -> Callable[[], bool]:
    """A circuit breaker: whether another plan has landed since this one was built. SQLMesh asks before each model."""
    name = plan.environment_naming_info.name
    # Its own id too: SQLMesh computes some models after it has promoted the plan.
    expected = {plan.previous_plan_id, plan.plan_id}

    def has_moved() -> bool:
        summaries: list[EnvironmentSummary] = context.state_reader.get_environments_summary()
        others = {summary.plan_id for summary in summaries if summary.name == name} - expected
        if others and versions_shown(context, name) == context.shown:  # a restatement is a plan too
            expected.update(others)
            return False
        return bool(others)

    return has_moved


_NOTHING: tuple[Set[SnapshotId], Any, Any] = (set(), {}, [])


def versions_shown(context: Context, environment: str) -> tuple[Set[SnapshotId], Any, Any]:
    """The versions, requirements and statements of an environment; empty if there is none."""
    stored = context.state_reader.get_environment(environment)
    if stored is None:
        return _NOTHING
    statements = context.state_reader.get_environment_statements(environment)
    return {info.snapshot_id for info in stored.snapshots}, stored.requirements, statements
