"""A project fresh from `sqlmesh init duckdb`, untouched: its database path is relative."""

from __future__ import annotations

import json
from pathlib import Path

from harness import BIN, COMPONENT, dagster_project, run, sqlmesh, state


def test_it_works_from_any_folder_and_leaves_no_stray_database(tmp_path: Path) -> None:
    project = tmp_path / "fresh"
    project.mkdir()
    sqlmesh(project, "init", "duckdb")
    config = project / "config.yaml"
    assert "database: db.db" in config.read_text()
    with dagster_project(tmp_path) as dagster:
        params = json.dumps({"project_path": str(project)})
        run([BIN / "dg", "scaffold", "defs", COMPONENT, "fresh", "--json-params", params], cwd=dagster.root)
        sqlmesh(project, "plan", "--auto-apply", "--no-prompts")
        before = state(project)
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        done = run(
            [BIN / "dg", "launch", "--target-path", dagster.root, "--assets", "*"],
            cwd=elsewhere,
            DAGSTER_HOME=str(dagster.instance.root_directory),
            PYTHONPATH=str(dagster.root),  # a project that is installed needs no such thing
        )
        assert "RUN_SUCCESS" in done.stderr + done.stdout
        told = dagster.launch()  # `dg launch` has used the other executor
        assert not told.failures
        assert not told.materializations
        assert told.status_of("sqlmesh_example/full_model") == "up_to_date"
        assert state(project) == before
    assert list(tmp_path.rglob("db.db")) == [project / "db.db"]
