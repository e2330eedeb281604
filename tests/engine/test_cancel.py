"""A run that is told to end says what is finished, ends within its graces, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pytest
from harness import EXECUTORS, RARELY, DagsterProject, Told, dagster_project, plan, query, state, write_project
from postgres import postgres_server

from dg_sqlmesh_component.project import CUT_OFF_GRACE_SECONDS, FINISH_GRACE_SECONDS

PAUSE = """
import time
import typing as t
from pathlib import Path

import pandas as pd
from sqlmesh import model


@model("t.pause", kind="FULL", columns={"id": "int"}, depends_on=["t.first"])
def execute(context, start, end, execution_time, **kwargs: t.Any) -> pd.DataFrame:
    if Path("pause").exists():
        seconds = float(Path("pause").read_text())
        Path("pausing").touch()
        time.sleep(seconds)
    return pd.DataFrame({"id": [1]})
"""
FILES = {
    "models/first.sql": "MODEL (name t.first, kind FULL); SELECT 1 AS id",
    "models/pause.py": PAUSE,
    "models/last.sql": "MODEL (name t.last, kind FULL); SELECT id FROM t.pause",
}
IDLE = f"MODEL (name t.idle, kind FULL, cron '{RARELY}', start '2020-01-01'); SELECT 1 AS id"
LONG = {
    "models/first.sql": FILES["models/first.sql"],
    "models/long.sql": "MODEL (name t.long, kind FULL, start '{start}'); SELECT {long} AS id FROM t.first",
    "models/last.sql": "MODEL (name t.last, kind FULL); SELECT id FROM t.long",
}


@contextmanager
def declared(folder: Path, project: Path, **attributes: Any) -> Iterator[DagsterProject]:
    with dagster_project(folder) as dagster:
        dagster.declare("shop", {"project": str(project), **attributes})
        dagster.refresh()
        yield dagster


def cancelled(dagster: DagsterProject, executor: str, when: Callable[[], bool]) -> tuple[Told, float]:
    """Launch everything, cancel the run as the UI does, and return what it told and how long it took to end."""
    process = dagster.launch_beside(executor)
    _until(when, process)
    [run] = dagster.instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED]))
    dagster.instance.report_run_canceling(run)
    process.send_signal(signal.SIGTERM)
    since = time.monotonic()
    process.wait(90)
    return Told(dagster.instance, run.run_id), time.monotonic() - since


def _until(true: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not true():
        assert process.poll() is None, "the run ended before it could be cancelled"
        assert time.monotonic() < deadline
        time.sleep(0.02)


def workers_below(folder: Path) -> list[int]:
    """Processes that stand in a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if Path(os.readlink(process / "cwd")) == folder:
                found.append(int(process.name))
        except OSError:
            continue  # gone meanwhile
    return found


@pytest.mark.parametrize(("executor", "record_unchanged"), [*zip(EXECUTORS, (True, False))])
def test_a_cancelled_run_finishes_what_is_in_flight_and_reports_it(
    tmp_path: Path, executor: str, record_unchanged: bool
) -> None:
    project = write_project(tmp_path / "shop", {**FILES, "models/idle.sql": IDLE})
    plan(project)
    (project / "pause").write_text("3")
    with declared(tmp_path, project, execution={"record_unchanged": record_unchanged}) as dagster:
        before = state(project)["intervals"]
        told, seconds = cancelled(dagster, executor, (project / "pausing").exists)
        assert seconds < FINISH_GRACE_SECONDS
        assert workers_below(project) == []
        after = state(project)["intervals"]  # which opens the file: nobody holds it
        assert told.status == dg.DagsterRunStatus.CANCELED
        assert set(told.materializations) == {"t/first", "t/pause"}
        assert {fqn.split('"')[-2] for fqn in after if after[fqn] > before[fqn]} == {"first", "pause"}
        assert told.status_of("t/last") == "interrupted"
        [failure] = told.failures
        assert "The run was cancelled. SQLMesh in environment prod: 1 interrupted, 2 executed, 1 up to date." in failure
        assert ("t/idle" in told.observations) is record_unchanged
        assert "SQLMesh is asked to finish the batches in flight" in told.log
        assert "batches in flight were finished" in told.log
        (project / "pause").unlink()
        again = dagster.launch(executor)
        assert again.status == dg.DagsterRunStatus.SUCCESS, again.failures
        assert set(again.materializations) == {"t/last"}


def test_a_model_that_does_not_end_is_killed_after_both_graces_and_the_run_is_reported_as_cancelled(
    tmp_path: Path,
) -> None:
    project = write_project(tmp_path / "shop", {**FILES, "models/idle.sql": IDLE})
    plan(project)
    (project / "pause").write_text("600")
    with declared(tmp_path, project) as dagster:
        told, seconds = cancelled(dagster, "in_process", (project / "pausing").exists)
    assert seconds > FINISH_GRACE_SECONDS + CUT_OFF_GRACE_SECONDS - 1  # and far less than the model takes
    assert workers_below(project) == []
    assert told.status == dg.DagsterRunStatus.CANCELED
    assert set(told.materializations) == {"t/first"}
    assert {told.status_of("t/pause"), told.status_of("t/last")} == {"interrupted"}
    assert told.status_of("t/idle") == "up_to_date"
    [failure] = told.failures
    assert failure.removeprefix("dagster._core.errors.DagsterExecutionInterruptedError: ").splitlines()[:3] == [
        "The run was cancelled. SQLMesh in environment prod: 2 interrupted, 1 executed, 1 up to date.",
        "The run was cancelled. After 10 seconds the queries in flight were cancelled, after 5 more SQLMesh's process "
        "was ended, because t.pause was still running.",
        "Interrupted: t.pause, t.last.",
    ]
    assert "SIGKILL" not in told.log


