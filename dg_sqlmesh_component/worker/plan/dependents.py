"""Find the views of others that PostgreSQL would drop with what a plan replaces, and tables in place of its views.

On PostgreSQL, SQLMesh replaces a view by DROP ... CASCADE and CREATE, also if its columns stay as they are (SQLMesh
#5954). It does this to the views of an environment. If a changed `VIEW` model keeps its version, it also does it to the
view that these read. It drops columns of tables with CASCADE, too. Whatever reads them is gone, without an error.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from typing import Any

from sqlglot import exp
from sqlmesh.core.context import Context
from sqlmesh.core.engine_adapter import EngineAdapter, PostgresEngineAdapter
from sqlmesh.core.environment import Environment
from sqlmesh.core.plan import Plan
from sqlmesh.core.snapshot import SnapshotTableInfo

from dg_sqlmesh_component.worker.environment import has_one_table, has_table, is_table_of_its_name
from dg_sqlmesh_component.worker.plan.migrations import migrated_snapshots

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

_TAKEN = """
SELECT n.nspname, c.relname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE (n.nspname, c.relname) IN ({names}) AND c.relkind <> 'v'
"""

_Name = tuple[str, str]
"""Schema and name."""
_Names = dict[str | None, dict[_Name, str]]
"""By gateway, the models, by fqn, of tables and views."""


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
    for models, rows in _asked(_QUERY, _replaced(plan, stored, altered), context):
        found |= {fqn: set() for fqn in models.values() if fqn not in found}
        for schema, name, schema_of_dependent, dependent in rows:
            found[models[schema, name]].add(f"{schema_of_dependent}.{dependent}")
    return {fqn: tuple(sorted(views)) for fqn, views in found.items()}


def taken_names(plan: Plan, stored: Environment | None, context: Context) -> set[str]:
    """The models, by fqn, whose view cannot be created, because a table has its name: one of dbt, or of `dev_only`.

    On other engines SQLMesh drops that table. On PostgreSQL it fails, after it has begun to change the environment.
    """
    if plan.uncategorized:
        return set()
    views = [info for info in _promoted(plan, stored) if not has_one_table(info, is_dev=plan.is_dev)]
    asked = _asked(_TAKEN, _views(views, plan.environment), context)
    return {models[schema, name] for models, rows in asked for schema, name in rows}


def _asked(query: str, names: _Names, context: Context) -> Iterator[tuple[dict[_Name, str], list[Any]]]:
    by_adapter: dict[EngineAdapter, dict[_Name, str]] = defaultdict(dict)
    for gateway, models in names.items():  # a model may name the default gateway
        by_adapter[context.snapshot_evaluator.get_adapter(gateway)].update(models)
    for adapter, models in by_adapter.items():
        if isinstance(adapter, PostgresEngineAdapter):
            literals = ", ".join(f"({', '.join(map(_literal, name))})" for name in models)
            yield models, adapter.fetchall(query.format(names=literals))


def _promoted(plan: Plan, stored: Environment | None) -> set[SnapshotTableInfo]:
    """The versions that SQLMesh promotes (`PlanStagesBuilder`)."""
    new = set(plan.environment.promoted_snapshots)
    if stored is None or not plan.environment.can_partially_promote(stored):
        return new
    return new - set(stored.promoted_snapshots)


def _replaced(plan: Plan, stored: Environment, altered: Collection[str]) -> _Names:
    """What SQLMesh replaces, removes or alters. It creates views again that it replaces, so these are no dependents."""
    environment, is_dev = plan.environment, plan.is_dev
    shown, changed = set(stored.promoted_snapshots), _promoted(plan, stored)
    kept = {info.name for info in environment.promoted_snapshots}
    tables = {info.name for info in shown if is_table_of_its_name(info, is_dev=is_dev)}
    replaced = [i for i in changed if i.name not in tables or not is_table_of_its_name(i, is_dev=is_dev)]
    removed = [info for info in shown if info.name not in kept and not has_one_table(info, is_dev=is_dev)]
    # SQLMesh leaves the view of one that had a table.
    objects = _views([*replaced, *removed], environment)
    views = [] if is_dev else [s for s in migrated_snapshots(plan.context_diff.snapshots_by_name) if s.is_view]
    for behind in (*(info for info in changed if info.name in altered), *views):
        table = exp.to_table(behind.table_name(), dialect="postgres")
        objects[behind.model_gateway][table.db, table.name] = behind.name
    return objects


def _views(infos: Iterable[SnapshotTableInfo], environment: Environment) -> _Names:
    found: _Names = defaultdict(dict)
    for info in filter(has_table, infos):
        view = info.qualified_view_name.table_for_environment(environment.naming_info, dialect="postgres")
        gateway = info.model_gateway if environment.gateway_managed else None
        found[gateway][view.db, view.name] = info.name
    return found


def _literal(text: str) -> str:
    return exp.Literal.string(text).sql("postgres")
