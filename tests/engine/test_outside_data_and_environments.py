"""What Dagster shows of data that was computed outside of Dagster, and of runs in another environment."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from harness import (
    CONFIG,
    ONE_EXECUTOR,
    YEARLY_CRON,
    DagsterProject,
    NewShop,
    RunRecord,
    Shop,
    plan,
    planned_shop,
    write_project,
)

MODELS = {
    "models/daily.sql": "MODEL (name t.daily, kind INCREMENTAL_BY_TIME_RANGE (time_column day), start '2026-01-01', "
    f"cron '{YEARLY_CRON}', interval_unit day, audits (not_null(columns := (day)))); "
    "SELECT d::DATE AS day FROM range(DATE '2026-01-01', DATE '2026-12-31', INTERVAL 1 DAY) AS days(d) "
    "WHERE d BETWEEN @start_date AND @end_date",
    "models/shown.sql": f"MODEL (name t.shown, kind VIEW, cron '{YEARLY_CRON}', start '2020-01-01'); "
    "SELECT day FROM t.daily",
    "models/full.sql": f"MODEL (name t.full, kind FULL, cron '{YEARLY_CRON}', start '2020-01-01'); "
    "SELECT count(*) AS days FROM t.daily",
    "models/colours.sql": "MODEL (name t.colours, kind SEED (path '../seeds/colours.csv'), start '2026-01-01')",
    "seeds/colours.csv": "name\nred\n",
}
KEYS = {"t/daily", "t/shown", "t/full", "t/colours"}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with planned_shop(tmp_path_factory.mktemp("first_day"), MODELS) as shop:
        yield shop


def test_data_computed_outside_of_dagster_is_materialized_once(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    lookups: Counter[str] = Counter()
    get_asset_records = dg.DagsterInstance.get_asset_records

    def count_lookups(self: dg.DagsterInstance, keys: list[dg.AssetKey] | None = None) -> object:
        lookups["get_asset_records"] += 1
        return get_asset_records(self, keys)

    monkeypatch.setattr(dg.DagsterInstance, "get_asset_records", count_lookups)
    first = shop.launch().succeeded()
    assert set(first.computed_outside) == KEYS
    assert not first.materializations
    assert not first.observations
    assert {first.status_of(key) for key in KEYS} == {"up_to_date"}
    daily = first.computed_outside["t/daily"].metadata
    assert str(daily["sqlmesh/intervals"].value).startswith("2026-01-01 to ")
    assert str(daily["sqlmesh/origin"].value).startswith("outside of Dagster, at 20")
    assert lookups["get_asset_records"] <= 2  # one for these models, one for the results of their checks

    # Dagster has recorded the data, so nothing is materialized again.
    assert set(shop.launch("multiprocess").observations) == KEYS

    a_past_day = ("--start", "2026-01-02", "--end", "2026-01-02")
    shop.plan("--restate-model", "t.daily", *a_past_day, at=None)
    restated = shop.launch()
    assert set(restated.computed_outside) == {"t/daily", "t/shown", "t/full"}, "and its downstream models"
    assert set(restated.observations) == {"t/colours"}
    assert not shop.launch().computed_outside


def test_new_version_computed_by_plan_is_materialized(shop: Shop) -> None:
    shop.launch()
    (shop.project / "seeds" / "colours.csv").write_text("name\nred\nblue\n")
    shop.plan(at=None)
    shop.refresh()
    assert set(shop.launch().computed_outside) == {"t/colours"}


DEV_ALLOWED: dict[str, Any] = {"execution": {"environments": ["dev"]}}
DEV_FILES = {
    "models/orders.sql": "MODEL (name t.orders, kind FULL, start '2026-01-01', "
    "audits (not_null(columns := (id)), small)); SELECT 1 AS id, 1 AS quantity",
    "models/revenue.sql": "MODEL (name t.revenue, kind FULL, start '2026-01-01', audits (fits)); "
    "SELECT count(*) AS n, error_if.is_on FROM t.orders CROSS JOIN ctl.error_if GROUP BY ALL",
    "audits/small.sql": "AUDIT (name small, blocking false); SELECT * FROM @this_model WHERE id = 1",
    "audits/fits.sql": "AUDIT (name fits); SELECT * FROM @this_model WHERE is_on",
}


@pytest.fixture(scope="module")
def with_dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    tables = {"ctl.error_if": "SELECT false AS is_on"}
    with planned_shop(tmp_path_factory.mktemp("with_dev"), DEV_FILES, tables=tables, **DEV_ALLOWED) as shop:
        shop.plan("dev", "--include-unmodified")
        shop.add_module("report", REPORT)
        yield shop


REPORT = """
import dagster as dg


