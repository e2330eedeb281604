"""Fixtures of the tests of commands."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import DagsterProject, dagster_project


@pytest.fixture
def dagster(tmp_path: Path) -> Iterator[DagsterProject]:
    with dagster_project(tmp_path) as project:
        yield project
