"""The root component.yaml is the reference: it names every attribute with its true default, and it loads."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from dagster.components.resolved.core_models import OpSpec
from harness import REPOSITORY, dagster_project
from pydantic import BaseModel

from dg_sqlmesh_component import SQLMeshProjectComponent
from dg_sqlmesh_component.component import SQLMeshProjectArgs
from dg_sqlmesh_component.tag_convention import TagConvention

REFERENCE = REPOSITORY / "component.yaml"
NESTED = {"project": SQLMeshProjectArgs.model(), "tag_convention": TagConvention.model(), "op": OpSpec.model()}
OURS = [SQLMeshProjectComponent.get_model_cls(), NESTED["project"], NESTED["tag_convention"]]


def described(schema: dict[str, Any], model: type[BaseModel]) -> dict[str, dict[str, Any]]:
    return {name: schema["properties"][name] for name in model.model_fields}


def test_the_reference_names_every_attribute_and_no_other() -> None:
    attributes = yaml.safe_load(REFERENCE.read_text())["attributes"]
    assert set(attributes) == set(SQLMeshProjectComponent.get_model_cls().model_fields)
    for name, model in NESTED.items():
        assert set(attributes[name]) == set(model.model_fields), name


def test_the_reference_shows_the_true_defaults() -> None:
    attributes = yaml.safe_load(REFERENCE.read_text())["attributes"]
    for name in NESTED:
        shown = {key: value for key, value in attributes[name].items() if key not in ("path", "backfill_policy")}
        component = {"project": SQLMeshProjectArgs(path="x"), "tag_convention": TagConvention(), "op": OpSpec()}[name]
        assert shown == {key: getattr(component, key) for key in shown}, name
    assert attributes["select"] is None
    assert attributes["exclude"] is None


def test_every_attribute_of_the_reference_has_a_comment() -> None:
    lines = REFERENCE.read_text().splitlines()
    for number, line in enumerate(lines):
        if re.match(r"  +\w+:", line):
            assert lines[number - 1].lstrip().startswith("#"), line


def test_the_reference_loads(tmp_path: Path) -> None:
    text = REFERENCE.read_text().replace("templates/starter", str(REPOSITORY / "templates" / "starter"))
    with dagster_project(tmp_path) as dagster:
        dagster.declare("reference", {}, "component.yaml").write_text(text)
        keys = {spec.key.to_user_string() for spec in dagster.refresh().resolve_all_asset_specs()}
    assert "core/daily_orders" in keys


@pytest.mark.parametrize(
    "model", [SQLMeshProjectComponent.get_model_cls(), NESTED["project"], NESTED["tag_convention"]]
)
def test_every_field_has_a_description_and_an_example(model: type[BaseModel]) -> None:
    for name, field in described(model.model_json_schema(), model).items():
        assert field.get("description"), name
        assert field.get("examples"), name


def test_unknown_attributes_are_refused() -> None:
    for model in OURS:
        assert model.model_config.get("extra") == "forbid"
