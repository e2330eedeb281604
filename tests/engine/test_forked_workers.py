"""The engine tests start their workers as forks. A variable that prevents it would double the time of the suite."""

from __future__ import annotations

from pathlib import Path

import worker_zygote

from dg_sqlmesh_component.config.project import SQLMeshProject


def test_workers_of_the_tests_are_forks(tmp_path: Path) -> None:
    project = SQLMeshProject(paths=(tmp_path,))

    assert worker_zygote.can_fork(project.process_environment)
