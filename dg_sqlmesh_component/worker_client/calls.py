"""Starts workers, before or with their requests, and returns their answers or events."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

from dg_sqlmesh_component.config.project import SQLMeshProject
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.bootstrap import start_command
from dg_sqlmesh_component.protocol.errors import ERRORS_BY_NAME, InstallationError, WorkerError
from dg_sqlmesh_component.protocol.redaction import Redactor
from dg_sqlmesh_component.worker_client.worker import Worker

_Answer = TypeVar("_Answer")

AnswerTables = Callable[[msg.OtherTablesFound], msg.AwaitedTables]
"""What of other tables is awaited."""


class EarlyWorkers:
    """Workers that start before their requests are known, so that they import SQLMesh meanwhile.

    A worker without a request ends with this process.
    """

    def __init__(self) -> None:
        self._processes: dict[tuple[object, ...], subprocess.Popen[bytes]] = {}

    def start(self, project: SQLMeshProject) -> None:
        """Start a worker for this process's next request for the project, unless one is waiting."""
        key = _key(project)
        if key not in self._processes:
            with suppress(InstallationError):  # the request reports it
                self._processes[key] = start_worker(project)

    def take(self, project: SQLMeshProject) -> subprocess.Popen[bytes]:
        """A process for one request: the early worker if it is still alive, else a new one.

        Raises an InstallationError if the interpreter cannot be started.
        """
        early = self._processes.pop(_key(project), None)
        return early if early is not None and early.poll() is None else start_worker(project)


EARLY_WORKERS = EarlyWorkers()
"""Shared by the process, because Dagster loads definitions several times in it, each time with new components."""


def start_worker(project: SQLMeshProject) -> subprocess.Popen[bytes]:
    """Start a worker, which waits for its request. Raises an InstallationError if the interpreter cannot be started."""
    python = project.python or sys.executable
    try:
        return subprocess.Popen(
            start_command(python, "worker"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=project.working_directory or project.paths[0],
            env=project.process_environment,
            start_new_session=True,  # Ctrl+C reaches only the parent, which decides
        )
    except OSError as error:
        raise InstallationError(
            f"The interpreter {python} cannot be started: {error.strerror}. Correct `project.python` in defs.yaml, or "
            "`python` of the SQLMeshResource."
        ) from error


def _key(project: SQLMeshProject) -> tuple[object, ...]:
    """Interpreter, folder and environment variables: projects that share them can use the same worker."""
    folder = project.working_directory or project.paths[0]
    return (project.python, folder, *sorted(project.process_environment.items()))


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
    project: SQLMeshProject, request: msg.Request, answer: type[_Answer], tables: AnswerTables | None = None
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
