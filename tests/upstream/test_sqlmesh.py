"""Facts about SQLMesh that this project needs. If a test fails, SQLMesh changed, not this project.

Real SQLMesh runs in this process on real DuckDB files. The name of each test is a fact. Its docstring names the
decision record in docs/adr/ that needs the fact: ADR-0002 (one run of exactly a subset), ADR-0003
(evidence for each audit), ADR-0004 (errors in SQLMesh's words), ADR-0005 (the console as evidence),
ADR-0007 and ADR-0008 (what is promoted against what is in the files), ADR-0010 (a process in the
project's folder), ADR-0014 (definitions without a database), ADR-0015 (the janitor).
"""

from __future__ import annotations

import inspect
import re
import shutil
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pytest
import sqlglot
from harness import duckdb_file_in_use
from sqlglot.errors import ParseError
from sqlmesh.core import constants
from sqlmesh.core.console import NoopConsole
from sqlmesh.core.context import Context
from sqlmesh.core.environment import EnvironmentNamingInfo
from sqlmesh.core.scheduler import Scheduler
from sqlmesh.core.snapshot import Snapshot, SnapshotEvaluator, missing_intervals
from sqlmesh.utils import CompletionStatus
from sqlmesh.utils.date import to_timestamp
from sqlmesh.utils.errors import NodeAuditsErrors, SQLMeshError
from upstream.promoted import Contexts, stored

from dg_sqlmesh_component.capabilities.janitor.worker.janitor import JanitorConsole
from dg_sqlmesh_component.capabilities.plans.worker.context import PlanTracker
from dg_sqlmesh_component.config.project import SQLMeshProject
from dg_sqlmesh_component.worker import sqlmesh_internals as internals
from dg_sqlmesh_component.worker.observe.run_tracker import RunTracker

# -- the project: planned up to the 3rd of January, and run on the 5th ----------------------------------

PLANNED_AT = to_timestamp("2025-01-03")
NOW = to_timestamp("2025-01-05")
DAY = 24 * 60 * 60 * 1000
SINCE_THE_PLAN = (PLANNED_AT, NOW)

ORDERS = '"db"."shop"."orders"'
REVENUE = '"db"."shop"."revenue"'
DAYS = '"db"."shop"."days"'
TOTALS = '"db"."shop"."daily totals"'
GATED = '"db"."shop"."gated"'
AFTER_GATED = '"db"."shop"."after_gated"'
STANDALONE_AUDIT = "revenue_is_known"

FLAGS = ("orders break", "orders fail to be audited", "orders look odd", "2025-01-04 breaks")
"""Rows of the table `control.flags`, all off. A test turns one on to cause an error."""

FILES = {
    "config.yaml": """
        gateways:
          local:
            connection: {type: duckdb, database: '<database>', concurrent_tasks: 1}
        default_gateway: local
        model_defaults: {dialect: duckdb, start: 2025-01-01, cron: '@daily'}
        disable_anonymized_analytics: true
    """,
    "external_models.yaml": """
        - name: control.flags
          columns: {name: text, is_on: boolean}
    """,
    "models/orders.sql": """
        MODEL (
          name shop.orders,
          kind FULL,
          tags [finance],
          audits (
            not_null(columns := (id)),
            flag_is_off(flag := 'orders fail to be audited'),
            flag_is_off(flag := 'orders look odd', blocking := false),
            switched_off
          )
        );
        SELECT CASE WHEN is_on THEN error('orders are broken')::INT ELSE 1 END AS id, @execution_ds AS computed_on
        FROM control.flags WHERE name = 'orders break'
    """,
    "models/revenue.sql": "MODEL (name shop.revenue, kind FULL, tags [finance, board]); SELECT id FROM shop.orders",
    "models/days.sql": """
        MODEL (
          name shop.days,
          kind INCREMENTAL_BY_TIME_RANGE (time_column day, batch_size 1, batch_concurrency 1)
        );
        SELECT CASE WHEN count(*) > 0 THEN error('this day is broken')::DATE ELSE @start_date::DATE END AS day
        FROM control.flags WHERE name = @start_ds || ' breaks' AND is_on
    """,
    "models/daily_totals.sql": 'MODEL (name shop."daily totals", kind FULL); SELECT 1 AS total',
    "models/gated.sql": "MODEL (name shop.gated, kind FULL, signals (never())); SELECT 1 AS one",
    "models/after_gated.sql": "MODEL (name shop.after_gated, kind FULL); SELECT one FROM shop.gated",
    "audits/audits.sql": """
        AUDIT (name flag_is_off);
        SELECT 1 AS failing FROM control.flags WHERE name = @flag AND is_on;

        AUDIT (name switched_off, skip true);
        SELECT 1 AS failing FROM @this_model;

        AUDIT (name revenue_is_known, standalone true, cron '@daily');
        SELECT 1 AS failing FROM shop.revenue WHERE id IS NULL;
    """,
    "signals/__init__.py": """
        from sqlmesh import signal

        @signal()
        def never(batch):
            return False
    """,
}


