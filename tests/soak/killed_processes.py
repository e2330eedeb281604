"""Kill processes and cancel runs at random moments, on an instance as in production: nothing is lost or held for long.

    python tests/soak/killed_processes.py --stories 100 --seed 1

Each story starts from the same project on PostgreSQL and launches a run of everything. At a random moment, a process is
killed (SIGKILL): of the run, of its step, SQLMesh's, the code server, the daemon. Or the run is cancelled, in one of
Dagster's ways. What was killed is started again. Dagster's retries follow, or re-executions in one of its three ways,
until a run succeeds. Rows and intervals then equal those of a twin, no outcome is false, and nothing is held any more.
"""

import random
import sys
import tempfile
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import dagster as dg
from production import Production, RefusedError, kill, production_instance
from stories import Told, tell

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
    run = production.run(run_id)
    if run.status is dg.DagsterRunStatus.FAILURE and "dagster/max_retries" not in run.tags:
        with suppress(AssertionError):  # Dagster retries no run whose steps have all succeeded
            return production.retry_of(run_id, seconds=40)
    for strategy in rng.sample(STRATEGIES, len(STRATEGIES)):
        try:
            return production.reexecute(run_id, strategy)
        except RefusedError as error:
            print(f"    Dagster refuses {strategy}: {str(error)[:300]}", flush=True)
    raise AssertionError("Dagster accepts no re-execution")


def try_story(seed: int, engine: str, folder: Path, production: Production) -> Told:
    told, rng, action = Told(), random.Random(seed), ACTIONS[seed % len(ACTIONS)]
    with told.to_its_end():
        disturb(production, action, rng, told)
    if told.faults:
        told.log.append(production.logs())
    return told


def disturb(production: Production, action: str, rng: random.Random, told: Told) -> None:
    """Launch a run, and disturb it.

    Raises:
        AssertionError: Something was lost, false, or held for too long.
    """
    production.start_what_is_missing()
    production.restore()
    run_id = production.launch()
    seconds = rng.uniform(0, MOST_SECONDS)
    time.sleep(seconds)
    has_acted = act(production, run_id, action)
    production.wait_for(production.is_loaded)
    if has_acted and action == "run and code server":  # to Dagster the run goes on, until somebody ends it
        production.terminate(run_id, "MARK_AS_CANCELED_IMMEDIATELY")
    told.counts[action if has_acted else f"{action}: nothing to do"] += 1
    told.log.append(f"{action} after {seconds:.1f} s")
    runs = follow(production, run_id, rng)
    assert not production.differs_from_twin(), "rows or intervals differ from the twin"
    assert production.false_outcomes(runs) == []
    production.wait_until_all_is_free()
    held = {kind: production.watch.longest(kind, runs) for kind in ("slot", "lock")}
    told.counts.update({f"seconds for which ended runs held a {kind}": round(of) for kind, of in held.items()})
    assert max(held.values()) < MOST_HELD, held


@contextmanager
def shared_production(_: Collection[str]) -> Iterator[Production]:
    with tempfile.TemporaryDirectory() as folder, production_instance(Path(folder), pause=0.3) as production:
        yield production


if __name__ == "__main__":
    tell(__doc__, try_story, ("postgres",), stories=100, setting=shared_production)
