"""A cancelled run reports what is finished, ends within its grace periods and leaves no process."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pytest
from harness import (
    EXECUTORS,
    YEARLY_CRON,
    DagsterProject,
    RunRecord,
    dagster_project,
    plan,
    state,
    wait_until,
    write_project,
)
from postgres import postgres_server

from dg_sqlmesh_component.worker_client.worker import CUT_OFF_GRACE_SECONDS, FINISH_GRACE_SECONDS

STOP_MESSAGE = "SQLMesh is asked to finish the batches in flight"
PAUSING_MODEL = """
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
    "models/pause.py": PAUSING_MODEL,
    "models/last.sql": "MODEL (name t.last, kind FULL); SELECT id FROM t.pause",
}
IDLE_MODEL = f"MODEL (name t.idle, kind FULL, cron '{YEARLY_CRON}', start '2020-01-01'); SELECT 1 AS id"
LONG_QUERY_FILES = {
    "models/first.sql": FILES["models/first.sql"],
    "models/long.sql": "MODEL (name t.long, kind FULL, start '{start}'); {before}SELECT {long} AS id FROM t.first",
    "models/last.sql": "MODEL (name t.last, kind FULL); SELECT id FROM t.long",
}


@contextmanager
def dagster_with_shop(folder: Path, project: Path, **attributes: Any) -> Iterator[DagsterProject]:
    with dagster_project(folder) as dagster:
        dagster.add_component("shop", {"project": str(project), **attributes})
        dagster.refresh()
        yield dagster


def launch_and_cancel(
    dagster: DagsterProject, executor: str, when: Callable[[], bool], then: Callable[[], None] = lambda: None
) -> tuple[RunRecord, float]:
    """Launch all assets and cancel the run as the UI does.

    Args:
        when: The run is cancelled as soon as this is true.
        then: Called after the run has logged that SQLMesh was asked to stop.

    Returns:
        The record of the run, and how many seconds it took to end.
    """
    process = dagster.launch_in_new_process(executor)
    wait_until(when, process)
    [run] = dagster.instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED]))
    dagster.instance.report_run_canceling(run)
    process.send_signal(signal.SIGTERM)
    since = time.monotonic()
    wait_until(lambda: STOP_MESSAGE in dagster.run_record(run.run_id).log)
    then()
    process.wait(300)
    return dagster.run_record(run.run_id), time.monotonic() - since


def processes_in(folder: Path) -> list[int]:
    """Return the processes whose working directory is this folder."""
    pids = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if Path(os.readlink(process / "cwd")) == folder:
                pids.append(int(process.name))
        except OSError:
            continue  # it has ended
    return pids


@pytest.mark.parametrize(("executor", "record_unchanged"), [*zip(EXECUTORS, (True, False))])
def test_cancelled_run_finishes_and_reports_batches_in_flight(
    tmp_path: Path, executor: str, record_unchanged: bool
) -> None:
    project = write_project(tmp_path / "shop", {**FILES, "models/idle.sql": IDLE_MODEL})
    plan(project)
    pause = project / "pause"
    pause.touch()
    with dagster_with_shop(tmp_path, project, execution={"record_unchanged": record_unchanged}) as dagster:
        before = state(project)["intervals"]
        record, _ = launch_and_cancel(dagster, executor, (project / "pausing").exists, then=pause.unlink)
        assert processes_in(project) == []
        after = state(project)["intervals"]  # opens the file, so no process holds it
        assert record.status == dg.DagsterRunStatus.CANCELED
        assert set(record.materializations) == {"t/first", "t/pause"}
        assert {fqn.split('"')[-2] for fqn in after if after[fqn] > before[fqn]} == {"first", "pause"}
        assert record.status_of("t/last") == "interrupted"
        [failure] = record.failures
        assert "The run was cancelled. SQLMesh in environment prod: 1 interrupted, 2 executed, 1 up to date." in failure
        assert set(record.computed_outside) == {"t/idle"}
        assert "batches in flight were finished" in failure
        second_run = dagster.launch(executor)
        assert second_run.status == dg.DagsterRunStatus.SUCCESS, second_run.failures
        assert set(second_run.materializations) == {"t/last"}
        assert ("t/idle" in second_run.observations) is record_unchanged


def test_model_that_does_not_end_is_killed_after_both_grace_periods(
    tmp_path: Path,
) -> None:
    project = write_project(tmp_path / "shop", {**FILES, "models/idle.sql": IDLE_MODEL})
    plan(project)
    (project / "pause").touch()
    with dagster_with_shop(tmp_path, project) as dagster:
        record, seconds = launch_and_cancel(dagster, "in_process", (project / "pausing").exists)
    assert seconds > FINISH_GRACE_SECONDS + CUT_OFF_GRACE_SECONDS - 1  # and the model would take far longer
    assert processes_in(project) == []
    assert record.status == dg.DagsterRunStatus.CANCELED
    assert set(record.materializations) == {"t/first"}
    assert {record.status_of("t/pause"), record.status_of("t/last")} == {"interrupted"}
    assert record.status_of("t/idle") == "up_to_date"
    [failure] = record.failures
    assert failure.removeprefix("dagster._core.errors.DagsterExecutionInterruptedError: ").splitlines()[:3] == [
        "The run was cancelled. SQLMesh in environment prod: 2 interrupted, 1 executed, 1 up to date.",
        "The run was cancelled. After 10 seconds the queries in flight were cancelled, after 5 more SQLMesh's process "
        "was ended, because t.pause was still running.",
        "Not started: t.last. The next run executes them.",
    ]
    assert "SIGKILL" not in record.log