class Shop(Contexts):
    """A copy of the planned project for one test."""

    @property
    def database(self) -> Path:
        return self.folder / "db.db"

    def write_config(self, database: str = "", tasks: int = 1) -> None:
        text = textwrap.dedent(FILES["config.yaml"]).replace("<database>", database or str(self.database))
        (self.folder / "config.yaml").write_text(text.replace("concurrent_tasks: 1", f"concurrent_tasks: {tasks}"))

    def sql(self, statement: str) -> list[Any]:
        with duckdb.connect(str(self.database)) as connection:
            return connection.execute(statement).fetchall()

    def turn_on(self, flag: str) -> None:
        assert flag in FLAGS
        self.sql(f"UPDATE control.flags SET is_on = True WHERE name = '{flag}'")


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The project after its first plan. SQLMesh must not fork in a process that has threads."""
    shop = Shop(tmp_path_factory.mktemp("shop"))
    for name, text in FILES.items():
        path = shop.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(textwrap.dedent(text))
    shop.write_config()
    rows = ", ".join(f"('{flag}', false)" for flag in FLAGS)
    shop.sql(f"CREATE SCHEMA control; CREATE TABLE control.flags AS FROM (VALUES {rows}) AS t(name, is_on)")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(constants, "MAX_FORK_WORKERS", 1)
        shop.open(load=True).plan(auto_apply=True, no_prompts=True, skip_tests=True, execution_time=PLANNED_AT)
        shop.close()
        yield shop.folder


@pytest.fixture
def shop(planned: Path, tmp_path: Path) -> Iterator[Shop]:
    shutil.copytree(planned, tmp_path / "shop", ignore=shutil.ignore_patterns(".cache", "logs"))
    shop = Shop(tmp_path / "shop")
    shop.write_config()
    yield shop
    shop.close()


def run(context: Context, **options: Any) -> CompletionStatus:
    return context.run("prod", **{"execution_time": NOW, "skip_janitor": True, **options})


def recorded(shop: Shop, status: CompletionStatus = CompletionStatus.SUCCESS, **options: Any) -> Recorder:
    """Run with a console that records. The run must end with this status."""
    console = Recorder()
    assert run(shop.open(console), **options) is status
    return console


def promoted(context: Context) -> dict[str, Snapshot]:
    return {snapshot.name: snapshot for snapshot in stored(context).values()}


def missing(shop: Shop) -> dict[str, list[tuple[int, int]]]:
    """Return the missing intervals of each model, from a fresh read of the state."""
    shop.close()
    context = shop.open()
    intervals_by_snapshot = missing_intervals(promoted(context).values(), execution_time=NOW)
    shop.close()
    return {snapshot.name: intervals for snapshot, intervals in intervals_by_snapshot.items()}


# -- a console that records calls ------------------------------------------------------------------------


@dataclass
class Call:
    method: str
    arguments: dict[str, Any]
    thread: threading.Thread

    @property
    def snapshot(self) -> str:
        return self.arguments["snapshot"].name


class Recorder(NoopConsole):
    """Records calls of the methods that our console overrides, with arguments by name."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []

    def of(self, method: str) -> list[Call]:
        return [call for call in self.calls if call.method == method]

    def batches(self) -> dict[str, list[Call]]:
        """Return the ends of batches by model, in order of arrival."""
        batches_by_model: dict[str, list[Call]] = {}
        for call in self.of("update_snapshot_evaluation_progress"):
            batches_by_model.setdefault(call.snapshot, []).append(call)
        return batches_by_model

    def executed(self) -> set[str]:
        """Return the models whose planned batches all finished with a duration."""
        calls = self.of("update_snapshot_evaluation_progress")
        finished = [call.snapshot for call in calls if call.arguments["duration_ms"] is not None]
        return {name for name, batches in self.planned().items() if batches and finished.count(name) == len(batches)}

    def planned(self) -> dict[str, list[tuple[int, int]]]:
        (call,) = self.of("start_evaluation_progress")
        return {snapshot.name: intervals for snapshot, intervals in call.arguments["batched_intervals"].items()}


