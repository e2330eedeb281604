"""Hold back intervals whose data is still pending in an upstream model that does not run.

Theory of operation. A step runs exactly the requested models; SQLMesh alone would add all models upstream of them. If
an upstream model has pending intervals and does not run (as in a run of one model, in a retry, or in the second part of
a split step), its downstream models would be computed for these intervals without their source. SQLMesh would then
count the intervals as computed and never compute them again.

SQLMesh's scheduler calls two methods to find missing intervals and then to batch them. This module replaces both:

1. `merged_missing_intervals`, called without the selection, finds the missing intervals of all promoted models. The
   replacement returns those of the selected models and remembers the rest.
2. `batch_intervals`, for each requested model in the order of the graph: intervals that overlap with intervals pending
   upstream are held back (`_Availability`). Intervals held back from a model are held back from its downstream models
   too.

An interval counts as pending upstream if it is missing, not computed, and not part of this run. Intervals that are only
computed again, because of a `lookback` or because they are not over, hold nothing back. A model that runs within bounds
(`start`, `end`) may have pending intervals too: a daily downstream model needs the whole day.

Held back from a model are: the overlapping intervals; with `depends_on_past`, also all intervals after the first of
them (`without`), and after the first interval that is pending in the model itself (`_behind_own`); all intervals of a
model that reads whole tables, if an upstream table has lost older rows (`_rows_lost`); with a `lookback`, also
newer intervals that would compute a held-back interval again (`within_lookback`). If a newer interval were computed,
SQLMesh would never ask for the older interval.

An external table that an asset of Dagster loads counts as pending for the ranges that are not loaded yet (`sources`).

A table that is up to date by its own cron holds nothing back, whatever its sources lack: it will not change before its
next tick. So a daily model does not wait for the running week of a weekly one.

Invariants: no interval is computed while a table that it reads, also through views, lacks it. A model whose tables lack
nothing is computed as SQLMesh would compute it. Every held-back interval is reported (`held_back_by`) with the nearest
models that lack it: the outcome is then `waiting`, or `executed` with these models named. tests/soak/random_subsets.py
counts rows.

A signal may also look at models that do not run: see `_altered_since`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

from sqlmesh.core.scheduler import Scheduler, SnapshotToIntervals
from sqlmesh.core.snapshot import DeployabilityIndex, Snapshot
from sqlmesh.core.snapshot.definition import Interval, merge_intervals

from dg_sqlmesh_component.protocol.graph import parents_first, reachable
from dg_sqlmesh_component.protocol.intervals import add, common, merged, subtract, without
from dg_sqlmesh_component.protocol.messages import FOREVER, HeldBackBy
from dg_sqlmesh_component.worker.environment import has_table
from dg_sqlmesh_component.worker.intervals.forgotten import forget_before_computing
from dg_sqlmesh_component.worker.intervals.known import ExternalTables
from dg_sqlmesh_component.worker.intervals.tables import (
    altered_at,
    computed_intervals,
    is_incremental,
    missing_now,
    shows_others,
    single_intervals,
    tables_read,
    upstream,
)
from dg_sqlmesh_component.worker.sqlmesh_internals import leave_out_after_unready, replace_intervals

Left = tuple[list[Interval], HeldBackBy]
"""The intervals that a requested model may compute, and what holds back the others."""


@dataclass(frozen=True)
class HeldBack:
    """What a scheduler holds back."""

    # Finds which of the missing intervals of requested models are not held back. It evaluates no signals.
    find_ready: Callable[[SnapshotToIntervals, DeployabilityIndex | None], SnapshotToIntervals]
    by: Mapping[str, HeldBackBy]  # by model, what lacks the held-back intervals; empty until SQLMesh batches intervals


def forget_and_hold_back(
    scheduler: Scheduler,
    tables: ExternalTables,
    report_forgotten: Callable[[str, Sequence[Interval]], None],
    pending: Mapping[str, Sequence[Interval]] = MappingProxyType({}),
    now: int | None = None,
    unready: dict[str, Set[Interval]] | None = None,
) -> HeldBack:
    """Let the scheduler find forgotten intervals, and hold back intervals whose source is pending or not loaded.

    It is one answer for a run, a dry run, a tick of a schedule and a plan. A run and a plan leave it to SQLMesh to find
    the missing intervals and to batch them. A dry run and a tick do so themselves (`find_missing`).

    Signals of models that do not run are not checked: they may now report a model as ready that was not ready when it
    ran.

    Args:
        pending: What each node lacks, by name: a plan does not ask the scheduler.
        now: The instant of the run in epoch milliseconds, if it is not that of the clock.
        unready: When SQLMesh has batched intervals, it has those that signals hold back, by name.
    """
    forget_before_computing(scheduler, report_forgotten)
    held_back_by: dict[str, HeldBackBy] = {}
    find_missing, batch = scheduler.merged_missing_intervals, scheduler.batch_intervals
    nodes = scheduler.snapshots_by_name  # a stage that only audits has those that it audits
    missing = {nodes[name]: list(intervals) for name, intervals in pending.items() if name in nodes}

    def merged_missing_intervals(
        start: Any = None, end: Any = None, *args: Any, selected_snapshots: set[str] | None = None, **kwargs: Any
    ) -> SnapshotToIntervals:
        within_bounds = find_missing(start, end, *args, **kwargs)
        missing.clear()
        missing.update(within_bounds)
        if start or end:
            # The bounds limit the models that run. Their upstream models may lack more, within an interval that reaches
            # beyond the bounds. Without bounds, less may be found if no model has a start: SQLMesh then infers it from
            # the bounds. So the two answers are merged.
            for snapshot, intervals in find_missing(None, None, *args, **kwargs).items():
                missing[snapshot] = merge_intervals([*missing.get(snapshot, ()), *intervals])
        return {
            snapshot: intervals
            for snapshot, intervals in within_bounds.items()
            if selected_snapshots is None or snapshot.name in selected_snapshots
        }

    def find_ready(requested: SnapshotToIntervals, index: DeployabilityIndex | None) -> SnapshotToIntervals:
        nodes, index_or_all = scheduler.snapshots_by_name, index or DeployabilityIndex.all_deployable()
        lacked = {snapshot.name: intervals for snapshot, intervals in missing.items()}
        available = _Availability(nodes, index_or_all, tables, requested, lacked, now)
        remaining = available.remaining()
        held_back_by.clear()
        held_back_by.update({snapshot.name: by for snapshot, (_, by) in remaining.items() if by})
        ready = {**requested, **{snapshot: left for snapshot, (left, _) in remaining.items()}}
        return _with_new_ones(ready, requested, index_or_all)

    def batch_intervals(
        requested: SnapshotToIntervals, index: DeployabilityIndex | None, *args: Any, **kwargs: Any
    ) -> dict[Snapshot, Any]:
        leave_out_after_unready(scheduler, {} if unready is None else unready)
        altered = _altered_since(requested, index or DeployabilityIndex.all_deployable(), scheduler.snapshots_by_name)
        batches = batch({**find_ready(requested, index), **altered}, index, *args, **kwargs)
        of_requested = {snapshot: batched for snapshot, batched in batches.items() if snapshot in requested}
        return _with_new_ones(of_requested, requested, index or DeployabilityIndex.all_deployable())

    replace_intervals(scheduler, merged_missing_intervals, batch_intervals)
    return HeldBack(find_ready, held_back_by)


def held_back_from(
    requested: SnapshotToIntervals,
    nodes: Mapping[str, Snapshot],
    index: DeployabilityIndex,
    tables: ExternalTables,
    pending: Mapping[str, Sequence[Interval]] = MappingProxyType({}),
    now: int | None = None,
) -> dict[str, Left]:
    """By model, the requested intervals that are left if others are held back, and by which tables and models.

    Args:
        pending: What nodes lack, by name, also if it is not requested.
        now: As in `forget_and_hold_back`.
    """
    if not (tables.awaited or pending):
        return {}
    lacked = {snapshot.name: tuple(intervals) for snapshot, intervals in requested.items()}
    add(lacked, pending)
    remaining = _Availability(nodes, index, tables, requested, lacked, now).remaining()
    return {snapshot.name: (left, by) for snapshot, (left, by) in remaining.items() if by}


def has_signals(snapshot: Snapshot) -> bool:
    return snapshot.is_model and bool(snapshot.model.signals)


def _with_new_ones(
    ready: Mapping[Snapshot, list[Interval]], requested: SnapshotToIntervals, index: DeployabilityIndex
) -> dict[Snapshot, list[Interval]]:
    """The same intervals or batches; none of a model if only its `lookback` asks for them, because the new ones wait.

    Otherwise each run would compute them again until the new ones are ready.
    """
    again = _computed_again(requested, index)

    def is_new(snapshot: Snapshot, intervals: Iterable[Interval]) -> bool:
        return not again[snapshot.name].issuperset(single_intervals(snapshot, intervals))

    return {
        snapshot: intervals
        if snapshot.name not in again or is_new(snapshot, intervals) or not is_new(snapshot, requested[snapshot])
        else []
        for snapshot, intervals in ready.items()
    }


def _computed_again(requested: SnapshotToIntervals, index: DeployabilityIndex) -> dict[str, set[Interval]]:
    """The intervals that models with a `lookback` compute although they are computed, by model."""
    again = {}
    for snapshot, intervals in requested.items():
        if snapshot.is_model and snapshot.model.lookback:
            done = computed_intervals(snapshot, index)
            again[snapshot.name] = {
                interval for interval in single_intervals(snapshot, intervals) if not subtract([interval], done)
            }
    return again


def within_lookback(
    intervals: Sequence[Interval], again: Set[Interval], denied: Set[Interval], lookback: int
) -> set[Interval]:
    """The held-back intervals, and the newer intervals whose `lookback` would compute a held-back interval again.

    If the newer intervals were computed, SQLMesh would no longer compute the held-back interval.

    Args:
        intervals: Single intervals of the model, in order.
        again: Those that are computed already, and that a `lookback` computes again.
        denied: Those that are held back.
    """
    all_denied, last = set(denied), -1
    for position, interval in enumerate(intervals):
        if position <= last:
            all_denied.add(interval)
        if interval in all_denied and interval in again:
            last = position + lookback
    return all_denied


@dataclass
class _Availability:
    """Which intervals requested models may compute, because everything that they read is there.

    `remaining` visits models upstream of the requested ones, then these, parents first. Intervals held back from a
    model are held back from its downstream models too. They may be more than the intervals pending upstream: a whole
    day because of one hour, or everything after a gap.
    """

    nodes: Mapping[str, Snapshot]
    index: DeployabilityIndex
    tables: ExternalTables
    requested: SnapshotToIntervals
    # What each node lacks before this run. A restatement also requests intervals that are computed.
    lacked: Mapping[str, Sequence[Interval]]
    now: int | None = None  # as in `forget_and_hold_back`

    def __post_init__(self) -> None:
        self._running = {snapshot.name: snapshot for snapshot in self.requested}
        self._again = _computed_again(self.requested, self.index)
        self._parents = upstream(self.nodes)
        self._lacking: dict[str, Sequence[Interval]] = {}
        """By visited node, the intervals for which its source is not there."""
        self._handed_on: dict[str, Sequence[Interval]] = {}
        """By visited node, the intervals for which its downstream models lack it."""
        self._unloaded: dict[str, Sequence[Interval]] = {}
        """By visited node, the ranges for which tables that it reads are not loaded, also through views."""
        self._nearest: dict[str, Set[str]] = {}
        """By visited node, the nearest pending models and awaited tables upstream."""

    @cached_property
    def pending(self) -> dict[str, Sequence[Interval]]:
        """What each model lacks and does not compute in this run."""
        pending = {}
        for name, intervals in self.lacked.items():
            node = self.nodes[name]
            if has_table(node):
                lacks = subtract(intervals, [*computed_intervals(node, self.index), *self._requested(name)])
                pending[name] = lacks if self._requested(name) else self._with_first_rows(node, lacks)
        return {name: intervals for name, intervals in pending.items() if intervals}

    def remaining(self) -> dict[Snapshot, Left]:
        """What each requested model downstream of a pending model or an awaited table may compute."""
        remaining: dict[Snapshot, Left] = {}
        if not self.pending and not any(self.tables.awaited.values()):
            return remaining
        for name in parents_first(self._running, self._parents.__getitem__):
            not_loaded = self._not_loaded(name)
            self._look_upstream(name, not_loaded)
            if name in self._running and (self._lacking[name] or not_loaded or name in self.pending):
                remaining[self._running[name]] = self._held_back(name, self._rows_lost(name))
            self._hand_on(name, not_loaded)
        return remaining

    def _with_first_rows(self, node: Snapshot, lacks: Sequence[Interval]) -> Sequence[Interval]:
        """What a node lacks that does not run now, with everything before if its table is still empty.

        Unless its rows are those of its intervals, the first computation brings rows of any time. SQLMesh has loaded
        the rows of a seed before.
        """
        is_by_time = node.is_model and node.model_kind_name.is_incremental_by_time_range
        if not lacks or computed_intervals(node, self.index) or is_by_time or shows_others(node) or node.is_seed:
            return lacks
        return [(0, lacks[-1][1])]

    def _requested(self, name: str) -> Sequence[Interval]:
        return self.requested[self._running[name]] if name in self._running else ()

    def _not_loaded(self, name: str) -> Sequence[Interval]:
        """The ranges for which a node itself waits. An external table with audits is a node too: its audits wait."""
        return self.tables.awaited.get(name) or self.tables.not_loaded(self.nodes[name])

    def _look_upstream(self, name: str, not_loaded: Sequence[Interval]) -> None:
        parents = self._parents[name]
        read = {name} if self.tables.awaited.get(name) else self.tables.awaited_by(self.nodes[name])
        self._nearest[name] = frozenset(read).union(*map(self._nearest_through, parents))
        self._lacking[name] = merged(interval for parent in parents for interval in self._handed_on[parent])
        views = [parent for parent in parents if shows_others(self.nodes[parent])]
        self._unloaded[name] = merged([*not_loaded, *(found for view in views for found in self._unloaded[view])])

    def _nearest_through(self, parent: str) -> Set[str]:
        """The nearest pending models through a parent. Its own pending intervals hide those further upstream."""
        if parent not in self.pending:
            return self._nearest[parent] if self._handed_on[parent] else frozenset()
        lacks_more = subtract(self._handed_on[parent], self.pending[parent])
        return {parent, *self._nearest[parent]} if lacks_more else {parent}

    def _held_back(self, name: str, rows_lost: Set[str]) -> Left:
        """The single intervals that a requested model may compute, and what holds back the others."""
        snapshot = self._running[name]
        single = single_intervals(snapshot, self._requested(name))
        behind_own = self._behind_own(name, single)
        denied = set(single) if rows_lost else {*behind_own, *set(single).difference(self._possible(name, single))}
        if name in self._again:
            denied = within_lookback(single, self._again[name], denied, snapshot.model.lookback)
        if not denied:
            return single, HeldBackBy()
        lacks = self._with_first_rows(snapshot, sorted(denied)) if denied.issuperset(single) else sorted(denied)
        self._handed_on[name] = lacks
        own = {name} if behind_own else set()
        by = self._concerned(name, sorted(denied)) | rows_lost | own or self._nearest[name]
        tables = by & self.tables.awaited.keys()
        reads = merged(denied) if is_incremental(snapshot) or shows_others(snapshot) else ((0, max(denied)[1]),)
        held_back_by = HeldBackBy(tuple(sorted(by - tables)), tuple(sorted(tables)), reads)
        return [interval for interval in single if interval not in denied], held_back_by

    def _concerned(self, name: str, denied: Sequence[Interval]) -> Set[str]:
        """The nearest models and tables that lack one of these intervals."""
        lacked = {**self.tables.awaited, **self.pending}
        return {of for of in self._nearest[name] if without(lacked[of], denied, uninterrupted=False) != [*lacked[of]]}

    def _hand_on(self, name: str, not_loaded: Sequence[Interval]) -> None:
        """Note what downstream models lack. A view shows its sources as they are now.

        A table that is up to date by its own cron lacks nothing: it would not change if its sources were there. The
        downstream models of an awaited table wait for the table themselves.
        """
        node = self.nodes[name]
        sources_lack = merged([*self._lacking[name], *not_loaded])
        if sources_lack and not shows_others(node):
            # Without a start of its own, it begins with its sources. Callers may not know what it lacks.
            read = {name} if node.node.start else reachable({name}, self._parents.__getitem__)
            sources_lack = common(
                sources_lack, missing_now({of: self.nodes[of] for of in read}, self.now).get(name, ())
            )
        lacks = merged([*self.pending.get(name, ()), *self._handed_on.get(name, ()), *sources_lack])
        self._handed_on[name] = () if self.tables.awaited.get(name) else lacks

    def _possible(self, name: str, single: list[Interval]) -> list[Interval]:
        """The single intervals for which everything is there."""
        snapshot, unloaded = self._running[name], self._unloaded[name]
        if unloaded and not (is_incremental(snapshot) or shows_others(snapshot)):
            # A computation of a whole table reads all rows, also those that are refused or half loaded.
            shown = merged([*computed_intervals(snapshot, self.index), *snapshot.pending_restatement_intervals])
            unloaded = [(unloaded[0][0], FOREVER)]
            if common(unloaded, shown) or self._has_hole(name, single):
                single = []
        taken = merged([*self._lacking[name], *unloaded])
        possible = without(single, taken, uninterrupted=False)
        if possible == single[: len(possible)]:
            return possible  # SQLMesh renders a query to find out whether the model depends on its past
        return without(single, taken, uninterrupted=snapshot.depends_on_past)

    def _has_hole(self, name: str, single: Sequence[Interval]) -> bool:
        """Whether a table that a node reads is not loaded for a range before their end, and loaded for a later one."""
        views = {read for read in tables_read(name, self.nodes, self._parents) if shows_others(self.nodes[read])}
        tables = {table for node in (name, *views) for table in self.tables.awaited_by(self.nodes[node])}
        not_loaded = (self.tables.awaited[table] for table in tables)
        return any(len(ranges) > 1 and ranges[0][0] < end for ranges in not_loaded for _, end in single[-1:])

    def _behind_own(self, name: str, single: Sequence[Interval]) -> Set[Interval]:
        """The single intervals that would be computed before an older one of the model, although it depends on it."""
        snapshot, pending = self._running[name], self.pending.get(name)
        newer = {interval for interval in single if pending and interval[0] >= pending[0][0]}
        return newer if newer and is_incremental(snapshot) and snapshot.depends_on_past else frozenset()

    def _rows_lost(self, name: str) -> Set[str]:
        """The tables that a model reads as a whole, and that lack rows which are computed again: they are marked.

        The model would lose these rows too, although its own intervals are newer.
        """
        marked = {of: self.nodes[of].pending_restatement_intervals for of in self.pending}
        forgotten = {of for of, intervals in marked.items() if common(intervals, self.pending[of])}
        node = self.nodes[name]
        has_rows = altered_at(node, self.index) or node.pending_restatement_intervals
        if not (forgotten and has_rows and node.is_model) or node.is_view or is_incremental(node):
            return frozenset()
        return tables_read(name, self.nodes, self._parents) & forgotten


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
