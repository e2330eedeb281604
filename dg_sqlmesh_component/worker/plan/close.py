"""Serve a `ClosePreviewRequest`: delete an environment and everything that only this environment uses.

SQLMesh itself deletes the views at once, and the tables after a week; or, with `ignore_ttl`, the unused tables of
everybody. So the versions to delete are found here (ADR-0042).
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial

from sqlmesh.core import constants as c
from sqlmesh.core.context import Context
from sqlmesh.core.environment import Environment
from sqlmesh.core.snapshot import SnapshotId, SnapshotInfoLike, SnapshotTableInfo
from sqlmesh.core.snapshot.definition import SnapshotTableCleanupTask
from sqlmesh.core.state_sync.common import ExpiredBatchRange

from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.errors import ConfigurationError, EvaluationError
from dg_sqlmesh_component.worker.context import describe_error
from dg_sqlmesh_component.worker.janitor import (
    CAN_LIMIT_TO_ENVIRONMENT,
    JanitorConsole,
    open_for_clean_up,
    size_of_state,
)
from dg_sqlmesh_component.worker.pipe import Pipe
from dg_sqlmesh_component.worker.running_queries import watch_queries
from dg_sqlmesh_component.worker.sqlmesh_internals import delete_intervals
from dg_sqlmesh_component.worker.state_lock import locked_context
from dg_sqlmesh_component.worker.transient_errors import is_transient

CAN_CLOSE = CAN_LIMIT_TO_ENVIRONMENT


def close_preview(request: msg.ClosePreviewRequest, pipe: Pipe) -> None:
    """Wait for the lock, delete the environment, and send the deleted objects.

    Raises:
        ConfigurationError: The environment never expires, so it is no preview.
        EvaluationError: Something could not be deleted.
    """
    with locked_context(request, partial(open_for_clean_up, request, JanitorConsole(pipe)), pipe) as context:
        pipe.begin()
        pipe.send(_close(request, context, pipe))


def _close(request: msg.ClosePreviewRequest, context: Context, pipe: Pipe) -> msg.JanitorFinished:
    watch_queries(pipe, context.engine_adapters)
    assert request.environment is not None, "a preview has a name"
    environment = context.state_reader.get_environment(request.environment)
    before = size_of_state(context)
    if environment is None:
        return msg.JanitorFinished((), before, before)
    if environment.expiration_ts is None:
        raise ConfigurationError(
            f"Environment {request.environment} never expires, so it is no preview, and was not deleted. Correct "
            "`preview.environment` in defs.yaml. To delete it all the same, use `sqlmesh invalidate`."
        )
    try:
        # The environment is deleted last, so that this can be repeated if it is interrupted.
        delete_unused(own_versions(environment), context, closing=environment)
        context.invalidate_environment(request.environment, sync=True)
    except Exception as error:  # any driver's
        raise EvaluationError(
            f"The preview {request.environment} was not deleted: {describe_error(error).rstrip('.')}. Launch this job "
            "again to delete the rest.",
            is_transient=is_transient(error),
        ) from error
    if context.state_reader.get_environment(request.environment) is not None:
        raise EvaluationError(
            f"SQLMesh could not delete the views of {request.environment}; the log says why. Launch this job again."
        )
    return msg.JanitorFinished((request.environment,), before, size_of_state(context))


def own_versions(environment: Environment) -> set[SnapshotId]:
    """The versions for which the preview has views. All others were those of prod when it was made."""
    return {info.snapshot_id for info in environment.promoted_snapshots}


def delete_unused(versions: Collection[SnapshotId], context: Context, closing: Environment | None = None) -> None:
    """Delete those of these versions of models that no environment shows, with their tables and intervals.

    A version that was promoted before the one that an environment shows stays until it expires: it is needed to go
    back. A table stays if another version uses it, also if no environment shows that version any more: SQLMesh may
    promote it again until it expires.

    Args:
        closing: An environment that does not count.
    """
    others = [e for e in context.state_reader.get_environments() if closing is None or e.name != closing.name]
    shown = [info for environment in others for info in _shown(environment)]
    earlier = {version.snapshot_id(info.name) for info in shown for version in info.previous_versions}
    unused = set(versions) - {info.snapshot_id for info in shown} - earlier
    kept = _unused_by_others(context, unused, closing)
    tables = {(info.name, info.version) for info in (*shown, *kept)}
    # Prod shows no table of a preview of its own.
    in_previews = [info for environment in others if environment.name != c.PROD for info in _shown(environment)]
    dev_tables = {(info.name, info.dev_version) for info in (*in_previews, *kept)}
    snapshots = context.state_reader.get_snapshots(set(versions) - earlier).values()
    tasks = [
        SnapshotTableCleanupTask(
            snapshot=s.table_info, dev_table_only=s.snapshot_id not in unused or (s.name, s.version) in tables
        )
        for s in snapshots
        if (s.name, s.dev_version) not in dev_tables
    ]
    context.snapshot_evaluator.cleanup(tasks, on_complete=context.console.update_cleanup_progress)
    deleted = unused & {snapshot.snapshot_id for snapshot in snapshots}
    context.state_sync.delete_snapshots(deleted)
    delete_intervals(context, tasks, deleted)


def _shown(environment: Environment) -> list[SnapshotTableInfo]:
    """While a plan changes an environment, its views may still show the versions before it."""
    before = environment.previous_finalized_snapshots if environment.finalized_ts is None else None
    return [*environment.snapshots, *(before or ())]


def _unused_by_others(
    context: Context, own: Collection[SnapshotId], closing: Environment | None
) -> list[SnapshotInfoLike]:
    """Versions of the same models that no environment shows, and that are not to be deleted."""
    batch = context.state_sync.get_expired_snapshots(ignore_ttl=True, batch_range=ExpiredBatchRange.all_batch_range())
    names, own_ids = {s_id.name for s_id in own}, set(own)
    if closing is not None:
        own_ids |= {info.snapshot_id for info in closing.snapshots}
    ids = {s_id for s_id in (batch.expired_snapshot_ids if batch else ()) if s_id.name in names and s_id not in own_ids}
    return [snapshot.table_info for snapshot in context.state_reader.get_snapshots(ids).values()]
