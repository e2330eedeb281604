"""Every private interface of SQLMesh that the worker uses, and every method of SQLMesh that it replaces.

Each function gives its reason. A test in tests/upstream/test_sqlmesh_internals.py fails if SQLMesh changes what the
function depends on. No other module of the worker uses private attributes of SQLMesh's objects (ruff's SLF001).
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Set
from concurrent.futures import Executor
from contextlib import contextmanager
from datetime import datetime, timezone
from functools import lru_cache, partial
from importlib import metadata
from pathlib import Path
from threading import Lock
from types import ModuleType
from typing import Any, NamedTuple

from sqlglot import exp
from sqlmesh.core.analytics.collector import User
from sqlmesh.core.audit import StandaloneAudit
from sqlmesh.core.context import Context
from sqlmesh.core.engine_adapter import DuckDBEngineAdapter, EngineAdapter, PostgresEngineAdapter
from sqlmesh.core.environment import Environment, EnvironmentStatements
from sqlmesh.core.loader import LoadedProject, Loader
from sqlmesh.core.model import Model
from sqlmesh.core.plan import EvaluatablePlan, Plan
from sqlmesh.core.plan.stages import PlanStage, RestatementStage
from sqlmesh.core.scheduler import EvaluateNode, Scheduler
from sqlmesh.core.selector import NativeSelector
from sqlmesh.core.snapshot import Snapshot, SnapshotEvaluator, SnapshotId, SnapshotIntervals, definition
from sqlmesh.core.snapshot.cache import SnapshotCache
from sqlmesh.core.snapshot.definition import Interval, SnapshotIdLike, SnapshotTableCleanupTask
from sqlmesh.core.snapshot.evaluator import ViewStrategy
from sqlmesh.core.state_sync import StateReader, StateSync
from sqlmesh.core.state_sync.db.interval import _interval_to_df
from sqlmesh.core.state_sync.db.utils import snapshot_name_version_filter
from sqlmesh.utils import UniqueKeyDict, random_id
from sqlmesh.utils.concurrency import ConcurrentDAGExecutor
from sqlmesh.utils.cron import CroniterCache
from sqlmesh.utils.date import TimeLike, now_timestamp
from sqlmesh.utils.errors import ConflictingPlanError

from dg_sqlmesh_component.protocol.intervals import ComputedRange, ready_by_signals


def _replace(owner: Any, **methods: Callable[..., Any]) -> None:
    """Replace methods of one of SQLMesh's objects or classes.

    Raises:
        AttributeError: SQLMesh has no such method any more, so it would never call the replacement.
    """
    for name, method in methods.items():
        getattr(owner, name)
        setattr(owner, name, method)


def prepare_process() -> None:
    """Correct and speed up SQLMesh in this process. Called once, before a project is opened."""
    need_no_home_folder()
    read_right_snapshots_from_cache()
    keep_bound_views()
    raise_first_errors_of_migrations()
    end_ranges_after_their_start()
    remember_cron_ticks()


# -- loading a project ----------------------------------------------------------------------------


def need_no_home_folder() -> None:
    """Let SQLMesh load and run a project if it cannot write to the home folder, as in many containers.

    It stores a random id of the user in `~/.sqlmesh` for its usage events, even if it sends none.
    """
    load_or_create = User.load_or_create

    def load_or_have(folder: Path) -> User:
        try:
            return load_or_create(folder)
        except OSError:
            return User(id=random_id())

    User.load_or_create = load_or_have


@contextmanager
def loaders_without_pandas() -> Iterator[None]:
    """Let SQLMesh make the loader of a project without importing pandas: a fifth of the CPU of a tick.

    Its loader imports pandas so that the processes that it forks to load models do not: on macOS, they would crash.
    A context that loads no models forks none. Whatever needs pandas, such as a batch, imports it later.
    """
    make = Loader.__init__

    def make_without(loader: Loader, *args: Any, **kwargs: Any) -> None:
        stand_in = ModuleType("pandas")
        is_missing = sys.modules.setdefault("pandas", stand_in) is stand_in
        try:
            make(loader, *args, **kwargs)
        finally:
            if is_missing:
                del sys.modules["pandas"]

    _replace(Loader, __init__=make_without)
    try:
        yield
    finally:
        _replace(Loader, __init__=make)


def file_of(definition: Model | StandaloneAudit | Any) -> Path | None:
    """The file that defines a model or an audit. SQLMesh has no public name for it."""
    return definition._path


def watch_loaders(context: Context, on_loaded: Callable[[LoadedProject], None]) -> None:
    """Call `on_loaded` with everything that a loader of the context has read from the project's files.

    A context also has models of other projects, from the state. Nothing public tells which models those are.
    """

    def watched(load: Callable[..., LoadedProject]) -> Callable[..., LoadedProject]:
        def load_and_report(*args: Any, **kwargs: Any) -> LoadedProject:
            project = load(*args, **kwargs)
            on_loaded(project)
            return project

        return load_and_report

    for loader in context._loaders:
        loader.load = watched(loader.load)


def plan_models(context: Context, models: UniqueKeyDict[str, Model]) -> None:
    """Let all plans of a context have these models, instead of those in the files. Unit tests and the linter do not.

    SQLMesh asks the selector for all models of a plan, and finds a version of each.
    """
    snapshots, selector = context._snapshots, context._new_selector
    _replace(context, _snapshots=lambda _=None: snapshots(models), _new_selector=lambda *_: selector(models))


def selector_of(context: Context, state: StateReader | None = None) -> NativeSelector:
    """A parser of SQLMesh's selection language. The context's own opens the state, which loading must not touch."""
    return NativeSelector(
        state,  # only `git:` selections and `select_models` read it
        models=context._models,
        context_path=context.path,
        dag=context.dag,
        default_catalog=context.default_catalog,
        dialect=context.default_dialect,
        cache_dir=context.cache_dir,
    )


def read_right_snapshots_from_cache() -> None:
    """Let this process read each snapshot from the state if SQLMesh's cache of files has another one in its place.

    The name of a cached file has only the letters, digits and underscores of the model's name. So two models with equal
    queries, `t."a-b"` and `t."a b"`, share a file, and SQLMesh reads one of them twice and the other never.
    """
    SnapshotCache.get_or_load = _get_or_load_right


_get_or_load = SnapshotCache.get_or_load


def _get_or_load_right(
    cache: SnapshotCache, ids: set[SnapshotId], loader: Callable[[set[SnapshotId]], Iterable[Snapshot]]
) -> tuple[dict[SnapshotId, Snapshot], set[SnapshotId]]:
    snapshots, cached = _get_or_load(cache, ids, loader)
    if confused := {id for id, snapshot in snapshots.items() if snapshot.snapshot_id != id}:
        snapshots |= {snapshot.snapshot_id: snapshot for snapshot in loader(confused)}
    return snapshots, cached - confused


def read_snapshots_without_cache() -> None:
    """Let this process read snapshots from the state only, and not from SQLMesh's cache of files.

    The cache contains the parsed queries of the models, and reading them takes most of the time in which SQLMesh reads
    an environment. From the state, SQLMesh parses a query when it is used. Pending intervals do not depend on queries:
    `read_nodes_from_cache` then reads the models that have some. Nothing public switches the cache off.
    """

    def read(
        _: SnapshotCache, ids: set[SnapshotId], loader: Callable[[set[SnapshotId]], Iterable[Snapshot]]
    ) -> tuple[dict[SnapshotId, Snapshot], set[SnapshotId]]:
        return {snapshot.snapshot_id: snapshot for snapshot in loader(ids)}, set()

    SnapshotCache.get_or_load = read


def read_nodes_from_cache(context: Context, snapshots: Iterable[Snapshot]) -> None:
    """Add the cache's optimized queries and rows of seeds to snapshots that were read without the cache.

    The state has no rows of seeds. What the cache does not have is added to it, as SQLMesh does.
    """
    by_id = {snapshot.snapshot_id: snapshot for snapshot in snapshots}
    without_intervals: dict[str, Any] = {"intervals": [], "dev_intervals": [], "pending_restatement_intervals": []}

    def loader(ids: set[SnapshotId]) -> list[Snapshot]:
        return [by_id[id].copy(update=without_intervals) for id in ids]

    cache = context.state_sync.state_sync.snapshot_state._snapshot_cache  # a context wraps its state in a cache
    for id, cached in _get_or_load_right(cache, set(by_id), loader)[0].items():
        by_id[id].node = cached.node


def remember_cron_ticks() -> None:
    """Let this process compute each tick of a cron once. SQLMesh computes it for each model: a quarter of an idle run.

    A tick depends on the cron, its time zone and the instant only.
    """

    def remembered(find: Callable[..., datetime]) -> Callable[..., datetime]:
        @lru_cache(maxsize=10_000)
        def found(cron: str, zone: Any, instant: datetime) -> datetime:
            return find(CroniterCache(cron, instant, zone))

        def tick(crons: CroniterCache, estimate: bool = False) -> datetime:
            if estimate:
                return find(crons, estimate)
            # In UTC: in one zone, Python takes the hour before the clock is set back and the hour after for equal.
            crons.curr = found(crons.cron, crons.tz, crons.curr.astimezone(timezone.utc))
            return crons.curr

        return tick

    CroniterCache.get_next, CroniterCache.get_prev = map(remembered, (CroniterCache.get_next, CroniterCache.get_prev))


def end_ranges_after_their_start() -> None:
    """Let this process find no missing interval in a range that begins after the last tick of a node's cron.

    SQLMesh ends such a range at that tick, before its start, and takes this for an interval to compute, which then
    fails. `sqlmesh run --start` and a restatement of a day of this week fail at each weekly model.
    """

    def in_order(unit: Any, intervals: Any, start: int, end: int, *args: Any) -> list[Interval]:
        return _missing_intervals(unit, intervals, start, end, *args) if start < end else []

    _replace(definition, compute_missing_intervals=in_order)


_missing_intervals = definition.compute_missing_intervals


def keep_bound_views() -> None:
    """Let this process treat a materialized view as a plain one if the engine adapter creates a plain one.

    On PostgreSQL, SQLMesh creates a plain view for `VIEW (materialized true)`. If it computes the model and the state
    has no intervals of it, as after `plan --skip-backfill` or in a restatement, it drops that view with CASCADE and
    creates it again. The view of the environment and all views that read it are gone. It does so because a materialized
    view of another engine is lost when its source is replaced. A view of PostgreSQL is bound to its source, and SQLMesh
    keeps plain views there for that reason.
    """

    def is_materialized_view(strategy: ViewStrategy, model: Model) -> bool:
        adapter = strategy.adapter
        is_plain = adapter.HAS_VIEW_BINDING and not adapter.SUPPORTS_MATERIALIZED_VIEWS
        return _is_materialized_view(strategy, model) and not is_plain

    ViewStrategy._is_materialized_view = is_materialized_view


_is_materialized_view = ViewStrategy._is_materialized_view


def raise_first_errors_of_migrations() -> None:
    """Let this process try to alter a table once if that is part of a transaction, and raise what the engine says.

    After an error, PostgreSQL refuses each further statement of the transaction. SQLMesh tries five times, for half a
    minute, and then drops a table, also in that transaction. So the error is "current transaction is aborted".
    """

    def migrate(evaluator: SnapshotEvaluator, **kwargs: Any) -> None:
        if not evaluator.get_adapter(kwargs["snapshot"].model.gateway).SUPPORTS_TRANSACTIONS:
            return _migrate_target_table(evaluator, **kwargs)
        try:
            _migrate_target_table.__wrapped__(evaluator, **kwargs)  # type: ignore[attr-defined]
        except Exception as error:  # noqa: BLE001  # any driver's
            raise first_of_transaction(error) from None

    SnapshotEvaluator._migrate_target_table = migrate


_migrate_target_table: Callable[..., None] = SnapshotEvaluator._migrate_target_table


def first_of_transaction(error: BaseException) -> BaseException:
    """The error after which PostgreSQL has refused the statement of this one, if it is known."""
    while type(error).__name__ == "InFailedSqlTransaction" and error.__context__ is not None:
        error = error.__context__
    return error


def require_existing_state(
    context: Context | type[Context], check: Callable[[StateSync], None] = lambda _: None
) -> None:
    """Let the context, or all contexts of this process, raise an error if the state cannot be reached.

    SQLMesh queries the state's version and reads every error as "no such table"; it then creates the state. If that
    fails because a DuckDB file is locked, and the file is free at the next moment, SQLMesh deletes the tables of the
    state, as if it had created them. `check` is called with the state before SQLMesh reads its version.
    """
    new_state_sync = context._new_state_sync

    def opened_state_sync(*owner: Context) -> StateSync:
        state_sync = new_state_sync(*owner)
        adapter = getattr(state_sync, "engine_adapter", None)
        if adapter is not None:
            adapter.fetchone(exp.select("1"))  # opens the connection, which then stays open
        check(state_sync)
        return state_sync

    _replace(context, _new_state_sync=opened_state_sync)


def tables_without_version(state_sync: StateSync) -> list[str]:
    """The tables with rows of a state that has no version, and SQLMesh's copies of them; empty if it has a version.

    SQLMesh reads no version as "no state". It would create one over these tables, fail, and delete them.
    """
    migrator = getattr(state_sync, "migrator", None)
    if migrator is None or state_sync.get_versions(validate=False).schema_version:
        return []
    tables = [exp.to_table(table) for table in (*migrator._state_tables, *migrator._optional_state_tables)]
    copies = [exp.table_(f"{table.name}_backup", db=table.args.get("db")) for table in tables]
    adapter, first_row = migrator.engine_adapter, exp.select("1").limit(1)
    existing = [table for table in (*tables, *copies) if adapter.table_exists(table)]
    return [
        table.sql()
        for table in existing
        if adapter.fetchone(first_row.from_(table), quote_identifiers=True) is not None
    ]


@contextmanager
def one_transaction(context: Context) -> Iterator[Any]:
    """Write into the state in one transaction, also into one in DuckDB.

    SQLMesh uses none in DuckDB: some of its methods read a result after they have committed, which DuckDB does not
    allow. Writing an environment has none of these methods. It creates and drops a table: DuckDB 1.0 could not open its
    file any more if it was killed after such a transaction.
    """
    state: Any = context.state_sync.state_sync  # a context wraps its state in a cache
    adapter = state.engine_adapter
    supported = adapter.SUPPORTS_TRANSACTIONS
    is_able = isinstance(adapter, DuckDBEngineAdapter) and not metadata.version("duckdb").startswith(("0.", "1.0."))
    adapter.SUPPORTS_TRANSACTIONS = supported or is_able
    try:
        with adapter.transaction():
            yield state
    finally:
        adapter.SUPPORTS_TRANSACTIONS = supported


def promote_in_one_transaction(context: Context) -> None:
    """Let SQLMesh write an environment into a state in DuckDB in one transaction, as it does in other databases.

    It deletes the environment and inserts it again. If the process is killed in between, there is no such environment
    any more.
    """
    state: Any = context.state_sync.state_sync
    promote = state.promote

    def promote_at_once(*args: Any, **kwargs: Any) -> Any:
        with one_transaction(context):
            return promote(*args, **kwargs)

    _replace(state, promote=promote_at_once)


def finalize_with_settings(
    context: Context, environment: Environment, statements: list[EnvironmentStatements] | None
) -> None:
    """Finish an environment, and write its statements and required packages, which it did not have before.

    SQLMesh writes them when it begins to change the environment, and then nobody knows those of before.
    """
    with one_transaction(context) as state:
        state.finalize(environment)  # it refuses if another plan has changed the environment
        state.environment_state.update_environment(environment)
        if statements is not None:
            state.environment_state.update_environment_statements(environment.name, environment.plan_id, statements)


def show_again(context: Context, now: Environment, before: Environment) -> None:
    """Write into the state that an environment shows what it showed before a plan that is unfinished, all at once.

    SQLMesh's way to unpause versions would mark those of the plan as unrestorable, so that the plan could not be
    applied again. It has marked the old versions, and has no way to undo this.

    Raises:
        ConflictingPlanError: Another plan has changed the environment.
    """
    old, new = ({info.snapshot_id for info in environment.snapshots} for environment in (before, now))
    with one_transaction(context) as state:
        stored = state.environment_state.get_environment(now.name, lock_for_update=True)
        if stored is None or stored.plan_id != now.plan_id:
            raise ConflictingPlanError(f"Another plan has changed environment {now.name}.")
        if not now.is_dev:
            state.snapshot_state._update_snapshots(new - old, unpaused_ts=None)
            state.snapshot_state._update_snapshots(old - new, unpaused_ts=now_timestamp(), unrestorable=False)
        state.environment_state.update_environment(before)


def end_as_before_an_unfinished_plan(context: Context) -> None:
    """Let a plan that finishes another compute each model as far as prod did before that one.

    SQLMesh asks for the versions that prod shows, which are the new ones. What the first attempt has not computed would
    be left out, and a model without any interval would be computed up to now, without its source.
    """
    state: Any = context.state_sync
    ends = state.max_interval_end_per_model

    def ends_of_finished(environment: str, models: set[str] | None = None, **_: bool) -> dict[str, int]:
        found: dict[str, int] = ends(environment, models, ensure_finalized_snapshots=True)
        return found

    _replace(state, max_interval_end_per_model=ends_of_finished)


def replace_apply(context: Context, apply: Callable[[Any, EvaluatablePlan, Callable[[], bool] | None], None]) -> None:
    """Let `Context.apply` call `apply` with SQLMesh's evaluator of plans. Nothing public comes between its stages."""

    def apply_with_evaluator(plan: Plan, circuit_breaker: Callable[[], bool] | None) -> None:
        apply(context._scheduler.create_plan_evaluator(context), plan.to_evaluatable(), circuit_breaker)

    _replace(context, _apply=apply_with_evaluator)


