"""What it costs a process to have the definitions: ours from stored state, against the same assets written by hand.

Each measurement is a process of its own, from its start to the built repository, imports included. The assets written
by hand are a Python module with the same `AssetSpec`s and `AssetCheckSpec`s, in a Dagster project of the same layout.
A bare `Context` is a script that loads the project with SQLMesh and does nothing else; its caches in the project's
folder are warm, as after any `sqlmesh` command there, or cold, as in a fresh clone.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import by_hand
from lab import HERE, Lab, heading, in_dagster, measure, progress, ratio_row, row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, nargs="+", default=[1_000, 3_000])
    parser.add_argument("--audits", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    said = parser.parse_args()
    for models in said.models:
        with tempfile.TemporaryDirectory() as temporary:
            lab = Lab(Path(temporary).resolve(), models, planned=False, audits=said.audits)
            print(heading(f"{models} models, definitions, {said.rounds} rounds"))
            table(lab, said.rounds)
            sys.stdout.flush()


def table(lab: Lab, rounds: int) -> None:
    ours = lab.ours()
    hand = lab.dagster_project("hand", {"project.py": by_hand.module(ours)})
    direct = lab.dagster_project("direct", lab.declaration())

    def repository(root: Path) -> float:
        measured = in_dagster("load", root)
        assert measured.said == {"assets": lab.models, "sqlmesh": False}, measured.output
        return measured.seconds

    def bare() -> float:
        return measure([sys.executable, HERE / "sqlmesh_alone.py", "load", lab.project], cwd=lab.project).seconds

    def cold(one: Callable[[], float]) -> float:
        shutil.rmtree(lab.project / ".cache")
        return one()

    for warm in (lambda: repository(ours), lambda: repository(hand), bare):
        warm()  # compiles what Python compiles once, fills SQLMesh's cache
    measured = []
    for _ in range(rounds):
        # The ones in the cold come first, so that they leave the cache warm.
        one = {"cold bare": cold(bare), "cold direct": cold(lambda: repository(direct))}
        one |= {"stored": repository(ours), "hand": repository(hand), "bare": bare(), "direct": repository(direct)}
        progress(one)
        measured.append(one)
    stored, by_hands, bares, directs, cold_bares, cold_directs = (
        [one[what] for one in measured] for what in ("stored", "hand", "bare", "direct", "cold bare", "cold direct")
    )
    print(row("ours, from stored state", stored, " s"))
    print(row("the same by hand", by_hands, " s"))
    print(row("a bare Context, caches warm", bares, " s"))
    print(row("ours, nothing stored, caches warm", directs, " s"))
    print(row("a bare Context, caches cold", cold_bares, " s"))
    print(row("ours, nothing stored, caches cold", cold_directs, " s"))
    print(ratio_row("**stored / by hand**", stored, by_hands))
    print(ratio_row("**stored / bare Context**", stored, bares))
    print(ratio_row("nothing stored / bare Context, warm", directs, bares))
    print(ratio_row("nothing stored / bare Context, cold", cold_directs, cold_bares))


if __name__ == "__main__":
    main()
