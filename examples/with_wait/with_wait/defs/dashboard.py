"""A plain asset that reads the SQLMesh model."""

from pathlib import Path

import dagster as dg
import duckdb

WAREHOUSE = Path(__file__).parents[2] / "sqlmesh_project" / "warehouse.duckdb"


@dg.asset(
    deps=[["museum", "daily_sales"]],
    group_name="museum",
    kinds={"duckdb", "python"},
    automation_condition=dg.AutomationCondition.eager(),
)
def dashboard() -> dg.MaterializeResult:
    """The newest day and its revenue."""
    with duckdb.connect(str(WAREHOUSE), read_only=True) as connection:
        [(day, revenue)] = connection.sql(
            "SELECT sold_on, SUM(revenue) FROM museum.daily_sales GROUP BY sold_on ORDER BY sold_on DESC LIMIT 1"
        ).fetchall()
    return dg.MaterializeResult(metadata={"newest_day": str(day), "revenue": float(revenue)})