def forget_other_versions(context: Context, plan: Plan) -> None:
    """Let SQLMesh remove the intervals of a restatement of prod from the versions that prod does not show.

    Raises a ConflictingPlanError if prod shows another version than the plan has restated. SQLMesh has this as a stage
    of a plan, after its models are computed.
    """
    if plan.restate_all_snapshots:
        evaluator: Any = context._scheduler.create_plan_evaluator(context)
        evaluator.visit_restatement_stage(RestatementStage(plan.context_diff.snapshots_by_name), plan.to_evaluatable())


EvaluateStages = Callable[[Sequence[PlanStage], EvaluatablePlan], None]


def replace_stages(
    evaluator: Any, apply: Callable[[EvaluateStages, Sequence[PlanStage], EvaluatablePlan], None]
) -> None:
    """Let SQLMesh's evaluator of plans call `apply` with the stages of a plan, and with what evaluates some of them.

    SQLMesh builds all stages of a plan before the first one, with the intervals of that moment.
    """
    _replace(evaluator, _evaluate_stages=partial(apply, evaluator._evaluate_stages))


def check_before_stages(evaluator: Any, check: Callable[[], None]) -> None:
    """Let SQLMesh's evaluator of plans call `check` before each stage. It finds the method of a stage by its name."""

    def checked(visit: Callable[..., None]) -> Callable[..., None]:
        def check_and_visit(*args: Any, **kwargs: Any) -> None:
            check()
            visit(*args, **kwargs)

        return check_and_visit

    visits = {name: checked(getattr(evaluator, name)) for name in dir(evaluator) if name.startswith("visit_")}
    _replace(evaluator, **visits)


