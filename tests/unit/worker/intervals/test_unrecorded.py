"""Which data of a table Dagster has not recorded, and which of it is older than its source. Days are numbers."""

from dataclasses import replace

import pytest

from dg_sqlmesh_component.protocol.intervals import ComputedRange
from dg_sqlmesh_component.protocol.messages import RecordedData, SourceLoad
from dg_sqlmesh_component.worker.intervals.unrecorded import ShownTable, late, unrecorded


def row(start: int, end: int, at: int, *, is_merged: bool = False) -> ComputedRange:
    return ComputedRange((start, end), at, is_merged=is_merged, identifier="1")


def table(*rows: ComputedRange, computed: list[tuple[int, int]] | None = None) -> ShownTable:
    return ShownTable(
        version="v",
        rows=rows,
        computed=[(1, 9)] if computed is None else computed,
        promoted_at=500,
        is_shown_again=False,
        created_at=None,
        whole=lambda interval: (interval[0] // 2 * 2, -(-interval[1] // 2) * 2),
    )


def test_only_ranges_computed_after_the_record_are_unrecorded() -> None:
    of_both = table(row(1, 5, at=10), row(5, 9, at=20))
    assert unrecorded(of_both, RecordedData("v", up_to=10)) == (((5, 9), 20),)
    assert unrecorded(of_both, RecordedData("v", up_to=20)) == ()


@pytest.mark.parametrize("recorded", [None, RecordedData("other", up_to=99)])
def test_all_computed_intervals_of_a_table_without_a_record_are_unrecorded(recorded: RecordedData | None) -> None:
    """Those without a row have the newest time. A row of an interval that is not computed any more does not count."""
    found = unrecorded(table(row(1, 3, at=10), row(3, 5, at=20), row(9, 10, at=30)), recorded)
    assert found == (((1, 3), 10), ((3, 5), 20), ((5, 9), 30))


def test_a_table_without_rows_has_nothing_to_record() -> None:
    assert unrecorded(replace(table(), is_shown_again=True), None) == ()


def test_a_view_that_a_plan_has_created_again_is_unrecorded_as_a_whole_if_nothing_is_newer() -> None:
    view = replace(table(row(1, 9, at=10)), is_shown_again=True)
    assert unrecorded(view, RecordedData("v", up_to=10)) == (((1, 9), 500),)
    assert unrecorded(view, RecordedData("v", up_to=9)) == (((1, 9), 10),)


def test_intervals_computed_before_their_source_was_loaded_are_late_as_a_whole() -> None:
    loads = [SourceLoad((3, 4), at=15, is_late=False)]
    assert late(table(row(1, 9, at=10)), loads) == ((2, 4),)
    assert late(table(row(1, 9, at=10), row(3, 4, at=16)), loads) == ()
    assert late(table(row(1, 9, at=10), computed=[(1, 2)]), loads) == (), "it is not computed"
    assert late(table(row(1, 9, at=10), computed=[(3, 9)]), loads) == ((3, 4),), "only what is computed"
    assert late(table(row(1, 9, at=15)), [*loads, SourceLoad((7, 8), at=15, is_late=False)]) == ((2, 4), (6, 8))


@pytest.mark.parametrize(
    ("is_late", "created_at", "found"),
    [(False, None, ()), (True, None, ((2, 4),)), (True, 15, ((2, 4),)), (True, 16, ())],
)
def test_a_merged_range_is_evidence_only_if_the_interval_was_not_late_or_the_table_is_newer(
    is_late: bool, created_at: int | None, found: object
) -> None:
    """SQLMesh's janitor gives it the newest time of what it has merged."""
    loads = [SourceLoad((3, 4), at=15, is_late=is_late)]
    assert late(replace(table(row(1, 9, at=16, is_merged=True)), created_at=created_at), loads) == found
