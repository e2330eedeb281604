"""The command line of what is tried on random projects."""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Callable
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st


def try_many(description: str, try_one: Callable[[random.Random, Path], str]) -> None:
    """Draw as many projects as the command line says, try each in a folder of its own, and print what was tried.

    Raises:
        AssertionError: What was tried did not hold, for the project that Hypothesis names.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--projects", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    said = parser.parse_args()

    @seed(said.seed)
    @settings(
        max_examples=said.projects,
        deadline=None,
        phases=[Phase.generate],  # to shrink a project takes a quarter of a minute a step
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    @given(st.randoms(use_true_random=False))
    def holds(chance: random.Random) -> None:
        with tempfile.TemporaryDirectory() as folder:
            print(try_one(chance, Path(folder).resolve()), flush=True)

    holds()