@pytest.mark.parametrize("engine", ["duckdb", "postgres"])
def test_long_query_is_cancelled_in_the_engine(tmp_path: Path, engine: str) -> None:
    with postgres_server() as server:
        is_postgres = engine == "postgres"
        long = "pg_sleep(600)::text" if is_postgres else "(SELECT count(*) FROM range(10000000) a, range(10000000) b)"
        # The plan is quick. Only the interval of today is slow.
        today = time.strftime("%Y-%m-%d", time.gmtime())
        value = f"CASE WHEN @execution_ds >= '{today}' THEN {long} ELSE {repr('') if is_postgres else 0} END"
        start = time.strftime("%Y-%m-%d", time.gmtime(time.time() - 6 * 86400))
        before = "" if is_postgres else "COPY (SELECT 1) TO 'long_has_begun'; "
        files = {path: text.format(start=start, before=before, long=value) for path, text in LONG_QUERY_FILES.items()}
        config = {"config": server.config("long")} if is_postgres else {}
        server.query("CREATE DATABASE long")
        project = write_project(tmp_path / "shop", files, **config)
        plan(project)
        (project / "long_has_begun").unlink(missing_ok=True)
        sleeping = (
            "SELECT 1 FROM pg_stat_activity WHERE state = 'active' AND query ILIKE '%pg_sleep(600)%' "
            "AND pid <> pg_backend_pid()"
        )

        def is_query_running() -> bool:
            return bool(server.query(sleeping)) if is_postgres else (project / "long_has_begun").exists()

        with dagster_with_shop(tmp_path, project) as dagster:
            record, seconds = launch_and_cancel(dagster, "in_process", is_query_running)
        assert seconds > FINISH_GRACE_SECONDS
        assert record.status == dg.DagsterRunStatus.CANCELED
        assert set(record.materializations) == {"t/first"}
        assert {record.status_of("t/long"), record.status_of("t/last")} == {"interrupted"}
        assert "batches in flight were cut off" in record.failures[0]
        assert processes_in(project) == []
        assert server.query(sleeping) == []


def test_finished_models_are_recorded_if_run_is_cancelled_during_recording(tmp_path: Path) -> None:
    quick = {f"models/m{n}.sql": f"MODEL (name t.m{n}, kind FULL); SELECT {n} AS id" for n in range(20)}
    # This model runs after all others, so that the run cannot end before it is cancelled.
    paused_model = PAUSING_MODEL.replace('["t.first"]', str([f"t.m{n}" for n in range(20)]))
    project = write_project(tmp_path / "shop", {**quick, "models/pause.py": paused_model})
    plan(project)
    pause = project / "pause"
    pause.touch()
    with dagster_with_shop(tmp_path, project) as dagster:

        def some_are_recorded() -> bool:
            runs: Sequence[dg.DagsterRun | None] = dagster.instance.get_runs() or [None]
            [run] = runs
            return run is not None and len(dagster.run_record(run.run_id).materializations) > 3

        before = state(project)["intervals"]
        record, _ = launch_and_cancel(dagster, "in_process", some_are_recorded, then=pause.unlink)
        after = state(project)["intervals"]
        second_run = dagster.launch()
    assert record.status == dg.DagsterRunStatus.CANCELED
    assert processes_in(project) == []
    computed = {fqn.split('"')[-2] for fqn in after if after[fqn] > before[fqn]}
    assert {key.split("/")[1] for key in record.materializations} == computed
    assert second_run.status == dg.DagsterRunStatus.SUCCESS, second_run.failures
    models = {"pause", *(f"m{n}" for n in range(20))}
    assert {key.split("/")[1] for key in second_run.materializations} == models - computed


CONFIG_THAT_WAITS = """
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


def test_run_cancelled_while_sqlmesh_opens_the_project_ends_at_once(tmp_path: Path) -> None:
    project = write_project(tmp_path / "shop", {**FILES, "config.py": CONFIG_THAT_WAITS})
    (project / "config.yaml").unlink()
    plan(project)
    with dagster_with_shop(tmp_path, project) as dagster:
        (project / "hold").touch()
        record, _ = launch_and_cancel(dagster, "in_process", (project / "holding").exists)
    assert record.status == dg.DagsterRunStatus.CANCELED
    assert "The run was cancelled before SQLMesh computed anything." in record.failures[0]  # it was not killed
    reason = "Not evaluated: the run was cancelled before SQLMesh computed or audited anything."
    assert record.not_evaluated_reasons == {reason}
    assert not record.materializations
    assert processes_in(project) == []


def test_run_that_waits_for_another_run_is_cancelled_at_once(tmp_path: Path) -> None:
    project = write_project(tmp_path / "shop", FILES)
    plan(project)
    with dagster_with_shop(tmp_path, project) as dagster:

        def is_waiting() -> bool:
            runs: Sequence[dg.DagsterRun | None] = dagster.instance.get_runs() or [None]
            [run] = runs
            return run is not None and "Waiting, for 3600 seconds at most." in dagster.run_record(run.run_id).log

        with duckdb.connect(str(project / "warehouse.duckdb")):
            record, _ = launch_and_cancel(dagster, "in_process", is_waiting)
    assert record.status == dg.DagsterRunStatus.CANCELED
    assert "The run was cancelled before SQLMesh computed anything." in record.failures[0]  # it was not killed
    assert processes_in(project) == []
