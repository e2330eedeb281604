"""Several commands of `dg`, one after the other, and the commands that they print."""

import json
from pathlib import Path
from typing import Any

import pytest
from dagster import AssetKey
from harness import COMPONENT, DagsterProject, json_in, rows_at_night, run, write_project
from scaffolded import ONE_MODEL, commands_in, dg, read_defs_yaml


def follow(dagster: DagsterProject, output: str) -> None:
    """Run the printed commands, except `dg dev`, which does not end. Answer y to that of SQLMesh."""
    commands = [line for line in commands_in(output) if line != "dg dev"]
    answered = [f"echo y | {line}" if line.startswith("sqlmesh ") else line for line in commands]
    home: dict[str, Any] = {"DAGSTER_HOME": str(dagster.instance.root_directory), "PYTHONPATH": str(dagster.root)}
    run(["sh", "-ec", "\n".join(answered)], cwd=dagster.root, **home)


# More than ten seconds: each `dg` command starts Python and imports Dagster.
@pytest.mark.night("e2e/test_scaffold.py::test_init_works_with_json_params", "engine/test_starter.py")
@pytest.mark.advice(
    "Promote the models with a plan. It computes nothing; Dagster computes the models. Answer y:",
    "press Materialize all, or launch the run here:",
)
def test_commands_printed_by_init_materialize_every_asset_of_the_starter(dagster: DagsterProject) -> None:
    _, output = dg(dagster, "scaffold", "defs", COMPONENT, "shop", "--init")
    assert f"Created a SQLMesh project at {dagster.root / 'sqlmesh_project'}." in output
    assert read_defs_yaml(dagster, "shop")["attributes"] == {
        "project": "../../../sqlmesh_project",
        "external_models": {"assets": True},
        "include_metadata": ["row_count"],
    }
    assert len(commands_in(output)) == 5
    follow(dagster, output)
    keys = {spec.key for spec in dagster.refresh().resolve_all_asset_specs()}
    assert AssetKey(["core", "daily_orders"]) in keys
    missing = {key.to_user_string() for key in keys if not dagster.instance.get_latest_materialization_event(key)}
    assert missing == {"raw/orders"}, "the external table, which SQLMesh only reads"
    code, output = dg(dagster, "scaffold", "defs", COMPONENT, "again", "--init", check=False)
    assert code == 2
    assert "exists already and is not overwritten" in output
    assert not (dagster.root / dagster.root.name / "defs" / "again").exists()


def scaffolded_shop(dagster: DagsterProject) -> tuple[Path, str]:
    """Scaffold a component of an existing project. Return the project, and the output of the command."""
    project = write_project(dagster.root.parent / "my shop", ONE_MODEL)
    params = {"project_path": "../my shop", "gateway": "local", "environment": "prod"}
    _, output = dg(dagster, "scaffold", "defs", COMPONENT, "shop", "--json-params", json.dumps(params))
    return project, output


# More than ten seconds: each `dg` command starts Python and imports Dagster.
def test_scaffold_writes_relative_path_of_existing_project_and_dg_check_passes(dagster: DagsterProject) -> None:
    project, output = scaffolded_shop(dagster)
    assert commands_in(output) == [
        "cd '../my shop'",
        "sqlmesh --gateway local plan prod",
        f"cd ../{dagster.root.name}",
        "dg dev",
        "dg launch --assets 'kind:sqlmesh'",
    ]
    assert "If the project is in production already, there is nothing to plan." in output
    assert "labelled `sqlmesh/origin`" in output
    written = read_defs_yaml(dagster, "shop")
    assert written == {
        "type": COMPONENT,
        "attributes": {"project": {"path": "../../../../my shop", "gateway": "local", "environment": "prod"}},
    }
    folder = dagster.root / dagster.root.name / "defs" / "shop"
    assert (folder / "../../../../my shop").resolve() == project
    dg(dagster, "check", "yaml", "--validate-requirements")
    dg(dagster, "check", "defs")


@pytest.mark.advice("If no plan was applied yet, promote the models with a plan, which computes them too. Answer y:")
@pytest.mark.night(
    "test_scaffold_writes_relative_path_of_existing_project_and_dg_check_passes", "engine/test_starter.py"
)
def test_commands_printed_for_an_existing_project_materialize_its_models(dagster: DagsterProject) -> None:
    _, output = scaffolded_shop(dagster)
    follow(dagster, output)
    assert dagster.instance.get_latest_materialization_event(AssetKey(["t", "one"])) is not None


@pytest.mark.parametrize(
    ("arguments", "asset", "group"),
    [(["--project-path", "shop"], "t/one", "t"), *rows_at_night((["--init"], "raw/orders", "raw"))],
)
def test_python_format_loads(dagster: DagsterProject, arguments: list[str], asset: str, group: str) -> None:
    write_project(dagster.root / "shop", ONE_MODEL)
    dg(dagster, "scaffold", "defs", COMPONENT, "shop", *arguments, "--format", "python")
    groups = {spec.key.to_user_string(): spec.group_name for spec in dagster.refresh().resolve_all_asset_specs()}
    assert groups.items() >= {asset: group}.items()


@pytest.mark.night("unit/config/test_schema.py", "test_reference.py::test_example_in_dagsters_ui_loads")
def test_inspect_component_shows_descriptions_and_examples(dagster: DagsterProject) -> None:
    _, output = dg(dagster, "utils", "inspect-component", COMPONENT, "--defs-yaml-json-schema")
    schema = json.dumps(json_in(output))
    for text in ("Gateway to use", "tag:finance", "WAREHOUSE_PASSWORD", "sqlmesh_execution_status"):
        assert text in schema
    assert COMPONENT in dg(dagster, "list", "components")[1]