@pytest.mark.parametrize("engine", ["duckdb", "postgres"])
def test_a_query_that_takes_too_long_is_cancelled_in_the_engine(tmp_path: Path, engine: str) -> None:
    with postgres_server() as server:
        is_postgres = engine == "postgres"
        long = "pg_sleep(600)::text" if is_postgres else "(SELECT count(*) FROM range(10000000) a, range(10000000) b)"
        # What a plan computes is quick, what is due today is not.
        today = time.strftime("%Y-%m-%d", time.gmtime())
        said = f"CASE WHEN @execution_ds >= '{today}' THEN {long} ELSE {repr('') if is_postgres else 0} END"
        start = time.strftime("%Y-%m-%d", time.gmtime(time.time() - 6 * 86400))
        files = {path: text.format(start=start, long=said) for path, text in LONG.items()}
        config = {"config": server.config("long")} if is_postgres else {}
        server.query("CREATE DATABASE long")
        project = write_project(tmp_path / "shop", files, **config)
        plan(project)
        sleeping = (
            "SELECT 1 FROM pg_stat_activity WHERE state = 'active' AND query ILIKE '%pg_sleep(600)%' "
            "AND pid <> pg_backend_pid()"
        )

        def is_long() -> bool:
            if is_postgres:
                return bool(server.query(sleeping))
            [run] = dagster.instance.get_runs() or [None]
            return run is not None and "t/first" in Told(dagster.instance, run.run_id).materializations

        with declared(tmp_path, project) as dagster:
            told, seconds = cancelled(dagster, "in_process", is_long)
        assert FINISH_GRACE_SECONDS < seconds < FINISH_GRACE_SECONDS + CUT_OFF_GRACE_SECONDS, told.log
        assert told.status == dg.DagsterRunStatus.CANCELED
        assert set(told.materializations) == {"t/first"}
        assert {told.status_of("t/long"), told.status_of("t/last")} == {"interrupted"}
        assert "batches in flight were cut off" in told.failures[0]
        assert workers_below(project) == []
        assert server.query(sleeping) == []


def test_what_is_finished_is_recorded_also_when_a_run_is_cancelled_while_dagster_records(tmp_path: Path) -> None:
    quick = {f"models/m{n}.sql": f"MODEL (name t.m{n}, kind FULL); SELECT {n} AS id" for n in range(40)}
    project = write_project(tmp_path / "shop", quick)
    plan(project)
    with declared(tmp_path, project) as dagster:

        def some_are_recorded() -> bool:
            [run] = dagster.instance.get_runs() or [None]
            return run is not None and len(Told(dagster.instance, run.run_id).materializations) > 3

        before = state(project)["intervals"]
        told, seconds = cancelled(dagster, "in_process", some_are_recorded)
        after = state(project)["intervals"]
        again = dagster.launch()
    assert told.status == dg.DagsterRunStatus.CANCELED
    assert seconds < FINISH_GRACE_SECONDS
    assert workers_below(project) == []
    computed = {fqn.split('"')[-2] for fqn in after if after[fqn] > before[fqn]}
    assert {key.split("/")[1] for key in told.materializations} == computed
    assert again.status == dg.DagsterRunStatus.SUCCESS, again.failures
    assert {key.split("/")[1] for key in again.materializations} == {f"m{n}" for n in range(40)} - computed


def test_a_run_that_is_cancelled_before_sqlmesh_has_started_ends_at_once(tmp_path: Path) -> None:
    project = write_project(tmp_path / "shop", FILES)
    plan(project)
    with declared(tmp_path, project) as dagster:
        told, seconds = cancelled(dagster, "in_process", lambda: bool(workers_below(project)))
    assert seconds < FINISH_GRACE_SECONDS
    assert told.status == dg.DagsterRunStatus.CANCELED
    assert not told.materializations
    assert query(project, "SELECT count(*) FROM t.first") == [(1,)]


def test_a_run_that_waits_for_another_one_is_cancelled_at_once(tmp_path: Path) -> None:
    project = write_project(tmp_path / "shop", FILES)
    plan(project)
    with declared(tmp_path, project) as dagster:

        def is_waiting() -> bool:
            [run] = dagster.instance.get_runs() or [None]
            return run is not None and "Waiting, for 3600 seconds at most." in Told(dagster.instance, run.run_id).log

        with duckdb.connect(str(project / "warehouse.duckdb")):
            told, seconds = cancelled(dagster, "in_process", is_waiting)
    assert seconds < FINISH_GRACE_SECONDS
    assert told.status == dg.DagsterRunStatus.CANCELED
    assert "The run was cancelled before SQLMesh computed anything." in told.failures[0]
    assert workers_below(project) == []
