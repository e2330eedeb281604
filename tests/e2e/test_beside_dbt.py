"""The examples that need dbt, in an environment of their own: `import sqlmesh` fails there, and everything works."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import dagster as dg
import duckdb
import pytest
import yaml
from example_projects import copy_example, in_readme, require_fresh_readme, type_plan
from harness import REPOSITORY, DagsterProject, query, run

# The same DuckDB as here, since both sides open the same files.
PACKAGES = ["dagster-dbt", "dbt-duckdb", "dbt-core>=1.8", "dagster-dg-cli", f"duckdb=={version('duckdb')}"]
# A dependency of dbt-core's whose source distribution fetches a binary while it is built, which not every machine may.
BINARY = ["--only-binary", "dbt-core-experimental-parser"]


@pytest.fixture(scope="module")
def beside_dbt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the environment's commands."""
    folder = tmp_path_factory.mktemp("beside_dbt")
    environment = folder / "environment"
    uv = [sys.executable, "-m", "uv"]
    run([*uv, "venv", "--python", sys.executable, environment], cwd=folder)
    python = environment / "bin" / "python"
    run([*uv, "pip", "install", "--python", python, *BINARY, "-e", REPOSITORY, *PACKAGES], cwd=folder)
    return python.parent


def type_there(bin_: Path, folder: Path, *words: str) -> str:
    """A command of that environment, and only of that one."""
    done = run([bin_ / words[0], *words[1:]], cwd=folder, PATH=f"{bin_}{os.pathsep}{os.defpath}")
    return done.stdout + done.stderr


class Launched:
    """What `dg launch` there has logged of a run: the materialized assets in order, and the results of the checks."""

    def __init__(self, bin_: Path, root: Path) -> None:
        config = '{"execution": {"config": {"in_process": {}}}}'
        said = type_there(bin_, root, "dg", "launch", "--assets", "*", "--config-json", config)
        assert "RUN_SUCCESS" in said
        found = re.findall(r"ASSET_MATERIALIZATION - Materialized value (.+)\.$", said, re.MULTILINE)
        self.materialized = [key.replace(" ", "/") for key in found]
        checks = re.findall(r"ASSET_CHECK_EVALUATION - Asset check '(.+?)' on '(.+?)' (passed|did not pass)\.", said)
        self.checks = {f"{key}:{name}": result for name, key, result in checks}


def test_plain_import_of_sqlmesh_fails_there(beside_dbt: Path) -> None:
    done = subprocess.run([beside_dbt / "python", "-c", "import sqlmesh"], capture_output=True, text=True)
    assert "interpreted classes cannot inherit from compiled" in done.stderr


def test_dbt_then_sqlmesh_then_a_plain_asset_in_one_run(beside_dbt: Path, tmp_path: Path) -> None:
    root = copy_example("with_dbt", tmp_path)
    project, dbt = root / "sqlmesh_project", root / "dbt_project"
    with duckdb.connect(str(project / "warehouse.duckdb")) as warehouse:  # what `dbt build` makes, in no time
        warehouse.execute("CREATE SCHEMA bikes")
        warehouse.execute(f"CREATE TABLE bikes.rides AS {(dbt / 'models' / 'rides.sql').read_text()}")
        warehouse.execute(f"CREATE TABLE bikes.stations AS FROM '{dbt / 'seeds' / 'stations.csv'}'")
    type_plan("with_dbt", root, beside_dbt)
    launched = Launched(beside_dbt, root)
    assert set(launched.materialized[:2]) == {"rides", "stations"}
    assert launched.materialized[2:] == ["usage/daily_rides", "due_for_service"]
    assert query(project, "SELECT count(*) > 0 FROM usage.daily_rides") == [(True,)]
    assert set(launched.checks.values()) == {"passed"}

    assets, checks = in_readme("with_dbt")
    assert set(launched.materialized) == set(assets)
    assert set(launched.checks) == set(checks)
    assert assets["usage/daily_rides"][1] == {"rides", "stations"}  # linked by the tables' names


def test_a_dbt_project_runs_in_sqlmesh_and_its_tests_are_checks(beside_dbt: Path, tmp_path: Path) -> None:
    """With Dagster here and only SQLMesh in that environment, which is the other way to run it.

    SQLMesh gives its models and tests no project, whatever the configuration names.
    """
    root = copy_example("dbt_flavoured", tmp_path)
    project = root / "library"
    with (project / "sqlmesh.yaml").open("a") as configuration:
        configuration.write("\nproject: library\n")
    declaration = root / "dbt_flavoured" / "defs" / "library" / "defs.yaml"
    said = yaml.safe_load(declaration.read_text())
    said["attributes"]["project"] = {"path": said["attributes"]["project"], "python": str(beside_dbt / "python")}
    declaration.write_text(yaml.safe_dump(said))
    type_plan("dbt_flavoured", root, beside_dbt)
    (tmp_path / "dagster_home").mkdir()
    with dg.instance_for_test(temp_dir=str(tmp_path / "dagster_home")) as instance:
        dagster = DagsterProject(root, instance)
        definitions = dagster.refresh()
        told = dagster.launch()
        assert told.status == dg.DagsterRunStatus.SUCCESS, told.failures
    require_fresh_readme("dbt_flavoured", definitions)
    models = {"library/books", "library/loans", "library/loans_by_day", "library/popular_books"}
    assert set(told.materializations) == models
    assert all(check.passed for check in told.checks.values())

    specs = {spec.key.to_user_string(): spec for spec in definitions.resolve_all_asset_specs()}
    assert specs["library/loans_by_day"].owners == ["librarians@example.com"]
    assert specs["library/loans_by_day"].tags["daily"] == ""
    assert specs["library/loans"].description == "One row per loan."
    assert specs["library/popular_books"].group_name == "reading_room"
    assert specs["library/popular_books"].metadata["sqlmesh/dbt_unique_id"] == "model.library.popular_books"
    assert specs["library/popular_books"].metadata["sqlmesh/dbt_meta"].value == '{"tier": "silver"}'
    assert any(name.startswith("library/loans:") and "relationships" in name for name in told.checks)
    [assets] = [one for one in definitions.assets or [] if isinstance(one, dg.AssetsDefinition)]
    blocking = {check.name for check in assets.check_specs if check.blocking}
    assert blocking == {
        "unique_books_book_id", "unique_loans_loan_id", "not_null_loans_loan_id", "unique_popular_books_title",
    }  # fmt: skip
