"""Serve a `ClosePreviewRequest`: delete an environment and everything that only this environment uses.

SQLMesh itself deletes the views at once, and the tables after a week; or, with `ignore_ttl`, the unused tables of
everybody. So the versions to delete are found here (ADR-0042).
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import partial

from sqlmesh.core import constants as c
from sqlmesh.core.context import Context
from sqlmesh.core.environment import Environment
from sqlmesh.core.snapshot import Snapshot, SnapshotId, SnapshotInfoLike, SnapshotTableInfo
from sqlmesh.core.snapshot.definition import SnapshotTableCleanupTask
from sqlmesh.core.state_sync.common import ExpiredBatchRange

from dg_sqlmesh_component.capabilities.janitor.messages import JanitorFinished
from dg_sqlmesh_component.capabilities.janitor.worker.janitor import JanitorConsole, open_for_clean_up, size_of_state
from dg_sqlmesh_component.capabilities.plans.messages import ClosePreviewRequest
from dg_sqlmesh_component.protocol.errors import ConfigurationError, EvaluationError
from dg_sqlmesh_component.worker.explain import describe_error
from dg_sqlmesh_component.worker.pipe import Pipe
from dg_sqlmesh_component.worker.running_queries import watch_queries
from dg_sqlmesh_component.worker.sqlmesh_internals import forget_tables
from dg_sqlmesh_component.worker.state_lock import locked_context
from dg_sqlmesh_component.worker.transient_errors import is_transient

CAN_CLOSE = "environment" in inspect.signature(Context.run_janitor).parameters
"""Whether this SQLMesh can delete one environment alone. 0.235 cannot."""


def close_preview(request: ClosePreviewRequest, pipe: Pipe) -> None:
    """Wait for the lock, delete the environment, and send the deleted objects.

    Raises:
        ConfigurationError: The environment never expires, so it is no preview.
        EvaluationError: Something could not be deleted.
    """
    with locked_context(request, partial(open_for_clean_up, request, JanitorConsole(pipe)), pipe) as context:
        pipe.begin()
        pipe.send(_close(request, context, pipe))


def _close(request: ClosePreviewRequest, context: Context, pipe: Pipe) -> JanitorFinished:
    watch_queries(pipe, context.engine_adapters)
    environment = context.state_reader.get_environment(request.environment)
    before = size_of_state(context)
    if environment is None:
        return JanitorFinished((), before, before)
    if environment.expiration_ts is None:
        raise ConfigurationError(
            f"Environment {request.environment} never expires, so it is no preview, and was not deleted. Correct "
            "`preview.environment` in defs.yaml. To delete it anyway, use `sqlmesh invalidate`."
        )
    try:
        delete_preview(environment, context)
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
    return JanitorFinished((request.environment,), before, size_of_state(context))


def delete_preview(environment: Environment, context: Context) -> None:
    """Delete an environment with its own versions. The environment comes last, so that this can be repeated.

    It expires first. So a preview after an interruption begins with the rest, and does not build on half of it.
    """
    context.state_sync.invalidate_environment(environment.name)
    delete_unused(OwnVersions.of(environment, context), context, closing=environment)
    context.invalidate_environment(environment.name, sync=True)


def without_leftovers(environment: Environment | None, context: Context) -> Environment | None:
    """Delete what an interrupted close or second commit has left of a preview. Return the preview if it is still there.

    Else SQLMesh would go back to versions whose intervals are forgotten: it would compute all of a forward-only change,
    and not only its last day. For an environment without its versions, it cannot build a plan.
    """
    if environment is not None and environment.expired:
        delete_preview(environment, context)
        return None
    if environment is not None and environment.previous_finalized_snapshots:
        delete_unused(OwnVersions.of(environment, context), context)
    return environment


@dataclass(frozen=True)
class OwnVersions:
    """The versions of models that only a preview has used, with those of its commits before that were not deleted yet.

    All other versions that it shows were those of prod when it was made.
    """

    snapshots: tuple[Snapshot, ...] = ()
    # Those that another environment has begun or ceased to show since the preview was finalized: prod, if they were
    # applied and reverted. SQLMesh deletes them when they expire.
    used_since: frozenset[SnapshotId] = frozenset()

    @staticmethod
    def of(environment: Environment, context: Context) -> OwnVersions:
        infos = (*environment.promoted_snapshots, *(environment.previous_finalized_snapshots or ()))
        snapshots = tuple(context.state_reader.get_snapshots(infos).values())
        finalized_at = environment.finalized_ts
        return OwnVersions(
            snapshots,
            frozenset(s.snapshot_id for s in snapshots if finalized_at is not None and s.updated_ts > finalized_at),
        )


def delete_unused(own: OwnVersions, context: Context, closing: Environment | None = None) -> None:
    """Delete those of these versions of models that no environment shows, with their tables and intervals.

    A version that was promoted before the one that an environment shows stays until it expires: it is needed to go
    back. A table stays if another version uses it, also if no environment shows that version any more: SQLMesh may
    promote it again until it expires.

    The intervals are deleted first. If the rest is not deleted, a plan computes these versions again.

    Args:
        closing: An environment that does not count.
    """
    others = [e for e in context.state_reader.get_environments() if closing is None or e.name != closing.name]
    shown = [info for environment in others for info in _shown(environment)]
    earlier = {version.snapshot_id(info.name): version for info in shown for version in info.previous_versions}
    in_use = {info.snapshot_id for info in shown} | earlier.keys() | own.used_since
    unused = {s.snapshot_id for s in own.snapshots} - in_use
    kept = _unused_by_others(context, own)
    tables = {(info.name, info.version) for info in (*shown, *kept)}
    tables |= {(s_id.name, version.version) for s_id, version in earlier.items()}
    tables |= {(s.name, s.version) for s in own.snapshots if s.snapshot_id in own.used_since}
    # Prod shows no table of a preview of its own.
    in_previews = [info for environment in others if environment.name != c.PROD for info in _shown(environment)]
    dev_tables = {(info.name, info.dev_version) for info in (*in_previews, *kept)}
    names = {s.name for s in own.snapshots}
    # A killed preview shows its versions nowhere. If prod shows one of them, the preview may have left its dev table.
    previewed = {info.snapshot_id: info for info in (*(s.table_info for s in own.snapshots), *shown)}
    tasks = [
        SnapshotTableCleanupTask(
            snapshot=info,
            # With `dev_only`, the other table has the model's own name. A preview has not created it.
            dev_table_only=(info.name, info.version) in tables or info.virtual_environment_mode.is_dev_only,
        )
        for info in previewed.values()
        if info.name in names and (info.name, info.dev_version) not in dev_tables
    ]
    forget_tables(context, tasks, unused)
    context.snapshot_evaluator.cleanup(tasks, on_complete=context.console.update_cleanup_progress)
    context.state_sync.delete_snapshots(unused)


def _shown(environment: Environment) -> list[SnapshotTableInfo]:
    """While a plan changes an environment, its views may still show the versions before it."""
    before = environment.previous_finalized_snapshots if environment.finalized_ts is None else None
    return [*environment.snapshots, *(before or ())]


def _unused_by_others(context: Context, own: OwnVersions) -> list[SnapshotInfoLike]:
    """All other versions of the same models that no environment shows."""
    batch = context.state_sync.get_expired_snapshots(ignore_ttl=True, batch_range=ExpiredBatchRange.all_batch_range())
    own_ids = {s.snapshot_id for s in own.snapshots}
    names = {s_id.name for s_id in own_ids}
    ids = {s_id for s_id in (batch.expired_snapshot_ids if batch else ()) if s_id.name in names and s_id not in own_ids}
    return [snapshot.table_info for snapshot in context.state_reader.get_snapshots(ids).values()]
