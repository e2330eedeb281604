"""The engine tests start their workers as forks. A variable that prevents it would double the time of the suite."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import worker_zygote

from dg_sqlmesh_component.config.project import SQLMeshProject


def test_workers_of_the_tests_are_forks(tmp_path: Path) -> None:
    project = SQLMeshProject(paths=(tmp_path,))

    assert worker_zygote.can_fork(project.process_environment)


def test_workers_that_start_at_once_do_not_mix_their_requests(tmp_path: Path) -> None:
    environment = {**worker_zygote._environment(), "LARGE": "x" * 100_000}
    worker_zygote.start(tmp_path, environment).stdin.close()

    with ThreadPoolExecutor(4) as threads:
        workers = list(threads.map(lambda _: worker_zygote.start(tmp_path, environment), range(12)))

    for worker in workers:
        os.kill(worker.pid, signal.SIGKILL)
    assert {worker.wait(60) for worker in workers} == {-signal.SIGKILL}
