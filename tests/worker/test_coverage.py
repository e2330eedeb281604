"""The intervals that a model lacks."""

from __future__ import annotations

import pytest

from dg_sqlmesh_component.worker.coverage import uncovered

DAYS = [(0, 24), (24, 48), (48, 72)]


@pytest.mark.parametrize(
    ("covered", "missing"),
    [
        ([], DAYS),
        ([(0, 72)], []),
        ([(0, 24), (48, 72)], [(24, 48)]),
        ([(0, 47)], [(24, 48), (48, 72)]),  # a part of an interval is not enough
        ([(24, 72)], [(0, 24)]),
        ([(-24, 24), (72, 96)], [(24, 48), (48, 72)]),
    ],
)
def test_interval_is_missing_unless_one_range_covers_it(
    covered: list[tuple[int, int]], missing: list[tuple[int, int]]
) -> None:
    assert uncovered(DAYS, covered) == missing
