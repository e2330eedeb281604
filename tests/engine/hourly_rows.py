"""Models over a table with a row for each hour: sources that read it, and readers of these."""

from harness import Shop

HOURS = {"raw.x": "SELECT date_trunc('hour', now()::TIMESTAMP) - INTERVAL 1 HOUR * range::INT AS ts FROM range(24 * 9)"}
TIME = "INCREMENTAL_BY_TIME_RANGE (time_column ts)"
EARLY = "start '8 days ago'"
WITHIN = "WHERE ts BETWEEN @start_dt AND @end_dt"


def source(name: str, head: str, columns: str = "ts", kind: str = TIME) -> str:
    return f"MODEL (name t.{name}, kind {kind}, {head}); SELECT {columns} FROM raw.x {WITHIN}"


def reader(name: str, of: str, kind: str = TIME, head: str = EARLY) -> str:
    return f"MODEL (name t.{name}, kind {kind}, {head}); SELECT ts FROM t.{of} {WITHIN}"


def rows(shop: Shop, name: str) -> int:
    [(number,)] = shop.query(f"SELECT count(*) FROM t.{name}")
    return int(number)
