"""What comes after the models: a plain asset that reads a mart."""

from pathlib import Path

import dagster as dg
import duckdb

WAREHOUSE = Path(__file__).parents[2] / "sqlmesh_project" / "warehouse.duckdb"


@dg.asset(deps=[["marts", "daily_sales"]], group_name="reports", kinds={"duckdb", "python"})
def weekly_report() -> dg.MaterializeResult:
    """Sales of the last seven days that are over, ready to be mailed."""
    with duckdb.connect(str(WAREHOUSE), read_only=True) as connection:
        days = connection.sql(
            "SELECT sold_on, SUM(revenue) FROM marts.daily_sales GROUP BY sold_on ORDER BY sold_on DESC LIMIT 7"
        ).fetchall()
    table = "\n".join(["| day | revenue |", "|---|---:|", *(f"| {day} | {revenue} |" for day, revenue in days)])
    return dg.MaterializeResult(metadata={"report": dg.MetadataValue.md(table), "last_day": str(days[0][0])})
