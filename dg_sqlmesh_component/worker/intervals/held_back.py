"""Hold back intervals whose data is still pending in an upstream model that does not run.

Theory of operation. A step runs exactly the requested models; SQLMesh alone would add all models upstream of them. If
an upstream model has pending intervals and does not run (as in a run of one model, in a retry, or in the second part of
a split step), its downstream models would be computed for these intervals without their source. SQLMesh would then
count the intervals as computed and never compute them again.

SQLMesh's scheduler calls two methods to find missing intervals and then to batch them. This module replaces both:

1. `merged_missing_intervals`, called without the selection, finds the missing intervals of all promoted models. The
   replacement returns those of the selected models and remembers the rest.
2. `batch_intervals`, for each requested model in the order of the graph: intervals that overlap with intervals pending
   upstream are held back (`_remaining`). Intervals held back from a model are held back from its downstream models too.

An interval counts as pending upstream if it is missing, not computed, and not part of this run. Intervals that are only
computed again, because of a `lookback` or because they are not over, hold nothing back. A model that runs within bounds
(`start`, `end`) may have pending intervals too: a daily downstream model needs the whole day.

Held back from a model are: the overlapping intervals; with `depends_on_past`, also all intervals after the first of
them (`without`), and after the first interval that is pending in the model itself (`_behind_own`); all intervals of a
model that reads whole tables, if an upstream table has lost older rows (`_forgotten_upstream`); with a `lookback`, also
newer intervals that would compute a held-back interval again (`within_lookback`). If a newer interval were computed,
SQLMesh would never ask for the older interval.

An external table that an asset of Dagster loads counts as pending for the ranges that are not loaded yet (`sources`). A
model that has computed such a range before does not hand it on.

Invariants: no interval is computed while its source is pending anywhere upstream. A model without pending intervals
upstream is computed as SQLMesh would compute it. Every held-back interval is reported (`held_back_by`) with the nearest
models that lack it: the outcome is then `waiting`, or `executed` with these models named. tests/soak/random_subsets.py
counts rows.

A signal may also look at models that do not run: see `_altered_since`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence, Set
from graphlib import TopologicalSorter
from itertools import pairwise
from types import MappingProxyType
from typing import Any

from sqlmesh.core.scheduler import Scheduler, SnapshotToIntervals
from sqlmesh.core.snapshot import DeployabilityIndex, Snapshot
from sqlmesh.core.snapshot.definition import Interval, expand_range, merge_intervals

from dg_sqlmesh_component.protocol.graph import reachable
from dg_sqlmesh_component.protocol.intervals import common, subtract, without
from dg_sqlmesh_component.protocol.messages import FOREVER
from dg_sqlmesh_component.worker.intervals.forgotten import forgotten_intervals
from dg_sqlmesh_component.worker.intervals.known import ExternalTables, lost_to_readers
from dg_sqlmesh_component.worker.intervals.tables import altered_at, computed_intervals, is_incremental, upstream
from dg_sqlmesh_component.worker.sqlmesh_internals import leave_out_after_unready, replace_intervals

FindReady = Callable[[SnapshotToIntervals, DeployabilityIndex | None], SnapshotToIntervals]
"""Finds which of the missing intervals of requested models are not held back."""

HeldBackBy = MutableMapping[str, Set[str]]
"""By model with held-back intervals, the nearest upstream models and tables that lack them.