def overridden(console: type[NoopConsole]) -> list[str]:
    """The methods of SQLMesh's console that one of our consoles overrides."""
    names = filter(re.compile("(log|show)_.*|(start|stop|update)_.*_progress").fullmatch, dir(console))
    return [name for name in names if getattr(console, name) is not getattr(NoopConsole, name, None)]


def _recording(method: str) -> Any:
    original = getattr(NoopConsole, method)
    signature = inspect.signature(original)

    def record(self: Recorder, *args: Any, **kwargs: Any) -> None:
        arguments = signature.bind(self, *args, **kwargs).arguments
        self.calls.append(Call(method, arguments, threading.current_thread()))

    return record


for _method in overridden(RunTracker):
    setattr(Recorder, _method, _recording(_method))


@pytest.mark.parametrize("console", [RunTracker, PlanTracker, JanitorConsole])
def test_console_has_the_methods_and_parameters_that_ours_overrides(console: type[NoopConsole]) -> None:
    """ADR-0005: the console gives the evidence."""
    assert overridden(console)
    for method in overridden(console):
        ours = inspect.signature(getattr(console, method)).parameters.values()
        theirs = list(inspect.signature(getattr(NoopConsole, method)).parameters)
        by_position = [of.name for of in ours if of.kind is of.POSITIONAL_OR_KEYWORD]
        assert by_position == theirs[: len(by_position)], method
        assert {of.name for of in ours if of.kind is of.KEYWORD_ONLY} <= {*theirs}, method


# -- calls of the console during a run ------------------------------------------------------------------


@pytest.mark.night("engine/test_progress.py::test_log_shows_a_running_model_and_the_end_shows_every_model")
def test_every_batch_is_planned_and_then_finishes_with_a_duration(shop: Shop) -> None:
    """ADR-0005: `executed` is every planned batch finished with a duration."""
    console = recorded(shop)
    planned = console.planned()
    assert planned[ORDERS] == [SINCE_THE_PLAN]
    assert planned[DAYS] == [(PLANNED_AT, PLANNED_AT + DAY), (PLANNED_AT + DAY, NOW)]
    finished = {
        name: [(call.arguments["batch_idx"], call.arguments["interval"]) for call in calls]
        for name, calls in console.batches().items()
    }
    assert finished == {name: list(enumerate(batches)) for name, batches in planned.items() if batches}
    assert console.executed() == {ORDERS, REVENUE, DAYS, TOTALS, STANDALONE_AUDIT}
    stats = console.batches()[ORDERS][0].arguments["execution_stats"]
    assert (stats.total_rows_processed, stats.total_bytes_processed) == (None, None)  # DuckDB reports neither
    assert missing(shop).keys() == {GATED, AFTER_GATED}


def test_callbacks_come_from_pool_threads_if_tasks_are_concurrent(shop: Shop) -> None:
    """ADR-0005: the console has to be safe to use from any thread."""
    shop.write_config(tasks=4)
    console = recorded(shop)
    batch_calls = console.of("start_snapshot_evaluation_progress") + console.of("update_snapshot_evaluation_progress")
    assert threading.current_thread() not in {call.thread for call in batch_calls}
    assert {call.thread for call in console.of("start_evaluation_progress")} == {threading.current_thread()}


