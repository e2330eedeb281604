"""Kill runs at random points and let runs overlap, and check that nothing is lost or done twice.

    python tests/soak/soak.py --kills 200 --pairs 50 --seed 1 --engines duckdb postgres mariadb

Each trial starts from the same planned project on DuckDB or PostgreSQL, with three pending days. On the engine mariadb,
the tables are in PostgreSQL and SQLMesh's state is in MariaDB. At its end, the trial compares SQLMesh's intervals and
the rows of every table with those of an undisturbed run, and Dagster's records with both. No lock is held any more.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import date, datetime, timezone
from functools import cache, partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import dagster as dg
from harness import EXECUTORS, RunRecord, Shop, planned_shop, processes_in
from mariadb import new_mariadb_server
from postgres import new_postgres_server
from servers import parent_of

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
    # Append-only: an interval that is computed twice has its rows twice.
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
HELD_LOCKS = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted"
ENGINES = ("duckdb", "postgres", "mariadb")
VICTIMS = ("SQLMesh's process", "the step's process", "the run's process", "all of them")


@dataclass
class Testbed:
    """A planned project on one engine that can be restored to its initial state."""

    shop: Shop
    restore: Callable[[], None]
    query: Callable[[str], list[tuple[Any, ...]]]
    held_locks: Callable[[], int] = int
    day: date | None = None
    expected: dict[str, Any] = field(default_factory=dict)

    def measure_reference(self) -> None:
        """Measure the result of an undisturbed run of today. At midnight one more day becomes pending."""
        while self.day != _today():
            self.day = _today()
            self.restore()
            record = self.shop.launch().succeeded()
            assert len(record.materializations) == len(MODELS), record.materializations.keys()
            self.expected = self.measure()

    def try_on_one_day(self, trial: Callable[[], Counter[str]]) -> Counter[str]:
        """Repeat a trial until it starts and ends on the same day."""
        while True:
            self.measure_reference()
            outcome = trial()
            if self.day == _today():
                return outcome

    def measure(self) -> dict[str, Any]:
        """Return the rows of the tables and the intervals of the SQLMesh state."""
        *counts, appended = self.query(COUNTS)[0]
        return {"counts": counts, "intervals": self.shop.state()["intervals"], "appended": appended}

    def run_ids(self) -> list[str]:
        """Return the ids of all runs, oldest first."""
        return [run.run_id for run in reversed(list(self.shop.instance.get_runs()))]

    def records_since(self, earlier_runs: list[str]) -> list[RunRecord]:
        return [self.shop.run_record(run_id) for run_id in self.run_ids() if run_id not in earlier_runs]

    def wait_for_workers(self) -> None:
        """Wait until all workers of a trial have ended."""
        deadline = time.monotonic() + 60
        while processes_in(self.shop.project):
            assert time.monotonic() < deadline, "a worker outlived its step by a minute"
            time.sleep(0.05)


@contextmanager
def create_testbed(engine: str, folder: Path) -> Iterator[Testbed]:
    """Create a project that was planned as of three days ago, with a component in a Dagster project."""
    folder.mkdir()
    if engine != "duckdb":
        with new_postgres_server() as server, new_mariadb_server() if engine == "mariadb" else nullcontext() as state:
            server.query("CREATE DATABASE trial")
            files = {path: text.format(pause="pg_sleep(0.05)::text") for path, text in FILES.items()}
            config = server.config("trial", start="8 days ago")
            with planned_shop(folder, files, state.with_state(config) if state else config) as shop:
                server.query("CREATE DATABASE baseline TEMPLATE trial")
                if state:
                    state.copy("sqlmesh", "baseline")

                def restore_database() -> None:
                    server.query("DROP DATABASE trial WITH (FORCE)")
                    server.query("CREATE DATABASE trial TEMPLATE baseline")
                    if state:
                        state.copy("baseline", "sqlmesh")

                def held_locks() -> int:
                    return state.held_locks() if state else server.query(HELD_LOCKS)[0][0]

                yield Testbed(shop, restore_database, lambda sql: server.query(sql, "trial"), held_locks)
    else:
        files = {path: text.format(pause="''") for path, text in FILES.items()}
        with planned_shop(folder, files) as shop:
            shutil.copy(shop.project / "warehouse.duckdb", folder / "baseline")

            def restore_file() -> None:
                (shop.project / "warehouse.duckdb.wal").unlink(missing_ok=True)
                shutil.copy(folder / "baseline", shop.project / "warehouse.duckdb")

            yield Testbed(shop, restore_file, shop.query)


def _today() -> date:
    return datetime.now(timezone.utc).date()


# -- processes ------------------------------------------------------------------------------------


def is_over(run: int) -> bool:
    return os.waitid(os.P_PID, run, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def await_worker(project: Path, run: int) -> None:
    """Wait until SQLMesh's process has started, or the run is over."""
    while not processes_in(project) and not is_over(run):
        time.sleep(0.01)


