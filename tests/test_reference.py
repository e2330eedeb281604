"""component.yaml at the root is the reference: it lists every attribute with its real default, and it loads.

Every attribute has a test of its effect, marked with `@pytest.mark.attribute(...)`.
"""

from __future__ import annotations

import ast
import re
import shutil
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
import yaml
from dagster.components.resolved.core_models import OpSpec
from harness import REPOSITORY, dagster_project
from pydantic import BaseModel

from dg_sqlmesh_component import SQLMeshProjectComponent
from dg_sqlmesh_component.config.attributes import (
    Audits,
    Execution,
    Freshness,
    IntervalsCheck,
    MetadataLimits,
    Restate,
    SQLMeshProjectArgs,
    TagConvention,
)
from dg_sqlmesh_component.config.external_models import ExternalModels
from dg_sqlmesh_component.config.retries import Retries
from dg_sqlmesh_component.config.scheduling import Janitor, PollingSensor, Schedule

REFERENCE = REPOSITORY / "component.yaml"
TOP = SQLMeshProjectComponent.get_model_cls()
DEFAULTS = {
    "project": SQLMeshProjectArgs(path="x"),
    "tag_convention": TagConvention(),
    "external_models": ExternalModels(),
    "metadata_limits": MetadataLimits(),
    "audits": Audits(),
    "op": OpSpec(),
    "restate": Restate(),
    "execution": Execution(),
}
OPTIONAL = {
    "execution.retries": Retries.model(),
    "freshness": Freshness.model(),
    "intervals_check": IntervalsCheck.model(),
    "schedule": Schedule.model(),
    "polling_sensor": PollingSensor.model(),
    "janitor": Janitor.model(),
}
"""Mappings that are null by default. A comment of the reference lists their attributes."""
NESTED = {name: type(value).model() for name, value in DEFAULTS.items()}
OURS = [TOP, *(model for name, model in NESTED.items() if name != "op"), *OPTIONAL.values()]
ATTRIBUTES = {
    *(f"{name}.{field}" for name, model in (NESTED | OPTIONAL).items() for field in model.model_fields),
    *(name for name in TOP.model_fields if name not in NESTED),
}
WITHOUT_DEFAULT = ("path",)
REFUSED = {"op": {"backfill_policy"}}


def properties_of(schema: dict[str, Any], model: type[BaseModel]) -> dict[str, dict[str, Any]]:
    return {name: schema["properties"][name] for name in model.model_fields}


def reference() -> dict[str, Any]:
    attributes: dict[str, Any] = yaml.safe_load(REFERENCE.read_text())["attributes"]
    return attributes


def test_reference_lists_every_attribute() -> None:
    attributes = reference()
    assert set(attributes) == set(TOP.model_fields)
    for name, model in NESTED.items():
        assert set(attributes[name]) == set(model.model_fields) - REFUSED.get(name, set()), name


def test_reference_lists_the_attributes_of_optional_mappings_in_comments() -> None:
    for name, model in OPTIONAL.items():
        above = REFERENCE.read_text().split(f" {name.split('.')[-1]}: null")[0].splitlines()[:-1]
        comment = "".join(takewhile(lambda line: line.lstrip().startswith("#"), reversed(above)))
        assert [field for field in model.model_fields if field not in comment] == [], name


def test_reference_shows_the_real_defaults() -> None:
    attributes = reference()
    for name, defaults in DEFAULTS.items():
        shown = {key: value for key, value in attributes[name].items() if key not in WITHOUT_DEFAULT}
        assert shown == {key: getattr(defaults, key) for key in shown}, name
    component = SQLMeshProjectComponent.from_attributes_dict(attributes={"project": "x"})
    flat = {name: value for name, value in attributes.items() if name not in NESTED}
    assert flat == {name: getattr(component, name) for name in flat}


def test_every_attribute_of_the_reference_has_a_comment() -> None:
    lines = REFERENCE.read_text().splitlines()
    for number, line in enumerate(lines):
        if re.match(r"  +\w+:", line):
            assert lines[number - 1].lstrip().startswith("#"), line


def test_reference_loads(tmp_path: Path) -> None:
    starter = shutil.copytree(REPOSITORY / "templates" / "starter", tmp_path / "starter")
    text = REFERENCE.read_text().replace("templates/starter", str(starter))
    with dagster_project(tmp_path) as dagster:
        dagster.add_component("reference", {}, "component.yaml").write_text(text)
        keys = {spec.key.to_user_string() for spec in dagster.refresh().resolve_all_asset_specs()}
    assert "core/daily_orders" in keys


@pytest.mark.parametrize("model", OURS)
def test_every_attribute_has_a_description_and_an_example(model: type[BaseModel]) -> None:
    for name, field in properties_of(model.model_json_schema(), model).items():
        assert field.get("description"), name
        assert field.get("examples"), name


def test_unknown_attributes_are_refused() -> None:
    for model in OURS:
        assert model.model_config.get("extra") == "forbid"


def attributes_with_a_test() -> dict[str, list[str]]:
    """Return the names in `@pytest.mark.attribute(...)` with the tests that have the mark."""
    tests_by_attribute: dict[str, list[str]] = {}
    for path in (REPOSITORY / "tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.FunctionDef | ast.ClassDef):
                continue
            for mark in node.decorator_list:
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.attribute":
                    for name in mark.args:
                        tests_by_attribute.setdefault(ast.literal_eval(name), []).append(f"{path.name}::{node.name}")
    return tests_by_attribute


def test_every_attribute_has_a_test_of_its_effect() -> None:
    tested = attributes_with_a_test()
    assert ATTRIBUTES - set(tested) == set()
    assert set(tested) - ATTRIBUTES - {"post_processing"} == set(), "tests of attributes that do not exist"
