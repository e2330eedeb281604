"""The examples with dbt, in a separate environment. `import sqlmesh` fails there, and the component works."""

import json
import re
import subprocess
from pathlib import Path

import dagster as dg
import duckdb
import pytest
import yaml
from example_projects import assets_and_checks_in_readme, copy_example, require_fresh_readme, run_readme_plan
from harness import REPOSITORY, DagsterProject, query
from package_environment import DBT, create_environment, run_in_environment

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def dbt_environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create an environment with dbt and return the folder of its commands."""
    return create_environment(tmp_path_factory.mktemp("dbt_environment"), *DBT)


class LaunchedRun:
    """What `dg launch` has logged of a run: the materialized assets in order, and the check results."""

    def __init__(self, bin_: Path, root: Path) -> None:
        config = '{"execution": {"config": {"in_process": {}}}}'
        output = run_in_environment(bin_, root, "dg", "launch", "--assets", "*", "--config-json", config)
        assert "RUN_SUCCESS" in output
        keys = re.findall(r"ASSET_MATERIALIZATION - Materialized value (.+)\.$", output, re.MULTILINE)
        self.materialized = [key.replace(" ", "/") for key in keys]
        checks = re.findall(r"ASSET_CHECK_EVALUATION - Asset check '(.+?)' on '(.+?)' (passed|did not pass)\.", output)
        self.checks = {f"{key}:{name}": result for name, key, result in checks}


def test_plain_import_of_sqlmesh_fails_alongside_dbt(dbt_environment: Path) -> None:
    done = subprocess.run([dbt_environment / "python", "-c", "import sqlmesh"], capture_output=True, text=True)
    assert "interpreted classes cannot inherit from compiled" in done.stderr


def test_one_run_executes_dbt_then_sqlmesh_then_a_plain_asset(dbt_environment: Path, tmp_path: Path) -> None:
    root = copy_example("with_dbt", tmp_path)
    project, dbt = root / "sqlmesh_project", root / "dbt_project"
    with duckdb.connect(
        str(project / "warehouse.duckdb")
    ) as warehouse:  # the tables that `dbt build` would create, but faster
        warehouse.execute("CREATE SCHEMA bikes")
        warehouse.execute(f"CREATE TABLE bikes.rides AS {(dbt / 'models' / 'rides.sql').read_text()}")
        warehouse.execute(f"CREATE TABLE bikes.stations AS FROM '{dbt / 'seeds' / 'stations.csv'}'")
    run_readme_plan("with_dbt", root, dbt_environment)
    launched = LaunchedRun(dbt_environment, root)
    assert set(launched.materialized[:2]) == {"rides", "stations"}
    assert launched.materialized[2:] == ["usage/daily_rides", "due_for_service"]
    assert query(project, "SELECT count(*) > 0 FROM usage.daily_rides") == [(True,)]
    assert set(launched.checks.values()) == {"passed"}

    assets, checks = assets_and_checks_in_readme("with_dbt")
    assert set(launched.materialized) == set(assets)
    assert set(launched.checks) == set(checks)
    assert assets["usage/daily_rides"][1] == {"rides", "stations"}  # linked by the tables' names


def test_dbt_project_runs_in_sqlmesh_and_its_tests_are_checks(dbt_environment: Path, tmp_path: Path) -> None:
    """Dagster runs in the test environment, and only SQLMesh runs in the environment with dbt.

    SQLMesh assigns models and tests of a dbt project to no project, even if the config names one.
    """
    root = copy_example("dbt_flavoured", tmp_path)
    project = root / "library"
    with (project / "sqlmesh.yaml").open("a") as configuration:
        configuration.write("\nproject: library\n")
    defs_file = root / "dbt_flavoured" / "defs" / "library" / "defs.yaml"
    component = yaml.safe_load(defs_file.read_text())
    component["attributes"]["project"] = {
        "path": component["attributes"]["project"],
        "python": str(dbt_environment / "python"),
    }
    defs_file.write_text(yaml.safe_dump(component))
    run_readme_plan("dbt_flavoured", root, dbt_environment)
    (tmp_path / "dagster_home").mkdir()
    with dg.instance_for_test(temp_dir=str(tmp_path / "dagster_home")) as instance:
        dagster = DagsterProject(root, instance)
        definitions = dagster.refresh()
        record = dagster.launch().succeeded()
    require_fresh_readme("dbt_flavoured", definitions)
    models = {"library/books", "library/loans", "library/loans_by_day", "library/popular_books"}
    assert set(record.materializations) == models
    assert all(check.passed for check in record.checks.values())

    specs = {spec.key.to_user_string(): spec for spec in definitions.resolve_all_asset_specs()}
    assert specs["library/loans_by_day"].owners == ["librarians@example.com"]
    assert specs["library/loans_by_day"].tags["daily"] == ""
    assert specs["library/loans"].description == "One row per loan."
    assert specs["library/popular_books"].group_name == "reading_room"
    assert specs["library/popular_books"].metadata["sqlmesh/dbt_unique_id"] == "model.library.popular_books"
    assert specs["library/popular_books"].metadata["sqlmesh/dbt_meta"].value == '{"tier": "silver"}'
    assert any(name.startswith("library/loans:") and "relationships" in name for name in record.checks)
    [assets] = [assets for assets in definitions.assets or [] if isinstance(assets, dg.AssetsDefinition)]
    blocking = {check.name for check in assets.check_specs if check.blocking}
    assert blocking == {
        "unique_books_book_id", "unique_loans_loan_id", "not_null_loans_loan_id", "unique_popular_books_title",
    }  # fmt: skip


PAGE = (REPOSITORY / "docs" / "from-dbt.md").read_text()
INIT, PLAN_DEV, PLAN_PROD = re.findall(r"^```bash\n(dg_sqlmesh (?:init|plan) [^#\n]+)", PAGE, re.MULTILINE)
DEV_ONLY = "virtual_environment_mode: dev_only\n"


# A row of dbt's incremental model that its source no longer has.
FORGOTTEN = "library.loans_by_day SELECT * REPLACE (DATE '2020-01-01' AS lent_on) FROM library.loans_by_day LIMIT 1"


def rows_of_tables(project: Path, schema: str) -> dict[str, tuple[str, int]]:
    """The tables and views of a schema, each with its type and its number of rows."""
    types = query(
        project, f"SELECT table_name, table_type FROM information_schema.tables WHERE table_schema = '{schema}'"
    )
    return {name: (type_, query(project, f"SELECT COUNT(*) FROM {schema}.{name}")[0][0]) for name, type_ in types}


def test_the_example_has_the_configuration_that_init_writes(dbt_environment: Path, tmp_path: Path) -> None:
    file = copy_example("dbt_flavoured", tmp_path) / "library" / "sqlmesh.yaml"
    shown = yaml.safe_load(file.read_text())
    file.unlink()
    run_in_environment(dbt_environment, file.parent, *INIT.split())
    assert shown.pop("disable_anonymized_analytics")
    shown["model_defaults"].pop("start")
    written = yaml.safe_load(file.read_text())
    written["model_defaults"].pop("start")
    assert shown == written


@pytest.mark.parametrize("mode", ["dev_only", "full"])
def test_moving_a_dbt_project_to_sqlmesh_keeps_the_names_of_its_assets_and_what_can_be_computed_again(
    dbt_environment: Path, tmp_path: Path, mode: str
) -> None:
    root = copy_example("dbt_flavoured", tmp_path)
    project, defs = root / "library", root / "dbt_flavoured" / "defs" / "library" / "defs.yaml"
    config = project / "sqlmesh.yaml"
    assert DEV_ONLY in config.read_text()
    if mode == "full":
        config.write_text(config.read_text().replace(DEV_ONLY, ""))
    popular = project / "models" / "marts" / "popular_books.sql"
    popular.write_text("{{ config(schema='marts', alias='popular') }}\n" + popular.read_text())

    def names() -> set[str]:
        listed = run_in_environment(dbt_environment, root, "dg", "list", "defs", "--json")
        found = json.loads(listed[listed.index("{\n") : listed.rindex("}\n") + 1])
        checks = {f"{row['asset_key']}:{row['name']}" for row in found["asset_checks"]}
        return checks | {row["asset_key"] for row in found["assets"]}

    defs.write_text('type: dagster_dbt.DbtProjectComponent\nattributes: {project: "{{ project_root }}/library"}\n')
    run_in_environment(dbt_environment, project, "dbt", "build")
    before, fresh = names(), rows_of_tables(project, "library")
    assert {"books", "marts/popular_books"} < before
    with duckdb.connect(str(project / "warehouse.duckdb")) as warehouse:
        warehouse.execute(f"INSERT INTO {FORGOTTEN}")
    built = rows_of_tables(project, "library")
    assert built["loans_by_day"][1] == fresh["loans_by_day"][1] + 1

    run_in_environment(dbt_environment, project, *PLAN_DEV.split())
    assert rows_of_tables(project, "library") == built
    rows = {name: count for name, (_, count) in fresh.items()}
    assert rows_of_tables(project, "library__dev") == {name: ("VIEW", count) for name, count in rows.items()}

    run_in_environment(dbt_environment, project, *PLAN_PROD.split())
    types = {name: type_ if mode == "dev_only" else "VIEW" for name, (type_, _) in fresh.items()}
    assert rows_of_tables(project, "library") == {name: (types[name], count) for name, count in rows.items()}

    [component] = re.findall(r"^```yaml\n(.+?)```", PAGE, re.MULTILINE | re.DOTALL)
    defs.write_text(component.replace("dbt_project", "library"))
    assert {name for name in names() if not name.endswith(":sqlmesh_execution_status")} == before
