"""External tables that several components of a code location read or produce."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from harness import CONFIG, DagsterProject, dagster_project, write_project

RAW_ORDERS = dg.AssetKey(["raw", "orders"])


@pytest.fixture
def dagster(tmp_path: Path) -> Iterator[DagsterProject]:
    """Two projects that read raw.orders, and one that produces it. No table exists, because no test runs a model."""
    for name in ("a", "b"):
        model = f"MODEL (name {name}.orders, kind FULL); SELECT id::INT AS id FROM raw.orders"
        write_project(tmp_path / name, {"models/orders.sql": model})
    write_project(
        tmp_path / "landing", {"models/orders.sql": "MODEL (name raw.orders, kind FULL); SELECT 1 AS id"}, CONFIG
    )
    with dagster_project(tmp_path) as project:
        yield project


def add_project(dagster: DagsterProject, name: str, project: str, **external_models: Any) -> None:
    dagster.add_component(name, {"project": f"../../../../{project}", "external_models": external_models})


def test_external_table_of_two_components_is_one_asset(dagster: DagsterProject) -> None:
    add_project(dagster, "a", "a", assets=True)
    add_project(dagster, "b", "b", assets=True)
    graph = dagster.refresh().resolve_asset_graph()
    assert graph.get(RAW_ORDERS).group_name == "raw"
    assert {key.to_user_string() for key in graph.get(RAW_ORDERS).child_keys} == {"a/orders", "b/orders"}
    add_project(dagster, "b", "b", assets=True, key="landed/{{ external.name }}")
    graph = dagster.refresh().resolve_asset_graph()
    assert {key.to_user_string() for key in graph.get(RAW_ORDERS).child_keys} == {"a/orders", "b/orders"}, (
        "found by the name of its table"
    )
    add_project(dagster, "b", "b")
    graph = dagster.refresh().resolve_asset_graph()
    assert {key.to_user_string() for key in graph.get(RAW_ORDERS).child_keys} == {"a/orders", "b/orders"}


def test_model_that_produces_a_table_replaces_its_external_asset(dagster: DagsterProject) -> None:
    add_project(dagster, "a", "landing")
    add_project(dagster, "b", "b", assets=True)
    graph = dagster.refresh().resolve_asset_graph()
    assert graph.get(RAW_ORDERS).is_materializable
    assert {key.to_user_string() for key in graph.get(RAW_ORDERS).child_keys} == {"b/orders"}


def test_external_asset_that_later_component_produces_is_an_error_with_the_line_to_add(dagster: DagsterProject) -> None:
    add_project(dagster, "a", "a", assets=True)
    add_project(dagster, "b", "landing")
    message = dagster.load_error()
    assert "defs/a makes an asset of the table warehouse.raw.orders" in message
    component = f"{dagster.root.name}/defs/a"
    assert message.endswith(f"Add it to `external_models.keys` in {component}:\n    warehouse.raw.orders: raw/orders")
    add_project(dagster, "a", "a", assets=True, keys={"warehouse.raw.orders": "raw/orders"})
    graph = dagster.refresh().resolve_asset_graph()
    assert graph.get(RAW_ORDERS).is_materializable
    assert {key.to_user_string() for key in graph.get(RAW_ORDERS).child_keys} == {"a/orders"}
