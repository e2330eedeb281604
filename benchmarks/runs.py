"""The cost of a step: ours, SQLMesh alone and Dagster alone, with all models pending and with nothing pending.

SQLMesh alone is a script with `Context(load=False).run()`, as a whole process. Dagster alone is a `multi_asset`
without SQLMesh that records the same results on an instance of the same kind (SQLite). Ours does both. Its seconds are
from the start of the step to its end; they include the start of the worker and the import of SQLMesh.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import by_hand
import duckdb
from lab import HERE, Lab, Measured, forget_runs, heading, in_dagster, measure, peak_megabytes, progress, ratio_row, row

TYPED, LAUNCH, LAUNCH_BY_HAND = "sqlmesh run", "dg launch", "dg launch, Dagster alone"
LAUNCH_IN_PROCESS = "dg launch, in-process executor"
CASES = {
    "first": "all pending, the first step after a plan",
    "steady": "all pending, in the steady state",
    "idle": "nothing pending",
}
"""Each case, with its title, in the order in which one leads to the next.

The first step after a plan records the plan's data too, as no events of its run."""

PHASES = ("until the run is created", "its planned events", "until the step begins", "the step", "until the end")


def print_round(measured: dict[str, dict[str, Measured]]) -> None:
    """Print the seconds of a round: of our step and of Dagster's, and of the whole process of SQLMesh alone."""
    processes = [(case, who, process) for case, by_who in measured.items() for who, process in by_who.items()]
    progress(
        {
            f"{case}, {who}": process.seconds if who == "alone" else process.printed["seconds"]
            for case, who, process in processes
        }
    )


