"""Pending intervals of models upstream that a run leaves out: what the run computes waits for them.

Theory of operation. A step runs exactly the models that it was asked for; SQLMesh alone would add everything upstream
of them. If a model upstream has pending intervals and is not in the run, its downstream models would be computed for
these intervals without their source, and never again, because SQLMesh then counts them as done.

Between finding what is missing and batching it, the scheduler asks two methods that this module replaces:

1. `merged_missing_intervals`, without the selection: what is missing of all promoted models. Only what was selected is
   returned; the rest is remembered.
2. `batch_intervals`: for each requested model, in the order of the graph, its intervals are held back that overlap
   with what is missing upstream (`_left`). What a model is denied, its own downstream models are denied too.

What counts as missing upstream: what is missing beyond what is computed (`_beyond`). What is only computed again,
because of a `lookback` or of an interval that is not over, holds nothing back.

What is held back of a model: the overlapping intervals; with `depends_on_past`, also everything after the first of
them (`without`); with a `lookback`, also newer intervals for which a denied one would be computed again
(`within_lookback`): once they were computed, SQLMesh would never ask for the older one.

Invariants: no interval is computed whose source is missing anywhere upstream; what nothing upstream concerns is
computed as SQLMesh would; whatever is held back is reported (`holds_back`) with the nearest models that lack it, so
that the outcome is `waiting`, or `executed` with the rest named. tests/soak/random_subsets.py counts rows.

Models that do not run may also be what a signal looks at: `_altered_since`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from graphlib import TopologicalSorter
from itertools import pairwise
from typing import Any

from sqlmesh.core.scheduler import Scheduler, SnapshotToIntervals
from sqlmesh.core.snapshot import DeployabilityIndex, Snapshot
from sqlmesh.core.snapshot.definition import Interval, expand_range, merge_intervals

from dg_sqlmesh_component.protocol.graph import reachable
from dg_sqlmesh_component.worker.evaluate.audits import altered_at, computed
from dg_sqlmesh_component.worker.sqlmesh_internals import replace_intervals


def mind_unselected_upstream(scheduler: Scheduler, holds_back: Callable[[str, Set[str]], None]) -> None:
    """Have what runs mind models upstream of it that do not run.

    SQLMesh adds to a selection all that is upstream of it, which a step must not. What reads a model that does not run
    (in a run of one model, a retry, the second part of a split step) would be computed for intervals whose source is
    not there yet, and never again. So it waits for whatever upstream is due and not computed: it is computed as far as
    that is. Signals of what does not run are not asked: they may say by now that a model is ready, which it was not
    when it ran.

    Args:
        holds_back: Is told each model that is denied an interval, and the nearest models upstream that are due.
    """
    find_missing, batch = scheduler.merged_missing_intervals, scheduler.batch_intervals
    missing: dict[Snapshot, list[Interval]] = {}

    def merged_missing_intervals(
        start: Any = None,
        end: Any = None,
        *args: Any,
        selected_snapshots: set[str] | None = None,
        **kwargs: Any,
    ) -> SnapshotToIntervals:
        found = find_missing(start, end, *args, **kwargs)
        missing.clear()
        missing.update(found)
        if start or end:
            # The bounds are of what is to run. What it reads may lack more, within an interval that reaches beyond
            # them; and less is found without them where no model says its start, which SQLMesh infers from them.
            for snapshot, intervals in find_missing(None, None, *args, **kwargs).items():
                missing[snapshot] = merge_intervals([*missing.get(snapshot, ()), *intervals])
        return {s: one for s, one in found.items() if selected_snapshots is None or s.name in selected_snapshots}

    def batch_intervals(
        requested: SnapshotToIntervals, index: DeployabilityIndex | None, *args: Any, **kwargs: Any
    ) -> dict[Snapshot, Any]:
        index_or_all = index or DeployabilityIndex.all_deployable()
        due = {
            one.name: found
            for one in missing.keys() - requested.keys()
            if one.is_model and not one.is_symbolic and (found := _beyond(missing[one], computed(one, index_or_all)))
        }
        again = _computed_again(requested, index_or_all) if due else {}
        left = {**requested, **_left(requested, due, again, scheduler, holds_back)}
        altered = _altered_since(requested, index_or_all, scheduler.snapshots_by_name)
        batches = batch({**left, **altered}, index, *args, **kwargs)
        return {snapshot: found for snapshot, found in batches.items() if snapshot in requested}

    replace_intervals(scheduler, merged_missing_intervals, batch_intervals)


def _has_signals(snapshot: Snapshot) -> bool:
    return snapshot.is_model and bool(snapshot.model.signals)


def _beyond(intervals: Iterable[Interval], covered: Sequence[Interval]) -> list[Interval]:
    """The parts of intervals that lie in none of those that are covered, which are in order and apart.

    What is missing beyond what is computed is all but what is computed once more: behind a `lookback`, or of an
    interval that is not over.
    """
    left = []
    for start, end in intervals:
        for covered_from, covered_to in covered:
            if start < covered_to and covered_from < end:
                if start < covered_from:
                    left.append((start, covered_from))
                start = covered_to
        if start < end:
            left.append((start, end))
    return left


def _computed_again(requested: SnapshotToIntervals, index: DeployabilityIndex) -> dict[str, set[Interval]]:
    """What models with a `lookback` are to compute although they have it."""
    found = {}
    for snapshot, intervals in requested.items():
        if snapshot.is_model and snapshot.model.lookback:
            done = computed(snapshot, index)
            found[snapshot.name] = {one for one in _expanded(intervals, snapshot) if not _beyond([one], done)}
    return found


def _expanded(intervals: Iterable[Interval], snapshot: Snapshot) -> list[Interval]:
    """The single intervals of a model that longer ones are made of."""
    bounds = [expand_range(start, end, snapshot.node.interval_unit) for start, end in intervals]
    return [pair for one in bounds for pair in pairwise(one)]


def without(intervals: Iterable[Interval], taken: Sequence[Interval], *, uninterrupted: bool) -> list[Interval]:
    """The intervals that none of `taken` overlaps, which are in order and apart.

    SQLMesh's own `interval_diff` errs where the two are of different units: an hour taken from one day took the days
    behind it as well, or nothing.

    Args:
        uninterrupted: Leave out everything behind the first overlap.
    """
    ends = [end for _, end in taken]
    left = []
    for start, end in intervals:
        following = bisect_right(ends, start)
        if following == len(taken) or taken[following][0] >= end:
            left.append((start, end))
        elif uninterrupted:
            break
    return left


def within_lookback(
    intervals: Sequence[Interval], again: Set[Interval], denied: Set[Interval], lookback: int
) -> set[Interval]:
    """What is denied beside: newer intervals, for which one of `again` is computed once more, where that is denied.

    Once they were computed, it would not be due any more.
    """
    all_denied, last = set(denied), -1
    for position, one in enumerate(intervals):
        if position <= last:
            all_denied.add(one)
        if one in all_denied and one in again:
            last = position + lookback
    return all_denied


def _left(
    requested: SnapshotToIntervals,
    due: Mapping[str, list[Interval]],
    again: Mapping[str, Set[Interval]],
    scheduler: Scheduler,
    holds_back: Callable[[str, Set[str]], None],
) -> dict[Snapshot, list[Interval]]:
    """What is left to compute of each requested model that is behind one of `due`.

    What a model is denied, its readers are denied too: it may be more than is missing upstream, as a whole day for an
    hour, or all that is behind a gap.
    """
    by_name = scheduler.snapshots_by_name
    running = {snapshot.name: snapshot for snapshot in requested}
    left: dict[Snapshot, list[Interval]] = {}
    nearest: dict[str, frozenset[str]] = {}
    not_there: dict[str, list[Interval]] = {}
    graph = _upstream(running, by_name) if due else {}
    for name in TopologicalSorter(graph).static_order():
        parents = graph[name]
        nearest[name] = frozenset().union(*(_nearest(parent, nearest, not_there, due) for parent in parents))
        not_there[name] = merge_intervals([i for p in parents for i in (*not_there[p], *due.get(p, ()))])
        if name in running and not_there[name]:
            snapshot = running[name]
            single = _expanded(requested[snapshot], snapshot)
            possible = without(single, not_there[name], uninterrupted=snapshot.depends_on_past)
            denied = set(single) - set(possible)
            if name in again:
                denied = within_lookback(single, again[name], denied, snapshot.model.lookback)
            left[snapshot] = [one for one in single if one not in denied]
            if denied:
                concerned = {
                    one for one in nearest[name] if without(due[one], sorted(denied), uninterrupted=False) != due[one]
                }
                holds_back(name, concerned or nearest[name])
                not_there[name] = merge_intervals([*not_there[name], *denied])
    return left


def _nearest(
    parent: str,
    nearest: Mapping[str, frozenset[str]],
    not_there: Mapping[str, list[Interval]],
    due: Mapping[str, list[Interval]],
) -> Set[str]:
    """The nearest due models on the way through a parent; what it is due for itself hides what is behind it."""
    if parent not in due:
        return nearest[parent]
    return {parent, *nearest[parent]} if _beyond(not_there[parent], due[parent]) else {parent}


def _upstream(names: Iterable[str], by_name: Mapping[str, Snapshot]) -> dict[str, list[str]]:
    """These models and all that is upstream of them, each with its parents."""

    def parents(name: str) -> list[str]:
        return [parent.name for parent in by_name[name].parents if parent.name in by_name]

    return {name: parents(name) for name in reachable(names, parents)}


def _altered_since(
    requested: Iterable[Snapshot], index: DeployabilityIndex, by_name: Mapping[str, Snapshot]
) -> dict[Snapshot, list[Interval]]:
    """Models without signals that do not run, altered since what reads them was: the last interval of each.

    SQLMesh's own signal `freshness`, and any that looks at `context.parent_intervals`, asks whether a model upstream is
    computed in the same run. It was, in an earlier attempt, step or run of this model's alone.
    """
    running = {snapshot.name: snapshot for snapshot in requested}
    found = {}
    for snapshot in filter(_has_signals, running.values()):
        for parent in (by_name.get(parent.name) for parent in snapshot.parents if parent.name not in running):
            if parent is None or parent.is_symbolic or _has_signals(parent):
                continue
            intervals = computed(parent, index)
            if intervals and (altered_at(parent, index) or 0) > (altered_at(snapshot, index) or 0):
                end = intervals[-1][1]
                found[parent] = [(end - parent.node.interval_unit.milliseconds, end)]
    return found
