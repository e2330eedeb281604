"""The card: what this product is for, as its user has described it, with a test for each line.

No line of it may go, whatever else is removed, renamed or made shorter. Whoever wants that asks the user first. Other
tests have the details; these show from outside that each line still holds.
"""

import re
from collections.abc import Iterator
from datetime import date, timedelta
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import Any

import pytest
import yaml
from dagster.components import Component
from dev_server import serve
from harness import (
    BIN,
    COMPONENT,
    REPOSITORY,
    YEARLY_CRON,
    DagsterProject,
    RunRecord,
    dagster_project,
    planned_shop,
    run,
    write_project,
)
from unit.capabilities.plans.plans import ORDERS, plan

from dg_sqlmesh_component import SQLMeshProjectComponent
from dg_sqlmesh_component.capabilities.plans.report import Planned, PlanReport
from dg_sqlmesh_component.capabilities.plans.report_markdown import markdown

PYPROJECT = (REPOSITORY / "pyproject.toml").read_text()

# -- The top level of the repository ---------------------------------------------------------------


def test_the_top_level_has_the_files_and_folders_of_the_card() -> None:
    for file in ("pyproject.toml", "component.yaml"):
        assert (REPOSITORY / file).is_file(), file
    for folder in ("dg_sqlmesh_component", "templates", "tests", "docs"):
        assert (REPOSITORY / folder).is_dir(), folder


# -- Configured in YAML: project path, gateway, environment, tag conventions -----------------------


def test_component_yaml_has_the_four_things_that_yaml_configures() -> None:
    attributes = yaml.safe_load((REPOSITORY / "component.yaml").read_text())["attributes"]
    assert {"path", "gateway", "environment"} <= attributes["project"].keys()
    assert attributes["tag_convention"] == {"prefix": "dagster", "separator": ":"}


TWO_GATEWAYS = """
gateways:
  first: {connection: {type: duckdb, database: first.duckdb}}
  second: {connection: {type: duckdb, database: second.duckdb}}
default_gateway: first
model_defaults: {dialect: duckdb}
"""
TAGGED = (
    "MODEL (name t.{0}, kind FULL, tags ['dagster:group_name:of_dagster', 'own/group_name/of_own']); SELECT 1 AS id"
)


@pytest.fixture(scope="module")
def dagster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DagsterProject]:
    with dagster_project(tmp_path_factory.mktemp("card")) as project:
        for name in ("shop", "other"):
            write_project(project.root / name, {f"models/{name}.sql": TAGGED.format(name)}, TWO_GATEWAYS)
        yield project


def loaded(dagster: DagsterProject, attributes: dict[str, Any]) -> tuple[str, str, str | None]:
    """The key, the table and the group of the only asset of a component."""
    dagster.add_component("shop", attributes)
    [asset] = dagster.refresh().resolve_all_asset_specs()
    return asset.key.to_user_string(), asset.metadata["dagster/table_name"], asset.group_name


def test_each_of_the_four_things_changes_the_assets(dagster: DagsterProject) -> None:
    path = "../../../shop"
    assert loaded(dagster, {"project": path}) == ("t/shop", "first.t.shop", "of_dagster")
    own = {"prefix": "own", "separator": "/"}
    other: dict[str, Any] = {"path": "../../../other", "gateway": "second", "environment": "dev"}
    assert loaded(dagster, {"project": other, "tag_convention": own}) == ("t/other", "second.t__dev.other", "of_own")
    assert loaded(dagster, {"project": path, "tag_convention": False}) == ("t/shop", "first.t.shop", "t")


# -- One shared step; materializations of executed models, and checks of executed and other models --

