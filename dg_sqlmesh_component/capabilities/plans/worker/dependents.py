"""Find the views of others that PostgreSQL would drop with what a plan replaces, and names that others have taken.

On PostgreSQL, SQLMesh replaces a view by DROP ... CASCADE and CREATE, also if its columns stay as they are (SQLMesh
#5954). It does this to the views of an environment. If a changed `VIEW` model keeps its version, it also does it to the
view that these read. It drops columns of tables with CASCADE, too. Whatever reads them is gone, without an error.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlglot import exp
from sqlmesh.core.context import Context
from sqlmesh.core.engine_adapter import EngineAdapter, PostgresEngineAdapter
from sqlmesh.core.environment import Environment
from sqlmesh.core.plan import Plan
from sqlmesh.core.snapshot import Snapshot, SnapshotTableInfo

from dg_sqlmesh_component.capabilities.plans import messages as msg
from dg_sqlmesh_component.capabilities.plans.worker.context import PlanContext
from dg_sqlmesh_component.capabilities.plans.worker.data_objects import Name, data_objects
from dg_sqlmesh_component.capabilities.plans.worker.migrations import migrated_snapshots
from dg_sqlmesh_component.worker.environment import has_one_table, has_table, is_table_of_its_name
from dg_sqlmesh_component.worker.explain import describe_error
from dg_sqlmesh_component.worker.postgres_views import READERS, literals, views_of
from dg_sqlmesh_component.worker.sqlmesh_internals import Forgotten, forget_intervals

_TAKEN = """
SELECT n.nspname, taken.name FROM (
  SELECT relnamespace AS namespace, relname::text AS name FROM pg_class UNION SELECT typnamespace, typname FROM pg_type
) AS taken JOIN pg_namespace AS n ON n.oid = taken.namespace WHERE (n.nspname::text, taken.name) IN ({names})
"""
"""A table or view of PostgreSQL cannot have the name of a type, such as an enumeration."""

_GRANTED = """
SELECT format('GRANT %s%s ON %I.%I TO %s%s;', acl.privilege_type, acl.columns, n.nspname, c.relname,
  CASE acl.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(acl.grantee)) END,
  CASE WHEN acl.is_grantable THEN ' WITH GRANT OPTION' END)
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace CROSS JOIN LATERAL (
  SELECT of_all.*, '' AS columns FROM aclexplode(c.relacl) AS of_all
  UNION ALL SELECT of_one.*, format(' (%I)', a.attname) FROM pg_attribute AS a, aclexplode(a.attacl) AS of_one
  WHERE a.attrelid = c.oid
) AS acl WHERE (n.nspname::text, c.relname::text) IN ({names}) AND acl.grantee <> c.relowner
ORDER BY 1
"""

_Names = dict[Name, str]
"""By table or view, the model, by fqn."""


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
    for names in (_replaced(plan, stored, altered), _turned_into_views(plan, stored)):
        for models, rows in _asked(READERS, names, context):
            found |= {fqn: set() for fqn in models.values() if fqn not in found}
            for schema, name, schema_of_dependent, dependent in rows:
                found[models[schema, name]].add(f"{schema_of_dependent}.{dependent}")
    return {fqn: tuple(sorted(views)) for fqn, views in found.items()}


def environments_of(views: Iterable[str], context: Context) -> dict[str, str]:
    """The environments of SQLMesh that show models by these views. Views of others are missing."""
    if not (names := set(views)):
        return {}
    shown = views_of(context.state_reader.get_environments())
    found = {f"{schema}.{name}": environment for (schema, name), environment in shown.items()}
    return {name: found[name] for name in sorted(names & found.keys())}


def taken_names(plan: Plan, stored: Environment | None, context: Context) -> set[str]:
    """The models, by fqn, whose name in the environment belongs to a table or view that SQLMesh has not made: of dbt.

    SQLMesh would replace it, with its rows. On PostgreSQL it cannot replace a table by a view, not even one of its own
    from the time of `dev_only`: it fails after it has begun to change the environment.
    """
    if plan.uncategorized:
        return set()
    shown = _shown(stored)
    nodes, is_dev, promoted = plan.context_diff.snapshots_by_name, plan.is_dev, _promoted(plan, stored)
    of_tables = {name for name, info in shown.items() if is_table_of_its_name(info, is_dev=is_dev)}
    begun = {info.name for info in promoted if has_one_table(info, is_dev=is_dev) and _has_begun(nodes[info.name])}
    others = _shown_as((info for info in promoted if info.name not in shown.keys() | begun), plan)
    views = _shown_as((i for i in promoted if i.name in of_tables and not has_one_table(i, is_dev=is_dev)), plan)
    taken = {models[schema, name] for models, rows in _asked(_TAKEN, others | views, context) for schema, name in rows}
    if is_dev:  # SQLMesh creates schemas and catalogs of such an environment when it first promotes
        return taken
    return taken | {others[name] for name, _ in data_objects(others, context)}


def claim_names(plan: Plan, stored: Environment | None, context: Context) -> None:
    """Note in the state that SQLMesh creates the tables of added models with their own names, before it does.

    Else nothing tells them from tables of others before an interval is computed, and a second attempt would be refused.
    """
    claimed = list[Forgotten]()
    for of_model in plan.missing_intervals:
        node = plan.context_diff.snapshots[of_model.snapshot_id]
        if has_one_table(node, is_dev=plan.is_dev) and node.name not in _shown(stored) and not _has_begun(node):
            # One mark is enough: `_has_begun` asks for any.
            claimed.append(Forgotten(node, of_model.intervals[:1], is_dev=False))
    forget_intervals(context.state_sync, claimed)


@contextmanager
def lost_grants_reported(plan: Plan, stored: Environment | None, context: PlanContext) -> Iterator[None]:
    """Send which grants on views of the environment a plan has removed, also if it fails. Nobody gives them again."""
    kept = {info.name for info in plan.environment.promoted_snapshots}
    replaced = _replaced(plan, stored, ()) if stored is not None else {}
    names = {name: fqn for name, fqn in replaced.items() if fqn in kept}

    def granted() -> list[str]:
        return [statement for _, rows in _asked(_GRANTED, names, context) for (statement,) in rows]

    before = granted()
    try:
        yield
    finally:
        try:
            after = granted() if before else []
        except Exception as error:  # noqa: BLE001  # any driver's; if the plan has failed, that error is raised
            after = before
            context.tracker.pipe.log("warning", f"The grants on views could not be read: {describe_error(error)}")
        if lost := tuple(statement for statement in before if statement not in after):
            context.tracker.pipe.send(msg.GrantsLost(lost))


def _shown(stored: Environment | None) -> dict[str, SnapshotTableInfo]:
    """The versions that the environment shows by a table or view, by fqn."""
    return {} if stored is None else {info.name: info for info in stored.promoted_snapshots if has_table(info)}


def _has_begun(node: Snapshot) -> bool:
    """Whether SQLMesh has computed, or has begun to compute, the table that all versions of a model share."""
    return bool(node.intervals or node.pending_restatement_intervals)


def _asked(query: str, names: _Names, context: Context) -> Iterator[tuple[dict[tuple[str, str], str], list[Any]]]:
    by_adapter: dict[EngineAdapter, dict[tuple[str, str], str]] = defaultdict(dict)
    for (gateway, table), model in names.items():  # a model may name the default gateway
        by_adapter[context.snapshot_evaluator.get_adapter(gateway)][table.db, table.name] = model
    for adapter, models in by_adapter.items():
        # Other engines drop nothing together with a view.
        if isinstance(adapter, PostgresEngineAdapter):
            yield models, adapter.fetchall(query.format(names=literals(models)))


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
    objects = _shown_as([*replaced, *removed], plan)
    views = [] if is_dev else [s for s in migrated_snapshots(plan.context_diff.snapshots_by_name) if s.is_view]
    for behind in (*(info for info in changed if info.name in altered), *views):
        objects[behind.model_gateway, exp.to_table(behind.table_name(), dialect="postgres")] = behind.name
    return objects


def _turned_into_views(plan: Plan, stored: Environment) -> _Names:
    """Tables that become views. SQLMesh drops these without CASCADE, before it replaces the views that read them."""
    is_dev = plan.is_dev
    tables = {info.name for info in stored.promoted_snapshots if is_table_of_its_name(info, is_dev=is_dev)}
    views = (i for i in _promoted(plan, stored) if has_one_table(i, is_dev=is_dev) and not i.is_materialized)
    return _shown_as((info for info in views if info.name in tables), plan)


def _shown_as(infos: Iterable[SnapshotTableInfo], plan: Plan) -> _Names:
    """The table or view that shows each version in the environment."""
    environment, names = plan.environment, {}
    for info in filter(has_table, infos):
        if has_one_table(info, is_dev=plan.is_dev):
            names[info.model_gateway, info.fully_qualified_table] = info.name
        else:
            view = info.qualified_view_name.table_for_environment(environment.naming_info, dialect="postgres")
            names[info.model_gateway if environment.gateway_managed else None, view] = info.name
    return names
