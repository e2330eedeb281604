"""Find rows of an earlier version that a plan shows again, and that a restatement did not correct.

A plan that goes back to a version, or adds a removed model again, shows the old table: SQLMesh computes only intervals
that are missing. A restatement rewrites the versions that environments show at that time, so not this one. The state
has the evidence: the version that prod shows, or a table upstream, has computed an interval again after the old table
was computed. Such intervals are forgotten, so the plan computes them. If a model depends on its past and lacks an
interval, its later intervals are forgotten too.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from datetime import datetime

from sqlmesh.core.environment import Environment
from sqlmesh.core.plan import Plan
from sqlmesh.core.plan.common import should_force_rebuild
from sqlmesh.core.snapshot import DeployabilityIndex, SnapshotId, start_date
from sqlmesh.core.snapshot.definition import Interval
from sqlmesh.utils.date import to_timestamp

from dg_sqlmesh_component.capabilities.plans.worker.context import PlanContext
from dg_sqlmesh_component.capabilities.plans.worker.versions import Rows, Versions, find_outdated, tables_of
from dg_sqlmesh_component.protocol.formatting import ranges
from dg_sqlmesh_component.protocol.intervals import merged, subtract
from dg_sqlmesh_component.worker.context import display_name
from dg_sqlmesh_component.worker.intervals.tables import is_incremental
from dg_sqlmesh_component.worker.sqlmesh_internals import Forgotten, computed_ranges, forget_intervals


def forget_outdated_rows(plan: Plan, prod: Environment | None, context: PlanContext, *, in_state: bool) -> None:
    """Remove the intervals with outdated rows from the plan's snapshots.

    Args:
        prod: None if the plan creates it.
        in_state: Whether the plan is to be applied. SQLMesh applies it with the intervals of the state, so they are
            removed there, too.
    """
    index = plan.deployability_index if plan.is_dev else DeployabilityIndex.all_deployable()
    shown = {info.name: info for info in prod.snapshots} if prod else {}
    versions = Versions(plan.context_diff.snapshots_by_name, index, shown, plan.is_dev)
    forgotten = list[Forgotten]()
    for name, intervals in {**_outdated(versions, context), **_of_others(plan, prod, versions, context)}.items():
        node, is_dev = versions.nodes[name], versions.is_dev_table(versions.nodes[name])
        context.tracker.pipe.log(
            "warning",
            f"{display_name(node.node, context)} has rows that predate a correction or come from another version, for "
            f"{ranges(intervals)}. Applying the plan computes them again.",
        )
        forgotten.append(Forgotten(node, intervals, is_dev))
        if is_dev:
            node.dev_intervals = [*subtract(node.dev_intervals, intervals)]
        else:
            node.intervals = [*subtract(node.intervals, intervals)]
            node.pending_restatement_intervals = [*node.pending_restatement_intervals, *intervals]
    if in_state:
        forget_intervals(context.state_sync, forgotten)


def _of_others(
    plan: Plan, prod: Environment | None, versions: Versions, context: PlanContext
) -> dict[str, tuple[Interval, ...]]:
    """By name, what other versions have computed into the table of an added model, and what nobody wants to keep.

    All versions of some models have one table. SQLMesh keeps the rows of a removed model, as if its definition had
    changed. But what a failed apply has computed, after prod's last plan, prod has never shown. And SQLMesh builds the
    table again for a changed seed or another kind, but only if the environment still has the model.
    """
    added = [node for node in plan.new_snapshots if node.snapshot_id in plan.context_diff.added and node.intervals]
    rows, found = computed_ranges(context) if added else {}, {}
    promoted_at = prod.finalized_ts if prod is not None else None
    for node in added:
        of_table = rows.get(versions.table(node), ())
        failed = [row.interval for row in of_table if promoted_at is not None and row.at > promoted_at]
        if is_incremental(node) or len(failed) == len(of_table):
            found[node.name] = merged(failed)
        last = max(of_table, key=lambda row: row.at, default=None)
        id = SnapshotId(name=node.name, identifier=(last and last.identifier) or "")
        earlier = context.state_reader.get_snapshots([id]).get(id)
        if earlier is not None and should_force_rebuild(earlier, node):
            found[node.name] = versions.computed.get(node.name, ())
    return {name: intervals for name, intervals in found.items() if intervals}


def _outdated(versions: Versions, context: PlanContext) -> dict[str, tuple[Interval, ...]]:
    """By name, the intervals of new versions that were computed before a correction."""
    if not versions.computed:
        return {}
    in_use = {
        (info.name, info.version)
        for environment in context.state_reader.get_environments()
        for info in environment.snapshots
    }
    earlier = {
        name: node
        for name, node in versions.new.items()
        # Restatements correct a version that an environment shows.
        if name in versions.computed and not versions.is_dev_table(node) and node.name_version not in in_use
    }
    rows = computed_ranges(context) if earlier else {}  # a gap is evidence without them
    of_table = {name: rows.get(versions.table(node), ()) for name, node in earlier.items()}
    computed_at = {name: max(row.at for row in computed) for name, computed in of_table.items() if computed}
    return corrected(versions, rows, computed_at)


def corrected(versions: Versions, rows: Rows, computed_at: Mapping[str, int]) -> dict[str, tuple[Interval, ...]]:
    """By name, the intervals of earlier versions that were corrected after these were computed, and what read them.

    Each version computes all of its intervals once. So only intervals count that a table has computed twice.

    Args:
        rows: The computed ranges of the state.
        computed_at: When earlier versions were computed last, epoch milliseconds, by name.
    """
    tables = tables_of(versions.shown, rows)
    # No row is newer than `maxsize`, so other new versions count only if they read one of these.
    found = find_outdated(
        versions,
        lambda name, since, _: tables[name].computed_twice(since),
        lambda name: computed_at.get(name, sys.maxsize),
        gaps=_gaps(versions),
    )
    # SQLMesh never computes rows again of a model with `disable_restatement`.
    return {name: intervals for name, intervals in found.items() if not versions.nodes[name].model.disable_restatement}


def _gaps(versions: Versions) -> dict[str, tuple[Interval, ...]]:
    """By name, the intervals that new versions which depend on their past lack before computed ones.

    A restatement of prod removes intervals of versions that other environments show. SQLMesh leaves the later
    intervals of these versions, although they were computed from the removed ones. It removes none of the preview of a
    forward-only change: each plan computes single days of it, and what is between them is no gap.
    """
    nodes = {node.snapshot_id: node for node in versions.nodes.values()}
    starts: dict[str, datetime] = {}  # SQLMesh keeps here what it has found
    gaps = {}
    for name, computed in versions.computed.items():
        node = versions.nodes[name]
        if is_incremental(node) and not versions.is_dev_table(node) and node.depends_on_past:
            start = to_timestamp(start_date(node, nodes, starts))
            gaps[name] = subtract([(min(start, computed[0][0]), computed[-1][1])], computed)
    return gaps
