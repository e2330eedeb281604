"""A run that is told to end says what is finished, ends within its graces, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pytest
from harness import EXECUTORS, RARELY, DagsterProject, Told, dagster_project, plan, state, wait_until, write_project
from postgres import postgres_server

from dg_sqlmesh_component.worker_process.worker import CUT_OFF_GRACE_SECONDS, FINISH_GRACE_SECONDS

ASKED_TO_STOP = "SQLMesh is asked to finish the batches in flight"
PAUSE = """
import time
import typing as t
from pathlib import Path

import pandas as pd
from sqlmesh import model


@model("t.pause", kind="FULL", columns={"id": "int"}, depends_on=["t.first"])
def execute(context, start, end, execution_time, **kwargs: t.Any) -> pd.DataFrame:
    if Path("pause").exists():
        Path("pausing").touch()
        while Path("pause").exists():
            time.sleep(0.02)
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
    "models/long.sql": "MODEL (name t.long, kind FULL, start '{start}'); {before}SELECT {long} AS id FROM t.first",
    "models/last.sql": "MODEL (name t.last, kind FULL); SELECT id FROM t.long",
}


@contextmanager
def declared(folder: Path, project: Path, **attributes: Any) -> Iterator[DagsterProject]:
    with dagster_project(folder) as dagster:
        dagster.declare("shop", {"project": str(project), **attributes})
        dagster.refresh()
        yield dagster


def cancelled(
    dagster: DagsterProject, executor: str, when: Callable[[], bool], then: Callable[[], None] = lambda: None
) -> tuple[Told, float]:
    """Launch everything, cancel the run as the UI does, and return what it told and how many seconds it took to end.

    Args:
        when: The event at which it is cancelled.
        then: Called once the run's log says that SQLMesh was asked to stop.
    """
    process = dagster.launch_beside(executor)
    wait_until(when, process)
    [run] = dagster.instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED]))
    dagster.instance.report_run_canceling(run)
    process.send_signal(signal.SIGTERM)
    since = time.monotonic()
    wait_until(lambda: ASKED_TO_STOP in dagster.told(run.run_id).log)
    then()
    process.wait(300)
    return dagster.told(run.run_id), time.monotonic() - since


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
    pause = project / "pause"
    pause.touch()
    with declared(tmp_path, project, execution={"record_unchanged": record_unchanged}) as dagster:
        before = state(project)["intervals"]
        told, _ = cancelled(dagster, executor, (project / "pausing").exists, then=pause.unlink)
        assert workers_below(project) == []
        after = state(project)["intervals"]  # which opens the file: nobody holds it
        assert told.status == dg.DagsterRunStatus.CANCELED
        assert set(told.materializations) == {"t/first", "t/pause"}
        assert {fqn.split('"')[-2] for fqn in after if after[fqn] > before[fqn]} == {"first", "pause"}
        assert told.status_of("t/last") == "interrupted"
        [failure] = told.failures
        assert "The run was cancelled. SQLMesh in environment prod: 1 interrupted, 2 executed, 1 up to date." in failure
        assert set(told.computed_outside) == {"t/idle"}
        assert "batches in flight were finished" in failure
        again = dagster.launch(executor)
        assert again.status == dg.DagsterRunStatus.SUCCESS, again.failures
        assert set(again.materializations) == {"t/last"}
        assert ("t/idle" in again.observations) is record_unchanged


def test_a_model_that_does_not_end_is_killed_after_both_graces_and_the_run_is_reported_as_cancelled(
    tmp_path: Path,
) -> None:
    project = write_project(tmp_path / "shop", {**FILES, "models/idle.sql": IDLE})
    plan(project)
    (project / "pause").touch()
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
        "Not started: t.last. The next run executes them.",
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
        before = "" if is_postgres else "COPY (SELECT 1) TO 'long_has_begun'; "
        files = {path: text.format(start=start, before=before, long=said) for path, text in LONG.items()}
        config = {"config": server.config("long")} if is_postgres else {}
        server.query("CREATE DATABASE long")
        project = write_project(tmp_path / "shop", files, **config)
        plan(project)
        (project / "long_has_begun").unlink(missing_ok=True)
        sleeping = (
            "SELECT 1 FROM pg_stat_activity WHERE state = 'active' AND query ILIKE '%pg_sleep(600)%' "
            "AND pid <> pg_backend_pid()"
        )

        def is_long() -> bool:
            return bool(server.query(sleeping)) if is_postgres else (project / "long_has_begun").exists()

        with declared(tmp_path, project) as dagster:
            told, seconds = cancelled(dagster, "in_process", is_long)
        assert seconds > FINISH_GRACE_SECONDS
        assert told.status == dg.DagsterRunStatus.CANCELED
        assert set(told.materializations) == {"t/first"}
        assert {told.status_of("t/long"), told.status_of("t/last")} == {"interrupted"}
        assert "batches in flight were cut off" in told.failures[0]
        assert workers_below(project) == []
        assert server.query(sleeping) == []


