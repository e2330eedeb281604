"""An interval that a `lookback` computes again counts as missing until its batch has finished."""

import datetime
import signal

import dagster as dg
import pytest
from engine.plan_jobs import APPLY, applied, launch, planned
from harness import PAUSE, NewShop, RunRecord, Shop, at_night, plan, wait_until
from postgres import postgres_server

CHECK = "t/days:sqlmesh_intervals_complete"
SOURCE = {"ctl.source": "SELECT (current_date - i::INT)::DATE AS ds, '1' AS n FROM range(0, 10) r(i)"}
SQL = (
    "MODEL (name t.days, kind INCREMENTAL_BY_TIME_RANGE (time_column ds, lookback 2{batch_size}){audits}); "
    "SELECT ds, n::INT AS n{more} FROM ctl.source WHERE ds BETWEEN @start_ds AND @end_ds"
)
BY_DAY = SQL.format(batch_size=", batch_size 1", audits="", more="")
CHANGED = SQL.format(batch_size=", batch_size 1", audits="", more=", 7 AS more")
DOWNSTREAM = "MODEL (name t.total, kind FULL); SELECT sum(n) AS n FROM t.days"
PYTHON = """
import os
import time
from pathlib import Path

import pandas as pd
from sqlmesh import model
from sqlmesh.core.model.kind import ModelKindName


@model(
    "t.days",
    kind={"name": ModelKindName.INCREMENTAL_BY_TIME_RANGE, "time_column": "ds", "lookback": 2, "batch_size": 1},
    columns={"ds": "date", "n": "int"},
)
def execute(context, start, end, execution_time, **kwargs):
CODE
    return pd.DataFrame({"ds": [start.date()], "n": [int(Path("n").read_text())]})
"""


def python_files(code: str) -> dict[str, str]:
    indented = "\n".join(f"    {line}" for line in code.strip().splitlines())
    return {"models/days.py": PYTHON.replace("CODE", indented), "n": "1"}


def ago(days: int) -> datetime.date:
    return datetime.datetime.now(datetime.timezone.utc).date() - datetime.timedelta(days=days)


def break_day(shop: Shop, days_ago: int = 3, value: str = "broken") -> None:
    """Change the source of an old day. The other days have a new value too, which shows what was computed again."""
    shop.query("UPDATE ctl.source SET n = '2'")
    shop.query(f"UPDATE ctl.source SET n = '{value}' WHERE ds = '{ago(days_ago)}'")


def rows(shop: Shop, schema: str = "t") -> dict[int, int]:
    """The value of each day that has a row, by the number of days ago."""
    return {(ago(0) - day).days: n for day, n in shop.query(f"SELECT ds::DATE, n FROM {schema}.days")}


def computed_days(shop: Shop) -> int:
    (milliseconds,) = (value for fqn, value in shop.state()["intervals"].items() if "days" in fqn)
    return int(milliseconds) // 86_400_000


HEALED = {6: 1, 5: 1, 4: 1, 3: 2, 2: 2, 1: 2}
"""After a day is computed together with the two days before it, and after all of them have succeeded."""


@pytest.mark.parametrize("batch_size", [*at_night(", batch_size 1"), ""])
def test_failed_batch_of_lookback_is_computed_again_by_the_next_run(new_shop: NewShop, batch_size: str) -> None:
    model = SQL.format(batch_size=batch_size, audits="", more="")
    shop = new_shop({"models/days.sql": model}, tables=SOURCE, planned_at="1 day ago", intervals_check=True)
    break_day(shop)
    for _ in range(3):  # no attempt reaches further into the past
        failed = shop.launch().failed()
        assert not failed.checks[CHECK].passed
        assert f": {ago(3)}{'.' if batch_size else f' to {ago(1)}'}" in failed.description_of(CHECK)
        assert computed_days(shop) == (5 if batch_size else 3)
    shop.query("UPDATE ctl.source SET n = '2'")
    healed = shop.launch().succeeded()
    assert healed.checks[CHECK].passed
    assert rows(shop) == HEALED
    assert shop.launch().status_of("t/days") == "up_to_date"


