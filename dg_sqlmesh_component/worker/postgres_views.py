"""Which views and materialized views of PostgreSQL read others. It drops them with what they read (CASCADE)."""

from __future__ import annotations

from collections.abc import Iterable

from sqlglot import exp
from sqlmesh.core.context import Context
from sqlmesh.core.engine_adapter import EngineAdapter
from sqlmesh.core.environment import Environment
from sqlmesh.utils.errors import SQLMeshError

from dg_sqlmesh_component.protocol.formatting import listed
from dg_sqlmesh_component.worker.environment import has_table
from dg_sqlmesh_component.worker.sqlmesh_internals import check_before_cascading

READERS = """
WITH RECURSIVE replaced AS (
  SELECT c.oid FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
  WHERE (n.nspname::text, c.relname::text) IN ({names}) OR (n.nspname::text, '*') IN ({names})
), dependents AS (
  SELECT oid AS of, oid FROM replaced
  UNION
  SELECT dependents.of, r.ev_class FROM dependents
  JOIN pg_depend AS d ON d.refobjid = dependents.oid AND d.refclassid = 'pg_class'::regclass
  JOIN pg_rewrite AS r ON r.oid = d.objid AND d.classid = 'pg_rewrite'::regclass
)
SELECT DISTINCT n.nspname, c.relname, found_in.nspname, found.relname FROM dependents
JOIN pg_class AS c ON c.oid = dependents.of JOIN pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_class AS found ON found.oid = dependents.oid JOIN pg_namespace AS found_in ON found_in.oid = found.relnamespace
WHERE dependents.oid NOT IN (SELECT oid FROM replaced)
ORDER BY 3, 4
"""
"""Rows of a table or view by schema and name, and of a view that reads it, directly or not. The name `*` is any."""


def literals(names: Iterable[tuple[str, str]]) -> str:
    """The pairs of schema and name, for a query."""
    return ", ".join(f"({', '.join(exp.Literal.string(part).sql('postgres') for part in name)})" for name in names)


def views_of(environments: Iterable[Environment]) -> dict[tuple[str, str], str]:
    """The environments, by schema and name of the views that show their models."""
    return {
        (view.db, view.name): environment.name
        for environment in environments
        for info in environment.promoted_snapshots
        if has_table(info)
        for view in [info.qualified_view_name.table_for_environment(environment.naming_info, dialect="postgres")]
    }


def keep_views_of_others(context: Context) -> None:
    """Let this process drop no table, view or schema on PostgreSQL that views of others read.

    SQLMesh's own views are dropped with what they read, as by SQLMesh: those of its versions in physical schemas,
    and those by which environments show them.
    """
    environments = context.state_reader.get_environments()
    own = {info.physical_schema for env in environments for info in env.snapshots}
    shown = views_of(environments)

    def check(adapter: EngineAdapter, name: exp.Table) -> None:
        rows = adapter.fetchall(READERS.format(names=literals([(name.db, name.name or "*")])))
        others = dict.fromkeys(
            f"{schema}.{view}" for _, _, schema, view in rows if schema not in own and (schema, view) not in shown
        )
        if others:
            raise SQLMeshError(
                f"{name.sql(adapter.dialect)} was not dropped, because PostgreSQL would drop {listed([*others])} "
                "too. Drop or change those views first."
            )

    check_before_cascading(check)
