"""No interval is computed before the asset that loads its source is complete for it (`external_models.wait`)."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import dagster as dg
import pytest
from harness import EXECUTORS, NewShop, RunRecord, Shop

OP = "sqlmesh_shop"
TODAY = datetime.now(timezone.utc).date()
LOADER = """
import dagster as dg

{partitions}

@dg.asset(key=["load", "orders"]{arguments})
def orders(context): ...
"""
DAILY = 'days = dg.DailyPartitionsDefinition(start_date="{start}")'
MODELS = {
    "models/days.sql": "MODEL (name t.days, kind INCREMENTAL_BY_TIME_RANGE (time_column day)); "
    "SELECT day, n FROM raw.orders WHERE day BETWEEN @start_ds AND @end_ds",
    "models/shown.sql": "MODEL (name t.shown, kind VIEW); SELECT day, n FROM t.days",
    "models/total.sql": "MODEL (name t.total, kind FULL); SELECT sum(n) AS n FROM t.shown",
    "models/alone.sql": "MODEL (name t.alone, kind FULL); SELECT 1 AS n",
}
EMPTY = {"raw.orders": "SELECT current_date AS day, 1 AS n LIMIT 0"}
STATUS = "t/days:sqlmesh_execution_status"


def day(ago: int) -> str:
    return str(TODAY - timedelta(days=ago))


def waiting_shop(new_shop: NewShop, partitions: str = "", wait: Any = True, **options: Any) -> Shop:
    """Return a shop whose source is loaded by an asset with daily partitions, or with other ones."""
    external = {"keys": {"raw.orders": "load/orders"}, "wait": wait}
    shop = new_shop(MODELS, tables=EMPTY, planned_at="3 days ago", external_models=external, **options)
    arguments = ", partitions_def=days" if partitions else ""
    shop.add_module("loader", LOADER.format(partitions=partitions, arguments=arguments))
    return shop


def load(shop: Shop, ago: int, *, with_event: bool = True) -> None:
    """Load a day, as the asset does."""
    shop.query(f"INSERT INTO raw.orders VALUES ('{day(ago)}', 1)")
    if with_event:
        event = dg.AssetMaterialization(["load", "orders"], partition=day(ago))
        shop.instance.report_runless_asset_event(event)


def run(shop: Shop, executor: str = "in_process", **config: Any) -> RunRecord:
    """Run all models, and not the asset that loads their source."""
    return shop.launch(executor, ops={OP: config}, assets=[f"t/{name}" for name in ("days", "shown", "total", "alone")])


def outcomes(record: RunRecord) -> dict[str, str | None]:
    return {name: record.status_of(f"t/{name}") for name in ("days", "shown", "total", "alone")}


def rows(shop: Shop) -> list[str]:
    return [str(found) for (found,) in shop.query("SELECT day FROM t.days ORDER BY day")]


def test_without_wait_a_day_that_is_loaded_late_is_lost_and_everything_is_green(new_shop: NewShop) -> None:
    shop = waiting_shop(new_shop, DAILY.format(start=day(6)), wait=False)
    early = run(shop)
    load(shop, 1)
    late = run(shop)
    assert (early.status, late.status) == (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.SUCCESS)
    assert early.status_of("t/days") == "executed"
    assert late.status_of("t/days") == "up_to_date"
    assert rows(shop) == []
    [failure] = run(shop, ignore_sources=True).failures
    assert "sets ignore_sources, and defs.yaml has no `external_models.wait`" in failure


@pytest.mark.parametrize("executor", EXECUTORS)
def test_days_wait_until_their_partitions_are_materialized(new_shop: NewShop, executor: str) -> None:
    shop = waiting_shop(new_shop, DAILY.format(start=day(3)))

    nothing = run(shop, executor)

    assert nothing.status is dg.DagsterRunStatus.SUCCESS, nothing.failures
    assert outcomes(nothing) == {"days": "waiting", "shown": "waiting", "total": "waiting", "alone": "executed"}
    assert nothing.checks[STATUS].description == (
        "t.days is waiting: load/orders was never materialized: materialize it once."
    )
    load(shop, 3)
    load(shop, 2)
    some = run(shop, executor)
    assert outcomes(some)["days"] == "executed"
    assert f"load/orders has no materialization of {day(1)}" in str(some.checks[STATUS].description)
    assert rows(shop) == [day(3), day(2)]
    assert outcomes(run(shop, executor))["days"] == "waiting"
    load(shop, 1)
    assert outcomes(run(shop, executor)) == dict.fromkeys(("days", "shown", "total"), "executed") | {
        "alone": "up_to_date"
    }
    assert rows(shop) == [day(3), day(2), day(1)]
    assert shop.query("SELECT n FROM t.total") == [(3,)]


def test_intervals_that_wait_are_no_gaps(new_shop: NewShop) -> None:
    shop = waiting_shop(new_shop, DAILY.format(start=day(3)), intervals_check=True)
    load(shop, 3)
    record = run(shop)
    check = record.checks["t/days:sqlmesh_intervals_complete"]
    assert check.passed
    assert str(check.description).endswith(f"Waiting for its sources: {day(2)} to {day(1)} (2 days).")
    assert record.materializations["t/days"].metadata["sqlmesh/waiting"].value == f"{day(2)} to {day(1)} (2 days)"
    alone = run_check(shop, "t/days:sqlmesh_intervals_complete")
    assert alone.passed


def run_check(shop: Shop, check: str) -> dg.AssetCheckEvaluation:
    """Evaluate one check alone."""
    return shop.launch(checks=[check]).checks[check]


def test_the_run_config_may_ignore_sources_and_the_run_says_so(new_shop: NewShop) -> None:
    shop = waiting_shop(new_shop, DAILY.format(start=day(3)))
    early = run(shop, ignore_sources=True)
    assert outcomes(early)["days"] == "executed"
    stored = shop.instance.get_run_by_id(early.run_id)
    assert stored is not None
    assert stored.tags["sqlmesh/ignore_sources"] == "true"


@pytest.mark.attribute("external_models.wait")
def test_a_dry_run_and_a_tick_wait_for_the_same_sources_as_a_run(new_shop: NewShop) -> None:
    shop = waiting_shop(new_shop, DAILY.format(start=day(3)), schedule={"cron": "@daily"})
    load(shop, 3)
    load(shop, 2)
    run(shop)

    predicted = shop.launch(ops={OP: {"dry_run": True}}, assets=["t/days", "t/shown", "t/total"])
    rows_ = {row["model"]: row for row in predicted.logged["sqlmesh/dry_run_json"]}
    cause = f"load/orders has no materialization of {day(1)}"
    assert {row["outcome"] for row in rows_.values()} == {"waiting"}
    assert all(cause in row["why"] for row in rows_.values())
    assert f"t.days ({cause})" in tick(shop)
    load(shop, 1)
    assert tick(shop) == {"t/days", "t/shown", "t/total"}


def tick(shop: Shop) -> Any:
    """Evaluate a tick of the schedule now. Return the requested assets, or the reason of a skipped tick."""
    repository = shop.refresh().get_repository_def()
    [schedule] = repository.schedule_defs
    context = dg.build_schedule_context(shop.instance, datetime.now(timezone.utc), repository_def=repository)
    result = schedule.evaluate_tick(context)
    if not result.run_requests:
        return result.skip_message
    [request] = result.run_requests
    return {key.to_user_string() for key in request.asset_selection or ()}


@pytest.mark.attribute("schedule.on_sources")
def test_a_sensor_requests_the_models_that_a_load_makes_ready_in_one_run(new_shop: NewShop) -> None:
    shop = waiting_shop(new_shop, DAILY.format(start=day(3)), schedule={"on_sources": True})
    run(shop)
    sensor = SourceSensor(shop)
    assert sensor.tick() == "No source was materialized since the last tick."
    for ago in (3, 2, 1):
        load(shop, ago)
    assert sensor.tick() == {"t/days", "t/shown", "t/total"}
    assert sensor.tick() == "No source was materialized since the last tick."
    assert run(shop).status is dg.DagsterRunStatus.SUCCESS
    load(shop, 1)
    assert sensor.tick() == "Materialized: load/orders. It makes no model ready."

    queued = [shop.instance.create_run_for_job(sensor.job) for _ in range(2)]
    load(shop, 1)
    assert "2 runs of these models have not finished" in sensor.tick()
    for waiting in queued:
        shop.instance.report_run_canceled(waiting)
    assert sensor.tick() == "Materialized: load/orders. It makes no model ready.", "it was not forgotten"


class SourceSensor:
    """Ticks of the sensor, with the cursor that Dagster keeps, and definitions that are loaded again each time."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop
        self.cursor: str | None = None

    @property
    def job(self) -> dg.JobDefinition:
        return self.shop.refresh().resolve_job_def("sqlmesh_shop_job")

    def tick(self) -> Any:
        repository = self.shop.refresh().get_repository_def()
        [sensor] = repository.sensor_defs
        context = dg.build_sensor_context(self.shop.instance, self.cursor, repository_def=repository)
        result = sensor.evaluate_tick(context)
        self.cursor = result.cursor or self.cursor
        if not result.run_requests:
            return result.skip_message
        [request] = result.run_requests
        return {key.to_user_string() for key in request.asset_selection or ()}


