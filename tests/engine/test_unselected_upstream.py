"""What is due upstream and does not run: what reads it is computed as far as that is, and never loses a row."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest
from harness import CONFIG, EXECUTORS, RARELY, Told, dagster_project, plan, query, write_project

DAYS = "SELECT @start_ds::DATE + i::INT AS ds FROM range(0, 1 + (@end_ds::DATE - @start_ds::DATE)) AS r(i)"
BY_DAY = "kind INCREMENTAL_BY_TIME_RANGE (time_column ds)"
LANDING = f"MODEL (name raw.landing, {BY_DAY}); {DAYS}"
READER = f"MODEL (name marts.reader, {BY_DAY}); SELECT ds FROM raw.landing WHERE ds BETWEEN @start_ds AND @end_ds"
BETWEEN = {
    "nothing": {},
    "a view": {"models/way.sql": "MODEL (name mid.way, kind VIEW); SELECT ds FROM raw.landing"},
    "an embedded model": {"models/way.sql": "MODEL (name mid.way, kind EMBEDDED); SELECT ds FROM raw.landing"},
    "a model that is not due": {
        "models/way.sql": f"MODEL (name mid.way, kind FULL, cron '{RARELY}', start '2 years ago'); "
        "SELECT ds FROM raw.landing",
    },
}
WAITS = (
    "upstream of it, raw.landing has due intervals that are not computed, and is not selected in this step. "
    "Materialize it with all that is upstream of it"
)


def days(project: Path, table: str) -> list[str]:
    return [str(day) for (day,) in query(project, f"SELECT ds FROM {table} ORDER BY ds")]


def end_of(told: Told, asset: str) -> object:
    return told.materializations[asset].metadata["sqlmesh/interval_end"].value


@pytest.mark.parametrize("between", BETWEEN)
def test_a_model_run_alone_waits_for_what_is_due_upstream_and_says_what_to_do(tmp_path: Path, between: str) -> None:
    """Else the days that have not been computed upstream would be missing in it for good, in green runs."""
    source = "raw.landing" if between == "nothing" else "mid.way"
    files = {"models/landing.sql": LANDING, "models/reader.sql": READER.replace("raw.landing", source)}
    project = write_project(tmp_path / "shop", {**files, **BETWEEN[between]})
    plan(project)
    with dagster_project(tmp_path) as dagster:
        dagster.declare("shop", {"project": str(project)})
        dagster.refresh()
        alone = dagster.launch(assets=["marts/reader"])
        assert alone.status == dg.DagsterRunStatus.SUCCESS
        assert alone.status_of("marts/reader") == "waiting"
        status = alone.checks["marts/reader:sqlmesh_execution_status"]
        assert (status.passed, status.severity) == (False, dg.AssetCheckSeverity.WARN)
        assert status.description == f"marts.reader is waiting: {WAITS}."
        together = dagster.launch()
        assert together.status_of("marts/reader") == "executed"
        assert dagster.launch(assets=["marts/reader"]).status_of("marts/reader") == "up_to_date"
    assert len(days(project, "raw.landing")) == 6
    if between != "a model that is not due":  # what such a model lacks, SQLMesh itself lets its readers lack
        assert days(project, "marts.reader") == days(project, "raw.landing")


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_model_is_computed_as_far_as_what_it_reads_and_the_log_says_so(tmp_path: Path, executor: str) -> None:
    project = write_project(tmp_path / "shop", {"models/landing.sql": LANDING, "models/reader.sql": READER})
    plan(project)
    with dagster_project(tmp_path) as dagster:
        dagster.declare("shop", {"project": str(project)})
        dagster.refresh()
        first = dagster.launch(assets=["raw/landing"], ops={"sqlmesh_shop": {"end": "2 days ago"}})
        told = dagster.launch(executor, assets=["marts/reader"])
        assert told.status_of("marts/reader") == "executed"
        assert end_of(told, "marts/reader") == end_of(first, "raw/landing")
        assert "Due and not part of this run: warehouse.raw.landing. What reads them is computed as far" in told.log
        assert dagster.launch().status == dg.DagsterRunStatus.SUCCESS
    assert days(project, "marts.reader") == days(project, "raw.landing")
    assert len(days(project, "raw.landing")) == 6


AUDIT = "AUDIT (name as_many, standalone true); SELECT 1 FROM raw.landing, mid.other HAVING count(*) = 0"


def test_a_standalone_audit_waits_for_all_that_it_reads_and_is_evaluated_once_that_is_there(tmp_path: Path) -> None:
    """Else what comes later the same day would be seen by no audit."""
    other = LANDING.replace("raw.landing", "mid.other")
    files = {"models/landing.sql": LANDING, "models/other.sql": other, "audits/as_many.sql": AUDIT}
    project = write_project(tmp_path / "shop", files)
    plan(project)
    with dagster_project(tmp_path) as dagster:
        dagster.declare("shop", {"project": str(project)})
        dagster.refresh()
        check = "mid/other:as_many"
        alone = dagster.launch(assets=["mid/other"])
        assert alone.status == dg.DagsterRunStatus.SUCCESS, alone.failures
        assert check not in alone.checks
        assert f"as_many is waiting: {WAITS}" in alone.log
        assert dagster.launch().checks[check].passed


def test_a_model_that_waits_for_one_which_is_left_out_says_that_it_has_to_run_elsewhere(tmp_path: Path) -> None:
    project = write_project(tmp_path / "shop", {"models/landing.sql": LANDING, "models/reader.sql": READER})
    plan(project)
    with dagster_project(tmp_path) as dagster:
        dagster.declare("shop", {"project": str(project), "exclude": "raw.landing"})
        dagster.refresh()
        told = dagster.launch()
        assert told.status_of("marts/reader") == "waiting"
        said = told.checks["marts/reader:sqlmesh_execution_status"].description
        assert said.endswith("Run raw.landing where it is not left out by `select` or `exclude`.")


MADE = """
import dagster as dg
from pathlib import Path


