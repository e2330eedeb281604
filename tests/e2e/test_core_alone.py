"""The core runs without any one capability: a copy of the package has neither its folder nor its lines in the roots."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from rooms import CAPABILITIES
from without_capability import copy_without

BY_DAY = ("plans", "sources")
"""Those whose absence is tested by `make test-rest`; the others by `make nightly`."""
RUNS = ("tests/engine/test_starter.py", "tests/engine/test_outcome_rows.py")


@pytest.mark.parametrize(
    "capability", [name if name in BY_DAY else pytest.param(name, marks=pytest.mark.slow) for name in CAPABILITIES]
)
def test_core_runs_without_a_capability(capability: str, tmp_path: Path) -> None:
    copy = copy_without(capability, tmp_path / "copy")
    tests = copy.unit_tests()
    assert {"tests/unit/run/test_ledger.py", "tests/unit/protocol/test_wire.py"} <= set(tests)
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests, *RUNS]
    environment = {**os.environ, "PYTHONPATH": str(copy.root)}
    done = subprocess.run(command, cwd=copy.root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5_000:]
