"""One model fails: what is downstream of the others, in the same run, and in the run behind it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.instance.runs.run_domain import RunDomain
from dagster._core.storage.tags import ASSET_RESUME_RETRY_TAG
from harness import EXECUTORS, RARELY, DagsterProject, Told, dagster_project, plan, query, write_project

FILES = {
    "models/fine.sql": "MODEL (name t.fine, kind FULL, audits (not_null(columns := (id)))); SELECT 1 AS id",
    "models/broken.sql": "MODEL (name t.broken, kind FULL); SELECT error('boom') AS id FROM ctl.flags WHERE is_up",
    # It has nothing to do, and Dagster has never seen a result of its audit, which a plan evaluated.
    "models/idle.sql": f"MODEL (name t.idle, kind FULL, cron '{RARELY}', start '2020-01-01', "
    "audits (not_null(columns := (id)))); SELECT 1 AS id",
    "models/below_broken.sql": "MODEL (name t.below_broken, kind FULL); SELECT id FROM t.broken",
}
NEIGHBOURS = """
import dagster as dg


@dg.asset(deps=[dg.AssetKey(["t", "fine"])])
def report_of_fine() -> None: ...


@dg.asset(deps=[dg.AssetKey(["t", "idle"])])
def report_of_idle() -> None: ...


@dg.asset(deps=[dg.AssetKey(["t", "broken"])])
def report_of_broken() -> None: ...


@dg.asset(deps=[dg.AssetKey(["t", "fine"]), dg.AssetKey(["t", "broken"])])
def report_of_both() -> None: ...
"""
HEALTHY = {"report_of_fine", "report_of_idle"}
GO_ON = {"step_dependency_config": {"require_upstream_step_success": False}}


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[tuple[Path, DagsterProject]]:
    project = write_project(tmp_path / "shop", FILES)
    query(project, "CREATE SCHEMA ctl")
    query(project, "CREATE TABLE ctl.flags AS SELECT false AS is_up")
    plan(project)
    query(project, "UPDATE ctl.flags SET is_up = true")
    with dagster_project(tmp_path) as dagster:
        dagster.declare("shop", {"project": str(project)})
        dagster.add_module("reports", NEIGHBOURS)
        dagster.refresh()
        yield project, dagster


def reports(told: Told) -> set[str]:
    return {key for key in told.materializations if key.startswith("report_")}


@pytest.mark.parametrize("executor", EXECUTORS)
def test_healthy_branches_go_on_in_the_same_run_where_the_executor_is_told_so(
    shop: tuple[Path, DagsterProject], executor: str
) -> None:
    _, dagster = shop
    told = dagster.launch(executor, executor_config=GO_ON)
    assert told.status == dg.DagsterRunStatus.FAILURE
    assert told.status_of("t/idle") == "up_to_date"
    assert told.status_of("t/below_broken") == "blocked"
    assert reports(told) == HEALTHY
    assert len(told.failures) == 1, told.failures
    assert "t.broken" in told.failures[0]


def test_a_retry_from_the_failure_refreshes_what_is_downstream_of_everything(
    shop: tuple[Path, DagsterProject],
) -> None:
    project, dagster = shop
    told = dagster.launch()
    assert told.status == dg.DagsterRunStatus.FAILURE
    assert reports(told) == set()
    query(project, "UPDATE ctl.flags SET is_up = false")
    again = dagster.launch(retry_of=told.run_id)
    assert again.status == dg.DagsterRunStatus.SUCCESS, again.failures
    assert set(again.materializations) == {"t/broken", "t/below_broken", *HEALTHY, "report_of_broken", "report_of_both"}
    assert again.status_of("t/fine") == "up_to_date"


def test_a_run_of_what_was_not_materialized_refreshes_what_is_downstream_of_everything(
    shop: tuple[Path, DagsterProject],
) -> None:
    """What Dagster's retry from asset failure selects."""
    project, dagster = shop
    told = dagster.launch()
    query(project, "UPDATE ctl.flags SET is_up = false")
    everything = ["t/fine", "t/broken", "t/idle", "t/below_broken", *HEALTHY, "report_of_broken"]
    again = dagster.launch(assets=[key for key in everything if key not in told.materializations])
    assert again.status == dg.DagsterRunStatus.SUCCESS, again.failures
    assert set(again.materializations) == {"t/broken", "t/below_broken", *HEALTHY, "report_of_broken"}
    assert "t/fine" in told.materializations


