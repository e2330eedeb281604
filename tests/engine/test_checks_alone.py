"""Runs of checks only: each audit speaks for itself, of what its environment has computed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from harness import DagsterProject, dagster_project, plan, query, write_project

DAYS = "@start_ds::DATE + i::INT AS ds FROM range(0, 1 + (@end_ds::DATE - @start_ds::DATE)) AS r(i)"
FILES = {
    "external_models.yaml": """
        - name: raw.source
          columns: {id: int}
          audits: [{name: known}]
    """,
    "models/first.sql": "MODEL (name t.first, kind FULL); SELECT id FROM raw.source",
    "models/model.sql": "MODEL (name t.model, kind FULL, "
    "audits (soft(), hard(), broken(), not_null(columns := (id)))); SELECT id FROM raw.source",
    "audits/known.sql": "AUDIT (name known, blocking false); "
    "SELECT * FROM raw.source WHERE (SELECT is_known FROM raw.flags) = 0",
    "audits/soft.sql": "AUDIT (name soft, blocking false); SELECT * FROM @this_model WHERE id < 0",
    "audits/hard.sql": "AUDIT (name hard); SELECT * FROM @this_model WHERE (SELECT is_fine FROM raw.flags) = 0",
    "audits/broken.sql": "AUDIT (name broken, blocking false); SELECT * FROM @this_model WHERE "
    "CASE WHEN (SELECT is_fine FROM raw.flags) = 0 THEN error('the audit is broken') ELSE false END",
}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DagsterProject]:
    folder = tmp_path_factory.mktemp("alone")
    project = write_project(folder / "shop", FILES)
    query(project, "CREATE SCHEMA raw")
    query(project, "CREATE TABLE raw.source AS SELECT 1 AS id")
    query(project, "CREATE TABLE raw.flags AS SELECT 1 AS is_fine, 1 AS is_known")
    plan(project)
    with dagster_project(folder) as dagster:
        dagster.declare("shop", {"project": str(project)})
        dagster.refresh()
        assert dagster.launch().status == dg.DagsterRunStatus.SUCCESS
        query(project, "UPDATE raw.flags SET is_fine = 0")
        yield dagster


@pytest.mark.parametrize("check", ["soft", "not_null_id", "sqlmesh_execution_status"])
def test_a_check_alone_has_nothing_to_do_with_the_other_audits_of_its_model(shop: DagsterProject, check: str) -> None:
    told = shop.launch(checks=[f"t/model:{check}"])
    assert told.status == dg.DagsterRunStatus.SUCCESS
    assert list(told.checks) == [f"t/model:{check}"]
    assert told.checks[f"t/model:{check}"].passed


def test_an_audit_that_raises_takes_no_other_result_with_it(shop: DagsterProject) -> None:
    told = shop.launch(checks=["t/model:soft", "t/model:broken", "t/model:hard", "t/model:not_null_id"])
    assert told.status == dg.DagsterRunStatus.FAILURE
    assert {name: result.passed for name, result in told.checks.items()} == {
        "t/model:soft": True,
        "t/model:hard": False,
        "t/model:not_null_id": True,
    }
    [failure] = told.failures
    assert "t.model: audit broken could not be evaluated" in failure
    assert "the audit is broken" in failure
    assert "t.model: audit hard failed: 1 row." in failure


def test_a_failed_audit_whose_check_is_not_in_the_run_is_in_its_log(tmp_path: Path) -> None:
    """Of a table whose check stands on another of its readers."""
    project = write_project(tmp_path / "shop", {name: FILES[name] for name in FILES if "model.sql" not in name})
    write_project(project, {"models/second.sql": "MODEL (name t.second, kind FULL); SELECT id FROM raw.source"})
    query(project, "CREATE SCHEMA raw")
    query(project, "CREATE TABLE raw.source AS SELECT 1 AS id")
    query(project, "CREATE TABLE raw.flags AS SELECT 1 AS is_fine, 0 AS is_known")
    plan(project)
    with dagster_project(tmp_path) as dagster:
        dagster.declare("shop", {"project": str(project)})
        dagster.refresh()
        told = dagster.launch(assets=["t/second"])
    assert told.status == dg.DagsterRunStatus.SUCCESS
    assert "raw.source: audit known failed: 1 row. Its check t/first:raw_source__known is not part" in told.log


def test_a_check_alone_whose_audit_is_not_promoted_says_so(tmp_path: Path) -> None:
    project = write_project(tmp_path / "shop", {"models/one.sql": "MODEL (name t.one, kind FULL); SELECT 1 AS id"})
    plan(project)
    write_project(
        project, {"models/one.sql": "MODEL (name t.one, kind FULL, audits (not_null(columns := (id)))); SELECT 1 AS id"}
    )
    with dagster_project(tmp_path) as dagster:
        dagster.declare("shop", {"project": str(project)})
        dagster.refresh()
        told = dagster.launch(checks=["t/one:not_null_id"])
    result = told.checks["t/one:not_null_id"]
    assert not result.passed
    assert result.severity == dg.AssetCheckSeverity.WARN
    assert "Apply a plan to promote the local change" in str(result.description)


def test_a_preview_in_an_environment_for_development_is_known_to_be_computed(tmp_path: Path) -> None:
    """SQLMesh keeps apart what is computed of a forward-only change there and in production."""
    model = "MODEL (name t.days, kind INCREMENTAL_BY_TIME_RANGE ({kind}), audits (not_null(columns := (id)))); SELECT "
    kind = "time_column ds"
    project = write_project(tmp_path / "shop", {"models/days.sql": f"{model.format(kind=kind)} 1 AS id, {DAYS}"})
    plan(project)
    forward_only = model.format(kind=f"{kind}, forward_only true")
    write_project(project, {"models/days.sql": f"{forward_only} NULLIF(2, 2) AS id, {DAYS}"})
    plan(project, "dev", "--start", "5 days ago")
    with dagster_project(tmp_path) as dagster:
        dagster.declare("shop", {"project": {"path": str(project), "environment": "dev"}})
        dagster.refresh()
        assert dagster.launch().status_of("t/days") == "executed"
        again = dagster.launch()
        alone = dagster.launch(checks=["t/days:not_null_id", "t/days:sqlmesh_execution_status"])
    assert "all complete intervals are computed" in str(again.observations["t/days"].description)
    carried = again.checks["t/days:not_null_id"]
    assert carried.metadata["sqlmesh/carried_over"].value is True
    assert not carried.passed
    assert not alone.checks["t/days:not_null_id"].passed
    assert alone.checks["t/days:not_null_id"].metadata["sqlmesh/failing_rows"].value == 5
    assert "has nothing to do" in str(alone.checks["t/days:sqlmesh_execution_status"].description)


def test_in_development_a_check_alone_looks_at_the_table_that_the_environment_shows(tmp_path: Path) -> None:
    """Where a model upstream has a column more, that is production's; a run there computes another one."""
    model = "MODEL (name t.{}, kind INCREMENTAL_BY_TIME_RANGE (time_column ds), {}); SELECT "
    source = model.format("source", "description ''") + "1 AS id, "
    reader = model.format("reader", "audits (soft())") + "id, ds FROM t.source WHERE ds BETWEEN @start_ds AND @end_ds"
    project = write_project(tmp_path / "shop", {"models/source.sql": source + DAYS, "models/reader.sql": reader})
    apart = "MODEL (name t.apart, kind FULL); SELECT 1 AS id"
    write_project(project, {"audits/soft.sql": FILES["audits/soft.sql"], "models/apart.sql": apart})
    plan(project)
    write_project(project, {"models/source.sql": f"{source} 2 AS other, {DAYS}"})
    plan(project, "dev")
    with dagster_project(tmp_path) as dagster:
        development = {"path": str(project), "environment": "dev"}
        dagster.declare("shop", {"project": development, "include_metadata": ["row_count"]})
        dagster.refresh()
        alone = dagster.launch(checks=["t/reader:soft"])
        run = dagster.launch()
    assert alone.status == dg.DagsterRunStatus.SUCCESS
    assert "sqlmesh/computed_up_to" in alone.checks["t/reader:soft"].metadata
    assert run.status_of("t/reader") == "executed"
    assert "sqlmesh/computed_up_to" not in run.checks["t/reader:soft"].metadata  # so that it is never carried over
    # The plan has changed nothing of the one that is apart, so that the environment has no view of it.
    counted = {key for key, made in run.materializations.items() if "dagster/row_count" in made.metadata}
    assert counted == {"t/source", "t/reader"}
    assert "could not be counted" not in run.log


def test_in_a_run_an_audit_that_raises_does_not_take_the_results_before_it_along(tmp_path: Path) -> None:
    model = "MODEL (name t.model, kind FULL, audits (soft(), broken())); SELECT -1 AS id"
    files = {"models/model.sql": model, **{name: FILES[name] for name in ("audits/soft.sql", "audits/broken.sql")}}
    project = write_project(tmp_path / "shop", files)
    query(project, "CREATE SCHEMA raw")
    query(project, "CREATE TABLE raw.flags AS SELECT 1 AS is_fine")
    plan(project)
    query(project, "UPDATE raw.flags SET is_fine = 0")
    with dagster_project(tmp_path) as dagster:
        dagster.declare("shop", {"project": str(project)})
        dagster.refresh()
        told = dagster.launch()
    assert told.status_of("t/model") == "failed"
    assert not told.checks["t/model:soft"].passed
    broken = told.checks["t/model:broken"]
    assert (broken.severity, broken.description) == (dg.AssetCheckSeverity.WARN, "Not evaluated: t.model failed.")
