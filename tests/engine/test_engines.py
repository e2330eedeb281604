"""The same project and the same actions on DuckDB, PostgreSQL, MariaDB and a local Spark, with the same results.

What an engine does differently is in `Engine`. tests/engine/test_cancel.py cancels queries on three of the engines.
"""

from __future__ import annotations

import datetime
import importlib.util
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from engine.plan_jobs import launch
from engine.preview_lab import PREVIEW, diffs, report_of_last
from harness import (
    CONFIG,
    YEARLY_CRON,
    RunRecord,
    Shop,
    at_night,
    needs_previews,
    planned_shop,
    python_model,
    query,
    script,
    write_project,
)
from mariadb import mariadb_server
from postgres import postgres_server


def day(ago: int) -> datetime.date:
    return datetime.datetime.now(datetime.timezone.utc).date() - datetime.timedelta(ago)


DAYS = "ctl.days WHERE ds BETWEEN @start_ds AND @end_ds"
BY_DAY = "kind INCREMENTAL_BY_TIME_RANGE (time_column ds{more})"
AUDITED = "audits (not_null(columns := (n)))"
ITEMS = "MODEL (name t.{name}, kind FULL{grain}); SELECT id, {price}, {label}, {number} FROM ctl.items WHERE id {which}"
PRICE = "CAST(1200000000000000.69 + {added} AS DECIMAL(18, 2)) AS price"
ITEMS_IN_PROD = {"price": PRICE.format(added="0"), "label": "'a' AS label", "number": "1 AS number", "which": "<= 16"}
ITEMS_CHANGED = {
    "price": PRICE.format(added="CASE WHEN id = 5 THEN 0.09 ELSE 0 END"),
    "label": "CASE WHEN id IN (6, 7) THEN 'A' ELSE 'a' END AS label",
    "number": "CASE WHEN id = 8 THEN 10 ELSE 1 END AS number",
    "which": "> 2",
}


def items(values: dict[str, str]) -> dict[str, str]:
    """Two models with the same rows, of which one has a key."""
    return {
        f"models/{name}.sql": ITEMS.format(name=name, grain=grain, **values)
        for name, grain in {"items": ", grain id", "keyless": ""}.items()
    }


MODELS = {
    # The column by which Spark partitions a table is its last one.
    "models/orders.sql": f"MODEL (name t.orders, {BY_DAY.format(more='')}, {AUDITED}); "
    f"SELECT (SELECT n FROM ctl.source) AS n, ds FROM {DAYS}",
    "models/revenue.sql": "MODEL (name t.revenue, kind FULL); SELECT SUM(n) AS n FROM t.orders",
    "models/yearly.sql": f"MODEL (name t.yearly, kind FULL, cron '{YEARLY_CRON}', start '2020-01-01'); SELECT 1 AS n",
    "models/gated.py": python_model(
        "t.gated", "if Path('kill').exists(): os.kill(os.getpid(), signal.SIGKILL)"
    ).replace("depends_on=[]", "signals=[('released', {})]"),
    "models/below_gated.sql": "MODEL (name t.below_gated, kind FULL); SELECT id AS n FROM t.gated",
    "models/failing.sql": "MODEL (name t.failing, kind FULL); SELECT (SELECT n FROM ctl.single) AS n",
    "models/below_failing.sql": "MODEL (name t.below_failing, kind FULL); SELECT n FROM t.failing",
    "models/audited.sql": f"MODEL (name t.audited, kind FULL, {AUDITED}); SELECT MAX(n) AS n FROM ctl.audited",
    # Two batches of one table at once may end in a deadlock on MariaDB (1213): InnoDB locks the gaps between rows.
    "models/batched.sql": f"MODEL (name t.batched, {BY_DAY.format(more=', batch_size 1, batch_concurrency 1')}); "
    f"SELECT (SELECT n FROM ctl.single_of_day WHERE ds = @end_ds) AS n, ds FROM {DAYS}",
    "signals/__init__.py": "",
    "signals/released.py": "from pathlib import Path\n\nfrom sqlmesh import signal\n\n\n@signal()\n"
    "def released(batch):\n    return not Path('hold').exists()\n",
    **items(ITEMS_IN_PROD),
}
NOT_PROMOTED = {"models/unplanned.sql": "MODEL (name t.unplanned, kind FULL); SELECT 1 AS n"}


def sources() -> dict[str, str]:
    """The queries of the sources, by name."""
    return {
        "days": " UNION ALL ".join(f"SELECT CAST('{day(n)}' AS DATE) AS ds" for n in range(10)),
        "source": "SELECT 1 AS n",
        "single": "SELECT 1 AS n",
        "audited": "SELECT 1 AS n",
        "single_of_day": "SELECT ds, 1 AS n FROM ctl.days",
        "items": " UNION ALL ".join(f"SELECT {n} AS id" for n in range(1, 21)),
    }