MODELS = {
    "models/ran.sql": "MODEL (name t.ran, kind FULL, audits (not_null(columns := (id)))); SELECT 1 AS id",
    "models/idle.sql": f"MODEL (name t.idle, kind FULL, cron '{YEARLY_CRON}', start '2 years ago'); SELECT 1 AS id",
    "models/broken.sql": "MODEL (name t.broken, kind FULL, audits (positive)); SELECT id - 1 AS id FROM t.ran",
    "models/below.sql": "MODEL (name t.below, kind FULL); SELECT id FROM t.broken",
    # The plan was three days ago, when it passed.
    "audits/positive.sql": "AUDIT (name positive); SELECT * FROM @this_model WHERE id <= 0 AND @execution_ds >= "
    f"'{date.today() - timedelta(days=2)}'",
}


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunRecord]:
    with planned_shop(tmp_path_factory.mktemp("run"), MODELS) as shop:
        yield shop.launch()


def test_all_models_share_one_step(record: RunRecord) -> None:
    assert len(record.step_keys) == 1


def test_executed_models_are_materialized_and_others_are_not(record: RunRecord) -> None:
    assert record.materializations.keys() == {"t/ran"}


def test_models_that_were_and_were_not_executed_have_a_check_with_their_outcome(record: RunRecord) -> None:
    outcomes = {f"t/{name}": record.status_of(f"t/{name}") for name in ("ran", "idle", "broken", "below")}
    assert outcomes == {"t/ran": "executed", "t/idle": "up_to_date", "t/broken": "audit_failed", "t/below": "blocked"}


def test_audits_are_checks(record: RunRecord) -> None:
    assert record.checks["t/ran:not_null_id"].passed
    assert not record.checks["t/broken:positive"].passed


# -- dg scaffold, dg dev ----------------------------------------------------------------------------


def test_dg_knows_the_component() -> None:
    modules = {entry.name: entry.value for entry in entry_points(group="dagster_dg_cli.registry_modules")}
    assert modules["dg_sqlmesh_component"] == "dg_sqlmesh_component"


def test_dg_dev_shows_what_dg_scaffold_has_written(tmp_path: Path) -> None:
    """It starts two commands and a web server, which takes most of its time."""
    with dagster_project(tmp_path) as dagster:
        run([BIN / "dg", "scaffold", "defs", COMPONENT, "shop", "--init"], cwd=dagster.root)
        with serve(dagster) as server:
            nodes = server.ask("query { assetNodes { assetKey { path } isMaterializable } }")["assetNodes"]
    assert {"core/daily_orders", "marts/weekly_revenue"} <= {
        "/".join(node["assetKey"]["path"]) for node in nodes if node["isMaterializable"]
    }


# -- Dependencies: dagster, dagster-components, sqlmesh, pyyaml, duckdb, pytest -----------------------


def test_runtime_dependencies_are_those_of_the_card_and_pydantic() -> None:
    [listed] = re.findall(r"^dependencies = \[\n(.*?)^\]", PYPROJECT, re.MULTILINE | re.DOTALL)
    declared = dict(re.findall(r'^  "([a-z-]+)>=([^"]+)",$', listed, re.MULTILINE))
    assert declared.keys() == {"dagster", "sqlmesh", "pyyaml", "duckdb", "pydantic"}
    assert len(declared) == listed.count('"') // 2, "each has its lowest version"


def test_dagster_components_is_a_part_of_dagster() -> None:
    """It was a distribution of its own once. Each version of Dagster that we allow has it as `dagster.components`."""
    assert issubclass(SQLMeshProjectComponent, Component)
    assert tuple(map(int, version("dagster").split(".")[:2])) >= (1, 12)


def test_pytest_is_a_dependency_of_the_tests() -> None:
    [group] = re.findall(r"^test = \[(.*)\]$", PYPROJECT, re.MULTILINE)
    assert re.search(r'"pytest>=\d+"', group)


def test_the_run_config_that_a_person_pastes_is_yaml_and_no_json() -> None:
    planned = Planned(plan(ORDERS), digest="1e8", apply_config={"ops": {"shop_apply": {"config": {"digest": "1e8"}}}})
    page = markdown(PlanReport("prod", prod=planned), in_dagster=True)
    [pasted] = re.findall("```yaml\n(.*?)\n```", page, re.DOTALL)
    assert pasted == "ops:\n  shop_apply:\n    config:\n      digest: '1e8'"