def test_a_sensor_on_sources_needs_wait(new_shop: NewShop) -> None:
    shop = new_shop(MODELS, tables=EMPTY, schedule={"on_sources": True})
    assert "`schedule.on_sources` in defs.yaml needs the sources that the models wait for" in shop.load_error()


def test_a_restatement_of_days_that_are_not_loaded_is_refused(new_shop: NewShop) -> None:
    shop = waiting_shop(new_shop, DAILY.format(start=day(3)), restate=True)
    load(shop, 3)
    run(shop)
    [failure] = run(shop, restate={"start": day(3), "end": day(2)}).failures
    assert f"source is not loaded: load/orders has no materialization of {day(2)}, {day(1)}. Nothing" in failure
    assert run(shop, restate={"start": day(3), "end": day(3)}).status is dg.DagsterRunStatus.SUCCESS


def test_a_source_without_partitions_is_complete_up_to_the_start_of_its_run(new_shop: NewShop) -> None:
    shop = waiting_shop(new_shop)
    assert outcomes(run(shop))["days"] == "waiting"
    together = shop.launch("multiprocess")
    assert together.status is dg.DagsterRunStatus.SUCCESS, together.failures
    assert "t.days was executed" in str(together.checks[STATUS].description)
    until = datetime.fromisoformat(day(1)).replace(tzinfo=timezone.utc)
    stated = {"sqlmesh/complete_until": dg.MetadataValue.timestamp(until)}
    shop.instance.report_runless_asset_event(dg.AssetMaterialization(["load", "orders"], metadata=stated))
    assert "t.days" not in str(run(shop).failures)


