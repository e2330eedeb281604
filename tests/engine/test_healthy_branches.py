"""If one model fails, assets downstream of other models run, in the same run or in the next one."""

import re
from datetime import datetime, timedelta, timezone
from typing import Any

import dagster as dg
import pytest
from dagster._core.instance.runs.run_domain import RunDomain
from dagster._core.storage.tags import ASSET_RESUME_RETRY_TAG
from harness import EXECUTORS, REPOSITORY, YEARLY_CRON, NewShop, RunRecord, Shop

FILES = {
    "models/fine.sql": "MODEL (name t.fine, kind FULL, audits (not_null(columns := (id)))); SELECT 1 AS id",
    "models/broken.sql": "MODEL (name t.broken, kind FULL); SELECT error('boom') AS id FROM ctl.flags WHERE is_up",
    # It is up to date. Only a plan has evaluated its audit, so Dagster has no result of it.
    "models/idle.sql": f"MODEL (name t.idle, kind FULL, cron '{YEARLY_CRON}', start '2020-01-01', "
    "audits (not_null(columns := (id)))); SELECT 1 AS id",
    "models/below_broken.sql": "MODEL (name t.below_broken, kind FULL); SELECT id FROM t.broken",
}
REPORTS = """
from typing import Any

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
FLAGS = {"ctl.flags": "SELECT false AS is_up"}
HEALTHY_REPORTS = {"report_of_fine", "report_of_idle"}
CONTINUE_AFTER_FAILURE = {"step_dependency_config": {"require_upstream_step_success": False}}


@pytest.fixture
def shop(new_shop: NewShop) -> Shop:
    shop = new_shop(FILES, tables=FLAGS)
    shop.query("UPDATE ctl.flags SET is_up = true")
    shop.add_module("reports", REPORTS)
    return shop


def reports(record: RunRecord) -> set[str]:
    return {key for key in record.materializations if key.startswith("report_")}


@pytest.mark.parametrize("executor", EXECUTORS)
def test_healthy_branches_continue_if_executor_allows_it(shop: Shop, executor: str) -> None:
    record = shop.launch(executor, executor_config=CONTINUE_AFTER_FAILURE).failed()
    assert record.status_of("t/idle") == "up_to_date"
    assert record.status_of("t/below_broken") == "blocked"
    assert reports(record) == HEALTHY_REPORTS
    assert len(record.failures) == 1, record.failures
    assert "t.broken" in record.failures[0]


def test_retry_from_failure_runs_all_downstream_assets(shop: Shop) -> None:
    record = shop.launch().failed()
    assert reports(record) == set()
    shop.query("UPDATE ctl.flags SET is_up = false")
    second_run = shop.launch(retry_of=record.run_id).succeeded()
    downstream = {"t/broken", "t/below_broken", "report_of_broken", "report_of_both"}
    assert set(second_run.materializations) == {*downstream, *HEALTHY_REPORTS}
    assert second_run.status_of("t/fine") == "up_to_date"


def test_run_of_unmaterialized_assets_runs_those_that_read_executed_models_and_then_all_others(shop: Shop) -> None:
    """This is the selection of Dagster's retry from asset failure."""
    record = shop.launch()
    everything = ["t/fine", "t/broken", "t/idle", "t/below_broken", *HEALTHY_REPORTS, "report_of_broken"]
    left = [key for key in everything if key not in record.materializations]
    failed_again = shop.launch(assets=left).failed()
    assert set(failed_again.materializations) == {"report_of_fine"}
    shop.query("UPDATE ctl.flags SET is_up = false")
    last_run = shop.launch(assets=[key for key in left if key != "report_of_fine"]).succeeded()
    assert set(last_run.materializations) == {"t/broken", "t/below_broken", "report_of_idle", "report_of_broken"}
    assert "t/fine" in record.materializations


FAILING_DAYS_MODEL = """
MODEL (name t.days, kind INCREMENTAL_BY_TIME_RANGE (time_column ds, batch_size 1), audits (few));
SELECT
  @start_ds::DATE AS ds,
  CASE WHEN is_up AND @start_ds::DATE = current_date - 2 THEN error('boom') END AS nothing
FROM ctl.flags
"""


def test_retry_from_asset_failure_reports_non_blocking_checks_again(new_shop: NewShop) -> None:
    """Dagster does not select non-blocking checks for this retry if they have a result, passed or failed."""
    few = "AUDIT (name few, blocking false); SELECT * FROM @this_model WHERE ds = current_date - 2"
    shop = new_shop({"models/days.sql": FAILING_DAYS_MODEL, "audits/few.sql": few}, tables=FLAGS)
    shop.query("UPDATE ctl.flags SET is_up = true")
    record = shop.launch()
    assert record.status_of("t/days") == "partly_executed"
    assert record.checks["t/days:few"].passed
    run = shop.instance.get_run_by_id(record.run_id)
    assert run is not None
    assert run.execution_plan_snapshot_id is not None
    plan_of_run = shop.instance.get_execution_plan_snapshot(run.execution_plan_snapshot_id)
    repeated, checks = RunDomain(shop.instance).get_keys_to_reexecute(record.run_id, plan_of_run)
    assert (repeated, checks) == ({dg.AssetKey(["t", "days"])}, set())
    shop.query("UPDATE ctl.flags SET is_up = false")
    second_run = shop.launch(assets_without_checks=["t/days"], tags={ASSET_RESUME_RETRY_TAG: "true"})
    # Dagster gives a retry of only checks the config of the failed run.
    checks_only = shop.launch(
        checks=["t/days:few"], tags={ASSET_RESUME_RETRY_TAG: "true"}, ops={"sqlmesh_shop": {"ignore_cron": True}}
    )
    keys = [dg.AssetCheckKey(dg.AssetKey(["t", "days"]), name) for name in ("few", "sqlmesh_execution_status")]
    last = shop.instance.event_log_storage.get_latest_asset_check_execution_by_key(keys)
    assert second_run.status == dg.DagsterRunStatus.SUCCESS, second_run.failures
    assert checks_only.status == dg.DagsterRunStatus.SUCCESS, checks_only.failures
    assert {name: check.passed for name, check in second_run.checks.items()} == {
        "t/days:few": False,
        "t/days:sqlmesh_execution_status": True,
    }
    assert {key.name: last[key].status.value for key in keys} == {
        "few": "FAILED",
        "sqlmesh_execution_status": "SUCCEEDED",
    }


