"""The benchmarks run from end to end. The projects are so small that the numbers mean nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest
from harness import REPOSITORY


@pytest.mark.parametrize(
    ("command", "headings"),
    [
        (
            ["definitions.py", "--models", "3"],
            ["### 3 models, definitions", "/ the same by hand**"],
        ),
        (
            ["runs.py", "--models", "3", "--measure", "steps", "memory", "launches"],
            ["### 3 models, all pending", "### 3 models, peak memory", "**dg launch / sqlmesh run**"],
        ),
        (
            ["growth.py", "--models", "3", "4"],
            ["### 4 models, 1 rounds", "### Cost of one model: 4 / 3 models", "`record_unchanged: false`"],
        ),
        (
            ["ticks.py", "--models", "8"],
            ["### 8 models, 1 rounds", "a tick / `sqlmesh run`, nothing pending"],
        ),
    ],
)
@pytest.mark.slow
def test_benchmark_prints_its_tables(command: list[str], headings: list[str]) -> None:
    script, *options = command
    done = subprocess.run(
        [sys.executable, REPOSITORY / "benchmarks" / script, *options, "--rounds", "1"],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    for heading in headings:
        assert heading in done.stdout
