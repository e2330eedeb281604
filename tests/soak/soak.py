"""Runs that are killed at random points, and pairs of runs that overlap: is anything lost, or done twice?

    python tests/soak/soak.py --kills 200 --pairs 50 --seed 1

Each trial starts from the same planned project, on DuckDB or PostgreSQL, with three days to compute. What is compared
at its end: SQLMesh's intervals and the rows of every table against those of an undisturbed run, and what Dagster was
told against both.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime, timezone
from functools import cache, partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import dagster as dg
from harness import EXECUTORS, DagsterProject, Told, dagster_project, plan, query, state, write_project
from postgres import Server, postgres_server

DAYS = """
MODEL (
  name t.days, cron '@daily', kind INCREMENTAL_BY_TIME_RANGE (time_column day, batch_size 1),
  audits (not_null(columns := (day)))
);
SELECT @start_ds::date AS day, {pause} AS paused
"""
FILES = {
    "models/days.sql": DAYS,
    "models/keyed.sql": "MODEL (name t.keyed, cron '@daily', kind INCREMENTAL_BY_UNIQUE_KEY (unique_key day)); "
    "SELECT day, {pause} AS paused FROM t.days",
    # Append-only: what is computed twice stands there twice.
    "models/appended.sql": "MODEL (name t.appended, cron '@daily', kind INCREMENTAL_UNMANAGED); "
    "SELECT day, {pause} AS paused FROM t.days WHERE day BETWEEN @start_ds::date AND @end_ds::date",
    "models/total.sql": "MODEL (name t.total, kind FULL); SELECT count(*) AS days FROM t.days",
    "models/latest.sql": "MODEL (name t.latest, kind VIEW); SELECT max(day) AS day FROM t.keyed",
}
MODELS = {"days", "keyed", "appended", "total", "latest"}
COUNTS = (
    "SELECT (SELECT count(*) FROM t.days), (SELECT count(*) FROM t.keyed), (SELECT days FROM t.total), "
    "(SELECT count(DISTINCT day) FROM t.appended), (SELECT count(*) FROM t.appended)"
)
VICTIMS = ("SQLMesh's process", "the step's process", "the run's process", "all of them")


@dataclass
class Arena:
    """A planned project on one engine, and the way back to where it was."""

    engine: str
    project: Path
    dagster: DagsterProject
    restore: Callable[[], None]
    query: Callable[[str], list[tuple[Any, ...]]]
    day: date | None = None
    expected: dict[str, Any] = field(default_factory=dict)

    def refer(self) -> None:
        """Know what an undisturbed run of today leaves: at midnight one more day is due."""
        while self.day != _today():
            self.day = _today()
            self.restore()
            told = self.dagster.launch()
            assert told.status == dg.DagsterRunStatus.SUCCESS, told.failures
            assert len(told.materializations) == len(MODELS), told.materializations.keys()
            self.expected = self.measure()

    def try_on_one_day(self, trial: Callable[[], Counter[str]]) -> Counter[str]:
        """A trial that midnight has not fallen into."""
        while True:
            self.refer()
            outcome = trial()
            if self.day == _today():
                return outcome

    def measure(self) -> dict[str, Any]:
        """What stands in the tables and in SQLMesh's state."""
        *counts, appended = self.query(COUNTS)[0]
        return {"counts": counts, "intervals": state(self.project)["intervals"], "appended": appended}

    def rest(self) -> None:
        """Wait until no process of a trial is left."""
        deadline = time.monotonic() + 60
        while workers_in(self.project):
            assert time.monotonic() < deadline, "a worker outlived its step by a minute"
            time.sleep(0.05)


@contextmanager
def arena(engine: str, folder: Path) -> Iterator[Arena]:
    """A project that a plan brought to three days ago, declared in a Dagster project."""
    folder.mkdir()
    if engine == "postgres":
        with postgres_server() as server, _on_postgres(server, folder) as made:
            yield made
    else:
        project = _planned(folder / "shop", "''", {})
        shutil.copy(project / "warehouse.duckdb", folder / "baseline")
        with _declared(folder, project) as dagster:

            def restore() -> None:
                (project / "warehouse.duckdb.wal").unlink(missing_ok=True)
                shutil.copy(folder / "baseline", project / "warehouse.duckdb")

            yield Arena(engine, project, dagster, restore, lambda sql: query(project, sql))


