"""Find the models with pending intervals that are ready, as a run would plan them. The state is only read."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from functools import partial
from typing import Any

from sqlmesh.core import constants as c
from sqlmesh.core.context import Context
from sqlmesh.core.environment import Environment
from sqlmesh.core.scheduler import SnapshotToIntervals, merged_missing_intervals
from sqlmesh.core.snapshot import DeployabilityIndex, Snapshot, SnapshotId, apply_auto_restatements
from sqlmesh.utils.date import to_datetime, to_timestamp

from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.formatting import plain
from dg_sqlmesh_component.worker.environment import deployability, opened_without_lock, refuse_lost_versions
from dg_sqlmesh_component.worker.evaluate.held_back_intervals import has_signals, hold_back_pending_upstream
from dg_sqlmesh_component.worker.observe.forgotten_intervals import forgotten_intervals, missing_with_forgotten
from dg_sqlmesh_component.worker.observe.tracker import Tracker
from dg_sqlmesh_component.worker.pipe import Pipe

MAX_SIGNAL_SECONDS = 20
"""How long a tick evaluates signals. Dagster ends a tick after 60 seconds."""


def find_pending(request: msg.PendingRequest, pipe: Pipe) -> msg.PendingFound:
    """Find the requested models for which a run would plan batches.

    Raises:
        EnvironmentNotReadyError: The environment does not exist.
        DatabaseInUseError: Another process has the DuckDB file of the state open.
    """
    with opened_without_lock(request, pipe) as (context, environment):
        by_id = context.state_reader.get_snapshots(environment.snapshots)
        refuse_lost_versions(environment, {snapshot.name for snapshot in by_id.values()})
        index = deployability(request.environment, by_id.values())
        intervals = _missing_intervals(context, by_id, request, index)
        waiting, signal_error = {}, None
        if any(map(has_signals, intervals)):
            try:
                waiting = _models_not_ready(context, environment, by_id, intervals, index, pipe)
            except Exception as error:  # noqa: BLE001  # a project's signals and its engine's driver raise anything
                signal_error = f"{type(error).__name__}: {plain(error)}"
    pending = {snapshot.name for snapshot in intervals} - waiting.keys()
    ours = [snapshot for snapshot in by_id.values() if snapshot.name in request.models and not snapshot.is_symbolic]
    now = to_datetime(request.now)
    # Many models have the same cron, and SQLMesh needs 0.2 ms to evaluate one.
    node_by_cron = {(snapshot.node.cron, snapshot.node.cron_tz): snapshot.node for snapshot in ours}
    last = {cron: to_timestamp(node.cron_floor(now)) for cron, node in node_by_cron.items()}
    due = {cron: to_timestamp(node.cron_next(now)) for cron, node in node_by_cron.items()}
    crons = {snapshot.name: (snapshot.node.cron, snapshot.node.cron_tz) for snapshot in ours}
    return msg.PendingFound(
        {name: last[cron] for name, cron in crons.items() if name in pending},
        min(((due[cron], name) for name, cron in crons.items()), default=None),
        {name: signals for name, signals in waiting.items() if name in crons},
        signal_error,
        {snapshot.name: tuple(merged) for snapshot, merged in intervals.items() if snapshot.name in crons},
    )


def _missing_intervals(
    context: Context, by_id: dict[SnapshotId, Snapshot], request: msg.PendingRequest, index: DeployabilityIndex
) -> SnapshotToIntervals:
    """The missing intervals of all nodes. `Scheduler.run` calls the same functions."""
    forgotten = forgotten_intervals(by_id.values(), index, context.state_reader)
    if request.environment == c.PROD:
        apply_auto_restatements(by_id, request.now)  # removes intervals of these objects; the state is not changed
    find_missing = partial(
        merged_missing_intervals, by_id.values(), execution_time=request.now, deployability_index=index
    )
    return missing_with_forgotten(find_missing, forgotten)


def _models_not_ready(
    context: Context,
    environment: Environment,
    by_id: Mapping[SnapshotId, Snapshot],
    intervals: SnapshotToIntervals,
    index: DeployabilityIndex,
    pipe: Pipe,
) -> dict[str, tuple[str, ...]]:
    """The nodes of which no missing interval is ready, each with its own signals that are not ready.

    SQLMesh evaluates the signals as in a run of all nodes.

    Raises:
        SignalEvalError: A signal has raised an error, or they need more than `MAX_SIGNAL_SECONDS`.
    """
    context.console = tracker = Tracker(pipe)
    signal.signal(signal.SIGALRM, _expire)
    signal.alarm(MAX_SIGNAL_SECONDS)
    try:
        scheduler = context.create_scheduler(by_id.values(), context.snapshot_evaluator)
        hold_back_pending_upstream(scheduler, tracker.held_back_by)
        batches = scheduler.batch_intervals(intervals, index, environment.naming_info)
    finally:
        signal.alarm(0)
    unready = tracker.unready_signals
    return {snapshot.name: tuple(unready.get(snapshot.name, ())) for snapshot, batch in batches.items() if not batch}


def _expire(*_: Any) -> None:
    """End the evaluation of signals. Code in C, such as a driver's, may return later."""
    raise TimeoutError(f"The signals were not evaluated in {MAX_SIGNAL_SECONDS} seconds.")
