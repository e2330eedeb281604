"""If a run has ended in Dagster, or its process is gone, its steps stop as if the run was cancelled.

The storage is Dagster's default: a retry waits for a run that another process has written.
"""

import os
import signal
import sqlite3
from contextlib import ExitStack, closing
from pathlib import Path

import dagster as dg
import pytest
from harness import PAUSE, NewShop, Shop, processes_in, python_model, wait_until
from postgres import postgres_server

FILES = {
    "models/first.sql": "MODEL (name t.first, kind FULL); SELECT 1 AS id",
    "models/pause.py": python_model("t.pause", PAUSE, ["t.first"]),
    "models/last.sql": "MODEL (name t.last, kind FULL); SELECT id FROM t.pause",
}


def log_of(shop: Shop, run: dg.DagsterRun) -> str:
    return shop.run_record(run.run_id).log


def started_run(shop: Shop) -> dg.DagsterRun:
    [run] = shop.instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED]))
    return run


def stop(processes: list[int], shop: Shop) -> None:
    """Stop processes at a moment in which none of them writes: else it would keep a database of Dagster locked."""
    with ExitStack() as locks:
        for database in Path(shop.instance.root_directory).rglob("*.db"):
            connection = locks.enter_context(closing(sqlite3.connect(database, timeout=60, isolation_level=None)))
            connection.execute("BEGIN IMMEDIATE")
        for process in processes:
            os.kill(process, signal.SIGSTOP)


@pytest.mark.slow
@pytest.mark.advice("If it does not, end that process on its host. It cannot be cancelled in Dagster.")
def test_retry_goes_on_after_somebody_has_ended_the_process_of_a_step_whose_run_has_ended(new_shop: NewShop) -> None:
    with postgres_server() as server:
        server.query("CREATE DATABASE ended")
        shop = new_shop(FILES, server.config("ended"), has_default_storage=True)
        (shop.project / "pause").touch()
        process = shop.start("multiprocess")
        wait_until((shop.project / "pausing").exists, process)
        run = started_run(shop)
        [step] = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
        stop([step], shop)  # it hangs
        process.send_signal(signal.SIGKILL)
        process.wait()
        shop.instance.report_run_failed(run)
        retry = shop.start("multiprocess")
        wait_until(lambda: any("holds the SQLMesh state" in log_of(shop, r) for r in shop.instance.get_runs()), retry)
        assert "end that process on its host. It cannot be cancelled in Dagster." in log_of(shop, started_run(shop))
        (shop.project / "pause").unlink()
        os.kill(step, signal.SIGKILL)
        second = shop.run_record(retry.communicate(timeout=300)[0].split()[-1]).succeeded()
    assert {"t/pause", "t/last"} <= {*second.materializations, *second.computed_outside}


# More than ten seconds: two runs in processes of their own, the second of which waits for the first.
@pytest.mark.night(
    "test_step_stops_after_somebody_has_marked_its_run_as_ended",
    "unit/worker_client/test_interruption.py::test_step_is_cancelled_without_a_signal_if_dagster_has_recorded_that_its_run_is",
)
def test_step_stops_after_the_process_of_its_run_was_killed_and_whoever_waits_for_it_says_so(new_shop: NewShop) -> None:
    with postgres_server() as server:
        server.query("CREATE DATABASE ended")
        shop = new_shop(FILES, server.config("ended"), has_default_storage=True)
        pause = shop.project / "pause"
        pause.touch()
        process = shop.start("multiprocess")
        wait_until((shop.project / "pausing").exists, process)
        run = started_run(shop)
        steps = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
        stop(steps, shop)  # so that they notice nothing before the retry waits for them
        process.send_signal(signal.SIGKILL)
        process.wait()
        shop.instance.report_run_failed(run)  # Dagster's code server does so
        retry = shop.start("multiprocess")
        wait_until(lambda: any("holds the SQLMesh state" in log_of(shop, r) for r in shop.instance.get_runs()), retry)
        assert f"In Dagster, run {run.run_id} has ended" in log_of(shop, started_run(shop))
        for step in steps:
            os.kill(step, signal.SIGCONT)
        wait_until(lambda: "The step stops, as if the run was cancelled" in log_of(shop, run), retry)
        pause.unlink()
        second = shop.run_record(retry.communicate(timeout=300)[0].split()[-1])
    assert second.status == dg.DagsterRunStatus.SUCCESS, second.failures
    assert "t/last" in second.materializations
    first = shop.run_record(run.run_id).failed()
    assert set(first.materializations) == {"t/first", "t/pause"}, "it has finished the batch in flight"
    assert not set(first.materializations) & set(second.materializations)


def test_step_stops_after_somebody_has_marked_its_run_as_ended(new_shop: NewShop) -> None:
    shop = new_shop(FILES)
    pause = shop.project / "pause"
    pause.touch()
    process = shop.start()
    wait_until((shop.project / "pausing").exists, process)
    run = started_run(shop)
    shop.instance.report_run_canceled(run)  # "force termination immediately" in the UI
    wait_until(lambda: "In Dagster, this run has ended" in log_of(shop, run))
    pause.unlink()
    process.wait(300)
    assert processes_in(shop.project) == []
    record = shop.run_record(run.run_id)
    assert record.status == dg.DagsterRunStatus.CANCELED
    assert set(record.materializations) == {"t/first", "t/pause"}
    assert record.status_of("t/last") == "interrupted"
