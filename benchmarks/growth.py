"""What a model costs as projects grow: seconds of our step per model, beside a script of SQLMesh alone.

A round measures each size once, one after the other: whatever slows the machine for an hour slows all sizes.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from lab import forget_runs, heading, in_dagster, ratio_row, row
from runs import Runs, say

UNRECORDED = "  execution: {record_unchanged: false}\n"
DUE, IDLE, IDLE_UNRECORDED = "everything due", "nothing due", "nothing due, `record_unchanged: false`"
Seconds = dict[str, list[float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, nargs="+", default=[100, 1_000, 3_000])
    parser.add_argument("--audits", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    said = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sizes = [Growing(Path(folder).resolve() / str(models), models, said.audits) for models in said.models]
        for _ in range(said.rounds):
            for size in sizes:
                size.round()
    for size in sizes:
        print(heading(f"{size.models} models, {said.rounds} rounds"))
        for what, ours in size.ours.items():
            print(row(f"our step, {what}", ours, " s"))
            print(row(f"our step, {what}, each model", size.each(what), " ms"))
            print(row(f"SQLMesh alone, {what}", size.alone[what], " s"))
            print(ratio_row(f"our step / SQLMesh alone, {what}", ours, size.alone[what]))
    smallest, *larger = sizes
    for size in larger:
        print(heading(f"What a model costs: {size.models} / {smallest.models} models, {said.rounds} rounds"))
        for what in size.ours:
            print(ratio_row(what, size.each(what), smallest.each(what)))


class Growing:
    """A project of one size, and the seconds that its rounds have measured, by what is due.

    Attributes:
        ours: Of our step.
        alone: Of a script of SQLMesh alone.
    """

    def __init__(self, folder: Path, models: int, audits: int) -> None:
        folder.mkdir()
        self.models = models
        self.runs = Runs(folder, models, audits)
        self.unrecorded = self.runs.lab.ours("unrecorded", attributes=UNRECORDED)
        self.ours: Seconds = {DUE: [], IDLE: [], IDLE_UNRECORDED: []}
        self.alone: Seconds = {DUE: [], IDLE: [], IDLE_UNRECORDED: []}

    def round(self) -> None:
        """Everything once; nothing is due for `record_unchanged: false` after SQLMesh alone has had nothing to do."""
        measured = self.runs.round_without_hand()
        forget_runs(self.unrecorded)
        unrecorded = in_dagster("step", self.unrecorded)
        assert unrecorded.said["ok"], unrecorded.output
        measured["unrecorded"] = {"ours": unrecorded, "alone": measured["idle"]["alone"]}
        say(measured)
        for what, one in zip(self.ours, measured.values()):
            self.ours[what].append(one["ours"].said["seconds"])
            self.alone[what].append(one["alone"].seconds)

    def each(self, what: str) -> list[float]:
        """Milliseconds of our step for each model."""
        return [1_000 * seconds / self.models for seconds in self.ours[what]]


if __name__ == "__main__":
    main()
