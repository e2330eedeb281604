"""What a developer starts works in a folder whose path has a space."""

import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def test_make_installs_into_an_environment_whose_path_has_a_space(tmp_path: Path) -> None:
    folder = tmp_path / "my checkout"
    folder.mkdir()
    shutil.copy(REPOSITORY / "Makefile", folder)
    (folder / "pyproject.toml").touch()
    targets = ("set-up", ".venv/.dg", "test-floors", "test-engines")
    commands = subprocess.run(
        ["make", "--dry-run", "--always-make", "VENV=.venv", "PYTHON=python3", *targets],
        cwd=folder, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    installs = [shlex.split(command.rstrip("\\")) for command in commands if "VIRTUAL_ENV=" in command]
    of_targets = [f"VIRTUAL_ENV={folder}/{venv}" for venv in (".venv", ".venv", ".venv-floors", ".venv-engines")]
    assert [words[:2] for words in installs] == [[venv, ".venv/bin/uv"] for venv in of_targets]


def test_nightly_trials_start_an_interpreter_whose_path_has_a_space(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/my checkout/.venv/bin/python")
    parts = runpy.run_path(str(REPOSITORY / "scripts" / "nightly.py"))["PARTS"]
    assert shlex.split(parts["random losses"])[:2] == [sys.executable, "tests/soak/random_losses.py"]
    assert all("--seed" in command for command in parts.values() if "tests/soak" in command)
