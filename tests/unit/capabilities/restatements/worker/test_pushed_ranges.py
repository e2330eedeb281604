"""How far a restatement reaches through views and tables that are computed as a whole."""

import pytest

from dg_sqlmesh_component.capabilities.restatements.worker.pushed_ranges import pushed_ranges

ASKED = (2, 4)
PARENTS = {
    "sums": [],
    "other": [],
    "view": ["sums"],
    "full": ["view", "unchanged"],
    "reader": ["full"],
    "behind": ["reader", "other"],
    "beside": ["other"],
}


@pytest.mark.parametrize(
    ("ranges", "expected"),
    [
        ({"sums": (2, 9), "view": ASKED, "full": (0, 9), "reader": ASKED}, {"reader": (2, 9)}),
        ({"sums": (2, 9), "view": ASKED, "full": (0, 9), "reader": ASKED, "behind": ASKED}, {"behind": (2, 9)}),
        ({"sums": ASKED, "view": ASKED, "full": (0, 9), "reader": ASKED}, {"reader": ASKED}),
        ({"full": (0, 9), "reader": ASKED}, {"full": (0, 9), "reader": ASKED}),
        ({"sums": (2, 9), "other": ASKED, "beside": ASKED}, {"beside": ASKED}),
    ],
    ids=[
        "through a view and a whole table",
        "and on to its readers",
        "not further than the source",
        "not the range of a whole table itself",
        "not to models that do not read it",
    ],
)
def test_the_range_of_a_source_reaches(
    ranges: dict[str, tuple[int, int]], expected: dict[str, tuple[int, int]]
) -> None:
    pushed = pushed_ranges(ranges, PARENTS, {"sums", "other", "reader", "behind", "beside"})
    assert {**ranges, **pushed} == pushed
    assert expected.items() <= pushed.items()
