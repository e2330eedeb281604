"""The core runs without any capability: a copy has neither their folders nor their lines in the roots."""

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from rooms import CAPABILITIES
from without_capability import copy_without

RUNS = ("tests/engine/test_starter.py", "tests/engine/test_outcome_rows.py")


# A minute: it runs all unit tests of the core once more.
def test_core_runs_alone(tmp_path: Path) -> None:
    run_core_without(CAPABILITIES, tmp_path / "copy")


@pytest.mark.slow
@pytest.mark.parametrize("capability", CAPABILITIES)
def test_core_runs_without_a_capability(capability: str, tmp_path: Path) -> None:
    run_core_without([capability], tmp_path / "copy")


def run_core_without(capabilities: Iterable[str], root: Path) -> None:
    """Run the core's unit tests, the starter and the outcome rows in a copy without these capabilities."""
    copy = copy_without(capabilities, root)
    tests = copy.unit_tests()
    assert {"tests/unit/run/test_ledger.py", "tests/unit/worker/intervals/test_availability.py"} <= set(tests)
    # Few examples: whether a property holds is tested without a copy.
    options = ["-q", "-x", "-p", "no:cacheprovider", "--hypothesis-profile=mutation"]
    command = [sys.executable, "-m", "pytest", *options, *tests, *RUNS]
    environment = {**os.environ, "PYTHONPATH": str(copy.root)}
    done = subprocess.run(command, cwd=copy.root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5_000:]
