"""`project.python`: SQLMesh in its own environment, without this package and with compiled sqlglot."""

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


# More than ten seconds: it installs SQLMesh, and no process of it is forked from one that has imported SQLMesh.
def test_sqlmesh_runs_in_environment_without_this_package_and_with_compiled_sqlglot(tmp_path: Path) -> None:
    """As with dagster-dbt, which installs `sqlglotc`. There `import sqlmesh` raises a TypeError."""
    environment = tmp_path / "environment"
    python = environment / "bin" / "python"
    run([sys.executable, "-m", "venv", "--without-pip", environment], cwd=tmp_path)
    packages = [f"sqlmesh=={version('sqlmesh')}", f"sqlglot[c]=={version('sqlglot')}", f"duckdb=={version('duckdb')}"]
    run([sys.executable, "-m", "uv", "pip", "install", "--python", python, *packages], cwd=tmp_path)
    plain = subprocess.run([python, "-c", "import sqlmesh"], capture_output=True, text=True)
    assert "interpreted classes cannot inherit from compiled" in plain.stderr
    imported = subprocess.run([python, "-c", "import dg_sqlmesh_component"], capture_output=True, text=True)
    assert "ModuleNotFoundError" in imported.stderr

    project = write_project(tmp_path / "shop", FILES)
    plan(project)
    with dagster_project(tmp_path) as dagster:
        dagster.add_component("shop", {"project": {"path": str(project), "python": str(python)}})
        dagster.refresh()
        record = dagster.launch("in_process")
    assert record.status == dg.DagsterRunStatus.SUCCESS, record.failures
    assert set(record.materializations) == {"t/one", "t/two"}