def replace_visits(evaluator: Any, **visits: Callable[[Any, EvaluatablePlan], None]) -> None:
    """Let SQLMesh's evaluator of plans call these methods, by name, with a stage and its plan.

    Nothing public says how far a plan has come with the environment.
    """
    _replace(evaluator, **visits)


def replace_scheduler_of_plan(evaluator: Any, create_scheduler: Callable[..., Scheduler]) -> None:
    """Let SQLMesh's evaluator of plans compute models with this scheduler: it passes what `create_scheduler` takes."""
    _replace(evaluator, create_scheduler=create_scheduler)


ComputedRanges = Mapping[tuple[str, str, bool], Sequence[ComputedRange]]
"""Computed ranges by the node's name, the table's version and whether it is a dev table."""


def computed_ranges(context: Context) -> ComputedRanges:
    """Every computed range that the state has.

    SQLMesh's own methods merge the ranges and lose the times. Ranges that an old SQLMesh recorded without a time are
    left out.
    """
    state = context.state_sync.state_sync.interval_state  # a context wraps its state in a cache
    of_table = ("name", "version", "dev_version", "is_dev")
    of_range = ("start_ts", "end_ts", "last_altered_ts", "is_compacted", "identifier")
    query = (
        exp.select(*of_table, *of_range)
        .from_(state.intervals_table)
        .where(exp.column("is_removed").not_())
        .where(exp.column("is_pending_restatement").not_())
        .where(exp.column("last_altered_ts").is_(exp.null()).not_())
    )
    ranges: dict[tuple[str, str, bool], list[ComputedRange]] = {}
    rows = state.engine_adapter.fetchall(query, quote_identifiers=True)
    for name, version, dev_version, is_dev, start, end, *others in rows:
        at, is_merged, identifier = others
        table = (name, dev_version if is_dev else version, bool(is_dev))
        ranges.setdefault(table, []).append(ComputedRange((start, end), at, bool(is_merged), identifier))
    return ranges


