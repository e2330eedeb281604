"""Start the worker, for a request that is there or for one that will come."""

from __future__ import annotations

import subprocess
import sys

from dg_sqlmesh_component.config.project import SQLMeshProject
from dg_sqlmesh_component.protocol.bootstrap import start_command
from dg_sqlmesh_component.protocol.errors import InstallationError


class EarlyWorkers:
    """Workers that were started before their request is known, so that SQLMesh is imported meanwhile.

    Without a request they end with this process.
    """

    def __init__(self) -> None:
        self._processes: dict[tuple[object, ...], subprocess.Popen[bytes]] = {}

    def start(self, project: SQLMeshProject) -> None:
        """Start the worker of this process's next request for the project, unless there is one already."""
        needs = _needs(project)
        if needs not in self._processes:
            try:
                self._processes[needs] = start(project)
            except InstallationError:
                pass  # the request reports it

    def take(self, project: SQLMeshProject) -> subprocess.Popen[bytes]:
        """A process for one request: the one that was started early if it is still there, else a new one.

        Raises:
            InstallationError: The interpreter cannot be started.
        """
        early = self._processes.pop(_needs(project), None)
        return early if early is not None and early.poll() is None else start(project)


EARLY_WORKERS = EarlyWorkers()
"""One for the process: definitions are loaded several times in it, by components that do not know of each other."""


def start(project: SQLMeshProject) -> subprocess.Popen[bytes]:
    """Start a worker, which waits for its request.

    Raises:
        InstallationError: The interpreter cannot be started.
    """
    python = project.python or sys.executable
    try:
        return subprocess.Popen(
            start_command(python, "worker"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=project.working_directory or project.paths[0],
            env=project.process_environment,
            start_new_session=True,  # signals of the terminal reach the parent, which decides
        )
    except OSError as error:
        raise InstallationError(
            f"The interpreter {python} cannot be started: {error.strerror}. Correct `project.python` in defs.yaml."
        ) from error


def _needs(project: SQLMeshProject) -> tuple[object, ...]:
    """What a worker that has no request yet depends on."""
    folder = project.working_directory or project.paths[0]
    return (project.python, folder, *sorted(project.process_environment.items()))
