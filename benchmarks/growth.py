"""The cost of one model in projects of different sizes: seconds of our step per model, and of SQLMesh alone.

A round measures each size once, one after the other, so that a slow hour of the machine slows all sizes.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from lab import forget_runs, heading, in_dagster, ratio_row, row
from runs import CASES, Runs, print_round

UNRECORDED = "  execution: {record_unchanged: false}\n"
IDLE_UNRECORDED = "nothing pending, `record_unchanged: false`"
Seconds = dict[str, list[float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, nargs="+", default=[100, 1_000, 3_000])
    parser.add_argument("--audits", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sizes = [Growing(Path(folder).resolve() / str(models), models, options.audits) for models in options.models]
        for _ in range(options.rounds):
            for size in sizes:
                size.round()
    for size in sizes:
        print(heading(f"{size.models} models, {options.rounds} rounds"))
        for case, ours in size.ours.items():
            print(row(f"our step, {case}", ours, " s"))
            print(row(f"our step, {case}, each model", size.each(case), " ms"))
            print(row(f"SQLMesh alone, {case}", size.alone[case], " s"))
            print(ratio_row(f"our step / SQLMesh alone, {case}", ours, size.alone[case]))
    smallest, *larger = sizes
    for size in larger:
        print(heading(f"Cost of one model: {size.models} / {smallest.models} models, {options.rounds} rounds"))
        for case in size.ours:
            print(ratio_row(case, size.each(case), smallest.each(case)))


class Growing:
    """A project of one size, with the seconds of all rounds by case.

    Attributes:
        ours: Seconds of our step.
        alone: Seconds of a script of SQLMesh alone.
    """

    def __init__(self, folder: Path, models: int, audits: int) -> None:
        folder.mkdir()
        self.models = models
        self.runs = Runs(folder, models, audits)
        self.unrecorded = self.runs.lab.ours("unrecorded", attributes=UNRECORDED)
        self.ours: Seconds = {title: [] for title in (*CASES.values(), IDLE_UNRECORDED)}
        self.alone: Seconds = {title: [] for title in self.ours}

    def round(self) -> None:
        """Measure each case once. `record_unchanged: false` runs last, after all pending intervals are computed."""
        measured = self.runs.round_without_hand()
        forget_runs(self.unrecorded)
        unrecorded = in_dagster("step", self.unrecorded)
        assert unrecorded.printed["ok"], unrecorded.output
        measured["unrecorded"] = {"ours": unrecorded, "alone": measured["idle"]["alone"]}
        print_round(measured)
        for case, by_who in zip(self.ours, measured.values()):
            self.ours[case].append(by_who["ours"].printed["seconds"])
            self.alone[case].append(by_who["alone"].seconds)

    def each(self, case: str) -> list[float]:
        """Milliseconds of our step per model, one number a round."""
        return [1_000 * seconds / self.models for seconds in self.ours[case]]


if __name__ == "__main__":
    main()
