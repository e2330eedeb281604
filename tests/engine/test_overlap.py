"""Two runs at the same time on one state: the second run waits and does not repeat the work of the first."""

import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import datetime, timedelta, timezone
from importlib.metadata import version
from typing import Any

import dagster as dg
import pytest
from engine.plan_jobs import APPLY, change, failure_of, launch, planned
from harness import NewShop, RunRecord, Shop, at_night, processes_in, python_model, wait_until
from mariadb import mariadb_server
from postgres import Server

# Append-only: an interval that is computed twice has its rows twice.
APPENDING_MODEL = """
MODEL (name t.appended, kind INCREMENTAL_UNMANAGED, cron '@daily', start '{start}');
SELECT @start_ds AS since, @end_ds AS until FROM t.before
"""
UPSTREAM_MODEL = "MODEL (name t.before, kind FULL); SELECT 1 AS id"
PRINT_PASSWORDS = """
print("the password is correct-horse-battery, or postgresql://ada:staple@127.0.0.1/shop")
"""
QUERIES = "https://warehouse.example.com/queries?text={run_id}"
HOLD = """
while Path("hold").exists():
    time.sleep(0.02)
"""


def project_files() -> dict[str, str]:
    start = (datetime.now(timezone.utc) - timedelta(days=6)).strftime("%Y-%m-%d")
    return {
        "models/before.sql": UPSTREAM_MODEL,
        "models/appended.sql": APPENDING_MODEL.format(start=start),
        "models/slow.py": python_model("t.slow", PRINT_PASSWORDS + HOLD, ["t.appended"]),
    }


@contextmanager
def two_runs(shop: Shop) -> Iterator[list[RunRecord]]:
    """Launch two runs. t.slow of the first run does not end before the second run waits.

    Yields while the second run waits. After the block, both runs have ended and the yielded list has their records.
    """
    (shop.project / "hold").touch()
    records: list[RunRecord] = []
    processes = [shop.start() for _ in range(2)]

    def a_run_is_waiting() -> bool:
        return any("Waiting up to " in shop.run_record(run.run_id).log for run in shop.instance.get_runs())

    try:
        wait_until(a_run_is_waiting, *processes)
        yield records
    finally:
        (shop.project / "hold").unlink()
    records += [shop.run_record(process.communicate(timeout=300)[0].split()[-1]) for process in processes]


@pytest.mark.attribute("execution.overlap_timeout", "query_history_url")
def test_overlapping_runs_on_postgres_compute_every_interval_once(server: Server, new_shop: NewShop) -> None:
    server.query("CREATE DATABASE appending")
    shop = new_shop(
        project_files(), server.config("appending", password="correct-horse-battery"), query_history_url=QUERIES
    )
    [(planned_rows,)] = server.query("SELECT count(*) FROM t.appended", "appending")
    with two_runs(shop) as records:
        # A transaction that stays open would keep PostgreSQL from cleaning up.
        assert server.query(LOCK_HOLDER_QUERY) == [("idle", None)]
    assert len([record.succeeded() for record in records]) == 2
    [(rows,)] = server.query("SELECT count(*) FROM t.appended", "appending")
    assert rows == planned_rows + 1  # one batch for the days since the plan
    executed = sorted(set(record.materializations) for record in records)
    assert sorted(map(len, executed)) == [0, 3]
    waiter = next(record for record in records if not record.materializations)
    other = next(record for record in records if record is not waiter)
    assert not waiter.computed_outside, "the other run has recorded everything by then"
    assert outside_records(waiter.instance) == dict.fromkeys(("t/before", "t/appended", "t/slow"), 1), "of the plan"
    assert f"is held by Dagster run {other.run_id} since " in waiter.log
    assert {waiter.status_of(asset) for asset in ("t/before", "t/appended", "t/slow")} == {"up_to_date"}
    if not version("sqlmesh").startswith("0.235."):
        assert f"/* SQLMESH_RUN: {other.run_id} */ INSERT INTO" in server.log.read_text()
        link = other.materializations["t/appended"].metadata["sqlmesh/query_history"]
        assert link == dg.MetadataValue.url(f"https://warehouse.example.com/queries?text={other.run_id}")
        assert waiter.run_id not in server.log.read_text(), "it has computed nothing"
    everything = "".join(str(entry) for record in records for entry in record.entries)
    assert "the password is ***, or postgresql://ada:***@127.0.0.1/shop" in everything
    assert "correct-horse" not in everything


@pytest.mark.night("unit/worker/test_lock_session.py", "test_overlapping_runs_on_postgres_compute_every_interval_once")
def test_overlapping_runs_with_mariadb_compute_once_and_name_the_holder(server: Server, new_shop: NewShop) -> None:
    server.query("CREATE DATABASE appending_too")
    with mariadb_server() as maria:
        shop = new_shop(project_files(), maria.with_state(server.config("appending_too")))
        [(planned_rows,)] = server.query("SELECT count(*) FROM t.appended", "appending_too")
        with two_runs(shop) as records:
            shop.configure(execution={"overlap_timeout": 1})
            impatient = shop.launch()
        assert len([record.succeeded() for record in records]) == 2
        [(rows,)] = server.query("SELECT count(*) FROM t.appended", "appending_too")
        assert rows == planned_rows + 1
        waiter, other = sorted(records, key=lambda record: len(record.materializations))
        assert not waiter.materializations
        assert f"is held by Dagster run {other.run_id} since " in waiter.log
        held_by = f"SQLMesh's state in schema 'sqlmesh' is held by Dagster run {other.run_id} since "
        assert held_by in impatient.failures[0]
        assert "This run has waited for 1 second (`execution.overlap_timeout` in defs.yaml)." in impatient.failures[0]


