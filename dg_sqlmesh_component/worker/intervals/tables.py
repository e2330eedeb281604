"""The table that an environment shows for a model, and its intervals, as the state has them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

from sqlmesh.core import constants as c
from sqlmesh.core.context import Context
from sqlmesh.core.scheduler import Scheduler, SnapshotToIntervals
from sqlmesh.core.snapshot import (
    DeployabilityIndex,
    Snapshot,
    SnapshotId,
    SnapshotTableInfo,
    apply_auto_restatements,
    missing_intervals,
    start_date,
)
from sqlmesh.core.snapshot.definition import Interval, expand_range, merge_intervals
from sqlmesh.utils.date import now_timestamp, to_timestamp

from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.graph import reachable
from dg_sqlmesh_component.protocol.intervals import ComputedRange, common, subtract
from dg_sqlmesh_component.protocol.manifest import INCREMENTAL_KINDS
from dg_sqlmesh_component.worker.sqlmesh_internals import ComputedRanges, computed_ranges

Nodes = Mapping[str, Snapshot] | Mapping[str, SnapshotTableInfo]
"""The nodes of an environment or a plan, by name."""


def upstream(nodes: Nodes) -> dict[str, list[str]]:
    """The nodes that each node reads, as far as they are among them, by name."""
    return {name: [parent.name for parent in node.parents if parent.name in nodes] for name, node in nodes.items()}


def shows_others(node: Snapshot | SnapshotTableInfo) -> bool:
    """Whether a model has no rows of its own, and shows those of the nodes that it reads: a view, or an embedded model.

    External tables count too: SQLMesh's state knows nothing about their rows.
    """
    return node.is_view or node.is_symbolic


def has_no_rows(node: Snapshot) -> bool:
    """As `shows_others`, also of a standalone audit: its result is about the rows of the nodes that it reads."""
    return node.is_audit or shows_others(node)


def with_shown(name: str, nodes: Mapping[str, Snapshot], parents: Mapping[str, Iterable[str]]) -> set[str]:
    """A node, and the nodes whose rows it shows if it has none of its own, also through others, by name."""
    return reachable([name], lambda of: parents[of] if has_no_rows(nodes[of]) else ())


def tables_read(name: str, nodes: Nodes, parents: Mapping[str, Iterable[str]]) -> set[str]:
    """The nodes that a node reads, also through views and embedded models, by name."""
    return reachable(parents[name], lambda node: parents[node] if shows_others(nodes[node]) else ())


def single_intervals(snapshot: Snapshot, intervals: Iterable[Interval]) -> list[Interval]:
    """Longer intervals, split into the single intervals of the model."""
    bounds = [expand_range(start, end, snapshot.node.interval_unit) for start, end in intervals]
    return [pair for instants in bounds for pair in pairwise(instants)]


def has_start(snapshot: Snapshot, snapshots: Mapping[SnapshotId, Snapshot] | Iterable[Snapshot]) -> bool:
    """Whether a node has a `start`, or one upstream has. If not, SQLMesh infers one from the cron, at each instant.

    Args:
        snapshots: At least those upstream.
    """
    nodes = snapshots if isinstance(snapshots, Mapping) else {node.snapshot_id: node for node in snapshots}
    first, second = (start_date(snapshot, {**nodes}, relative_to=instant) for instant in ("2000-06-01", "2001-06-01"))
    return first == second


def is_incremental(snapshot: Snapshot | SnapshotTableInfo) -> bool:
    """Whether SQLMesh computes a node range by range."""
    return snapshot.is_model and snapshot.model_kind_name.value in INCREMENTAL_KINDS


def deployability(environment: str, snapshots: Iterable[Snapshot], start: Any = None) -> DeployabilityIndex:
    """Which models of the environment show production tables, and which show a preview table of their own.

    Args:
        snapshots: All of the environment: it depends on the upstream models too.
        start: The start of the run config.
    """
    if environment == c.PROD:
        return DeployabilityIndex.all_deployable()
    return DeployabilityIndex.create(snapshots, start=start)


def shown_version(snapshot: Snapshot, index: DeployabilityIndex) -> str:
    """The version of that table."""
    return snapshot.version_get_or_generate() if index.is_representative(snapshot) else snapshot.dev_version


def computed_intervals(snapshot: Snapshot, index: DeployabilityIndex) -> list[msg.Interval]:
    """The computed intervals of that table."""
    return snapshot.intervals if index.is_representative(snapshot) else snapshot.dev_intervals


def ranges_of_table(snapshot: Snapshot, index: DeployabilityIndex, ranges: ComputedRanges) -> Sequence[ComputedRange]:
    """What SQLMesh has computed into that table. `ranges` are those of the state."""
    is_dev = not index.is_representative(snapshot)
    return ranges.get((snapshot.name, shown_version(snapshot, index), is_dev), ())


def filled_intervals(snapshot: Snapshot, index: DeployabilityIndex, ranges: ComputedRanges) -> Sequence[msg.Interval]:
    """The computed intervals of that table, without those that SQLMesh has only copied from prod's record.

    It copies them for the preview of a forward-only change, without a time. Their rows are there only if the engine
    clones tables.
    """
    computed = computed_intervals(snapshot, index)
    if index.is_representative(snapshot):
        return computed
    return common(computed, [row.interval for row in ranges_of_table(snapshot, index, ranges)])


def knows_filled(snapshot: Snapshot, index: DeployabilityIndex, ranges: ComputedRanges) -> bool:
    """Whether `filled_intervals` are exact. SQLMesh's janitor merges the copied intervals with the computed ones."""
    is_by_range = is_incremental(snapshot) and not index.is_representative(snapshot)
    return not is_by_range or not any(row.is_merged for row in ranges_of_table(snapshot, index, ranges))


