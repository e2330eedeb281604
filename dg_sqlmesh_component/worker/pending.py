"""Find the models with pending intervals, as a run would plan them. Reads the state only."""

from __future__ import annotations

from collections.abc import Iterable

from sqlmesh.core import constants as c
from sqlmesh.core.scheduler import merged_missing_intervals
from sqlmesh.core.snapshot import DeployabilityIndex, Snapshot, apply_auto_restatements
from sqlmesh.utils.date import to_datetime, to_timestamp

from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.worker.pipe import Pipe
from dg_sqlmesh_component.worker.state import environment_in_state


def find_pending(request: msg.PendingRequest, pipe: Pipe) -> msg.PendingFound:
    """Find the requested models for which a run would plan batches.

    Raises:
        EnvironmentNotReadyError: The environment does not exist.
        DatabaseInUseError: Another process has the DuckDB file of the state open.
    """
    with environment_in_state(request, pipe) as (context, environment):
        snapshots = list(context.state_reader.get_snapshots(environment.snapshots).values())
    pending = _pending(snapshots, request)
    ours = [snapshot for snapshot in snapshots if snapshot.name in request.models and not snapshot.is_symbolic]
    now = to_datetime(request.now)
    # Many models have the same cron, and SQLMesh needs 0.2 ms to evaluate one.
    node_by_cron = {(snapshot.node.cron, snapshot.node.cron_tz): snapshot.node for snapshot in ours}
    last = {cron: to_timestamp(node.cron_floor(now)) for cron, node in node_by_cron.items()}
    due = {cron: to_timestamp(node.cron_next(now)) for cron, node in node_by_cron.items()}
    crons = {snapshot.name: (snapshot.node.cron, snapshot.node.cron_tz) for snapshot in ours}
    return msg.PendingFound(
        {name: last[cron] for name, cron in crons.items() if name in pending},
        min(((due[cron], name) for name, cron in crons.items()), default=None),
    )


def _pending(snapshots: Iterable[Snapshot], request: msg.PendingRequest) -> set[str]:
    """The names of nodes with pending intervals. `Scheduler.run` calls the same functions."""
    by_id = {snapshot.snapshot_id: snapshot for snapshot in snapshots}
    is_prod = request.environment == c.PROD
    if is_prod:
        apply_auto_restatements(by_id, request.now)  # removes intervals of these objects; the state is not changed
    index = DeployabilityIndex.all_deployable() if is_prod else DeployabilityIndex.create(by_id.values())
    intervals = merged_missing_intervals(by_id.values(), execution_time=request.now, deployability_index=index)
    return {snapshot.name for snapshot in intervals}