@dg.asset(key=["mid", "made"], deps=[["raw", "landing"]])
def made() -> None:
    if Path("{flag}").exists():
        raise ValueError("not today")
"""
MID = """
before_all:
  - CREATE SCHEMA IF NOT EXISTS mid
  - CREATE TABLE IF NOT EXISTS mid.made AS SELECT 1 AS one
"""


def test_a_plan_between_a_failed_run_and_its_retry_leaves_no_hole_in_what_the_retry_computes(tmp_path: Path) -> None:
    """The first part of the split step is not repeated, and a plan has made its model due again."""
    reader = READER.replace("raw.landing WHERE", "raw.landing, mid.made WHERE")
    files = {"models/landing.sql": LANDING, "models/reader.sql": reader}
    project = write_project(tmp_path / "shop", files, config=CONFIG + MID)
    plan(project)
    flag = tmp_path / "the asset between fails"
    flag.touch()
    with dagster_project(tmp_path) as dagster:
        dagster.declare("shop", {"project": str(project)})
        dagster.add_module("between", MADE.format(flag=flag))
        dagster.refresh()
        first = dagster.launch()
        assert first.status == dg.DagsterRunStatus.FAILURE
        assert first.status_of("raw/landing") == "executed"
        flag.unlink()
        (project / "models/landing.sql").write_text(LANDING.replace("AS ds FROM", "AS ds, 2 AS version FROM"))
        plan(project)
        retried = dagster.launch(retry_of=first.run_id)
        assert "raw/landing" not in retried.materializations
        assert retried.status_of("marts/reader") == "waiting"
        assert WAITS in retried.checks["marts/reader:sqlmesh_execution_status"].description
        assert dagster.launch().status == dg.DagsterRunStatus.SUCCESS
    assert days(project, "marts.reader") == days(project, "raw.landing")
    assert len(days(project, "raw.landing")) == 6


@pytest.mark.parametrize("audits", ["", ", audits (not_null(columns := (ds)))"])
def test_a_view_that_does_not_run_is_looked_through_unless_an_audit_has_to_see_it_first(
    tmp_path: Path, audits: str
) -> None:
    """Its rows are those of its source at any time; a run without it would not see its failing audit."""
    seed = "MODEL (name raw.landing, kind SEED (path '../seeds/landing.csv'), columns (ds DATE))"
    view = f"MODEL (name mid.view, kind VIEW{audits}); SELECT ds FROM raw.landing"
    full = "MODEL (name marts.full, kind FULL); SELECT ds FROM mid.view"
    files = {"seeds/landing.csv": "ds\n2024-01-01\n", "models/landing.sql": seed, "models/view.sql": view}
    project = write_project(tmp_path / "shop", {**files, "models/full.sql": full})
    plan(project)
    with dagster_project(tmp_path) as dagster:
        dagster.declare("shop", {"project": str(project)})
        dagster.refresh()
        alone = dagster.launch(assets=["marts/full"])
        assert alone.status_of("marts/full") == ("waiting" if audits else "executed")
        if audits:
            assert dagster.launch(assets=["mid/view", "marts/full"]).status_of("marts/full") == "executed"
