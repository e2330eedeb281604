"""What a run leaves out can hold back what it runs: signals of models that are not requested."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sqlmesh.core.scheduler import Scheduler, SnapshotToIntervals
from sqlmesh.core.snapshot import Snapshot


def mind_signals_upstream(scheduler: Scheduler) -> None:
    """Have what runs wait for signals of models upstream of it that do not run.

    SQLMesh knows of an interval that is not ready only for the models that it runs. What reads one of them alone (a
    retry, a run of one model, the second part of a split step) would be computed for intervals whose source is not
    there yet, and never again. So the scheduler is asked what is missing of all models, and works out the batches of
    the requested ones together with those that they read.
    """
    find_missing, batch = scheduler.merged_missing_intervals, scheduler.batch_intervals
    missing: dict[Snapshot, Any] = {}

    def merged_missing_intervals(
        *args: Any, selected_snapshots: set[str] | None = None, **kwargs: Any
    ) -> SnapshotToIntervals:
        missing.clear()
        missing.update(find_missing(*args, **kwargs))
        return {s: found for s, found in missing.items() if selected_snapshots is None or s.name in selected_snapshots}

    def batch_intervals(requested: SnapshotToIntervals, *args: Any, **kwargs: Any) -> dict[Snapshot, Any]:
        read = {}
        if any(_has_signals(snapshot) for snapshot in missing.keys() - requested.keys()):
            upstream = _upstream_of(requested, scheduler.snapshots_by_name)
            read = {s: found for s, found in missing.items() if s.name in upstream and s not in requested}
        if not any(map(_has_signals, read)):
            return batch(requested, *args, **kwargs)
        batches = batch({**requested, **read}, *args, **kwargs)
        return {snapshot: found for snapshot, found in batches.items() if snapshot in requested}

    scheduler.merged_missing_intervals = merged_missing_intervals
    scheduler.batch_intervals = batch_intervals


def _has_signals(snapshot: Snapshot) -> bool:
    return snapshot.is_model and bool(snapshot.model.signals)


def _upstream_of(snapshots: Iterable[Snapshot], by_name: Mapping[str, Snapshot]) -> set[str]:
    found: set[str] = set()
    to_visit = list(snapshots)
    while to_visit:
        new = {parent.name for parent in to_visit.pop().parents} - found
        found |= new
        to_visit.extend(by_name[name] for name in new if name in by_name)
    return found
