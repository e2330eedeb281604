"""A project on PostgreSQL whose plans pause, so that runs come between."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any
from uuid import uuid4

import dagster as dg
import mariadb
from engine.plan_jobs import APPLY, applied, change, executed, launch, planned
from engine.preview_lab import PREVIEW
from forked import ForkedProcess
from harness import NewShop, RunRecord, Shop, wait_until
from postgres import Server

LOCK = 7
"""The advisory lock for which a query with `PAUSES` waits."""
DAILY = "kind INCREMENTAL_BY_TIME_RANGE (time_column day)"
WITHIN = "WHERE day BETWEEN @start_ds::date AND @end_ds::date"
FILES = {
    "models/orders.sql": f"MODEL (name t.orders, {DAILY}); SELECT day, n FROM raw.orders {WITHIN}",
    "models/days.sql": f"MODEL (name t.days, {DAILY}); SELECT day, n FROM t.orders {WITHIN}",
    "models/other.sql": "MODEL (name t.other, kind FULL); SELECT 1 AS x",
}
LOOKBACK = "kind INCREMENTAL_BY_TIME_RANGE (time_column day, lookback 1)"
SWITCH = "(SELECT x FROM raw.switch)"
KEPT = f"MODEL (name t.kept, {LOOKBACK}); SELECT day, n / {SWITCH} AS n FROM t.orders {WITHIN}"
"""A model of which `leave_gap` leaves a gap."""
SUCCESS, FAILURE = dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE
PAUSES = f", pg_advisory_xact_lock({LOCK})::text AS paused"


def day(ago: int) -> str:
    return str(datetime.now(timezone.utc).date() - timedelta(days=ago))


def days(first: int, last: int | None = None) -> dict[str, str]:
    """The range of a restatement, from one of these days ago to the other."""
    return {"start": day(first), "end": day(first if last is None else last)}


@dataclass
class Warehouse:
    """A shop in a database of its own. Two days are computed, and three are pending.

    Attributes:
        state: The server of SQLMesh's state, if that is not in the same database.
    """

    server: Server
    database: str
    shop: Shop
    is_killed: bool = False
    state: mariadb.Server | None = None

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        return self.server.query(sql, self.database)

    def query_state(self, sql: str) -> list[tuple[Any, ...]]:
        return self.query(sql) if self.state is None else self.state.query(sql)

    def last_log(self) -> str:
        """The log of the newest run."""
        [run] = self.shop.instance.get_runs(limit=1)
        return self.shop.run_record(run.run_id).log

    def log_of(self, job: str) -> str:
        """The log of the newest run of a job; empty if there is none yet."""
        runs = self.shop.instance.get_runs(dg.RunsFilter(job_name=job), limit=1)
        return self.shop.run_record(runs[0].run_id).log if runs else ""

    def waits_for(self, lock: int) -> bool:
        """Whether a query waits for an advisory lock."""
        waiting = f"SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND objid = {lock} AND NOT granted"
        return bool(self.query(waiting))

    def release(self, lock: int) -> None:
        """End the session that holds an advisory lock."""
        holder = f"SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objid = {lock} AND granted"
        self.query(f"SELECT pg_terminate_backend(pid) FROM ({holder}) AS holder")

    def table(self, model: str) -> str:
        """The physical table of a model, which its view shows."""
        [[definition]] = self.query(f"SELECT pg_get_viewdef('t.{model}'::regclass)")
        return str(definition).split("FROM ")[1].rstrip("; \n")

    def rows(self, model: str) -> list[tuple[str, int]]:
        return [(str(of_day), n) for of_day, n in self.query(f"SELECT day, n FROM t.{model} ORDER BY day")]

    def change(self, model: str, old: str, new: str) -> None:
        file = self.shop.project / "models" / f"{model}.sql"
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new))

    def write(self, **models: str) -> None:
        change(self.shop, **models)

    def add(self, **models: str) -> None:
        self.write(**models)
        self.shop.plan()

    def run(self, *assets: str, **config: Any) -> RunRecord:
        """Run all assets or some, with a config of the run."""
        options: dict[str, Any] = {"assets": [*assets]} if assets else {}
        return self.shop.launch(ops={"sqlmesh_shop": config}, **options).succeeded()

    def restate_oldest(self) -> None:
        """Change the oldest day of the source, and restate it."""
        self.query(f"UPDATE raw.orders SET n = 50 WHERE day = '{day(5)}'")
        self.run("t/orders", restate=days(5))

    def preview(self, **config: bool) -> None:
        launch(self.shop, PREVIEW, **config).succeeded()

    def apply(self) -> RunRecord:
        return applied(self.shop)

    @contextmanager
    def applying(self, model: str, old: str, new: str, **config: Any) -> Iterator[ForkedProcess]:
        """Change a model and apply the plan in a process of its own, which waits for a lock until the block ends."""
        self.change(model, old, new)
        with self.holding(LOCK, lambda: self.start_apply(**config)) as process:
            yield process
            assert self.is_killed or process.poll() is None, "the apply waits for the lock"

    @contextmanager
    def holding(self, lock: int, start: Callable[[], ForkedProcess]) -> Iterator[ForkedProcess]:
        """Start a process, which waits for an advisory lock until the block ends."""
        with self.server.advisory_lock(lock, self.database):
            process = start()
            wait_until(lambda: self.waits_for(lock), process)
            yield process

    def leave_gap(self, *models: str) -> None:
        """Let a run of models with a lookback fail. They have forgotten their last day before, to compute it again.

        That needs a new day to compute: the run begins with what the models read.
        """
        self.query("UPDATE raw.switch SET x = 0")
        assert self.shop.launch(assets=sorted({"t/orders", *(f"t/{model}" for model in models)})).status is FAILURE
        self.query("UPDATE raw.switch SET x = 1")

    def start_apply(self, **config: Any) -> ForkedProcess:
        return self.start_job(APPLY, digest=planned(self.shop)["digest"], **config)

    def start_job(self, job: str, **config: Any) -> ForkedProcess:
        """Launch a job of plans in a process of its own."""
        return self.shop.start_fork(lambda instance: executed(self.shop, instance, job, config))

    def start_restatement(self, first: int, last: int) -> ForkedProcess:
        """Restate t.orders from the first of these days ago to the last one, in a process of its own."""
        return self.shop.start(ops={"sqlmesh_shop": {"restate": days(first, last)}}, assets=["t/orders"])

    def end(self, process: ForkedProcess, status: dg.DagsterRunStatus = SUCCESS) -> RunRecord:
        record = self.shop.run_record(process.communicate(timeout=300)[0].split()[-1])
        assert record.status is status, record.failures
        return record


def new_warehouse(
    server: Server, new_shop: NewShop, settings: str = "", state: mariadb.Server | None = None, **attributes: Any
) -> Warehouse:
    database = f"beside_{uuid4().hex[:8]}"
    server.query(f"CREATE DATABASE {database}")
    server.query("CREATE SCHEMA raw; CREATE TABLE raw.orders (day date, n int)", database)
    server.query("CREATE TABLE raw.switch AS SELECT 1 AS x", database)
    for ago in range(5, 0, -1):
        server.query(f"INSERT INTO raw.orders VALUES ('{day(ago)}', {ago})", database)
    config = server.config(database, start=day(5)) + settings
    if state is not None:
        state.clear()
        config = state.with_state(config)
    options = {"deploy": True, "restate": True, "janitor": True, "execution": {"overlap_timeout": 10}, **attributes}
    return Warehouse(server, database, new_shop(FILES, config, **options), state=state)


def all_rows() -> list[tuple[str, int]]:
    """The rows of t.orders and t.days if all days are computed."""
    return [(day(ago), ago) for ago in range(5, 0, -1)]
