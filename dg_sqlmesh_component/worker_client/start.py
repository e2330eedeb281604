"""Starts workers, before or with their requests."""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress

from dg_sqlmesh_component.config.project import SQLMeshProject
from dg_sqlmesh_component.protocol.bootstrap import start_command
from dg_sqlmesh_component.protocol.errors import InstallationError


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
                self._processes[key] = start(project)

    def take(self, project: SQLMeshProject) -> subprocess.Popen[bytes]:
        """A process for one request: the early worker if it is still alive, else a new one.

        Raises an InstallationError if the interpreter cannot be started.
        """
        early = self._processes.pop(_key(project), None)
        return early if early is not None and early.poll() is None else start(project)


EARLY_WORKERS = EarlyWorkers()
"""Shared by the process, because Dagster loads definitions several times in it, each time with new components."""


def start(project: SQLMeshProject) -> subprocess.Popen[bytes]:
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
