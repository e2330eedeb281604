"""Trials on random projects: their command line, and a macro that disturbs them."""

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as hypothesis_seed
from hypothesis import strategies as st

DISTURBED = """
import os
import time
from pathlib import Path

from sqlglot import exp
from sqlmesh import macro


@macro()
def disturbed(evaluator, name):
    flag = Path("disturb")
    if evaluator.runtime_stage == "evaluating" and flag.exists():
        model, batches, number, pid = flag.read_text().split()
        if model == name.this and int(batches) > 0:
            flag.write_text(f"{model} {int(batches) - 1} {number} {pid}")
        elif model == name.this:
            flag.unlink()
            if not int(number):
                raise RuntimeError("disturbed")
            os.kill(int(pid) or os.getpid(), int(number))
            time.sleep(1)  # the worker of a killed run learns it meanwhile
    return exp.true()
"""
"""Disturbs a run before a batch of a model: the model fails, or a process is killed. The file says which."""


def try_many(description: str, trial: Callable[[random.Random, Path], str]) -> None:
    """Run a trial on as many random projects as the command line says, each in its own folder, and print the results.

    Raises:
        AssertionError: A trial failed. Hypothesis names the project.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--projects", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()

    @hypothesis_seed(arguments.seed)
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


def try_seeds(seeds: Iterable[int], trial: Callable[[int, Path], tuple[Counter[str], str]]) -> None:
    """Run a trial with each seed in its own folder, and print what it describes and the sums of what it counts.

    Raises:
        SystemExit: The status is 1 if a trial has raised an AssertionError. The next ones run too.
    """
    begin, failed, counts = time.monotonic(), [], Counter[str]()
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder:
            try:
                counted, text = trial(seed, Path(folder).resolve())
            except KeyboardInterrupt:
                break
            except AssertionError as error:
                failed.append(seed)
                print(f"seed {seed} FAILED: {error}", flush=True)
                continue
        counts += counted
        print(f"seed {seed}: {text}", flush=True)
    for name, number in sorted(counts.items()):
        print(f"{name}: {number}")
    print(f"failed: {failed}, {time.monotonic() - begin:.0f} seconds")
    sys.exit(bool(failed))
