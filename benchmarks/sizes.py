"""What projects of different sizes cost, and the exponent with which each cost grows. Each size has a real plan.

CPU seconds of whole processes with all that they start: ours, SQLMesh alone, and the same assets by hand in Dagster.
The models have 20 columns and one audit. One of a hundred models is pending, or one model of the middle layer changes.
With `record_unchanged: false`, as large projects have it.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Collection
from datetime import datetime, timedelta, timezone
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import by_hand
import duckdb
from growth import UNRECORDED
from lab import HERE, Lab, Measured, heading, in_dagster, measure, progress
from plans import ours as our_plan
from previews import close, preview

from dg_sqlmesh_component.config.project import SQLMeshProject

LINEAGE_PAGE = """{ assetNodes {
    id groupName kinds description hasMaterializePermission isExecutable isPartitioned jobNames opNames
    assetKey { path } dependencyKeys { path } dependedByKeys { path } tags { key value } hasAssetChecks
    repository { name location { name } }
} }"""
ASSET_PAGE = """{ assetNodeOrError(assetKey: {path: %s}) { ... on AssetNode {
    id description opVersion metadataEntries { label __typename } dependencyKeys { path } dependedByKeys { path }
    assetMaterializations(limit: 100) { timestamp runId metadataEntries { label __typename } }
    assetChecksOrError {
        ... on AssetChecks { checks { name description executionForLatestMaterialization { status } } }
    }
} } }"""
PARTS = ("definitions", "runs", "changes")
Costs = dict[tuple[str, str], float]
"""CPU seconds, or kilobytes, by what and by whom."""


class Sized:
    """A project of one size, which is planned as of now, so that nothing is pending."""

    def __init__(self, folder: Path, models: int) -> None:
        self.folder, self.models, self.costs = folder, models, Costs()
        self.planned_on = datetime.now(timezone.utc).date()
        self.lab = Lab(folder, models, planned_at="now", columns=18, audits=1)
        self.model = f"model_{models // 2:04d}"
        text = (self.lab.project / "models" / f"{self.model}.sql").read_text()
        self.asset = text.split("name ")[1].split(",")[0].replace(".", "/")

    def add(self, what: str, who: str, cost: float) -> None:
        self.costs[what, who] = cost
        progress({f"{self.models} models, {what}, {who}": cost})

    def measure(self, parts: Collection[str]) -> None:
        """Measure each cost of these parts once."""
        assert self.lab.plan is not None
        self.add("plan of a new project", "SQLMesh", self.lab.plan.cpu)
        for part in parts:
            getattr(self, part)()

    @cached_property
    def ours(self) -> Path:
        return self.lab.ours(attributes=UNRECORDED + "  restate: true\n")

    @property
    def sqlmesh(self) -> list[str | Path]:
        return [sys.executable, "-c", "from sqlmesh.cli.main import cli; cli()", "-p", self.lab.project]

    def definitions(self) -> None:
        """Load definitions for the first time and later, and show two pages of them."""
        self.add("first load", "ours", cpu_of(lambda: self.ours))
        hand = self.lab.dagster_project("hand", {"project.py": by_hand.module(self.ours)})
        alone: list[str | Path] = [sys.executable, HERE / "sqlmesh_alone.py", "load", self.lab.project]
        self.add("load", "SQLMesh", measure(alone, cwd=self.lab.project).cpu)
        for who, root in (("ours", self.ours), ("by hand", hand)):
            self.add("load", who, in_dagster("load", root).cpu)
            self.add("kilobytes of a model's definition", who, self.snapshot(root))
            for page, seconds in pages(root, self.asset).items():
                self.add(page, who, seconds)

    def snapshot(self, root: Path) -> float:
        size: float = in_dagster("snapshot", root).printed["bytes"]
        return size / 1_000 / self.models

    def runs(self) -> None:
        """Run with nothing pending after the plan, with one of a hundred models, as a dry run, and again."""
        self.add("first run after the plan", "ours", self.run().cpu)
        computed = self.folder / "computed"
        shutil.copytree(self.lab.project, computed)
        self.forget_intervals()
        self.add("dry run", "ours", in_dagster("configured", self.ours, json.dumps({"dry_run": True})).cpu)
        self.add("run of one of a hundred", "ours", self.run().cpu)
        results = self.folder / "results.json"
        in_dagster("results", self.ours, results)
        hand = self.lab.dagster_project("recording", {"project.py": by_hand.module(self.ours, results)})
        self.add("run of one of a hundred", "by hand", in_dagster("step", hand).cpu)
        shutil.rmtree(self.lab.project)
        shutil.move(computed, self.lab.project)
        self.forget_intervals()
        alone: list[str | Path] = [sys.executable, HERE / "sqlmesh_alone.py", "run", self.lab.project]
        self.add("run of one of a hundred", "SQLMesh", measure(alone, cwd=self.lab.project).cpu)
        self.restatements()

    def run(self) -> Measured:
        done = in_dagster("step", self.ours)
        assert done.printed["ok"], done.output
        return done

    def forget_intervals(self) -> None:
        """Let one of a hundred models have nothing computed. Exits if a new day has made all models pending."""
        if datetime.now(timezone.utc).date() != self.planned_on:
            sys.exit("Midnight UTC has passed since the plan, so all models are pending. Start again.")
        with duckdb.connect(str(self.lab.project / "warehouse.duckdb")) as connection:
            one_of_a_hundred = "CAST(regexp_extract(name, 'model_([0-9]+)', 1) AS INT) % 100 = 0"
            connection.execute(f"DELETE FROM sqlmesh._intervals WHERE {one_of_a_hundred}")

    def restatements(self) -> None:
        """Compute one day of a model again, and of all models downstream."""
        day = f"{datetime.now(timezone.utc) - timedelta(days=1):%Y-%m-%d}"
        config = {"restate": {"start": day, "end": day}}
        done = in_dagster("configured", self.ours, json.dumps(config), self.asset)
        self.add("restatement", "ours", done.cpu)
        words = ["--restate-model", self.asset.replace("/", "."), "--start", day, "--end", day]
        done = measure([*self.sqlmesh, "plan", *words, "--no-prompts", "--auto-apply"], cwd=self.lab.project)
        self.add("restatement", "SQLMesh", done.cpu)

    def changes(self) -> None:
        """Plan and preview a change of one model."""
        project = SQLMeshProject(paths=(self.lab.project,))
        model = self.lab.project / "models" / f"{self.model}.sql"
        original = model.read_text()
        model.write_text(original.replace("AS c1", "+ 1 AS c1", 1))
        self.add("plan of a change", "ours", cpu_of(lambda: our_plan(project, applies=False)))
        asked = measure([*self.sqlmesh, "plan", "--no-prompts"], cwd=self.lab.project, check=False)
        assert "Apply - Backfill Tables" in asked.output, asked.output
        self.add("plan of a change", "SQLMesh", asked.cpu)
        self.add("preview", "ours", cpu_of(lambda: preview(project)))
        close(project)
        model.write_text(original.replace("AS c1", "+ 2 AS c1", 1))
        planned = measure([*self.sqlmesh, "plan", "pr_1", "--no-prompts", "--auto-apply"], cwd=self.lab.project)
        self.add("preview", "SQLMesh", planned.cpu)


def pages(root: Path, asset: str) -> dict[str, float]:
    """CPU seconds of the web server for the data of two pages, the second time that each is asked for."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command: list[str | Path] = [
        Path(sys.executable).parent / "dagster-webserver",
        "-m",
        f"{root.name}.definitions",
        "-p",
        str(port),
    ]
    environment = {**os.environ, "DAGSTER_HOME": str(root / "home")}
    log = (root / "webserver.log").open("w")
    with log, subprocess.Popen(command, cwd=root, env=environment, stdout=log, stderr=log) as server:
        try:
            _wait_for(port)
            queries = {"page of lineage": LINEAGE_PAGE, "page of an asset": ASSET_PAGE % json.dumps(asset.split("/"))}
            seconds = {}
            for name, query in [*queries.items()] * 2:
                since = _cpu_of_process(server.pid)
                answer = _post(port, query)
                assert "errors" not in answer, answer["errors"]
                seconds[name] = _cpu_of_process(server.pid) - since
            return seconds
        finally:
            server.send_signal(signal.SIGINT)


