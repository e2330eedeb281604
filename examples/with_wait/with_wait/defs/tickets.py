"""dlt loads the sold tickets of each day into the table `tickets.sold`."""

from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import dlt
from dagster_dlt import DagsterDltResource, dlt_assets

WAREHOUSE = Path(__file__).parents[2] / "sqlmesh_project" / "warehouse.duckdb"
DAYS = dg.DailyPartitionsDefinition(start_date="2026-11-01")


@dlt.source(name="tickets")
def tickets(first: date = date.min, end: date = date.min) -> Any:
    """The days from `first` to the day before `end`. A real source would read the API of the ticket shop here."""

    @dlt.resource(write_disposition="merge", primary_key="ticket_id")
    def sold() -> Iterator[dict[str, Any]]:
        """Five sold tickets a day."""
        for ago in range((end - first).days):
            day = first + timedelta(days=ago)
            for number in range(1, 6):
                yield {
                    "ticket_id": day.toordinal() * 10 + number,
                    "sold_on": day,
                    "exhibition_id": day.day * number % 3 + 1,
                }

    return sold


@dlt_assets(
    dlt_source=tickets(),
    dlt_pipeline=dlt.pipeline("museum", destination=dlt.destinations.duckdb(str(WAREHOUSE)), dataset_name="tickets"),
    group_name="tickets",
    partitions_def=DAYS,
)
def load_tickets(context: dg.AssetExecutionContext, dlt_resource: DagsterDltResource) -> Iterator[Any]:
    window = context.partition_time_window
    yield from dlt_resource.run(context, dlt_source=tickets(window.start.date(), window.end.date()))


@dg.definitions
def defs() -> dg.Definitions:
    return dg.Definitions(assets=[load_tickets], resources={"dlt_resource": DagsterDltResource()})
