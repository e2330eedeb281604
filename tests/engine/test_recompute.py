"""`restate` in the run config computes a range again, with SQLMesh's own restatement."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from harness import EXECUTORS, DagsterProject, dagster_project, query, sqlmesh, state, write_project

BY_DAY = "kind INCREMENTAL_BY_TIME_RANGE (time_column ds)"
DAYS = "range(0, 1 + (@end_ds::DATE - @start_ds::DATE)) AS r(i)"
CONFIG = """
gateways:
  local:
    connection: {type: duckdb, database: warehouse.duckdb}
default_gateway: local
model_defaults: {dialect: duckdb, start: '2026-01-01'}
disable_anonymized_analytics: true
"""
MODELS = {
    "models/orders.sql": f"MODEL (name raw.orders, {BY_DAY}, audits (not_null(columns := (n)))); "
    f"SELECT @start_ds::DATE + i::INT AS ds, (SELECT max(n) FROM ctl.source) AS n FROM {DAYS}",
    "models/revenue.sql": f"MODEL (name marts.revenue, {BY_DAY}, audits (not_null(columns := (n)))); "
    "SELECT ds, n FROM raw.orders WHERE ds BETWEEN @start_ds AND @end_ds",
    "models/total.sql": "MODEL (name marts.total, kind FULL); SELECT sum(n) AS n FROM marts.revenue",
    "models/other.sql": f"MODEL (name raw.other, {BY_DAY}); SELECT @start_ds::DATE + i::INT AS ds FROM {DAYS}",
    "models/seed.sql": "MODEL (name raw.countries, kind SEED (path '../seeds/countries.csv')); ",
    "seeds/countries.csv": "code\nDE\n",
}
BY_DAY_MODELS = ("raw.orders", "marts.revenue", "raw.other")
DAY = datetime.timedelta(days=1)
OP = "sqlmesh_shop"
ALLOWED = {"execution": {"allow_restate": True, "environments": ["dev"]}}


def restate(start: str, end: str, **more: Any) -> dict[str, Any]:
    return {OP: {"restate": {"start": start, "end": end}, **more}}


def rows(project: Path, schema: str = "marts") -> dict[str, int]:
    """The value of each day in revenue that is not the first one."""
    found = query(project, f"SELECT ds::DATE::TEXT, n FROM {schema}.revenue WHERE n <> 1 ORDER BY ds")
    return dict(found)


def days_of(project: Path, model: str) -> list[datetime.date]:
    """The day of each row of a model, in order."""
    return [day for (day,) in query(project, f"SELECT ds::DATE FROM {model} ORDER BY ds")]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project whose models lack the last thirty days."""
    project = write_project(tmp_path / "shop", MODELS, CONFIG)
    query(project, "CREATE SCHEMA ctl")
    query(project, "CREATE TABLE ctl.source AS SELECT 1 AS n")
    sqlmesh(project, "plan", "--auto-apply", "--no-prompts", "--execution-time", "30 days ago")
    return project


@pytest.fixture
def dagster(tmp_path: Path) -> Iterator[DagsterProject]:
    with dagster_project(tmp_path) as dagster:
        yield dagster


