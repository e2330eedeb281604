"""What comes after the models: a plain asset that reads one of them."""

from pathlib import Path

import dagster as dg
import duckdb

WAREHOUSE = Path(__file__).parents[2] / "sqlmesh_project" / "warehouse.duckdb"


@dg.asset(deps=[["usage", "daily_rides"]], group_name="workshop", kinds={"duckdb", "python"})
def due_for_service() -> dg.MaterializeResult:
    """The station whose bikes were on the road longest, where the mechanics go next."""
    with duckdb.connect(str(WAREHOUSE), read_only=True) as connection:
        [(station, minutes)] = connection.sql(
            "SELECT station, SUM(minutes) AS total FROM usage.daily_rides GROUP BY station ORDER BY total DESC LIMIT 1"
        ).fetchall()
    return dg.MaterializeResult(metadata={"station": station, "minutes": minutes})
