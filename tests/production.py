"""An instance of Dagster as in production, on PostgreSQL: code server, daemon and web server, each a process.

Runs wait in a queue, each step is a process, Dagster monitors runs and retries failed ones, and the pool of the
component's op has a limit of 1. The SQLMesh project has a twin in another database, which nobody kills.
"""

import contextlib
import os
import re
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import uuid
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import dagster as dg
import postgres
from dev_server import LOCATION, Server
from harness import BIN, RunRecord, Shop, plan, processes_in, sqlmesh, state, write_dagster_project, write_project
from servers import free_port, parent_of

# A URL, because SQLAlchemy 2.1 takes psycopg 3 for one without a driver, and dagster-postgres installs psycopg2.
DAGSTER_YAML = """
storage: {{postgres: {{postgres_url: "postgresql+psycopg2://postgres:x@127.0.0.1:{port}/dagster"}}}}
run_coordinator:
  module: dagster.core.run_coordinator
  class: QueuedRunCoordinator
  config: {{dequeue_interval_seconds: 1}}
concurrency: {{pools: {{default_limit: 1, granularity: op}}}}
run_monitoring:
  enabled: true
  start_timeout_seconds: 60
  cancel_timeout_seconds: 30
  poll_interval_seconds: 2
  free_slots_after_run_end_seconds: 5
run_retries: {{enabled: true, max_retries: 9}}
telemetry: {{enabled: false}}
"""
WORKSPACE = "load_from: [{{grpc_server: {{host: 127.0.0.1, port: {port}, location_name: analytics}}}}]"
GATE = 4711
"""The advisory lock for which the query of `t.gate` waits."""
FILES = {
    "models/days.sql": "MODEL (name t.days, kind INCREMENTAL_BY_TIME_RANGE (time_column day, batch_size 1), "
    "audits (not_null(columns := (day)))); SELECT @start_ds::date AS day, pg_sleep({pause})::text AS paused",
    "models/gate.sql": f"MODEL (name t.gate, kind FULL); SELECT day, pg_advisory_xact_lock_shared({GATE})::text AS "
    "opened, pg_sleep({pause})::text AS paused FROM t.days",
    "models/keyed.sql": "MODEL (name t.keyed, kind INCREMENTAL_BY_UNIQUE_KEY (unique_key day)); "
    "SELECT day, pg_sleep({pause})::text AS paused FROM t.gate",
    "models/latest.sql": "MODEL (name t.latest, kind VIEW, audits (not_null(columns := (day)))); "
    "SELECT max(day) AS day FROM t.keyed",
}
MODELS = {"t/days", "t/gate", "t/keyed", "t/latest"}
ASSETS = {*MODELS, "report"}
REPORT = """
import dagster as dg


@dg.asset(deps=[dg.AssetKey(["t", "latest"])])
def report() -> None: ...
"""
TABLES = ("t.days", "t.gate", "t.keyed", "t.latest")
ENDED = (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
TERMINATE = """
mutation T($id: String!, $policy: TerminateRunPolicy!) {
  terminateRun(runId: $id, terminatePolicy: $policy) { __typename } }
"""
REEXECUTE = """
mutation R($params: ReexecutionParams!) { launchPipelineReexecution(reexecutionParams: $params) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }
"""
HOLDERS = """
SELECT DISTINCT a.application_name FROM pg_locks AS l JOIN pg_stat_activity AS a ON a.pid = l.pid
WHERE l.locktype = 'advisory' AND l.granted AND a.application_name LIKE 'dg_sqlmesh: %'
"""
SECONDS_AFTER_END = "SELECT run_id, EXTRACT(EPOCH FROM now()) - end_time FROM runs WHERE end_time IS NOT NULL"

_T = TypeVar("_T")


class RefusedError(Exception):
    """Dagster does not launch a run."""


def children_of(pid: int) -> list[int]:
    pids = [int(process.name) for process in Path("/proc").glob("[0-9]*")]
    return [child for child in pids if parent_of(child) == pid]


def kill(*pids: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@dataclass
class Watch:
    """How long ended runs hold slots of pools and the lock of the SQLMesh state, in seconds, by kind and run."""

    postgres: postgres.Server
    held: dict[tuple[str, str], float] = field(default_factory=dict)

    def look(self) -> None:
        after_end = dict(self.postgres.query(SECONDS_AFTER_END, "dagster"))
        slots = self.postgres.query("SELECT run_id FROM concurrency_slots WHERE run_id IS NOT NULL", "dagster")
        locks = [(name.split()[-1],) for (name,) in self.postgres.query(HOLDERS)]
        for kind, rows in (("slot", slots), ("lock", locks)):
            for (run_id,) in rows:
                if run_id in after_end:
                    self.held[kind, run_id] = float(after_end[run_id])

    def longest(self, kind: str, runs: Collection[str] | None = None) -> float:
        """Of these runs; None: of all."""
        of_kind = {run_id: seconds for (held, run_id), seconds in self.held.items() if held == kind}
        return max((of_kind[run_id] for run_id in of_kind if runs is None or run_id in runs), default=0.0)

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Look twice a second, until the block ends."""
        is_over = threading.Event()

        def look_again() -> None:
            while not is_over.wait(0.5):
                self.look()

        with ThreadPoolExecutor(1) as pool:
            looks = pool.submit(look_again)
            try:
                yield
            finally:
                is_over.set()
            looks.result()


@dataclass
class Production:
    shop: Shop
    postgres: postgres.Server
    home: Path
    twin: Path
    ports: dict[str, int] = field(default_factory=lambda: {"code server": free_port(), "web server": free_port()})
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.server = Server(f"http://127.0.0.1:{self.ports['web server']}", self.home / "web server.log")
        self.watch = Watch(self.postgres)

    # -- processes ------------------------------------------------------------------------------------

    def start(self, name: str) -> None:
        workspace = ["--workspace", str(self.home / "workspace.yaml")]
        address = ["--host", "127.0.0.1", "--port", str(self.ports.get(name))]
        module = ["--module-name", f"{self.shop.root.name}.definitions"]
        command, *arguments = {
            "code server": ["dagster", "code-server", "start", *address, *module],
            "daemon": ["dagster-daemon", "run", *workspace],
            "web server": ["dagster-webserver", *address, *workspace],
        }[name]
        with (self.home / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                [BIN / command, *arguments],
                cwd=self.shop.root,
                env={
                    **os.environ,
                    "DAGSTER_HOME": str(self.home),
                    "DAGSTER_EVENT_LOG_CONSUMER_DAEMON_INTERVAL_SECONDS": "1",
                    "PYTHONPATH": str(self.shop.root),
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def kill(self, name: str) -> None:
        """Kill a service. The code server is two processes: one that answers, and one that has the code."""
        process = self.running.pop(name)
        kill(process.pid, *(children_of(process.pid) if name == "code server" else []))
        process.wait()

    def start_what_is_missing(self) -> None:
        for name in ("code server", "daemon", "web server"):
            if name not in self.running:
                self.start(name)

    def is_loaded(self) -> bool:
        """Whether the web server has definitions, and the code server can be asked. Its absence is no error there."""
        with contextlib.suppress(urllib.error.URLError, TimeoutError, ConnectionError):
            socket.create_connection(("127.0.0.1", self.ports["code server"]), timeout=1).close()
            return bool(self.server.ask(LOCATION)["repositoriesOrError"]["nodes"])
        return False

    def processes_of(self, run_id: str) -> dict[str, int]:
        """Those processes of a run that exist: its own (`run`), the one of the component's `step`, and its `worker`."""
        messages = [entry.message for entry in self.shop.instance.all_logs(run_id)]
        started = [int(match[1]) for text in messages if (match := re.search(r"for run \(pid: (\d+)\)", text))]
        found = {"run": started[0]} if started and parent_of(started[0]) else {}
        for worker in processes_in(self.shop.project):
            step = parent_of(worker)
            if step is not None and found.get("run") in (parent_of(step), parent_of(parent_of(step) or 0)):
                found |= {"step": step, "worker": worker}
        return found

    def wait_for(self, found: Callable[[], _T], seconds: float = 120) -> _T:
        """Return the first answer that is true."""
        deadline = time.monotonic() + seconds
        while not (answer := found()):
            assert time.monotonic() < deadline, self.logs()
            time.sleep(0.1)
        return answer

    def logs(self) -> str:
        runs = "\n".join(f"{run.run_id} {run.status}" for run in self.shop.instance.get_runs())
        return "\n".join([runs, *(f"== {log.name}\n{log.read_text()[-4_000:]}" for log in self.home.glob("*.log"))])

    # -- runs -----------------------------------------------------------------------------------------

    def launch(self) -> str:
        return self.server.start(ASSETS)

    def terminate(self, run_id: str, policy: str) -> None:
        assert self.try_terminate(run_id, policy)

    def try_terminate(self, run_id: str, policy: str) -> bool:
        """Return whether Dagster has accepted it. It does not if the run has just ended."""
        answer = self.server.ask(TERMINATE, id=run_id, policy=policy)["terminateRun"]
        return bool(answer["__typename"] == "TerminateRunSuccess")

    def reexecute(self, run_id: str, strategy: str) -> str:
        """Launch a run again, without its tags, such as its longest time."""
        params = {"parentRunId": run_id, "strategy": strategy, "useParentRunTags": False}
        try:
            answer = self.server.ask(REEXECUTE, params=params)["launchPipelineReexecution"]
        except urllib.error.HTTPError as error:  # the web server answers so if no step is left to be executed
            raise RefusedError(str(error)) from error
        if answer["__typename"] != "LaunchRunSuccess":
            raise RefusedError(answer)
        launched: str = answer["run"]["runId"]
        return launched

    def run(self, run_id: str) -> dg.DagsterRun:
        run = self.shop.instance.get_run_by_id(run_id)
        assert run is not None
        return run

    def status(self, run_id: str) -> dg.DagsterRunStatus:
        return self.run(run_id).status

    def is_over(self, run_id: str) -> bool:
        return self.status(run_id) in ENDED

    def end_of(self, run_id: str) -> RunRecord:
        """Wait for the end of a run."""
        self.wait_for(lambda: self.is_over(run_id), 180)
        return self.shop.run_record(run_id)

    def retry_of(self, run_id: str, seconds: float = 120) -> str:
        """Wait for the retry that Dagster launches."""
        children = dg.RunsFilter(tags={"dagster/parent_run_id": run_id})
        return self.wait_for(lambda: self.shop.instance.get_runs(children), seconds)[0].run_id

    def retry_or_reexecute(self, run_id: str) -> str:
        """Return Dagster's retry of a failed run, or launch it again as a person would.

        Dagster writes the event of a failure before the status of the run. Its daemon retries no run without that
        status, and does not look at an event again.
        """
        with contextlib.suppress(AssertionError):
            return self.retry_of(run_id, seconds=40)
        return self.reexecute(run_id, "FROM_FAILURE")

    def wait_until_all_is_free(self) -> None:
        """Wait until no process, lock or slot of a run is left."""
        slots = "SELECT 1 FROM concurrency_slots WHERE run_id IS NOT NULL"

        def is_something_left() -> bool:
            of_server = self.postgres.query(HOLDERS) or self.postgres.query(slots, "dagster")
            return bool(of_server or processes_in(self.shop.project))

        self.wait_for(lambda: not is_something_left())

    @contextmanager
    def closed_gate(self) -> Iterator[None]:
        """Let the query of `t.gate` wait until the block ends."""
        with self.postgres.advisory_lock(GATE, "shop"):
            yield

    def wait_at_gate(self, run_id: str) -> None:
        """Wait until a run executes the query that waits."""
        waiting = f"SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND objid = {GATE} AND NOT granted"
        holder = f"dg_sqlmesh: Dagster run {run_id}"

        def is_waiting() -> bool:
            assert self.status(run_id) not in ENDED, self.shop.run_record(run_id).failures
            return bool(self.postgres.query(waiting)) and (holder,) in self.postgres.query(HOLDERS)

        self.wait_for(is_waiting)

    # -- data -----------------------------------------------------------------------------------------

    def restore(self) -> None:
        """Give the project the database as it was after its plan, three days ago."""
        self.postgres.query("DROP DATABASE IF EXISTS shop WITH (FORCE)")
        self.postgres.query("CREATE DATABASE shop TEMPLATE planned")

    def content(self, folder: Path, database: str) -> dict[str, Any]:
        """All rows, and the intervals of the SQLMesh state."""
        rows = {table: sorted(self.postgres.query(f"SELECT day FROM {table}", database)) for table in TABLES}
        intervals = state(folder)["intervals"]
        return {**rows, "intervals": {name.replace(database, "database"): times for name, times in intervals.items()}}

    def differs_from_twin(self) -> bool:
        """Whether rows or intervals differ from those of a project in which `sqlmesh run` has computed everything."""
        sqlmesh(self.twin, "run")
        return self.content(self.shop.project, "shop") != self.content(self.twin, "twin")

    def false_outcomes(self, run_ids: list[str]) -> list[str]:
        """What the records of runs say that is not so. The last run has succeeded, and all models are computed."""
        records = [self.shop.run_record(run_id) for run_id in run_ids]
        executed = [key for record in records for key in record.materializations]
        bad = [f"{key} was executed twice" for key in MODELS if executed.count(key) > 1]
        known = {*executed, *(key for record in records for key in record.computed_outside)}
        bad += [f"{key} was computed, and no run has recorded it" for key in MODELS - known]
        for record in records:
            for key in record.materializations.keys() & MODELS:
                check = record.checks.get(f"{key}:sqlmesh_execution_status")
                if check and not check.passed:
                    bad.append(f"{key} was materialized in {record.run_id}, and its status check fails")
            if record.status is dg.DagsterRunStatus.SUCCESS:
                bad += [f"{name} fails in {record.run_id}" for name, check in record.checks.items() if not check.passed]
        return bad


@contextmanager
def production_instance(folder: Path, pause: float = 0.0) -> Iterator[Production]:
    """Plan a project as of three days ago, and start an instance with it.

    Args:
        pause: Seconds that each query needs in addition.
    """
    with postgres.new_postgres_server() as server:
        files = {name: text.format(pause=pause) for name, text in FILES.items()}
        for database in ("dagster", "shop", "twin"):
            server.query(f"CREATE DATABASE {database}")
        project, twin = (write_project(folder / name, files, server.config(name)) for name in ("shop", "twin"))
        for planned in (project, twin):
            plan(planned)
        server.query("CREATE DATABASE planned TEMPLATE shop")
        home = folder / "home"
        home.mkdir()
        (home / "dagster.yaml").write_text(DAGSTER_YAML.format(port=server.port))
        with dg.DagsterInstance.from_config(str(home)) as instance:
            root = write_dagster_project(folder / f"orchestra_{uuid.uuid4().hex[:8]}")
            shop = Shop(root, instance, project)
            shop.add_module("report", REPORT)
            shop.configure()
            production = Production(shop, server, home, twin)
            (home / "workspace.yaml").write_text(WORKSPACE.format(port=production.ports["code server"]))
            try:
                production.start_what_is_missing()
                production.wait_for(production.is_loaded)
                with production.watch.looking():
                    yield production
            finally:
                for process in production.running.values():
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
                kill(*processes_in(project))