@pytest.mark.attribute("execution.allow_restate")
@pytest.mark.parametrize("executor", EXECUTORS)
def test_thirty_missing_days_and_then_one_restated_day_are_one_sqlmesh_run_each(
    dagster: DagsterProject, project: Path, executor: str
) -> None:
    dagster.add_component("shop", {"project": str(project), **ALLOWED})
    dagster.refresh()
    planned = {model: days_of(project, model) for model in BY_DAY_MODELS}
    run = dagster.launch(executor)
    assert run.status is dg.DagsterRunStatus.SUCCESS, run.failures
    assert run.step_keys == [OP]
    assert set(run.materializations) == {"raw/orders", "marts/revenue", "marts/total", "raw/other"}
    for model in BY_DAY_MODELS:
        metadata = run.materializations[model.replace(".", "/")].metadata
        first = planned[model][-1] + DAY
        missing = [day for day in days_of(project, model) if day >= first]
        assert missing == [first + i * DAY for i in range(len(missing))]
        assert len(missing) in (30, 31)  # 31, if midnight came between the plan and the run
        assert metadata["sqlmesh/intervals"].value == f"[{first}, {missing[-1] + DAY})"
        assert metadata["sqlmesh/batches"].value == 1

    query(project, "UPDATE ctl.source SET n = 7")
    before = state(project)

    run = dagster.launch(executor, ops=restate("2026-02-10", "2026-02-10"), assets=["raw/orders"])
    assert run.status is dg.DagsterRunStatus.SUCCESS, run.failures
    assert rows(project) == {"2026-02-10": 7}
    assert set(run.materializations) == {"raw/orders", "marts/revenue", "marts/total"}
    intervals = {key: event.metadata["sqlmesh/intervals"].value for key, event in run.materializations.items()}
    assert intervals["raw/orders"] == intervals["marts/revenue"] == "[2026-02-10, 2026-02-11)"
    assert {name: check.passed for name, check in run.checks.items()} == {
        "raw/orders:not_null_n": True,
        "raw/orders:sqlmesh_execution_status": True,
        "marts/revenue:not_null_n": True,
        "marts/revenue:sqlmesh_execution_status": True,
        "marts/total:sqlmesh_execution_status": True,
    }
    assert "This run restates 3 models" in run.log
    assert "    raw.orders: [2026-02-10, 2026-02-11) (1 interval)" in run.log
    assert "Not selected, but downstream of a restated model, so SQLMesh computes them again: " in run.log
    [table] = [
        event.event_specific_data.metadata["sqlmesh/restated"]
        for event in run.events(dg.DagsterEventType.ENGINE_EVENT)
        if "sqlmesh/restated" in event.event_specific_data.metadata
    ]
    assert {record.data["model"] for record in table.records} == {"raw.orders", "marts.revenue", "marts.total"}
    assert state(project)["data_hashes"] == before["data_hashes"]

    # The next run finds nothing to do, and nothing that was computed outside of Dagster.
    after = dagster.launch(executor)
    assert not after.materializations
    assert not after.computed_outside


@pytest.mark.attribute("restate.max_intervals", "restate.max_seconds")
def test_refused_restatement_computes_nothing(dagster: DagsterProject, project: Path) -> None:
    dagster.add_component("shop", {"project": str(project)})
    dagster.refresh()
    assert dagster.launch().status is dg.DagsterRunStatus.SUCCESS
    query(project, "UPDATE ctl.source SET n = 7")
    day = restate("2026-02-10", "2026-02-10")
    [failure] = dagster.launch(ops=day, assets=["raw/orders"]).failures
    assert "asks for a restatement, which defs.yaml does not allow" in failure

    dagster.add_component("shop", {"project": str(project), **ALLOWED, "restate": {"max_intervals": 2}})
    dagster.refresh()
    for blank in (restate("", ""), {OP: {"start": " "}}):
        [failure] = dagster.launch(ops=blank, assets=["raw/orders"]).failures
        assert re.match(r"`(restate\.)?start` in the run config is ' ?'\. Write a date", failure)
    refused = dagster.launch(ops=restate("2026-02-10", "2026-02-12"), assets=["raw/orders"])
    [failure] = refused.failures
    asked_for = "from 2026-02-10T00:00:00Z to 2026-02-13T00:00:00Z"
    assert failure.startswith(f"The restatement {asked_for} would compute 7 intervals of 3 models; ")
    assert f"The run config asks for the range {asked_for}." in refused.log
    assert "`restate.max_intervals` in defs.yaml is 2. Nothing was computed." in failure
    assert "raw.orders: [2026-02-10, 2026-02-13) (3 intervals)" in refused.log
    assert re.search(r"marts\.total: \[2026-01-01, \S+\) \(1 interval\)", refused.log), "computed as a whole: once"
    [failure] = dagster.launch(ops=day, assets=["raw/countries", "raw/orders"]).failures
    assert "cannot restate raw.countries (a seed: to load it again, change its file and apply a plan)." in failure
    instant = restate("3 days ago", "3 days ago")
    [failure] = dagster.launch(ops=instant, assets=["raw/orders"]).failures
    assert "raw.orders (no complete interval of its unit, day, lies in this range: choose a longer one)." in failure
    [failure] = dagster.launch(ops=restate("2026-02-12", "2026-02-10"), assets=["raw/orders"]).failures
    assert "start '2026-02-12' (2026-02-12T00:00:00Z) is after end '2026-02-10' (2026-02-10T00:00:00Z)" in failure
    [failure] = dagster.launch(ops=restate("2026-02-12", "2999-01-01"), assets=["raw/orders"]).failures
    assert "SQLMesh refuses the restatement: PlanError: Plan end date" in failure
    assert failure.endswith("Nothing was computed. Correct `restate` in the run config.")

    dagster.add_component("shop", {"project": str(project), **ALLOWED, "restate": {"max_seconds": 0}})
    dagster.refresh()
    [failure] = dagster.launch(ops=day, assets=["raw/orders"]).failures
    assert "as estimated from earlier runs; `restate.max_seconds` in defs.yaml is 0" in failure
    assert rows(project) == {}