DAYS = """
MODEL (name t.days, kind INCREMENTAL_BY_TIME_RANGE (time_column ds, batch_size 1), audits (few));
SELECT
  @start_ds::DATE AS ds,
  CASE WHEN is_up AND @start_ds::DATE = current_date - 2 THEN error('boom') END AS nothing
FROM ctl.flags
"""


def test_a_retry_from_asset_failure_says_anew_what_checks_said_of_the_data_before(tmp_path: Path) -> None:
    """Dagster leaves checks that do not block out of it when they had a result, whatever that was."""
    few = "AUDIT (name few, blocking false); SELECT * FROM @this_model WHERE ds = current_date - 2"
    project = write_project(tmp_path / "shop", {"models/days.sql": DAYS, "audits/few.sql": few})
    query(project, "CREATE SCHEMA ctl")
    query(project, "CREATE TABLE ctl.flags AS SELECT false AS is_up")
    plan(project)
    query(project, "UPDATE ctl.flags SET is_up = true")
    with dagster_project(tmp_path) as dagster:
        dagster.declare("shop", {"project": str(project)})
        dagster.refresh()
        told = dagster.launch()
        assert told.status_of("t/days") == "partly_executed"
        assert told.checks["t/days:few"].passed
        run = dagster.instance.get_run_by_id(told.run_id)
        assert run is not None
        plan_of_run = dagster.instance.get_execution_plan_snapshot(run.execution_plan_snapshot_id)
        repeated, checks = RunDomain(dagster.instance).get_keys_to_reexecute(told.run_id, plan_of_run)
        assert (repeated, checks) == ({dg.AssetKey(["t", "days"])}, set())
        query(project, "UPDATE ctl.flags SET is_up = false")
        again = dagster.launch(assets_without_checks=["t/days"], tags={ASSET_RESUME_RETRY_TAG: "true"})
        # Dagster gives the run that repeats only checks the config of the failed one.
        checks_only = dagster.launch(
            checks=["t/days:few"],
            tags={ASSET_RESUME_RETRY_TAG: "true"},
            ops={"sqlmesh_shop": {"ignore_cron": True}},
        )
        keys = [dg.AssetCheckKey(dg.AssetKey(["t", "days"]), name) for name in ("few", "sqlmesh_execution_status")]
        last = dagster.instance.event_log_storage.get_latest_asset_check_execution_by_key(keys)
    assert again.status == dg.DagsterRunStatus.SUCCESS, again.failures
    assert checks_only.status == dg.DagsterRunStatus.SUCCESS, checks_only.failures
    assert {name: check.passed for name, check in again.checks.items()} == {
        "t/days:few": False,
        "t/days:sqlmesh_execution_status": True,
    }
    assert {key.name: last[key].status.value for key in keys} == {
        "few": "FAILED",
        "sqlmesh_execution_status": "SUCCEEDED",
    }


def test_a_run_of_a_backfill_names_what_the_backfill_takes_for_failed(tmp_path: Path) -> None:
    project = write_project(tmp_path / "shop", {"models/one.sql": "MODEL (name t.one, kind FULL); SELECT 1 AS id"})
    plan(project)
    backfill = {"dagster/backfill": "abcdefgh"}
    with dagster_project(tmp_path) as dagster:
        dagster.declare("shop", {"project": str(project)})
        dagster.refresh()
        executed, idle = dagster.launch(tags=backfill), dagster.launch(tags=backfill)
    assert "counts assets that were not materialized as failed" not in executed.log
    assert idle.status == dg.DagsterRunStatus.SUCCESS
    assert (
        "counts assets that were not materialized as failed, and starts no runs of assets downstream of them"
        in idle.log
    )
    assert "Not executed in this run: t.one." in idle.log
