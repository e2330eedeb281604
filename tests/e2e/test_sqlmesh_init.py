"""An unchanged project from `sqlmesh init duckdb`, whose database path is relative."""

from pathlib import Path

import pytest
from harness import BIN, COMPONENT, dagster_project, run, sqlmesh, state

# The demo also scaffolds, plans and launches in CI.
pytestmark = pytest.mark.slow


def test_first_run_succeeds_from_any_folder_and_creates_no_stray_database(tmp_path: Path) -> None:
    project = tmp_path / "fresh"
    project.mkdir()
    sqlmesh(project, "init", "duckdb")
    config = project / "config.yaml"
    assert "database: db.db" in config.read_text()
    with dagster_project(tmp_path) as dagster:
        run([BIN / "dg", "scaffold", "defs", COMPONENT, "fresh", "--project-path", project], cwd=dagster.root)
        sqlmesh(project, "plan", "--skip-backfill", "--auto-apply", "--no-prompts")  # as the README says
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        done = run(
            [BIN / "dg", "launch", "--target-path", dagster.root, "--assets", "*"],
            cwd=elsewhere,
            DAGSTER_HOME=str(dagster.instance.root_directory),
            PYTHONPATH=str(dagster.root),  # not needed for an installed project
        )
        assert "RUN_SUCCESS" in done.stderr + done.stdout
        [launched] = dagster.instance.get_runs()
        first = dagster.run_record(launched.run_id)
        keys = {f"sqlmesh_example/{name}_model" for name in ("seed", "incremental", "full")}
        assert set(first.materializations) == keys
        audit = "sqlmesh_example/full_model:assert_positive_order_ids"
        assert set(first.checks) == {audit, *(f"{key}:sqlmesh_execution_status" for key in keys)}
        assert all(check.passed for check in first.checks.values())
        before = state(project)
        record = dagster.launch()  # uses another executor than `dg launch`
        assert not record.failures
        assert not record.materializations
        assert set(record.observations) == keys
        assert record.status_of("sqlmesh_example/full_model") == "up_to_date"
        assert state(project) == before
    assert list(tmp_path.rglob("db.db")) == [project / "db.db"]