def faults() -> dict[str, str]:
    """Those of sources with faults."""
    return {
        "single": "SELECT 1 AS n UNION ALL SELECT 2",
        "audited": "SELECT NULLIF(1, 1) AS n",
        "single_of_day": f"SELECT ds, 1 AS n FROM ctl.days UNION ALL SELECT CAST('{day(1)}' AS DATE), 2",
    }


def source(name: str, rows: str) -> str:
    """Views, because every engine replaces them, and a query of one reads the rows of that moment."""
    return f"CREATE OR REPLACE VIEW ctl.{name} AS {rows}"


@dataclass
class Engine:
    """An engine that has the tables of a project, and what it does differently from others.

    Attributes:
        ask: Executes statements and returns the rows of each. The first argument is the folder of the project.
        too_many_rows: Its error if a subquery has more than one row.
        keeps_rows: Whether a failed batch leaves the rows of its range. SQLMesh uses no transactions on some engines,
            and has then deleted them.
    """

    config: str
    ask: Callable[[Path, list[str]], list[list[Any]]]
    too_many_rows: str
    keeps_rows: bool = True


@contextmanager
def duckdb(folder: Path) -> Iterator[Engine]:
    def ask(project: Path, statements: list[str]) -> list[list[Any]]:
        return [query(project, sql) for sql in statements]

    yield Engine(CONFIG, ask, "More than one row returned by a subquery", keeps_rows=False)


@contextmanager
def postgres(folder: Path) -> Iterator[Engine]:
    with postgres_server() as server:
        server.query("CREATE DATABASE engines")

        def ask(project: Path, statements: list[str]) -> list[list[Any]]:
            return [server.query(sql, "engines") for sql in statements]

        yield Engine(server.config("engines"), ask, "more than one row returned by a subquery")


@contextmanager
def mariadb(folder: Path) -> Iterator[Engine]:
    with mariadb_server() as server:
        server.clear()

        def ask(project: Path, statements: list[str]) -> list[list[Any]]:
            return [server.query(sql) for sql in statements]

        yield Engine(server.config(), ask, "Subquery returns more than 1 row")


SPARK_CONFIG = """
gateways:
  local:
    connection:
      type: spark
      concurrent_tasks: 2
      config:
        spark.master: local[2]
        spark.sql.shuffle.partitions: "1"
        spark.driver.extraJavaOptions: -XX:TieredStopAtLevel=1 -XX:+UseSerialGC
        spark.sql.warehouse.dir: {folder}/warehouse
        spark.hadoop.javax.jdo.option.ConnectionURL: jdbc:derby:;databaseName={folder}/metastore;create=true
        spark.ui.enabled: "false"
        spark.log.level: ERROR
    state_connection: {{type: duckdb, database: state.duckdb}}
default_gateway: local
model_defaults:
  dialect: spark
  start: 6 days ago
disable_anonymized_analytics: true
"""
"""Each command has a session of its own. With these options of Java, it takes a third of the time."""


@contextmanager
def spark(folder: Path) -> Iterator[Engine]:
    """Spark in SQLMesh's process, with its catalog in a folder that one process at a time can open."""
    if not shutil.which("java") or not importlib.util.find_spec("pyspark"):
        pytest.skip("JAVA OR PYSPARK IS NOT INSTALLED, so nothing was tested on a local Spark: run `make test-engines`")

    def ask(project: Path, statements: list[str]) -> list[list[Any]]:
        found: list[list[Any]] = script("sqlmesh_query.py", project, ".", *statements)
        return found

    # SQLMesh uses no transactions on Spark either, but INSERT OVERWRITE, which keeps what it cannot replace.
    yield Engine(SPARK_CONFIG.format(folder=folder), ask, "SCALAR_SUBQUERY_TOO_MANY_ROWS")


ENGINES = {"duckdb": duckdb, "postgres": postgres, "mariadb": mariadb, "spark": spark}


Row: TypeAlias = "tuple[str, str | None, str | None, int | None, list[str] | None]"
"""Of a model: outcome, status check, check of its audit, number of computed days, and rows. In a row, a day is the
number of days before today."""


@dataclass
class Result:
    """What Dagster, SQLMesh's state and the tables have after a run.

    Attributes:
        days: How many days of each model are computed.
    """

    run: RunRecord
    days: dict[str, int]
    rows: dict[str, list[str]]

    def table(self) -> dict[str, Row]:
        """Return a row for each model that the run has an event of."""

        def check(name: str) -> str | None:
            found = self.run.checks.get(name)
            return None if found is None else "passed" if found.passed else found.severity.value

        return {
            name: (
                outcome,
                check(f"t/{name}:sqlmesh_execution_status"),
                check(f"t/{name}:not_null_n"),
                self.days.get(name),
                self.rows.get(name),
            )
            for name in sorted({*self.days, "unplanned"})
            if (outcome := self.run.status_of(f"t/{name}"))
        }


