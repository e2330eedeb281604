"""Serve a `JanitorRequest`: run SQLMesh's janitor once while no run uses the state.

The janitor deletes expired environments with their views, then expired versions of models (snapshots) with their
tables. It then merges the rows that each run has added to the table of intervals. It reads only the state, so the
project's models are not parsed.
"""

from __future__ import annotations

from functools import partial

from sqlglot import exp
from sqlmesh.core.context import Context
from sqlmesh.core.snapshot.definition import SnapshotTableCleanupTask

from dg_sqlmesh_component.capabilities.janitor.messages import JanitorFinished, JanitorRequest, ObjectDropped, StateSize
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.errors import EvaluationError, ProjectLoadError
from dg_sqlmesh_component.protocol.formatting import block
from dg_sqlmesh_component.worker.commands import sqlmesh_command
from dg_sqlmesh_component.worker.context import PipeConsole, closed_on_error, open_context
from dg_sqlmesh_component.worker.explain import describe_error
from dg_sqlmesh_component.worker.pipe import Pipe
from dg_sqlmesh_component.worker.postgres_views import keep_views_of_others
from dg_sqlmesh_component.worker.running_queries import watch_queries
from dg_sqlmesh_component.worker.sqlmesh_internals import (
    count_snapshots_and_interval_rows,
    forget_before_dropping,
    load_materializations,
)
from dg_sqlmesh_component.worker.state_lock import locked_context, refuse_unlockable
from dg_sqlmesh_component.worker.transient_errors import is_transient


class JanitorConsole(PipeConsole):
    """SQLMesh's console while its janitor runs. Pool threads call it."""

    def update_cleanup_progress(self, object_name: str) -> None:
        self.pipe.send(ObjectDropped(object_name))
        self.pipe.require_locks()


def run_janitor(request: JanitorRequest, pipe: Pipe) -> None:
    """Wait for the lock, clean up, and send the deleted objects.

    Raises:
        ConfigurationError: The state cannot be locked.
        EvaluationError: The janitor ended with an error.
    """
    with locked_context(request, partial(open_for_clean_up, request, JanitorConsole(pipe)), pipe) as context:
        pipe.begin()
        pipe.send(_clean_up(context, pipe))


def open_for_clean_up(request: JanitorRequest, console: JanitorConsole) -> Context:
    """Open the project, then its state. A locked DuckDB file raises an error here."""
    context: Context = open_context(request.project, console, concurrent_tasks=request.job.concurrent_tasks)
    with closed_on_error(context, request.project):
        refuse_unlockable(
            context,
            "A clean-up",
            "Remove `janitor` and `preview` in defs.yaml. At a time without runs, use:"
            f"{block(sqlmesh_command(request.project, 'janitor'))}",
        )
        keep_views_of_others(context)  # opens the state
    _load_materializations(request.project, context, console.pipe)
    return context


def _load_materializations(project: msg.OpenProject, context: Context, pipe: Pipe) -> None:
    try:
        with pipe.loading():
            load_materializations(context)
    except Exception as error:  # a project's Python files may raise anything
        context.close()
        raise ProjectLoadError(
            f"SQLMesh cannot load the custom materializations of the project at {', '.join(project.paths)}, which it "
            f"needs to delete tables: {describe_error(error)}"
        ) from error


def _without_own_table(task: SnapshotTableCleanupTask, context: Context, pipe: Pipe) -> SnapshotTableCleanupTask:
    snapshot = task.snapshot
    is_own = snapshot.is_model and snapshot.virtual_environment_mode.is_dev_only and not snapshot.is_view
    if task.dev_table_only or not is_own:
        return task
    adapter = context.snapshot_evaluator.get_adapter(snapshot.model_gateway)
    table = exp.to_table(snapshot.table_name())
    if adapter.table_exists(table):
        drop = exp.Drop(this=table, kind="TABLE").sql(adapter.dialect)
        pipe.log(
            "warning",
            f"The model {snapshot.name} is removed. In `virtual_environment_mode: dev_only`, SQLMesh does not delete "
            f"its table. If nobody uses it, drop it:{block(drop)}",
        )
    return task.copy(update={"dev_table_only": True})


def _clean_up(context: Context, pipe: Pipe) -> JanitorFinished:
    watch_queries(pipe, context.engine_adapters)
    forget_before_dropping(context, partial(_without_own_table, context=context, pipe=pipe))
    try:
        environments_before, before = _environments(context), size_of_state(context)
        context.run_janitor(ignore_ttl=False)
        environments_after, after = _environments(context), size_of_state(context)
    except Exception as error:  # any driver's
        raise EvaluationError(
            f"SQLMesh's janitor ended with an error: {describe_error(error).rstrip('.')}. If the cause is "
            "permanent, correct it. The next run of the janitor deletes the remaining objects.",
            is_transient=is_transient(error),
        ) from error
    deleted = tuple(sorted(environments_before - environments_after))
    return JanitorFinished(deleted, before, after)


def _environments(context: Context) -> set[str]:
    return {environment.name for environment in context.state_reader.get_environments_summary()}


def size_of_state(context: Context) -> StateSize:
    return StateSize(*count_snapshots_and_interval_rows(context))