class Runs:
    """Ours, SQLMesh alone and Dagster alone, on one project."""

    def __init__(
        self, folder: Path, models: int, audits: int, attributes: str = "", against: Path | None = None, **shape: Any
    ) -> None:
        self.folder = folder
        self.lab = Lab(folder, models, audits=audits, **shape)
        self.attributes = attributes
        self.ours = self.lab.ours(attributes=attributes)
        self.against = against

    @cached_property
    def hand(self) -> dict[str, Path]:
        """Dagster projects that record the same as ours, by case."""
        hand = {}
        for case in CASES:
            self.begin(case)
            self.run_ours()
            results = self.folder / f"{case}.json"
            in_dagster("results", self.ours, results)
            files = {"project.py": by_hand.module(self.ours, results)}
            hand[case] = self.lab.dagster_project(f"hand_{case}", files)
        return hand

    def run_ours(self) -> Measured:
        measured = in_dagster("step", self.ours)
        assert measured.printed["ok"], measured.output
        return measured

    def run_hand(self, case: str) -> Measured:
        forget_runs(self.hand[case])
        return in_dagster("step", self.hand[case])

    def run_alone(self) -> Measured:
        return measure(self.alone, cwd=self.lab.project)

    @property
    def alone(self) -> list[str | Path]:
        return [sys.executable, HERE / "sqlmesh_alone.py", "run", self.lab.project]

    def begin(self, case: str) -> None:
        """Make the state and Dagster's records those of a case. The one before is idle's."""
        if case == "first":
            forget_runs(self.ours)
        if case != "idle":
            self.lab.restore()

    def reset(self) -> None:
        self.begin("first")

    def round(self) -> dict[str, dict[str, Measured]]:
        """Measure everything once. Returns the processes by case, then by candidate."""
        measured = self.round_without_hand()
        return {case: {**by_who, "hand": self.run_hand(case)} for case, by_who in measured.items()}

    def round_without_hand(self) -> dict[str, dict[str, Measured]]:
        """Measure everything once, except Dagster alone."""
        ours, alone = {}, {}
        for case in CASES:
            self.begin(case)
            ours[case] = self.run_ours()
        for case in CASES:
            self.begin(case)
            alone[case] = self.run_alone()
            assert alone[case].printed["status"] == ("NOTHING_TO_DO" if case == "idle" else "SUCCESS")
        return {case: {"ours": ours[case], "alone": alone[case]} for case in CASES}

    @cached_property
    def other(self) -> Path:
        """A Dagster project of another checkout of this package."""
        return self.lab.ours("against", attributes=self.attributes, python_path=str(self.against))

    @cached_property
    def computed(self) -> Path:
        """The project after a run of everything."""
        self.lab.restore()
        self.run_alone()
        return Path(shutil.copytree(self.lab.project, self.folder / "computed"))

    def cpu(self) -> dict[str, float]:
        """CPU seconds by case and candidate: of the worker, of Dagster's process, and of SQLMesh alone."""
        seconds = {}
        candidates: dict[str, Callable[[], Measured]] = {"ours": lambda: in_dagster("step", self.ours)}
        if self.against is not None:
            candidates["against"] = lambda: in_dagster("step", self.other, python_path=str(self.against))
        candidates["alone"] = self.run_alone
        for case, every in (("nothing pending", 0), ("one of ten pending", 10), ("all pending", 1)):
            for who, run in candidates.items():
                self._forget_intervals(every)
                done = run()
                if who == "alone":
                    seconds[f"{case}: SQLMesh alone"] = done.cpu
                else:
                    seconds[f"{case}: worker, {who}"] = done.printed["worker_cpu"]
                    seconds[f"{case}: Dagster, {who}"] = done.printed["cpu"]
        return seconds

    def _forget_intervals(self, every: int) -> None:
        """Let one of so many models have nothing computed; none if it is 0."""
        computed = self.computed
        shutil.rmtree(self.lab.project)
        shutil.copytree(computed, self.lab.project)
        if every:
            names = f"CAST(regexp_extract(name, 'model_([0-9]+)', 1) AS INT) % {every} = 0"
            with duckdb.connect(str(self.lab.project / "warehouse.duckdb")) as connection:
                connection.execute(f"DELETE FROM sqlmesh._intervals WHERE {names}")

    def memory(self) -> dict[str, float]:
        """Peak megabytes with all models pending, by candidate: proportional set size, children included."""
        self.reset()
        step: list[str | Path] = [sys.executable, HERE / "in_dagster.py", "step"]
        ours = peak_megabytes([*step, self.ours], cwd=self.ours, DAGSTER_HOME=str(self.ours / "home"))
        self.lab.restore()
        alone = peak_megabytes(self.alone, cwd=self.lab.project)
        forget_runs(self.hand["first"])
        home = str(self.hand["first"] / "home")
        hand = peak_megabytes([*step, self.hand["first"]], cwd=self.hand["steady"], DAGSTER_HOME=home)
        return {"ours": ours, "alone": alone, "hand": hand}

    def command_line(self) -> dict[str, float]:
        """Seconds of whole processes as typed in a shell: `sqlmesh run`, and `dg launch` of all assets.

        Ours is measured with the in-process executor too: our run is one step, which needs no process of its own.
        """
        self.lab.restore()
        sqlmesh = "from sqlmesh.cli.main import cli; cli()"
        typed = measure([sys.executable, "-c", sqlmesh, "run"], cwd=self.lab.project)
        self.reset()
        forget_runs(self.hand["first"])
        launched = {**self.launch(LAUNCH, self.ours), **self.launch(LAUNCH_BY_HAND, self.hand["first"])}
        self.lab.restore()
        forget_runs(self.in_process)
        return {TYPED: typed.seconds, **launched, **self.launch(LAUNCH_IN_PROCESS, self.in_process)}

    @cached_property
    def in_process(self) -> Path:
        """A second Dagster project of ours, with the in-process executor."""
        root = self.lab.ours("in_process", attributes=self.attributes)
        executor = "import dagster as dg\n\ndefs = dg.Definitions(executor=dg.in_process_executor)\n"
        (root / root.name / "defs" / "executor.py").write_text(executor)
        return root

    def launch(self, name: str, root: Path) -> dict[str, float]:
        """Seconds of a whole `dg launch`, and of each of its phases."""
        since = time.time()
        done = measure(["dg", "launch", "--assets", "*"], cwd=root, DAGSTER_HOME=str(root / "home"))
        assert "RUN_SUCCESS" in done.output, done.output
        at = [since, *in_dagster("instants", root).printed.values(), since + done.seconds]
        return {name: done.seconds, **{f"{name}: {phase}": b - a for phase, (a, b) in zip(PHASES, pairwise(at))}}


def events_per_model(printed: dict[str, Any], models: int) -> str:
    counts: Counter[str] = Counter(printed["events"])
    return ", ".join(f"{kind} {count / models:.2f}" for kind, count in sorted(counts.items()) if count >= models)


