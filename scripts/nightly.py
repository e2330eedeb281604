"""Run what CI leaves out: slow tests, other versions of libraries, random trials. Print a line for each part."""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from pathlib import Path

SOAK = f"{sys.executable} tests/soak"
PARTS = {
    "slow tests": "make test-slow",
    "unit tests on new random input": "make fuzz",
    "lowest versions": "make test-floors",
    "newest versions": "make test-newest",
    "killed and overlapping runs": f"{SOAK}/soak.py --kills 20 --pairs 5",
    "killed plans": f"{SOAK}/killed_plans.py --kills 8",
    "killed processes": f"{SOAK}/killed_processes.py --trials 5",
    "random projects": f"{SOAK}/random_projects.py --projects 15",
    "random subsets": f"{SOAK}/random_subsets.py --projects 15",
    "random sources": f"{SOAK}/random_sources.py --histories 10",
    "random changes beside runs": f"{SOAK}/random_changes.py --stories 30",
    "a long apply": f"{SOAK}/long_apply.py --minutes 2 --runs 8",
    "random predictions": f"{SOAK}/random_predictions.py --projects 15",
    "random losses": f"{SOAK}/random_losses.py --projects 15",
    "random sequences": f"{SOAK}/random_sequences.py --sequences 10",
}
"""The command of each part."""
REPOSITORY = Path(__file__).resolve().parent.parent


def main() -> int:
    """Run the parts that the arguments name, else all. The exit status is the number of parts that have failed."""
    chosen = sys.argv[1:] or [*PARTS]
    logs = REPOSITORY / ".nightly"
    logs.mkdir(exist_ok=True)
    failed = 0
    for part in chosen:
        log, since = logs / f"{part.replace(' ', '_')}.log", time.monotonic()
        with log.open("w") as output:
            done = subprocess.run(shlex.split(PARTS[part]), cwd=REPOSITORY, stdout=output, stderr=subprocess.STDOUT)
        minutes = (time.monotonic() - since) / 60
        result = "passed" if done.returncode == 0 else f"FAILED, see {log.relative_to(REPOSITORY)}"
        print(f"{part}: {result}, {minutes:.1f} minutes", flush=True)
        failed += done.returncode != 0
    return failed


if __name__ == "__main__":
    sys.exit(main())