def test_restatement_in_dev_leaves_prod_as_it_is_and_one_in_prod_names_dev(
    dagster: DagsterProject, project: Path
) -> None:
    orders = project / "models/orders.sql"
    orders.write_text(orders.read_text().replace("AS n FROM range", "+ 0 AS n FROM range"))
    sqlmesh(project, "plan", "dev", "--auto-apply", "--no-prompts", "--execution-time", "3 days ago")
    dagster.add_component("shop", {"project": str(project), **ALLOWED})
    dagster.refresh()
    query(project, "UPDATE ctl.source SET n = 7")
    in_dev = restate("2026-02-10", "2026-02-10", environment="dev")
    run = dagster.launch(ops=in_dev, assets=["raw/orders"])
    assert run.status is dg.DagsterRunStatus.SUCCESS, run.failures
    assert (rows(project, "marts__dev"), rows(project)) == ({"2026-02-10": 7}, {})
    assert not run.materializations
    assert set(run.observations) == {"raw/orders", "marts/revenue", "marts/total"}
    [failure] = dagster.launch(ops=in_dev, assets=["raw/other"]).failures
    assert "raw.other (environment dev shows the table of prod: restate it in prod)" in failure

    # In prod, the promoted version of raw.orders is restated, and not the changed file.
    run = dagster.launch(ops=restate("2026-02-11", "2026-02-11"), assets=["raw/orders"])
    assert run.status is dg.DagsterRunStatus.SUCCESS, run.failures
    assert "These environments lose the same intervals of their own versions: dev (3 models)." in run.log
    assert "Local files differ from environment prod. This run executes the promoted version of raw.orders" in run.log
    assert rows(project) == {"2026-02-11": 7}
    assert rows(project, "marts__dev") == {"2026-02-10": 7}


def test_failed_restatement_says_to_launch_it_again(dagster: DagsterProject, project: Path) -> None:
    dagster.add_component("shop", {"project": str(project), **ALLOWED})
    dagster.refresh()
    assert dagster.launch().status is dg.DagsterRunStatus.SUCCESS
    query(project, "UPDATE ctl.source SET n = NULL")
    run = dagster.launch(ops=restate("2026-02-10", "2026-02-10"), assets=["raw/orders"])
    [failure] = run.failures
    assert "launch the same restatement again" in failure
    assert not run.materializations
    assert not run.checks["raw/orders:not_null_n"].passed
    assert not run.checks["marts/revenue:sqlmesh_execution_status"].passed

    query(project, "UPDATE ctl.source SET n = 7")
    run = dagster.launch(ops=restate("2026-02-10", "2026-02-10"), assets=["raw/orders"])
    assert run.status is dg.DagsterRunStatus.SUCCESS
    assert rows(project) == {"2026-02-10": 7}