def test_failed_model_is_returned_not_raised_and_skipped_models_are_reported_before_it(shop: Shop) -> None:
    """ADR-0004, ADR-0005: a callback alone does not mean that the model was executed.

    Our console keeps the skipped set until the failures are known.
    """
    shop.turn_on("orders break")
    console = recorded(shop, CompletionStatus.FAILURE)
    (batch,) = console.batches()[ORDERS]
    assert batch.arguments["duration_ms"] is None
    assert REVENUE not in console.batches()
    skipped, failed = (call for call in console.calls if call.method in ("log_skipped_models", "log_failed_models"))
    assert skipped.arguments == {"self": console, "snapshot_names": {REVENUE, STANDALONE_AUDIT}}
    (error,) = failed.arguments["errors"]
    assert error.node.snapshot_name == ORDERS
    assert "orders are broken" in str(error.__cause__)
    assert missing(shop)[ORDERS]


def test_model_can_be_executed_failed_and_skipped_in_one_run(shop: Shop) -> None:
    """ADR-0005: a model's own failure outweighs its being in the skipped set."""
    shop.turn_on("2025-01-04 breaks")
    later = NOW + DAY
    console = recorded(shop, CompletionStatus.FAILURE, execution_time=later)
    assert [call.arguments["duration_ms"] is None for call in console.batches()[DAYS]] == [False, True]
    assert DAYS in console.of("log_skipped_models")[0].arguments["snapshot_names"]
    assert console.of("log_failed_models")[0].arguments["errors"][0].node.snapshot_name == DAYS
    assert missing(shop)[DAYS][0] == (PLANNED_AT + DAY, NOW)  # the first batch is recorded


def test_run_with_nothing_to_do_reports_it_and_plans_nothing(shop: Shop) -> None:
    """ADR-0005: `up_to_date` is a requested model that was not planned."""
    console = recorded(
        shop, CompletionStatus.NOTHING_TO_DO, select_models=["shop.orders", "shop.revenue"], execution_time=PLANNED_AT
    )
    assert [call.method for call in console.calls] == ["log_status_update"]
    assert "No models are ready to run" in console.calls[0].arguments["message"]


def test_model_waiting_for_a_signal_is_planned_without_batches_and_the_run_succeeds(shop: Shop) -> None:
    """ADR-0005: the model and its downstream models are `waiting`. SUCCESS alone proves nothing."""
    console = recorded(shop, select_models=["shop.gated", "shop.after_gated"])
    assert console.planned() == {GATED: [], AFTER_GATED: []}
    assert not console.batches()
    (signal,) = console.of("update_signal_progress")
    assert (signal.snapshot, signal.arguments["signal_name"]) == (GATED, "never")
    assert list(signal.arguments["ready_intervals"]) == []
    assert list(signal.arguments["check_intervals"]) == [(to_timestamp("2025-01-01"), NOW)]


def test_model_run_without_its_upstream_model_ignores_the_upstream_signal(shop: Shop) -> None:
    """ADR-0028: so the worker leaves out intervals that such an upstream model has not computed."""
    console = recorded(shop, select_models=["shop.after_gated"], no_auto_upstream=True)
    assert console.planned() == {AFTER_GATED: [(to_timestamp("2025-01-01"), NOW)]}
    assert not console.of("update_signal_progress")


def test_exception_in_a_callback_fails_a_model_whose_interval_is_recorded(shop: Shop) -> None:
    """ADR-0005: our console must never raise."""

    class Broken(Recorder):
        def update_snapshot_evaluation_progress(self, snapshot: Snapshot, *_: Any, **__: Any) -> None:
            if snapshot.name == ORDERS:
                raise RuntimeError("the console is broken")

    console = Broken()
    assert run(shop.open(console)) is CompletionStatus.FAILURE
    assert [error.node.snapshot_name for error in console.of("log_failed_models")[0].arguments["errors"]] == [ORDERS]
    assert ORDERS not in missing(shop)


@pytest.mark.parametrize("tasks", [1, 4])
def test_exception_before_a_batch_fails_it_without_executing_it(shop: Shop, tasks: int) -> None:
    """ADR-0005: our console must never raise. It is also the other way to cancel: see the next test."""

    class Refusing(Recorder):
        def start_snapshot_evaluation_progress(self, snapshot: Snapshot, *_: Any, **__: Any) -> None:
            if snapshot.name != ORDERS:
                raise RuntimeError("no further batches")

    shop.write_config(tasks=tasks)
    console = Refusing()
    assert run(shop.open(console)) is CompletionStatus.FAILURE
    assert console.batches().keys() == {ORDERS}
    assert missing(shop).keys() == {REVENUE, DAYS, TOTALS, STANDALONE_AUDIT, GATED, AFTER_GATED}


