"""An apply on PostgreSQL: runs go on while it computes new versions, and nothing is left out."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any
from uuid import uuid4

import dagster as dg
import pytest
from engine.plan_jobs import APPLY, failure_of, launch, planned
from harness import TESTS, NewShop, RunRecord, Shop, processes_in, wait_until
from postgres import Server, postgres_server

APPLYING = """
import json, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
import dagster as dg
from dagster._utils.interrupts import setup_interrupt_handlers
from harness import reconstructable_job
setup_interrupt_handlers()  # as in the process of a run
job = reconstructable_job(Path(sys.argv[3]), {}, sys.argv[4])
with dg.DagsterInstance.from_config(sys.argv[2]) as instance:
    with dg.execute_job(job, instance=instance, run_config=json.loads(sys.argv[5])) as result:
        print(result.run_id)
"""
WAITING = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND objid = 7 AND NOT granted"
DAILY = "kind INCREMENTAL_BY_TIME_RANGE (time_column day)"
WITHIN = "WHERE day BETWEEN @start_ds::date AND @end_ds::date"
FILES = {
    "models/orders.sql": f"MODEL (name t.orders, {DAILY}); SELECT day, n FROM raw.orders {WITHIN}",
    "models/days.sql": f"MODEL (name t.days, {DAILY}); SELECT day, n FROM t.orders {WITHIN}",
    "models/other.sql": "MODEL (name t.other, kind FULL); SELECT 1 AS n",
}
PAUSES = ", pg_advisory_xact_lock(7)::text AS paused"
TODAY = datetime.now(timezone.utc).date()


def day(ago: int) -> str:
    return str(TODAY - timedelta(days=ago))


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with postgres_server() as server:
        yield server


@dataclass
class Warehouse:
    """A shop in a database of its own. Three days are computed, and two are pending."""

    server: Server
    database: str
    shop: Shop
    is_killed: bool = False

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        return self.server.query(sql, self.database)

    def rows(self, model: str) -> list[tuple[str, int]]:
        return [(str(of_day), n) for of_day, n in self.query(f"SELECT day, n FROM t.{model} ORDER BY day")]

    @contextmanager
    def applying(self, model: str, old: str, new: str) -> Iterator[subprocess.Popen[str]]:
        """Change a model and apply the plan in a process of its own, which waits for a lock until the block ends."""
        file = self.shop.project / "models" / f"{model}.sql"
        file.write_text(file.read_text().replace(old, new))
        digest = planned(self.shop)["digest"]
        config = {"execution": {"config": {"in_process": {}}}, "ops": {APPLY: {"config": {"digest": digest}}}}
        arguments = [TESTS, self.shop.instance.root_directory, self.shop.root, APPLY, json.dumps(config)]
        with self.server.advisory_lock(7, self.database):
            command = [sys.executable, "-c", APPLYING, *map(str, arguments)]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            wait_until(lambda: bool(self.query(WAITING)), process)
            yield process
            assert self.is_killed or process.poll() is None, "the apply waits for the lock"

    def end(self, process: subprocess.Popen[str]) -> RunRecord:
        record = self.shop.run_record(process.communicate(timeout=300)[0].split()[-1])
        assert record.status is dg.DagsterRunStatus.SUCCESS, record.failures
        return record


@pytest.fixture
def warehouse(server: Server, new_shop: NewShop) -> Warehouse:
    database = f"beside_{uuid4().hex[:8]}"
    server.query(f"CREATE DATABASE {database}")
    server.query("CREATE SCHEMA raw; CREATE TABLE raw.orders (day date, n int)", database)
    for ago in range(5, 0, -1):
        server.query(f"INSERT INTO raw.orders VALUES ('{day(ago)}', {ago})", database)
    config = server.config(database, start=day(5))
    return Warehouse(
        server, database, new_shop(FILES, config, deploy=True, restate=True, execution={"overlap_timeout": 60})
    )


ALL = [(day(ago), ago) for ago in range(5, 0, -1)]


def test_a_run_does_not_wait_for_the_backfill_and_the_plan_computes_what_the_run_has_computed(
    warehouse: Warehouse,
) -> None:
    shop = warehouse.shop
    with warehouse.applying("days", "day, n", f"day, n {PAUSES}") as process:
        run = shop.launch()
        assert run.status is dg.DagsterRunStatus.SUCCESS, run.failures
        assert "Waiting" not in run.log
        assert warehouse.rows("days") == ALL, "by the old version"
    applied = warehouse.end(process)
    assert f"intervals of the old versions: t.days ({day(3)} to {day(1)} (3 days))." in applied.log
    assert warehouse.rows("days") == ALL
    assert warehouse.query("SELECT count(paused) FROM t.days") == [(5,)]
    assert shop.launch().status_of("t/days") == "up_to_date"


def test_an_interval_that_is_restated_while_a_new_version_reads_it_is_computed_again(warehouse: Warehouse) -> None:
    shop = warehouse.shop
    with warehouse.applying("days", "day, n", f"day, n {PAUSES}") as process:
        warehouse.query(f"UPDATE raw.orders SET n = 50 WHERE day = '{day(5)}'")
        restate = {"sqlmesh_shop": {"restate": {"start": day(5), "end": day(5)}}}
        run = shop.launch(ops=restate, assets=["t/orders"])
        assert run.status is dg.DagsterRunStatus.SUCCESS, run.failures
    applied = warehouse.end(process)
    assert f"runs had rewritten what was read: t.days ({day(5)})." in applied.log
    assert warehouse.rows("days")[0] == (day(5), 50)


def test_an_interval_of_the_old_version_that_is_restated_is_computed_again_by_the_new_one(warehouse: Warehouse) -> None:
    shop = warehouse.shop
    with warehouse.applying("orders", "day, n", f"day, n {PAUSES}") as process:
        warehouse.query(f"UPDATE raw.orders SET n = 50 WHERE day = '{day(5)}'")
        restate = {"sqlmesh_shop": {"restate": {"start": day(5), "end": day(5)}}}
        run = shop.launch(ops=restate, assets=["t/orders"])
        assert run.status is dg.DagsterRunStatus.SUCCESS, run.failures
    applied = warehouse.end(process)
    assert warehouse.rows("orders")[0] == (day(5), 50), "the new version had read the source before it has changed"
    assert f"t.orders ({day(5)})" in applied.log
    assert warehouse.rows("days")[0] == (day(5), 50)


def test_models_downstream_of_a_new_version_and_whole_tables_are_made_up_for_too(warehouse: Warehouse) -> None:
    shop = warehouse.shop
    models = shop.project / "models"
    (models / "total.sql").write_text("MODEL (name t.total, kind FULL); SELECT sum(n) AS n FROM t.days")
    kept = f"MODEL (name t.kept, kind INCREMENTAL_UNMANAGED); SELECT day, n FROM t.days {WITHIN}"
    (models / "kept.sql").write_text(kept)
    shop.plan()
    with warehouse.applying("days", "day, n", f"day, n {PAUSES}") as process:
        assert shop.launch().status is dg.DagsterRunStatus.SUCCESS
    warehouse.end(process)
    assert warehouse.rows("days") == ALL
    assert warehouse.query("SELECT n FROM t.total") == [(sum(range(1, 6)),)]
    assert warehouse.rows("kept") == ALL, "each interval once"


def test_another_apply_waits_for_the_first_and_names_it(warehouse: Warehouse) -> None:
    shop = warehouse.shop
    with warehouse.applying("days", "day, n", f"day, n {PAUSES}") as process:
        report = planned(shop)
        record = launch(shop, APPLY, digest=report["digest"])
        assert record.status is dg.DagsterRunStatus.FAILURE
        assert "is held by plan of run" in failure_of(record)
    warehouse.end(process)


def test_a_killed_apply_is_finished_with_the_same_digest_and_reads_again_what_was_rewritten(
    warehouse: Warehouse,
) -> None:
    shop = warehouse.shop
    with warehouse.applying("days", "day, n", f"day, n {PAUSES}") as process:
        warehouse.query(f"UPDATE raw.orders SET n = 50 WHERE day = '{day(5)}'")
        restate = {"sqlmesh_shop": {"restate": {"start": day(5), "end": day(5)}}}
        assert shop.launch(ops=restate, assets=["t/orders"]).status is dg.DagsterRunStatus.SUCCESS
        process.kill()
        wait_until(lambda: not processes_in(shop.project))
        assert shop.launch().status is dg.DagsterRunStatus.SUCCESS, "the locks are free"
        warehouse.is_killed = True
    report = planned(shop)
    record = launch(shop, APPLY, digest=report["digest"])
    assert record.status is dg.DagsterRunStatus.SUCCESS, failure_of(record)
    assert warehouse.rows("days") == [(day(5), 50), *ALL[1:]]