# -- running --------------------------------------------------------------------------------------


def replace_run(scheduler: Scheduler, replacement: Callable[..., Any]) -> None:
    """Replace the scheduler's `run`, which `Context.run` calls, and calls again if a plan has landed."""
    _replace(scheduler, run=replacement)


def replace_intervals(
    scheduler: Scheduler, merged_missing_intervals: Callable[..., Any], batch_intervals: Callable[..., Any]
) -> None:
    """Replace the scheduler's methods that find missing intervals and that batch the intervals of its models.

    Only between these two calls can intervals be held back: SQLMesh has found them and not yet batched them.
    """
    _replace(scheduler, merged_missing_intervals=merged_missing_intervals, batch_intervals=batch_intervals)


def leave_out_after_unready(
    scheduler: Scheduler,
    unready: dict[str, Set[Interval]],
    reads: Callable[[str], Iterable[str]],
    drops_rows: Callable[[str, Iterable[Interval]], bool],
) -> None:
    """Let the scheduler batch intervals once, and also leave out what is downstream of an interval that it leaves out.

    If an interval is not ready by a signal, SQLMesh leaves it out downstream too, and the later ones of each model that
    depends on its past. But it computes the models downstream of that one for these later intervals, from no rows, and
    records them as computed. It also computes models behind a view that has nothing to compute itself.

    Args:
        unready: The intervals that signals hold back are written there, by node.
        reads: The nodes that a node reads, by name, also through views.
        drops_rows: Whether a node, by name, would lose rows if only these intervals are computed. Then none is.
    """
    check = type(scheduler)._check_ready_intervals.__get__(scheduler)

    def check_ready_intervals(snapshot: Snapshot, intervals: list[Interval], *args: Any) -> list[Interval]:
        ready, unready[snapshot.name] = ready_by_signals(
            intervals,
            check(snapshot, intervals, *args),
            [unready.get(of, frozenset()) for of in reads(snapshot.name)],
            depends_on_past=lambda: snapshot.depends_on_past,
            drops_rows=partial(drops_rows, snapshot.name),
        )
        return ready

    _replace(scheduler, _check_ready_intervals=check_ready_intervals)


