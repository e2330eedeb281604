"""Shared by all benchmarks: a generated SQLMesh project, Dagster projects that use it, and timed processes.

A round measures all candidates one after the other, each in a process of its own. Each round gives a ratio. The tables
show the median and the range of all rounds.
"""

from __future__ import annotations

import importlib.util
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Mapping, Sequence
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
        cpu: CPU seconds of the process, and of the processes that it has waited for.
        printed: The JSON object in the last line of its output; empty if there is none.
        status: Its exit status.
    """

    seconds: float
    printed: dict[str, Any]
    status: int
    output: str
    cpu: float


def measure(command: Sequence[str | Path], *, cwd: Path, check: bool = True, **env: str) -> Measured:
    """Run a command and time it."""
    since, cpu_before = time.perf_counter(), _cpu_of_children()
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={**_environment(), **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    seconds, cpu = time.perf_counter() - since, _cpu_of_children() - cpu_before
    output = f"{done.stdout}\n{done.stderr}"
    if check and done.returncode:
        raise RuntimeError(f"{command} ended with {done.returncode}:\n{output}")
    last = (done.stdout.strip().splitlines() or [""])[-1]
    return Measured(seconds, json.loads(last) if last.startswith("{") else {}, done.returncode, output, cpu)


def spent_by(action: Callable[[], object], *, cpu: bool) -> float:
    """The seconds that an action takes, or the CPU seconds of the processes that it starts and waits for."""
    since, cpu_before = time.perf_counter(), _cpu_of_children()
    action()
    return _cpu_of_children() - cpu_before if cpu else time.perf_counter() - since


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def peak_megabytes(command: Sequence[str | Path], *, cwd: Path, **env: str) -> float:
    """The largest memory of a command and its children together: proportional set size, measured 20 times a second.

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


def warn_without_bytecode() -> None:
    """Warn if the numbers would contain the time of the compiler."""
    causes = ["PYTHONDONTWRITEBYTECODE is set"] if os.environ.get("PYTHONDONTWRITEBYTECODE") else []
    for package in ("dagster", "sqlmesh", "sqlglot", "dg_sqlmesh_component"):
        found = importlib.util.find_spec(package)
        if found is None or found.origin is None or not os.path.exists(importlib.util.cache_from_source(found.origin)):
            causes.append(f"{package} has no bytecode")
    if causes:
        command = f"{sys.executable} -m compileall -q {sysconfig.get_path('purelib')} {HERE.parent}"
        print(
            f"Warning: {', '.join(causes)}. Processes may compile what they import, and the numbers would "
            f"contain that. Unset the variable, and compile the packages: {command}",
            file=sys.stderr,
        )


def _environment() -> dict[str, str]:
    """Environment variables of the measured processes: this Python's commands come first, and bytecode is kept.

    Many containers set `PYTHONDONTWRITEBYTECODE`. Each process then compiles all that it imports, which takes longer
    than most of the measured work.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**environment, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"}


def _tree(pid: int) -> list[int]:
    pids = [pid]
    for parent in pids:
        try:
            for task in Path(f"/proc/{parent}/task").iterdir():
                pids += map(int, (task / "children").read_text().split())
        except (FileNotFoundError, ProcessLookupError):
            pass  # it has ended
    return pids


def _megabytes(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


class Lab:
    """A SQLMesh project: a generated one, planned as of three days ago, or a copy of another one.

    Attributes:
        project: The SQLMesh project. `restore` undoes the runs since the plan.
        plan: SQLMesh's plan; None: there was none.
    """

    def __init__(
        self,
        folder: Path,
        models: int,
        *,
        planned: bool = True,
        planned_at: str = "3 days ago",
        project: Path | None = None,
        **shape: Any,
    ) -> None:
        warn_without_bytecode()
        self.folder = folder
        self.models = models
        self.project = folder / "sqlmesh"
        if project is None:
            generate.write(self.project, models, **shape)
        else:
            shutil.copytree(project, self.project)
        self.plan: Measured | None = None
        if not planned:
            return
        sqlmesh = "from sqlmesh.cli.main import cli; cli()"
        plan = ["plan", "--auto-apply", "--no-prompts", "--execution-time", planned_at]
        self.plan = measure([sys.executable, "-c", sqlmesh, "-p", self.project, *plan], cwd=self.project)
        shutil.copytree(self.project, self._planned)

    @property
    def _planned(self) -> Path:
        return self.folder / "planned"

    def restore(self) -> None:
        """Undo all runs since the plan, so that all models have pending intervals."""
        shutil.rmtree(self.project)
        shutil.copytree(self._planned, self.project)

    def dagster_project(self, name: str, files: Mapping[str, str]) -> Path:
        """A Dagster project with these files in its defs folder, and a Dagster home of its own."""
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

    def component_file(self, attributes: str = "") -> dict[str, str]:
        """The `defs.yaml` of our component, by path."""
        return {"shop/defs.yaml": YAML.format(project=self.project, more=attributes)}

    def ours(self, name: str = "ours", attributes: str = "", python_path: str = "") -> Path:
        """A Dagster project with our component and a stored manifest."""
        root = self.dagster_project(name, self.component_file(attributes))
        measure(
            [sys.executable, HERE / "in_dagster.py", "load", root],
            cwd=root,
            DAGSTER_HOME=str(root / "home"),
            DAGSTER_IS_DEV_CLI="1",
            PYTHONPATH=python_path,
        )
        return root


def in_dagster(what: str, root: Path, *words: str | Path, check: bool = True, python_path: str = "") -> Measured:
    """Run `in_dagster.py` on a Dagster project."""
    command = [sys.executable, HERE / "in_dagster.py", what, root, *words]
    return measure(command, cwd=root, check=check, DAGSTER_HOME=str(root / "home"), PYTHONPATH=python_path)


def forget_runs(root: Path) -> None:
    """Empty a Dagster home, so that a round does not depend on the rounds before it."""
    shutil.rmtree(root / "home")
    (root / "home").mkdir()
    (root / "home" / "dagster.yaml").write_text(INSTANCE)


def progress(measured: Mapping[str, float]) -> None:
    """Print the numbers of a round at once. The tables come at the end, hours later."""
    print("; ".join(f"{name} {value:.1f}" for name, value in measured.items()), file=sys.stderr, flush=True)


def heading(title: str) -> str:
    """The beginning of a table."""
    return f"\n### {title}\n\n| what | median | range |\n|---|---|---|"


def row(what: str, values: Sequence[float], unit: str = "") -> str:
    """A line of a table: median and range."""
    low, high = min(values), max(values)
    return f"| {what} | {statistics.median(values):.2f}{unit} | {low:.2f} to {high:.2f} |"


def ratio_row(what: str, ours: Sequence[float], others: Sequence[float]) -> str:
    """A line of a table: the median and range of the rounds' ratios."""
    return row(what, [our / other for our, other in zip(ours, others)])
