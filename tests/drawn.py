"""The command line of the trials on random projects."""

import argparse
import random
import tempfile
from collections.abc import Callable
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st


def try_many(description: str, trial: Callable[[random.Random, Path], str]) -> None:
    """Run a trial on as many random projects as the command line says, each in its own folder, and print the results.

    Raises:
        AssertionError: A trial failed. Hypothesis names the project.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--projects", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()

    @seed(arguments.seed)
    @settings(
        max_examples=arguments.projects,
        deadline=None,
        phases=[Phase.generate],  # each step of shrinking a project would take 15 seconds
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    @given(st.randoms(use_true_random=False))
    def run_trial(rng: random.Random) -> None:
        with tempfile.TemporaryDirectory() as folder:
            print(trial(rng, Path(folder).resolve()), flush=True)

    run_trial()