A model that depends on its past may be held back by itself.
"""


def hold_back_pending_upstream(
    scheduler: Scheduler,
    held_back_by: HeldBackBy,
    tables: ExternalTables,
    pending: Mapping[str, Sequence[Interval]] = MappingProxyType({}),
) -> FindReady:
    """Make the scheduler hold back intervals that are pending in upstream models which do not run, or not loaded yet.

    Signals of models that do not run are not checked: they may now report a model as ready that was not ready when it
    ran.

    Args:
        held_back_by: Gets the models with held-back intervals.
        pending: What each node lacks, by name. A plan does not ask the scheduler.
    """
    find_missing, batch = scheduler.merged_missing_intervals, scheduler.batch_intervals
    missing = {scheduler.snapshots_by_name[name]: list(intervals) for name, intervals in pending.items()}

    def merged_missing_intervals(
        start: Any = None,
        end: Any = None,
        *args: Any,
        selected_snapshots: set[str] | None = None,
        **kwargs: Any,
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
        index_or_all = index or DeployabilityIndex.all_deployable()
        pending = {
            snapshot.name: intervals
            for snapshot in missing
            if snapshot.is_model
            and not snapshot.is_symbolic
            and (intervals := subtract(missing[snapshot], _not_pending(snapshot, requested, index_or_all)))
        }
        lacked = {snapshot.name: intervals for snapshot, intervals in missing.items()}
        remaining = _remaining(requested, pending, lacked, tables, index_or_all, scheduler)
        held_back_by.update({snapshot.name: by for snapshot, (_, by) in remaining.items() if by})
        ready = {**requested, **{snapshot: left for snapshot, (left, _) in remaining.items()}}
        return _with_new_ones(ready, requested, index_or_all)

    def batch_intervals(
        requested: SnapshotToIntervals, index: DeployabilityIndex | None, *args: Any, **kwargs: Any
    ) -> dict[Snapshot, Any]:
        leave_out_after_unready(scheduler)
        altered = _altered_since(requested, index or DeployabilityIndex.all_deployable(), scheduler.snapshots_by_name)
        batches = batch({**find_ready(requested, index), **altered}, index, *args, **kwargs)
        of_requested = {snapshot: batched for snapshot, batched in batches.items() if snapshot in requested}
        return _with_new_ones(of_requested, requested, index or DeployabilityIndex.all_deployable())

    replace_intervals(scheduler, merged_missing_intervals, batch_intervals)
    return find_ready


def held_back_from(
    requested: SnapshotToIntervals, scheduler: Scheduler, index: DeployabilityIndex, tables: ExternalTables
) -> dict[str, tuple[list[Interval], Set[str]]]:
    """By model, the requested intervals that are left if awaited tables hold back others, and these tables."""
    lacked = {snapshot.name: intervals for snapshot, intervals in requested.items()}
    remaining = _remaining(requested, {}, lacked, tables, index, scheduler)
    return {snapshot.name: (left, by) for snapshot, (left, by) in remaining.items() if by}


def _not_pending(snapshot: Snapshot, requested: SnapshotToIntervals, index: DeployabilityIndex) -> Sequence[Interval]:
    """What a model has computed, and what this run computes."""
    return merge_intervals([*computed_intervals(snapshot, index), *requested.get(snapshot, ())])


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
        return not again[snapshot.name].issuperset(_single(intervals, snapshot))

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
                interval for interval in _single(intervals, snapshot) if not subtract([interval], done)
            }
    return again


def _single(intervals: Iterable[Interval], snapshot: Snapshot) -> list[Interval]:
    """Longer intervals, split into the single intervals of the model."""
    bounds = [expand_range(start, end, snapshot.node.interval_unit) for start, end in intervals]
    return [pair for instants in bounds for pair in pairwise(instants)]


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


def _remaining(
    requested: SnapshotToIntervals,
    pending: Mapping[str, Sequence[Interval]],
    lacked: Mapping[str, Sequence[Interval]],
    tables: ExternalTables,
    index: DeployabilityIndex,
    scheduler: Scheduler,
) -> dict[Snapshot, tuple[list[Interval], Set[str]]]:
    """What each requested model downstream of a pending model or an awaited table may compute, and what holds it back.

    Intervals held back from a model are held back from its downstream models too. They may be more than the intervals
    pending upstream: a whole day because of one hour, or everything after a gap.

    Args:
        pending: What each model lacks and does not compute in this run.
        lacked: What each model lacks before this run. A restatement also requests what it does not lack.
    """
    sources = tables.awaited
    if not pending and not any(sources.values()):
        return {}
    all_pending = {**sources, **pending}
    by_name = scheduler.snapshots_by_name
    running = {snapshot.name: snapshot for snapshot in requested}
    again = _computed_again(requested, index)
    forgotten = forgotten_intervals(map(by_name.__getitem__, pending), index, scheduler.state_sync) if pending else ()
    with_rows = [node for node in requested if altered_at(node, index) or node.pending_restatement_intervals]
    forgotten_upstream = _forgotten_upstream(with_rows, {snapshot.name for snapshot in forgotten}, by_name)
    remaining: dict[Snapshot, tuple[list[Interval], Set[str]]] = {}
    nearest: dict[str, frozenset[str]] = {}
    lacking: dict[str, list[Interval]] = {}  # by model, the intervals for which its source is not there
    unloaded: dict[str, list[Interval]] = {}  # by model, the ranges for which tables that it reads are not loaded
    parents_of = upstream(by_name)
    graph = {name: parents_of[name] for name in reachable(running, parents_of.__getitem__)}
    for name in TopologicalSorter(graph).static_order():
        # An external table with audits is a node too. Its audits wait, and its readers wait for the table themselves.
        of_table = sources.get(name, ())
        parents, read = graph[name], {name} if of_table else tables.awaited_by(by_name[name])
        nearest[name] = frozenset(read).union(*(_nearest(parent, nearest, lacking, pending) for parent in parents))
        lacking[name] = merge_intervals(
            [interval for parent in parents for interval in (*lacking[parent], *pending.get(parent, ()))]
        )
        not_loaded = of_table or tables.not_loaded(by_name[name])
        views = [parent for parent in parents if by_name[parent].is_view or by_name[parent].is_symbolic]
        unloaded[name] = merge_intervals([*not_loaded, *(found for view in views for found in unloaded[view])])
        if name in running and (lacking[name] or not_loaded or name in pending):
            snapshot = running[name]
            single = _single(requested[snapshot], snapshot)
            done = subtract([*computed_intervals(snapshot, index), *single], lacked.get(name, ()))
            possible = _possible(snapshot, single, lacking[name], unloaded[name], done)
            behind_own = _behind_own(snapshot, single, pending.get(name, ()))
            denied = set(single) if name in forgotten_upstream else set(single) - set(possible) | behind_own
            if name in again:
                denied = within_lookback(single, again[name], denied, snapshot.model.lookback)
            held_back_by: Set[str] = frozenset()
            if denied:
                concerned = {
                    source
                    for source in nearest[name]
                    if without(all_pending[source], sorted(denied), uninterrupted=False) != list(all_pending[source])
                }
                own = {name} if behind_own else set()
                held_back_by = concerned | forgotten_upstream.get(name, set()) | own or nearest[name]
                lacking[name] = merge_intervals([*lacking[name], *denied])
            remaining[snapshot] = [interval for interval in single if interval not in denied], held_back_by
        lost = lost_to_readers(by_name[name], not_loaded, index)
        lacking[name] = [] if of_table else merge_intervals([*lacking[name], *lost])
    return remaining


def _possible(
    snapshot: Snapshot,
    single: list[Interval],
    lacking: Sequence[Interval],
    unloaded: Sequence[Interval],
    done: Sequence[Interval],
) -> list[Interval]:
    """The single intervals for which everything is there.

    Args:
        done: What the model has computed before this run.
    """
    if unloaded and not (is_incremental(snapshot) or snapshot.is_view or snapshot.is_symbolic):
        # A computation of a whole table reads all rows, so it needs everything before its end.
        unloaded = [(unloaded[0][0], FOREVER)]
        if common(unloaded, done):
            return []  # its rows are there, and it would read those that are refused or loaded again
    taken = merge_intervals([*lacking, *unloaded])
    possible = without(single, taken, uninterrupted=False)
    if possible == single[: len(possible)]:
        return possible  # SQLMesh renders a query to find out whether the model depends on its past
    return without(single, taken, uninterrupted=snapshot.depends_on_past)


def _behind_own(snapshot: Snapshot, single: Sequence[Interval], pending: Sequence[Interval]) -> set[Interval]:
    """The single intervals that would be computed before an older one of the model, although it depends on its past.

    Args:
        pending: What the model lacks and does not compute in this run.
    """
    newer = {interval for interval in single if pending and interval[0] >= pending[0][0]}
    return newer if newer and is_incremental(snapshot) and snapshot.depends_on_past else set()


def _forgotten_upstream(
    requested: Iterable[Snapshot], forgotten: Set[str], by_name: Mapping[str, Snapshot]
) -> dict[str, set[str]]:
    """By model that reads whole tables, the tables that lack rows because of a `lookback` that did not finish.

    The model would lose these rows too, although its own intervals are newer.
    """
    parents_of = upstream(by_name)

    def behind_view(name: str) -> Sequence[str]:
        return parents_of[name] if by_name[name].is_view or by_name[name].is_symbolic else ()

    readers = [node.name for node in requested if node.is_model and not node.is_view and not is_incremental(node)]
    found = {name: reachable(parents_of[name], behind_view) & forgotten for name in readers}
    return {name: tables for name, tables in found.items() if tables}


def _nearest(
    parent: str,
    nearest: Mapping[str, frozenset[str]],
    lacking: Mapping[str, list[Interval]],
    pending: Mapping[str, Sequence[Interval]],
) -> Set[str]:
    """The nearest pending models through a parent. Its own pending intervals hide those further upstream."""
    if parent not in pending:
        return nearest[parent]
    return {parent, *nearest[parent]} if subtract(lacking[parent], pending[parent]) else {parent}


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
