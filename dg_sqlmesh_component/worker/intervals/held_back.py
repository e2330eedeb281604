"""Hold back intervals whose data is still pending in an upstream model that does not run.

`availability` decides. This module makes its picture of the nodes from SQLMesh's snapshots, and replaces the two
methods with which SQLMesh's scheduler finds missing intervals and batches them:

1. `merged_missing_intervals`, called without the selection, finds the missing intervals of all promoted models. The
   replacement returns those of the selected models and remembers the rest.
2. `batch_intervals` leaves out what is held back. Every held-back interval is reported with the nearest models that
   lack it: the outcome is then `waiting`, or `executed` with these models named.

A signal may also look at models that do not run: see `_altered_since`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from types import MappingProxyType
from typing import Any

from sqlmesh.core import constants as c
from sqlmesh.core.environment import Environment
from sqlmesh.core.scheduler import Scheduler, SnapshotToIntervals
from sqlmesh.core.snapshot import DeployabilityIndex, Snapshot
from sqlmesh.core.snapshot.definition import Interval, merge_intervals
from sqlmesh.utils.date import to_timestamp

from dg_sqlmesh_component.protocol.graph import reachable
from dg_sqlmesh_component.protocol.intervals import add, subtract
from dg_sqlmesh_component.worker.environment import has_table
from dg_sqlmesh_component.worker.intervals.availability import Left, Node, brings_new, may_compute, tables_read
from dg_sqlmesh_component.worker.intervals.causes import Waiting
from dg_sqlmesh_component.worker.intervals.forgotten import forget_before_computing
from dg_sqlmesh_component.worker.intervals.known import ExternalTables
from dg_sqlmesh_component.worker.intervals.tables import (
    altered_at,
    computed_intervals,
    forgotten_intervals,
    is_incremental,
    missing_now,
    shows_others,
    single_intervals,
    upstream,
)
from dg_sqlmesh_component.worker.sqlmesh_internals import leave_out_after_unready, replace_intervals

FindReady = Callable[[SnapshotToIntervals, DeployabilityIndex | None], SnapshotToIntervals]
"""Finds which of the missing intervals of requested models are not held back. It evaluates no signals."""


def forget_and_hold_back(
    scheduler: Scheduler,
    tables: ExternalTables,
    report_forgotten: Callable[[str, Sequence[Interval]], None],
    waiting: Waiting,
    pending: Mapping[str, Sequence[Interval]] = MappingProxyType({}),
    now: int | None = None,
    environment: Environment | None = None,
) -> FindReady:
    """Let the scheduler find forgotten intervals, and hold back intervals whose source is pending or not loaded.

    It is one answer for a run, a dry run, a tick of a schedule and a plan. A run and a plan leave it to SQLMesh to find
    the missing intervals and to batch them. A dry run and a tick do so themselves (`find_missing`).

    Signals of models that do not run are not checked: they may now report a model as ready that was not ready when it
    ran.

    Args:
        waiting: What the scheduler leaves out is written there. It has the selected models and the bounds already.
        pending: What each node lacks, by name: a plan does not ask the scheduler.
        now: The instant of the run in epoch milliseconds, if it is not that of the clock.
        environment: The one that is run. Another one than prod begins where its plan does.
    """
    forget_before_computing(scheduler, report_forgotten)
    since = to_timestamp(environment.start_at) if environment and environment.name != c.PROD else 0
    nodes = scheduler.snapshots_by_name  # a stage that only audits has those that it audits
    missing = {nodes[name]: list(intervals) for name, intervals in pending.items() if name in nodes}
    holding = _Holding(scheduler, tables, waiting, since, now, missing)
    replace_intervals(scheduler, holding.merged_missing_intervals, holding.batch_intervals)
    return lambda requested, index: holding.ready(requested, holding.picture(requested, index), index)


@dataclass
class _Holding:
    """The two replaced methods of one scheduler. The first notes what all models lack, for the second.

    Attributes:
        scheduler, tables, waiting, now: As in `forget_and_hold_back`.
        since: The first instant of the environment.
        missing: What each node lacks.
    """

    scheduler: Scheduler
    tables: ExternalTables
    waiting: Waiting
    since: int
    now: int | None
    missing: SnapshotToIntervals

    def __post_init__(self) -> None:
        self._find_missing, self._batch = self.scheduler.merged_missing_intervals, self.scheduler.batch_intervals

    def merged_missing_intervals(
        self, start: Any = None, end: Any = None, *args: Any, selected_snapshots: set[str] | None = None, **kwargs: Any
    ) -> SnapshotToIntervals:
        within_bounds = self._find_missing(start, end, *args, **kwargs)
        self.missing = missing = dict(within_bounds)
        if start or end:
            # The bounds limit the models that run. Their upstream models may lack more, within an interval that reaches
            # beyond the bounds. Without bounds, less may be found if no model has a start: SQLMesh then infers it from
            # the bounds. So the two answers are merged.
            for snapshot, intervals in self._find_missing(None, None, *args, **kwargs).items():
                missing[snapshot] = merge_intervals([*missing.get(snapshot, ()), *intervals])
        return {
            snapshot: intervals
            for snapshot, intervals in within_bounds.items()
            if selected_snapshots is None or snapshot.name in selected_snapshots
        }

    def batch_intervals(
        self, requested: SnapshotToIntervals, index: DeployabilityIndex | None, *args: Any, **kwargs: Any
    ) -> dict[Snapshot, Any]:
        nodes = self.picture(requested, index)
        reads, drops_rows = partial(tables_read, nodes=nodes), lambda name, found: nodes[name].drops_rows(found)
        leave_out_after_unready(self.scheduler, self.waiting.unready, reads, drops_rows)
        of_environment = self.scheduler.snapshots_by_name
        altered = _altered_since(requested, index or DeployabilityIndex.all_deployable(), of_environment)
        batches = self._batch({**self.ready(requested, nodes, index), **altered}, index, *args, **kwargs)
        # Once more: `batch` asks the signals, which may have taken the new ones.
        return _with_new_ones({node: batched for node, batched in batches.items() if node in requested}, nodes)

    def picture(self, requested: SnapshotToIntervals, index: DeployabilityIndex | None) -> dict[str, Node]:
        lacked = {snapshot.name: intervals for snapshot, intervals in self.missing.items()}
        index = index or DeployabilityIndex.all_deployable()
        return picture_of(requested, self.scheduler.snapshots_by_name, index, self.tables, lacked, self.now)

    def ready(
        self, requested: SnapshotToIntervals, nodes: Mapping[str, Node], index: DeployabilityIndex | None
    ) -> SnapshotToIntervals:
        """What of the requested intervals is not held back. Why the rest is goes into `waiting`."""
        decided = may_compute(nodes, self.tables.awaited, self.since)

        @cache
        def if_all() -> Mapping[str, Left]:
            of_all = may_compute(self.picture(dict(self.missing), index), self.tables.awaited, self.since)
            asked = {node.name: found for node, found in requested.items()}
            return {name: (list(subtract(left, asked.get(name, ()))), by) for name, (left, by) in of_all.items()}

        self.waiting.decide(nodes, {name: by for name, (_, by) in decided.items() if by}, if_all)
        left = {node: decided[node.name][0] if node.name in decided else found for node, found in requested.items()}
        return _with_new_ones(left, nodes)


def held_back_from(
    requested: SnapshotToIntervals,
    nodes: Mapping[str, Snapshot],
    index: DeployabilityIndex,
    tables: ExternalTables,
    pending: Mapping[str, Sequence[Interval]] = MappingProxyType({}),
    now: int | None = None,
    *,
    in_report: bool = False,
) -> dict[str, Left]:
    """By model, the requested intervals that are left if others are held back, and by which tables and models.

    Args:
        pending: What nodes lack, by name, also if it is not requested.
        now: As in `forget_and_hold_back`.
        in_report: As in `picture_of`.
    """
    if not (tables.awaited or pending):
        return {}
    lacked = {snapshot.name: tuple(intervals) for snapshot, intervals in requested.items()}
    add(lacked, pending)
    decided = may_compute(picture_of(requested, nodes, index, tables, lacked, now, in_report=in_report), tables.awaited)
    return {name: left for name, left in decided.items() if left[1]}


def picture_of(
    requested: SnapshotToIntervals,
    snapshots: Mapping[str, Snapshot],
    index: DeployabilityIndex,
    tables: ExternalTables,
    lacked: Mapping[str, Sequence[Interval]],
    now: int | None = None,
    *,
    in_report: bool = False,
) -> dict[str, Node]:
    """The requested nodes and those upstream of them, by name.

    Args:
        lacked: What each node lacks, by name, also if it is not requested.
        now: As in `forget_and_hold_back`.
        in_report: Whether it is for the report of a plan. A run may be computing then, and its rows be accepted before
            the plan is applied. So nothing waits for them here, and everything does when it is applied.
    """
    snapshots = {**snapshots, **{snapshot.name: snapshot for snapshot in requested}}
    parents = upstream(snapshots)
    names = reachable((of.name for of in requested), parents.__getitem__)

    @cache
    def due() -> Mapping[str, Sequence[Interval]]:
        # Of all nodes: one without a start of its own has that of its sources. Callers may not know what it lacks.
        return missing_now({name: snapshots[name] for name in names}, now)

    def picture_node(node: Snapshot) -> Node:
        return Node(
            node.name,
            parents[node.name],
            depends_on_past=lambda: node.depends_on_past,
            is_due=lambda: due().get(node.name, ()),
            awaits={node.name} if tables.awaited.get(node.name) else tables.awaited_by(node),
            requested=single_intervals(node, requested[node]) if node in requested else None,
            lacks=lacked.get(node.name, ()),
            computed=computed_intervals(node, index),
            forgotten=forgotten_intervals(node, index),
            has_table=has_table(node),
            shows_others=shows_others(node),
            is_by_interval=is_incremental(node),
            starts_with_all=not (node.is_incremental_by_time_range or shows_others(node) or node.is_seed),
            awaits_accepted=not in_report,
            lookback=(node.is_model and node.model.lookback) or 0,
            signals=tuple(name for name, _ in node.model.signals if name) if node.is_model else (),
        )

    return {name: picture_node(snapshots[name]) for name in names}


def has_signals(snapshot: Snapshot) -> bool:
    return snapshot.is_model and bool(snapshot.model.signals)


def _with_new_ones(
    ready: Mapping[Snapshot, list[Interval]], nodes: Mapping[str, Node]
) -> dict[Snapshot, list[Interval]]:
    """The same intervals or batches; none of a model whose new intervals wait."""
    return {of: found if brings_new(nodes[of.name], single_intervals(of, found)) else [] for of, found in ready.items()}


def _altered_since(
    requested: Iterable[Snapshot], index: DeployabilityIndex, by_name: Mapping[str, Snapshot]
) -> dict[Snapshot, list[Interval]]:
    """Parents without signals that do not run and are newer than a requested model: the last interval of each.

    SQLMesh's signal `freshness`, and any signal that uses `context.parent_intervals`, asks whether an upstream model is
    computed in the same run. An earlier attempt, an earlier step or a run of that model alone has computed it.
    """
    running = {snapshot.name: snapshot for snapshot in requested}
    last_intervals = {}
    for snapshot in filter(has_signals, running.values()):
        for parent in (by_name.get(parent.name) for parent in snapshot.parents if parent.name not in running):
            if parent is None or parent.is_symbolic or has_signals(parent):
                continue
            intervals = computed_intervals(parent, index)
            if intervals and (altered_at(parent, index) or 0) > (altered_at(snapshot, index) or 0):
                end = intervals[-1][1]
                last_intervals[parent] = [(end - parent.node.interval_unit.milliseconds, end)]
    return last_intervals
