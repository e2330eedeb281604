"""dlt loads the sold tickets of each day into the table `tickets.sold`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import dlt
from dagster_dlt import DagsterDltResource, dlt_assets

from with_wait.shop import tickets

WAREHOUSE = Path(__file__).parents[2] / "sqlmesh_project" / "warehouse.duckdb"


@dlt_assets(
    dlt_source=tickets(),
    dlt_pipeline=dlt.pipeline("museum", destination=dlt.destinations.duckdb(str(WAREHOUSE)), dataset_name="tickets"),
    group_name="tickets",
    partitions_def=dg.DailyPartitionsDefinition(start_date="2026-11-01"),
)
def load_tickets(context: dg.AssetExecutionContext, dlt_resource: DagsterDltResource) -> Iterator[Any]:
    days = context.partition_time_window
    yield from dlt_resource.run(context, dlt_source=tickets(days.start.date(), days.end.date()))


@dg.definitions
def defs() -> dg.Definitions:
    return dg.Definitions(assets=[load_tickets], resources={"dlt_resource": DagsterDltResource()})
