"""`dg scaffold defs`, typed as a person would, and what it leaves behind."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from dagster import AssetKey
from harness import BIN, COMPONENT, DagsterProject, dagster_project, json_in, run, write_project

ONE_MODEL = {"models/one.sql": "MODEL (name t.one, kind FULL); SELECT 1 AS id"}


@pytest.fixture
def dagster(tmp_path: Path):
    with dagster_project(tmp_path) as project:
        yield project


def dg(dagster: DagsterProject, *words: str, check: bool = True) -> tuple[int, str]:
    done = run([BIN / "dg", *words], cwd=dagster.root, check=check)
    return done.returncode, done.stdout + done.stderr


def declaration(dagster: DagsterProject, name: str) -> dict:
    return yaml.safe_load((dagster.root / dagster.root.name / "defs" / name / "defs.yaml").read_text())


def test_an_existing_project_is_declared_relative_to_the_yaml_and_passes_the_checks_at_once(
    dagster: DagsterProject,
) -> None:
    project = write_project(dagster.root.parent / "my shop", ONE_MODEL)
    params = {"project_path": "../my shop", "gateway": "local", "environment": "prod"}
    _, said = dg(dagster, "scaffold", "defs", COMPONENT, "shop", "--json-params", json.dumps(params))
    assert commands_in(said) == [
        "cd '../my shop'",
        "sqlmesh --gateway local plan prod --skip-backfill",
        f"cd ../{dagster.root.name}",
        "dg dev",
        "dg launch --assets '*'",
    ]
    assert "If the project is in production already, there is nothing to plan." in said
    assert "labelled `sqlmesh/origin`" in said
    written = declaration(dagster, "shop")
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


def test_the_flags_say_the_same_as_the_json(dagster: DagsterProject) -> None:
    write_project(dagster.root / "shop", ONE_MODEL)
    dg(dagster, "scaffold", "defs", COMPONENT, "shop", "--project-path", "shop", "--environment", "dev")
    assert declaration(dagster, "shop")["attributes"] == {"project": {"path": "../../../shop", "environment": "dev"}}


def commands_in(said: str) -> list[str]:
    """The lines to copy."""
    return [line.strip() for line in said.splitlines() if line.startswith("    ")]


def test_the_commands_that_follow_init_materialize_every_asset_of_the_starter(dagster: DagsterProject) -> None:
    _, said = dg(dagster, "scaffold", "defs", COMPONENT, "shop", "--init")
    assert f"Created a SQLMesh project at {dagster.root / 'sqlmesh_project'}." in said
    assert declaration(dagster, "shop")["attributes"] == {
        "project": "../../../sqlmesh_project",
        "external_models": {"assets": True},
        "include_metadata": ["row_count"],
    }
    commands = [command for command in commands_in(said) if command != "dg dev"]
    assert len(commands) == 4
    answered = [f"{command} --auto-apply --no-prompts" if " plan " in command else command for command in commands]
    home = {"DAGSTER_HOME": str(dagster.instance.root_directory), "PYTHONPATH": str(dagster.root)}
    run(["sh", "-ec", "\n".join(answered)], cwd=dagster.root, **home)
    keys = {spec.key for spec in dagster.refresh().resolve_all_asset_specs()}
    assert AssetKey(["core", "daily_orders"]) in keys
    never = {key.to_user_string() for key in keys if not dagster.instance.get_latest_materialization_event(key)}
    assert never == {"raw/orders"}, "the table from outside, which SQLMesh only reads"
    code, said = dg(dagster, "scaffold", "defs", COMPONENT, "again", "--init", check=False)
    assert code == 2
    assert "exists already and is not overwritten" in said
    assert not (dagster.root / dagster.root.name / "defs" / "again").exists()


def test_init_works_as_json_too(dagster: DagsterProject) -> None:
    dg(dagster, "scaffold", "defs", COMPONENT, "shop", "--json-params", '{"init": true, "project_path": "shop"}')
    assert (dagster.root / "shop" / "config.yaml").is_file()
    assert declaration(dagster, "shop")["attributes"] == {
        "project": "../../../shop",
        "external_models": {"assets": True},
        "include_metadata": ["row_count"],
    }


@pytest.mark.parametrize(
    ("params", "words"),
    [
        (["--project-path", "nowhere"], "nowhere. Nothing was written. Correct --project-path.\n"),
        (["--project-path", "."], "is not a SQLMesh project: it has none of config.py"),
        ([], "Name the SQLMesh project with --project-path <folder>"),
    ],
    ids=["a folder that is not there", "a folder without configuration", "no folder at all"],
)
def test_what_is_no_project_is_refused_and_nothing_is_written(
    dagster: DagsterProject, params: list[str], words: str
) -> None:
    code, said = dg(dagster, "scaffold", "defs", COMPONENT, "shop", *params, check=False)
    assert code == 2
    assert words in said.split("\nError: ")[1]
    assert "Traceback" not in said
    assert not (dagster.root / dagster.root.name / "defs" / "shop").exists()


def test_the_python_form_loads_as_well(dagster: DagsterProject) -> None:
    write_project(dagster.root / "shop", ONE_MODEL)
    dg(dagster, "scaffold", "defs", COMPONENT, "shop", "--project-path", "shop", "--format", "python")
    dg(dagster, "scaffold", "defs", COMPONENT, "starter", "--init", "--format", "python")
    groups = {spec.key.to_user_string(): spec.group_name for spec in dagster.refresh().resolve_all_asset_specs()}
    assert groups.items() >= {"t/one": "t", "raw/orders": "raw"}.items()


@pytest.mark.parametrize("file", ["defs.yaml", "component.yaml"])
def test_both_file_names_load(dagster: DagsterProject, file: str) -> None:
    project = write_project(dagster.root.parent / "shop", ONE_MODEL)
    dagster.declare("shop", {"project": str(project)}, file)
    assert [spec.key.to_user_string() for spec in dagster.refresh().resolve_all_asset_specs()] == ["t/one"]


def test_an_unknown_attribute_is_refused_with_its_name_and_line_at_any_depth(dagster: DagsterProject) -> None:
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
    dagster.declare("shop", {}).write_text("\n".join(lines))
    code, said = dg(dagster, "check", "yaml", check=False)
    assert code != 0
    found = re.findall(r"defs\.yaml:(\d+) - .*\('(\w+)' was unexpected\)", said)
    assert sorted(found) == [("10", "gatewya"), ("5", "enviroment"), ("9", "backof")]


def test_descriptions_and_examples_show_when_the_component_is_inspected(dagster: DagsterProject) -> None:
    _, said = dg(dagster, "utils", "inspect-component", COMPONENT, "--defs-yaml-json-schema")
    text = json.dumps(json_in(said))
    for words in ("Gateway to use", "tag:finance", "WAREHOUSE_PASSWORD", "The beginning of such a tag"):
        assert words in text
    assert COMPONENT in dg(dagster, "list", "components")[1]
