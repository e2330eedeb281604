"""Forget computed intervals in SQLMesh's state before SQLMesh computes them again, and mark what is begun.

A `lookback` computes intervals again that are computed. SQLMesh alone leaves them as computed meanwhile. If their batch
then fails, is cancelled or is killed, their rows may be gone or old, and SQLMesh never asks for them again. So this
module removes them from the state before the model's first batch. SQLMesh records each batch when it has finished. What
is not recorded is missing for everybody: for the next run, for `sqlmesh run`, for a plan and for the checks.

The state then counts a forgotten interval as one that was never computed, and its own `lookback` would compute even
older intervals again. If these failed too, each attempt would reach further into the past. So forgotten intervals are
also marked as a pending restatement, which SQLMesh clears when it records them, and a run of ours computes a marked
interval without a `lookback` of its own (`missing_with_forgotten`). It does so also before the interval's cron has
ticked, if a run with `ignore_cron` has computed the interval early: its rows were there once.

An interval that is computed for the first time is marked too, before its batch. If a blocking audit refuses the batch,
or it is cancelled or killed, its rows may stand in the table, and the mark remains: see `availability`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from threading import Lock
from typing import Any

from sqlmesh.core.scheduler import Scheduler, SnapshotToIntervals
from sqlmesh.core.snapshot import DeployabilityIndex, Snapshot
from sqlmesh.core.state_sync import StateReader
from sqlmesh.utils.date import TimeLike

from dg_sqlmesh_component.protocol.intervals import common, subtract
from dg_sqlmesh_component.protocol.messages import FOREVER, Interval
from dg_sqlmesh_component.worker.intervals import tables
from dg_sqlmesh_component.worker.sqlmesh_internals import (
    Forgotten,
    forget_intervals,
    replace_intervals,
    watch_evaluations,
)


def forget_before_computing(scheduler: Scheduler, report: Callable[[str, Sequence[Interval]], None]) -> None:
    """Let the scheduler forget the computed intervals of each model that it computes, and find forgotten ones again.

    All intervals of a model are forgotten before its first batch: another batch may finish and be recorded although
    one of an older interval was never started, and then SQLMesh would not ask for the older interval again. New
    intervals are marked batch by batch: a batch that was not started has written no rows.
    """
    find_missing, batch, lock = scheduler.merged_missing_intervals, scheduler.batch_intervals, Lock()
    again: dict[str, tuple[bool, tuple[Interval, ...]]] = {}
    marked: dict[str, Sequence[Interval]] = {}

    def merged_missing_intervals(*args: Any, **kwargs: Any) -> SnapshotToIntervals:
        index = kwargs.get("deployability_index") or DeployabilityIndex.all_deployable()
        forgotten = _forgotten(scheduler.snapshots.values(), index, scheduler.state_sync)
        return tables.missing_with_forgotten(lambda **cron: find_missing(*args, **{**kwargs, **cron}), forgotten)

    def batch_intervals(
        requested: SnapshotToIntervals, index: DeployabilityIndex | None, *args: Any, **kwargs: Any
    ) -> dict[Snapshot, Any]:
        batches = batch(requested, index, *args, **kwargs)
        for snapshot, intervals in batches.items():
            is_dev = index is not None and not index.is_deployable(snapshot)
            recorded = snapshot.dev_intervals if is_dev else snapshot.intervals
            again[snapshot.name] = (is_dev, common(intervals, recorded))
            # SQLMesh has no mark for the table of a preview.
            marked[snapshot.name] = [(0, FOREVER)] if is_dev else [*again[snapshot.name][1], *_marks(snapshot)]
        return batches

    def forget(snapshot: Snapshot, start: TimeLike, end: TimeLike) -> None:
        # SQLMesh records no interval that is not over.
        batch = snapshot.inclusive_exclusive(start, end, strict=False, allow_partial=False, expand=False)
        with lock:  # the other batches of the model wait
            is_dev, intervals = again.pop(snapshot.name, (False, ()))
            begun = subtract([batch], marked[snapshot.name])
            if intervals or begun:
                forget_intervals(scheduler.state_sync, [Forgotten(snapshot, intervals, is_dev, begun)])
            if intervals:
                report(snapshot.name, intervals)

    replace_intervals(scheduler, merged_missing_intervals, batch_intervals)
    watch_evaluations(scheduler, forget)


def _marks(snapshot: Snapshot) -> Sequence[Interval]:
    """The marks that earlier batches have left in the state."""
    return subtract(snapshot.pending_restatement_intervals, snapshot.intervals)


def forget_restated_automatically(
    scheduler: Scheduler, now: int, report: Callable[[str, Sequence[Interval]], None]
) -> None:
    """Forget what SQLMesh would restate automatically at this instant, of all models before the first one is computed.

    SQLMesh removes it from its snapshots only, and marks it in the state.
    """
    state, nodes = scheduler.state_sync, scheduler.snapshots
    state.refresh_snapshot_intervals(nodes.values())
    again = tables.restate_automatically(nodes, now)
    forget_intervals(state, [Forgotten(node, restated, is_dev=False) for node, restated in again.items()])
    for node, restated in again.items():
        report(node.name, restated)
    state.update_auto_restatements({node.name_version: node.next_auto_restatement_ts for node in nodes.values()})


def _forgotten(
    snapshots: Iterable[Snapshot], index: DeployabilityIndex, state_reader: StateReader
) -> dict[Snapshot, Sequence[Interval]]:
    """The intervals that were forgotten of each model and that nobody has computed since."""
    marked = [snapshot for snapshot in snapshots if tables.forgotten_intervals(snapshot, index)]
    stored = _as_stored(marked, state_reader)  # SQLMesh may have removed what it restates automatically
    forgotten = {snapshot: tables.forgotten_intervals(copy, index) for snapshot, copy in zip(marked, stored)}
    return {snapshot: intervals for snapshot, intervals in forgotten.items() if intervals}


def _as_stored(snapshots: Iterable[Snapshot], state_reader: StateReader) -> list[Snapshot]:
    """Copies with the intervals of the state."""
    copies = [snapshot.copy() for snapshot in snapshots]
    for copy in copies:
        copy.pending_restatement_intervals = []  # SQLMesh would keep them
    state_reader.refresh_snapshot_intervals(copies)
    return copies