def test_sqlmesh_reads_the_environment_before_each_node_to_detect_a_plan(shop: Shop) -> None:
    """ADR-0027."""
    reads: list[str] = []
    reads_before_batches: list[int] = []

    class Reading(NoopConsole):
        def start_snapshot_evaluation_progress(self, *_: Any, **__: Any) -> None:
            reads_before_batches.append(len(reads))

    context = shop.open(Reading())
    environments = context.state_sync.state_sync.environment_state
    get_environment = environments.get_environment

    def watched(environment: str, *args: Any, **options: Any) -> Any:
        reads.append(environment)
        return get_environment(environment, *args, **options)

    environments.get_environment = watched
    assert run(context, select_models=["shop.orders", "shop.revenue"]) is CompletionStatus.SUCCESS
    first, second = reads_before_batches
    assert 1 < first < second, "the first read opens the run"


# -- requirements of a run ------------------------------------------------------------------------------


@pytest.mark.night(
    "engine/test_catch_up.py::test_changes_the_janitor_and_runs_of_other_environments_wait_for_a_plan_and_name_it"
)
@pytest.mark.parametrize("skip_janitor", [True, False])
def test_run_deletes_expired_environments_unless_the_janitor_is_skipped(shop: Shop, skip_janitor: bool) -> None:
    """ADR-0015: our runs skip it."""
    context = shop.open(load=True)
    context.plan("dev", include_unmodified=True, skip_backfill=True, auto_apply=True, no_prompts=True, skip_tests=True)
    context.invalidate_environment("dev")
    run(context, skip_janitor=skip_janitor)
    assert (context.state_reader.get_environment("dev") is not None) is skip_janitor


# -- exactly the requested nodes ------------------------------------------------------------------------


class Watched(Context):
    """A context that records audits and replaces the selection when it creates the scheduler, like our worker."""

    def watch(self, requested: set[str] | None = None) -> Watched:
        self.requested = requested
        self.audits: dict[str, list[Any]] = {}
        self.audited: dict[str, tuple[int, int]] = {}
        return self

    def create_scheduler(self, snapshots: Iterable[Snapshot], snapshot_evaluator: SnapshotEvaluator) -> Scheduler:
        audit = snapshot_evaluator.audit

        def audit_and_remember(snapshot: Snapshot, **options: Any) -> list[Any]:
            results = audit(snapshot, **options)
            self.audits[snapshot.name] = results
            self.audited[snapshot.name] = (to_timestamp(options["start"]), to_timestamp(options["end"]))
            return results

        snapshot_evaluator.audit = audit_and_remember
        scheduler = super().create_scheduler(snapshots, snapshot_evaluator)
        run_scheduler = scheduler.run

        def run_requested(*args: Any, **options: Any) -> CompletionStatus:
            selection = {} if self.requested is None else {"selected_snapshots": self.requested}
            return run_scheduler(*args, **{**options, **selection})

        scheduler.run = run_requested
        return scheduler


@pytest.mark.parametrize(
    "requested",
    [{REVENUE}, {ORDERS, DAYS}, {TOTALS}, {STANDALONE_AUDIT}, {ORDERS, REVENUE, TOTALS, STANDALONE_AUDIT}],
    ids=["downstream only", "two models", "name with a space", "standalone audit", "all kinds"],
)
def test_scheduler_runs_exactly_the_given_full_names(shop: Shop, requested: set[str]) -> None:
    """ADR-0002: one run of exactly the subset that was selected, standalone audits included."""
    console = Recorder()
    context = shop.open(console, type_=Watched).watch(requested)
    assert run(context, select_models=["*"], no_auto_upstream=True) is CompletionStatus.SUCCESS
    assert console.planned().keys() == requested
    assert console.executed() == requested