def text(value: Any) -> str:
    """A value of a row. The drivers return several classes."""
    with suppress(ValueError):
        return str((day(0) - datetime.date.fromisoformat(str(value))).days)
    return str(value)


@dataclass
class Story:
    """Runs of one project, one after the other. Each property first plays the ones before it."""

    shop: Shop
    engine: Engine

    def ask(self, *statements: str) -> list[list[Any]]:
        return self.engine.ask(self.shop.project, list(statements))

    def result(self, run: RunRecord) -> Result:
        milliseconds = self.shop.state()["intervals"]
        days = {fqn.split('"')[-2]: n // (24 * 60 * 60 * 1000) for fqn, n in milliseconds.items()}
        found = self.ask(*(f"SELECT * FROM t.{name}" for name in days))
        rows = {name: sorted(" ".join(map(text, row)) for row in rows) for name, rows in zip(days, found)}
        return Result(run, days, rows)

    @cached_property
    def planned(self) -> str:
        self.ask("CREATE SCHEMA ctl", *(source(*named) for named in sources().items()))
        return self.shop.plan()

    @cached_property
    def faulty(self) -> Result:
        """A run with each outcome but one."""
        assert self.planned
        write_project(self.shop.project, NOT_PROMOTED, self.engine.config)
        (self.shop.project / "hold").touch()
        self.ask(*(source(*named) for named in faults().items()))
        return self.result(self.shop.launch())

    @cached_property
    def killed(self) -> Result:
        """A run of a model that kills SQLMesh's process."""
        assert self.faulty
        (self.shop.project / "hold").unlink()
        (self.shop.project / "kill").touch()
        return self.result(self.shop.launch(assets=["t/gated"]))

    @cached_property
    def repaired(self) -> Result:
        """A run without any fault."""
        assert self.killed
        (self.shop.project / "kill").unlink()
        self.ask(*(source(name, sources()[name]) for name in faults()))
        self.shop.plan("--skip-backfill", at=None)
        return self.result(self.shop.launch())

    def restate_one_day(self, rows: str) -> Result:
        """Compute one day of t.orders again from other rows."""
        self.ask(source("source", rows))
        config = {"sqlmesh_shop": {"restate": {"start": str(day(3)), "end": str(day(3))}}}
        return self.result(self.shop.launch(ops=config, assets=["t/orders"]))

    @cached_property
    def half_restated(self) -> Result:
        """A restatement whose query fails."""
        assert self.repaired
        return self.restate_one_day(faults()["single"])

    @cached_property
    def restated(self) -> Result:
        assert self.half_restated
        return self.restate_one_day("SELECT 7 AS n")

    @cached_property
    def previewed(self) -> dict[str, dict[str, Any]]:
        """The diffs of a preview of changed models."""
        assert self.restated
        write_project(self.shop.project, items(ITEMS_CHANGED), self.engine.config)
        return diffs(report_of_last(launch(self.shop, PREVIEW).succeeded()))


@pytest.fixture(scope="module")
def story(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    folder = tmp_path_factory.mktemp(request.param)
    options: dict[str, Any] = {"restate": True, "deploy": {}, "preview": {"environment": "pr_1"}}
    with (
        ENGINES[request.param](folder) as engine,
        planned_shop(folder, MODELS, engine.config, planned_at=None, **options) as shop,
    ):
        yield Story(shop, engine)


on_each_engine = pytest.mark.parametrize(
    "story", [*at_night("duckdb"), "postgres", "mariadb", *at_night("spark")], indirect=True, scope="module"
)
on_mariadb = pytest.mark.parametrize(
    "story", [*at_night("duckdb", "postgres"), "mariadb", *at_night("spark")], indirect=True, scope="module"
)
"""For facts that other tests of CI state for the other engines."""


def rows_of(*days: int) -> list[str]:
    return [f"1 {day}" for day in days]


ITEM_ROWS = sorted(f"{n} 1200000000000000.69 a 1" for n in range(1, 17))
LAST_TICK = day(0).year - (int(YEARLY_CRON.split()[3]) > day(0).month)
"""The year of the last tick of YEARLY_CRON. SQLMesh computes the years before it."""
YEARLY_DAYS = (datetime.date(LAST_TICK, 1, 1) - datetime.date(2020, 1, 1)).days
IDLE = {"yearly": ("up_to_date", "passed", None, YEARLY_DAYS, ["1"])}

AFTER_FAULTS: dict[str, Row] = {
    # outcome, status check, audit, computed days, rows
    "orders": ("executed", "passed", "passed", 6, rows_of(1, 2, 3, 4, 5, 6)),
    "revenue": ("executed", "passed", None, 6, ["6"]),
    "items": ("executed", "passed", None, 6, ITEM_ROWS),
    "keyless": ("executed", "passed", None, 6, ITEM_ROWS),
    "gated": ("waiting", "WARN", None, 3, ["1"]),
    "below_gated": ("waiting", "WARN", None, 3, ["1"]),
    "failing": ("failed", "ERROR", None, 3, ["1"]),
    "below_failing": ("blocked", "WARN", None, 3, ["1"]),
    "audited": ("audit_failed", "ERROR", "ERROR", 3, ["None"]),
    "batched": ("partly_executed", "ERROR", None, 5, rows_of(2, 3, 4, 5, 6)),
    "unplanned": ("not_in_environment", "ERROR", None, None, None),
    **IDLE,
}
AFTER_REPAIR: dict[str, Row] = {
    "orders": ("up_to_date", "passed", "passed", 6, rows_of(1, 2, 3, 4, 5, 6)),
    "revenue": ("up_to_date", "passed", None, 6, ["6"]),
    "items": ("up_to_date", "passed", None, 6, ITEM_ROWS),
    "keyless": ("up_to_date", "passed", None, 6, ITEM_ROWS),
    "gated": ("executed", "passed", None, 6, ["1"]),
    "below_gated": ("executed", "passed", None, 6, ["1"]),
    "failing": ("executed", "passed", None, 6, ["1"]),
    "below_failing": ("executed", "passed", None, 6, ["1"]),
    "audited": ("executed", "passed", "passed", 6, ["1"]),
    "batched": ("executed", "passed", None, 6, rows_of(1, 2, 3, 4, 5, 6)),
    "unplanned": ("executed", "passed", None, 6, ["1"]),
    **IDLE,
}


@on_each_engine
def test_outcomes_checks_intervals_and_rows_are_the_same_on_each_engine(story: Story) -> None:
    faulty = story.faulty
    assert faulty.table() == AFTER_FAULTS
    executed = {f"t/{name}" for name, (outcome, *_) in AFTER_FAULTS.items() if outcome == "executed"}
    assert set(faulty.run.materializations) == executed
    assert faulty.run.failed().failures[0].count(story.engine.too_many_rows) == 2, "of t.failing and t.batched"


@on_each_engine
def test_model_whose_process_was_killed_is_interrupted_and_keeps_its_rows(story: Story) -> None:
    assert story.killed.table() == {"gated": ("interrupted", "ERROR", None, 3, ["1"])}
    assert "t.gated" in story.killed.run.failed().failures[0]


@on_each_engine
def test_run_after_the_faults_computes_the_rest_and_nothing_else(story: Story) -> None:
    assert story.repaired.table() == AFTER_REPAIR
    story.repaired.run.succeeded()


@on_mariadb
def test_failed_restatement_keeps_the_rows_of_its_day_if_the_engine_has_transactions(story: Story) -> None:
    left = rows_of(1, 2, 3, 4, 5, 6) if story.engine.keeps_rows else rows_of(1, 2, 4, 5, 6)
    assert story.half_restated.table() == {
        "orders": ("failed", "ERROR", "WARN", 5, left),  # the others are pending
        "revenue": ("blocked", "WARN", None, 0, ["6"]),
    }
    story.half_restated.run.failed()


@on_mariadb
def test_restatement_computes_one_day_again(story: Story) -> None:
    assert story.restated.table() == {
        "orders": ("executed", "passed", "passed", 6, [*rows_of(1, 2, 4, 5, 6), "7 3"]),
        "revenue": ("executed", "passed", None, 6, ["12"]),
    }
    assert set(story.restated.run.succeeded().materializations) == {"t/orders", "t/revenue"}


@pytest.mark.night(
    "unit/capabilities/plans/worker/test_table_comparison_queries.py",
    "engine/test_previews.py::test_prod_is_identical_before_and_after_a_preview_...",
)
@needs_previews
@on_mariadb
def test_preview_counts_added_removed_and_changed_rows(story: Story) -> None:
    found = story.previewed
    items, keyless = found["t.items"], found["t.keyless"]
    assert (items["rows_prod"], items["rows"], items["added"], items["removed"], items["changed"]) == (16, 18, 4, 2, 4)
    assert items["columns"] == {
        name: pytest.approx(1 - n / 14) for name, n in [("price", 1), ("label", 2), ("number", 1)]
    }
    assert items["schema"] == [], "int(1) and int(2) of MariaDB are one type"
    assert (keyless["added"], keyless["removed"], keyless["changed"]) == (4 + 4, 2 + 4, None)
