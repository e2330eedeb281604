"""Kill processes and cancel runs at random moments, on an instance as in production: nothing is lost or held for long.

    python tests/soak/killed_processes.py --trials 100 --seed 1

Each trial starts from the same project on PostgreSQL and launches a run of everything. At a random moment, a process is
killed (SIGKILL): of the run, of its step, SQLMesh's, the code server, the daemon. Or the run is cancelled, in one of
Dagster's ways. What was killed is started again. Dagster's retries follow, or re-executions in one of its three ways,
until a run succeeds. Rows and intervals then equal those of a twin, no outcome is false, and nothing is held any more.
"""

import argparse
import random
import sys
import tempfile
import time
import traceback
from collections import Counter, defaultdict
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import dagster as dg
from production import Production, RefusedError, kill, production_instance

OF_RUN = ("run", "step", "worker")
SERVICES = ("code server", "daemon")
POLICIES = ("SAFE_TERMINATE", "MARK_AS_CANCELED_IMMEDIATELY")
ACTIONS = (*OF_RUN, *SERVICES, "run and code server", *POLICIES, "max_runtime")
STRATEGIES = ("ALL_STEPS", "FROM_FAILURE", "FROM_ASSET_FAILURE")
MOST_SECONDS = 14
"""How long after its launch a run is disturbed at most: most runs have ended by then."""
MOST_HELD = 60


def act(production: Production, run_id: str, action: str) -> bool:
    """Disturb a run. Return whether there was something to kill or to cancel."""
    if production.is_over(run_id):
        return False
    if action in POLICIES:
        return production.try_terminate(run_id, action)
    if action == "max_runtime":
        production.shop.instance.add_run_tags(run_id, {"dagster/max_runtime": "1", "dagster/max_retries": "0"})
        return True
    processes = production.processes_of(run_id)
    victims = [processes[name] for name in OF_RUN if name in action.split() and name in processes]
    kill(*victims)
    for service in SERVICES:
        if service in action:
            production.kill(service)
            production.start(service)
    return bool(victims) or action in SERVICES


def follow(production: Production, run_id: str, rng: random.Random) -> list[str]:
    """The run and those after it, until one has succeeded."""
    runs = [run_id]
    while production.end_of(runs[-1]).status is not dg.DagsterRunStatus.SUCCESS:
        assert len(runs) < 6, "no run succeeds"
        runs.append(next_run(production, runs[-1], rng))
    return runs


def next_run(production: Production, run_id: str, rng: random.Random) -> str:
    """Dagster's own retry; without one, a re-execution that Dagster accepts, as a person would launch it."""
    if production.status(run_id) is dg.DagsterRunStatus.FAILURE and "dagster/max_retries" not in production.tags(
        run_id
    ):
        with suppress(AssertionError):  # Dagster retries no run whose steps have all succeeded
            return production.retry_of(run_id, seconds=40)
    for strategy in rng.sample(STRATEGIES, len(STRATEGIES)):
        try:
            return production.reexecute(run_id, strategy)
        except RefusedError as error:
            print(f"    Dagster refuses {strategy}: {str(error)[:300]}", flush=True)
    raise AssertionError("Dagster accepts no re-execution")


def try_one(production: Production, action: str, rng: random.Random) -> str:
    """Return what happened, as one line.

    Raises:
        AssertionError: Something was lost, false, or held for too long.
    """
    production.restore()
    run_id = production.launch()
    seconds = rng.uniform(0, MOST_SECONDS)
    time.sleep(seconds)
    has_acted = act(production, run_id, action)
    production.wait_for(production.is_loaded)
    if has_acted and action == "run and code server":  # to Dagster the run goes on, until somebody ends it
        production.terminate(run_id, "MARK_AS_CANCELED_IMMEDIATELY")
    runs = follow(production, run_id, rng)
    assert not production.differs_from_twin(), "rows or intervals differ from the twin"
    assert production.false_outcomes(runs) == []
    production.wait_until_all_is_free()
    held = {kind: production.watch.longest(kind, runs) for kind in ("slot", "lock")}
    assert max(held.values()) < MOST_HELD, held
    what = action if has_acted else f"{action}: nothing to do"
    return f"{what}, after {seconds:.1f} s: {len(runs)} runs, slot {held['slot']:.0f} s, lock {held['lock']:.0f} s"


def try_all(trials: int, seed: int, folder: Path) -> int:
    """Print a line for each trial and a table. Return how many have failed."""
    numbers: dict[str, Counter[str]] = defaultdict(Counter)
    with production_instance(folder, pause=0.3) as production:
        for number in range(trials):
            rng = random.Random(f"{seed} {number}")
            action = ACTIONS[number % len(ACTIONS)]
            try:
                line = try_one(production, action, rng)
            except Exception:  # noqa: BLE001  # a trial fails for any reason, and the others go on
                numbers[action]["failed"] += 1
                log = Path(tempfile.mkdtemp(prefix=f"killed_processes_{seed}_{number}_")) / "error.txt"
                log.write_text(f"{traceback.format_exc()}\n{production.logs()}")
                line = f"{action}: failed, see {log}"
                production.start_what_is_missing()
            numbers[action]["nothing to do" if "nothing to do" in line else "tried"] += 1
            print(f"{number}: {line}", flush=True)
        for action in ACTIONS:
            print(f"{action}: {dict(numbers[action])}", flush=True)
        for kind in ("slot", "lock"):
            print(f"longest {kind} of a run that has ended: {production.watch.longest(kind):.0f} s", flush=True)
    return sum(counts["failed"] for counts in numbers.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        failed = try_all(options.trials, options.seed, Path(folder))
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
