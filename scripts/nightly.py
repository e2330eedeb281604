"""Run what CI leaves out: slow tests, other versions of libraries, random trials. Print a line for each part.

Two parts run at a time, because a trial uses one core, and waits for processes that it has started.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

SOAK = f"{shlex.quote(sys.executable)} tests/soak"
SEED = date.today().toordinal() * 1000
"""Other random trials each night. The next trials of a script have the next seeds."""
PARTS = {
    "slow tests": "make test-slow",
    "random changes beside runs": f"{SOAK}/random_changes.py --stories 20 --seed {SEED}",
    "lowest versions": "make test-floors",
    "random changes on DuckDB": f"{SOAK}/random_changes.py --duckdb --stories 5 --seed {SEED + 200}",
    "random changes, state in MariaDB": f"{SOAK}/random_changes.py --state mariadb --stories 5 --seed {SEED + 100}",
    "killed and overlapping runs": (
        f"{SOAK}/soak.py --engines duckdb postgres mariadb --kills 21 --pairs 5 --seed {SEED}"
    ),
    "random restatements": f"{SOAK}/random_restatements.py --stories 12 --seed {SEED}",
    "random attempts": f"{SOAK}/random_attempts.py --stories 12 --seed {SEED}",
    "random losses": f"{SOAK}/random_losses.py --projects 15 --seed {SEED}",
    "random sequences": f"{SOAK}/random_sequences.py --sequences 10 --seed {SEED}",
    "newest versions": "make test-newest",
    "Spark and ClickHouse": "make test-engines",
    "killed plans": f"{SOAK}/killed_plans.py --kills 8 --seed {SEED}",
    "killed processes": f"{SOAK}/killed_processes.py --trials 9 --seed {SEED}",
    "random projects": f"{SOAK}/random_projects.py --projects 15 --seed {SEED}",
    "random subsets": f"{SOAK}/random_subsets.py --projects 15 --seed {SEED}",
    "random sources": f"{SOAK}/random_sources.py --histories 10 --seed {SEED}",
    "a long apply": f"{SOAK}/long_apply.py --minutes 2 --runs 8",
    "random predictions": f"{SOAK}/random_predictions.py --projects 15 --seed {SEED}",
    "unit tests on new random input": "make fuzz",
}
"""The command of each part."""
REPOSITORY = Path(__file__).resolve().parent.parent
LOGS = REPOSITORY / ".nightly"


def main() -> int:
    """Run the parts that the arguments name, else all. The exit status is the number of parts that have failed."""
    LOGS.mkdir(exist_ok=True)
    since = time.monotonic()
    with ThreadPoolExecutor(max_workers=2) as two_at_a_time:
        failed = sum(not passed for passed in two_at_a_time.map(run, sys.argv[1:] or PARTS))
    print(f"{failed} parts failed, {(time.monotonic() - since) / 60:.1f} minutes")
    return failed


def run(part: str) -> bool:
    """Run a part, print its line, and return whether it has passed."""
    log, since = LOGS / f"{part.replace(' ', '_')}.log", time.monotonic()
    with log.open("w") as output:
        done = subprocess.run(shlex.split(PARTS[part]), cwd=REPOSITORY, stdout=output, stderr=subprocess.STDOUT)
    minutes = (time.monotonic() - since) / 60
    result = "passed" if done.returncode == 0 else f"FAILED, see {log.relative_to(REPOSITORY)}: {PARTS[part]}"
    print(f"{part}: {result}, {minutes:.1f} minutes", flush=True)
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
