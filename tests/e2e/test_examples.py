"""The examples run as their READMEs say: first the plan command, then all assets in one run."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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


def grown(before: dict[str, Any], after: dict[str, Any]) -> set[tuple[str, ...]]:
    """Return the models with new intervals, as the parts of their names."""
    grew = [fqn for fqn in after["intervals"] if after["intervals"][fqn] > before["intervals"][fqn]]
    return {tuple(part.strip('"') for part in fqn.split(".")) for fqn in grew}


def require_success(record: RunRecord) -> None:
    assert record.status == dg.DagsterRunStatus.SUCCESS, record.failures
    assert record.checks
    assert [name for name, check in record.checks.items() if not check.passed] == []


def spec(definitions: dg.Definitions, key: str) -> dg.AssetSpec:
    return next(spec for spec in definitions.resolve_all_asset_specs() if spec.key.to_user_string() == key)


def test_jaffle_shop_runs_landing_models_and_report_in_one_run(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    root = copy_example("jaffle_shop", tmp_path)
    project = root / "sqlmesh_project"
    sys.path.insert(0, str(root))  # instead of installing it
    importlib.import_module(
        "jaffle_shop.defs.landing"
    ).till_orders()  # the README's first command materializes this asset
    run_readme_plan("jaffle_shop", root)
    before = state(project)
    dagster = DagsterProject(root, instance)
    definitions = dagster.refresh()
    require_fresh_readme("jaffle_shop", definitions)
    record = dagster.launch()
    require_success(record)
    order = list(record.materializations)
    assert (order[0], order[-1]) == ("point_of_sale/till_orders", "weekly_report")
    grew = grown(before, state(project)) - {("warehouse", "raw", "orders")}  # external: its audits ran
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


def test_multi_repo_runs_models_of_both_repositories(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    root = copy_example("multi_repo", tmp_path)
    folder = root / "repositories"
    run_readme_plan("multi_repo", root)
    before = state(folder, path="core")
    dagster = DagsterProject(root, instance)
    definitions = dagster.refresh()
    require_fresh_readme("multi_repo", definitions)
    record = dagster.launch()
    require_success(record)
    grew = grown(before, state(folder, path="core"))
    assert {"/".join(name[1:]) for name in grew} == set(record.materializations)
    assert set(record.materializations) == {"core/orders", "core/customers", "marketing/segments"}
    assert spec(definitions, "core/orders").metadata["sqlmesh/project"] == "core"
    assert spec(definitions, "marketing/segments").metadata["sqlmesh/project"] == "marketing"
    assert list(root.rglob("*.duckdb")) == [folder / "warehouse.duckdb"]


def test_multi_gateway_models_are_in_the_database_of_their_gateway(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    root = copy_example("multi_gateway", tmp_path)
    project = root / "sqlmesh_project"
    run_readme_plan("multi_gateway", root)
    before = state(project)
    dagster = DagsterProject(root, instance)
    definitions = dagster.refresh()
    require_fresh_readme("multi_gateway", definitions)
    record = dagster.launch()
    require_success(record)
    assert {"/".join(name) for name in grown(before, state(project))} == set(record.materializations)
    for key in ("lake/greenhouse/readings", "warehouse/greenhouse/daily_climate"):
        catalog, schema, table = key.split("/")
        metadata = spec(definitions, key).metadata
        assert metadata["dagster/table_name"] == f"{catalog}.{schema}.{table}"
        assert metadata["dagster/storage_kind"] == "duckdb"
        with duckdb.connect(str(project / f"{catalog}.duckdb"), read_only=True) as file:
            assert file.sql(f"SELECT COUNT(*) > 0 FROM {schema}.{table}").fetchall() == [(True,)]


@pytest.mark.parametrize("name", sorted(path.parent.name for path in EXAMPLES.glob("*/pyproject.toml")))
def test_each_readme_plans_with_dg_sqlmesh_then_launches_then_opens_dg_dev(name: str) -> None:
    *before, plan, launch, dev = readme_commands(name)
    assert re.fullmatch(r"\(cd \w+ && dg_sqlmesh( -p \w+)* plan --skip-backfill\)", plan)
    assert (launch, dev) == ("dg launch --assets '*'", "dg dev")
    assert not any("sqlmesh" in line for line in before)


def test_table_of_examples_is_complete_and_links_work() -> None:
    names = {path.parent.name for path in EXAMPLES.glob("*/pyproject.toml")}
    assert set(re.findall(r"^\| \[(\w+)\]", (EXAMPLES / "README.md").read_text(), re.MULTILINE)) == names
    for readme in [EXAMPLES / "README.md", *EXAMPLES.glob("*/README.md")]:
        for target in re.findall(r"\]\(([^)#\s]+)", readme.read_text()):
            assert (readme.parent / target).exists(), f"{readme.parent.name}: {target}"
