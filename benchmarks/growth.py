"""What a model costs as projects grow: seconds of our step per model, beside a script of SQLMesh alone."""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

from lab import heading, ratio_row, row
from runs import Runs, say

UNRECORDED = "  execution: {record_unchanged: false}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, nargs="+", default=[100, 1_000, 3_000])
    parser.add_argument("--audits", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    said = parser.parse_args()
    medians: dict[str, dict[int, float]] = {}
    for models in said.models:
        with tempfile.TemporaryDirectory() as folder:
            measured = measure(Path(folder).resolve(), models, said.audits, said.rounds)
        print(heading(f"{models} models, {said.rounds} rounds"))
        for what, ours, alone in measured:
            each = [1000 * seconds / models for seconds in ours]
            medians.setdefault(what, {})[models] = statistics.median(each)
            print(row(f"our step, {what}", ours, " s"))
            print(row(f"our step, {what}, each model", each, " ms"))
            print(row(f"SQLMesh alone, {what}", alone, " s"))
            print(ratio_row(f"our step / SQLMesh alone, {what}", ours, alone))
        sys.stdout.flush()
    print("\n| milliseconds a model |", " | ".join(f"{models:,}" for models in said.models), "|")
    print("|---" * (1 + len(said.models)) + "|")
    for what, by_models in medians.items():
        print(f"| {what} |", " | ".join(f"{milliseconds:.0f}" for milliseconds in by_models.values()), "|")


def measure(folder: Path, models: int, audits: int, rounds: int) -> list[tuple[str, list[float], list[float]]]:
    """What is due, seconds of our step, seconds of SQLMesh alone."""
    runs = Runs(folder, models, audits)
    measured = []
    for _ in range(rounds):
        measured.append(runs.round_without_hand())
        say(measured[-1])
    found = [
        (
            title,
            [one[what]["ours"].said["seconds"] for one in measured],
            [one[what]["alone"].seconds for one in measured],
        )
        for what, title in (("due", "everything due"), ("idle", "nothing due"))
    ]
    runs.ours = runs.lab.ours("unrecorded", attributes=UNRECORDED)
    pairs = [(runs.run_ours().said["seconds"], runs.run_alone().seconds) for _ in range(rounds)]
    ours, alone = map(list, zip(*pairs))
    return [*found, ("nothing due, `record_unchanged: false`", ours, alone)]


if __name__ == "__main__":
    main()
