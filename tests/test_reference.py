"""component.yaml and docs/attributes.md show what is declared, and component.yaml loads.

Every attribute has a test of its effect, marked with `@pytest.mark.attribute(...)`.
"""

import ast
import runpy
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from dagster.components.core.snapshot import get_package_entry_snap
from dagster.components.resolved.core_models import OpSpec
from dagster_shared.serdes.objects.package_entry import EnvRegistryKey, json_for_all_components
from harness import COMPONENT, REPOSITORY, dagster_project, write_project
from night import is_left_to_the_night
from pydantic import BaseModel

from dg_sqlmesh_component import SQLMeshProjectComponent
from dg_sqlmesh_component.config.mappings import Attributes

REFERENCE = REPOSITORY / "component.yaml"
PAGE = REPOSITORY / "docs" / "attributes.md"
TOP = SQLMeshProjectComponent.get_model_cls()


def mappings(of: type[Attributes] = Attributes) -> Iterator[tuple[str, type[Attributes]]]:
    """Each class of the package that declares a mapping, also those of capabilities, with the mapping's path."""
    for declared in of.__subclasses__():
        if declared.__module__.startswith("dg_sqlmesh_component.") and vars(declared).get("yaml_path"):
            yield declared.yaml_path, declared
        yield from mappings(declared)


MAPPINGS = dict(mappings())
MODELS = {name: attributes.model() for name, attributes in MAPPINGS.items()}
OURS = [TOP, *MODELS.values()]
ATTRIBUTES = {
    *(f"{name}.{field}" for name, model in {**MODELS, "op": OpSpec.model()}.items() for field in model.model_fields),
    *(name for name, field in TOP.model_fields.items() if name not in MODELS or field.default is None),
}


def test_reference_is_what_the_declarations_say() -> None:
    """`make reference` writes both files."""
    written = runpy.run_path(str(REPOSITORY / "scripts" / "reference.py"))
    assert REFERENCE.read_text() == written["reference_yaml"]()
    assert PAGE.read_text() == written["reference_page"]()


def test_reference_lists_every_attribute() -> None:
    assert yaml.safe_load(REFERENCE.read_text())["attributes"].keys() == TOP.model_fields.keys()
    page = PAGE.read_text()
    for name in ATTRIBUTES:
        assert f"`{name.rpartition('.')[2]}`" in page or name.startswith("op."), name


def test_attributes_are_declared_by_topic_and_the_components_page_lists_the_topics() -> None:
    topics = runpy.run_path(str(REPOSITORY / "scripts" / "reference.py"))["names_by_topic"]()
    assert [name for names in topics.values() for name in names] == list(TOP.model_fields)
    description = " ".join((SQLMeshProjectComponent.__doc__ or "").split())
    assert list(topics) == [
        "Project", "Assets", "Checks", "Runs", "Schedules and sensors", "Tests, plans and previews",
    ]  # fmt: skip
    for topic, names in topics.items():
        assert f"- **{topic}**: {', '.join(f'`{name}`' for name in names)}" in description


def test_example_in_dagsters_ui_loads(tmp_path: Path) -> None:
    """Built as Dagster builds it for the page of the component."""
    write_project(
        tmp_path / "shop",
        {
            "models/orders.sql": "MODEL (name marts.orders, kind FULL, tags [finance]); SELECT id FROM raw.orders",
            "models/other.sql": "MODEL (name marts.other, kind FULL); SELECT 1 AS id",
        },
    )
    with dagster_project(tmp_path) as dagster:
        snap = get_package_entry_snap(EnvRegistryKey.from_typename(COMPONENT), SQLMeshProjectComponent)
        [page] = json_for_all_components([snap])
        example = page["componentTypes"][0]["example"]
        dagster.add_component("shop", {}).write_text(example.replace("../../../shop", str(tmp_path / "shop")))
        keys = {spec.key.to_user_string() for spec in dagster.refresh().resolve_all_asset_specs()}
    assert keys == {"marts/orders", "landing/orders"}


def test_reference_loads(tmp_path: Path) -> None:
    starter = shutil.copytree(REPOSITORY / "templates" / "starter", tmp_path / "starter")
    text = REFERENCE.read_text().replace("templates/starter", str(starter))
    with dagster_project(tmp_path) as dagster:
        dagster.add_component("reference", {}, "component.yaml").write_text(text)
        keys = {spec.key.to_user_string() for spec in dagster.refresh().resolve_all_asset_specs()}
    assert "core/daily_orders" in keys


@pytest.mark.parametrize("model", OURS)
def test_every_attribute_has_a_description_and_an_example(model: type[BaseModel]) -> None:
    properties = model.model_json_schema()["properties"]
    for name in model.model_fields:
        assert properties[name].get("description"), name
        assert properties[name].get("examples"), name


def test_unknown_attributes_are_refused() -> None:
    for model in OURS:
        assert model.model_config.get("extra") == "forbid"


def attributes_with_a_test() -> dict[str, list[str]]:
    """Return the names in `@pytest.mark.attribute(...)` with the tests of CI that have the mark."""
    tests_by_attribute: dict[str, list[str]] = {}
    for path in (REPOSITORY / "tests").rglob("test_*.py"):
        module = ast.parse(path.read_text())
        for node in ast.walk(module):
            if not isinstance(node, ast.FunctionDef | ast.ClassDef) or is_left_to_the_night(node, module):
                continue
            for mark in node.decorator_list:
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.attribute":
                    for name in mark.args:
                        tests_by_attribute.setdefault(ast.literal_eval(name), []).append(f"{path.name}::{node.name}")
    return tests_by_attribute


def test_every_attribute_has_a_test_of_its_effect_in_ci() -> None:
    tested = attributes_with_a_test()
    assert ATTRIBUTES - set(tested) - {"op"} == set()
    assert set(tested) - ATTRIBUTES - {"post_processing"} == set(), "tests of attributes that do not exist"
