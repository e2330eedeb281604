"""The tables and views that a database has."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

from sqlglot import exp
from sqlmesh.core.context import Context
from sqlmesh.core.dialect import schema_
from sqlmesh.core.engine_adapter.shared import DataObject

Name = tuple[str | None, exp.Table]
"""A gateway, None for the default one, and the name of a table or view."""


def data_objects(names: Iterable[Name], context: Context) -> Iterator[tuple[Name, DataObject]]:
    """Those of these names that exist. As SQLMesh does, each schema is listed once."""
    by_schema: dict[Name, dict[str, exp.Table]] = defaultdict(dict)
    for gateway, table in names:
        by_schema[gateway, schema_(table.db, catalog=table.catalog)][table.name] = table
    for (gateway, schema), tables in by_schema.items():
        for found in context.snapshot_evaluator.get_adapter(gateway).get_data_objects(schema, set(tables)):
            if found.name in tables:
                yield (gateway, tables[found.name]), found
