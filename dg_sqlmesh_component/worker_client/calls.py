"""Starts a worker, sends it a request and returns its answer or its events."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from dg_sqlmesh_component.config.project import SQLMeshProject
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.errors import ERRORS_BY_NAME, WorkerError
from dg_sqlmesh_component.protocol.redaction import Redactor
from dg_sqlmesh_component.worker_client.start import EARLY_WORKERS
from dg_sqlmesh_component.worker_client.worker import Worker

_Answer = TypeVar("_Answer")

AnswerTables = Callable[[msg.OtherTablesFound], msg.AwaitedTables]
"""What of other tables is awaited."""


@contextmanager
def serving(project: SQLMeshProject, request: msg.Request) -> Iterator[Worker]:
    """Serve one request in its own process. If the context is left early, the process is stopped.

    Yields:
        The worker. Iterate over it to receive its events in order, with its output as `LogLine`s. The last event is
        a `LastEvent`.

    Raises:
        ConfigurationError, InstallationError: The worker cannot be started.
        WorkerError: While iterating: the worker died or broke the protocol.
        StoppedError: While iterating: the worker was cancelled, did not end, and was killed.
    """
    project.check_folders()
    worker = Worker(EARLY_WORKERS.take(project), request, Redactor(project.process_environment))
    try:
        yield worker
    finally:
        worker.stop()


def load_project(project: SQLMeshProject, request: msg.LoadRequest) -> msg.ProjectLoaded:
    """Answer a `LoadRequest`. It raises as `answered`."""
    return answered(project, request, msg.ProjectLoaded)


def answered(
    project: SQLMeshProject,
    request: msg.Request,
    answer: type[_Answer],
    tables: AnswerTables | None = None,
) -> _Answer:
    """The last event of a request, which is of this type. Log lines before it are dropped.

    Raises:
        DatabaseInUseError: The state is in a DuckDB file that another process has open.
        SQLMeshComponentError: Any other; the class says who must act.
    """
    with serving(project, request) as events:
        for event in events:
            if isinstance(event, answer):
                return event
            if isinstance(event, msg.OtherTablesFound) and tables is not None:
                events.answer(tables(event))
            if isinstance(event, msg.RequestFailed):
                raise ERRORS_BY_NAME.get(event.error, WorkerError)(event.message)
    raise WorkerError("The worker ended without an answer.")