@pytest.mark.night(
    "test_failed_batch_of_lookback_is_computed_again_by_the_next_run",
    "engine/test_records.py::test_failed_restatement_fails_checks_until_range_is_computed_again",
)
def test_old_rows_of_a_batch_that_was_rolled_back_are_computed_again(new_shop: NewShop) -> None:
    """PostgreSQL has transactions: the rows are old, not lost. Two batches run at once."""
    with postgres_server() as server:
        server.query("CREATE DATABASE days")
        server.query("CREATE SCHEMA ctl", "days")
        source = "SELECT (current_date - i)::DATE AS ds, '1' AS n FROM generate_series(0, 9) AS r(i)"
        server.query(f"CREATE TABLE ctl.source AS {source}", "days")
        shop = new_shop(
            {"models/days.sql": BY_DAY}, server.config("days"), planned_at="1 day ago", intervals_check=True
        )
        server.query(f"UPDATE ctl.source SET n = CASE WHEN ds = '{ago(3)}' THEN 'broken' ELSE '2' END", "days")
        failed = shop.launch().failed()
        assert f"lacks 1 interval: {ago(3)}." in failed.description_of(CHECK)
        values = "SELECT n FROM t.days ORDER BY ds"
        assert server.query(values, "days") == [(1,), (1,), (1,), (1,), (2,), (2,)]
        server.query("UPDATE ctl.source SET n = '2'", "days")
        healed = shop.launch().succeeded()
        assert healed.checks[CHECK].passed
        assert server.query(values, "days") == [(1,), (1,), (1,), (2,), (2,), (2,)]


@pytest.mark.night(
    "test_failed_batch_of_lookback_is_computed_again_by_the_next_run",
    "upstream/test_sqlmesh_internals.py::test_begun_intervals_are_marked_until_sqlmesh_records_them",
)
def test_sqlmesh_command_computes_failed_batch_of_lookback(new_shop: NewShop) -> None:
    shop = new_shop({"models/days.sql": BY_DAY}, tables=SOURCE, planned_at="1 day ago")
    break_day(shop)
    assert shop.launch().status == dg.DagsterRunStatus.FAILURE
    shop.query("UPDATE ctl.source SET n = '2'")
    shop.sqlmesh("janitor")  # merges the rows of the state
    assert computed_days(shop) == 5
    shop.sqlmesh("run")
    assert {day: n for day, n in rows(shop).items() if day < 4} == {3: 2, 2: 2, 1: 2}
    assert shop.launch().status_of("t/days") == "up_to_date"


@pytest.mark.attribute("execution.retries")
def test_retry_inside_the_step_computes_failed_batch_of_lookback(new_shop: NewShop) -> None:
    code = f"""
if str(start.date()) == '{ago(3)}' and Path("flaky").exists():
    Path("flaky").unlink()
    raise ConnectionError("the server has restarted")
"""
    retries = {"retries": {"max_retries": 1, "delay": 0}}
    shop = new_shop(python_files(code), planned_at="1 day ago", execution=retries)
    (shop.project / "n").write_text("2")
    (shop.project / "flaky").touch()
    shop.launch().succeeded()
    assert not (shop.project / "flaky").exists()
    assert rows(shop) == HEALED


@pytest.mark.night("engine/test_unaccepted_rows.py::test_a_table_is_not_computed_from_refused_rows_by_any_run")
def test_bad_rows_of_failed_audit_in_lookback_block_downstream_until_they_are_replaced(new_shop: NewShop) -> None:
    text = SQL.format(batch_size=", batch_size 1", audits=", audits (accepted_range(column := n, max_v := 9))", more="")
    files = {"models/days.sql": text, "models/total.sql": DOWNSTREAM}
    shop = new_shop(files, tables=SOURCE, planned_at="1 day ago", intervals_check=True)
    break_day(shop, value="100")
    for outcome in ("partly_executed", "audit_failed"):  # the second run computes the bad day alone
        failed = shop.launch()
        assert failed.status_of("t/days") == outcome
        assert failed.status_of("t/total") == "blocked"
        assert not failed.checks[CHECK].passed
        assert not any("check alone" in str(check.description) for check in failed.checks.values())
    assert shop.query("SELECT n FROM t.total") == [(5,)]
    alone = shop.launch(assets=["t/total"])
    assert alone.status_of("t/total") == "waiting"
    shop.query("UPDATE ctl.source SET n = '2'")
    healed = shop.launch().succeeded()
    assert all(check.passed for check in healed.checks.values())
    assert rows(shop) == HEALED
    assert shop.query("SELECT n FROM t.total") == [(9,)]