def test_what_is_finished_is_recorded_also_when_a_run_is_cancelled_while_dagster_records(tmp_path: Path) -> None:
    quick = {f"models/m{n}.sql": f"MODEL (name t.m{n}, kind FULL); SELECT {n} AS id" for n in range(20)}
    # Behind all of them, so that the run cannot be over before it is cancelled.
    behind = PAUSE.replace('["t.first"]', str([f"t.m{n}" for n in range(20)]))
    project = write_project(tmp_path / "shop", {**quick, "models/pause.py": behind})
    plan(project)
    pause = project / "pause"
    pause.touch()
    with declared(tmp_path, project) as dagster:

        def some_are_recorded() -> bool:
            [run] = dagster.instance.get_runs() or [None]
            return run is not None and len(dagster.told(run.run_id).materializations) > 3

        before = state(project)["intervals"]
        told, _ = cancelled(dagster, "in_process", some_are_recorded, then=pause.unlink)
        after = state(project)["intervals"]
        again = dagster.launch()
    assert told.status == dg.DagsterRunStatus.CANCELED
    assert workers_below(project) == []
    computed = {fqn.split('"')[-2] for fqn in after if after[fqn] > before[fqn]}
    assert {key.split("/")[1] for key in told.materializations} == computed
    assert again.status == dg.DagsterRunStatus.SUCCESS, again.failures
    assert {key.split("/")[1] for key in again.materializations} == {"pause", *(f"m{n}" for n in range(20))} - computed


HOLDING = """
import time
from pathlib import Path

from sqlmesh.core.config import Config, DuckDBConnectionConfig, GatewayConfig, ModelDefaultsConfig

if Path("hold").exists():
    Path("holding").touch()
    time.sleep(600)
config = Config(
    gateways={"local": GatewayConfig(connection=DuckDBConnectionConfig(database="warehouse.duckdb"))},
    model_defaults=ModelDefaultsConfig(dialect="duckdb", start="6 days ago"),
)
"""


def test_a_run_that_is_cancelled_while_sqlmesh_opens_the_project_ends_at_once(tmp_path: Path) -> None:
    project = write_project(tmp_path / "shop", {**FILES, "config.py": HOLDING})
    (project / "config.yaml").unlink()
    plan(project)
    with declared(tmp_path, project) as dagster:
        (project / "hold").touch()
        told, _ = cancelled(dagster, "in_process", (project / "holding").exists)
    assert told.status == dg.DagsterRunStatus.CANCELED
    assert "The run was cancelled before SQLMesh computed anything." in told.failures[0]  # it was not killed
    assert not told.materializations
    assert workers_below(project) == []


def test_a_run_that_waits_for_another_one_is_cancelled_at_once(tmp_path: Path) -> None:
    project = write_project(tmp_path / "shop", FILES)
    plan(project)
    with declared(tmp_path, project) as dagster:

        def is_waiting() -> bool:
            [run] = dagster.instance.get_runs() or [None]
            return run is not None and "Waiting, for 3600 seconds at most." in dagster.told(run.run_id).log

        with duckdb.connect(str(project / "warehouse.duckdb")):
            told, _ = cancelled(dagster, "in_process", is_waiting)
    assert told.status == dg.DagsterRunStatus.CANCELED
    assert "The run was cancelled before SQLMesh computed anything." in told.failures[0]  # it was not killed
    assert workers_below(project) == []