REPORT = """
import dagster as dg


@dg.asset(deps=[dg.AssetKey(["t", "one"])])
def report() -> None: ...
"""


@pytest.mark.advice("Launch a run of their downstream assets.")
def test_backfill_run_logs_models_that_the_backfill_counts_as_failed(new_shop: NewShop) -> None:
    shop = new_shop({"models/one.sql": "MODEL (name t.one, kind FULL); SELECT 1 AS id"})
    shop.add_module("report", REPORT)
    backfill = {"dagster/backfill": "abcdefgh"}
    executed, idle = (shop.launch(assets=["t/one"], tags=backfill) for _ in range(2))
    assert "counts assets that were not materialized as failed" not in executed.log
    assert idle.status == dg.DagsterRunStatus.SUCCESS
    assert (
        "counts assets that were not materialized as failed, and starts no runs of assets downstream of them"
        in idle.log
    )
    assert "Not executed in this run: t.one." in idle.log
    assert "report" not in idle.materializations
    assert "report" in shop.launch(assets=["report"]).succeeded().materializations


DOWNSTREAM = (REPOSITORY / "docs" / "downstream.md").read_text()
DOCUMENTED_REPORTS = re.findall("```python\n(# src/analytics/defs/reports.py\n.*?)```", DOWNSTREAM, re.DOTALL)[0]
EAGER_REPORT = """
from typing import Any

import dagster as dg


@dg.asset(deps=[dg.AssetKey(["core", "orders"])], automation_condition=dg.AutomationCondition.eager())
def eager_report() -> None: ...
"""
MODELS = {"core/orders", "marts/revenue"}


class Ticks:
    """Ticks of Dagster's automation sensor, one each 30 seconds, the second one after the models' crons have ticked."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop
        self.definitions = shop.refresh()
        self.cursor: Any = None
        midnight = datetime.now(timezone.utc).replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
        self.time = midnight - timedelta(seconds=45)
        assert self.requested() == set()

    def requested(self) -> set[str]:
        self.time += timedelta(seconds=30)
        result = dg.evaluate_automation_conditions(
            self.definitions, self.shop.instance, evaluation_time=self.time, cursor=self.cursor
        )
        self.cursor = result.cursor
        keys = self.definitions.resolve_asset_graph().get_all_asset_keys()
        return {key.to_user_string() for key in keys if result.get_num_requested(key)}


@pytest.fixture
def automated_shop(new_shop: NewShop) -> Shop:
    """Its second model fails."""
    files = {
        "models/orders.sql": "MODEL (name core.orders, kind FULL); SELECT 1 AS id",
        "models/revenue.sql": "MODEL (name marts.revenue, kind FULL); SELECT error('boom') AS id FROM ctl.flags "
        "WHERE is_up",
    }
    shop = new_shop(files, tables=FLAGS, automation="cron")
    shop.query("UPDATE ctl.flags SET is_up = true")
    return shop


def test_documented_condition_runs_assets_after_a_run_in_which_another_model_failed(automated_shop: Shop) -> None:
    automated_shop.add_module("reports", DOCUMENTED_REPORTS)
    ticks = Ticks(automated_shop)
    assert ticks.requested() == MODELS
    failed = automated_shop.launch(assets=[*MODELS]).failed()
    assert failed.materializations.keys() == {"core/orders"}
    requested = ticks.requested()
    assert requested == {"stock_report", "summary"}
    assert automated_shop.launch(assets=[*requested]).status == dg.DagsterRunStatus.SUCCESS
    assert ticks.requested() == set()
    automated_shop.query("UPDATE ctl.flags SET is_up = false")
    assert automated_shop.launch(assets=[*MODELS]).materializations.keys() == {"marts/revenue"}
    assert ticks.requested() == {"sales_report"}


def test_eager_asset_is_requested_with_its_models_and_not_again_after_it_was_skipped(automated_shop: Shop) -> None:
    automated_shop.add_module("reports", EAGER_REPORT)
    ticks = Ticks(automated_shop)
    assert ticks.requested() == {*MODELS, "eager_report"}
    failed = automated_shop.launch(assets=[*MODELS, "eager_report"])
    assert failed.materializations.keys() == {"core/orders"}
    assert "eager_report" not in ticks.requested() | ticks.requested()
