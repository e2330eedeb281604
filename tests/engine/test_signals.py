"""Models wait for signals in every step, retry and selection."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest
from harness import CONFIG, EXECUTORS, RunRecord, dagster_project, plan, query, write_project

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
DAILY_ROWS = "SELECT @start_ds::DATE + i::INT AS ds FROM range(0, 1 + (@end_ds::DATE - @start_ds::DATE)) AS r(i)"
BY_DAY = "kind INCREMENTAL_BY_TIME_RANGE (time_column ds)"
LANDING = f"MODEL (name raw.landing, {BY_DAY}, signals (landed())); {DAILY_ROWS}"
DOWNSTREAM = f"MODEL (name marts.reader, {BY_DAY}); SELECT ds FROM raw.landing WHERE ds BETWEEN @start_ds AND @end_ds"
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
CREATE_MID_TABLE = """
before_all:
  - CREATE SCHEMA IF NOT EXISTS mid
  - CREATE TABLE IF NOT EXISTS mid.made AS SELECT 1 AS one
"""


def stored_days(project: Path, table: str) -> list[str]:
    return [str(day) for (day,) in query(project, f"SELECT ds FROM {table} ORDER BY ds")]


def interval_end(record: RunRecord, asset: str) -> str:
    return str(record.materializations[asset].metadata["sqlmesh/intervals"].value).rpartition(", ")[2]


@pytest.mark.parametrize("where", ["in another run", "in a retry", "in another step"])
def test_model_waits_for_signal_of_upstream_model_outside_the_run(tmp_path: Path, where: str) -> None:
    """Otherwise the day that has not landed would be computed without its source, and never again."""
    files = {"models/landing.sql": LANDING, "signals/__init__.py": "", "signals/landed.py": LANDED_SIGNAL}
    files |= {
        "in another run": {"models/reader.sql": DOWNSTREAM},
        "in a retry": {"models/reader.py": FLAKY_DOWNSTREAM},
        "in another step": {
            "models/reader.sql": DOWNSTREAM.replace("raw.landing WHERE", "raw.landing, mid.made WHERE")
        },
    }[where]
    project = write_project(tmp_path / "shop", files, config=CONFIG + CREATE_MID_TABLE)
    plan(project)
    (project / "yesterday has not landed").touch()
    with dagster_project(tmp_path) as dagster:
        retries = {"execution": {"retries": {"max_retries": 1, "delay": 0.1}}}
        dagster.add_component("shop", {"project": str(project), **retries})
        if where == "in another step":
            between = ASSET_BETWEEN.replace(
                "-> None: ...", f"-> None: Path('{project}/yesterday has not landed').unlink(True)"
            )
            dagster.add_module("between", "from pathlib import Path\n" + between.replace("plain", "landing"))
        dagster.refresh()
        if where == "in another run":
            first = dagster.launch(assets=["raw/landing"])
            (project / "yesterday has not landed").unlink()  # now its signal would report it as ready
            second = dagster.launch(assets=["marts/reader"])
        elif where == "in another step":
            first = second = dagster.launch()
            assert "mid__made" in second.succeeded_steps
        else:
            (project / "the connection breaks").touch()
            first = second = dagster.launch()
            assert second.materializations["marts/reader"].metadata["sqlmesh/attempts"].value == 2
        assert first.status == second.status == dg.DagsterRunStatus.SUCCESS
        assert interval_end(second, "marts/reader") == interval_end(first, "raw/landing")
        (project / "yesterday has not landed").unlink(missing_ok=True)
        assert dagster.launch().status == dg.DagsterRunStatus.SUCCESS
    assert stored_days(project, "marts.reader") == stored_days(project, "raw.landing")
    assert len(stored_days(project, "raw.landing")) == 6


LATE_MODEL = "MODEL (name raw.late, kind FULL, signals (landed())); SELECT 1 AS id"


@pytest.mark.parametrize(("components", "executor"), [*zip((1, 2), EXECUTORS)])
def test_waiting_model_holds_back_only_its_downstream_models(tmp_path: Path, components: int, executor: str) -> None:
    """With one component, whose step is split because another asset is between two models, and with two components."""
    project = write_project(
        tmp_path / "shop",
        {
            "signals/__init__.py": "",
            "signals/landed.py": LANDED_SIGNAL,
            "models/landing.sql": LANDING,
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
    assert "upstream of it, raw.landing waits for a signal" in str(record.observations["marts/reader"].description)
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


@pytest.mark.parametrize("where", ["in another run", "in another step"])
def test_freshness_signal_sees_upstream_model_computed_in_another_run_or_step(tmp_path: Path, where: str) -> None:
    """SQLMesh's own signal `freshness` needs this. Otherwise the model would wait permanently."""
    source = "raw.plain, mid.made" if where == "in another step" else "raw.plain"
    files = {
        "signals/__init__.py": "",
        "signals/fresh.py": FRESHNESS_SIGNAL,
        "models/plain.sql": "MODEL (name raw.plain, kind FULL); SELECT 1 AS id",
        "models/reader.sql": f"MODEL (name marts.reader, kind FULL, signals (fresh())); SELECT id FROM {source}",
    }
    project = write_project(tmp_path / "shop", files, config=CONFIG + CREATE_MID_TABLE)
    plan(project)
    with dagster_project(tmp_path) as dagster:
        dagster.add_component("shop", {"project": str(project)})
        if where == "in another step":
            dagster.add_module("between", ASSET_BETWEEN.replace("late", "nothing"))
        dagster.refresh()
        if where == "in another run":
            assert dagster.launch(assets=["marts/reader"]).status_of("marts/reader") == "waiting"
            assert dagster.launch(assets=["raw/plain"]).status_of("raw/plain") == "executed"
            assert dagster.launch(assets=["marts/reader"]).status_of("marts/reader") == "executed"
        else:
            record = dagster.launch()
            assert "mid__made" in record.succeeded_steps
            assert record.status_of("marts/reader") == "executed"
