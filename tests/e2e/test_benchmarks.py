"""The benchmarks run from end to end. The projects are so small that the numbers mean nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from harness import REPOSITORY

WARN = "import sys; sys.path.insert(0, 'benchmarks'); import lab; lab.warn_without_bytecode()"


def test_benchmarks_warn_if_they_would_measure_the_compiler(tmp_path: Path) -> None:
    def warning(**env: str) -> str:
        variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        command = [sys.executable, "-c", WARN]
        return subprocess.run(
            command, cwd=REPOSITORY, env={**variables, **env}, capture_output=True, text=True, check=True
        ).stderr

    assert warning(PYTHONDONTWRITEBYTECODE="1").startswith("Warning: PYTHONDONTWRITEBYTECODE is set")
    empty = warning(PYTHONPYCACHEPREFIX=str(tmp_path))
    assert "dagster has no bytecode, sqlmesh has no bytecode, sqlglot has no bytecode" in empty
    assert "-m compileall -q" in empty


@pytest.mark.parametrize(
    ("command", "headings"),
    [
        (["definitions.py", "--models", "3"], ["### 3 models, definitions", "/ the same by hand**"]),
        (
            ["definitions.py", "--project", str(REPOSITORY / "examples" / "jaffle_shop" / "sqlmesh_project")],
            ["models, definitions, 1 rounds", "| ours in development, models/"],
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
            ["stored.py", "--models", "3"],
            ["### 3 models, nothing pending, 1 runs", "kilobytes of a model, `execution.record_unchanged: false`"],
        ),
        (
            ["sizes.py", "--models", "20", "40"],
            ["| what | 20 | 40 | exponents |", "| load, by hand |", "| restatement, SQLMesh |", "| preview, ours |"],
        ),
        (["columns.py"], ["### Columns of a materialization, 1 rounds", "| 20 columns |"]),
        (["plans.py", "--models", "20"], ["### 20 models, 1 rounds", "our apply / `sqlmesh plan --auto-apply`"]),
        (["ticks.py", "--models", "8"], ["### 8 models, 1 rounds", "a tick / `sqlmesh run`, nothing pending"]),
        (
            ["waiting_ticks.py", "--models", "8", "--sources", "3", "--partitions", "8"],
            ["### 8 models, 3 sources with 8 partitions, nothing pending", "**later tick, with / without, seconds**"],
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
