"""Fixtures of the engine tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import worker_zygote
from harness import NewShop, planned_shop


@pytest.fixture(autouse=True, scope="session")
def _forked_workers() -> Iterator[None]:
    """Let workers of the test process be forks of a process that has imported SQLMesh (tests/worker_zygote.py)."""
    with worker_zygote.forked_workers():
        yield


@pytest.fixture
def new_shop(tmp_path: Path) -> Iterator[NewShop]:
    """Create a planned project with a component. The Dagster instance ends with the test."""
    with ExitStack() as stack:
        yield lambda *arguments, **options: stack.enter_context(planned_shop(tmp_path, *arguments, **options))
