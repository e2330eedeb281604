"""Workers that the test process starts are forks of a process that has imported SQLMesh (tests/worker_zygote.py)."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest
import worker_zygote

from dg_sqlmesh_component.config.project import SQLMeshProject
from dg_sqlmesh_component.worker_client import start as worker_start


@pytest.fixture(autouse=True, scope="session")
def _forked_workers() -> Iterator[None]:
    start = worker_start.start

    def fork_or_start(project: SQLMeshProject) -> subprocess.Popen[bytes] | worker_zygote.ForkedWorker:
        environment = project.process_environment
        if project.python is None and worker_zygote.can_fork(environment):
            return worker_zygote.start(project.working_directory or project.paths[0], environment)
        return start(project)

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(worker_start, "start", fork_or_start)
        yield
