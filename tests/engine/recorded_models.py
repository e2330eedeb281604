"""Models whose data is computed in Dagster and outside of it, and what Dagster shows of them."""

from datetime import datetime, timedelta, timezone
from typing import Any

import dagster as dg
from dagster._core.definitions.data_version import CachingStaleStatusResolver
from dagster._core.loader import LoadingContextForTest
from harness import RunRecord, Shop

OP = "sqlmesh_shop"

BY_DAY = "kind INCREMENTAL_BY_TIME_RANGE (time_column ds, batch_size 1, batch_concurrency 1), cron '@daily'"

FAILING = "CASE WHEN @start_ds::DATE IN (SELECT day FROM ctl.broken) THEN error('broken day') ELSE 1 END"


def day(ago: int) -> str:
    return f"{datetime.now(timezone.utc) - timedelta(days=ago):%Y-%m-%d}"


MODELS = {
    "models/days.sql": f"MODEL (name t.days, {BY_DAY}, audits (soft)); SELECT @start_ds::DATE AS ds, {FAILING} AS n",
    "models/shown.sql": "MODEL (name t.shown, kind VIEW); SELECT ds, n FROM t.days",
    "models/total.sql": "MODEL (name t.total, kind FULL); SELECT sum(n) AS n FROM t.shown",
    "models/alone.sql": "MODEL (name t.alone, kind FULL); SELECT 1 AS n",
    "audits/soft.sql": "AUDIT (name soft, blocking false); SELECT * FROM @this_model WHERE n < 0",
}


def broken(shop: Shop, *days: str) -> None:
    """Let the batches of these days of t.days fail, and no others."""
    shop.query("DELETE FROM ctl.broken")
    for broken_day in days:
        shop.query(f"INSERT INTO ctl.broken VALUES ('{broken_day}')")


def restate(start: str, end: str) -> dict[str, Any]:
    return {OP: {"restate": {"start": start, "end": end}}}


def unsynced(dagster: Shop) -> dict[str, list[str]]:
    """The reasons why Dagster marks assets as unsynced, by asset."""
    graph = dagster.refresh().get_repository_def().asset_graph
    resolver = CachingStaleStatusResolver(dagster.instance, graph, LoadingContextForTest(dagster.instance))
    causes = {
        key.to_user_string(): [cause.reason for cause in resolver.get_stale_causes(key)]
        for key in graph.materializable_asset_keys
    }
    return {key: reasons for key, reasons in causes.items() if reasons}


def health(run: RunRecord) -> dict[str, bool]:
    names = ("t/days:sqlmesh_execution_status", "t/days:sqlmesh_intervals_complete")
    return {name.split("_")[1]: run.checks[name].passed for name in names if name in run.checks}


LOST = {"execution": False, "intervals": False}


def tick(dagster: Shop, cursor: str | None = None) -> str:
    """Evaluate the sensor and record its events, as Dagster's daemon does. Return the text on the tick's page."""
    repository = dagster.refresh().get_repository_def()
    context = dg.build_sensor_context(dagster.instance, cursor, repository_def=repository)
    result = repository.get_sensor_def(f"{OP}_sensor").evaluate_tick(context)
    for event in result.asset_events:
        dagster.instance.report_runless_asset_event(event)
    return result.skip_message or ""
