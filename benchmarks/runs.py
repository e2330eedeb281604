"""What a step costs: ours against SQLMesh alone and Dagster alone, with everything due and with nothing due.

SQLMesh alone is a script with `Context(load=False).run()`, as a whole process. Dagster alone is a `multi_asset`
without SQLMesh that records the same results on an instance of the same kind (SQLite). Ours does both, and its seconds
are those from the step's start to its end, in which the worker is started and SQLMesh imported.
"""

from __future__ import annotations

import argparse
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
from lab import HERE, Lab, Measured, forget_runs, heading, in_dagster, measure, peak_megabytes, progress, ratio_row, row

TYPED, LAUNCH, LAUNCH_BY_HAND = "sqlmesh run", "dg launch", "dg launch, Dagster alone"
LAUNCH_IN_PROCESS = "dg launch, in-process executor"
PHASES = ("until the run is created", "its planned events", "until the step begins", "the step", "until the end")


def say(measured: dict[str, dict[str, Measured]]) -> None:
    """What a round has measured: seconds of a step, and of the whole process of SQLMesh alone."""
    each = [(what, who, one) for what, by_who in measured.items() for who, one in by_who.items()]
    progress({f"{what}, {who}": one.seconds if who == "alone" else one.said["seconds"] for what, who, one in each})


class Runs:
    """The three of them over one project."""

    def __init__(self, folder: Path, models: int, audits: int, attributes: str = "") -> None:
        self.folder = folder
        self.lab = Lab(folder, models, audits=audits)
        self.attributes = attributes
        self.ours = self.lab.ours(attributes=attributes)

    @cached_property
    def hand(self) -> dict[str, Path]:
        """Dagster projects that record what ours records, by what is due."""
        self.reset()
        hand = {}
        for what in ("due", "idle"):
            self.run_ours()
            results = self.folder / f"{what}.json"
            in_dagster("results", self.ours, results)
            files = {"project.py": by_hand.module(self.ours, results)}
            hand[what] = self.lab.dagster_project(f"hand_{what}", files)
        return hand

    def run_ours(self) -> Measured:
        measured = in_dagster("step", self.ours)
        assert measured.said["ok"], measured.output
        return measured

    def run_hand(self, what: str) -> Measured:
        forget_runs(self.hand[what])
        return in_dagster("step", self.hand[what])

    def run_alone(self) -> Measured:
        return measure(self.alone, cwd=self.lab.project)

    @property
    def alone(self) -> list[str | Path]:
        return [sys.executable, HERE / "sqlmesh_alone.py", "run", self.lab.project]

    def reset(self) -> None:
        self.lab.restore()
        forget_runs(self.ours)

    def round(self) -> dict[str, dict[str, Measured]]:
        """Everything once: by what is due, by who."""
        one = self.round_without_hand()
        return {what: {**one[what], "hand": self.run_hand(what)} for what in one}

    def round_without_hand(self) -> dict[str, dict[str, Measured]]:
        """Everything once, but Dagster alone."""
        self.reset()
        ours = {"due": self.run_ours(), "idle": self.run_ours()}
        self.lab.restore()
        alone = {"due": self.run_alone(), "idle": self.run_alone()}
        assert (alone["due"].said["status"], alone["idle"].said["status"]) == ("SUCCESS", "NOTHING_TO_DO")
        return {what: {"ours": ours[what], "alone": alone[what]} for what in ("due", "idle")}

    def memory(self) -> dict[str, float]:
        """Peak megabytes of everything due, by who; proportional set size, children included."""
        self.reset()
        step = [sys.executable, HERE / "in_dagster.py", "step"]
        ours = peak_megabytes([*step, self.ours], cwd=self.ours, DAGSTER_HOME=str(self.ours / "home"))
        self.lab.restore()
        alone = peak_megabytes(self.alone, cwd=self.lab.project)
        forget_runs(self.hand["due"])
        home = str(self.hand["due"] / "home")
        hand = peak_megabytes([*step, self.hand["due"]], cwd=self.hand["due"], DAGSTER_HOME=home)
        return {"ours": ours, "alone": alone, "hand": hand}

    def command_line(self) -> dict[str, float]:
        """Whole processes, as a person types them: `sqlmesh run`, and `dg launch` of everything, by who.

        Ours once more with the in-process executor: a run of ours is one step, which needs no process of its own.
        """
        self.lab.restore()
        sqlmesh = "from sqlmesh.cli.main import cli; cli()"
        typed = measure([sys.executable, "-c", sqlmesh, "run"], cwd=self.lab.project)
        self.reset()
        forget_runs(self.hand["due"])
        launched = {**self.launch(LAUNCH, self.ours), **self.launch(LAUNCH_BY_HAND, self.hand["due"])}
        self.lab.restore()
        forget_runs(self.in_process)
        return {TYPED: typed.seconds, **launched, **self.launch(LAUNCH_IN_PROCESS, self.in_process)}

    @cached_property
    def in_process(self) -> Path:
        """Our Dagster project once more, with the in-process executor."""
        root = self.lab.ours("in_process", attributes=self.attributes)
        executor = "import dagster as dg\n\ndefs = dg.Definitions(executor=dg.in_process_executor)\n"
        (root / root.name / "defs" / "executor.py").write_text(executor)
        return root

    def launch(self, name: str, root: Path) -> dict[str, float]:
        """Seconds of a whole `dg launch`, and of each of its phases."""
        since = time.time()
        done = measure(["dg", "launch", "--assets", "*"], cwd=root, DAGSTER_HOME=str(root / "home"))
        assert "RUN_SUCCESS" in done.output, done.output
        at = [since, *in_dagster("instants", root).said.values(), since + done.seconds]
        return {name: done.seconds, **{f"{name}: {phase}": b - a for phase, (a, b) in zip(PHASES, pairwise(at))}}


