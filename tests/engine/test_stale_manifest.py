"""Runs whose manifest was reloaded too early or too late: they execute all requested models or fail with a reason."""

from __future__ import annotations

import time
import uuid
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.execution.api import execute_run
from engine.plan_jobs import applied
from harness import (
    DagsterProject,
    NewShop,
    at_night,
    dagster_project,
    plan,
    query,
    reconstructable_job,
    sqlmesh,
    write_dagster_project,
    write_project,
)

ASSET_BETWEEN = """
import dagster as dg

@dg.asset(key=["landing", "late"], deps=[dg.AssetKey(["t", "first"])])
def late(): pass
"""
FIRST = "MODEL (name t.first, kind FULL); SELECT 1 AS id"
SECOND = "MODEL (name t.second, kind FULL); SELECT id FROM landing.late"
THIRD = "MODEL (name t.third, kind FULL); SELECT {} AS id FROM t.{}"


def build_job(dagster: DagsterProject) -> dg.ReconstructableJob:
    return reconstructable_job(dagster.root, {"launch": [uuid.uuid4().hex]})


@pytest.mark.advice("Nothing was run in this step. Launch a new run.")
def test_step_fails_if_reload_removed_a_requested_model(new_shop: NewShop) -> None:
    """The project is reloaded between launch and step, for example while the run is queued."""
    shop = new_shop({"models/first.sql": FIRST, "models/third.sql": THIRD.format(3, "first")})
    shop.refresh()
    run = shop.instance.create_run_for_job(build_job(shop).get_definition())
    (shop.project / "models/third.sql").unlink()
    shop.refresh()
    execute_run(build_job(shop), run, shop.instance)
    record = shop.run_record(run.run_id).failed()
    assert record.failures == [
        "The project was reloaded after this run was created. No longer part of this step: t/third, "
        "t/third:sqlmesh_execution_status. Nothing was run in this step. Launch a new run.\n"
        "Until the next successful run of the same assets, Dagster's lineage graph and catalog show "
        "1 asset of this run as failed."
    ]
    assert not record.materializations
    assert set(shop.launch().succeeded().materializations) == {"t/first"}


@pytest.mark.advice("Launch a new run of all assets that were not materialized, instead")
def test_retry_fails_if_reload_moved_failed_model_to_another_step(new_shop: NewShop) -> None:
    """The model was fixed and now reads another model. A retry that succeeds without it would hide the failure."""
    files = {"first": FIRST, "second": SECOND, "third": THIRD.format("error('boom')", "second")}
    shop = new_shop(
        {f"models/{name}.sql": text for name, text in files.items()},
        tables={"landing.late": "SELECT 1 AS id WHERE false"},
    )
    shop.query("INSERT INTO landing.late VALUES (1)")
    shop.add_module("landing", ASSET_BETWEEN)
    failed = shop.launch()
    assert failed.status_of("t/third") == "failed"
    (shop.project / "models/third.sql").write_text(THIRD.format(3, "first"))
    shop.plan()
    shop.refresh()
    retried = shop.launch(retry_of=failed.run_id)
    new_run = shop.launch()
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


@pytest.mark.parametrize("through", ["", *at_night("an embedded model")])
def test_run_fails_if_promoted_model_reads_model_missing_from_manifest(new_shop: NewShop, through: str) -> None:
    """If the last model ran without its upstream model, it would lack three days permanently, in successful runs."""
    files = {"first": daily_model("first", ""), "last": daily_model("last", "t.first")}
    shop = new_shop({f"models/{name}.sql": text for name, text in files.items()}, deploy=True)
    shop.refresh()
    (shop.project / "models/middle.sql").write_text(daily_model("middle", "t.first"))
    (shop.project / "models/last.sql").write_text(daily_model("last", "t.thin" if through else "t.middle"))
    if through:
        (shop.project / "models/thin.sql").write_text("MODEL (name t.thin, kind EMBEDDED); SELECT ds FROM t.middle")
    shop.plan()
    before = count_rows(shop.project, "last")
    refused = shop.launch()
    assert count_rows(shop.project, "first") == count_rows(shop.project, "last") == before
    shop.refresh()
    record = shop.launch()
    assert refused.status == dg.DagsterRunStatus.FAILURE
    [failure] = refused.failures
    assert "does not know of: warehouse.t.last reads warehouse.t.middle" in failure
    assert "dg utils refresh-defs-state" in failure
    assert "promote them:\n\n    dg launch --job sqlmesh_shop_plan\n\nThis job applies nothing." in failure
    assert not refused.materializations
    assert record.status == dg.DagsterRunStatus.SUCCESS, record.failures
    assert set(record.materializations) == {"t/first", "t/middle", "t/last"}
    assert count_rows(shop.project, "first") == count_rows(shop.project, "last") == before + 3