@pytest.mark.parametrize(
    ("selection", "result"),
    [
        (["shop.daily totals"], ParseError),
        (['shop."daily totals"'], ParseError),
        ([TOTALS], ParseError),
        ([], ParseError),
        ([f"shop.model_{number}" for number in range(2000)], RecursionError),
        ([STANDALONE_AUDIT], CompletionStatus.NOTHING_TO_DO),
        (["shop.unknown"], CompletionStatus.NOTHING_TO_DO),
    ],
    ids=["a space", "a space and quotes", "a full name with a space", "none", "very many", "an audit", "unknown"],
)
def test_selection_language_cannot_express_every_selection(shop: Shop, selection: list[str], result: Any) -> None:
    """ADR-0002: so the selection is a set of names and not an expression.

    ADR-0008: a run would answer "nothing to do" for what was never promoted.
    """
    expects_error = isinstance(result, type) and issubclass(result, Exception)
    with pytest.raises(result) if expects_error else nullcontext():
        assert run(shop.open(), select_models=selection, no_auto_upstream=True) is result


# -- audits ---------------------------------------------------------------------------------------------


def test_evaluator_returns_every_audit_in_the_order_of_the_model(shop: Shop) -> None:
    """ADR-0003: evidence for each audit, passed ones included."""
    context = shop.open(type_=Watched).watch()
    run(context)
    model = promoted(context)[ORDERS].node
    results = context.audits[ORDERS]
    assert [result.audit.name for result in results] == [audit.name for audit, _ in model.audits_with_args]
    assert [
        (
            result.audit.name,
            {name: value.sql() for name, value in (result.audit_args or {}).items() if name != "blocking"},
            result.count,
            result.blocking,
            result.skipped,
        )
        for result in results
    ] == [
        ("not_null", {"columns": "(id)"}, 0, True, False),
        ("flag_is_off", {"flag": "'orders fail to be audited'"}, 0, True, False),
        ("flag_is_off", {"flag": "'orders look odd'"}, 0, False, False),  # the model declares it as non-blocking
        ("switched_off", {}, None, True, True),
    ]
    assert "'orders look odd'" in results[2].query.sql(dialect="duckdb")
    assert results[3].query is None
    assert [result.count for result in context.audits[STANDALONE_AUDIT]] == [0]
    assert context.audited[ORDERS] == SINCE_THE_PLAN, "the interval of the batch"


def test_failed_blocking_audit_does_not_record_the_interval_and_does_not_roll_back_the_data(shop: Shop) -> None:
    """ADR-0003: `audit_failed`, no materialization, and the next run executes the model again."""
    before = shop.sql("SELECT computed_on FROM shop.orders")
    shop.turn_on("orders fail to be audited")
    shop.turn_on("orders look odd")
    console = Recorder()
    context = shop.open(console, type_=Watched).watch()
    assert run(context) is CompletionStatus.FAILURE
    (error,) = console.of("log_failed_models")[0].arguments["errors"]
    assert isinstance(error.__cause__, NodeAuditsErrors)
    assert [audit.audit_name for audit in error.__cause__.errors] == ["flag_is_off"]
    assert REVENUE in console.of("log_skipped_models")[0].arguments["snapshot_names"]
    # Only the audit results report the non-blocking failure.
    assert [result.count for result in context.audits[ORDERS]] == [0, 1, 1, None]
    assert not console.of("log_warning")
    assert missing(shop)[ORDERS] == [(PLANNED_AT, PLANNED_AT + DAY), (PLANNED_AT + DAY, NOW)]
    assert (before, shop.sql("SELECT computed_on FROM shop.orders")) == ([("2025-01-03",)], [("2025-01-05",)])


# -- state ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("minor", "text"), [(-1, "Please run a migration"), (+1, "Please upgrade")])
def test_state_of_another_minor_version_of_sqlglot_is_refused(shop: Shop, minor: int, text: str) -> None:
    """ADR-0004: by this text our worker decides who must act, as for another version of SQLMesh."""
    major, current, *_ = sqlglot.__version__.split(".")
    shop.sql(f"UPDATE sqlmesh._versions SET sqlglot_version = '{major}.{int(current) + minor}.0'")
    with pytest.raises(SQLMeshError, match=text):
        shop.open().state_reader.get_environment("prod")


