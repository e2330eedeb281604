"""A model waits for pending upstream models outside of the run, and for signals, in every step and retry."""

from pathlib import Path

import dagster as dg
import pytest
from computed_hours import recorded_hours
from engine.recorded_models import day
from engine.signals import IS_OPEN
from harness import CONFIG, ONE_EXECUTOR, NewShop, RunRecord, Shop, dagster_project, plan, rows_at_night, write_project

DAILY_ROWS = "SELECT @start_ds::DATE + i::INT AS ds FROM range(0, 1 + (@end_ds::DATE - @start_ds::DATE)) AS r(i)"
BY_DAY = "kind INCREMENTAL_BY_TIME_RANGE (time_column ds)"
LANDING = f"MODEL (name raw.landing, {BY_DAY}); {DAILY_ROWS}"
DOWNSTREAM = f"MODEL (name marts.reader, {BY_DAY}); SELECT ds FROM raw.landing WHERE ds BETWEEN @start_ds AND @end_ds"


WAITING_REASON = (
    "models upstream have pending intervals and are not part of this step: raw.landing. "
    "Select them too, with all models upstream of them"
)


def stored_days(shop: Shop, table: str) -> list[str]:
    return [str(day) for (day,) in shop.query(f"SELECT ds FROM {table} ORDER BY ds")]


def last_hour(record: RunRecord, asset: str) -> int:
    return max(recorded_hours(record.materializations[asset].metadata) or [0])


