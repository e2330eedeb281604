"""A run whose project is described anew before its steps: what was planned is run, or the step says what is missing."""

from __future__ import annotations

import uuid
from pathlib import Path

import dagster as dg
from dagster._core.execution.api import execute_run
from harness import DagsterProject, dagster_project, plan, query, write_project

LANDING = """
import dagster as dg

@dg.asset(key=["landing", "late"], deps=[dg.AssetKey(["t", "first"])])
def late(): pass
"""
FIRST = "MODEL (name t.first, kind FULL); SELECT 1 AS id"
SECOND = "MODEL (name t.second, kind FULL); SELECT id FROM landing.late"
THIRD = "MODEL (name t.third, kind FULL); SELECT {} AS id FROM t.{}"


def job_of(dagster: DagsterProject) -> dg.ReconstructableJob:
    arguments = (str(dagster.root), {"launch": [uuid.uuid4().hex]})
    return dg.build_reconstructable_job("harness", "asset_job", reconstructable_args=arguments)


def test_a_model_that_was_planned_and_is_no_longer_in_its_step_fails_the_step(tmp_path: Path) -> None:
    """Described anew between the launch and the step, as by a reload while a run waits in the queue."""
    project = write_project(
        tmp_path / "shop", {"models/first.sql": FIRST, "models/third.sql": THIRD.format(3, "first")}
    )
    plan(project)
    with dagster_project(tmp_path) as dagster:
        dagster.declare("shop", {"project": str(project)})
        dagster.refresh()
        run = dagster.instance.create_run_for_job(job_of(dagster).get_definition())
        (project / "models/third.sql").unlink()
        dagster.refresh()
        execute_run(job_of(dagster), run, dagster.instance)
        told = dagster.told(run.run_id)
    assert told.status == dg.DagsterRunStatus.FAILURE
    assert told.failures == [
        "The project was described anew since this run was planned. No longer part of this step: t/third, "
        "t/third:sqlmesh_execution_status. Nothing was run in this step; launch the run anew."
    ]
    assert not told.materializations


def test_a_failed_model_that_has_moved_to_a_step_which_is_not_repeated_fails_the_retry(tmp_path: Path) -> None:
    """It was mended, and reads another model now: green, the retry would say nothing of it."""
    files = {"first": FIRST, "second": SECOND, "third": THIRD.format("error('boom')", "second")}
    project = write_project(tmp_path / "shop", {f"models/{name}.sql": text for name, text in files.items()})
    query(project, "CREATE SCHEMA landing")
    query(project, "CREATE TABLE landing.late AS SELECT 1 AS id WHERE false")
    plan(project)
    query(project, "INSERT INTO landing.late VALUES (1)")
    with dagster_project(tmp_path) as dagster:
        dagster.declare("shop", {"project": str(project)})
        dagster.add_module("landing", LANDING)
        dagster.refresh()
        failed = dagster.launch()
        assert failed.status_of("t/third") == "failed"
        (project / "models/third.sql").write_text(THIRD.format(3, "first"))
        plan(project)
        dagster.refresh()
        again = dagster.launch(retry_of=failed.run_id)
        anew = dagster.launch()
    assert again.status == dg.DagsterRunStatus.FAILURE
    assert "since the run was planned that this one repeats. No longer part of this step: t/third." in again.failures[0]
    assert anew.status == dg.DagsterRunStatus.SUCCESS
    assert anew.status_of("t/third") is not None
