"""`dg scaffold defs`, typed as a person would, and what it leaves behind."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
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
    assert re.search(r"Next: cd '../my shop' && \w+ --gateway local plan prod\n", said)
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


def test_init_writes_a_project_that_loads_and_names_it(dagster: DagsterProject) -> None:
    _, said = dg(dagster, "scaffold", "defs", COMPONENT, "shop", "--json-params", '{"init": true}')
    assert f"Created a SQLMesh project at {dagster.root / 'sqlmesh_project'}." in said
    assert "sqlmesh plan" in said
    assert (dagster.root / "sqlmesh_project" / "config.yaml").is_file()
    assert declaration(dagster, "shop")["attributes"] == {
        "project": "../../../sqlmesh_project",
        "include_metadata": ["row_count"],
    }
    dg(dagster, "check", "defs")
    listed = json_in(dg(dagster, "list", "defs", "--json")[1])
    keys = {asset.get("asset_key") or asset["key"] for asset in listed["assets"]}  # dg before 1.13 says `key`
    assert keys >= {"core/daily_orders", "marts/weekly_revenue"}
    code, said = dg(dagster, "scaffold", "defs", COMPONENT, "again", "--json-params", '{"init": true}', check=False)
    assert code != 0
    assert "exists already and is not overwritten" in said
    assert not (dagster.root / dagster.root.name / "defs" / "again").exists()


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"project_path": "nowhere"}, "nowhere. Nothing was written."),
        ({"project_path": "."}, "is not a SQLMesh project: it has none of config.py"),
        ({}, "Say which SQLMesh project to use: --project-path <folder>"),
    ],
    ids=["a folder that is not there", "a folder without configuration", "no folder at all"],
)
def test_what_is_no_project_is_refused_and_nothing_is_written(
    dagster: DagsterProject, params: dict, words: str
) -> None:
    code, said = dg(dagster, "scaffold", "defs", COMPONENT, "shop", "--json-params", json.dumps(params), check=False)
    assert code != 0
    assert words in said
    assert not (dagster.root / dagster.root.name / "defs" / "shop").exists()


def test_the_python_form_loads_as_well(dagster: DagsterProject) -> None:
    write_project(dagster.root / "shop", ONE_MODEL)
    dg(dagster, "scaffold", "defs", COMPONENT, "shop", "--project-path", "shop", "--format", "python")
    keys = {spec.key.to_user_string() for spec in dagster.refresh().resolve_all_asset_specs()}
    assert "t/one" in keys


@pytest.mark.parametrize("file", ["defs.yaml", "component.yaml"])
def test_both_file_names_load(dagster: DagsterProject, file: str) -> None:
    project = write_project(dagster.root.parent / "shop", ONE_MODEL)
    dagster.declare("shop", {"project": str(project)}, file)
    assert [spec.key.to_user_string() for spec in dagster.refresh().resolve_all_asset_specs()] == ["t/one"]


def test_an_unknown_attribute_is_refused_with_its_line(dagster: DagsterProject) -> None:
    project = write_project(dagster.root.parent / "shop", ONE_MODEL)
    dagster.declare("shop", {"project": str(project), "gatewya": "local"})
    code, said = dg(dagster, "check", "yaml", check=False)
    assert code != 0
    assert "gatewya" in said
    assert "defs.yaml:" in said


def test_descriptions_and_examples_show_when_the_component_is_inspected(dagster: DagsterProject) -> None:
    _, said = dg(dagster, "utils", "inspect-component", COMPONENT, "--defs-yaml-json-schema")
    text = json.dumps(json_in(said))
    for words in ("Gateway to use", "tag:finance", "WAREHOUSE_PASSWORD", "What such a tag begins with"):
        assert words in text
    assert COMPONENT in dg(dagster, "list", "components")[1]
