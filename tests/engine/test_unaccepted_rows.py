"""No table is computed from rows that were not accepted, or past a hole of a table that it reads as a whole.

A batch writes its rows before its audits, so the rows of a batch that failed stand in the table.
"""

import dagster as dg
import pytest
from harness import NewShop, Shop
from waiting import DAILY, OP, day, load, run, tick, waiting_shop

SOURCE = {"ctl.source": "SELECT (current_date - i::INT)::DATE AS ds, i::INT AS n FROM range(0, 10) r(i)"}
NO_NULLS = "audits (not_null(columns := (n)))"
BY_DAY = "INCREMENTAL_BY_TIME_RANGE (time_column ds, batch_size 1)"
WITHIN = "WHERE ds BETWEEN @start_ds AND @end_ds"
FILES = {
    "models/a.sql": f"MODEL (name t.a, kind {BY_DAY}, {NO_NULLS}); SELECT ds, n FROM ctl.source {WITHIN}",
    "models/v.sql": "MODEL (name t.v, kind VIEW); SELECT ds, n FROM t.a",
    "models/f.sql": "MODEL (name t.f, kind FULL); SELECT ds, n FROM t.a",
    "models/fv.sql": "MODEL (name t.fv, kind FULL); SELECT ds, n FROM t.v",
    "models/history.sql": "MODEL (name t.history, kind SCD_TYPE_2_BY_COLUMN (unique_key ds, columns (n))); "
    "SELECT ds, n FROM t.v",
    "models/keyed.sql": "MODEL (name t.keyed, kind INCREMENTAL_BY_UNIQUE_KEY (unique_key ds)); "
    f"SELECT ds, n FROM t.a {WITHIN}",
    "models/r.sql": f"MODEL (name t.r, kind {BY_DAY}); SELECT ds, n FROM t.a {WITHIN}",
}
WHOLE = ("t/f", "t/fv", "t/history")
EVERY = {day(ago): ago for ago in range(1, 7)}


HOURLY = f"""
import os
import signal
from pathlib import Path

import pandas as pd
from sqlmesh import model
from sqlmesh.core.model.kind import ModelKindName


@model(
    "t.hours",
    kind={{"name": ModelKindName.INCREMENTAL_BY_TIME_RANGE, "time_column": "ts", "batch_size": 24}},
    cron="@hourly",
    columns={{"ts": "timestamp"}},
)
def execute(context, start, end, execution_time, **kwargs):
    yield pd.DataFrame({{"ts": pd.date_range(start.replace(tzinfo=None), end.replace(tzinfo=None), freq="h")}})
    if Path("die").exists() and str(end.date()) > "{day(2)}":
        os.kill(os.getpid(), signal.SIGKILL)
"""
ENDED = f"MODEL (name t.ended, kind FULL, end '{day(2)}'); SELECT ts FROM t.hours"


def refuse(shop: Shop, ago: int) -> None:
    shop.query(f"UPDATE ctl.source SET n = NULL WHERE ds = '{day(ago)}'")


def correct(shop: Shop) -> None:
    shop.query("UPDATE ctl.source SET n = date_diff('day', ds, current_date)")


def rows(shop: Shop, model: str) -> dict[str, int]:
    return {str(ds): n for ds, n in shop.query(f"SELECT ds::DATE, n FROM {model}")}


def test_a_table_is_not_computed_from_refused_rows_by_any_run(new_shop: NewShop) -> None:
    shop = new_shop(FILES, tables=SOURCE, planned_at="3 days ago")
    before = {name: rows(shop, name.replace("/", ".")) for name in (*WHOLE, "t/keyed", "t/r")}
    refuse(shop, 2)
    failed = shop.launch().failed()
    assert failed.status_of("t/a") == "partly_executed"
    assert rows(shop, "t.a")[day(2)] is None, "the row stands there"
    for config in ({}, {"start": day(1)}):
        alone = shop.launch(assets=[*WHOLE], ops={OP: config}).succeeded()
        assert {name: alone.status_of(name) for name in WHOLE} == dict.fromkeys(WHOLE, "waiting")
        assert "t.a" in alone.description_of("t/f:sqlmesh_execution_status")
    bounded = shop.launch(ops={OP: {"start": day(1)}}).failed()  # it repeats the failure
    assert {name: bounded.status_of(name) for name in WHOLE} == dict.fromkeys(WHOLE, "waiting")
    assert {name: rows(shop, name.replace("/", ".")) for name in WHOLE} == {name: before[name] for name in WHOLE}
    assert rows(shop, "t.r") == {**before["t/r"], day(1): 1}, "its own day was accepted"
    assert rows(shop, "t.keyed") == before["t/keyed"], "it needs its older days first"
    correct(shop)
    shop.launch().succeeded()
    for name in ("t.f", "t.fv", "t.history", "t.r", "t.keyed"):
        assert rows(shop, name) == EVERY, name