def copied_intervals(
    snapshots: Iterable[Snapshot], index: DeployabilityIndex, context: Context
) -> dict[str, Sequence[msg.Interval]]:
    """The intervals of previews that are only copied from prod's record, if no clone has their rows, by name."""
    previews = [
        snapshot
        for snapshot in snapshots
        if snapshot.is_forward_only and not index.is_representative(snapshot)
        if not context.snapshot_evaluator.get_adapter(snapshot.model_gateway).SUPPORTS_CLONING
    ]
    ranges = computed_ranges(context) if previews else {}
    return {node.name: subtract(node.dev_intervals, filled_intervals(node, index, ranges)) for node in previews}


def forgotten_intervals(snapshot: Snapshot, index: DeployabilityIndex) -> Sequence[msg.Interval]:
    """The intervals of that table that a run of ours has forgotten, and that nobody has computed since.

    The snapshot must have the intervals of the state. An automatic restatement of SQLMesh alone marks intervals too,
    but the state has them as computed.
    """
    marked = snapshot.pending_restatement_intervals if index.is_representative(snapshot) else ()
    return subtract(marked, snapshot.intervals)


def without_restated_intervals(snapshots: Mapping[str, Snapshot]) -> dict[str, Snapshot]:
    """The same, without computed intervals that SQLMesh will restate automatically: the next run computes them."""
    marked = {name: node.copy() for name, node in snapshots.items() if node.pending_restatement_intervals}
    for node in marked.values():
        node.apply_pending_restatement_intervals()
    return {**snapshots, **marked}


def altered_at(snapshot: Snapshot, index: DeployabilityIndex) -> int | None:
    """When that table was last computed, restated or loaded."""
    return snapshot.last_altered_ts if index.is_representative(snapshot) else snapshot.dev_last_altered_ts


def whole_intervals(snapshot: Snapshot, interval: msg.Interval) -> msg.Interval:
    """The range of the intervals of a model that a range overlaps."""
    unit, (start, end) = snapshot.node.interval_unit, interval
    floor = to_timestamp(unit.cron_floor(end))
    return to_timestamp(unit.cron_floor(start)), floor if floor == end else to_timestamp(unit.cron_next(end))


def due_at(snapshot: Snapshot, end: int) -> int:
    """The first tick of the model's cron at or after the end of an interval."""
    floor = to_timestamp(snapshot.node.cron_floor(end))
    return floor if floor == end else to_timestamp(snapshot.node.cron_next(end))