@pytest.mark.advice("the manifest is stale. Refresh it:{}\n\nIf the local files are newer, promote them:{}")
@pytest.mark.night("test_run_fails_if_promoted_model_reads_model_missing_from_manifest")
def test_newer_files_without_a_promoted_model_run_after_an_apply(new_shop: NewShop) -> None:
    upstream = {"first": "", "middle": "t.first", "last": "t.middle"}
    files = {f"models/{name}.sql": daily_model(name, of) for name, of in upstream.items()}
    shop = new_shop(files, deploy=True)
    (shop.project / "models/middle.sql").unlink()
    (shop.project / "models/last.sql").write_text(
        daily_model("last", "t.first").replace("SELECT ds", "SELECT 1 AS n, ds")
    )
    shop.refresh()
    assert "does not know of: warehouse.t.last reads warehouse.t.middle" in shop.launch().failures[0]
    applied(shop)
    shop.launch().succeeded()


@pytest.mark.night("test_run_fails_if_promoted_model_reads_model_missing_from_manifest")
def test_run_fails_if_dependency_between_two_components_is_missing_from_manifest(tmp_path: Path) -> None:
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
        dagster.launch().succeeded()
        (project / "models/last.sql").write_text(daily_model("last", "t.middle"))
        plan(project)
        refused = dagster.launch()
        dagster.refresh()
        alone = dagster.launch(assets=["t/last"])
    assert refused.status == dg.DagsterRunStatus.FAILURE
    assert any("warehouse.t.last reads warehouse.t.middle" in failure for failure in refused.failures)
    assert alone.status == dg.DagsterRunStatus.SUCCESS, alone.failures  # here the user has excluded the upstream model


@pytest.mark.advice("If the plan reports no changes, the manifest is stale. Refresh it:")
def test_after_a_plan_in_a_shell_the_manifest_differs_and_not_the_local_files(new_shop: NewShop) -> None:
    shop = new_shop({"models/first.sql": FIRST})
    shop.launch()
    (shop.project / "models/first.sql").write_text(FIRST.replace("1 AS id", "2 AS id"))
    plan(shop.project, at=None)
    assert "No changes" in sqlmesh(shop.project, "diff", "prod"), "the local files are the promoted ones"

    log = shop.launch().log

    assert "Local files differ" not in log
    assert "The manifest differs from environment prod. This run executes the promoted version of t.first" in log
    assert (
        "If the plan reports no changes, the manifest is stale. Refresh it:\n\n    dg utils refresh-defs-state" in log
    )
    shop.refresh()
    assert "The manifest differs" not in shop.launch().log


@pytest.mark.night(
    "test_after_a_plan_in_a_shell_the_manifest_differs_and_not_the_local_files",
    "engine/test_steps.py::test_unapplied_change_is_logged_and_promoted_version_runs",
)
def test_two_versions_of_a_code_location_execute_what_is_promoted_and_record_it_once(
    new_shop: NewShop, tmp_path: Path
) -> None:
    """While a rollout goes on, for example: two code servers behind one daemon, with one SQLMesh state."""
    older = new_shop({"models/first.sql": FIRST, "models/third.sql": THIRD.format("id", "first")}, planned_at=None)
    older.refresh()
    last = "MODEL (name t.last, kind FULL); SELECT id FROM t.third"
    write_project(older.project, {"models/third.sql": THIRD.format("10 * id", "first"), "models/last.sql": last})
    plan(older.project, "--skip-backfill", at=None)
    newer = DagsterProject(write_dagster_project(tmp_path / "newer_version"), older.instance)
    newer.add_component("shop", {"project": str(older.project)})
    newer.refresh()

    first, second = older.launch().succeeded(), newer.launch().succeeded()

    assert set(first.materializations) == {"t/first", "t/third"}
    assert query(older.project, "SELECT id FROM t.third") == [(10,)]
    assert "executes the promoted version of t.third (data changed)" in first.log
    assert "models that no component in this code location knows: warehouse.t.last" in first.log
    assert [second.status_of(f"t/{name}") for name in ("first", "third", "last")] == [
        "up_to_date",
        "up_to_date",
        "executed",
    ]
    assert not second.computed_outside