def _wait_for(port: int) -> None:
    for _ in range(1_200):
        try:
            _post(port, "{ version }")
        except OSError:
            time.sleep(0.5)
        else:
            return
    raise TimeoutError("the web server does not answer")


def _post(port: int, query: str) -> dict[str, Any]:
    body = json.dumps({"query": query}).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}/graphql", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=600) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def _cpu_of_process(pid: int) -> float:
    numbers = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(numbers[11]) + int(numbers[12])) / os.sysconf("SC_CLK_TCK")


def cpu_of(action: Callable[[], object]) -> float:
    """CPU seconds of the processes that an action starts and waits for."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    action()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, nargs="+", default=[100, 1_000, 10_000])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    options = parser.parse_args()
    rounds = [[measured(models, options.parts) for models in options.models] for _ in range(options.rounds)]
    print(heading(f"Costs by number of models, {options.rounds} rounds").rsplit("\n", 2)[0])
    print("| what |", " | ".join(f"{models:,}" for models in options.models), "| exponents |")
    print(f"|{'---|' * (len(options.models) + 2)}")
    for what, who in rounds[0][0]:
        costs = [statistics.median(sizes[number][what, who] for sizes in rounds) for number in range(len(rounds[0]))]
        grown = map(exponent, pairwise(options.models), pairwise(costs))
        texts = (*(f"{cost:.2f}" for cost in costs), ", ".join(f"{value:.2f}" for value in grown))
        print(f"| {what}, {who} |", " | ".join(texts), "|")


def measured(models: int, parts: Collection[str]) -> Costs:
    """The costs of these parts with a project of this size."""
    with tempfile.TemporaryDirectory() as folder:
        size = Sized(Path(folder).resolve(), models)
        size.measure(parts)
    return size.costs


def exponent(models: tuple[int, int], costs: tuple[float, float]) -> float:
    """1 if the cost grows as the number of models does; not a number if a cost is too small for the clock."""
    return math.log(costs[1] / costs[0]) / math.log(models[1] / models[0]) if all(costs) else math.nan


if __name__ == "__main__":
    main()
