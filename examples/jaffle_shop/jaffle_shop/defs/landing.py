"""What an ingestion tool does: the orders of the point-of-sale system land in the warehouse."""

from pathlib import Path

import dagster as dg
import duckdb

WAREHOUSE = Path(__file__).parents[2] / "sqlmesh_project" / "warehouse.duckdb"

# Six made-up orders a day, the same ones each time, up to now.
ORDERS = """
CREATE OR REPLACE TABLE raw.orders AS
SELECT
  CAST(STRFTIME(d, '%Y%m%d') AS BIGINT) * 10 + n AS order_id,
  d + INTERVAL 9 HOUR + n * INTERVAL 95 MINUTE AS ordered_at,
  CASE n % 3 WHEN 0 THEN 'harbour' ELSE 'station' END AS branch,
  CAST((DAYOFYEAR(d) + n * n) % 4 + 1 AS INTEGER) AS item_id,
  CAST((DAYOFYEAR(d) * n) % 3 + 1 AS INTEGER) AS quantity
FROM RANGE(DATE '2026-01-01', CURRENT_DATE + INTERVAL 1 DAY, INTERVAL 1 DAY) AS days(d)
CROSS JOIN RANGE(1, 7) AS numbers(n)
WHERE ordered_at <= CURRENT_TIMESTAMP::TIMESTAMP
"""


@dg.asset(
    # The key is the point-of-sale system's business. What ties this asset to the SQLMesh models
    # that read the table is the table's name.
    key=["point_of_sale", "till_orders"],
    metadata={"dagster/table_name": "warehouse.raw.orders"},
    group_name="landing",
    kinds={"duckdb", "python"},
)
def till_orders() -> dg.MaterializeResult:
    """Every order of every till, as the point-of-sale system has it."""
    with duckdb.connect(str(WAREHOUSE)) as connection:
        connection.execute("CREATE SCHEMA IF NOT EXISTS raw")
        connection.execute(ORDERS)
        [(rows,)] = connection.sql("SELECT COUNT(*) FROM raw.orders").fetchall()
    return dg.MaterializeResult(metadata={"dagster/row_count": rows})
