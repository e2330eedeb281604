"""Find the views of others that PostgreSQL would drop with what a plan replaces.

On PostgreSQL, SQLMesh replaces a view by DROP ... CASCADE and CREATE, also if its columns stay as they are (SQLMesh
#5954). It drops columns of tables with CASCADE, too. Whatever reads them is gone, without an error or a word.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection

from sqlglot import exp
from sqlmesh.core.context import Context
from sqlmesh.core.engine_adapter import PostgresEngineAdapter
from sqlmesh.core.environment import Environment
from sqlmesh.core.plan import Plan

from dg_sqlmesh_component.worker.environment import has_one_table, has_table, is_table_of_its_name

_QUERY = """
WITH RECURSIVE replaced AS (
  SELECT c.oid FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
  WHERE (n.nspname, c.relname) IN ({names})
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

_Name = tuple[str, str]
"""Schema and name."""


def dependents(
    plan: Plan, stored: Environment | None, altered: Collection[str], context: Context
) -> dict[str, tuple[str, ...]]:
    """The views and materialized views that read what the plan replaces or removes, by fqn of the model.

    A model whose engine was not asked is missing.

    Args:
        stored: The environment as it is now; None if the plan creates it.
        altered: The models whose table loses columns, by fqn.
    """
    if stored is None or plan.uncategorized:  # then it promotes nothing yet
        return {}
    found: dict[str, set[str]] = {}
    for gateway, models in _replaced(plan, stored, altered).items():
        adapter = context.snapshot_evaluator.get_adapter(gateway)
        if isinstance(adapter, PostgresEngineAdapter):
            found |= {fqn: set() for fqn in models.values() if fqn not in found}
            names = ", ".join(f"({', '.join(map(_literal, name))})" for name in models)
            for schema, name, schema_of_dependent, dependent in adapter.fetchall(_QUERY.format(names=names)):
                found[models[schema, name]].add(f"{schema_of_dependent}.{dependent}")
    return {fqn: tuple(sorted(views)) for fqn, views in found.items()}


def _replaced(plan: Plan, stored: Environment, altered: Collection[str]) -> dict[str | None, dict[_Name, str]]:
    """What SQLMesh replaces or removes (`PlanStagesBuilder`), and altered tables: by gateway and name."""
    environment, is_dev = plan.environment, plan.is_dev
    shown, new = set(stored.promoted_snapshots), set(environment.promoted_snapshots)
    kept = {info.name for info in new}
    changed = new - shown if environment.can_partially_promote(stored) else new
    tables = {info.name for info in shown if is_table_of_its_name(info, is_dev=is_dev)}
    replaced = [i for i in changed if i.name not in tables or not is_table_of_its_name(i, is_dev=is_dev)]
    removed = [info for info in shown if info.name not in kept and not has_one_table(info, is_dev=is_dev)]
    objects: dict[str | None, dict[_Name, str]] = defaultdict(dict)
    for info in changed:
        if info.name in altered:
            table = exp.to_table(info.table_name(), dialect="postgres")
            objects[info.model_gateway][table.db, table.name] = info.name
    for info in filter(has_table, [*replaced, *removed]):  # SQLMesh leaves the view of one that had a table
        view = info.qualified_view_name.table_for_environment(environment.naming_info, dialect="postgres")
        gateway = info.model_gateway if environment.gateway_managed else None
        objects[gateway][view.db, view.name] = info.name
    return objects


def _literal(text: str) -> str:
    return exp.Literal.string(text).sql("postgres")
