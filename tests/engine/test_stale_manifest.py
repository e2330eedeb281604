"""Runs whose manifest was reloaded too early or too late: they execute all requested models or fail with a reason."""

from __future__ import annotations

import time
import uuid
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.execution.api import execute_run
from harness import DagsterProject, dagster_project, plan, query, reconstructable_asset_job, write_project

ASSET_BETWEEN = """
import dagster as dg

@dg.asset(key=["landing", "late"], deps=[dg.AssetKey(["t", "first"])])
def late(): pass
"""
FIRST = "MODEL (name t.first, kind FULL); SELECT 1 AS id"
SECOND = "MODEL (name t.second, kind FULL); SELECT id FROM landing.late"
THIRD = "MODEL (name t.third, kind FULL); SELECT {} AS id FROM t.{}"


def build_job(dagster: DagsterProject) -> dg.ReconstructableJob:
    return reconstructable_asset_job(dagster.root, {"launch": [uuid.uuid4().hex]})


def test_step_fails_if_reload_removed_a_requested_model(tmp_path: Path) -> None:
    """The project is reloaded between launch and step, for example while the run is queued."""
    project = write_project(
        tmp_path / "shop", {"models/first.sql": FIRST, "models/third.sql": THIRD.format(3, "first")}
    )
    plan(project)
    with dagster_project(tmp_path) as dagster:
        dagster.add_component("shop", {"project": str(project)})
        dagster.refresh()
        run = dagster.instance.create_run_for_job(build_job(dagster).get_definition())
        (project / "models/third.sql").unlink()
        dagster.refresh()
        execute_run(build_job(dagster), run, dagster.instance)
        record = dagster.run_record(run.run_id)
    assert record.status == dg.DagsterRunStatus.FAILURE
    assert record.failures == [
        "The project was reloaded after this run was created. No longer part of this step: t/third, "
        "t/third:sqlmesh_execution_status. Nothing was run in this step. Launch a new run."
    ]
    assert not record.materializations


def test_retry_fails_if_reload_moved_failed_model_to_another_step(tmp_path: Path) -> None:
    """The model was fixed and now reads another model. A retry that succeeds without it would hide the failure."""
    files = {"first": FIRST, "second": SECOND, "third": THIRD.format("error('boom')", "second")}
    project = write_project(tmp_path / "shop", {f"models/{name}.sql": text for name, text in files.items()})
    query(project, "CREATE SCHEMA landing")
    query(project, "CREATE TABLE landing.late AS SELECT 1 AS id WHERE false")
    plan(project)
    query(project, "INSERT INTO landing.late VALUES (1)")
    with dagster_project(tmp_path) as dagster:
        dagster.add_component("shop", {"project": str(project)})
        dagster.add_module("landing", ASSET_BETWEEN)
        dagster.refresh()
        failed = dagster.launch()
        assert failed.status_of("t/third") == "failed"
        (project / "models/third.sql").write_text(THIRD.format(3, "first"))
        plan(project)
        dagster.refresh()
        retried = dagster.launch(retry_of=failed.run_id)
        new_run = dagster.launch()
    assert retried.status == dg.DagsterRunStatus.FAILURE
    assert (
        "after the run that this one repeats was created. No longer part of this step: t/third." in retried.failures[0]
    )
    assert new_run.status == dg.DagsterRunStatus.SUCCESS
    assert new_run.status_of("t/third") is not None


DAILY_MODEL = (
    "MODEL (name t.{}, kind INCREMENTAL_BY_TIME_RANGE (time_column ds), cron '@daily', tags ({}), "
    "start '{}'); SELECT {} WHERE ds BETWEEN @start_ds AND @end_ds"
)


def daily_model(name: str, upstream: str) -> str:
    start = time.strftime("%Y-%m-%d", time.gmtime(time.time() - 6 * 86400))
    days = "generate_series(@start_ds::timestamp, @end_ds::timestamp, interval 1 day) d(day)"
    query_text = f"ds FROM {upstream}" if upstream else f"ds FROM (SELECT day::date::text AS ds FROM {days})"
    return DAILY_MODEL.format(name, "b" if name == "middle" else "a", start, query_text)


def count_rows(project: Path, model: str) -> int:
    return int(query(project, f"SELECT count(*) FROM t.{model}")[0][0])


@pytest.mark.parametrize("through", ["", "an embedded model"])
def test_run_fails_if_promoted_model_reads_model_missing_from_manifest(tmp_path: Path, through: str) -> None:
    """If the last model ran without its upstream model, it would lack three days permanently, in successful runs."""
    files = {"first": daily_model("first", ""), "last": daily_model("last", "t.first")}
    project = write_project(tmp_path / "shop", {f"models/{name}.sql": text for name, text in files.items()})
    plan(project)
    with dagster_project(tmp_path) as dagster:
        dagster.add_component("shop", {"project": str(project)})
        dagster.refresh()
        (project / "models/middle.sql").write_text(daily_model("middle", "t.first"))
        (project / "models/last.sql").write_text(daily_model("last", "t.thin" if through else "t.middle"))
        if through:
            (project / "models/thin.sql").write_text("MODEL (name t.thin, kind EMBEDDED); SELECT ds FROM t.middle")
        plan(project)
        before = count_rows(project, "last")
        refused = dagster.launch()
        assert count_rows(project, "first") == count_rows(project, "last") == before
        dagster.refresh()
        record = dagster.launch()
    assert refused.status == dg.DagsterRunStatus.FAILURE
    [failure] = refused.failures
    assert "does not know of: warehouse.t.last reads warehouse.t.middle" in failure
    assert "dg utils refresh-defs-state" in failure
    assert not refused.materializations
    assert record.status == dg.DagsterRunStatus.SUCCESS, record.failures
    assert set(record.materializations) == {"t/first", "t/middle", "t/last"}
    assert count_rows(project, "first") == count_rows(project, "last") == before + 3


def test_run_fails_if_dependency_between_two_components_is_missing_from_manifest(
    tmp_path: Path,
) -> None:
    files = {
        "first": daily_model("first", ""),
        "middle": daily_model("middle", "t.first"),
        "last": daily_model("last", "t.first"),
    }
    project = write_project(tmp_path / "shop", {f"models/{name}.sql": text for name, text in files.items()})
    plan(project)
    with dagster_project(tmp_path) as dagster:
        dagster.add_component("ours", {"project": str(project), "select": "tag:a"})
        dagster.add_component("theirs", {"project": str(project), "select": "tag:b"})
        dagster.refresh()
        record = dagster.launch()
        assert record.status == dg.DagsterRunStatus.SUCCESS, record.failures
        (project / "models/last.sql").write_text(daily_model("last", "t.middle"))
        plan(project)
        refused = dagster.launch()
        dagster.refresh()
        alone = dagster.launch(assets=["t/last"])
    assert refused.status == dg.DagsterRunStatus.FAILURE
    assert any("warehouse.t.last reads warehouse.t.middle" in failure for failure in refused.failures)
    assert alone.status == dg.DagsterRunStatus.SUCCESS, alone.failures  # here the user has excluded the upstream model