@pytest.mark.night(
    "unit/worker/intervals/test_unaccepted.py", "test_a_view_that_is_not_due_names_rows_that_this_run_has_refused"
)
@pytest.mark.advice("Correct what has failed there, then launch a run of {} without `start` and `end`: it computes")
def test_a_view_of_refused_rows_is_not_green_and_names_them(new_shop: NewShop) -> None:
    """A restatement of another range executes it, and a run of its check finds nothing to do."""
    files = {name: FILES[name] for name in ("models/a.sql", "models/v.sql")}
    files["models/vv.sql"] = "MODEL (name t.vv, kind VIEW); SELECT ds FROM t.v"
    shop = new_shop(files, tables=SOURCE, planned_at="3 days ago", restate=True)
    refuse(shop, 2)
    shop.launch(assets=["t/a"]).failed()
    for name in ("t/v", "t/vv"):
        record = shop.launch(assets=["t/v", "t/vv"], ops={OP: {"restate": {"start": day(5), "end": day(5)}}})
        status = record.checks[f"{name}:sqlmesh_execution_status"]
        assert (record.status_of(name), status.passed, status.severity) == (
            "executed",
            False,
            dg.AssetCheckSeverity.WARN,
        )
        assert f"It may show rows that are old or refused: t.a ({day(2)})." in str(status.description)
        alone = shop.launch(checks=[f"{name}:sqlmesh_execution_status"]).checks[f"{name}:sqlmesh_execution_status"]
        assert not alone.passed
        assert f"t.a ({day(2)})" in str(alone.description)
    correct(shop)
    record = shop.launch(assets=["t/a"]).succeeded()
    record = shop.launch(assets=["t/v", "t/vv"], ops={OP: {"restate": {"start": day(5), "end": day(5)}}})
    assert all(check.passed for check in record.checks.values())


def test_a_view_that_is_not_due_names_rows_that_this_run_has_refused(new_shop: NewShop) -> None:
    files = {"models/a.sql": FILES["models/a.sql"]}
    files["models/v.sql"] = "MODEL (name t.v, kind VIEW, cron '@yearly', start '2020-01-01'); SELECT ds, n FROM t.a"
    shop = new_shop(files, tables=SOURCE, planned_at="3 days ago")
    refuse(shop, 2)
    record = shop.launch().failed()
    status = record.checks["t/v:sqlmesh_execution_status"]
    assert (record.status_of("t/v"), status.passed) == ("up_to_date", False)
    assert f"It may show rows that are old or refused: t.a ({day(2)})." in str(status.description)
    correct(shop)
    assert shop.launch().succeeded().checks["t/v:sqlmesh_execution_status"].passed


@pytest.mark.night(
    "unit/report/test_results.py::test_rows_that_failed_in_a_pending_interval_are_counted_and_the_advice_is_a_run",
    "engine/test_carried_over.py::test_audit_that_passes_on_new_intervals_warns_of_older_rows_...",
)
@pytest.mark.advice("then launch a run without `start` and `end`: it computes and audits them.")
def test_the_check_of_a_refused_day_advises_the_run_that_computes_it(new_shop: NewShop) -> None:
    """After a later day has passed. An audit of all intervals would find the same row again."""
    shop = new_shop({"models/a.sql": FILES["models/a.sql"]}, tables=SOURCE, planned_at="3 days ago")
    refuse(shop, 2)
    shop.launch(ops={OP: {"end": day(2)}}).failed()
    later = shop.launch(ops={OP: {"start": day(1)}}).succeeded().checks["t/a:not_null_n"]
    assert (later.passed, later.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert later.metadata["sqlmesh/failing_row_count"].value == 1, "there is the row of the refused day below it"
    assert "They are pending. Correct the data, then launch a run without" in str(later.description)
    correct(shop)
    assert shop.launch().succeeded().checks["t/a:not_null_n"].passed


@pytest.mark.night(
    "unit/worker/intervals/test_held_back.py::test_a_whole_table_waits_until_no_hole_is_before_its_end",
    "engine/test_causes.py::test_a_whole_table_past_a_gap_names_it",
)
def test_a_table_is_not_computed_past_a_hole_until_somebody_ignores_the_source(new_shop: NewShop) -> None:
    """By run, and by tick."""
    shop = waiting_shop(new_shop, DAILY.format(start=day(3)), schedule={"cron": "@daily"})
    for ago in (3, 1):
        load(shop, ago)
    assert tick(shop) == {"t/days", "t/shown", "t/alone"}
    for config in ({}, {"start": day(1)}):
        record = run(shop, **config).succeeded()
        status = record.checks["t/total:sqlmesh_execution_status"]
        assert (record.status_of("t/total"), status.passed) == ("waiting", False)
        assert f"load/orders has no materialization of {day(2)}" in str(status.description)
    assert shop.query("SELECT n FROM t.total") == [(None,)]
    ignored = run(shop, ignore_sources=True).succeeded()
    assert (ignored.status_of("t/total"), shop.query("SELECT n FROM t.total")) == ("executed", [(2,)])


@pytest.mark.night(
    "model/test_every_history.py::test_no_history_of_two_actions_has_a_fault",
    "test_a_table_is_not_computed_from_refused_rows_by_any_run",
)
def test_rows_of_a_killed_batch_are_read_by_nobody_although_they_are_newer(new_shop: NewShop) -> None:
    """An hour of yesterday, and a table that is computed as a whole, and that needs nothing after the day before."""
    files = {"models/hours.py": HOURLY, "models/ended.sql": ENDED, "die": ""}
    shop = new_shop(files, planned_at="3 days ago")
    killed = shop.launch(assets=["t/hours"]).failed()
    assert killed.status_of("t/hours") == "interrupted"
    assert shop.query(f"SELECT count(*) > 0 FROM t.hours WHERE ts >= '{day(1)}'") == [(True,)], "its rows stand there"
    alone = shop.launch(assets=["t/ended"]).succeeded()
    assert alone.status_of("t/ended") == "waiting"
    assert "t.hours" in alone.description_of("t/ended:sqlmesh_execution_status")
    (shop.project / "die").unlink()
    shop.launch(assets=["t/hours"]).succeeded()
    assert shop.launch(assets=["t/ended"]).succeeded().status_of("t/ended") == "executed"