def ignore_signals(scheduler: Scheduler) -> None:
    """Let the scheduler batch all intervals, also those that signals do not report as ready."""
    _replace(scheduler, _check_ready_intervals=lambda _, intervals, *__: intervals)


def plan_only_what_is_computed(scheduler: Scheduler) -> None:
    """Let the scheduler build its graph of batches from the nodes that have batches, or a table to create.

    It asks every node upstream of them whether it depends on its past, which renders its query. A node without batches
    adds nothing to the graph: what is downstream of it finds the nodes upstream of it through its parents.
    """
    build = scheduler._dag

    def build_of_computed(
        batches: dict[Snapshot, Any], snapshot_dag: Iterable[SnapshotId], snapshots_to_create: set[SnapshotId]
    ) -> Any:
        computed = {snapshot.snapshot_id for snapshot, intervals in batches.items() if intervals} | snapshots_to_create
        ordered = [id for id in snapshot_dag if id in computed]
        return build(batches, snapshot_dag=ordered, snapshots_to_create=snapshots_to_create)

    _replace(scheduler, _dag=build_of_computed)


def limit_batches(scheduler: Scheduler, limits: Mapping[str, int]) -> None:
    """Let SQLMesh compute at most so many batches at once of the models with a tag, by tag.

    A thread puts a batch over a limit aside and takes another one. The batch is submitted again when one of a limited
    tag has ended. Nothing public comes between the graph of batches and the threads.
    """
    tags = {name: limits.keys() & snapshot.node.tags for name, snapshot in scheduler.snapshots_by_name.items()}
    running: Counter[str] = Counter()
    put_aside: list[tuple[Any, Any]] = []
    lock = Lock()

    def process_node(executor: ConcurrentDAGExecutor[Any], node: Any, threads: Executor) -> None:
        limited = tags[node.snapshot_name] if isinstance(node, EvaluateNode) else ()
        with lock:
            if any(running[tag] >= limits[tag] for tag in limited):
                put_aside.append((node, threads))
                return
            running.update(limited)
        _process_node(executor, node, threads)
        with lock:
            running.subtract(limited)
            again = [put_aside.pop(0) for _ in range(len(put_aside) if limited else 0)]
        for node, threads in again:
            threads.submit(executor._process_node, node, threads)

    if limits:
        ConcurrentDAGExecutor._process_node = process_node


