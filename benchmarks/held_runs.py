"""The seconds for which an apply holds the lock of runs, with the state in PostgreSQL: runs wait as long.

In each round, one model of the middle layer is changed and the plan applied. The server is asked each 10 ms which locks
are held. The lock of changes is held from the beginning to the end, and the lock of runs for a part of it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import generate
from lab import HERE, heading, measure, progress, row, spent_by

from dg_sqlmesh_component.capabilities.plans import messages as msg
from dg_sqlmesh_component.config.project import SQLMeshProject
from dg_sqlmesh_component.worker_client.calls import serving

sys.path.append(str(HERE.parent / "tests"))
from postgres import Server, postgres_server

SQLMESH = "from sqlmesh.cli.main import cli; cli()"
DATABASE = "shop"
CONFIG = """
gateways:
  local:
    connection: {{type: duckdb, database: warehouse.duckdb}}
    state_connection:
      {{type: postgres, host: 127.0.0.1, port: {port}, user: postgres, password: x, database: {database}}}
default_gateway: local
model_defaults: {{dialect: duckdb, start: 4 days ago}}
disable_anonymized_analytics: true
"""
HELD = "SELECT classid, objid FROM pg_locks WHERE locktype = 'advisory' AND granted"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cpu", action="store_true", help="of the apply: CPU seconds of all processes, not the time")
    options = parser.parse_args()
    seconds: dict[str, list[float]] = {"runs wait": [], "the apply": []}
    with postgres_server() as server, tempfile.TemporaryDirectory() as folder:
        server.query(f"CREATE DATABASE {DATABASE}")
        path = generate.write(Path(folder).resolve() / "sqlmesh", options.models, depth=min(10, options.models))
        (path / "config.yaml").write_text(CONFIG.format(port=server.port, database=DATABASE))
        measure([sys.executable, "-c", SQLMESH, "-p", path, "plan", "--auto-apply", "--no-prompts"], cwd=path)
        model = path / "models" / f"model_{options.models // 2:04d}.sql"
        original = model.read_text()
        for number in range(options.rounds):
            model.write_text(original.replace("AS c1", f"+ {number + 1} AS c1", 1))
            with held_locks(server) as held:
                spent = spent_by(partial(apply, SQLMeshProject(paths=(path,))), cpu=options.cpu)
            seconds["the apply"].append(spent)
            assert len(held) == 2, held
            seconds["runs wait"].append(min(held.values()))
            progress({name: values[-1] for name, values in seconds.items()})
    print(heading(f"{options.models} models, {options.rounds} rounds"))
    for name, values in seconds.items():
        print(row(name, values, " s of CPU" if options.cpu and name == "the apply" else " s"))


@contextmanager
def held_locks(server: Server) -> Iterator[Counter[tuple[int, int]]]:
    """The seconds for which each lock is held during the block."""
    held, is_over = Counter[tuple[int, int]](), threading.Event()

    def watch() -> None:
        with server.session(DATABASE) as cursor:
            last = time.perf_counter()
            while not is_over.wait(0.01):
                cursor.execute(HELD)
                locks, now = cursor.fetchall(), time.perf_counter()
                held.update(dict.fromkeys(locks, now - last))
                last = now

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield held
    finally:
        is_over.set()
        thread.join()


def apply(project: SQLMeshProject) -> None:
    with serving(project, msg.PlanRequest(project.open_request, "prod", msg.AwaitedTables(), applies=True)) as worker:
        for event in worker:
            if isinstance(event, msg.PlanBuilt):
                worker.answer(msg.PlanApproval((), msg.Records()))
            elif isinstance(event, msg.RequestFailed):
                raise RuntimeError(event.message)


if __name__ == "__main__":
    main()
