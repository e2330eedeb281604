"""Apply a plan whose backfill takes minutes on PostgreSQL, and launch runs of other models meanwhile.

    python tests/soak/long_apply.py --minutes 10 --runs 30

A twin in another database applies the same plan first, without pauses, and then does the same runs one after another.
Rows, intervals and records of both must be equal. No run may wait for the plan while it computes.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import dagster as dg
from engine.beside_lab import WITHIN, Warehouse, day, days
from engine.plan_jobs import APPLY, launch, planned
from harness import RunRecord, planned_shop
from postgres import Server, new_postgres_server

PAUSE = 2
"""Seconds of each day of the changed model."""
TASKS = 2
"""How many days SQLMesh computes at once, as in the configuration of the tests' server."""
DAYS = 5
OP = "sqlmesh_shop"
OTHERS = [f"t/other{number}" for number in range(3)]
DAILY = "kind INCREMENTAL_BY_TIME_RANGE (time_column day{options}), start '{start}'"
SLEEPS = "(SELECT pg_sleep(CASE WHEN @start_ds > '1970-01-02' THEN seconds END) FROM raw.pause)::text AS slept"


class Project(Warehouse):
    """A project in a database of its own."""

    def change_slow(self) -> None:
        """Change the model whose backfill takes long."""
        self.change("slow", "n AS n", "n + 1 AS n")

    def prepare(self, number: int) -> dict[str, Any]:
        """Change the source of a day. Return the config of the run that reads it: the first one computes all days."""
        if number == 0:
            return {}
        ago = 1 + number % DAYS
        self.query(f"UPDATE raw.orders SET n = {number} WHERE day = '{day(ago)}'")
        return {"restate": days(ago)}

    def all_rows(self) -> dict[str, list[tuple[Any, ...]]]:
        names = ["slow", *(other.split("/")[1] for other in OTHERS)]
        return {name: self.query(f"SELECT * FROM t.{name} ORDER BY day") for name in names}

    def intervals(self) -> set[tuple[Any, ...]]:
        """The computed intervals of the promoted versions, as days."""
        promoted = self.query("SELECT snapshots FROM sqlmesh._environments WHERE name = 'prod'")[0][0]
        versions = {(info["name"].replace(self.database, "db"), info["version"]) for info in json.loads(promoted)}
        rows = self.query("SELECT name, version, start_ts, end_ts FROM sqlmesh._intervals WHERE NOT is_removed")
        length = 86_400_000
        return {
            (name.replace(self.database, "db"), first)
            for name, version, start, end in rows
            if (name.replace(self.database, "db"), version) in versions
            for first in range(start, end, length)
        }

    def records(self) -> dict[str, int]:
        """The number of materializations of each model."""
        keys = [dg.AssetKey(other.split("/")) for other in [*OTHERS, "t/slow"]]
        limit = 1_000
        fetch = self.shop.instance.fetch_materializations
        return {key.to_user_string(): len(fetch(key, limit=limit).records) for key in keys}