@dg.asset(deps=[dg.AssetKey(["t", "orders"])])
def report() -> None: ...
"""


def launch_in_dev(dagster: DagsterProject, executor: str = "in_process") -> RunRecord:
    return dagster.launch(executor, ops={"sqlmesh_shop": {"environment": "dev"}})


@pytest.mark.attribute("execution.environments")
@pytest.mark.parametrize("executor", ONE_EXECUTOR)
def test_run_in_another_environment_only_observes(with_dev: Shop, executor: str) -> None:
    with_dev.query("UPDATE ctl.error_if SET is_on = false")
    with_dev.plan("dev", "--include-unmodified", "--restate-model", "t.orders")  # now it has pending intervals
    record = launch_in_dev(with_dev, executor)
    assert record.status == dg.DagsterRunStatus.SUCCESS, record.failures
    assert set(record.materializations) == {"report"}, "the selected downstream asset runs"
    assert not record.computed_outside
    assert not record.checks
    assert set(record.observations) == {"t/orders", "t/revenue"}
    assert {event.metadata["sqlmesh/environment"].value for event in record.observations.values()} == {"dev"}


def test_run_in_another_environment_can_fail_and_logs_audit_results(with_dev: Shop) -> None:
    (with_dev.project / "models" / "orders.sql").write_text(
        DEV_FILES["models/orders.sql"].replace("1 AS quantity", "2 AS quantity")
    )
    with_dev.plan("dev", "--skip-backfill")
    with_dev.query("UPDATE ctl.error_if SET is_on = true")
    try:
        record = launch_in_dev(with_dev)
    finally:
        with_dev.query("UPDATE ctl.error_if SET is_on = false")
        (with_dev.project / "models" / "orders.sql").write_text(DEV_FILES["models/orders.sql"])
    assert record.status == dg.DagsterRunStatus.FAILURE
    assert (record.status_of("t/orders"), record.status_of("t/revenue")) == ("executed", "audit_failed")
    assert "In environment dev: t.orders was executed for" in str(record.observations["t/orders"].description)
    assert "t.orders in environment dev: audit not_null passed." in record.log
    assert "t.orders in environment dev: audit small failed: 1 row." in record.log
    assert "t.revenue in environment dev: audit fits failed: 1 row." in record.log
    assert record.not_evaluated_reasons == {"Not evaluated: this run was in environment dev."}
    assert not record.materializations
    [failure] = record.failures
    assert failure.startswith("SQLMesh in environment dev: 1 audit failed, 1 executed.")


@pytest.mark.night("engine/test_carried_over.py::test_result_of_other_environment_hides_no_failure_here")
def test_runs_without_evaluation_carry_over_results_of_declared_environment(new_shop: NewShop) -> None:
    """Without a result, Dagster would show these checks as skipped or, if the run fails, as failed without a reason."""

    def results(record: RunRecord) -> dict[str, tuple[bool, dg.AssetCheckSeverity]]:
        return {name: (check.passed, check.severity) for name, check in record.checks.items()}

    shop = new_shop(
        DEV_FILES, tables={"ctl.error_if": "SELECT true AS is_on"}, planned_at=None, execution={"environments": ["dev"]}
    )
    shop.plan("--skip-backfill")
    shop.plan("dev", "--include-unmodified", "--skip-backfill")
    prod = shop.launch()
    shop.query("UPDATE ctl.error_if SET is_on = false")
    dev = launch_in_dev(shop)
    refused = shop.launch(ops={"sqlmesh_shop": {"environment": "elsewhere"}})
    assert results(prod)["t/revenue:fits"] == (False, dg.AssetCheckSeverity.ERROR)
    assert dev.status == dg.DagsterRunStatus.SUCCESS, "a repeated failure of a blocking audit stops nothing"
    assert refused.status == dg.DagsterRunStatus.FAILURE
    for record, reason in ((dev, "this run was in environment dev"), (refused, "the run was refused")):
        assert results(record) == results(prod)
        check = record.checks["t/revenue:fits"]
        assert check.metadata["sqlmesh/evaluated_in_run"].value == prod.run_id
        assert str(check.description).endswith(f". Repeated, because {reason}.")


@pytest.mark.advice("If their files were deleted, promote the deletion:")
def test_log_warns_of_a_promoted_model_whose_file_was_deleted(new_shop: NewShop) -> None:
    shop = new_shop(MODELS, deploy=True)
    (shop.project / "models" / "full.sql").unlink()
    [warning] = [line for line in shop.launch().warnings if "warehouse.t.full" in line]
    assert "If their files were deleted, promote the deletion:\n\n    dg launch --job sqlmesh_shop_plan" in warning
    assert "This job applies nothing." in warning
    assert "If no other code location has them, no Dagster run executes them" in warning
    shop.plan(at=None)
    assert not [line for line in shop.launch().warnings if "warehouse.t.full" in line]


def test_log_names_promoted_models_without_component(with_dev: Shop) -> None:
    with_dev.add_component("shop", {"project": str(with_dev.project), "select": "t.orders"})
    with_dev.refresh()
    left_out = (
        "Promoted models that `select` and `exclude` leave out, and that are not assets of another component in this "
        "code location: warehouse.t.revenue. If no other code location has them, no Dagster run executes them."
    )
    try:
        record = with_dev.launch()
        assert left_out in record.log
        assert not any("warehouse.t.revenue" in line for line in record.warnings), "another code location may have it"
        with_dev.add_component("rest", {"project": str(with_dev.project), "exclude": "t.orders"})
        with_dev.refresh()
        assert "leave out" not in with_dev.launch().log
    finally:
        with_dev.add_component("shop", {"project": str(with_dev.project), "execution": {"environments": ["dev"]}})


def test_select_is_not_blamed_for_models_of_another_project_in_same_state(new_shop: NewShop, tmp_path: Path) -> None:
    shop = new_shop({"models/one.sql": "MODEL (name t.one, kind FULL); SELECT 1 AS id"}, f"{CONFIG}project: one\n")
    config = CONFIG.replace("warehouse.duckdb", str(shop.project / "warehouse.duckdb"))
    files = {"models/two.sql": "MODEL (name t.two, kind FULL); SELECT 1 AS id"}
    plan(write_project(tmp_path / "other", files, f"{config}project: two\n"))
    log = shop.launch().log
    assert "Promoted models of other projects with this SQLMesh state, and that are not assets of another" in log
    assert "leave out" not in log


def test_check_of_a_failed_model_is_about_its_outside_data_recorded_in_the_same_run(new_shop: NewShop) -> None:
    """Otherwise the page of the check says "Not evaluated": the materialization is newer than the planned check."""
    fails = "SELECT CASE WHEN (SELECT max(n) FROM ctl.fails) > 0 THEN error('boom') ELSE 1 END AS n"
    files = {
        "models/one.sql": f"MODEL (name t.one, kind FULL); {fails}",
        "models/two.sql": f"MODEL (name t.two, kind FULL); {fails}",
        "models/three.sql": "MODEL (name t.three, kind FULL); SELECT n FROM t.one",
    }
    shop = new_shop(files, tables={"ctl.fails": "SELECT 0 AS n"})
    shop.query("UPDATE ctl.fails SET n = 1")
    record = shop.launch()
    assert {"t/one", "t/two", "t/three"} == set(record.reported_outside)
    assert {f"{asset}:sqlmesh_execution_status" for asset in record.reported_outside} == record.checks.keys()
    for name, check in record.checks.items():
        assert not check.passed, name
        (last,) = shop.instance.fetch_materializations(check.asset_key, limit=1).records
        assert check.target_materialization_data is not None, name
        assert check.target_materialization_data.storage_id == last.storage_id, name
