"""Which computed intervals of a model Dagster has not recorded."""

from __future__ import annotations

import pytest
from unit.builders import days

from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.worker.changes import computed_since
from dg_sqlmesh_component.worker.sqlmesh_internals import ComputedRange


@pytest.mark.parametrize(
    ("recorded", "new"),
    [
        (None, (days(1, 9),)),
        (msg.RecordedData("old version", 100), (days(1, 9),)),
        (msg.RecordedData("version", 10), (days(2, 3), days(9, 9))),
        (msg.RecordedData("version", 20), (days(9, 9),)),
        (msg.RecordedData("version", 30), ()),
    ],
)
def test_intervals_computed_after_the_record_are_new(
    recorded: msg.RecordedData | None, new: tuple[msg.Interval, ...]
) -> None:
    ranges = [
        ComputedRange(days(1, 8), at=10),
        ComputedRange(days(2, 2), at=20),
        ComputedRange(days(3, 3), at=20),
        ComputedRange(days(9, 9), at=30),
    ]
    assert computed_since(recorded, "version", ranges, [days(1, 9)]) == new
