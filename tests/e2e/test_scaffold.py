"""`dg scaffold defs`, run like a user does, and the files that it creates."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from dagster import AssetKey
from harness import BIN, COMPONENT, DagsterProject, dagster_project, json_in, run, write_project

ONE_MODEL = {"models/one.sql": "MODEL (name t.one, kind FULL); SELECT 1 AS id"}


@pytest.fixture
def dagster(tmp_path: Path) -> Iterator[DagsterProject]:
    with dagster_project(tmp_path) as project:
        yield project


def dg(dagster: DagsterProject, *arguments: str, check: bool = True) -> tuple[int, str]:
    done = run([BIN / "dg", *arguments], cwd=dagster.root, check=check)
    return done.returncode, done.stdout + done.stderr


def read_defs_yaml(dagster: DagsterProject, name: str) -> Any:
    return yaml.safe_load((dagster.root / dagster.root.name / "defs" / name / "defs.yaml").read_text())


def test_scaffold_writes_relative_path_of_existing_project_and_dg_check_passes(dagster: DagsterProject) -> None:
    project = write_project(dagster.root.parent / "my shop", ONE_MODEL)
    params = {"project_path": "../my shop", "gateway": "local", "environment": "prod"}
    _, output = dg(dagster, "scaffold", "defs", COMPONENT, "shop", "--json-params", json.dumps(params))
    assert commands_in(output) == [
        "cd '../my shop'",
        "sqlmesh --gateway local plan prod --skip-backfill",
        f"cd ../{dagster.root.name}",
        "dg dev",
        "dg launch --assets '*'",
    ]
    assert "If the project is in production already, there is nothing to plan." in output
    assert "labelled `sqlmesh/origin`" in output
    written = read_defs_yaml(dagster, "shop")
    assert written == {
        "type": COMPONENT,
        "attributes": {
            "project": {"path": "../../../../my shop", "gateway": "local", "environment": "prod"},
        },
    }
    folder = dagster.root / dagster.root.name / "defs" / "shop"
    assert (folder / "../../../../my shop").resolve() == project
    dg(dagster, "check", "yaml", "--validate-requirements")
    dg(dagster, "check", "defs")


def test_flags_write_the_same_yaml_as_json_params(dagster: DagsterProject) -> None:
    write_project(dagster.root / "shop", ONE_MODEL)
    dg(dagster, "scaffold", "defs", COMPONENT, "shop", "--project-path", "shop", "--environment", "dev")
    assert read_defs_yaml(dagster, "shop")["attributes"] == {"project": {"path": "../../../shop", "environment": "dev"}}


def commands_in(output: str) -> list[str]:
    """Return the indented lines, which are commands to copy."""
    return [line.strip() for line in output.splitlines() if line.startswith("    ")]


def test_commands_printed_by_init_materialize_every_asset_of_the_starter(dagster: DagsterProject) -> None:
    _, output = dg(dagster, "scaffold", "defs", COMPONENT, "shop", "--init")
    assert f"Created a SQLMesh project at {dagster.root / 'sqlmesh_project'}." in output
    assert read_defs_yaml(dagster, "shop")["attributes"] == {
        "project": "../../../sqlmesh_project",
        "external_models": {"assets": True},
        "include_metadata": ["row_count"],
    }
    commands = [command for command in commands_in(output) if command != "dg dev"]
    assert len(commands) == 4
    commands_with_answers = [
        f"{command} --auto-apply --no-prompts" if " plan " in command else command for command in commands
    ]
    home: dict[str, Any] = {"DAGSTER_HOME": str(dagster.instance.root_directory), "PYTHONPATH": str(dagster.root)}
    run(["sh", "-ec", "\n".join(commands_with_answers)], cwd=dagster.root, **home)
    keys = {spec.key for spec in dagster.refresh().resolve_all_asset_specs()}
    assert AssetKey(["core", "daily_orders"]) in keys
    not_materialized = {
        key.to_user_string() for key in keys if not dagster.instance.get_latest_materialization_event(key)
    }
    assert not_materialized == {"raw/orders"}, "the external table, which SQLMesh only reads"
    code, output = dg(dagster, "scaffold", "defs", COMPONENT, "again", "--init", check=False)
    assert code == 2
    assert "exists already and is not overwritten" in output
    assert not (dagster.root / dagster.root.name / "defs" / "again").exists()


def test_init_works_with_json_params(dagster: DagsterProject) -> None:
    dg(dagster, "scaffold", "defs", COMPONENT, "shop", "--json-params", '{"init": true, "project_path": "shop"}')
    assert (dagster.root / "shop" / "config.yaml").is_file()
    assert read_defs_yaml(dagster, "shop")["attributes"] == {
        "project": "../../../shop",
        "external_models": {"assets": True},
        "include_metadata": ["row_count"],
    }


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (["--project-path", "nowhere"], "nowhere. Nothing was written. Correct --project-path.\n"),
        (["--project-path", "."], "is not a SQLMesh project: it has none of config.py"),
        ([], "Name the SQLMesh project with --project-path <folder>"),
    ],
    ids=["missing folder", "folder without config", "no folder given"],
)
def test_path_without_project_is_an_error_and_nothing_is_written(
    dagster: DagsterProject, params: list[str], message: str
) -> None:
    code, output = dg(dagster, "scaffold", "defs", COMPONENT, "shop", *params, check=False)
    assert code == 2
    assert message in output.split("\nError: ")[1]
    assert "Traceback" not in output
    assert not (dagster.root / dagster.root.name / "defs" / "shop").exists()


def test_python_format_loads(dagster: DagsterProject) -> None:
    write_project(dagster.root / "shop", ONE_MODEL)
    dg(dagster, "scaffold", "defs", COMPONENT, "shop", "--project-path", "shop", "--format", "python")
    dg(dagster, "scaffold", "defs", COMPONENT, "starter", "--init", "--format", "python")
    groups = {spec.key.to_user_string(): spec.group_name for spec in dagster.refresh().resolve_all_asset_specs()}
    assert groups.items() >= {"t/one": "t", "raw/orders": "raw"}.items()


@pytest.mark.parametrize("file", ["defs.yaml", "component.yaml"])
def test_defs_yaml_and_component_yaml_load(dagster: DagsterProject, file: str) -> None:
    project = write_project(dagster.root.parent / "shop", ONE_MODEL)
    dagster.add_component("shop", {"project": str(project)}, file)
    assert [spec.key.to_user_string() for spec in dagster.refresh().resolve_all_asset_specs()] == ["t/one"]


def test_unknown_attribute_is_reported_with_name_and_line_at_any_depth(dagster: DagsterProject) -> None:
    write_project(dagster.root / "shop", ONE_MODEL)
    lines = [
        f"type: {COMPONENT}",
        "attributes:",
        "  project:",
        "    path: ../../../shop",
        "    enviroment: dev",
        "  execution:",
        "    retries:",
        "      max_retries: 3",
        "      backof: linear",
        "  gatewya: local",
    ]
    dagster.add_component("shop", {}).write_text("\n".join(lines))
    code, output = dg(dagster, "check", "yaml", check=False)
    assert code != 0
    errors = re.findall(r"defs\.yaml:(\d+) - .*\('(\w+)' was unexpected\)", output)
    assert sorted(errors) == [("10", "gatewya"), ("5", "enviroment"), ("9", "backof")]


def test_inspect_component_shows_descriptions_and_examples(dagster: DagsterProject) -> None:
    _, output = dg(dagster, "utils", "inspect-component", COMPONENT, "--defs-yaml-json-schema")
    schema = json.dumps(json_in(output))
    for text in ("Gateway to use", "tag:finance", "WAREHOUSE_PASSWORD", "The beginning of such a tag"):
        assert text in schema
    assert COMPONENT in dg(dagster, "list", "components")[1]