def snapshots_now(context: Context, infos: Iterable[Snapshot]) -> dict[str, Snapshot]:
    """Snapshots with the intervals of the state, by name. SQLMesh keeps those that it has read once."""
    copies = [snapshot.copy() for snapshot in context.state_reader.get_snapshots(infos).values()]
    context.state_reader.refresh_snapshot_intervals(copies)
    return {snapshot.name: snapshot for snapshot in copies}


def missing_now(nodes: Mapping[str, Snapshot], now: int | None = None) -> dict[str, tuple[Interval, ...]]:
    """What a run would compute of snapshots, by name, without what a `lookback` computes again.

    Seeds are left out: SQLMesh always finds one to be missing that a plan loads again.

    Args:
        now: The instant of the run, epoch milliseconds, if it is not that of the clock.
    """
    index = DeployabilityIndex.all_deployable()
    tables = [node for node in nodes.values() if not node.is_seed]
    forgotten = {node: found for node in tables if (found := forgotten_intervals(node, index))}
    find_missing = partial(missing_intervals, tables, execution_time=now or now_timestamp())
    found = missing_with_forgotten(find_missing, forgotten)
    return {node.name: subtract(intervals, node.intervals) for node, intervals in found.items()}


def missing_with_forgotten(
    find_missing: Callable[..., SnapshotToIntervals], forgotten: Mapping[Snapshot, Sequence[Interval]]
) -> SnapshotToIntervals:
    """The missing intervals: those that SQLMesh would find if nothing was forgotten, and the forgotten ones.

    `find_missing` finds them with SQLMesh's own `lookback`. It accepts `ignore_cron`.
    """
    if not forgotten:
        return find_missing()
    with_early = find_missing(ignore_cron=True)
    before = {snapshot: snapshot.intervals for snapshot in forgotten}
    for snapshot, intervals in forgotten.items():
        snapshot.intervals = merge_intervals([*snapshot.intervals, *intervals])
    found = find_missing()
    for snapshot, intervals in before.items():
        snapshot.intervals = intervals
    for snapshot in forgotten.keys() & with_early.keys():
        if lost := common(with_early[snapshot], forgotten[snapshot]):
            found[snapshot] = merge_intervals([*found.get(snapshot, ()), *lost])
    return found


def restate_automatically(nodes: dict[SnapshotId, Snapshot], now: int) -> dict[Snapshot, Sequence[Interval]]:
    """Remove from snapshots what SQLMesh restates automatically at this instant. The state is not changed.

    SQLMesh also marks what was never computed. Here, a mark means that the rows were there.
    """
    before = {node: (node.intervals, node.pending_restatement_intervals) for node in nodes.values()}
    apply_auto_restatements(nodes, now)
    restated = {}
    for node, (computed, marked) in before.items():
        restated[node] = common(node.pending_restatement_intervals, computed)
        node.pending_restatement_intervals = merge_intervals([*marked, *restated[node]])
    return {node: intervals for node, intervals in restated.items() if intervals}


def find_missing(
    scheduler: Scheduler, environment: str, now: int, *, restates: bool = True, **run_config: Any
) -> tuple[SnapshotToIntervals, DeployabilityIndex]:
    """The missing intervals that a run would batch, and which tables it would compute. The state is only read.

    `Scheduler.run` would also compute, and write automatic restatements to the state.

    Args:
        now: The instant of the run, epoch milliseconds.
        restates: Whether it does automatic restatements.
        run_config: `start`, `end`, `ignore_cron` and `selected_snapshots`, as for the scheduler.
    """
    # SQLMesh looks through the whole graph, also if no model has a cron for this.
    nodes = scheduler.snapshots.values()
    if environment == c.PROD and restates and any(n.is_model and n.model.auto_restatement_cron for n in nodes):
        restate_automatically(scheduler.snapshots, now)
    index = deployability(environment, nodes, run_config.get("start"))
    return scheduler.merged_missing_intervals(execution_time=now, deployability_index=index, **run_config), index
