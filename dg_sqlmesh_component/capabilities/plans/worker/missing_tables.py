"""Find models whose table is missing although the state has their intervals, and let a plan compute them again.

SQLMesh would create an empty table and promote it as complete. Such a state is left behind if SQLMesh's own janitor is
interrupted, or if somebody drops a table.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from sqlglot import exp
from sqlmesh.core.context import Context
from sqlmesh.core.plan import Plan
from sqlmesh.core.snapshot import DeployabilityIndex, Snapshot
from sqlmesh.core.snapshot.definition import SnapshotTableCleanupTask

from dg_sqlmesh_component.capabilities.plans.worker.context import PlanContext
from dg_sqlmesh_component.capabilities.plans.worker.data_objects import data_objects
from dg_sqlmesh_component.worker.context import display_name
from dg_sqlmesh_component.worker.environment import has_table
from dg_sqlmesh_component.worker.intervals.tables import computed_intervals
from dg_sqlmesh_component.worker.sqlmesh_internals import forget_tables


def forget_missing_tables(plan: Plan, context: PlanContext, *, in_state: bool) -> None:
    """Remove the intervals of models without a table from the plan's snapshots.

    Args:
        in_state: As in `forget_outdated_rows`.
    """
    index = plan.deployability_index if plan.is_dev else DeployabilityIndex.all_deployable()
    computed = [
        snapshot
        for snapshot in plan.context_diff.snapshots.values()
        if has_table(snapshot) and plan.is_selected_for_backfill(snapshot.name)
        if computed_intervals(snapshot, index) and (index.is_representative(snapshot) or not _only_copies(snapshot))
    ]
    for snapshot, table in _missing(computed, index, context):
        context.tracker.pipe.log(
            "warning",
            f"The table {table.sql(snapshot.model.dialect)} of {display_name(snapshot.node, context)} is missing, "
            "although SQLMesh's state has its intervals. Applying the plan computes them again.",
        )
        is_main = index.is_representative(snapshot)
        if in_state:
            task = SnapshotTableCleanupTask(snapshot=snapshot.table_info, dev_table_only=not is_main)
            forget_tables(context, [task])
        if is_main:
            snapshot.intervals = []
        else:
            snapshot.dev_intervals = []


def _only_copies(snapshot: Snapshot) -> bool:
    """Whether the preview of a forward-only change has computed nothing, and so needs no table yet.

    SQLMesh copies the intervals of prod, except the last day, when it stores the version. Then it computes that day. If
    it is interrupted before, the next preview computes the day.
    """
    return snapshot.is_forward_only and snapshot.dev_last_altered_ts is None


def _missing(
    snapshots: Iterable[Snapshot], index: DeployabilityIndex, context: Context
) -> Iterator[tuple[Snapshot, exp.Table]]:
    """The snapshots whose table is missing, each with the name of that table."""
    tables = {}
    for snapshot in snapshots:
        name = snapshot.table_name(is_deployable=index.is_representative(snapshot))
        tables[snapshot.model_gateway, exp.to_table(name, dialect=snapshot.model.dialect)] = snapshot
    found = {name for name, _ in data_objects(tables, context)}
    for (gateway, table), snapshot in tables.items():
        # One query for a schema is fast. A second one confirms each missing name.
        if (gateway, table) not in found and not context.snapshot_evaluator.get_adapter(gateway).table_exists(table):
            yield snapshot, table
