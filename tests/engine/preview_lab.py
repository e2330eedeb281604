"""A shop on DuckDB or PostgreSQL whose pull requests are previewed, for the tests of previews."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from engine.plan_jobs import change, launch, reports_of
from harness import RunRecord, Shop

PREVIEW, CLOSE, APPLY = "sqlmesh_shop_preview", "sqlmesh_shop_preview_close", "sqlmesh_shop_apply"
ENVIRONMENT = "pr_{{ env.PULL_REQUEST }}"

ORDERS = """
MODEL (name t.orders, kind INCREMENTAL_BY_TIME_RANGE (time_column day), grain (day, id));
SELECT day::DATE AS day, id::INT AS id, (id * {factor})::DOUBLE PRECISION AS amount, 'x' AS label
FROM raw.orders WHERE day BETWEEN @start_ds::DATE AND @end_ds::DATE
"""
REVENUE = """
MODEL (name t.revenue, kind FULL, grain day);
SELECT day, sum(amount) AS amount, count(*) AS orders FROM t.orders GROUP BY day
"""
OTHER = "MODEL (name t.other, kind FULL); SELECT 1 AS x"
MODELS = {"models/orders.sql": ORDERS.format(factor=2), "models/revenue.sql": REVENUE, "models/other.sql": OTHER}
RAW = """
SELECT CAST(days.day AS DATE) AS day, ids.id
FROM (SELECT generate_series AS day FROM generate_series(CURRENT_DATE - 6, CURRENT_DATE, INTERVAL '1 day')) AS days,
(SELECT generate_series AS id FROM generate_series(1, 10)) AS ids
"""
DAY = 24 * 60 * 60 * 1000


@dataclass
class Lab:
    """A shop whose tables are in DuckDB or PostgreSQL."""

    shop: Shop
    ask: Callable[[str], list[tuple[Any, ...]]]
    monkeypatch: pytest.MonkeyPatch

    def change(self, **models: str) -> None:
        change(self.shop, **models)

    def job(self, name: str, pull_request: int | None = 1, **config: Any) -> RunRecord:
        if pull_request is None:
            self.monkeypatch.delenv("PULL_REQUEST", raising=False)
        else:
            self.monkeypatch.setenv("PULL_REQUEST", str(pull_request))
        return launch(self.shop, name, **config)

    def preview(self, pull_request: int = 1, **config: Any) -> dict[str, Any]:
        record = self.job(PREVIEW, pull_request, **config).succeeded()
        return report_of_last(record)

    def close(self, pull_request: int = 1) -> RunRecord:
        return self.job(CLOSE, pull_request).succeeded()

    def prod(self) -> dict[str, Any]:
        """Everything that must not change: the rows and views of prod, and its rows of SQLMesh's state."""
        names = [row[0] for row in self.ask("SELECT table_name FROM information_schema.views WHERE table_schema = 't'")]
        [(shown,)] = self.ask("SELECT snapshots FROM sqlmesh._environments WHERE name = 'prod'")
        versions = {(info["name"], info["version"]) for info in json.loads(shown)}
        state_of_models = "SELECT name, version, identifier, snapshot, updated_ts, unpaused_ts FROM sqlmesh._snapshots"
        intervals = "SELECT name, version, start_ts, end_ts, is_removed, last_altered_ts FROM sqlmesh._intervals"
        views = "SELECT table_name, view_definition FROM information_schema.views WHERE table_schema = 't'"
        return {
            "rows": {name: sorted(self.ask(f"SELECT * FROM t.{name}"), key=str) for name in names},
            "views": sorted(self.ask(views)),
            "environment": self.ask("SELECT * FROM sqlmesh._environments WHERE name = 'prod'"),
            "intervals": sorted(row for row in self.ask(f"{intervals} WHERE NOT is_dev") if row[:2] in versions),
            "models": sorted(row for row in self.ask(state_of_models) if row[:2] in versions and row[-1] is not None),
        }

    def left_over(self) -> dict[str, Any]:
        """What the state and the warehouse have, to compare before and after a preview was closed."""
        intervals = "SELECT name, version, dev_version, start_ts, end_ts, is_dev FROM sqlmesh._intervals"
        tables = "SELECT table_schema, table_name FROM information_schema.tables WHERE table_schema LIKE '%t%'"
        schemas = "SELECT schema_name FROM information_schema.schemata WHERE schema_name LIKE 't%'"
        return {
            "environments": set(self.ask("SELECT name FROM sqlmesh._environments")),
            "models": set(self.ask("SELECT name, identifier FROM sqlmesh._snapshots")),
            "intervals": sorted(self.ask(intervals), key=repr),
            "tables": {row for row in self.ask(tables) if row[0] not in ("information_schema", "pg_catalog")},
            "schemas": set(self.ask(schemas)),
        }


def report_of_last(record: RunRecord) -> dict[str, Any]:
    """The JSON report that a job has published last."""
    return reports_of(record)[-1]


def diffs(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {diff["model"]: diff for diff in report["diff"]}


def audits(report: dict[str, Any]) -> dict[str, tuple[int | None, int | None]]:
    return {audit["name"]: (audit["failing_rows"], audit["failing_rows_prod"]) for audit in report["audits"]}


def make_gap(lab: Lab, after: int, before: int) -> None:
    """Let the state forget the days of t.orders between the first and the last ones."""
    columns = "name, identifier, version, dev_version, is_dev, is_removed, is_compacted, last_altered_ts, created_ts"
    [row] = lab.ask(f"SELECT {columns}, start_ts, end_ts FROM sqlmesh._intervals WHERE name LIKE '%orders%'")
    start, end = row[-2:]
    lab.ask(f"UPDATE sqlmesh._intervals SET end_ts = {start + after * DAY} WHERE name LIKE '%orders%'")
    if before:
        lab.ask(
            f"INSERT INTO sqlmesh._intervals ({columns}, id, start_ts, end_ts, is_pending_restatement) "
            f"SELECT {columns}, 'later', {end - before * DAY}, {end}, FALSE FROM sqlmesh._intervals "
            "WHERE name LIKE '%orders%'"
        )


LATE = ORDERS.format(factor=2).replace("t.orders", "t.late")
FORWARD_ONLY = ORDERS.replace("(time_column day)", "(time_column day, forward_only true)")


on_duckdb = pytest.mark.parametrize("lab", ["duckdb"], indirect=True)
"""For facts that do not depend on the engine."""