_process_node = ConcurrentDAGExecutor._process_node


def watch_evaluations(scheduler: Scheduler, before: Callable[[Snapshot, TimeLike, TimeLike], None]) -> None:
    """Call `before` with the node, start and end of each batch, in the thread that then computes it.

    Audits alone are no batches.
    """
    evaluate = scheduler.evaluate

    def evaluate_after(snapshot: Snapshot, *args: Any, start: TimeLike, end: TimeLike, **kwargs: Any) -> Any:
        before(snapshot, start, end)
        return evaluate(snapshot, *args, start=start, end=end, **kwargs)

    _replace(scheduler, evaluate=evaluate_after)


def replace_audits(
    evaluator: SnapshotEvaluator,
    audit_all: Callable[[Callable[..., Any]], Callable[..., Any]],
    audit_one: Callable[[Callable[..., Any]], Callable[..., Any]],
) -> None:
    """Wrap the evaluation of all audits of a node, and of each single audit.

    SQLMesh returns the results of a node's audits together, and only if none has raised. An evaluator is wrapped once:
    if SQLMesh starts over, it passes the same evaluator again.

    Args:
        audit_all: Receives SQLMesh's `audit`, returns its replacement.
        audit_one: Receives SQLMesh's `_audit`, returns its replacement.
    """
    if getattr(evaluator, "_is_watched_by_dg_sqlmesh", False):
        return
    evaluator._is_watched_by_dg_sqlmesh = True
    _replace(evaluator, audit=audit_all(evaluator.audit), _audit=audit_one(evaluator._audit))


