"""Where SQLMesh itself would wait for hours, stop for everybody, or start over: bounded, named, told."""

from __future__ import annotations

import time
from pathlib import Path

import dagster as dg
import pytest
from harness import dagster_project, plan, sqlmesh, state, wait_until, write_project
from postgres import postgres_server

RAISING = """
from sqlmesh import signal


@signal()
def landed(batch):
    raise ConnectionError("the landing zone did not answer")
"""


def test_a_signal_that_raises_is_the_failure_of_its_model(tmp_path: Path) -> None:
    project = write_project(
        tmp_path / "shop",
        {
            "models/fine.sql": "MODEL (name t.fine, kind FULL); SELECT 1 AS id",
            "models/gated.sql": "MODEL (name t.gated, kind FULL, signals (landed())); SELECT 1 AS id",
            "signals/landed.py": RAISING.replace("raise", "return True\n    raise"),
        },
    )
    plan(project)
    # The signal is part of the promoted model's code: the one that raises is promoted like any change.
    (project / "signals" / "landed.py").write_text(RAISING)
    sqlmesh(project, "plan", "--auto-apply", "--no-prompts", "--skip-backfill", "--execution-time", "3 days ago")
    with dagster_project(tmp_path) as dagster:
        dagster.declare("shop", {"project": str(project)})
        dagster.refresh()
        told = dagster.launch()
    assert told.status == dg.DagsterRunStatus.FAILURE
    assert told.status_of("t/gated") == "failed"
    assert told.status_of("t/fine") == "interrupted"
    [failure] = told.failures
    assert "t.gated" in failure
    assert "the landing zone did not answer" in failure
    assert not told.materializations


WAITING = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND objid = 7 AND NOT granted"
SLOW = "MODEL (name t.{name}, kind FULL, start '{start}'); SELECT 1 AS id, {pause} AS paused {source}"


@pytest.mark.parametrize("is_removed", [False, True], ids=["a model changed", "a model removed"])
def test_a_plan_that_lands_in_the_middle_of_a_run_makes_sqlmesh_start_over_and_nothing_is_told_twice(
    tmp_path: Path, is_removed: bool
) -> None:
    start = time.strftime("%Y-%m-%d", time.gmtime(time.time() - 6 * 86400))
    today = time.strftime("%Y-%m-%d", time.gmtime())
    pause = f"CASE WHEN @execution_ds >= '{today}' THEN pg_advisory_xact_lock(7)::text ELSE '' END"
    with postgres_server() as server:
        server.query("CREATE DATABASE landing")
        project = write_project(
            tmp_path / "shop",
            {
                "models/first.sql": SLOW.format(name="first", start=start, pause="''", source=""),
                "models/slow.sql": SLOW.format(name="slow", start=start, pause=pause, source="FROM t.first"),
                "models/last.sql": SLOW.format(name="last", start=start, pause="''", source="FROM t.slow"),
            },
            config=server.config("landing"),
        )
        plan(project)
        with dagster_project(tmp_path) as dagster:
            dagster.declare("shop", {"project": str(project)})
            dagster.refresh()
            before = state(project)["intervals"]
            with server.advisory_lock(7, "landing"):  # t.slow ends once the plan has landed
                process = dagster.launch_beside()
                wait_until(lambda: bool(server.query(WAITING)), process)
                changed = SLOW.format(name="last", start=start, pause="'changed'", source="FROM t.slow")
                if is_removed:
                    (project / "models" / "last.sql").unlink()
                else:
                    (project / "models" / "last.sql").write_text(changed)
                plan(project)
            run_id = process.communicate(timeout=200)[0].split()[-1]
            stored = state(project)
            after = stored["intervals"]
        told = dagster.told(run_id)
        assert "A plan changed the environment during the run: SQLMesh starts over" in told.log
        if is_removed:
            assert told.status == dg.DagsterRunStatus.FAILURE
            assert told.status_of("t/last") == "not_in_environment"
            assert set(told.materializations) == {"t/first", "t/slow"}
            return
        assert told.status == dg.DagsterRunStatus.SUCCESS, told.failures
        last, fqn = told.materializations["t/last"], '"landing"."t"."last"'
        assert last.metadata["sqlmesh/snapshot_version"].value == stored["versions"][fqn], (
            "what ran, not what was to run"
        )
        assert (last.tags or {})["dagster/code_version"] == stored["data_hashes"][fqn]
        # Each is told once, whatever SQLMesh did in its two passes.
        assert set(told.materializations) == {"t/first", "t/slow", "t/last"}
        assert all(after[fqn] > before.get(fqn, 0) for fqn in after)
        assert server.query("SELECT paused FROM t.last", "landing") == [("changed",)]


def test_of_code_that_ends_the_process_it_is_said_where_it_stands(tmp_path: Path) -> None:
    project = write_project(tmp_path / "shop", {"models/leaves.py": "import sys\nsys.exit(0)\n"})
    with dagster_project(tmp_path) as dagster:
        dagster.declare("shop", {"project": str(project)})
        said = dagster.refusal()
    assert "Code of the SQLMesh project ended SQLMesh's process: " in said
    assert "models/leaves.py, line 2, in <module>, raised SystemExit(0), as `sys.exit` does." in said