def outside_records(instance: dg.DagsterInstance) -> dict[str, int]:
    """The number of materializations of data that was computed outside of Dagster, by asset."""
    return {
        key.to_user_string(): sum(
            "sqlmesh/origin" in record.asset_materialization.metadata
            for record in instance.fetch_materializations(key, limit=99).records
            if record.asset_materialization
        )
        for key in instance.get_asset_keys()
    }


LOCK_HOLDER_QUERY = (
    "SELECT state, xact_start FROM pg_stat_activity JOIN pg_locks USING (pid) "
    "WHERE locktype = 'advisory' AND granted AND application_name LIKE 'dg_sqlmesh%'"
)


# A fork keeps the sockets of its parent process open.
FORK = """
if Path("fork").exists():
    if os.fork():
        Path("forked").touch()
    time.sleep(600)
"""


@pytest.mark.parametrize("state", ["postgres", *at_night("mariadb")])
@pytest.mark.parametrize("victims", ["run process", *at_night("run and SQLMesh processes")])
def test_lock_of_killed_run_is_released(server: Server, new_shop: NewShop, victims: str, state: str) -> None:
    database = f"killed_{len(victims)}_{state}"
    server.query(f"CREATE DATABASE {database}")
    config = server.config(database, password="correct-horse-battery")
    with mariadb_server() if state == "mariadb" else nullcontext() as maria:
        files = {**project_files(), "models/slow.py": python_model("t.slow", PRINT_PASSWORDS + FORK, ["t.appended"])}
        shop = new_shop(files, maria.with_state(config) if maria else config, execution={"overlap_timeout": 120})
        (shop.project / "fork").touch()
        first = shop.start()
        wait_until((shop.project / "forked").exists, first)
        if state == "postgres":
            assert server.query("SELECT 1 FROM pg_locks WHERE locktype = 'advisory'", database)
        first.kill()
        if victims != "run process":
            for pid in processes_in(shop.project):
                if os.getpgid(pid) == pid:  # not their forks
                    os.kill(pid, signal.SIGKILL)
        first.wait()
        (shop.project / "fork").unlink()
        shop.launch().succeeded()
        [(rows, days)] = server.query("SELECT count(*), count(DISTINCT since) FROM t.appended", database)
        assert rows == days


ENDS_LOCKS = """
MODEL (name t.first, kind FULL);
SELECT count(pg_terminate_backend(pid))::INT{added} AS x FROM pg_stat_activity, t.ending
WHERE datname = current_database() AND application_name LIKE 'dg_sqlmesh%'
"""


SECOND = "MODEL (name t.second, kind FULL); SELECT x, now() AS at FROM t.first"


def losing_shop(server: Server, new_shop: NewShop) -> tuple[Shop, list[tuple[Any, ...]]]:
    """Return a shop whose first model ends the locks, and what its second model has."""
    server.query("DROP DATABASE IF EXISTS losing WITH (FORCE)")
    server.query("CREATE DATABASE losing")
    for statement in ("CREATE SCHEMA t", "CREATE TABLE t.ending (x INT)"):
        server.query(statement, "losing")
    files = {"models/first.sql": ENDS_LOCKS.format(added=""), "models/second.sql": SECOND}
    shop = new_shop(files, server.config("losing"), deploy=True)
    before = server.query("SELECT at FROM t.second", "losing")
    server.query("INSERT INTO t.ending VALUES (1)", "losing")
    return shop, before


def test_a_run_that_loses_its_lock_begins_no_further_model(server: Server, new_shop: NewShop) -> None:
    shop, before = losing_shop(server, new_shop)

    run = shop.launch().failed()
    assert "The lock of runs on SQLMesh's state in schema 'sqlmesh' is lost" in run.failures[0]
    assert re.search(r"The driver's error: \w+: (terminating connection|server closed)", run.failures[0])
    assert run.materializations.keys() == {"t/first"}
    assert "Not started: t.second." in run.failures[0]
    assert server.query("SELECT at FROM t.second", "losing") == before