def kill(victim: str, run: int, project: Path) -> bool:
    """Kill processes of a run. Return whether the run went on, and had such a process."""
    if is_over(run):
        return False
    workers = processes_in(project)
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


def kill_once(testbed: Testbed, victim: str, executor: str, fraction: float, usual: float) -> Counter[str]:
    """Kill a run at a random point, run again, and compare. Return the counts of this trial."""
    testbed.restore()
    earlier_runs = testbed.run_ids()
    run = testbed.shop.start(executor).pid
    await_worker(testbed.shop.project, run)
    time.sleep(fraction * usual)
    hit = kill(victim, run, testbed.shop.project)
    os.waitpid(run, 0)
    second_run = testbed.shop.start(executor).pid
    _, status = os.waitpid(second_run, 0)
    testbed.wait_for_workers()
    records = testbed.records_since(earlier_runs)
    dead = [record for record in records if not record.run.is_finished]
    for record in dead:  # as Dagster's run monitoring. Until then, data is left to such a run, also in later trials
        testbed.shop.instance.report_run_failed(record.run)
    if dead and _unrecorded(records):
        _, status = os.waitpid(testbed.shop.start(executor).pid, 0)
        records = testbed.records_since(earlier_runs)
    counts = Counter({"tried": 1, "hit": int(hit)})
    if status or records[-1].status != dg.DagsterRunStatus.SUCCESS:
        counts["the next run failed"] += 1
        return counts
    return counts + _compare(testbed, records)


def _compare(testbed: Testbed, records: list[RunRecord]) -> Counter[str]:
    counts: Counter[str] = Counter()
    measured = testbed.measure()
    if measured["intervals"] != testbed.expected["intervals"]:
        counts["intervals missing"] += 1
    if measured["counts"] != testbed.expected["counts"]:
        counts["rows wrong"] += 1
    surplus = measured["appended"] - testbed.expected["appended"]
    counts["append-only batches twice"] += int(surplus > 0)
    counts["append-only rows lost"] += int(surplus < 0)
    executed = [key for record in records for key in record.materializations]
    counts["materialized twice"] += sum(number > 1 for number in Counter(executed).values())
    counts["executed, recorded by no run"] += len(_unrecorded(records))
    last = {key: records[-1].status_of(f"t/{key}") for key in MODELS}
    counts["a lock is left"] += testbed.held_locks()
    counts["wrong final status in Dagster"] += sum(status not in ("executed", "up_to_date") for status in last.values())
    return counts


def _unrecorded(records: list[RunRecord]) -> set[str]:
    """The models that no run has recorded.

    A run after a kill records what SQLMesh had computed and Dagster had not recorded.
    """
    recorded = [(*run.materializations, *run.computed_outside, *run.reported_outside) for run in records]
    return MODELS - {key.split("/")[1] for keys in recorded for key in keys}


def overlap_once(testbed: Testbed, executor: str, seconds_apart: float) -> Counter[str]:
    """Launch two runs at the same time, and compare. Return the counts of this trial."""
    testbed.restore()
    earlier_runs = testbed.run_ids()
    runs = [testbed.shop.start(executor).pid]
    time.sleep(seconds_apart)
    runs.append(testbed.shop.start(executor).pid)
    statuses = [os.waitpid(run, 0)[1] for run in runs]
    testbed.wait_for_workers()
    records = testbed.records_since(earlier_runs)
    counts = Counter({"tried": 1})
    if any(statuses) or any(record.status != dg.DagsterRunStatus.SUCCESS for record in records):
        counts["a run failed"] += 1
    counts += _compare(testbed, records)
    counts["rows wrong"] += counts.pop("append-only batches twice", 0)  # no process was killed
    return counts