def test_an_asset_between_two_models_is_a_source_too(new_shop: NewShop) -> None:
    """It runs between the two parts of the step, so the second part sees its materialization."""
    models = {
        "models/first.sql": "MODEL (name t.first, kind FULL); SELECT 1 AS n",
        "models/last.sql": "MODEL (name t.last, kind FULL); SELECT n FROM py.middle",
    }
    options: dict[str, Any] = {"external_models": {"wait": True}, "schedule": {"cron": "@daily"}}
    shop = new_shop(models, tables={"py.middle": "SELECT 1 AS n"}, planned_at="3 days ago", **options)
    shop.add_module(
        "middle", 'import dagster as dg\n\n@dg.asset(key=["py", "middle"], deps=[["t", "first"]])\ndef middle(): ...\n'
    )
    alone = shop.launch(assets=["t/last"])
    assert alone.status_of("t/last") == "waiting"
    assert "py/middle was never materialized" in alone.description_of("t/last:sqlmesh_execution_status")
    assert tick(shop) == {"t/first", "py/middle", "t/last"}, "a tick requests it with them"
    everything = shop.launch("multiprocess")
    assert everything.status is dg.DagsterRunStatus.SUCCESS, everything.failures
    assert everything.status_of("t/last") == "executed"


def test_a_pattern_of_tables_that_no_model_reads_is_refused(new_shop: NewShop) -> None:
    shop = waiting_shop(new_shop, wait={"tables": ["rwa.*"]})
    assert "`external_models.wait.tables` in defs.yaml has 'rwa.*', but no model reads" in shop.load_error()
