"""Conflicts between components of one code location: op names and tables with one asset key."""

import logging
import re

import dagster as dg
import pytest

from dg_sqlmesh_component.definitions.code_location import CodeLocation
from dg_sqlmesh_component.definitions.op import NAME_OF_A_PART, default_op_name, refuse_op_name
from dg_sqlmesh_component.protocol.errors import ConfigurationError

OP_NAMES = {
    ("shop", None): "sqlmesh_shop",
    ("shop", 1): "sqlmesh_shop__1_",
    ("shop", 2): "sqlmesh_shop__2_",
    ("shop_2", None): "sqlmesh_shop_2_",
    ("shop_eu", None): "sqlmesh_shop_eu",
    ("shop-eu", None): "sqlmesh_shop_eu_[0-9a-f]{8}_?",
    ("shop eu", None): "sqlmesh_shop_eu_[0-9a-f]{8}_?",
    ("shop.v2", None): "sqlmesh_shop_v2_[0-9a-f]{8}_?",
    ("shop.v3", None): "sqlmesh_shop_v3_[0-9a-f]{8}_?",
    ("a/b", None): "sqlmesh_a__b",
    ("a_b", None): "sqlmesh_a_b",
    ("a__b", None): "sqlmesh_a_b_[0-9a-f]{8}_?",
    ("_shop", None): "sqlmesh_shop_[0-9a-f]{8}_?",
    ("größe", None): "sqlmesh_gr_e_[0-9a-f]{8}_?",
    ("注文", None): "sqlmesh_[0-9a-f]{8}_?",
    ("顧客", None): "sqlmesh_[0-9a-f]{8}_?",
    ("shop/component.py", "load"): "sqlmesh_shop__component__load",
    (".", None): "sqlmesh_",
}


@pytest.mark.parametrize(("folder", "instance"), OP_NAMES)
def test_default_op_name_comes_from_the_folder_of_the_component(folder: str, instance: int | str | None) -> None:
    name = default_op_name(folder, instance)
    assert re.fullmatch(OP_NAMES[folder, instance], name)
    assert not NAME_OF_A_PART.search(name)
    assert dg.op(name=name)(lambda: None).name == name


def test_default_op_names_are_unique_and_the_first_component_in_a_file_is_named_like_a_single_one() -> None:
    names = [default_op_name(folder, instance) for folder, instance in OP_NAMES]
    assert len({*names}) == len(names)
    assert default_op_name("shop", 0) == default_op_name("shop", None)


@pytest.mark.parametrize(
    ("name", "rule"), [("my op", "A-Za-z0-9_"), ("context", "reserved"), ("shop_2", "parts of an op that it splits")]
)
def test_invalid_op_name_is_refused(name: str, rule: str) -> None:
    with pytest.raises(ConfigurationError, match=f"`op.name` in defs.yaml is '{name}'.*{rule}"):
        refuse_op_name(name)


def test_two_components_with_one_op_name_are_refused() -> None:
    location = CodeLocation()
    location.add("defs/shop", "ours", {})
    location.add("defs/shop", "ours", {})  # Dagster builds some components twice
    location.add("defs/other", "theirs", {})
    with pytest.raises(ConfigurationError, match=r"`op\.name` of defs/marts and `op\.name` of defs/shop would"):
        location.add("defs/marts", "ours", {})


def downstream_spec(upstream_key: str, table: str | None, reader: str = "reader") -> dg.AssetSpec:
    metadata = {"dagster/table_name": table} if table else None
    return dg.AssetSpec(reader, deps=[dg.AssetDep(dg.AssetKey(upstream_key.split("/")), metadata=metadata)])


@pytest.mark.parametrize(
    ("spec", "is_logged"),
    [
        (downstream_spec("raw/orders", "us.raw.orders"), True),
        (downstream_spec("raw/orders", "eu.raw.orders"), False),
        (downstream_spec("raw/orders", None), False),
        (downstream_spec("raw/refunds", "us.raw.orders"), False),
    ],
    ids=["another table", "the same table", "an unnamed table", "another key"],
)
def test_two_tables_with_one_key_warn(spec: dg.AssetSpec, is_logged: bool, caplog: pytest.LogCaptureFixture) -> None:
    location = CodeLocation()
    with caplog.at_level(logging.WARNING):
        location.add("defs/eu", "eu", {"eu": downstream_spec("raw/orders", "eu.raw.orders", "other")})
        location.add("defs/us", "us", {"us": spec})
    assert ("defs/eu and defs/us read two tables, eu.raw.orders and us.raw.orders" in caplog.text) is is_logged
    assert ("{us.raw.orders: raw/orders}" in caplog.text) is is_logged


def test_one_asset_of_two_components_is_refused_with_both_places_and_the_line_to_write() -> None:
    location = CodeLocation()
    location.add("defs/shop/defs.yaml", "prod", {"a": dg.AssetSpec("a")})
    location.add("defs/shop/defs.yaml", "prod", {"a": dg.AssetSpec("a")})  # the same component, built again
    refusal = "defs/shop/defs.yaml and defs/shop_dev/defs.yaml both make the asset a.*\n        key_prefix: dev"
    with pytest.raises(ConfigurationError, match=re.compile(refusal, re.DOTALL)):
        location.add("defs/shop_dev/defs.yaml", "dev", {"a": dg.AssetSpec("a")})


def test_models_of_components_that_are_built_later_are_seen_by_those_that_are_built_already() -> None:
    code_location = CodeLocation()
    seen = code_location.models
    code_location.add("shop", "sqlmesh_shop", {"a": dg.AssetSpec("a")})
    code_location.add("crm", "sqlmesh_crm", {"b": dg.AssetSpec("b")})
    assert seen == {"a", "b"}