@contextmanager
def new_project(server: Server, database: str, folder: Path, days: int, pause: int) -> Iterator[Project]:
    server.query(f"CREATE DATABASE {database}")
    server.query("CREATE SCHEMA raw; CREATE TABLE raw.orders (day date, n int)", database)
    server.query(f"CREATE TABLE raw.pause AS SELECT {pause}::float AS seconds", database)
    all_days = f"generate_series('{day(days)}'::date, '{day(1)}', '1 day')"
    server.query(f"INSERT INTO raw.orders SELECT day, 1 FROM {all_days} AS g(day)", database)
    server.query("CREATE TABLE raw.fixed AS SELECT * FROM raw.orders", database)
    slow = DAILY.format(options=", batch_size 1", start=day(days))
    files = {"models/slow.sql": f"MODEL (name t.slow, {slow}); SELECT day, n AS n, {SLEEPS} FROM raw.fixed {WITHIN}"}
    for other in OTHERS:
        header = f"MODEL (name {other.replace('/', '.')}, {DAILY.format(options='', start=day(DAYS))})"
        files[f"models/{other.split('/')[1]}.sql"] = f"{header}; SELECT day, n FROM raw.orders {WITHIN}"
    config = server.config(database, start=day(days))
    with planned_shop(folder, files, config, deploy=True, restate=True) as shop:
        yield Project(server, database, shop)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--runs", type=int, default=30)
    options = parser.parse_args()
    days = max(DAYS + 1, round(TASKS * options.minutes * 60 / PAUSE))
    with tempfile.TemporaryDirectory() as folder, new_postgres_server() as server:
        root = Path(folder).resolve()
        (root / "beside").mkdir()
        (root / "twin").mkdir()
        with (
            new_project(server, "twin", root / "twin", days, 0) as twin,
            new_project(server, "beside", root / "beside", days, 0) as beside,
        ):
            beside.query(f"UPDATE raw.pause SET seconds = {PAUSE}")
            applied, runs, while_computing = apply_beside(beside, options.runs, options.minutes * 60 / options.runs)
            serially(twin, options.runs)
            report(applied, runs, while_computing)
            assert beside.all_rows() == twin.all_rows(), "rows differ"
            assert beside.intervals() == twin.intervals(), "intervals differ"
            assert beside.records() == twin.records(), (beside.records(), twin.records())
    print("rows, intervals and records are those of the twin")


def apply_beside(project: Project, number: int, seconds: float) -> tuple[RunRecord, list[RunRecord], list[RunRecord]]:
    """Apply the plan, and launch a run each so many seconds meanwhile.

    Returns:
        The apply; all runs; those at whose end the plan was still computing, because nothing was promoted yet.
    """
    project.change_slow()
    apply = project.start_apply()
    begin = time.monotonic()
    runs, while_computing = list[RunRecord](), list[RunRecord]()
    for run in range(number):
        time.sleep(max(0.0, begin + run * seconds - time.monotonic()))
        process = project.shop.start(ops={OP: project.prepare(run)}, assets=OTHERS)
        runs.append(project.shop.run_record(process.communicate()[0].split()[-1]))
        if project.query("SELECT max(n) FROM t.slow") == [(1,)]:
            while_computing.append(runs[-1])
        print(f"run {run + 1}: {runs[-1].status.value}, the plan {'goes on' if apply.poll() is None else 'has ended'}")
    return project.shop.run_record(apply.communicate()[0].split()[-1]), runs, while_computing


def serially(twin: Project, number: int) -> None:
    twin.change_slow()
    assert launch(twin.shop, APPLY, digest=planned(twin.shop)["digest"]).status is dg.DagsterRunStatus.SUCCESS
    for run in range(number):
        twin.shop.launch(ops={OP: twin.prepare(run)}, assets=OTHERS).succeeded()


def report(applied: RunRecord, runs: list[RunRecord], while_computing: list[RunRecord]) -> None:
    assert len(while_computing) >= len(runs) // 2, "runs have waited until the plan had computed"
    assert not any("Waiting" in run.log for run in while_computing), "a run has waited while the plan computed"
    waited = [run.run_id for run in runs if "Waiting" in run.log]
    starts = []
    for run in runs:
        assert run.status is dg.DagsterRunStatus.SUCCESS, run.failures
        found = run.instance.get_run_record_by_id(run.run_id)
        assert found is not None
        assert found.start_time is not None
        since = datetime.fromisoformat(found.dagster_run.tags[".dagster/sqlmesh_computing_since"])
        starts.append(since.timestamp() - found.start_time)
    assert applied.status is dg.DagsterRunStatus.SUCCESS, applied.failures
    print(f"runs that waited: {len(waited)} of {len(runs)}; from their start until they compute: {max(starts):.1f} s")
    print(next(line for line in applied.log.splitlines() if "Runs went on" in line))


if __name__ == "__main__":
    main()