def test_promoted_snapshots_have_the_hashes_of_the_local_models(shop: Shop) -> None:
    """ADR-0007, ADR-0008: a difference means that a file was edited and not planned."""
    context = shop.open(load=True)
    environment = context.state_reader.get_environment("prod")
    local = {**context.models, **context.standalone_audits}
    assert {info.name for info in environment.snapshots} == local.keys()
    for info in environment.snapshots:
        assert info.version
        node = local[info.name]
        assert (info.fingerprint.data_hash, info.fingerprint.metadata_hash) == (node.data_hash, node.metadata_hash)


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [("ELSE 1 END", "ELSE 2 END", {"data", "metadata"}), ("kind FULL", "kind FULL, owner bob", {"metadata"})],
    ids=["query", "owner"],
)
def test_query_is_in_both_hashes_and_owner_in_metadata_hash(shop: Shop, old: str, new: str, changed: set[str]) -> None:
    """ADR-0007: the code version is the data hash; a new owner does not make a warehouse look stale."""
    path = shop.folder / "models/orders.sql"
    path.write_text(path.read_text().replace(old, new))
    context = shop.open(load=True)
    fingerprint = promoted(context)[ORDERS].fingerprint
    model = context.models[ORDERS]
    assert (model.data_hash != fingerprint.data_hash) is ("data" in changed)
    assert (model.metadata_hash != fingerprint.metadata_hash) is ("metadata" in changed)


# -- files, folders and processes -----------------------------------------------------------------------


def test_relative_duckdb_path_is_relative_to_cwd(shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ADR-0010: so our worker runs in the project's folder."""
    shop.write_config(database="db.db")
    monkeypatch.chdir(shop.folder)
    assert run(shop.open()) is CompletionStatus.SUCCESS
    shop.close()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    with pytest.raises(SQLMeshError, match="Environment 'prod' was not found"):
        run(shop.open())
    assert (elsewhere / "db.db").exists()


def test_loading_a_project_does_not_open_its_database(shop: Shop) -> None:
    """ADR-0014: definitions need neither state nor warehouse, and load while a run holds the lock on the file."""
    with duckdb_file_in_use(shop.database):
        before = shop.database.stat()
        for model in shop.open(load=True).models.values():
            assert model.data_hash
            assert model.metadata_hash
            assert model.columns_to_types
            assert model.audits_with_args is not None
        after = shop.database.stat()
    assert (after.st_mtime_ns, after.st_size) == (before.st_mtime_ns, before.st_size)


@pytest.fixture(scope="module")
def loaded(planned: Path) -> Context:
    """The planned project, loaded without opening its state."""
    return Shop(planned).open(load=True)


@pytest.mark.parametrize(
    ("selection", "selected"),
    [
        ("shop.orders", {ORDERS}),
        ("tag:finance", {ORDERS, REVENUE}),
        ("*gated", {GATED, AFTER_GATED}),
        ("+shop.revenue", {ORDERS, REVENUE, '"db"."control"."flags"'}),
        ("shop.gated+", {GATED, AFTER_GATED}),
        ("tag:finance & ^tag:board", {ORDERS}),
        ("shop.unknown", set()),
    ],
)
def test_loaded_models_are_selected_without_state(loaded: Context, selection: str, selected: set[str]) -> None:
    """ADR-0014: `select` and `exclude` in defs.yaml are SQLMesh's own selection language."""
    assert internals.selector_of(loaded).expand_model_selections([selection]) == selected


# -- names and lineage --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["prod", "Dev_Ada", "PR-17", "a b.c", "größe"])
def test_environment_name_is_stored_in_lower_case_with_underscores(name: str) -> None:
    """ADR-0017: the environment of a run config is named as SQLMesh names it."""
    assert EnvironmentNamingInfo.sanitize_name(name) == re.sub(r"\W", "_", name).lower()


@pytest.mark.parametrize(("env", "is_sent"), [({}, False), ({"SQLMESH__DISABLE_ANONYMIZED_ANALYTICS": "false"}, True)])
def test_usage_events_are_sent_only_if_the_environment_of_the_worker_asks_for_them(
    env: dict[str, str], is_sent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """docs/troubleshooting.md."""
    monkeypatch.delenv("SQLMESH__DISABLE_ANONYMIZED_ANALYTICS", raising=False)
    program = "import sqlmesh.core.analytics as found; print(type(found.collector._dispatcher).__name__)"
    environment = SQLMeshProject((Path(),), env=env).process_environment
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["AsyncEventDispatcher" if is_sent else "NoopEventDispatcher"]