def events_per_model(said: dict[str, Any], models: int) -> str:
    counts: Counter[str] = Counter(said["events"])
    return ", ".join(f"{kind} {count / models:.2f}" for kind, count in sorted(counts.items()) if count >= models)


def steps(runs: Runs, rounds: int) -> None:
    """Print what a step costs."""
    runs.hand  # noqa: B018  # made before anything is measured
    measured = []
    for _ in range(rounds):
        measured.append(runs.round())
        say(measured[-1])
    for what, title in (("due", "everything due"), ("idle", "nothing due")):
        ours = [one[what]["ours"].said["seconds"] for one in measured]
        alone = [one[what]["alone"].seconds for one in measured]
        hand = [one[what]["hand"].said["seconds"] for one in measured]
        imports = [one[what]["alone"].said["import_seconds"] for one in measured]
        print(heading(f"{runs.lab.models} models, {title}, {rounds} rounds"))
        print(row("our step", ours, " s"))
        print(row("SQLMesh alone, a script", alone, " s"))
        print(row("of it, importing SQLMesh", imports, " s"))
        print(row("Dagster alone, recording the same", hand, " s"))
        print(ratio_row("**ours / the sum of both**", ours, [one + other for one, other in zip(alone, hand)]))
        print(ratio_row("ours / the slower of both", ours, [max(pair) for pair in zip(alone, hand)]))
        print(ratio_row("ours / SQLMesh alone", ours, alone))
        print(row("our milliseconds per model", [1000 * one / runs.lab.models for one in ours]))
        for who in ("ours", "hand"):
            print(f"\nEvents per model, {who}: {events_per_model(measured[0][what][who].said, runs.lab.models)}")


def repeat(measure_once: Callable[[], dict[str, float]], rounds: int) -> list[dict[str, float]]:
    """What each round has measured, said as soon as it is there."""
    measured = []
    for _ in range(rounds):
        measured.append(measure_once())
        progress(measured[-1])
    return measured


def memory(runs: Runs, rounds: int) -> None:
    """Print the peak memory of everything due."""
    runs.hand  # noqa: B018
    peaks = repeat(runs.memory, rounds)
    print(heading(f"{runs.lab.models} models, peak memory, {rounds} rounds"))
    for who in peaks[0]:
        print(row(who, [one[who] for one in peaks], " MB"))
    ours, both = [one["ours"] for one in peaks], [one["alone"] + one["hand"] for one in peaks]
    print(ratio_row("**ours / the sum of both**", ours, both))


def launches(runs: Runs, rounds: int) -> None:
    """Print what `dg launch` takes beside `sqlmesh run`."""
    runs.hand  # noqa: B018
    typed = repeat(runs.command_line, rounds)
    print(heading(f"{runs.lab.models} models, from the command line, {rounds} rounds"))
    for who in typed[0]:
        print(row(who, [one[who] for one in typed], " s"))
    ours, in_process, sqlmesh, hand = (
        [one[who] for one in typed] for who in (LAUNCH, LAUNCH_IN_PROCESS, TYPED, LAUNCH_BY_HAND)
    )
    print(ratio_row("**dg launch / sqlmesh run**", ours, sqlmesh))
    print(ratio_row("**dg launch, in-process executor / sqlmesh run**", in_process, sqlmesh))
    print(ratio_row("Dagster alone / sqlmesh run", hand, sqlmesh))
    print(ratio_row("dg launch / the sum of both", ours, [a + b for a, b in zip(sqlmesh, hand)]))


def main() -> None:
    parts = {"steps": steps, "memory": memory, "launches": launches}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, nargs="+", default=[100, 1_000])
    parser.add_argument("--audits", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--attributes", default="", help="more YAML below `attributes`, indented")
    parser.add_argument("--measure", nargs="+", choices=parts, default=["steps"], help="`steps` unless told otherwise")
    said = parser.parse_args()
    for models in said.models:
        with tempfile.TemporaryDirectory() as folder:
            runs = Runs(Path(folder).resolve(), models, said.audits, said.attributes)
            for part in said.measure:
                parts[part](runs, said.rounds)
                sys.stdout.flush()


if __name__ == "__main__":
    main()
