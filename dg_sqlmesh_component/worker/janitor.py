"""Serve a `JanitorRequest`: run SQLMesh's janitor once while no run uses the state.

The janitor deletes expired environments with their views, then expired versions of models (snapshots) with their
tables. It then merges the rows that each run has added to the table of intervals. It reads only the state, so the
project's models are not parsed.
"""

from __future__ import annotations

import inspect
from functools import partial

import sqlmesh
from sqlmesh.core.context import Context

from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.errors import ConfigurationError, EvaluationError
from dg_sqlmesh_component.protocol.formatting import block
from dg_sqlmesh_component.worker.context import (
    PipeConsole,
    closed_on_error,
    describe_error,
    open_context,
    sqlmesh_command,
    state_connection,
)
from dg_sqlmesh_component.worker.pipe import Pipe
from dg_sqlmesh_component.worker.running_queries import cut_off_queries
from dg_sqlmesh_component.worker.sqlmesh_internals import count_snapshots_and_interval_rows
from dg_sqlmesh_component.worker.state_lock import is_lockable, locked_context
from dg_sqlmesh_component.worker.transient_errors import is_transient

CAN_LIMIT_TO_ENVIRONMENT = "environment" in inspect.signature(Context.run_janitor).parameters
"""Whether this SQLMesh can clean up one environment alone. 0.235 cannot."""


class JanitorConsole(PipeConsole):
    """SQLMesh's console while its janitor runs. Pool threads call it."""

    def update_cleanup_progress(self, object_name: str) -> None:
        self.pipe.send(msg.ObjectDropped(object_name))


def run_janitor(request: msg.JanitorRequest, pipe: Pipe) -> None:
    """Wait for the lock, clean up, and send the deleted objects.

    Raises:
        ConfigurationError: The state cannot be locked, or this SQLMesh cannot clean up one environment alone.
        EvaluationError: The janitor ended with an error.
    """
    if request.environment is not None and not CAN_LIMIT_TO_ENVIRONMENT:
        raise ConfigurationError(
            f"`janitor.environment` in defs.yaml is {request.environment!r}, but SQLMesh {sqlmesh.__version__} cannot "
            "clean up one environment alone. Upgrade SQLMesh to 0.236.0 or later, or remove `janitor.environment`."
        )
    with locked_context(request, partial(open_for_clean_up, request, JanitorConsole(pipe)), pipe) as context:
        pipe.begin()
        pipe.send(_clean_up(request, context, pipe))


def open_for_clean_up(request: msg.JanitorRequest, console: JanitorConsole) -> Context:
    """Open the project, then its state. A locked DuckDB file raises an error here."""
    context: Context = open_context(request.project, console, concurrent_tasks=request.concurrent_tasks)
    with closed_on_error(context, request.project):
        if not is_lockable(context):
            raise ConfigurationError(
                f"A clean-up needs a lock, so that it never works during a run, and SQLMesh's state in "
                f"{state_connection(context).type_} cannot be locked. Remove `janitor` and `preview` in defs.yaml. At "
                "a time without runs, use:"
                f"{block(sqlmesh_command(request.project, 'janitor'))}"
            )
        context.state_reader.get_environments_summary()
    return context


def _clean_up(request: msg.JanitorRequest, context: Context, pipe: Pipe) -> msg.JanitorFinished:
    pipe.cut_off_queries = partial(cut_off_queries, list(context.engine_adapters.values()), pipe)
    only = {} if request.environment is None else {"environment": request.environment}
    try:
        environments_before, before = _environments(context), size_of_state(context)
        context.run_janitor(ignore_ttl=False, **only)
        environments_after, after = _environments(context), size_of_state(context)
    except Exception as error:  # any driver's
        raise EvaluationError(
            f"SQLMesh's janitor ended with an error: {describe_error(error).rstrip('.')}. The next run of the janitor "
            "tries again to delete the remaining objects.",
            is_transient=is_transient(error),
        ) from error
    deleted = tuple(sorted(environments_before - environments_after))
    return msg.JanitorFinished(deleted, before, after)


def _environments(context: Context) -> set[str]:
    return {environment.name for environment in context.state_reader.get_environments_summary()}


def size_of_state(context: Context) -> msg.StateSize:
    return msg.StateSize(*count_snapshots_and_interval_rows(context))