def usual_seconds(testbed: Testbed, executor: str) -> float:
    """Measure how long an undisturbed run takes from the start of its worker."""
    testbed.restore()
    run = testbed.shop.start(executor).pid
    await_worker(testbed.shop.project, run)
    start = time.monotonic()
    os.waitpid(run, 0)
    return time.monotonic() - start


FAULTS = (
    "the next run failed",
    "a run failed",
    "intervals missing",
    "rows wrong",
    "append-only rows lost",
    "materialized twice",
    "executed, recorded by no run",
    "wrong final status in Dagster",
    "a lock is left",
)
"""Counts that must be zero.

`append-only batches twice` is allowed after a kill, because SQLMesh commits the rows before it commits the interval.
"""


def soak(
    engines: Sequence[str], kills: int, pairs: int, seed: int, report: Callable[[str], None] = print
) -> dict[str, Counter[str]]:
    """Run kill trials on these engines, and overlap trials on servers. Return the counts by kind of trial."""
    rng = random.Random(seed)
    results: dict[str, Counter[str]] = {}
    for engine in engines:
        share = kills // len(engines)
        with (
            tempfile.TemporaryDirectory() as folder,
            create_testbed(engine, Path(folder).resolve() / engine) as testbed,
        ):
            usual = cache(partial(usual_seconds, testbed))
            for number in range(share):
                victim, executor = VICTIMS[number % len(VICTIMS)], EXECUTORS[number % 3 == 0]
                outcome = testbed.try_on_one_day(
                    partial(kill_once, testbed, victim, executor, rng.uniform(0.0, 1.0), usual(executor))
                )
                results[f"{engine}: kill {victim}"] = results.get(f"{engine}: kill {victim}", Counter()) + outcome
                _report_faults(report, f"{engine}, {victim}, {executor}, number {number}", outcome)
            for number in range(pairs if engine != "duckdb" else 0):
                outcome = testbed.try_on_one_day(
                    partial(overlap_once, testbed, EXECUTORS[number % 3 == 0], rng.uniform(0.0, usual("in_process")))
                )
                story = f"{engine}: two runs at a time"
                results[story] = results.get(story, Counter()) + outcome
                _report_faults(report, f"pair, number {number}", outcome)
    return results


def _report_faults(report: Callable[[str], None], trial: str, outcome: Counter[str]) -> None:
    faults = {name: number for name, number in outcome.items() if name not in ("tried", "hit") and number}
    if faults:
        report(f"{trial}: {faults}")


def table(results: dict[str, Counter[str]]) -> str:
    """Return the table of docs/reliability.md."""
    columns = ("tried", "hit", *FAULTS, "append-only batches twice")
    shown = [name for name in columns if name in ("tried", "hit") or any(counts[name] for counts in results.values())]
    lines = ["| fault | " + " | ".join(shown) + " |", "|---" * (len(shown) + 1) + "|"]
    lines += [
        f"| {fault} | " + " | ".join(str(counts[name]) for name in shown) + " |" for fault, counts in results.items()
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--pairs", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=("duckdb", "postgres"))
    arguments = parser.parse_args()
    if 0 < arguments.kills < len(arguments.engines):
        parser.error("--kills is less than one for each engine")
    start = time.monotonic()
    results = soak(
        arguments.engines, arguments.kills, arguments.pairs, arguments.seed, lambda text: print(text, flush=True)
    )
    print(table(results))
    print(f"{time.monotonic() - start:.0f} seconds")
    faults = sum(counts[name] for counts in results.values() for name in FAULTS)
    if arguments.kills and not any(counts["hit"] for counts in results.values()):
        sys.exit("no trial has killed a process")
    sys.exit(f"{faults} faults" if faults else 0)


if __name__ == "__main__":
    main()
