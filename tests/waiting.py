"""A shop whose models wait for a table that an asset loads, with its runs and ticks."""

from datetime import datetime, timedelta, timezone
from typing import Any

import dagster as dg
from harness import NewShop, RunRecord, Shop

OP = "sqlmesh_shop"
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


def day(ago: int) -> str:
    return str(datetime.now(timezone.utc).date() - timedelta(days=ago))


def waiting_shop(
    new_shop: NewShop, partitions: str = "", wait: Any = True, late: str = "ignore", **options: Any
) -> Shop:
    """Return a shop whose source is loaded by an asset with daily partitions, or with other ones."""
    external = {"keys": {"raw.orders": "load/orders"}, "wait": wait, "late": late}
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


def tick(shop: Shop) -> Any:
    """Evaluate a tick of the schedule now. Return the requested assets, or the reason of a skipped tick."""
    return requested(evaluate_tick(shop))


def requested(result: Any) -> Any:
    if not result.run_requests:
        return result.skip_message
    [request] = result.run_requests
    return {key.to_user_string() for key in request.asset_selection or ()}


def evaluate_tick(shop: Shop) -> Any:
    repository = shop.refresh().get_repository_def()
    [schedule] = (schedule for schedule in repository.schedule_defs if "janitor" not in schedule.name)
    context = dg.build_schedule_context(shop.instance, datetime.now(timezone.utc), repository_def=repository)
    return schedule.evaluate_tick(context)


class SourceSensor:
    """Ticks of the sensor, with the cursor that Dagster keeps, and definitions that are loaded again each time."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop
        self.cursor: str | None = None

    @property
    def job(self) -> dg.JobDefinition:
        return self.shop.refresh().resolve_job_def("sqlmesh_shop_job")

    def evaluate(self) -> Any:
        repository = self.shop.refresh().get_repository_def()
        [sensor] = repository.sensor_defs
        context = dg.build_sensor_context(self.shop.instance, self.cursor, repository_def=repository)
        result = sensor.evaluate_tick(context)
        self.cursor = result.cursor or self.cursor
        return result

    def tick(self) -> Any:
        """Return the requested assets, or the reason of a skipped tick."""
        return requested(self.evaluate())


def launch_request(shop: Shop, request: dg.RunRequest) -> RunRecord:
    """Launch a requested run, with the tag by which Dagster knows it."""
    return shop.launch(
        ops={op: config["config"] for op, config in request.run_config.get("ops", {}).items()},
        assets=[key.to_user_string() for key in request.asset_selection or ()],
        tags={**request.tags, "dagster/run_key": str(request.run_key)},
    )
