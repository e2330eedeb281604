"""Errors of SQLMesh and its drivers, as the classes that say who must act."""

from __future__ import annotations

from sqlmesh.utils.concurrency import NodeExecutionFailedError
from sqlmesh.utils.errors import MacroEvalError, PythonModelEvalError

from dg_sqlmesh_component.protocol.errors import (
    DatabaseInUseError,
    EnvironmentNotReadyError,
    EvaluationError,
    SQLMeshComponentError,
    WorkerError,
)
from dg_sqlmesh_component.protocol.formatting import block, plain
from dg_sqlmesh_component.protocol.messages import OpenProject
from dg_sqlmesh_component.worker.commands import how_to_finish_plan, sqlmesh_command
from dg_sqlmesh_component.worker.own_bugs import innermost_cause, own_bug
from dg_sqlmesh_component.worker.sqlmesh_internals import first_of_transaction
from dg_sqlmesh_component.worker.transient_errors import is_transient

_MACROS = "Failed to resolve macros for"
"""How the error of a query begins whose macros cannot be resolved. The query follows, then the reason."""


def describe_error(error: BaseException) -> str:
    """The text of an exception, after its class name, with its innermost cause. The reason is in the first line.

    Errors of SQLMesh itself and ours need no class name. The error of a failed node has the id of a version only, so
    its cause takes its place.
    """
    if bug := own_bug(error):
        return bug
    while isinstance(error, NodeExecutionFailedError) and error.__cause__ is not None:
        error = error.__cause__
    error = first_of_transaction(error)
    if reason := _reason_in_code(error):
        return f"{_named_text(reason)}\n\n{plain(error)}"
    text, cause = _named_text(error), innermost_cause(error)
    return text if plain(cause) in text else f"{text.rstrip('.')}. It was caused by {_named_text(cause)}"


def _reason_in_code(error: BaseException) -> BaseException | None:
    """What the project's code has raised, if SQLMesh's error has it only at its end, after the code or the query."""
    reason = error.__context__
    if isinstance(reason, MacroEvalError) and _MACROS in plain(error):  # its text is the code of the macro
        return reason.__context__ or reason
    return reason if isinstance(error, PythonModelEvalError) or _MACROS in plain(error) else None


def _named_text(error: BaseException) -> str:
    text, name = plain(error), type(error).__name__
    needs_no_name = name in ("ConfigError", "SQLMeshError", "ProjectExit") or isinstance(error, SQLMeshComponentError)
    return text if text and needs_no_name else f"{name}: {text}"


def unfinished_plan(project: OpenProject, environment: str) -> EnvironmentNotReadyError:
    """The error if a plan has been updating the environment for too long."""
    return EnvironmentNotReadyError(
        f"The environment {environment!r} is being updated by a plan that has not finished "
        "within `execution.environment_timeout` (in defs.yaml). "
        f"{how_to_finish_plan(project, environment)}",
        is_transient=True,
    )


def explain(error: Exception, project: OpenProject, environment: str | None = None) -> SQLMeshComponentError:
    """Turn an error that ended a whole request into the class that says who must act.

    Without an `environment`, a project was loaded. An error of this package says it already.
    """
    if isinstance(error, SQLMeshComponentError):
        return error
    if bug := own_bug(error):
        return WorkerError(bug)
    text = plain(error)
    if "Could not set lock on file" in text:
        return DatabaseInUseError(
            "The DuckDB file is in use by another process, and DuckDB lets only one process write at a time: "
            f"{text.rstrip('.')}. Wait for that process, or end it.",
            is_transient=True,
        )
    if "Please run a migration" in text:
        return EnvironmentNotReadyError(
            f"SQLMesh's state was written by an older SQLMesh. {text} "
            f"Back up the state and run:{block(sqlmesh_command(project, 'migrate'))}"
        )
    if "Please upgrade" in text:
        return EnvironmentNotReadyError(
            f"SQLMesh's state was written by a newer SQLMesh. {text} "
            "Upgrade SQLMesh in the interpreter that runs the project (`project.python` in defs.yaml)."
        )
    if environment and "Exceeded the maximum wait time for environment" in text:
        return unfinished_plan(project, environment)
    return EvaluationError(
        f"SQLMesh ended the run with an error: {describe_error(error)}", is_transient=is_transient(error)
    )
