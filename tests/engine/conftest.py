"""Workers that the test process starts are forks of a process that has imported SQLMesh (tests/worker_zygote.py)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import worker_zygote


@pytest.fixture(autouse=True, scope="session")
def _forked_workers() -> Iterator[None]:
    with worker_zygote.forked_workers():
        yield
