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
    "random changes beside runs": f"{SOAK}/random_changes.py --engines postgres --stories 20 --seed {SEED}",
    "lowest versions": "make test-floors",
    "random changes on DuckDB": f"{SOAK}/random_changes.py --engines duckdb --stories 5 --seed {SEED}",
    "random changes, state in MariaDB": f"{SOAK}/random_changes.py --engines mariadb --stories 5 --seed {SEED}",
    "random restatements": f"{SOAK}/random_restatements.py --stories 20 --seed {SEED}",
    "random attempts": f"{SOAK}/random_attempts.py --stories 20 --seed {SEED}",
    "random losses": f"{SOAK}/random_losses.py --stories 15 --seed {SEED}",
    "changes of kinds and attributes": f"{SOAK}/change_matrix.py --projects 4 --seed {SEED}",
    "random sequences": f"{SOAK}/random_sequences.py --stories 10 --seed {SEED}",
    "newest versions": "make test-newest",
    "Spark and ClickHouse": "make test-engines",
    "killed processes": f"{SOAK}/killed_processes.py --stories 9 --seed {SEED}",
    "random sources": f"{SOAK}/random_sources.py --stories 12 --seed {SEED}",
    "random histories": f"{SOAK}/random_histories.py --stories 15 --seed {SEED}",
    "random rows": f"{SOAK}/random_rows.py --stories 10 --seed {SEED}",
    "random predictions": f"{SOAK}/random_predictions.py --stories 20 --seed {SEED}",
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
