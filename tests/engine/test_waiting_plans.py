"""Plans and previews leave out intervals whose source is not loaded (`external_models.wait`)."""

import dagster as dg
import pytest
from engine.plan_jobs import APPLY, PLAN, applied, failure_of, kinds, launch, planned, report_of
from harness import NewShop, Shop, needs_previews
from waiting import DAILY, day, load, outcomes, rows, run, waiting_shop


@pytest.fixture
def shop(new_shop: NewShop) -> Shop:
    """A shop whose source has the last three days without the middle one."""
    shop = waiting_shop(new_shop, DAILY.format(start=day(3)), deploy=True, intervals_check=True)
    for ago in (3, 1):
        load(shop, ago)
    assert outcomes(run(shop))["days"] == "executed"
    return shop


def change(shop: Shop, model: str, old: str, new: str) -> None:
    file = shop.project / "models" / f"{model}.sql"
    file.write_text(file.read_text().replace(old, new))


def test_a_plan_of_another_model_does_not_compute_a_day_that_is_not_loaded(shop: Shop) -> None:
    change(shop, "alone", "1 AS n", "2 AS n")
    record = applied(shop)
    assert "Left out, because warehouse.raw.orders is not loaded: t.days (1 interval)" in record.log
    assert "signals" not in record.log, "the model has none"
    assert record.tags["sqlmesh/result"] == "1 executed"
    load(shop, 2)
    assert outcomes(run(shop))["days"] == "executed"
    assert rows(shop) == [day(3), day(2), day(1)]


@pytest.mark.night(
    "test_a_plan_of_another_model_does_not_compute_a_day_that_is_not_loaded",
    "engine/test_wait_for_sources.py::test_intervals_that_wait_are_no_gaps",
)
def test_a_new_version_is_computed_without_the_day_that_is_not_loaded(shop: Shop) -> None:
    change(shop, "days", "day, n FROM", "day, n + 1 AS n FROM")
    [model] = [model for model in planned(shop)["models"] if model["name"] == "t.days"]
    assert model["waiting"] == 1
    complete = applied(shop).checks["t/days:sqlmesh_intervals_complete"]
    assert complete.passed, "a day that waits is no gap"
    assert f"Waiting: {day(2)}" in str(complete.description)
    assert rows(shop) == [day(3), day(1)]
    load(shop, 2)
    assert outcomes(run(shop))["days"] == "executed"
    assert shop.query("SELECT n FROM t.total") == [(6,)]


@pytest.mark.advice("The plan would not compute these ranges. Materialize the assets that load these tables,")
def test_a_plan_that_would_lose_a_day_because_its_source_is_not_loaded_now_is_refused(shop: Shop) -> None:
    shop.instance.wipe_assets([dg.AssetKey(["load", "orders"])])
    load(shop, 3)
    change(shop, "days", "day, n FROM", "day, n + 1 AS n FROM")
    report = report_of(launch(shop, PLAN))
    assert kinds(report) == ["not_loaded"]
    record = launch(shop, APPLY, digest=report["digest"])
    assert f"t.days (rows of {day(1)} until warehouse.raw.orders is loaded)" in failure_of(record)
    assert rows(shop) == [day(3), day(1)]
    load(shop, 1)
    launch(shop, APPLY, digest=report["digest"]).succeeded()
    assert {*rows(shop)} == {day(3), day(1)}


@pytest.mark.night(
    "unit/capabilities/plans/worker/test_lost_rows.py",
    "test_a_plan_that_would_lose_a_day_because_its_source_is_not_loaded_now_is_refused",
)
def test_a_plan_does_not_promise_a_day_to_the_next_run_that_this_run_would_leave_out(new_shop: NewShop) -> None:
    """The plan computes no interval after those of prod. A FULL model may show rows of a load that is not complete."""
    shop = waiting_shop(new_shop, DAILY.format(start=day(4)), deploy=True)
    text = f"MODEL (name t.copy, kind FULL, start '{day(4)}'); SELECT day, n FROM raw.orders"
    (shop.project / "models" / "copy.sql").write_text(text)
    shop.plan(at="3 days ago")
    shop.refresh()
    load(shop, 4)
    load(shop, 3)
    load(shop, 2, with_event=False)
    shop.launch(assets=["t/copy"]).succeeded()
    assert shop.query("SELECT day::TEXT FROM t.copy ORDER BY day") == [(day(4),), (day(3),), (day(2),)]
    change(shop, "copy", "FULL", "INCREMENTAL_BY_TIME_RANGE (time_column day)")
    change(shop, "copy", "FROM raw.orders", "FROM raw.orders WHERE day BETWEEN @start_ds AND @end_ds")
    report = report_of(launch(shop, PLAN))
    assert kinds(report) == ["lost_intervals"]
    [model] = [model for model in report["models"] if model["name"] == "t.copy"]
    assert f"rows from {day(2)} on until later runs compute them" in model["lost_rows"]
    assert "until the next run" not in model["lost_rows"]


@pytest.mark.night(
    "test_a_plan_of_another_model_does_not_compute_a_day_that_is_not_loaded",
    "engine/test_previews.py::test_a_preview_is_refused_if_prod_lacks_intervals_that_it_would_read",
)
@needs_previews
def test_a_preview_reads_prod_without_the_day_that_is_not_loaded_and_leaves_it_out(new_shop: NewShop) -> None:
    preview = {"environment": "pr_1"}
    shop = waiting_shop(new_shop, DAILY.format(start=day(3)), deploy=True, preview=preview)
    for ago in (3, 1):
        load(shop, ago)
    run(shop)
    change(shop, "total", "sum(n)", "sum(n) + 1")
    launch(shop, "sqlmesh_shop_preview").succeeded()
    assert shop.query("SELECT n FROM t__pr_1.total") == [(3,)]
    change(shop, "days", "day, n FROM", "day, n + 1 AS n FROM")
    launch(shop, "sqlmesh_shop_preview").succeeded()
    assert shop.query("SELECT day::TEXT FROM t__pr_1.days ORDER BY day") == [(day(3),), (day(1),)]
    applied(shop)
    load(shop, 2)
    assert outcomes(run(shop))["days"] == "executed"
    assert rows(shop) == [day(3), day(2), day(1)]
