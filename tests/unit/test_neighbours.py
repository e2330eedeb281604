"""What declarations of one code location are called, and what two of them may not both say."""

from __future__ import annotations

import logging
import re

import dagster as dg
import pytest

from dg_sqlmesh_component.definitions.code_location import CodeLocation
from dg_sqlmesh_component.definitions.op import NAME_OF_A_PART, default_op_name, refuse_op_name
from dg_sqlmesh_component.protocol.errors import DeclarationError

DECLARED = {
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


@pytest.mark.parametrize(("where", "instance"), DECLARED)
def test_an_op_is_named_for_where_it_is_declared(where: str, instance: int | str | None) -> None:
    name = default_op_name(where, instance)
    assert re.fullmatch(DECLARED[where, instance], name)
    assert not NAME_OF_A_PART.search(name)
    assert dg.op(name=name)(lambda: None).name == name


def test_no_two_declarations_have_an_op_of_one_name() -> None:
    names = [default_op_name(where, instance) for where, instance in DECLARED]
    assert len({*names}) == len(names)


def test_the_first_of_several_declarations_in_a_file_is_named_as_if_it_were_alone() -> None:
    assert default_op_name("shop", 0) == default_op_name("shop", None)


@pytest.mark.parametrize(
    ("name", "why"),
    [("my op", "A-Za-z0-9_"), ("context", "reserved"), ("shop_2", "parts of an op that it splits")],
)
def test_an_op_that_cannot_be_called_so_is_refused_where_it_is_written(name: str, why: str) -> None:
    with pytest.raises(DeclarationError, match=f"`op.name` in defs.yaml is '{name}'.*{why}"):
        refuse_op_name(name)


def test_two_ops_of_one_name_are_refused_with_both_places() -> None:
    location = CodeLocation()
    location.add("defs/shop", "ours", {})
    location.add("defs/shop", "ours", {})  # Dagster builds some declarations twice
    location.add("defs/other", "theirs", {})
    with pytest.raises(DeclarationError, match="defs/shop and defs/marts both name their op 'ours'"):
        location.add("defs/marts", "ours", {})


def reader(of: str, table: str | None) -> dg.AssetSpec:
    metadata = {"dagster/table_name": table} if table else None
    return dg.AssetSpec("reader", deps=[dg.AssetDep(dg.AssetKey(of.split("/")), metadata=metadata)])


@pytest.mark.parametrize(
    ("spec", "is_told"),
    [
        (reader("raw/orders", "us.raw.orders"), True),
        (reader("raw/orders", "eu.raw.orders"), False),
        (reader("raw/orders", None), False),
        (reader("raw/refunds", "us.raw.orders"), False),
    ],
    ids=["another table", "the same table", "a table of no name", "another key"],
)
def test_two_tables_under_one_key_are_told_with_both_places(
    spec: dg.AssetSpec, is_told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    location = CodeLocation()
    with caplog.at_level(logging.WARNING):
        location.add("defs/eu", "eu", {"eu": reader("raw/orders", "eu.raw.orders")})
        location.add("defs/us", "us", {"us": spec})
    assert ("defs/eu and defs/us read two tables, eu.raw.orders and us.raw.orders" in caplog.text) is is_told
    assert ("{us.raw.orders: raw/orders}" in caplog.text) is is_told
