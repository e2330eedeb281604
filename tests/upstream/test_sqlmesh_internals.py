"""The internals of SQLMesh that `worker/sqlmesh_internals.py` uses: one test for each function."""

import inspect
import random
import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from datetime import datetime, timedelta, timezone
from itertools import pairwise
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import duckdb
import pytest
from harness import at_night, duckdb_file_in_use
from postgres import Server, postgres_server
from sqlglot import exp
from sqlmesh import CustomMaterialization
from sqlmesh.core import constants
from sqlmesh.core.analytics.collector import AnalyticsCollector, User
from sqlmesh.core.analytics.dispatcher import NoopEventDispatcher
from sqlmesh.core.context import Context
from sqlmesh.core.dialect import parse, schema_
from sqlmesh.core.engine_adapter.bigquery import BigQueryEngineAdapter
from sqlmesh.core.engine_adapter.postgres import PostgresEngineAdapter
from sqlmesh.core.environment import EnvironmentNamingInfo
from sqlmesh.core.loader import LoadedProject
from sqlmesh.core.model import load_sql_based_model
from sqlmesh.core.plan import EvaluatablePlan
from sqlmesh.core.plan.stages import (
    BackfillStage,
    EnvironmentRecordUpdateStage,
    MigrateSchemasStage,
    PlanStage,
    build_plan_stages,
)
from sqlmesh.core.scheduler import EvaluateNode
from sqlmesh.core.snapshot import (
    DeployabilityIndex,
    Snapshot,
    SnapshotId,
    SnapshotIntervals,
    definition,
    missing_intervals,
    snapshots_to_dag,
)
from sqlmesh.core.snapshot.cache import SnapshotCache
from sqlmesh.core.snapshot.evaluator import SnapshotEvaluator, ViewStrategy
from sqlmesh.core.state_sync.db.snapshot import SnapshotState
from sqlmesh.utils import CompletionStatus
from sqlmesh.utils.concurrency import ConcurrentDAGExecutor, NodeExecutionFailedError, concurrent_apply_to_dag
from sqlmesh.utils.cron import CroniterCache
from sqlmesh.utils.dag import DAG
from sqlmesh.utils.date import to_timestamp
from sqlmesh.utils.errors import PlanError, SQLMeshError
from upstream.promoted import Contexts, shown, stored

from dg_sqlmesh_component.capabilities.plans.worker.stored_snapshots import StoredSnapshots
from dg_sqlmesh_component.worker import sqlmesh_internals as internals

CONFIG = """
gateways:
  local:
    connection: {{type: duckdb, database: {database}}}
default_gateway: local
model_defaults: {{dialect: duckdb, start: '2026-01-01'}}
disable_anonymized_analytics: true
"""
FILES = {
    "models/orders.sql": "MODEL (name shop.orders, kind INCREMENTAL_BY_TIME_RANGE (time_column day), cron '@daily', "
    "tags (finance), audits (not_null(columns := (id)), positive)); "
    "SELECT 1 AS id, @start_ds::DATE AS day",
    "models/revenue.sql": "MODEL (name shop.revenue, kind FULL); SELECT count(*) AS n FROM shop.orders",
    "audits/positive.sql": "AUDIT (name positive); SELECT * FROM @this_model WHERE id < 0",
    "audits/alone.sql": "AUDIT (name alone, standalone true); SELECT * FROM shop.orders WHERE id < 0",
}
NOW = "2026-01-05 00:00:00"
DAY = 86_400_000


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A planned project. SQLMesh must not fork in a process that has threads."""
    monkeypatch.setattr(constants, "MAX_FORK_WORKERS", 1)
    for name, text in {"config.yaml": CONFIG.format(database=tmp_path / "db.db"), **FILES}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


Open = Callable[..., Context]


@pytest.fixture
def opened(folder: Path) -> Iterator[Open]:
    contexts = Contexts(folder)
    yield contexts.open
    contexts.close()


@pytest.fixture
def planned(opened: Open) -> Open:
    context = opened(load=True)
    context.plan(auto_apply=True, no_prompts=True, skip_tests=True, skip_backfill=True)
    context.close()
    return opened


def test_model_and_audit_have_their_file_path(opened: Open, folder: Path) -> None:
    context = opened(load=True)
    files = {model.name: internals.file_of(model) for model in context.models.values()}
    assert files == {f"shop.{name}": folder / "models" / f"{name}.sql" for name in ("orders", "revenue")}
    assert internals.file_of(context.standalone_audits["alone"]) == folder / "audits" / "alone.sql"


def test_load_method_of_each_loader_can_be_wrapped(opened: Open) -> None:
    loaded: list[LoadedProject] = []
    context = opened()
    internals.watch_loaders(context, loaded.append)
    context.load()
    assert [set(project.models) for project in loaded] == [set(context.models)]
    assert set(loaded[0].standalone_audits) == {"alone"}


def test_selector_works_on_a_loaded_project_without_state(opened: Open, folder: Path) -> None:
    context = opened(load=True)
    chosen = internals.selector_of(context).expand_model_selections(["tag:finance+"])
    assert {context.models[fqn].name for fqn in chosen} == {"shop.orders", "shop.revenue"}
    assert not (folder / "db.db").exists()


class Watched(Context):
    """A context that passes its scheduler and evaluator to `watch`, like the worker's context."""

    watch: Callable[[Any, Any], None]

    def create_scheduler(self, snapshots: Any, snapshot_evaluator: Any) -> Any:
        scheduler = super().create_scheduler(snapshots, snapshot_evaluator)
        self.watch(scheduler, snapshot_evaluator)
        return scheduler


