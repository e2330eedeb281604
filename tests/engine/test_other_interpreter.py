"""`project.python`: SQLMesh in an environment of its own, with nothing of ours and compiled sqlglot beside it."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import dagster as dg
from harness import dagster_project, plan, run, write_project

FILES = {
    "models/one.sql": "MODEL (name t.one, kind FULL); SELECT 1 AS id",
    "models/two.sql": "MODEL (name t.two, kind FULL, audits (not_null(columns := (id)))); SELECT id FROM t.one",
}


def test_sqlmesh_runs_where_nothing_of_ours_is_installed_and_plain_import_fails(tmp_path: Path) -> None:
    """As beside dagster-dbt, which brings `sqlglotc`: there `import sqlmesh` ends in a TypeError."""
    environment = tmp_path / "environment"
    python = environment / "bin" / "python"
    run([sys.executable, "-m", "venv", "--without-pip", environment], cwd=tmp_path)
    packages = [f"sqlmesh=={version('sqlmesh')}", f"sqlglot[c]=={version('sqlglot')}", f"duckdb=={version('duckdb')}"]
    run([sys.executable, "-m", "uv", "pip", "install", "--python", python, *packages], cwd=tmp_path)
    plain = subprocess.run([python, "-c", "import sqlmesh"], capture_output=True, text=True)
    assert "interpreted classes cannot inherit from compiled" in plain.stderr
    ours = subprocess.run([python, "-c", "import dg_sqlmesh_component"], capture_output=True, text=True)
    assert "ModuleNotFoundError" in ours.stderr

    project = write_project(tmp_path / "shop", FILES)
    plan(project)
    with dagster_project(tmp_path) as dagster:
        dagster.declare("shop", {"project": {"path": str(project), "python": str(python)}})
        dagster.refresh()
        told = dagster.launch("in_process")
    assert told.status == dg.DagsterRunStatus.SUCCESS, told.failures
    assert set(told.materializations) == {"t/one", "t/two"}
