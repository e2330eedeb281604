"""Find rows of an earlier version that a plan shows again although they were corrected since, and compute them again.

A plan that goes back to a version, or adds a removed model again, shows the old table: SQLMesh computes only intervals
that are missing. A restatement rewrites the versions that environments show, and not this one. The state has the
evidence: the shown version, or a table upstream, has computed an interval again after the old table was computed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from sqlmesh.core.environment import Environment
from sqlmesh.core.plan import Plan
from sqlmesh.core.snapshot import DeployabilityIndex, Snapshot, SnapshotTableInfo
from sqlmesh.core.snapshot.definition import Interval

from dg_sqlmesh_component.protocol.formatting import ranges
from dg_sqlmesh_component.protocol.intervals import common, merged, subtract
from dg_sqlmesh_component.worker.plan.context import PlanContext
from dg_sqlmesh_component.worker.plan.rewritten import Rewritten, Rows, Versions
from dg_sqlmesh_component.worker.sqlmesh_internals import ComputedRange, computed_ranges, forget_intervals


def forget_outdated_rows(plan: Plan, prod: Environment | None, context: PlanContext, *, in_state: bool) -> None:
    """Remove the intervals whose rows were corrected since from the plan's snapshots.

    Args:
        prod: None if the plan creates it.
        in_state: Whether to remove them from the state, too. A plan is applied with the intervals of the state.
    """
    index = plan.deployability_index if plan.is_dev else DeployabilityIndex.all_deployable()
    shown = {info.name: info for info in prod.snapshots} if prod else {}
    versions = Versions(plan.context_diff.snapshots_by_name, index, shown, plan.is_dev)
    for name, intervals in _outdated(versions, context).items():
        node, is_dev = versions.nodes[name], versions.is_dev_table(versions.nodes[name])
        context.tracker.pipe.log(
            "warning",
            f"{node.node.name} gets back a table whose rows were corrected since, for {ranges(intervals)}. Applying "
            "the plan computes them again.",
        )
        if in_state:
            forget_intervals(context.state_sync, node, intervals, is_dev=is_dev)
        if is_dev:
            node.dev_intervals = [*subtract(node.dev_intervals, intervals)]
        else:
            node.intervals = [*subtract(node.intervals, intervals)]


def _outdated(versions: Versions, context: PlanContext) -> dict[str, tuple[Interval, ...]]:
    """By name, the intervals of new versions that were computed before a correction."""
    in_use = {
        (info.name, info.version)
        for environment in context.state_reader.get_environments()
        for info in environment.snapshots
    }
    earlier = {
        name: node
        for name, node in versions.new.items()
        if name in versions.computed and not versions.is_dev_table(node) and node.name_version not in in_use
    }
    if not earlier:
        return {}
    rows = computed_ranges(context)
    of_table = {name: rows.get(versions.table(node), ()) for name, node in earlier.items()}
    since = {name: max(row.at for row in computed) for name, computed in of_table.items() if computed}
    found = corrected(versions, rows, since)
    return {name: intervals for name, intervals in found.items() if not versions.nodes[name].model.disable_restatement}


def corrected(versions: Versions, rows: Rows, since: Mapping[str, int]) -> dict[str, tuple[Interval, ...]]:
    """By name, the intervals whose rows were corrected since, and those that read them.

    Args:
        rows: The computed ranges of the state.
        since: When earlier versions were computed last, epoch milliseconds, by name.
    """
    return _Corrected(versions, rows, {}).again(since, others_since=sys.maxsize)


@dataclass(frozen=True)
class _Corrected(Rewritten):
    """Counts rows of the state only if they replace others of their table: a newer version has computed all once.

    A row that SQLMesh's janitor has merged does not tell, so it does not count.
    """

    def altered(
        self, snapshot: Snapshot | SnapshotTableInfo, since: int, *, only_rewritten: bool
    ) -> Sequence[Interval]:
        rows = self.rows.get((snapshot.name, snapshot.version, False), ())
        return [interval for row, interval in _replaced(rows) if row.at > since]


def _replaced(rows: Sequence[ComputedRange]) -> Iterator[tuple[ComputedRange, Interval]]:
    """The ranges that were computed again, each with the row that did."""
    before: tuple[Interval, ...] = ()
    for row in sorted(rows, key=lambda row: row.at):
        if not row.is_merged:
            yield from ((row, interval) for interval in common([row.interval], before))
        before = merged([*before, row.interval])
