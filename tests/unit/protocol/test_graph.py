"""Walks through graphs."""

from dg_sqlmesh_component.protocol.graph import parents_first


def test_parents_come_first_and_equally_deep_nodes_in_order() -> None:
    parents = {"total": ["b", "a"], "b": ["raw"], "a": ["raw"], "raw": [], "other": ["total"]}
    assert parents_first(["total"], parents.__getitem__) == ["raw", "a", "b", "total"]
    assert parents_first([], parents.__getitem__) == []
