"""Environments with packages that the test environment must not have."""

import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from harness import REPOSITORY, run

# The DuckDB version of the test environment, because both environments open the same files.
DBT = ("dagster-dbt", "dbt-duckdb", "dbt-core>=1.8", "dagster-dg-cli", f"duckdb=={version('duckdb')}")
# The source distribution of this dependency of dbt-core downloads a binary, which some machines do not allow.
BINARY = ("--only-binary", "dbt-core-experimental-parser")
UNREACHABLE = re.compile(r"Failed to (fetch|download)|network was disabled")


def create_environment(folder: Path, *packages: str) -> Path:
    """Create an environment with this package and others. Return the folder of its commands.

    The test is skipped only if the package index cannot be reached. It fails if the packages do not fit together.
    """
    uv = [sys.executable, "-m", "uv"]
    python = folder / "environment" / "bin" / "python"
    run([*uv, "venv", "--python", sys.executable, python.parents[1]], cwd=folder)
    # With bytecode, the processes of the environment start three times faster.
    options = ("--compile-bytecode", "--python", str(python), *BINARY)
    command = [*uv, "pip", "install", *options, "-e", str(REPOSITORY), *packages]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode and UNREACHABLE.search(done.stderr):
        pytest.skip(f"NOT TESTED: uv reaches no package index, so {', '.join(packages)} are missing.\n{done.stderr}")
    assert not done.returncode, done.stderr
    return python.parent


def run_in_environment(bin_: Path, folder: Path, *command: str) -> str:
    """Run a command of an environment. No other environment is on the PATH."""
    done = run([bin_ / command[0], *command[1:]], cwd=folder, PATH=f"{bin_}{os.pathsep}{os.defpath}")
    return done.stdout + done.stderr