def assert_interrupted_days_are_missing_and_then_computed(shop: Shop, record: RunRecord, finished: int) -> None:
    """The plan has computed five days, and the run two of them again and a sixth one."""
    assert computed_days(shop) == 3 + finished
    assert not record.checks[CHECK].passed
    assert f"lacks {3 - finished} intervals: {ago(3 - finished)} to {ago(1)} (" in record.description_of(CHECK)
    healed = shop.launch().succeeded()
    assert healed.checks[CHECK].passed
    assert rows(shop) == HEALED


def test_interval_of_lookback_in_killed_worker_is_missing(new_shop: NewShop) -> None:
    code = f"""
if str(start.date()) == '{ago(3)}' and Path("kill").exists():
    Path("kill").unlink()
    os.kill(os.getpid(), 9)
"""
    shop = new_shop(python_files(code), planned_at="1 day ago", intervals_check=True)
    (shop.project / "n").write_text("2")
    (shop.project / "kill").touch()
    assert_interrupted_days_are_missing_and_then_computed(shop, shop.launch(), finished=0)


@pytest.mark.night("test_interval_of_lookback_in_killed_worker_is_missing")
def test_interval_of_lookback_that_a_cancelled_run_has_not_computed_is_missing(new_shop: NewShop) -> None:
    shop = new_shop(python_files(PAUSE), planned_at="1 day ago", intervals_check=True)
    (shop.project / "n").write_text("2")
    pause = shop.project / "pause"
    pause.touch()
    process = shop.start()
    wait_until((shop.project / "pausing").exists, process)
    [run] = shop.instance.get_runs()
    shop.instance.report_run_canceling(run)
    process.send_signal(signal.SIGTERM)
    wait_until(lambda: "SQLMesh is asked to finish" in shop.run_record(run.run_id).log)
    pause.unlink()
    process.wait(300)
    record = shop.run_record(run.run_id)
    assert record.status == dg.DagsterRunStatus.CANCELED
    assert_interrupted_days_are_missing_and_then_computed(shop, record, finished=1)


@pytest.mark.night("test_failed_batch_of_lookback_is_computed_again_by_the_next_run")
def test_failed_batch_of_lookback_in_a_dev_table_is_computed_again(new_shop: NewShop) -> None:
    allowed = {"execution": {"environments": ["dev"]}}
    shop = new_shop({"models/days.sql": BY_DAY}, tables=SOURCE, planned_at="1 day ago", **allowed)
    (shop.project / "models/days.sql").write_text(CHANGED)
    plan(shop.project, "dev", "--forward-only", "--start", str(ago(6)), at="1 day ago")
    before, in_dev = rows(shop), {"sqlmesh_shop": {"environment": "dev"}}
    assert rows(shop, "t__dev") == before
    break_day(shop)
    shop.launch(ops=in_dev).failed()
    shop.query("UPDATE ctl.source SET n = '2'")
    shop.launch(ops=in_dev).succeeded()
    assert {day: n for day, n in rows(shop, "t__dev").items() if day < 4} == {3: 2, 2: 2, 1: 2}
    assert len(rows(shop, "t__dev")) == 6
    assert rows(shop) == before


@pytest.mark.slow
def test_failed_batch_of_lookback_in_a_repeated_apply_is_computed_by_the_next_one(new_shop: NewShop) -> None:
    """The second apply computes the failed day, and again the day two days before it."""
    shop = new_shop({"models/days.sql": BY_DAY}, tables=SOURCE, planned_at="now", deploy=True)
    (shop.project / "models/days.sql").write_text(CHANGED)
    break_day(shop, days_ago=3)
    launch(shop, APPLY, digest=planned(shop)["digest"]).failed()
    break_day(shop, days_ago=5)
    launch(shop, APPLY, digest=planned(shop)["digest"]).failed()
    break_day(shop, value="2")
    applied(shop)
    assert rows(shop) == dict.fromkeys(range(1, 7), 2)