def run(open_: Open, watch: Callable[[Any, Any], None]) -> CompletionStatus:
    context = open_(type_=Watched)
    assert isinstance(context, Watched)
    context.watch = watch
    return context.run("prod", execution_time=NOW, skip_janitor=True)


def test_run_calls_the_run_method_of_the_created_scheduler(planned: Open) -> None:
    selected: list[Any] = []

    def watch(scheduler: Any, _: Any) -> None:
        original = scheduler.run

        def replacement(*args: Any, **kwargs: Any) -> Any:
            selected.append(kwargs["selected_snapshots"])
            return original(*args, **kwargs)

        internals.replace_run(scheduler, replacement)

    assert run(planned, watch).is_success
    assert selected == [None]


def test_run_requests_missing_intervals_then_batches_and_computes_them(planned: Open) -> None:
    requests: list[str] = []
    finished: list[str] = []

    def watch(scheduler: Any, _: Any) -> None:
        find, batch = scheduler.merged_missing_intervals, scheduler.batch_intervals

        def missing(*args: Any, **kwargs: Any) -> Any:
            requests.append("missing")
            return find(*args, **kwargs)

        def batches(intervals: Any, *args: Any, **kwargs: Any) -> Any:
            requests.append("batches")
            of_orders = {snapshot: missing for snapshot, missing in intervals.items() if "orders" in snapshot.name}
            finished.extend(snapshot.name for snapshot in of_orders)
            return batch(of_orders, *args, **kwargs)

        internals.replace_intervals(scheduler, missing, batches)

    assert run(planned, watch).is_success
    assert requests == ["missing", "batches"]
    context = planned()
    computed = {node.name for node in stored(context).values() if node.is_model and node.intervals}
    assert computed == set(finished), "intervals removed before batching are not computed"


def test_batch_over_limit_of_its_tag_is_put_aside_until_later(planned: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ConcurrentDAGExecutor, "_process_node", ConcurrentDAGExecutor._process_node)  # and set it back
    scheduler = planned(load=True).scheduler(environment="prod")
    internals.limit_batches(scheduler, {"finance": 1})
    limited, other = [name for part in ("orders", "revenue") for name in scheduler.snapshots_by_name if part in name]
    first, failing, *last = [EvaluateNode(limited, (i, i + 1), i) for i in range(6)]
    others = [EvaluateNode(other, (i, i + 1), i) for i in range(6)]
    skipped = EvaluateNode(other, (6, 7), 6)
    is_at_work, others_are_done = threading.Lock(), threading.Event()
    computed = []

    def compute(node: Any) -> None:
        computed.append(node)
        if node.snapshot_name == limited:
            assert is_at_work.acquire(blocking=False), "two at once"
            assert others_are_done.wait(20), "no thread is left for the others"
            is_at_work.release()
        elif node == others[-1]:
            others_are_done.set()
        assert node != failing

    chain = {node: {before} for before, node in pairwise(others)}
    dag = DAG({**{node: set() for node in (first, failing, *last, others[0])}, **chain, skipped: {failing}})
    errors, left_out = concurrent_apply_to_dag(dag, compute, 2, raise_on_error=False)
    assert ([error.node for error in errors], left_out) == ([failing], [skipped])
    assert sorted(computed) == sorted([first, failing, *last, *others])


def test_run_evaluates_each_batch_and_audit_stage_evaluates_none(planned: Open) -> None:
    evaluated: list[str] = []

    def watch(scheduler: Any, _: Any) -> None:
        internals.watch_evaluations(
            scheduler, lambda snapshot, *_: evaluated.append(snapshot.name.strip('"').split('"')[-1])
        )

    assert run(planned, watch).is_success
    assert sorted(evaluated) == ["alone", "orders", "revenue"]
    evaluated.clear()
    context = planned()
    scheduler = context.scheduler(environment="prod")
    watch(scheduler, None)
    assert scheduler.audit("prod", "2026-01-01", NOW).is_success
    assert evaluated == []


