"""Two runs at a time on one state: the second waits, and finds nothing left of what the first did."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import pytest
from harness import DagsterProject, Told, dagster_project, plan, query, wait_until, write_project
from postgres import Server, postgres_server

# Append-only: what is computed twice stands there twice.
APPENDING = """
MODEL (name t.appended, kind INCREMENTAL_UNMANAGED, cron '@daily', start '{start}');
SELECT @start_ds AS since, @end_ds AS until FROM t.before
"""
BEFORE = "MODEL (name t.before, kind FULL); SELECT 1 AS id"
SLOW = """
import time
import typing as t

import pandas as pd
from sqlmesh import model


@model("t.slow", kind="FULL", columns={"id": "int"}, depends_on=["t.appended"])
def execute(context, start, end, execution_time, **kwargs: t.Any) -> pd.DataFrame:
    from pathlib import Path

    print("the password is correct-horse-battery, or postgresql://ada:staple@127.0.0.1/shop")
    while Path("hold").exists():
        time.sleep(0.02)
    return pd.DataFrame({"id": [1]})
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with postgres_server() as running:
        yield running


def files() -> dict[str, str]:
    from datetime import datetime, timedelta, timezone

    start = (datetime.now(timezone.utc) - timedelta(days=6)).strftime("%Y-%m-%d")
    return {
        "models/before.sql": BEFORE,
        "models/appended.sql": APPENDING.format(start=start),
        "models/slow.py": SLOW,
    }


@contextmanager
def two_runs(dagster: DagsterProject, project: Path) -> Iterator[list[Told]]:
    """Two runs at a time: t.slow of the first ends once the second waits. Yields while it does; then both are over."""
    (project / "hold").touch()
    both: list[Told] = []
    processes = [dagster.launch_beside() for _ in range(2)]

    def one_is_waiting() -> bool:
        return any("Waiting, for " in dagster.told(run.run_id).log for run in dagster.instance.get_runs())

    try:
        wait_until(one_is_waiting, *processes)
        yield both
    finally:
        (project / "hold").unlink()
    both += [dagster.told(process.communicate(timeout=300)[0].split()[-1]) for process in processes]


@pytest.mark.attribute("execution.overlap_timeout")
def test_runs_that_overlap_on_postgres_compute_every_interval_once(server: Server, tmp_path: Path) -> None:
    server.query("CREATE DATABASE appending")
    project = write_project(tmp_path / "shop", files(), server.config("appending", password="correct-horse-battery"))
    plan(project)
    [(planned,)] = server.query("SELECT count(*) FROM t.appended", "appending")
    with dagster_project(tmp_path) as dagster:
        dagster.declare("shop", {"project": str(project)})
        dagster.refresh()
        with two_runs(dagster, project) as both:
            # A transaction that stays open would keep PostgreSQL from cleaning up.
            assert server.query(HOLDER) == [("idle", None)]
    assert [told.status for told in both] == [dg.DagsterRunStatus.SUCCESS] * 2, [told.failures for told in both]
    [(now,)] = server.query("SELECT count(*) FROM t.appended", "appending")
    assert now == planned + 1  # one batch for the days since the plan
    executed = sorted(set(told.materializations) for told in both)
    assert sorted(map(len, executed)) == [0, 3]
    waiter = next(told for told in both if not told.materializations)
    other = next(told for told in both if told is not waiter)
    assert f"is held by Dagster run {other.run_id} since " in waiter.log
    assert {waiter.status_of(one) for one in ("t/before", "t/appended", "t/slow")} == {"up_to_date"}
    everything = "".join(str(entry) for told in both for entry in told.entries)
    assert "the password is ***, or postgresql://ada:***@127.0.0.1/shop" in everything
    assert "correct-horse" not in everything


HOLDER = (
    "SELECT state, xact_start FROM pg_stat_activity JOIN pg_locks USING (pid) "
    "WHERE locktype = 'advisory' AND granted AND application_name LIKE 'dg_sqlmesh%'"
)


# A fork that nobody told to end has the sockets of the process that it came from.
FORKING = SLOW.replace(
    """    while Path("hold").exists():
        time.sleep(0.02)
""",
    """    import os

    if Path("fork").exists():
        if os.fork():
            Path("forked").touch()
        time.sleep(600)
""",
)


@pytest.mark.parametrize("victims", ["the run", "the run and SQLMesh"])
def test_a_holder_that_was_killed_holds_nobody_up(server: Server, tmp_path: Path, victims: str) -> None:
    database = f"killed_{len(victims)}"
    server.query(f"CREATE DATABASE {database}")
    config = server.config(database, password="correct-horse-battery")
    project = write_project(tmp_path / "shop", {**files(), "models/slow.py": FORKING}, config)
    plan(project)
    with dagster_project(tmp_path) as dagster:
        dagster.declare("shop", {"project": str(project), "execution": {"overlap_timeout": 120}})
        dagster.refresh()
        (project / "fork").touch()
        first = dagster.launch_beside()
        wait_until((project / "forked").exists, first)
        assert server.query("SELECT 1 FROM pg_locks WHERE locktype = 'advisory'", database)
        first.kill()
        if victims != "the run":
            for pid in _leaders_in(project):
                os.kill(pid, signal.SIGKILL)
        first.wait()
        (project / "fork").unlink()
        second = dagster.launch()
    assert second.status == dg.DagsterRunStatus.SUCCESS, second.failures
    [(rows, days)] = server.query("SELECT count(*), count(DISTINCT since) FROM t.appended", database)
    assert rows == days


def _leaders_in(folder: Path) -> list[int]:
    """The SQLMesh processes that stand in a folder, without what they have forked."""
    standing = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _folder_of(pid) == folder]
    return [pid for pid in standing if os.getpgid(pid) == pid]


def _folder_of(pid: int) -> Path | None:
    try:
        return Path(os.readlink(f"/proc/{pid}/cwd"))
    except OSError:
        return None  # gone meanwhile


def test_runs_that_overlap_on_duckdb_wait_for_the_file(tmp_path: Path) -> None:
    project = write_project(tmp_path / "shop", files())
    plan(project)
    [(planned,)] = query(project, "SELECT count(*) FROM t.appended")
    with dagster_project(tmp_path) as dagster:
        dagster.declare("shop", {"project": str(project)})
        dagster.refresh()
        with two_runs(dagster, project) as both:
            pass
    assert [told.status for told in both] == [dg.DagsterRunStatus.SUCCESS] * 2, [told.failures for told in both]
    [(now,)] = query(project, "SELECT count(*) FROM t.appended")
    assert now == planned + 1
    assert sorted(len(told.materializations) for told in both) == [0, 3]
    waiter, other = sorted(both, key=lambda told: len(told.materializations))
    assert "Waiting, for 3600 seconds at most. The DuckDB file is in use by another process" in waiter.log
    assert sys.platform != "linux" or f"warehouse.duckdb is held by Dagster run {other.run_id} (PID " in waiter.log
    assert "This run continues by itself as soon as it can." in waiter.log
