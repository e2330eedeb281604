"""In which turns a plan computes tables that prod shows, and new versions."""

from __future__ import annotations

import pytest

from dg_sqlmesh_component.worker.plan.versions import in_turns

LINE = {"a": [], "b": ["a"], "c": ["b"], "d": ["c"]}


@pytest.mark.parametrize(
    ("needed", "new", "turns"),
    [
        ("abcd", "cd", ["ab", "cd"]),
        ("abcd", "bd", ["a", "b", "c", "d"]),
        ("ad", "bd", ["a", "d"]),
        ("cd", "bd", ["c", "d"]),
        ("abc", "b", ["a", "b"]),
        ("c", "b", []),
        ("ab", "", ["ab"]),
        ("", "ab", []),
    ],
)
def test_each_table_comes_after_those_it_reads(needed: str, new: str, turns: list[str]) -> None:
    assert list(in_turns(set(needed), set(new), LINE)) == [set(turn) for turn in turns]


def test_tables_that_do_not_read_each_other_share_a_turn() -> None:
    parents = {"a": [], "b": ["a"], "x": [], "y": ["x"]}
    assert list(in_turns({*parents}, {"b", "x"}, parents)) == [{"a"}, {"b", "x"}], "no needed version reads y"
