"""The examples run as their READMEs say: first the plan command, then all assets in one run."""

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import duckdb
import pytest
from example_projects import EXAMPLES, copy_example, readme_commands, require_fresh_readme, run_readme_plan
from harness import DagsterProject, RunRecord, query, state


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    (tmp_path / "dagster_home").mkdir()
    with dg.instance_for_test(temp_dir=str(tmp_path / "dagster_home")) as instance:
        yield instance


def launch_example(
    root: Path, instance: dg.DagsterInstance, folder: Path, path: str = "."
) -> tuple[dg.Definitions, RunRecord, set[tuple[str, ...]]]:
    """Plan an example as its README says, and launch all assets. The run and its checks must succeed.

    Args:
        folder: The folder from which `path` leads to the SQLMesh project.

    Returns:
        The definitions, the record of the run, and the models with new intervals, as the parts of their names.
    """
    run_readme_plan(root.name, root)
    before = state(folder, path=path)["intervals"]
    dagster = DagsterProject(root, instance)
    definitions = dagster.refresh()
    require_fresh_readme(root.name, definitions)
    record = dagster.launch().succeeded()
    assert record.checks
    assert [name for name, check in record.checks.items() if not check.passed] == []
    after = state(folder, path=path)["intervals"]
    grew = {tuple(part.strip('"') for part in fqn.split(".")) for fqn in after if after[fqn] > before[fqn]}
    return definitions, record, grew


def spec(definitions: dg.Definitions, key: str) -> dg.AssetSpec:
    return next(spec for spec in definitions.resolve_all_asset_specs() if spec.key.to_user_string() == key)


@pytest.mark.slow
def test_jaffle_shop_runs_landing_models_and_report_in_one_run(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    root = copy_example("jaffle_shop", tmp_path)
    project = root / "sqlmesh_project"
    sys.path.insert(0, str(root))  # instead of installing it
    importlib.import_module(
        "jaffle_shop.defs.landing"
    ).till_orders()  # the README's first command materializes this asset
    definitions, record, grew = launch_example(root, instance, project)
    order = list(record.materializations)
    assert (order[0], order[-1]) == ("point_of_sale/till_orders", "weekly_report")
    grew -= {("warehouse", "raw", "orders")}  # external: its audits ran
    assert grew == {
        ("warehouse", "staging", "menu"),
        ("warehouse", "staging", "orders"),
        ("warehouse", "marts", "daily_sales"),
        ("warehouse", "harbour", "best_sellers"),
        ("warehouse", "station", "best_sellers"),
    }
    assert set(order[1:-1]) == {"/".join(name[1:]) for name in grew}
    assert "staging/orders:raw_orders__unique_values_order_id" in record.checks
    assert query(project, "SELECT CAST(MAX(sold_on) AS TEXT) FROM marts.daily_sales") == [
        (record.materializations["weekly_report"].metadata["last_day"].value,)
    ]

    mart = spec(definitions, "marts/daily_sales")
    assert mart.automation_condition is not None
    assert mart.metadata["dagster/column_lineage"].deps_by_column["pieces"]


@pytest.mark.night(
    "engine/test_models_as_assets.py::test_component_per_repository_on_shared_state_has_only_its_own_models",
    "engine/test_defs_yaml.py::test_list_of_paths_is_a_multi_repository_project",
)
def test_multi_repo_runs_models_of_both_repositories(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    root = copy_example("multi_repo", tmp_path)
    folder = root / "repositories"
    definitions, record, grew = launch_example(root, instance, folder, path="core")
    assert {"/".join(name[1:]) for name in grew} == set(record.materializations)
    assert set(record.materializations) == {"core/orders", "core/customers", "marketing/segments"}
    assert spec(definitions, "core/orders").metadata["sqlmesh/project"] == "core"
    assert spec(definitions, "marketing/segments").metadata["sqlmesh/project"] == "marketing"
    assert list(root.rglob("*.duckdb")) == [folder / "warehouse.duckdb"]


@pytest.mark.slow
def test_multi_gateway_model_is_in_the_database_of_its_gateway(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    root = copy_example("multi_gateway", tmp_path)
    project = root / "sqlmesh_project"
    definitions, record, grew = launch_example(root, instance, project)
    assert {"/".join(name) for name in grew} == set(record.materializations)
    for key in ("lake/greenhouse/readings", "warehouse/greenhouse/daily_climate"):
        catalog, schema, table = key.split("/")
        metadata = spec(definitions, key).metadata
        assert metadata["dagster/table_name"] == f"{catalog}.{schema}.{table}"
        assert metadata["dagster/storage_kind"] == "duckdb"
        with duckdb.connect(str(project / f"{catalog}.duckdb"), read_only=True) as file:
            assert file.sql(f"SELECT COUNT(*) > 0 FROM {schema}.{table}").fetchall() == [(True,)]


@pytest.mark.parametrize(
    "name",
    sorted({path.parent.name for path in EXAMPLES.glob("*/pyproject.toml")} - {"production", "spark", "with_wait"}),
)
def test_each_readme_plans_with_dg_sqlmesh_then_launches_then_opens_dg_dev(name: str) -> None:
    *before, plan, launch, dev = readme_commands(name)
    assert re.fullmatch(r"\(cd \w+ && dg_sqlmesh( -p \w+)* plan --skip-backfill\)", plan)
    assert (launch, dev) == ("dg launch --assets '*'", "dg dev")
    assert not any("sqlmesh" in line for line in before)


def test_table_of_examples_is_complete_and_links_work() -> None:
    names = {path.parent.name for path in EXAMPLES.glob("*/README.md")}
    assert set(re.findall(r"^\| \[(\w+)\]", (EXAMPLES / "README.md").read_text(), re.MULTILINE)) == names
    for readme in [EXAMPLES / "README.md", *EXAMPLES.glob("*/README.md")]:
        for target in re.findall(r"\]\(([^)#\s]+)", readme.read_text()):
            assert (readme.parent / target).exists(), f"{readme.parent.name}: {target}"