@pytest.mark.advice("Finished intervals are kept. Launch it again.")
@pytest.mark.night("unit/worker/test_lost_lock.py", "test_a_run_that_loses_its_lock_begins_no_further_model")
def test_a_plan_that_loses_its_lock_begins_no_further_model(server: Server, new_shop: NewShop) -> None:
    shop, before = losing_shop(server, new_shop)
    change(shop, first=ENDS_LOCKS.format(added=" + 1"))
    applied = launch(shop, APPLY, digest=planned(shop)["digest"])

    failure = failure_of(applied)
    assert "The plan failed before it was promoted: environment prod is as it was before." in failure
    assert "The lock of changes on SQLMesh's state in schema 'sqlmesh' is lost" in failure
    assert "Not started: t.second." in failure

    # Nothing is left to compute, but the plan is not promoted either.
    change(shop, first=ENDS_LOCKS.format(added=""), second=ENDS_LOCKS.format(added=" + 2").replace("first", "second"))
    applied = launch(shop, APPLY, digest=planned(shop)["digest"])

    assert "The plan failed before it was promoted: environment prod is as it was before." in failure_of(applied)
    assert "The lock of changes on SQLMesh's state in schema 'sqlmesh' is lost" in failure_of(applied)
    assert server.query("SELECT at FROM t.second", "losing") == before
    server.query("DELETE FROM t.ending", "losing")
    launch(shop, APPLY, digest=planned(shop)["digest"]).succeeded()
    shop.launch().succeeded()
    assert planned(shop)["models"] == []


def test_a_restatement_that_loses_its_lock_forgets_versions_only_before(server: Server, new_shop: NewShop) -> None:
    """It forgets intervals of other versions before the first model. SQLMesh would do it again after the last one."""
    server.query("CREATE DATABASE forgetting")
    for statement in ("CREATE SCHEMA t", "CREATE TABLE t.ending (x INT)"):
        server.query(statement, "forgetting")
    model = ENDS_LOCKS.replace("FULL", "INCREMENTAL_BY_TIME_RANGE (time_column day)")
    model = model.replace("SELECT count", "SELECT @start_ds::DATE AS day, count")
    shop = new_shop({"models/first.sql": model.format(added="")}, server.config("forgetting"), restate=True)
    shop.launch()
    change(shop, first=model.format(added=" + 1"))
    shop.plan("dev", at=None)
    change(shop, first=model.format(added=""))
    server.query("INSERT INTO t.ending VALUES (1)", "forgetting")

    run = shop.launch(ops={"sqlmesh_shop": {"restate": {"start": "2 days ago", "end": "1 day ago"}}}).failed()

    assert "The lock of runs on SQLMesh's state in schema 'sqlmesh' is lost" in run.failures[0]
    removed = server.query("SELECT version FROM sqlmesh._intervals WHERE is_removed", "forgetting")
    assert len(removed) == len(set(removed)) == 2, "once of each version"


@pytest.mark.slow
def test_a_run_whose_session_is_killed_in_mariadb_begins_no_further_model(new_shop: NewShop) -> None:
    models = {
        "models/slow.py": python_model("t.slow", "Path('begun').touch()" + HOLD),
        "models/second.sql": "MODEL (name t.second, kind FULL); SELECT count(*) AS x FROM t.slow",
    }
    with mariadb_server() as maria:
        shop = new_shop(models, maria.config(state=maria.connection))
        (shop.project / "begun").unlink()
        (shop.project / "hold").touch()
        run = shop.start()
        wait_until((shop.project / "begun").exists, run)
        waiting = shop.start()
        wait_until(lambda: any("Waiting" in shop.run_record(r.run_id).log for r in shop.instance.get_runs()), run)
        [log] = [log for r in shop.instance.get_runs() if "Waiting" in (log := shop.run_record(r.run_id).log)]
        [session] = set(re.findall(r"in session (\d+)\.", log))
        maria.query(f"KILL {session}")
        (shop.project / "hold").unlink()
        records = [shop.run_record(process.communicate(timeout=300)[0].split()[-1]) for process in (run, waiting)]
    [lost] = [record for record in records if record.status is dg.DagsterRunStatus.FAILURE]
    [other] = [record for record in records if record is not lost]
    assert "The lock of runs on SQLMesh's state in schema 'sqlmesh' is lost" in lost.failures[0]
    assert lost.materializations.keys() == {"t/slow"}
    assert other.status is dg.DagsterRunStatus.SUCCESS


def test_second_run_on_duckdb_waits_for_the_file(new_shop: NewShop) -> None:
    shop = new_shop(project_files())
    [(planned_rows,)] = shop.query("SELECT count(*) FROM t.appended")
    with two_runs(shop) as records:
        pass
    assert len([record.succeeded() for record in records]) == 2
    [(rows,)] = shop.query("SELECT count(*) FROM t.appended")
    assert rows == planned_rows + 1
    assert sorted(len(record.materializations) for record in records) == [0, 3]
    waiter, _ = sorted(records, key=lambda record: len(record.materializations))
    assert not waiter.computed_outside, "the other run has recorded everything by then"
    assert outside_records(waiter.instance) == dict.fromkeys(("t/before", "t/appended", "t/slow"), 1), "of the plan"
    assert "Waiting up to 3600 seconds. The DuckDB file is in use by another process" in waiter.log
    assert re.search(
        r'Could not set lock on file ".*warehouse.duckdb": Conflicting lock is held in .* \(PID \d+\)', waiter.log
    )
    assert "This run continues by itself as soon as it can." in waiter.log
