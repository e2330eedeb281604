"""Snapshots as SQLMesh makes them of models, in March 2026: a month that begins on a Sunday, when `@weekly` ticks."""

from collections.abc import Iterable
from datetime import datetime, timezone

from sqlmesh.core.dialect import parse
from sqlmesh.core.model import Model, load_sql_based_model
from sqlmesh.core.snapshot import Snapshot, SnapshotChangeCategory

from dg_sqlmesh_component.protocol.messages import Interval


def day(number: int, hour: int = 0) -> int:
    """Return an hour of the n-th of March 2026 in UTC, in epoch milliseconds."""
    return int(datetime(2026, 3, number, hour, tzinfo=timezone.utc).timestamp() * 1000)


def days(first: int, last: int) -> Interval:
    """Return the interval from the start of the first day to the end of the last day."""
    return day(first), day(last + 1)


def model(properties: str, query: str) -> Model:
    definition = f"MODEL ({properties}, dialect duckdb); {query}"
    return load_sql_based_model(parse(definition, default_dialect="duckdb"))


def snapshot(
    properties: str, query: str, parents: Iterable[Snapshot] = (), computed: Iterable[Interval] = ()
) -> Snapshot:
    """Return a version of a model, which has computed these intervals."""
    node = Snapshot.from_node(model(properties, query), nodes={parent.name: parent.node for parent in parents})
    node.categorize_as(SnapshotChangeCategory.BREAKING)
    for interval in computed:
        node.add_interval(*interval)
    return node
