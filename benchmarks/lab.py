"""What the benchmarks share: a generated SQLMesh project, Dagster projects over it, and processes that are timed.

Whatever is compared is measured in the same round, one after the other, each in a process of its own. A round gives a
ratio; several rounds give its median and range.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import generate

HERE = Path(__file__).resolve().parent
YAML = "type: dg_sqlmesh_component.SQLMeshProjectComponent\nattributes:\n  project: '{project}'\n{more}"
DEFINITIONS = """
from pathlib import Path
import dagster as dg


@dg.definitions
def defs():
    return dg.load_from_defs_folder(path_within_project=Path(__file__).parent)
"""
INSTANCE = "telemetry: {enabled: false}\n"


@dataclass(frozen=True)
class Measured:
    """A process that has ended.

    Attributes:
        seconds: From its start to its end.
        said: The JSON object in the last line of its output; empty when it printed none.
        status: Its exit status.
    """

    seconds: float
    said: dict[str, Any]
    status: int
    output: str


def measure(command: Sequence[str | Path], *, cwd: Path, check: bool = True, **env: str) -> Measured:
    """Run a command and time it."""
    since = time.perf_counter()
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={**_environment(), **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    seconds = time.perf_counter() - since
    output = f"{done.stdout}\n{done.stderr}"
    if check and done.returncode:
        raise RuntimeError(f"{command} ended with {done.returncode}:\n{output}")
    last = (done.stdout.strip().splitlines() or [""])[-1]
    return Measured(seconds, json.loads(last) if last.startswith("{") else {}, done.returncode, output)


def peak_megabytes(command: Sequence[str | Path], *, cwd: Path, **env: str) -> float:
    """The most memory that a command and its children had at once: proportional set size, looked at 20 times a second.

    Raises:
        RuntimeError: The command failed.
    """
    process = subprocess.Popen(
        [str(word) for word in command],
        cwd=cwd,
        env={**_environment(), **env},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    peak = 0.0
    while process.poll() is None:
        peak = max(peak, sum(map(_megabytes, _tree(process.pid))))
        time.sleep(0.05)
    if process.returncode:
        raise RuntimeError(f"{command} ended with {process.returncode}")
    return peak


def _environment() -> dict[str, str]:
    """The environment of what is measured: this Python's commands first, and bytecode kept, as users have it.

    Where Python may not write bytecode (many containers say so), each process compiles whatever it imports, which
    took longer than most of what is measured here.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**environment, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"}


def _tree(pid: int) -> list[int]:
    found = [pid]
    for one in found:
        try:
            for task in Path(f"/proc/{one}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
        except (FileNotFoundError, ProcessLookupError):
            pass  # it has ended
    return found


def _megabytes(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


class Lab:
    """A SQLMesh project of some size, planned three days ago, and copies of it that a run may use up.

    Attributes:
        project: The SQLMesh project; `restore` brings it back to how it was planned.
    """

    def __init__(self, folder: Path, models: int, *, planned: bool = True, **shape: Any) -> None:
        self.folder = folder
        self.models = models
        self.project = folder / "sqlmesh"
        generate.write(self.project, models, **shape)
        if not planned:
            return
        sqlmesh = "from sqlmesh.cli.main import cli; cli()"
        plan = ["plan", "--auto-apply", "--no-prompts", "--execution-time", "3 days ago"]
        measure([sys.executable, "-c", sqlmesh, "-p", self.project, *plan], cwd=self.project)
        shutil.copytree(self.project, self._planned)

    @property
    def _planned(self) -> Path:
        return self.folder / "planned"

    def restore(self) -> None:
        """Bring the project back to how it was planned, so that everything is due."""
        shutil.rmtree(self.project)
        shutil.copytree(self._planned, self.project)

    def dagster_project(self, name: str, files: Mapping[str, str]) -> Path:
        """A Dagster project with these files in its defs folder, and a Dagster home of its own beside it."""
        root = self.folder / name
        for path, text in {
            "pyproject.toml": f'[tool.dg]\ndirectory_type = "project"\n[tool.dg.project]\nroot_module = "{name}"\n',
            f"{name}/__init__.py": "",
            f"{name}/definitions.py": DEFINITIONS,
            "home/dagster.yaml": INSTANCE,
            **{f"{name}/defs/{path}": text for path, text in files.items()},
        }.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(text)
        return root

    def declaration(self, attributes: str = "") -> dict[str, str]:
        """Our component's file, by path."""
        return {"shop/defs.yaml": YAML.format(project=self.project, more=attributes)}

    def ours(self, name: str = "ours", attributes: str = "") -> Path:
        """A Dagster project with our component, its state stored."""
        root = self.dagster_project(name, self.declaration(attributes))
        measure(
            [sys.executable, HERE / "in_dagster.py", "load", root],
            cwd=root,
            DAGSTER_HOME=str(root / "home"),
            DAGSTER_IS_DEV_CLI="1",
        )
        return root


def in_dagster(what: str, root: Path, *words: str | Path, check: bool = True) -> Measured:
    """Run `in_dagster.py` on a Dagster project."""
    command = [sys.executable, HERE / "in_dagster.py", what, root, *words]
    return measure(command, cwd=root, check=check, DAGSTER_HOME=str(root / "home"))


def forget_runs(root: Path) -> None:
    """Empty a Dagster home: what a step costs must not depend on the round."""
    shutil.rmtree(root / "home")
    (root / "home").mkdir()
    (root / "home" / "dagster.yaml").write_text(INSTANCE)


def progress(measured: Mapping[str, float]) -> None:
    """Say what a round has measured, beside the tables: they come at the end, hours later."""
    print("; ".join(f"{what} {value:.1f}" for what, value in measured.items()), file=sys.stderr, flush=True)


def heading(title: str) -> str:
    """The beginning of a table."""
    return f"\n### {title}\n\n| what | median | range |\n|---|---|---|"


def row(what: str, values: Sequence[float], unit: str = "") -> str:
    """A line of a table: median and range."""
    low, high = min(values), max(values)
    return f"| {what} | {statistics.median(values):.2f}{unit} | {low:.2f} to {high:.2f} |"


def ratio_row(what: str, ours: Sequence[float], theirs: Sequence[float]) -> str:
    """A line of a table: the median and range of the rounds' ratios."""
    return row(what, [one / other for one, other in zip(ours, theirs)])