def open_connections(adapter: EngineAdapter) -> list[Any]:
    """Every open cursor and connection of every thread, each once. SQLMesh itself cannot cancel queries."""
    pool = vars(adapter._connection_pool)
    single = [pool.get("_cursor"), pool.get("_connection")]
    of_threads = [*pool.get("_thread_cursors", {}).values(), *pool.get("_thread_connections", {}).values()]
    return list({id(handle): handle for handle in [*single, *of_threads] if handle is not None}.values())


class Forgotten(NamedTuple):
    """What the state loses of the intervals of a model's table.

    Attributes:
        intervals: They are computed. Those of a production table are marked as pending.
        is_dev: Whether it is the dev table.
        begun: Intervals of a production table to mark that are not computed. SQLMesh clears the marks of a batch when
            it records the batch.
    """

    snapshot: Snapshot
    intervals: Sequence[Interval]
    is_dev: bool
    begun: Sequence[Interval] = ()


def forget_intervals(state_sync: StateSync, of_models: Iterable[Forgotten]) -> None:
    """Remove computed intervals of tables from the state, and mark those of production tables as pending.

    `StateSync.remove_intervals` does not remove intervals of dev tables, and only one range of a table. SQLMesh has no
    mark for dev tables. One transaction writes everything, so a killed process leaves no half of it: if only an
    upstream model had forgotten an interval, the next run would not compute it again in downstream models.
    """
    of_models = [of_model for of_model in of_models if of_model.intervals or of_model.begun]
    if not of_models:
        return
    import pandas as pd  # SQLMesh too imports it only when it writes intervals

    state = state_sync.state_sync.interval_state  # a context wraps its state in a cache
    sharing = _tables_with_intervals(state, [of_model.snapshot for of_model in of_models if of_model.intervals])
    rows: list[Any] = []
    for snapshot, intervals, is_dev, begun in of_models:
        # Each version of the model's code that shares the table has its own rows, and the table has their union.
        # Forward-only versions share the production table, and each has a dev table.
        tables = sharing[snapshot.name, snapshot.version]
        removed = [table for table in tables if not is_dev or table.dev_version == snapshot.dev_version]
        marked = [*(() if is_dev else intervals), *begun]
        rows += [
            *(_interval_to_df(table, *of, is_dev=is_dev, is_removed=True) for table in removed for of in intervals),
            *(_interval_to_df(snapshot, *interval, is_pending_restatement=True) for interval in marked),
        ]
    if rows:
        state.engine_adapter.insert_append(
            state.intervals_table,
            pd.DataFrame(rows),
            target_columns_to_types=state._interval_columns_to_types,
            track_rows_processed=False,
        )


def _tables_with_intervals(
    state: Any, snapshots: Collection[Snapshot]
) -> dict[tuple[str, str | None], list[SnapshotIntervals]]:
    """The versions with intervals in the state that share the table of each model, by its name and version."""
    columns = ("name", "identifier", "version", "dev_version")
    query = exp.select(*columns).distinct().from_(state.intervals_table)
    query = query.where(exp.column("is_pending_restatement").not_())  # a mark has no rows to remove
    found = defaultdict(list)
    batches = snapshot_name_version_filter(state.engine_adapter, snapshots, state.SNAPSHOT_BATCH_SIZE, alias=None)
    for batch in batches if snapshots else ():
        for row in state.engine_adapter.fetchall(query.where(batch), quote_identifiers=True):
            table = SnapshotIntervals(**dict(zip(columns, row)))
            found[table.name, table.version].append(table)
    return found


