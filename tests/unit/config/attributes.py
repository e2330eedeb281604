"""Attributes of a component: all of them, random ones, and a component with them."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import yaml
from hypothesis import strategies as st
from unit.builders import audit, manifest, model

from dg_sqlmesh_component import SQLMeshProjectComponent

REFERENCE = Path(__file__).parents[3] / "component.yaml"

EVERYTHING: dict[str, Any] = {
    **yaml.safe_load(REFERENCE.read_text())["attributes"],
    "translation": {
        "key": "ours/{{ model.name }}",
        "group_name": "{{ model.schema }}",
        "owners": ["team:data"],
        "tags": {"layer": "{{ model.schema }}"},
        "metadata": {"kind": "{{ model.kind }}"},
        "kinds": ["sql"],
        "automation_condition": "{{ dg.AutomationCondition.eager() }}",
    },
    "external_models": {"key": "landing/{{ external.name }}", "keys": {"raw.events": "dlt/events"}},
    "intervals_check": {"slack": "6h"},
    "automation": "cron",
    "freshness": {"slack": "2h"},
    "op": {"name": "shop", "tags": {"team": "data"}, "pool": "warehouse", "description": "Runs it."},
    "execution": {
        "concurrent_tasks": 2,
        "environments": ["dev"],
        "overlap_timeout": 10,
        "environment_timeout": 10,
        "retries": {"max_retries": 2, "delay": 1, "transient_errors": ["x"]},
    },
}

PROJECT = manifest(
    model("core.orders", audits=(audit("not_null"),), tags=("dagster:group_name:finance", "a:b:c", "")),
    model("marts.revenue", reads=["core.orders", "raw.events"]),
)

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**6), 10**6)
    | st.floats(allow_nan=True)
    | st.text(max_size=20)
    | st.sampled_from(["{{ nope }}", "{{ model.nope }}", "{{", "{{ 1/0 }}", "../..", "a/b", "/", "*", "prod"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


def attribute_paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every attribute and list item."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in inner:
        yield (*path, key)
        yield from attribute_paths(child, (*path, key))


def replaced(path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    attributes = copy.deepcopy(EVERYTHING)
    parent: Any = attributes
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = value
    return attributes


ATTRIBUTE_PATHS: list[tuple[Any, ...]] = sorted(attribute_paths(EVERYTHING), key=str)


def loaded(attributes: dict[str, Any]) -> SQLMeshProjectComponent:
    parsed = yaml.safe_load(yaml.safe_dump(attributes, allow_unicode=True))
    model_type = SQLMeshProjectComponent.get_model_cls()
    assert model_type is not None
    component = SQLMeshProjectComponent.load(
        model_type.model_validate(parsed), dg.ComponentTree.for_test().load_context
    )
    component._translate(PROJECT)
    return component