def steps(runs: Runs, rounds: int) -> None:
    """Print the cost of a step."""
    runs.hand  # noqa: B018  # built before the first measurement
    measured = []
    for _ in range(rounds):
        measured.append(runs.round())
        print_round(measured[-1])
    for case, title in CASES.items():
        cases = [by_case[case] for by_case in measured]
        ours = [by_who["ours"].printed["seconds"] for by_who in cases]
        alone = [by_who["alone"].seconds for by_who in cases]
        hand = [by_who["hand"].printed["seconds"] for by_who in cases]
        imports = [by_who["alone"].printed["import_seconds"] for by_who in cases]
        print(heading(f"{runs.lab.models} models, {title}, {rounds} rounds"))
        print(row("our step", ours, " s"))
        print(row("SQLMesh alone, a script", alone, " s"))
        print(row("SQLMesh alone: its import", imports, " s"))
        print(row("Dagster alone, recording the same", hand, " s"))
        print(ratio_row("**ours / the sum of both**", ours, [sum(pair) for pair in zip(alone, hand)]))
        print(ratio_row("ours / the slower of both", ours, [max(pair) for pair in zip(alone, hand)]))
        print(ratio_row("ours / SQLMesh alone", ours, alone))
        print(row("our milliseconds per model", [1000 * seconds / runs.lab.models for seconds in ours]))
        for who in ("ours", "hand"):
            print(f"\nEvents per model, {who}: {events_per_model(measured[0][case][who].printed, runs.lab.models)}")


def repeat(measure_once: Callable[[], dict[str, float]], rounds: int) -> list[dict[str, float]]:
    """Measure so many rounds, and print each at once."""
    measured = []
    for _ in range(rounds):
        measured.append(measure_once())
        progress(measured[-1])
    return measured


def memory(runs: Runs, rounds: int) -> None:
    """Print the peak memory with all models pending."""
    runs.hand  # noqa: B018
    peaks = repeat(runs.memory, rounds)
    print(heading(f"{runs.lab.models} models, peak memory, {rounds} rounds"))
    for who in peaks[0]:
        print(row(who, [peak[who] for peak in peaks], " MB"))
    ours, both = [peak["ours"] for peak in peaks], [peak["alone"] + peak["hand"] for peak in peaks]
    print(ratio_row("**ours / the sum of both**", ours, both))


def cpu(runs: Runs, rounds: int) -> None:
    """Print the CPU seconds of a run with nothing, a tenth and everything pending."""
    used = repeat(runs.cpu, rounds)
    print(heading(f"{runs.lab.models} models, CPU seconds, {rounds} rounds"))
    for what in used[0]:
        print(row(what, [seconds[what] for seconds in used], " s"))
    for what in used[0]:
        case, _, who = what.partition(": ")
        ours = [seconds[f"{case}: worker, ours"] for seconds in used]
        if who in ("worker, against", "SQLMesh alone"):
            print(ratio_row(f"**{case}: worker / {who}**", ours, [seconds[what] for seconds in used]))


def launches(runs: Runs, rounds: int) -> None:
    """Print the time of `dg launch`, compared to `sqlmesh run`."""
    runs.hand  # noqa: B018
    typed = repeat(runs.command_line, rounds)
    print(heading(f"{runs.lab.models} models, from the command line, {rounds} rounds"))
    for who in typed[0]:
        print(row(who, [seconds[who] for seconds in typed], " s"))
    ours, in_process, sqlmesh, hand = (
        [seconds[who] for seconds in typed] for who in (LAUNCH, LAUNCH_IN_PROCESS, TYPED, LAUNCH_BY_HAND)
    )
    print(ratio_row("**dg launch / sqlmesh run**", ours, sqlmesh))
    print(ratio_row("**dg launch, in-process executor / sqlmesh run**", in_process, sqlmesh))
    print(ratio_row("Dagster alone / sqlmesh run", hand, sqlmesh))
    print(ratio_row("dg launch / the sum of both", ours, [sum(pair) for pair in zip(sqlmesh, hand)]))


def main() -> None:
    parts = {"steps": steps, "memory": memory, "launches": launches, "cpu": cpu}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, nargs="+", default=[100, 1_000])
    parser.add_argument("--audits", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--attributes", default="", help="more YAML below `attributes`, indented")
    parser.add_argument("--against", type=Path, help="another checkout of this package, for `--measure cpu`")
    parser.add_argument("--measure", nargs="+", choices=parts, default=["steps"], help="default: steps")
    options = parser.parse_args()
    if options.against is not None and not (options.against / "dg_sqlmesh_component").is_dir():
        # Python would leave the folder out of its path, and compare this checkout with itself.
        parser.error(f"--against: {options.against} is not a checkout of this package")
    for models in options.models:
        with tempfile.TemporaryDirectory() as folder:
            runs = Runs(Path(folder).resolve(), models, options.audits, options.attributes, options.against)
            for part in options.measure:
                parts[part](runs, options.rounds)
                sys.stdout.flush()


if __name__ == "__main__":
    main()
