"""Tables from outside that several declarations of a code location read or produce."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from harness import CONFIG, DagsterProject, dagster_project, write_project

RAW = dg.AssetKey(["raw", "orders"])


@pytest.fixture
def dagster(tmp_path: Path):
    """Two projects that read raw.orders, and one that produces it; no table exists, since nothing is run."""
    for name in ("a", "b"):
        model = f"MODEL (name {name}.orders, kind FULL); SELECT id::INT AS id FROM raw.orders"
        write_project(tmp_path / name, {"models/orders.sql": model})
    write_project(
        tmp_path / "landing", {"models/orders.sql": "MODEL (name raw.orders, kind FULL); SELECT 1 AS id"}, CONFIG
    )
    with dagster_project(tmp_path) as project:
        yield project


def declare(dagster: DagsterProject, name: str, project: str, **external_models: Any) -> None:
    dagster.declare(name, {"project": f"../../../../{project}", "external_models": external_models})


def test_two_declarations_that_read_one_table_show_it_once(dagster: DagsterProject) -> None:
    declare(dagster, "a", "a", assets=True)
    declare(dagster, "b", "b", assets=True)
    graph = dagster.refresh().resolve_asset_graph()
    assert graph.get(RAW).group_name == "raw"
    assert {key.to_user_string() for key in graph.get(RAW).child_keys} == {"a/orders", "b/orders"}
    declare(dagster, "b", "b", assets=True, key="landed/{{ external.name }}")
    graph = dagster.refresh().resolve_asset_graph()
    assert {key.to_user_string() for key in graph.get(RAW).child_keys} == {"a/orders", "b/orders"}, "by its table"
    declare(dagster, "b", "b")
    graph = dagster.refresh().resolve_asset_graph()
    assert {key.to_user_string() for key in graph.get(RAW).child_keys} == {"a/orders", "b/orders"}


def test_the_model_that_produces_a_table_wins_over_those_that_read_it(dagster: DagsterProject) -> None:
    declare(dagster, "a", "landing")
    declare(dagster, "b", "b", assets=True)
    graph = dagster.refresh().resolve_asset_graph()
    assert graph.get(RAW).is_materializable
    assert {key.to_user_string() for key in graph.get(RAW).child_keys} == {"b/orders"}


def test_a_table_that_a_later_declaration_produces_is_refused_with_the_line_to_add(dagster: DagsterProject) -> None:
    declare(dagster, "a", "a", assets=True)
    declare(dagster, "b", "landing")
    said = dagster.refusal()
    assert "defs/a makes an asset of the table warehouse.raw.orders" in said
    where = f"{dagster.root.name}/defs/a"
    assert said.endswith(f"Add it to `external_models.keys` in {where}:\n    warehouse.raw.orders: raw/orders")
    declare(dagster, "a", "a", assets=True, keys={"warehouse.raw.orders": "raw/orders"})
    graph = dagster.refresh().resolve_asset_graph()
    assert graph.get(RAW).is_materializable
    assert {key.to_user_string() for key in graph.get(RAW).child_keys} == {"a/orders"}
