"""Which rows a view shows although they are old or refused. Days are numbers."""

from collections.abc import Sequence

import pytest

from dg_sqlmesh_component.protocol.messages import Interval
from dg_sqlmesh_component.worker.intervals.unaccepted import unaccepted_rows

PARENTS = {"a": (), "b": ("a",), "v": ("a",), "vv": ("v", "b"), "of_b": ("b",)}
"""`a` and `b` are tables, the others are views."""

CASES: dict[str, tuple[dict[str, Sequence[Interval]], dict[str, Sequence[Interval]], dict[str, object]]] = {
    "nothing is refused": ({"a": ()}, {}, {}),
    "through a view, but not through a table": ({"a": [(1, 3)]}, {}, {"v": {"a": ((1, 3),)}, "vv": {"a": ((1, 3),)}}),
    "two tables": (
        {"b": [(5, 6)], "a": [(1, 2), (2, 3)]},
        {},
        {"v": {"a": ((1, 3),)}, "vv": {"a": ((1, 3),), "b": ((5, 6),)}, "of_b": {"b": ((5, 6),)}},
    ),
    "the run computes a part": (
        {"a": [(1, 4)]},
        {"a": [(2, 3)]},
        {"v": {"a": ((1, 2), (3, 4))}, "vv": {"a": ((1, 2), (3, 4))}},
    ),
    "the run computes all": ({"a": [(1, 4)]}, {"a": [(0, 9)]}, {}),
}


@pytest.mark.parametrize(("begun", "planned", "found"), CASES.values(), ids=CASES)
def test_a_view_shows_the_refused_rows_of_its_tables(
    begun: dict[str, Sequence[Interval]], planned: dict[str, Sequence[Interval]], found: dict[str, object]
) -> None:
    views = ["v", "vv", "of_b"]
    assert unaccepted_rows(views, PARENTS, lambda name: name in views, begun, planned) == found
