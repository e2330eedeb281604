"""Which new versions wait for gaps of tables that prod shows."""

from __future__ import annotations

import pytest

from dg_sqlmesh_component.worker.plan.versions import behind_gaps

LINE = {"a": [], "b": ["a"], "c": ["b"], "d": ["c"]}


@pytest.mark.parametrize(
    ("new", "gaps", "waiting"),
    [
        ("ac", "b", "c"),
        ("ad", "b", "d"),
        ("bd", "a", ""),
        ("bd", "ac", "d"),
        ("acd", "b", "cd"),
        ("a", "b", ""),
        ("cd", "", ""),
    ],
)
def test_a_new_version_waits_for_a_gap_that_waits_for_another_new_version(new: str, gaps: str, waiting: str) -> None:
    assert behind_gaps(set(new), set(gaps), LINE) == set(waiting)