@pytest.mark.parametrize(("kind", "nearest"), [("VIEW", "mid.way"), *rows_at_night(("EMBEDDED", "raw.landing"))])
def test_model_run_alone_waits_for_pending_upstream_intervals_behind_a_model_without_rows(
    new_shop: NewShop, kind: str, nearest: str
) -> None:
    """Otherwise it would lack the days that are pending upstream permanently, and its runs would succeed."""
    files = {
        "models/landing.sql": LANDING,
        "models/way.sql": f"MODEL (name mid.way, kind {kind}); SELECT ds FROM raw.landing",
        "models/reader.sql": DOWNSTREAM.replace("raw.landing", "mid.way"),
    }
    shop = new_shop(files)
    alone = shop.launch(assets=["marts/reader"]).succeeded()
    assert alone.status_of("marts/reader") == "waiting"
    status = alone.checks["marts/reader:sqlmesh_execution_status"]
    assert (status.passed, status.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert status.description == f"marts.reader is waiting: {WAITING_REASON.replace('raw.landing', nearest)}."
    assert shop.launch().status_of("marts/reader") == "executed"
    assert shop.launch(assets=["marts/reader"]).status_of("marts/reader") == "up_to_date"
    assert len(stored_days(shop, "raw.landing")) == 6
    assert stored_days(shop, "marts.reader") == stored_days(shop, "raw.landing")


@pytest.mark.parametrize("executor", ONE_EXECUTOR)
def test_model_is_computed_up_to_its_upstream_model_and_log_says_so(new_shop: NewShop, executor: str) -> None:
    shop = new_shop({"models/landing.sql": LANDING, "models/reader.sql": DOWNSTREAM})
    first = shop.launch(assets=["raw/landing"], ops={"sqlmesh_shop": {"end": "2 days ago"}})
    record = shop.launch(executor, assets=["marts/reader"])
    assert record.status_of("marts/reader") == "executed"
    assert last_hour(record, "marts/reader") == last_hour(first, "raw/landing")
    status = "marts/reader:sqlmesh_execution_status"
    assert record.checks[status].passed
    assert record.description_of(status).endswith(f"Its other intervals are waiting: {WAITING_REASON}.")
    assert "Its other intervals are waiting" not in first.description_of("raw/landing:sqlmesh_execution_status")
    assert "Not in this run, with pending intervals: raw.landing. Models downstream are computed" in record.log
    assert shop.launch().status == dg.DagsterRunStatus.SUCCESS
    assert stored_days(shop, "marts.reader") == stored_days(shop, "raw.landing")
    assert len(stored_days(shop, "raw.landing")) == 6


STANDALONE_AUDIT = "AUDIT (name as_many, standalone true); SELECT 1 FROM raw.landing, mid.other HAVING count(*) = 0"


def test_standalone_audit_waits_until_all_its_models_are_computed(new_shop: NewShop) -> None:
    """Otherwise no audit would check rows that arrive later the same day."""
    other = LANDING.replace("raw.landing", "mid.other")
    files = {"models/landing.sql": LANDING, "models/other.sql": other, "audits/as_many.sql": STANDALONE_AUDIT}
    shop = new_shop(files)
    shop.refresh()
    check = "mid/other:as_many"
    alone = shop.launch(assets=["mid/other"]).succeeded()
    assert f"as_many is waiting: {WAITING_REASON}" in alone.description_of(check)
    assert f"as_many is waiting: {WAITING_REASON}" in alone.log
    assert shop.launch().checks[check].passed


CREATE_MID_TABLE = """
before_all:
  - CREATE SCHEMA IF NOT EXISTS mid
  - CREATE TABLE IF NOT EXISTS mid.made AS SELECT 1 AS one
"""


def test_pending_upstream_intervals_are_found_if_project_has_no_start(new_shop: NewShop) -> None:
    """SQLMesh derives the start of models without `start` from the end of the run."""
    config = CONFIG.replace(", start: 6 days ago", "").replace("  start: 6 days ago\n", "")
    assert "start" not in config
    shop = new_shop({"models/landing.sql": LANDING, "models/reader.sql": DOWNSTREAM}, config, planned_at="now")
    shop.refresh()
    bounds = {"sqlmesh_shop": {"start": "4 days ago", "end": "2 days ago"}}
    assert shop.launch(assets=["marts/reader"], ops=bounds).status_of("marts/reader") == "waiting"
    assert shop.launch(ops=bounds).status_of("marts/reader") == "executed"
    assert stored_days(shop, "marts.reader") == stored_days(shop, "raw.landing")
    assert len(stored_days(shop, "raw.landing")) == 2


# -- signals ------------------------------------------------------------------------------------------

LANDED_SIGNAL = """
import datetime, pathlib
from sqlmesh import signal


@signal()
def landed(batch):
    if pathlib.Path("nothing has landed").exists():
        return False
    if not pathlib.Path("yesterday has not landed").exists():
        return True
    today = datetime.datetime.now(datetime.timezone.utc).replace(hour=0, minute=0, second=0, microsecond=0)
    return [interval for interval in batch if interval[1] < today]
"""
LANDING_WITH_SIGNAL = f"MODEL (name raw.landing, {BY_DAY}, signals (landed())); {DAILY_ROWS}"
FLAKY_DOWNSTREAM = """
import typing as t
from pathlib import Path

import pandas as pd
from sqlmesh import model
from sqlmesh.core.model.kind import ModelKindName


@model(
    "marts.reader",
    kind={"name": ModelKindName.INCREMENTAL_BY_TIME_RANGE, "time_column": "ds"},
    columns={"ds": "date"},
    depends_on=["raw.landing"],
)
def execute(context, start, end, execution_time, **kwargs: t.Any) -> pd.DataFrame:
    if Path("the connection breaks").exists():
        Path("the connection breaks").unlink()
        raise ConnectionError("the connection was lost")
    landing = context.resolve_table("raw.landing")
    yield context.fetchdf(f"SELECT ds FROM {landing} WHERE ds BETWEEN '{start.date()}' AND '{end.date()}'")
"""


ASSET_BETWEEN = """
import dagster as dg


@dg.asset(key=["mid", "made"], deps=[["raw", "plain"]])
def made() -> None: ...


@dg.asset(deps=[["raw", "late"]])
def report_of_late() -> None: ...
"""


def test_model_of_a_retry_waits_for_the_signal_of_the_upstream_model_that_is_not_in_it(new_shop: NewShop) -> None:
    """Otherwise the day that has not landed would be computed without its source, and never again."""
    files = {
        "models/landing.sql": LANDING_WITH_SIGNAL,
        "models/reader.py": FLAKY_DOWNSTREAM,
        "signals/__init__.py": "",
        "signals/landed.py": LANDED_SIGNAL,
    }
    shop = new_shop(files, execution={"retries": {"max_retries": 1, "delay": 0.1}})
    (shop.project / "yesterday has not landed").touch()
    (shop.project / "the connection breaks").touch()
    record = shop.launch().succeeded()
    assert record.materializations["marts/reader"].metadata["sqlmesh/attempts"].value == 2
    assert last_hour(record, "marts/reader") == last_hour(record, "raw/landing")
    cause = "Its other intervals are waiting: upstream model raw.landing is waiting for its signal landed."
    assert record.description_of("marts/reader:sqlmesh_execution_status").endswith(cause)
    (shop.project / "yesterday has not landed").unlink()
    shop.launch().succeeded()
    assert stored_days(shop, "marts.reader") == stored_days(shop, "raw.landing")
    assert len(stored_days(shop, "raw.landing")) == 6


LATE_MODEL = "MODEL (name raw.late, kind FULL, signals (landed())); SELECT 1 AS id"


@pytest.mark.parametrize(("components", "executor"), [*rows_at_night((1, "in_process")), (2, "multiprocess")])
def test_waiting_model_holds_back_only_its_downstream_models(tmp_path: Path, components: int, executor: str) -> None:
    """With one component, whose step is split because another asset is between two models, and with two components."""
    project = write_project(
        tmp_path / "shop",
        {
            "signals/__init__.py": "",
            "signals/landed.py": LANDED_SIGNAL,
            "models/landing.sql": LANDING_WITH_SIGNAL,
            "models/late.sql": LATE_MODEL,
            "models/plain.sql": "MODEL (name raw.plain, kind FULL); SELECT 1 AS id",
            "models/reader.sql": DOWNSTREAM.replace("raw.landing WHERE", "raw.landing, mid.made WHERE"),
            "models/healthy.sql": "MODEL (name marts.healthy, kind FULL, audits (not_null(columns := (id)))); "
            "SELECT id FROM raw.plain, mid.made",
        },
        config=CONFIG + CREATE_MID_TABLE,
    )
    plan(project)
    (project / "nothing has landed").touch()
    with dagster_project(tmp_path) as dagster:
        if components == 1:
            dagster.add_component("shop", {"project": str(project)})
        else:
            dagster.add_component("raw", {"project": str(project), "select": "raw.*"})
            # This is the same project, written in another form.
            dagster.add_component(
                "marts", {"project": {"path": str(project), "environment": "prod"}, "select": "marts.*"}
            )
        dagster.add_module("between", ASSET_BETWEEN)
        dagster.refresh()
        record = dagster.launch(executor)
    assert record.status == dg.DagsterRunStatus.SUCCESS
    assert {key: record.status_of(key) for key in ("raw/landing", "raw/late", "raw/plain")} == {
        "raw/landing": "waiting",
        "raw/late": "waiting",
        "raw/plain": "executed",
    }
    assert record.status_of("marts/healthy") == "executed"
    assert record.checks["marts/healthy:not_null_id"].passed
    assert record.status_of("marts/reader") == "waiting"
    assert "upstream model raw.landing is waiting for its signal landed" in str(
        record.observations["marts/reader"].description
    )
    # Dagster skips other assets downstream of it, and the log of the successful run says so.
    assert "report_of_late" not in record.materializations
    assert "raw.late is waiting, so Dagster skips the steps that wait for it" in record.log
    assert "Not run because of that: report_of_late." in record.log


FRESHNESS_SIGNAL = """
from sqlmesh import signal


@signal()
def fresh(batch, context):
    return bool(context.parent_intervals)
"""


@pytest.mark.night(
    "engine/test_schedule.py::test_freshness_signal_is_ready_after_an_upstream_model_was_computed_in_an_earlier_run"
)
def test_freshness_signal_sees_upstream_model_computed_in_another_run(new_shop: NewShop) -> None:
    """SQLMesh's own signal `freshness` needs this. Otherwise the model would wait permanently."""
    files = {
        "signals/__init__.py": "",
        "signals/fresh.py": FRESHNESS_SIGNAL,
        "models/plain.sql": "MODEL (name raw.plain, kind FULL); SELECT 1 AS id",
        "models/reader.sql": "MODEL (name marts.reader, kind FULL, signals (fresh())); SELECT id FROM raw.plain",
    }
    shop = new_shop(files)
    assert shop.launch(assets=["marts/reader"]).status_of("marts/reader") == "waiting"
    assert shop.launch(assets=["raw/plain"]).status_of("raw/plain") == "executed"
    assert shop.launch(assets=["marts/reader"]).status_of("marts/reader") == "executed"


@pytest.mark.night(
    "model/test_every_history.py::test_a_closed_signal_holds_back_models_behind_a_view_that_has_nothing_to_compute",
    "test_model_run_alone_waits_for_pending_upstream_intervals_behind_a_model_without_rows",
)
def test_a_closed_signal_holds_back_models_behind_a_view_that_has_nothing_to_compute(new_shop: NewShop) -> None:
    """The view is not part of the run. The day was restated: its old rows stand in the table until the signal opens."""
    incremental, within = "kind INCREMENTAL_BY_TIME_RANGE (time_column ds)", "WHERE ds BETWEEN @start_ds AND @end_ds"
    files = {
        "signals/__init__.py": IS_OPEN,
        "models/a.sql": f"MODEL (name t.a, {incremental}, start '{day(3)}', signals (is_open())); "
        f"SELECT ds, n FROM raw.x {within}",
        "models/v.sql": f"MODEL (name t.v, kind VIEW, start '{day(3)}'); SELECT ds, n FROM t.a",
        "models/b.sql": f"MODEL (name t.b, {incremental}, start '{day(3)}'); SELECT ds, n FROM t.v {within}",
    }
    days = f"SELECT ds::TEXT AS ds, 1 AS n FROM (VALUES ('{day(3)}'), ('{day(2)}'), ('{day(1)}')) AS t(ds)"
    shop = new_shop(files, tables={"raw.x": days}, restate=True)
    shop.launch().succeeded()
    shop.query(f"UPDATE raw.x SET n = 2 WHERE ds = '{day(2)}'")
    (shop.project / "closed").touch()
    shop.launch(assets=["t/a"], ops={"sqlmesh_shop": {"restate": {"start": day(2), "end": day(2)}}})
    shop.launch(assets=["t/a", "t/b"])
    (shop.project / "closed").unlink()
    for _ in range(2):
        shop.launch().succeeded()
    assert shop.query("SELECT ds, n FROM t.b ORDER BY ds") == shop.query("SELECT ds, n FROM t.a ORDER BY ds")
    assert shop.query(f"SELECT n FROM t.b WHERE ds = '{day(2)}'") == [(2,)]
