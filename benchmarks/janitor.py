"""Seconds of the janitor's worker process: first with rows of intervals to compact, then with nothing to do."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

import generate
from lab import heading, measure, row

from dg_sqlmesh_component.capabilities.janitor.messages import JanitorFinished, JanitorRequest
from dg_sqlmesh_component.config.project import SQLMeshProject
from dg_sqlmesh_component.worker_client.calls import serving

# A plan in the past, and a run on each of the next days, so that every run has pending intervals.
PREPARE = """
import sys
from datetime import datetime, timedelta, timezone
from sqlmesh import Context

runs = int(sys.argv[1])
first_day = datetime.now(timezone.utc) - timedelta(days=runs)
context = Context(paths=["."])
context.plan("prod", auto_apply=True, no_prompts=True, execution_time=first_day)
context.close()
for day in range(1, runs + 1):
    context = Context(paths=["."], load=False)
    context.run("prod", execution_time=first_day + timedelta(days=day), skip_janitor=True)
    context.close()
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=100)
    parser.add_argument("--runs", type=int, default=10, help="runs since the plan")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = generate.write(Path(folder).resolve() / "shop", options.models)
        config = path / "config.yaml"
        config.write_text(config.read_text().replace("4 days ago", "2026-01-01"))
        measure([sys.executable, "-c", PREPARE, str(options.runs)], cwd=path)
        database = path / "warehouse.duckdb"
        shutil.copy(database, path / "prepared.duckdb")
        full: list[float] = []
        empty: list[float] = []
        for _ in range(options.rounds):
            shutil.copy(path / "prepared.duckdb", database)
            for seconds in (full, empty):
                since = time.perf_counter()
                finished = clean_up(SQLMeshProject((path,)))
                seconds.append(time.perf_counter() - since)
                print(finished)
    print(heading(f"Janitor, {options.models} models, {options.runs} runs since the plan, {options.rounds} rounds"))
    print(row("rows of intervals to compact", full, " s"))
    print(row("nothing to do", empty, " s"))


def clean_up(project: SQLMeshProject) -> JanitorFinished:
    with serving(project, JanitorRequest(project.open_request)) as events:
        for event in events:
            last = event
    assert isinstance(last, JanitorFinished), last
    return last


if __name__ == "__main__":
    main()
