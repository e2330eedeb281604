"""What is missing, held back and batched: one answer for a run, a dry run, a tick of a schedule and a plan.

SQLMesh's scheduler finds missing intervals with one method and batches them with another. `watch` replaces both. A run
leaves it to SQLMesh to call them. A dry run and a tick call them here, because `Scheduler.run` would also compute, and
write automatic restatements to the state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from types import MappingProxyType
from typing import Any

from sqlmesh.core import constants as c
from sqlmesh.core.scheduler import Scheduler, SnapshotToIntervals
from sqlmesh.core.snapshot import DeployabilityIndex, apply_auto_restatements
from sqlmesh.core.snapshot.definition import Interval

from dg_sqlmesh_component.protocol.messages import HeldBackBy
from dg_sqlmesh_component.worker.intervals.forgotten import forget_before_computing
from dg_sqlmesh_component.worker.intervals.held_back import FindReady, hold_back_pending_upstream
from dg_sqlmesh_component.worker.intervals.known import ExternalTables
from dg_sqlmesh_component.worker.intervals.tables import deployability


def watch(
    scheduler: Scheduler,
    tables: ExternalTables,
    held_back_by: MutableMapping[str, HeldBackBy],
    report_forgotten: Callable[[str, Sequence[Interval]], None],
    pending: Mapping[str, Sequence[Interval]] = MappingProxyType({}),
) -> FindReady:
    """Let the scheduler find forgotten intervals, and hold back intervals whose source is pending or not loaded.

    Args:
        held_back_by, pending: As in `hold_back_pending_upstream`.

    Returns:
        Finds the intervals that are not held back. Unlike SQLMesh, it evaluates no signals.
    """
    forget_before_computing(scheduler, report_forgotten)
    return hold_back_pending_upstream(scheduler, held_back_by, tables, pending)


def find_missing(
    scheduler: Scheduler, environment: str, now: int, *, restates: bool = True, **run_config: Any
) -> tuple[SnapshotToIntervals, DeployabilityIndex]:
    """The missing intervals that a run would batch, and which tables it would compute. The state is only read.

    Args:
        now: The instant of the run, epoch milliseconds.
        restates: Whether it does automatic restatements.
        run_config: `start`, `end`, `ignore_cron` and `selected_snapshots`, as for the scheduler.
    """
    # SQLMesh looks through the whole graph, also if no model has a cron for this.
    nodes = scheduler.snapshots.values()
    if environment == c.PROD and restates and any(n.is_model and n.model.auto_restatement_cron for n in nodes):
        apply_auto_restatements(scheduler.snapshots, now)  # removes intervals of these objects
    index = deployability(environment, nodes, run_config.get("start"))
    return scheduler.merged_missing_intervals(execution_time=now, deployability_index=index, **run_config), index
