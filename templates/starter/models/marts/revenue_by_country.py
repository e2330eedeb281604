"""A Python model, for logic that is easier to write in pandas than in SQL."""

from __future__ import annotations

import typing as t
from datetime import datetime

import pandas as pd
from sqlmesh import ExecutionContext, model


@model(
    "marts.revenue_by_country",
    kind="FULL",
    description="Revenue of each country, its rank and its share of the total.",
    owner="finance",
    tags=["finance", "dagster:group_name:finance", "dagster:kind:table"],
    grains=["country_code"],
    # SQLMesh creates the table from these before it runs the function.
    columns={
        "country_code": "text",
        "revenue": "double",
        "revenue_share": "double",
        "revenue_rank": "int",
    },
    column_descriptions={
        "country_code": "Customers' country, ISO 3166 alpha-2.",
        "revenue": "Sum of the orders, in euros.",
        "revenue_share": "Part of the total revenue, between 0 and 1.",
        "revenue_rank": "1 for the country with the highest revenue.",
    },
)
def execute(
    context: ExecutionContext,
    start: datetime,
    end: datetime,
    execution_time: datetime,
    **kwargs: t.Any,
) -> pd.DataFrame:
    # resolve_table returns the physical table of the current environment. From this call, SQLMesh
    # also knows that this model depends on core.daily_orders.
    daily_orders = context.resolve_table("core.daily_orders")
    revenue = context.fetchdf(
        f"SELECT country_code, CAST(SUM(revenue) AS DOUBLE) AS revenue FROM {daily_orders} GROUP BY country_code"
    )
    revenue["revenue_share"] = revenue["revenue"] / revenue["revenue"].sum()
    revenue["revenue_rank"] = revenue["revenue"].rank(method="min", ascending=False).astype(int)
    return revenue.sort_values("revenue_rank")