def query_jobs(adapter: EngineAdapter) -> list[Any]:
    """The last query of each thread on BigQuery, whose connections cannot cancel one. Empty on other engines."""
    return [job for job in adapter._connection_pool.get_all_attributes("query_job") if job is not None]


def new_connection(adapter: EngineAdapter) -> Any:
    """One more connection, which the adapter does not use. A query is cancelled through it while others wait."""
    pool: Any = adapter._connection_pool
    return pool._connection_factory()


# -- cleaning up ----------------------------------------------------------------------------------


def check_before_cascading(check: Callable[[EngineAdapter, exp.Table], None]) -> None:
    """Let this process call `check` before PostgreSQL drops a table, view or schema with everything that reads it."""

    def check_and_drop(
        adapter: PostgresEngineAdapter, name: Any, *args: Any, cascade: bool = False, **kwargs: Any
    ) -> None:
        if cascade:
            check(adapter, exp.to_table(name))
        _drop_object(adapter, name, *args, cascade=cascade, **kwargs)

    PostgresEngineAdapter._drop_object = check_and_drop


_drop_object = PostgresEngineAdapter._drop_object


def load_materializations(context: Context) -> None:
    """Load the project's custom materializations, without its models.

    SQLMesh needs them to delete the tables of models that have one. Its janitor does not load them, as a run does.
    """
    context._load_materializations()


def stored_names(context: Context, versions: Iterable[SnapshotIdLike]) -> set[str]:
    """The names of the models whose version the state still has.

    `StateReader.snapshots_exist` names each version in its queries. For 10,000, SQLMesh makes and parses 10,000 terms.
    """
    state = context.state_sync.state_sync  # a context wraps its state in a cache
    query = exp.select("name", "identifier").from_(state.snapshot_state.snapshots_table)
    stored = set(map(tuple, state.engine_adapter.fetchall(query, quote_identifiers=True)))
    return {version.name for version in versions if (version.name, version.snapshot_id.identifier) in stored}


def count_snapshots_and_interval_rows(context: Context) -> tuple[int, int]:
    """The rows of two tables of the state. SQLMesh's janitor does not report the rows that it deletes."""
    state = context.state_sync.state_sync  # a context wraps its state in a cache
    tables = (state.snapshot_state.snapshots_table, state.interval_state.intervals_table)
    count = exp.select(exp.Count(this=exp.Star()))
    queries = (count.from_(table) for table in tables)
    snapshots, intervals = (state.engine_adapter.fetchone(query, quote_identifiers=True)[0] for query in queries)
    return int(snapshots), int(intervals)


def forget_tables(
    context: Context, tasks: list[SnapshotTableCleanupTask], deleted: Collection[SnapshotId] = ()
) -> None:
    """Delete the recorded intervals of tables before they are dropped. `StateSync.delete_snapshots` leaves them behind.

    SQLMesh's own clean-up first merges the intervals of all models. That would lose when others were computed.

    Args:
        tasks: The tables to drop.
        deleted: The versions of models to delete, also those whose table stays for others.
    """
    state = context.state_sync.state_sync.interval_state  # a context wraps its state in a cache
    state._delete_intervals_by_version(tasks)
    # A table of a preview may be recorded with another version of the model than its own.
    state._delete_intervals_by_dev_version([task.copy(update={"dev_table_only": True}) for task in tasks])
    state._update_intervals_for_deleted_snapshots(deleted)


def forget_before_dropping(
    context: Context, change: Callable[[SnapshotTableCleanupTask], SnapshotTableCleanupTask]
) -> None:
    """Let SQLMesh's janitor forget the intervals of a table before it drops it.

    It drops the tables of many versions first. If it is then interrupted, or one table cannot be dropped, the state has
    the intervals of tables that are gone: a plan that goes back to such a version promotes it empty. Nothing public
    comes between.

    Args:
        change: What to drop in place of a task of SQLMesh. Only that is forgotten.
    """
    evaluator = context.snapshot_evaluator
    drop = evaluator.cleanup

    def forget_and_drop(target_snapshots: Iterable[SnapshotTableCleanupTask], *args: Any, **kwargs: Any) -> None:
        tasks = list(map(change, target_snapshots))
        forget_tables(context, tasks)
        drop(tasks, *args, **kwargs)

    _replace(evaluator, cleanup=forget_and_drop)