def test_run_evaluates_audits_with_two_methods_that_can_be_wrapped(planned: Open) -> None:
    calls: list[tuple[str, str]] = []

    def wrapped(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        def wrap(method: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                result = method(*args, **kwargs)
                calls.append((name, result.audit.name if name == "single audit" else ""))
                if name == "single audit":
                    assert {"snapshot", "start", "end", "deployability_index"} <= kwargs.keys()
                return result

            return call

        return wrap

    def watch(_: Any, evaluator: Any) -> None:
        for _ in range(2):  # the second call changes nothing
            internals.replace_audits(evaluator, wrapped("all audits"), wrapped("single audit"))

    assert run(planned, watch).is_success
    of_orders = [("single audit", "not_null"), ("single audit", "positive"), ("all audits", "")]
    assert [call for call in calls if call != ("single audit", "alone")][:3] == of_orders


def test_connection_pool_has_the_connections_of_all_threads(planned: Open) -> None:
    context = planned()
    adapter = context.engine_adapter
    adapter.fetchone("SELECT 1")
    of_this_thread = internals.open_connections(adapter)
    assert any(hasattr(handle, "interrupt") for handle in of_this_thread), "DuckDB's connections can be interrupted"

    def in_thread() -> list[Any]:
        adapter.fetchone("SELECT 1")
        return internals.open_connections(adapter)

    with ThreadPoolExecutor(1) as pool:
        of_all_threads = pool.submit(in_thread).result()
    assert {*map(id, of_this_thread)} <= {*map(id, of_all_threads)}


def test_connection_pool_opens_another_connection_and_has_the_last_query_of_each_thread(planned: Open) -> None:
    adapter = planned().engine_adapter
    adapter.fetchone("SELECT 1")
    another = internals.new_connection(adapter)
    assert another.cursor().execute("SELECT 2").fetchone() == (2,)
    assert id(another) not in {id(handle) for handle in internals.open_connections(adapter)}
    assert internals.query_jobs(adapter) == []
    BigQueryEngineAdapter._query_job.fset(adapter, "a job")
    assert internals.query_jobs(adapter) == ["a job"]


def test_cache_ignores_punctuation_of_names(opened: Open, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SnapshotCache, "get_or_load", SnapshotCache.get_or_load)  # restored after the test
    for name in ("a-b", "a b"):
        (folder / f"models/{name}.sql").write_text(f'MODEL (name shop."{name}", kind FULL); SELECT 1 AS id')
    opened(load=True).plan(auto_apply=True, no_prompts=True, execution_time=NOW)

    def read() -> set[tuple[str, str]]:
        context = opened()
        snapshots = stored(context)
        assert all(snapshot.intervals for snapshot in snapshots.values() if snapshot.is_model)
        return {
            (id.name, snapshot.name)
            for id, snapshot in snapshots.items()
            if "a" + "b" in id.name.replace("-", "").replace(" ", "")
        }

    assert len({name for _, name in read()}) == 1, "SQLMesh reads the right ones now: remove the function"
    internals.read_right_snapshots_from_cache()
    assert read() == {(name, name) for name in ('"db"."shop"."a-b"', '"db"."shop"."a b"')}


def test_snapshots_are_read_from_the_state_without_the_cache_and_with_their_intervals(
    opened: Open, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SnapshotCache, "get_or_load", SnapshotCache.get_or_load)  # restored after the test
    opened(load=True).plan(auto_apply=True, no_prompts=True, execution_time=NOW)

    def pending() -> dict[str, Any]:
        context = opened()
        snapshots = stored(context)
        assert all(snapshot.intervals for snapshot in snapshots.values() if snapshot.is_model)
        found = missing_intervals(snapshots.values(), execution_time="2026-01-07 00:00:00")
        return {snapshot.name: intervals for snapshot, intervals in found.items()}

    with_cache = pending()
    assert len(with_cache) == 3
    files = list((folder / ".cache" / "snapshot").iterdir())
    assert len(files) == 3
    for path in files:
        path.write_bytes(b"not read")
    internals.read_snapshots_without_cache()
    assert pending() == with_cache
    assert {path.read_bytes() for path in files} == {b"not read"}


@pytest.mark.parametrize(("is_guarded", "tables_left"), [(False, 0), (True, 6)])
def test_plain_sqlmesh_deletes_a_state_whose_file_becomes_free_while_it_gives_up(
    planned: Open, folder: Path, is_guarded: bool, tables_left: int
) -> None:
    """`dg_sqlmesh` guards every context of its process, and a worker its own. tests/harness.py waits for the file.

    Plain SQLMesh starts to create a state that exists. If this changes, `require_existing_state` can go.
    """
    with ExitStack() as in_use:
        in_use.enter_context(duckdb_file_in_use(folder / "db.db"))
        context = planned()
        if is_guarded:
            internals.require_existing_state(context)
        new_state_sync = context._new_state_sync

        def watched() -> Any:
            state_sync = new_state_sync()
            drop_table = state_sync.engine_adapter.drop_table

            def drop_when_free(*arguments: Any, **options: Any) -> None:
                in_use.close()
                drop_table(*arguments, **options)

            state_sync.engine_adapter.drop_table = drop_when_free
            return state_sync

        context._new_state_sync = watched
        with pytest.raises(duckdb.IOException if is_guarded else SQLMeshError):
            _ = context.state_sync
    context.close()
    with duckdb.connect(str(folder / "db.db")) as connection:
        tables = "SELECT count(*) FROM information_schema.tables WHERE table_schema = 'sqlmesh'"
        assert connection.sql(tables).fetchall() == [(tables_left,)]


def test_state_has_the_time_at_which_each_range_was_computed(planned: Open) -> None:
    context = planned()
    context.run("prod", execution_time=NOW, skip_janitor=True)
    context.run("prod", execution_time="2026-01-06 00:00:00", skip_janitor=True)
    orders = orders_of(context)
    table = (orders.name, orders.version, False)
    ranges = internals.computed_ranges(context)[table]
    assert [(end - start) // DAY for start, end in (found.interval for found in ranges)] == [4, 1]
    first, second = (found.at for found in ranges)
    assert first < second
    assert not any(found.is_merged for found in ranges)
    assert {found.identifier for found in ranges} == {orders.identifier}

    context.state_sync.compact_intervals()  # as the janitor does: the time of the last computation is kept
    (merged,) = internals.computed_ranges(context)[table]
    assert merged.is_merged
    assert merged.identifier == orders.identifier
    assert (merged.interval[0], merged.interval[1], merged.at) == (ranges[0].interval[0], ranges[1].interval[1], second)


@pytest.mark.parametrize("is_in_transaction", [False, True])
def test_environment_is_replaced_in_duckdb_by_two_statements_or_in_one_transaction(
    planned: Open, monkeypatch: pytest.MonkeyPatch, is_in_transaction: bool
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("between the statements")

    context = planned(load=True)
    if is_in_transaction:
        internals.promote_in_one_transaction(context)
    prod = shown(context)
    following = prod.copy(update={"previous_plan_id": prod.plan_id, "plan_id": "following"})
    with monkeypatch.context() as patched:
        patched.setattr(context.state_sync.state_sync.engine_adapter, "insert_append", fail)
        with pytest.raises(OSError, match="between the statements"):
            context.state_sync.promote(following)
    assert (context.state_sync.get_environment("prod") is not None) == is_in_transaction
    if is_in_transaction:
        context.state_sync.promote(following)
        assert shown(context).plan_id == "following"


KILLED = """
import os, signal, sys
import duckdb
connection = duckdb.connect(sys.argv[1])
connection.execute("BEGIN; DELETE FROM shown; CREATE TABLE temp_table AS SELECT 2 AS n")
connection.execute("INSERT INTO shown SELECT n FROM temp_table; DROP TABLE temp_table; COMMIT")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_duckdb_opens_its_file_after_a_kill_behind_a_transaction_that_creates_and_drops_a_table(tmp_path: Path) -> None:
    """`promote_in_one_transaction`. DuckDB 1.0 fails while it replays its log."""
    file = tmp_path / "killed.duckdb"
    with duckdb.connect(str(file)) as connection:
        connection.execute("CREATE TABLE shown AS SELECT 1 AS n")
    done = subprocess.run([sys.executable, "-c", KILLED, file], check=False)
    assert done.returncode == -signal.SIGKILL
    with duckdb.connect(str(file)) as connection:
        assert connection.execute("SELECT n FROM shown").fetchall() == [(2,)]


def test_forgotten_intervals_are_missing_until_sqlmesh_records_them(planned: Open) -> None:
    context = planned()
    context.run("prod", execution_time=NOW, skip_janitor=True)
    orders = orders_of(context)
    start, end = orders.intervals[0]
    forgotten = [(start, start + DAY), (start + 2 * DAY, start + 3 * DAY)]
    # Another version of the code with the same table has computed the range too. Each has a dev table of its own.
    other = {"name": orders.name, "identifier": "other", "version": orders.version, "dev_version": "other"}
    computed = {"intervals": [(start, end)], "dev_intervals": [(start, end)]}
    context.state_sync.add_snapshots_intervals([SnapshotIntervals(**other, **computed)])
    context.state_sync.add_interval(orders, start, end, is_dev=True)

    internals.forget_intervals(context.state_sync, [internals.Forgotten(orders, forgotten, is_dev=False)])
    for _ in range(2):
        orders = orders_of(context)
        assert orders.intervals == [(start + DAY, start + 2 * DAY), (start + 3 * DAY, end)]
        assert orders.pending_restatement_intervals == forgotten
        assert orders.dev_intervals == [(start, end)]
        context.state_sync.compact_intervals()  # as the janitor does

    internals.forget_intervals(context.state_sync, [internals.Forgotten(orders, forgotten, is_dev=True)])
    assert orders_of(context).dev_intervals == [(start + DAY, start + 2 * DAY), (start + 3 * DAY, end)]
    other_version = orders.copy(update={"dev_version_": "other"})
    context.state_sync.refresh_snapshot_intervals([other_version])
    assert other_version.dev_intervals == [(start, end)], "it has a dev table of its own"

    context.run("prod", execution_time=NOW, skip_janitor=True)
    assert orders_of(context).intervals == [(start, end)]
    assert orders_of(context).pending_restatement_intervals == []


def test_begun_intervals_are_marked_until_sqlmesh_records_them(planned: Open) -> None:
    context = planned()
    context.run("prod", execution_time=NOW, skip_janitor=True)
    computed = orders_of(context).intervals
    end = computed[-1][1]
    begun = [(end, end + 2 * DAY)]
    internals.forget_intervals(
        context.state_sync, [internals.Forgotten(orders_of(context), (), is_dev=False, begun=begun)]
    )
    for _ in range(2):
        assert orders_of(context).intervals == computed
        assert orders_of(context).pending_restatement_intervals == begun
        context.state_sync.compact_intervals()  # as the janitor does
    context.state_sync.add_interval(orders_of(context), end, end + DAY)
    assert orders_of(context).pending_restatement_intervals == [(end + DAY, end + 2 * DAY)]


def orders_of(context: Context) -> Snapshot:
    (orders,) = (snapshot for snapshot in stored(context).values() if snapshot.name.endswith('"orders"'))
    context.state_sync.refresh_snapshot_intervals([orders])
    return orders


def test_the_state_names_the_versions_that_it_has(planned: Open) -> None:
    context = planned()
    first, *others = promoted = shown(context).snapshots
    lost = first.copy(update={"fingerprint": first.fingerprint.copy(update={"data_hash": "other"})})
    assert internals.stored_names(context, promoted) == {info.name for info in promoted}
    assert internals.stored_names(context, [lost, *others]) == {info.name for info in others}


def test_of_what_the_state_changes_of_a_snapshot_only_restatements_and_intervals_decide_what_is_missing(
    planned: Open,
) -> None:
    """ADR-0049: a tick keeps all else. For its own cached snapshots, SQLMesh reads again what the state changes."""
    read_again = set(re.findall(r"snapshot\.(\w+) = ", inspect.getsource(SnapshotState._get_snapshots)))
    others: dict[str, Any] = {"updated_ts": 1, "unpaused_ts": None, "unrestorable": True, "forward_only": True}
    assert read_again == {"next_auto_restatement_ts", *others}
    snapshots = stored(planned()).values()
    missing = missing_intervals(snapshots, execution_time=NOW)
    assert missing
    changed = [snapshot.copy(update=others) for snapshot in snapshots]
    assert missing_intervals(changed, execution_time=NOW) == missing


def test_snapshots_that_a_plan_has_read_have_the_intervals_of_each_later_moment(planned: Open) -> None:
    """`StoredSnapshots`. SQLMesh adds marks and times to a snapshot whose intervals it reads again."""
    context = planned()
    infos = shown(context).snapshots
    plans = []

    def parts(snapshots: Iterable[Snapshot]) -> dict[SnapshotId, tuple[Any, ...]]:
        names = "fingerprint", "version", "dev_version", "intervals", "dev_intervals", "last_altered_ts"
        more = "dev_last_altered_ts", "pending_restatement_intervals"
        return {one.snapshot_id: tuple(getattr(one, name) for name in (*names, *more)) for one in snapshots}

    seen = []
    for change in (
        lambda: None,
        lambda: context.run("prod", execution_time=NOW, skip_janitor=True),
        lambda: internals.forget_intervals(
            context.state_sync, [internals.Forgotten(orders_of(context), orders_of(context).intervals, is_dev=False)]
        ),
        context.state_sync.compact_intervals,
        lambda: context.run("prod", execution_time="2026-01-06 00:00:00", skip_janitor=True),
    ):
        change()
        context.state_sync.snapshot_cache.clear()
        now = parts(context.state_reader.get_snapshots(infos).values())
        plans.append(StoredSnapshots(lambda: context.state_reader))
        for plan in plans:
            assert parts(plan.now(infos).values()) == now
            assert parts(plan.get_snapshots(infos).values()) == now
        seen.append(now)
    assert len({repr(sorted(now.items())) for now in seen}) >= 4, "the changes are seen"
    [first, *_] = plan.get_snapshots(infos).values()
    assert parts(plan.now([], [first]).values()) == {first.snapshot_id: now[first.snapshot_id]}, "not in the state yet"


def test_state_has_tables_of_snapshots_and_intervals(planned: Open) -> None:
    context = planned()
    snapshots, rows_after_plan = internals.count_snapshots_and_interval_rows(context)
    assert snapshots == 3, "two models and a standalone audit"
    context.run("prod", execution_time=NOW, skip_janitor=True)
    _, rows_after_run = internals.count_snapshots_and_interval_rows(context)
    assert rows_after_run > rows_after_plan


MATERIALIZATION = """
from sqlmesh import CustomMaterialization


class Loaded(CustomMaterialization):
    NAME = "loaded_without_models"
"""


def test_materializations_are_loaded_without_models(planned: Open, folder: Path) -> None:
    (folder / "materializations").mkdir()
    (folder / "materializations" / "loaded.py").write_text(MATERIALIZATION)
    context = planned()
    internals.load_materializations(context)
    assert "loaded_without_models" in {getattr(found, "NAME", None) for found in CustomMaterialization.__subclasses__()}
    assert not context.models


def test_janitor_cannot_delete_the_table_of_a_removed_model_in_dev_only_mode(opened: Open, folder: Path) -> None:
    """If SQLMesh learns to, `_without_own_table` of the worker's janitor can go."""
    more = "virtual_environment_mode: dev_only\nsnapshot_ttl: in 0 seconds\n"
    (folder / "config.yaml").write_text((folder / "config.yaml").read_text() + more)
    first = opened(load=True)
    first.plan(auto_apply=True, no_prompts=True, skip_tests=True)
    first.close()
    (folder / "models" / "revenue.sql").unlink()
    context = opened(load=True)
    context.plan(auto_apply=True, no_prompts=True, skip_tests=True)
    with pytest.raises((SQLMeshError, NodeExecutionFailedError)) as failed:  # the second is that of SQLMesh 0.235
        context.run_janitor(ignore_ttl=False)
    assert "is not a part of the physical schema" in f"{failed.value} {failed.value.__cause__}"


def test_sqlmesh_deletes_the_tables_of_a_state_that_has_no_version(planned: Open, folder: Path) -> None:
    """So `tables_without_version` finds such a state first. `rollback` deletes the tables too."""
    with duckdb.connect(str(folder / "db.db")) as connection:
        connection.execute("DELETE FROM sqlmesh._versions")
    context = planned()
    found: list[str] = []
    internals.require_existing_state(context, lambda state: found.extend(internals.tables_without_version(state)))
    with pytest.raises(SQLMeshError, match="migration failed"):
        _ = context.state_sync
    assert {"sqlmesh._snapshots", "sqlmesh._environments"} <= set(found)
    left = internals.tables_without_version(context._new_state_sync())
    assert left
    assert all(table.endswith("_backup") for table in left)


STATE_WITH_CAPITALS = """
    state_schema: State
    state_connection:
      {{type: postgres, host: 127.0.0.1, port: {port}, user: postgres, password: x, database: states}}
default_gateway"""


def test_ticks_of_crons_that_are_remembered_are_those_that_sqlmesh_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: Counter[str] = Counter()

    def counted(name: str) -> Any:
        find = getattr(CroniterCache, name)

        def found(*arguments: Any, **options: Any) -> datetime:
            calls[name] += 1
            tick: datetime = find(*arguments, **options)
            return tick

        return found

    for name in ("get_next", "get_prev"):  # `remember_cron_ticks` replaces them until the end of the test
        monkeypatch.setattr(CroniterCache, name, counted(name))
    crons = ("@daily", "@hourly", "*/5 * * * *", "0 3 * * 1", "30 2 29 2 *")
    zones = (None, ZoneInfo("America/New_York"), ZoneInfo("Europe/Berlin"))
    instants = [datetime(2026, 3, 6, tzinfo=timezone.utc) + timedelta(hours=7 * n) for n in range(0, 1_200, 5)]
    # The clocks of these nights show one hour twice. Python compares both by the clock, if they are of one zone.
    for night in (datetime(2026, 10, 25, tzinfo=timezone.utc), datetime(2026, 11, 1, 5, tzinfo=timezone.utc)):
        instants += [night + timedelta(minutes=30 * n) for n in range(5)]

    def ticks() -> list[float]:
        nodes = [CroniterCache(cron, instant, zone) for cron in crons for zone in zones for instant in instants]
        found = (tick for node in nodes for tick in (node.get_next(), node.get_prev(), node.get_prev(estimate=True)))
        return [tick.timestamp() for tick in found]

    expected = ticks()
    internals.remember_cron_ticks()
    assert ticks() == expected
    calls.clear()
    assert ticks() == expected
    assert calls == {"get_prev": len(expected) // 3}, "all but the estimates are remembered"


@pytest.mark.parametrize("is_replaced", [False, True])
def test_sqlmesh_needs_a_home_folder_for_usage_events_that_it_does_not_send(
    monkeypatch: pytest.MonkeyPatch, is_replaced: bool
) -> None:
    """`need_no_home_folder`. If SQLMesh raises nothing, remove the function."""
    monkeypatch.setattr(User, "load_or_create", User.load_or_create)
    collector = AnalyticsCollector(NoopEventDispatcher(), Path("/proc/nobody/.sqlmesh"))
    if is_replaced:
        internals.need_no_home_folder()
    with nullcontext() if is_replaced else pytest.raises(OSError, match="/proc/nobody"):
        collector.on_run_start(engine_type="duckdb", state_sync_type="duckdb")


@pytest.mark.parametrize("is_replaced", [False, True])
def test_range_after_the_last_tick_is_missing_for_sqlmesh(monkeypatch: pytest.MonkeyPatch, is_replaced: bool) -> None:
    """`end_ranges_after_their_start`. If SQLMesh finds nothing, remove the function."""
    monkeypatch.setattr(definition, "compute_missing_intervals", definition.compute_missing_intervals)
    parsed = parse("MODEL (name t.m, kind FULL, dialect duckdb, cron '@weekly'); SELECT 1 AS id")
    snapshot = Snapshot.from_node(load_sql_based_model(parsed), nodes={})
    if is_replaced:
        internals.end_ranges_after_their_start()
    thursday, saturday, sunday = (datetime(2026, 11, day, tzinfo=timezone.utc) for day in (26, 28, 22))
    missing = snapshot.missing_intervals(thursday, saturday, execution_time=saturday)
    assert missing == ([] if is_replaced else [(to_timestamp(thursday), to_timestamp(sunday))])


CHAIN = {
    f"models/m{n}.sql": f"MODEL (name shop.m{n}, kind {kind}); SELECT 1 AS id, CURRENT_DATE AS day{source}"
    for n, (kind, source) in enumerate(
        [
            ("FULL", ""),
            ("INCREMENTAL_BY_TIME_RANGE (time_column day, batch_size 1)", " FROM shop.m0"),
            ("VIEW", " FROM shop.m1"),
            ("INCREMENTAL_BY_TIME_RANGE (time_column day)", " FROM shop.m2, shop.m0"),
            ("INCREMENTAL_BY_UNIQUE_KEY (unique_key id, batch_size 2)", " FROM shop.m3"),
            ("FULL", " FROM shop.m4, shop.m1"),
        ]
    )
}


def test_the_graph_of_batches_is_the_same_without_nodes_that_have_none(folder: Path, opened: Open) -> None:
    for name, text in CHAIN.items():
        (folder / name).write_text(text)
    context = opened(load=True)
    context.plan(auto_apply=True, no_prompts=True, skip_tests=True, skip_backfill=True)
    scheduler, rng = context.scheduler(environment="prod"), random.Random(1)
    snapshots, whole = scheduler.snapshots, scheduler._dag
    internals.plan_only_what_is_computed(scheduler)
    fewer = scheduler._dag
    for _ in range(40):
        batches = {
            node: [(day * DAY, (day + 1) * DAY) for day in range(rng.randint(0, 4))]
            for node in snapshots.values()
            if rng.random() < 0.5
        }
        created = {id for id in snapshots if rng.random() < 0.3}
        of_all = snapshots_to_dag(snapshots.values()).subdag(*(node.snapshot_id for node in batches), *created)
        expected = whole(batches, snapshot_dag=of_all, snapshots_to_create=set(created))
        found = fewer(batches, snapshot_dag=of_all, snapshots_to_create=set(created))
        assert found.graph == expected.graph
        assert found.sorted == expected.sorted


HELD = """
from sqlmesh import signal


@signal()
def held(batch):
    return [interval for interval in batch if interval[0].day != 2]
"""
BY_DAY = "INCREMENTAL_BY_TIME_RANGE (time_column day"
BEHIND_SIGNAL = {
    "signals/__init__.py": HELD,
    "models/a.sql": f"MODEL (name t.a, kind {BY_DAY}), signals (held())); SELECT @start_ds::DATE AS day",
    "models/b.sql": f"MODEL (name t.b, kind {BY_DAY}, batch_size 1), columns (day DATE)); "
    "SELECT x.day FROM t.a AS x LEFT JOIN t.b AS y ON y.day = x.day - 1",
    "models/c.sql": f"MODEL (name t.c, kind {BY_DAY})); SELECT day FROM t.b",
}


def test_sqlmesh_computes_a_model_for_days_that_a_model_upstream_has_left_out(folder: Path, opened: Open) -> None:
    """If it leaves them out, remove `leave_out_after_unready`."""
    for name, text in BEHIND_SIGNAL.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    context = opened(load=True)
    context.plan(auto_apply=True, no_prompts=True, skip_tests=True, skip_backfill=True)
    scheduler = context.scheduler(environment="prod")
    midnight = to_timestamp("2026-01-01")
    first, second, third, fourth = (midnight + day * DAY for day in range(4))
    days = {node: [(first, fourth)] for node in scheduler.snapshots.values() if node.node.name.startswith("t.")}

    def batches() -> dict[str, list[tuple[int, int]]]:
        naming = EnvironmentNamingInfo(name="prod")
        found = scheduler.batch_intervals(days, DeployabilityIndex.all_deployable(), naming)
        return {node.node.name: intervals for node, intervals in found.items()}

    def reads(name: str) -> list[str]:
        return [of.name for of in scheduler.snapshots_by_name[name].parents]

    of_a, of_b = [(first, second), (third, fourth)], [(first, second)]
    assert batches() == {"t.a": of_a, "t.b": of_b, "t.c": of_a}
    for _ in range(2):
        internals.leave_out_after_unready(scheduler, {}, reads, lambda *_: False)
        assert batches() == {"t.a": of_a, "t.b": of_b, "t.c": of_b}
    internals.ignore_signals(scheduler)
    assert batches()["t.a"] == [(first, fourth)]


def test_a_check_is_called_before_each_stage_of_a_plan_and_its_error_ends_the_plan(opened: Open) -> None:
    context, checks = opened(load=True), []

    def check() -> None:
        checks.append(context.state_reader.get_environment("prod") is not None)
        if checks[-1]:  # the stage before has written the environment
            raise SQLMeshError("no lock")

    def apply(evaluator: Any, plan: EvaluatablePlan, circuit_breaker: Callable[[], bool] | None) -> None:
        internals.check_before_stages(evaluator, check)
        evaluator.evaluate(plan, circuit_breaker=circuit_breaker)

    internals.replace_apply(context, apply)
    with pytest.raises(SQLMeshError, match="no lock"):
        context.plan(auto_apply=True, no_prompts=True, skip_tests=True)
    assert shown(context).finalized_ts is None
    assert checks[-1]
    assert checks.count(False) >= 3, "records, tables and intervals come before the environment"


def test_sqlmesh_calls_the_replaced_methods_of_the_stages_and_of_the_scheduler_of_a_plan(opened: Open) -> None:
    """The five that `Promotion` replaces: in a first plan, SQLMesh has nothing to alter, and calls four of them."""
    names = ["environment_record_update", "migrate_schemas", "backfill", "virtual_layer_update", "finalize_environment"]
    context, called = opened(load=True), []

    def apply(evaluator: Any, plan: EvaluatablePlan, circuit_breaker: Callable[[], bool] | None) -> None:
        def noted(name: str) -> Callable[..., Any]:
            method = getattr(evaluator, name)

            def note(*args: Any, **kwargs: Any) -> Any:
                called.append((name, [type(arg).__name__ for arg in args]))
                return method(*args, **kwargs)

            return note

        internals.replace_visits(evaluator, **{f"visit_{name}_stage": noted(f"visit_{name}_stage") for name in names})
        internals.replace_scheduler_of_plan(evaluator, noted("create_scheduler"))
        evaluator.evaluate(plan, circuit_breaker=circuit_breaker)

    internals.replace_apply(context, apply)
    context.plan(auto_apply=True, no_prompts=True, skip_tests=True)
    assert called == [
        ("visit_backfill_stage", ["BackfillStage", "EvaluatablePlan"]),
        ("create_scheduler", ["dict_values", "SnapshotEvaluator"]),
        ("visit_environment_record_update_stage", ["EnvironmentRecordUpdateStage", "EvaluatablePlan"]),
        ("visit_virtual_layer_update_stage", ["VirtualLayerUpdateStage", "EvaluatablePlan"]),
        ("visit_finalize_environment_stage", ["FinalizeEnvironmentStage", "EvaluatablePlan"]),
    ]
    assert MigrateSchemasStage.__name__ == "MigrateSchemasStage", "the evaluator finds a visit by the stage's name"


def test_a_replaced_method_that_sqlmesh_does_not_have_is_an_error() -> None:
    with pytest.raises(AttributeError, match="visit_renamed_stage"):
        internals.replace_visits(object(), visit_renamed_stage=lambda *_: None)


@pytest.mark.parametrize("is_left_out", [True, *at_night(False)])
def test_sqlmesh_imports_pandas_to_make_a_loader(planned: Open, folder: Path, is_left_out: bool) -> None:
    """If it does not any more, remove `loaders_without_pandas`. What needs pandas finds the real one afterwards."""
    script = (
        "import sys\nfrom contextlib import nullcontext\nfrom sqlmesh import Context\n"
        "from dg_sqlmesh_component.worker.sqlmesh_internals import loaders_without_pandas\n"
        f"with loaders_without_pandas() if {is_left_out} else nullcontext():\n"
        f"    context = Context(paths=[{str(folder)!r}], load=False)\n"
        "print('pandas' in sys.modules, end=' ')\n"
        "context.state_reader.get_environment('prod')\n"
        "print('pandas' in sys.modules, end=' ')\n"
        "import pandas\nprint(hasattr(pandas, 'DataFrame'))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == ("False False True\n" if is_left_out else "True True True\n")


def test_sqlmesh_has_no_snapshot_for_a_thread_while_another_one_reads_it(
    planned: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So `Coverages` reads in one thread at a time. If SQLMesh waits or reads twice, remove its lock."""
    context, found = planned(), []
    [info, *_] = shown(context).snapshots
    state: Any = context.state_reader
    read = state.state_sync.get_snapshots

    def read_slowly(ids: Any) -> Any:
        found.append(state.get_snapshots([info]))  # of a second thread, before the first one has its answer
        return read(ids)

    monkeypatch.setattr(state.state_sync, "get_snapshots", read_slowly)
    assert [snapshot.name for snapshot in state.get_snapshots([info]).values()] == [info.name]
    assert found == [{}]


def test_sqlmesh_refuses_to_set_a_field_that_a_snapshot_or_a_config_does_not_have(opened: Open) -> None:
    """So the fields that the worker writes need no replacement that checks their names."""
    context = opened(load=True)
    for owner in (next(iter(context.snapshots.values())), context.config, context.config.plan):
        with pytest.raises(ValueError, match="has no field"):
            owner.renamed = None


def test_the_stages_of_a_plan_are_evaluated_in_parts_and_the_second_part_is_built_again(opened: Open) -> None:
    context, plan_ids = opened(load=True), []

    def in_parts(evaluate: internals.EvaluateStages, stages: Sequence[PlanStage], plan: EvaluatablePlan) -> None:
        plan_ids.append(plan.plan_id)
        records = [number for number, stage in enumerate(stages) if isinstance(stage, EnvironmentRecordUpdateStage)]
        assert len(records) == 1, "BesideRuns halves the stages there"
        before = stages[: records[0]]
        assert [stage for stage in before if isinstance(stage, BackfillStage)]
        evaluate(before, plan)
        assert context.state_reader.get_environment("prod") is None
        again = build_plan_stages(plan, context.state_reader, context.default_catalog)
        assert not [stage for stage in again if isinstance(stage, BackfillStage) and stage.snapshot_to_intervals]
        evaluate(again[-len(stages[records[0] :]) :], plan)

    def apply(evaluator: Any, plan: EvaluatablePlan, circuit_breaker: Callable[[], bool] | None) -> None:
        internals.replace_stages(evaluator, in_parts)
        evaluator.evaluate(plan, circuit_breaker=circuit_breaker)

    internals.replace_apply(context, apply)
    plan = context.plan(auto_apply=True, no_prompts=True, skip_tests=True)
    environment = shown(context)
    assert environment.finalized_ts is not None
    assert plan_ids == [environment.plan_id] == [plan.plan_id]


def test_names_of_the_state_are_quoted(folder: Path, opened: Open) -> None:
    """PostgreSQL and Snowflake change the case of names that are not quoted. SQLMesh creates them with quotes."""
    with postgres_server() as server:
        server.query("CREATE DATABASE states")
        config = (folder / "config.yaml").read_text()
        state = STATE_WITH_CAPITALS.format(port=server.port)
        (folder / "config.yaml").write_text(config.replace("\ndefault_gateway", state))
        context = opened(load=True)
        context.plan(auto_apply=True, no_prompts=True, skip_tests=True)
        assert len(internals.computed_ranges(context)) == 3
        assert internals.count_snapshots_and_interval_rows(context) == (3, 3)
        (orders,) = (snapshot for snapshot in context.snapshots.values() if snapshot.name.endswith('"orders"'))
        internals.forget_intervals(context.state_sync, [internals.Forgotten(orders, orders.intervals, is_dev=False)])
        assert internals.count_snapshots_and_interval_rows(context) == (3, 5)
        server.query('DELETE FROM "State"._versions', "states")
        assert "State._snapshots" in internals.tables_without_version(context.state_sync.state_sync)
        context.close()


@contextmanager
def on_postgres(folder: Path, query: str, kind: str = "FULL", more: str = "") -> Iterator[Server]:
    """Let the project be in the database `shop` of a server, with one model `t.one`."""
    for file in [*folder.glob("models/*.sql"), *folder.glob("audits/*.sql")]:
        file.unlink()
    (folder / "models/one.sql").write_text(f"MODEL (name t.one, kind {kind}); {query}")
    with postgres_server() as server:
        server.query("CREATE DATABASE shop")
        (folder / "config.yaml").write_text(server.config("shop", start="'2026-01-01'") + more)
        yield server


@pytest.mark.parametrize("is_kept", [False, True])
def test_postgres_loses_the_view_of_a_materialized_view_at_its_first_computation(
    folder: Path, opened: Open, monkeypatch: pytest.MonkeyPatch, is_kept: bool
) -> None:
    """`keep_bound_views`. If SQLMesh keeps the view, remove the function."""
    monkeypatch.setattr(ViewStrategy, "_is_materialized_view", ViewStrategy._is_materialized_view)
    with on_postgres(folder, "SELECT 1 AS id", "VIEW (materialized true)") as server:
        context = opened(load=True)
        context.plan(auto_apply=True, no_prompts=True, skip_backfill=True)
        assert server.query("SELECT id FROM t.one", "shop") == [(1,)]
        if is_kept:
            internals.keep_bound_views()
        assert context.run().is_success
        shown = server.query("SELECT viewname FROM pg_views WHERE schemaname = 't'", "shop")
        assert shown == ([("one",)] if is_kept else [])
        context.close()


def test_postgres_drops_tables_views_and_schemas_with_what_reads_them(
    folder: Path, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PostgresEngineAdapter, "_drop_object", PostgresEngineAdapter._drop_object)
    with on_postgres(folder, "SELECT 1 AS id"):
        adapter = opened(load=True).engine_adapter
        checked: list[str] = []
        internals.check_before_cascading(lambda _, name: checked.append(name.sql()))
        adapter.create_schema("s")
        for table in ("a", "b"):
            adapter.ctas(f"s.{table}", exp.select(exp.convert(1).as_("x")))
        adapter.create_view("s.v", exp.select("x").from_("s.a"))
        checked.clear()
        adapter.drop_table("s.b")
        adapter.drop_table("s.a", cascade=True)
        adapter.drop_view("s.v")
        adapter.drop_schema(schema_("s"), cascade=True)
        assert checked == ["s.a", "s.v", "s"]


def test_first_error_of_a_migration_on_postgres_is_raised(
    folder: Path, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SnapshotEvaluator, "_migrate_target_table", SnapshotEvaluator._migrate_target_table)
    with on_postgres(folder, "SELECT 'a'::VARCHAR(10) AS x", more="plan: {forward_only: true}\n"):
        opened(load=True).plan(auto_apply=True, no_prompts=True)
        model = folder / "models/one.sql"
        model.write_text(model.read_text().replace("10", "20"))
        internals.raise_first_errors_of_migrations()
        with pytest.raises(PlanError, match="cannot alter type of a column used by a view"):
            opened(load=True).plan(auto_apply=True, no_prompts=True)