@contextmanager
def _on_postgres(server: Server, folder: Path) -> Iterator[Arena]:
    server.query("CREATE DATABASE trial")
    project = _planned(folder / "shop", "pg_sleep(0.05)::text", {"config": server.config("trial", start="8 days ago")})
    server.query("CREATE DATABASE baseline TEMPLATE trial")
    with _declared(folder, project) as dagster:

        def restore() -> None:
            server.query("DROP DATABASE trial WITH (FORCE)")
            server.query("CREATE DATABASE trial TEMPLATE baseline")

        yield Arena("postgres", project, dagster, restore, lambda sql: server.query(sql, "trial"))


def _planned(project: Path, pause: str, config: dict[str, str]) -> Path:
    write_project(project, {path: text.format(pause=pause) for path, text in FILES.items()}, **config)
    plan(project)
    return project


@contextmanager
def _declared(folder: Path, project: Path) -> Iterator[DagsterProject]:
    with dagster_project(folder) as dagster:
        dagster.declare("shop", {"project": str(project)})
        dagster.refresh()
        yield dagster


def _today() -> date:
    return datetime.now(timezone.utc).date()


# -- processes ------------------------------------------------------------------------------------


def launch_forked(dagster: DagsterProject, executor: str, log: Path) -> int:
    """Launch everything in a process of its own, which has Dagster imported already; its process id."""
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setsid()
        with log.open("a") as said:
            os.dup2(said.fileno(), 1)
            os.dup2(said.fileno(), 2)
        with dg.DagsterInstance.from_config(dagster.instance.root_directory) as instance:
            DagsterProject(dagster.root, instance).launch(executor)
    except BaseException:  # noqa: BLE001  # its process ends with it
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def workers_in(project: Path) -> list[int]:
    """The SQLMesh processes of a project, which stand in its folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if Path(os.readlink(process / "cwd")) == project:
                found.append(int(process.name))
        except OSError:
            continue  # gone meanwhile
    return found


def await_worker(project: Path, run: int) -> None:
    """Wait until SQLMesh's process has started, or the run is over."""
    while not workers_in(project) and os.waitid(os.P_PID, run, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        time.sleep(0.01)


def parent_of(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    except OSError:
        return None


def kill(victim: str, run: int, project: Path) -> bool:
    """Whether there was somebody to kill."""
    workers = workers_in(project)
    steps = [pid for pid in map(parent_of, workers) if pid is not None]
    victims = {
        "SQLMesh's process": workers,
        "the step's process": steps,
        "the run's process": [run],
        "all of them": [run, *steps, *workers],
    }[victim]
    for pid in victims:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    return bool(victims)


# -- trials ---------------------------------------------------------------------------------------


def kill_once(one: Arena, victim: str, executor: str, chance: float, usual: float) -> Counter[str]:
    """Kill at a random point, run again, and compare. Returns what is to be counted; empty of faults if all is well."""
    one.restore()
    seen = _run_ids(one)
    run = launch_forked(one.dagster, executor, one.project.parent / "log")
    await_worker(one.project, run)
    time.sleep(chance * usual)
    hit = kill(victim, run, one.project)
    os.waitpid(run, 0)
    again = launch_forked(one.dagster, executor, one.project.parent / "log")
    _, status = os.waitpid(again, 0)
    one.rest()
    told = [Told(one.dagster.instance, run_id) for run_id in _run_ids(one) if run_id not in seen]
    found = Counter({"tried": 1, "hit": int(hit)})
    if status or told[-1].status != dg.DagsterRunStatus.SUCCESS:
        found["the run behind it failed"] += 1
        return found
    return found + _compare(one, told)


def _compare(one: Arena, told: list[Told]) -> Counter[str]:
    found: Counter[str] = Counter()
    measured = one.measure()
    if measured["intervals"] != one.expected["intervals"]:
        found["intervals missing"] += 1
    if measured["counts"] != one.expected["counts"]:
        found["rows wrong"] += 1
    surplus = measured["appended"] - one.expected["appended"]
    found["append-only batches twice"] += int(surplus > 0)
    found["append-only rows lost"] += int(surplus < 0)
    executed = [key.split("/")[1] for each in told for key in each.materializations]
    found["materialized twice"] += sum(number > 1 for number in Counter(executed).values())
    found["executed, recorded by no run"] += len(MODELS - set(executed))
    last = {key: told[-1].status_of(f"t/{key}") for key in MODELS}
    found["told wrong in the end"] += sum(said not in ("executed", "up_to_date") for said in last.values())
    return found


def overlap_once(one: Arena, executor: str, apart: float) -> Counter[str]:
    """Two runs at the same time."""
    one.restore()
    seen = _run_ids(one)
    both = [launch_forked(one.dagster, executor, one.project.parent / "log")]
    time.sleep(apart)
    both.append(launch_forked(one.dagster, executor, one.project.parent / "log"))
    statuses = [os.waitpid(run, 0)[1] for run in both]
    one.rest()
    told = [Told(one.dagster.instance, run_id) for run_id in _run_ids(one) if run_id not in seen]
    found = Counter({"tried": 1})
    if any(statuses) or any(each.status != dg.DagsterRunStatus.SUCCESS for each in told):
        found["a run failed"] += 1
    found += _compare(one, told)
    found["rows wrong"] += found.pop("append-only batches twice", 0)  # nobody was killed
    return found


def _run_ids(one: Arena) -> list[str]:
    """Oldest first."""
    return [run.run_id for run in reversed(list(one.dagster.instance.get_runs()))]


def usual_seconds(one: Arena, executor: str) -> float:
    """How long an undisturbed run takes, from the start of its worker to its end."""
    one.restore()
    run = launch_forked(one.dagster, executor, one.project.parent / "log")
    await_worker(one.project, run)
    since = time.monotonic()
    os.waitpid(run, 0)
    return time.monotonic() - since


FAULTS = (
    "the run behind it failed",
    "a run failed",
    "intervals missing",
    "rows wrong",
    "append-only rows lost",
    "materialized twice",
    "told wrong in the end",
)
"""What must not happen.

`append-only batches twice` may, after a kill: SQLMesh commits the rows first and then that it has computed them.
"""


def soak(
    engines: Sequence[str], kills: int, pairs: int, seed: int, say: Callable[[str], None] = print
) -> dict[str, Counter[str]]:
    """Try kills on these engines and pairs on PostgreSQL; what was found, by kind of trial."""
    chance = random.Random(seed)
    found: dict[str, Counter[str]] = {}
    for engine in engines:
        share = kills // len(engines)
        with tempfile.TemporaryDirectory() as folder, arena(engine, Path(folder).resolve() / engine) as one:
            usual = cache(partial(usual_seconds, one))
            for number in range(share):
                victim, executor = VICTIMS[number % len(VICTIMS)], EXECUTORS[number % 3 == 0]
                outcome = one.try_on_one_day(
                    partial(kill_once, one, victim, executor, chance.uniform(0.0, 1.0), usual(executor))
                )
                found[f"{engine}: kill {victim}"] = found.get(f"{engine}: kill {victim}", Counter()) + outcome
                _say_faults(say, f"{engine}, {victim}, {executor}, number {number}", outcome)
            for number in range(pairs if engine == "postgres" else 0):
                outcome = one.try_on_one_day(
                    partial(overlap_once, one, EXECUTORS[number % 3 == 0], chance.uniform(0.0, usual("in_process")))
                )
                found["postgres: two runs at a time"] = found.get("postgres: two runs at a time", Counter()) + outcome
                _say_faults(say, f"pair, number {number}", outcome)
    return found


def _say_faults(say: Callable[[str], None], trial: str, outcome: Counter[str]) -> None:
    told = {name: number for name, number in outcome.items() if name not in ("tried", "hit") and number}
    if told:
        say(f"{trial}: {told}")


def table(found: dict[str, Counter[str]]) -> str:
    """The table of docs/reliability.md."""
    columns = ("tried", "hit", *FAULTS, "append-only batches twice", "executed, recorded by no run")
    shown = [name for name in columns if name in ("tried", "hit") or any(one[name] for one in found.values())]
    lines = ["| fault | " + " | ".join(shown) + " |", "|---" * (len(shown) + 1) + "|"]
    lines += [f"| {fault} | " + " | ".join(str(one[name]) for name in shown) + " |" for fault, one in found.items()]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--pairs", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--engines", nargs="+", choices=("duckdb", "postgres"), default=("duckdb", "postgres"))
    said = parser.parse_args()
    since = time.monotonic()
    found = soak(said.engines, said.kills, said.pairs, said.seed, lambda text: print(text, flush=True))
    print(table(found))
    print(f"{time.monotonic() - since:.0f} seconds")
    faults = sum(one[name] for one in found.values() for name in FAULTS)
    sys.exit(f"{faults} faults" if faults else 0)


if __name__ == "__main__":
    main()
