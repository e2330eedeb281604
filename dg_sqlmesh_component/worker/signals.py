"""Models that a run leaves out: those with signals hold back what it runs, others may be what a signal looks at."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from typing import Any

from sqlmesh.core.scheduler import Scheduler, SnapshotToIntervals, interval_diff
from sqlmesh.core.snapshot import DeployabilityIndex, Snapshot
from sqlmesh.core.snapshot.definition import Interval, expand_range, merge_intervals

from .auditing import altered_at, computed


def mind_signals_upstream(scheduler: Scheduler, holds_back: Callable[[str], None]) -> None:
    """Have what runs mind models upstream of it that do not run.

    SQLMesh knows of an interval that is not ready only for the models that it runs. What reads one of them alone (a
    retry, a run of one model, the second part of a split step) would be computed for intervals whose source is not
    there yet, and never again. So it waits for whatever a model with signals upstream has not computed. That model's
    signals are not asked: they may say by now that it is ready, which it was not when it ran.

    Args:
        holds_back: Is told each model that something waits for.
    """
    find_missing, batch = scheduler.merged_missing_intervals, scheduler.batch_intervals
    missing: dict[Snapshot, Any] = {}

    def merged_missing_intervals(
        *args: Any, selected_snapshots: set[str] | None = None, **kwargs: Any
    ) -> SnapshotToIntervals:
        missing.clear()
        missing.update(find_missing(*args, **kwargs))
        return {s: found for s, found in missing.items() if selected_snapshots is None or s.name in selected_snapshots}

    def batch_intervals(
        requested: SnapshotToIntervals, index: DeployabilityIndex | None, *args: Any, **kwargs: Any
    ) -> dict[Snapshot, Any]:
        gates = [snapshot for snapshot in missing.keys() - requested.keys() if _has_signals(snapshot)]
        left, held_back_by = dict(requested), _readers(gates, scheduler.snapshots.values())
        for snapshot in requested.keys() & held_back_by.keys():
            not_there = merge_intervals([one for gate in held_back_by[snapshot] for one in missing[gate]])
            left[snapshot] = interval_diff(
                _expanded(requested[snapshot], snapshot), not_there, uninterrupted=snapshot.depends_on_past
            )
            for gate in held_back_by[snapshot]:
                holds_back(gate.name)
        altered = _altered_since(requested, index or DeployabilityIndex.all_deployable(), scheduler.snapshots_by_name)
        batches = batch({**left, **altered}, index, *args, **kwargs)
        return {snapshot: found for snapshot, found in batches.items() if snapshot in requested}

    scheduler.merged_missing_intervals = merged_missing_intervals
    scheduler.batch_intervals = batch_intervals


def _has_signals(snapshot: Snapshot) -> bool:
    return snapshot.is_model and bool(snapshot.model.signals)


def _expanded(intervals: Iterable[Interval], snapshot: Snapshot) -> list[Interval]:
    """The single intervals of a model that longer ones are made of."""
    bounds = [expand_range(start, end, snapshot.node.interval_unit) for start, end in intervals]
    return [pair for one in bounds for pair in pairwise(one)]


def _readers(gates: list[Snapshot], snapshots: Iterable[Snapshot]) -> dict[Snapshot, list[Snapshot]]:
    """What reads each of these, through others too: by reader."""
    found: dict[Snapshot, list[Snapshot]] = {}
    children: dict[str, list[Snapshot]] = {}
    for snapshot in snapshots if gates else ():
        for parent in snapshot.parents:
            children.setdefault(parent.name, []).append(snapshot)
    for gate in gates:
        to_visit = [gate]
        while to_visit:
            for child in children.get(to_visit.pop().name, ()):
                behind = found.setdefault(child, [])
                if gate not in behind:
                    behind.append(gate)
                    to_visit.append(child)
    return found


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
