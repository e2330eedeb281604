"""Which data was computed outside of Dagster, and what a record of data contains."""

from dataclasses import replace

import pytest
from unit.builders import DAY, day, days

from dg_sqlmesh_component.history.active_runs import ActiveRun
from dg_sqlmesh_component.history.records import outside_data, record_metadata
from dg_sqlmesh_component.history.stored_record import internal
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.intervals import merged, subtract

PROMOTED = msg.PromotedVersion("7", "data", "text", None)
DATA = msg.ComputedData("a", PROMOTED, ((days(1, 8), 10), (days(2, 2), 20), (days(3, 3), 20), (days(9, 9), 30)))


def run(since: int | None, *models: str) -> ActiveRun:
    """Return an unfinished run of these models; without models, it restates."""
    return ActiveRun("c0ffee", frozenset(), None, True, frozenset(models) if models else None, since)


@pytest.mark.parametrize(
    ("recorded", "intervals", "computed_at"),
    [
        (None, (days(1, 9),), 30),
        (msg.RecordedData("6", 100), (days(1, 9),), 30),
        (msg.RecordedData("7", 10), (days(2, 3), days(9, 9)), 30),
        (msg.RecordedData("7", 20), (days(9, 9),), 30),
    ],
)
def test_everything_computed_after_the_record_of_the_version_is_outside_data(
    recorded: msg.RecordedData | None, intervals: tuple[msg.Interval, ...], computed_at: int
) -> None:
    [data], left = outside_data([DATA], {"a": recorded}, [])
    assert (data.intervals, data.computed_at) == (intervals, computed_at)
    assert (data.record.version, data.record.up_to) == ("7", computed_at)
    assert left == []


def test_recorded_data_is_not_outside_data() -> None:
    assert outside_data([DATA], {"a": msg.RecordedData("7", 30)}, []) == ([], [])


@pytest.mark.parametrize("unfinished", [run(20, "a"), run(20)], ids=["a run of the model", "a restatement"])
def test_data_computed_since_an_unfinished_run_holds_the_lock_is_left_to_it(unfinished: ActiveRun) -> None:
    [data], left = outside_data([DATA], {"a": None}, [unfinished])
    assert (data.intervals, data.computed_at, left) == ((days(1, 8),), 10, ["a"])


@pytest.mark.parametrize(
    "unfinished", [run(None, "a"), run(31, "a"), run(20, "b")], ids=["waits", "began later", "of another model"]
)
def test_other_runs_are_no_reason_to_leave_data(unfinished: ActiveRun) -> None:
    [data], left = outside_data([DATA], {"a": None}, [unfinished])
    assert (data.intervals, left) == ((days(1, 9),), [])


@pytest.mark.parametrize(
    ("recorded", "is_recorded_again"),
    [
        (msg.RecordedData("7", 30, "data", "text", "before"), True),
        (msg.RecordedData("7", 30, "data", "text", "now"), False),
        (msg.RecordedData("6", 30, "data", "text", "before"), False),
        (None, False),
    ],
    ids=["promoted again", "recorded meanwhile", "another table", "no record"],
)
def test_data_promoted_again_is_recorded_once(recorded: msg.RecordedData | None, is_recorded_again: bool) -> None:
    promoted = replace(PROMOTED, identifier="now")
    found, left = outside_data([msg.ComputedData("a", promoted, ())], {"a": recorded}, [run(20, "a")])
    assert [(data.intervals, data.computed_at) for data in found] == ([((), 30)] if is_recorded_again else [])
    assert left == []


def test_record_is_one_line_of_metadata() -> None:
    recorded = msg.RecordedData("7", 30, "data", "text", "now")
    assert record_metadata("prod", recorded) == internal(record="prod 7 30 data text now")
    assert record_metadata("prod", None) == {}


def test_what_failed_runs_have_computed_is_in_the_record_until_data_of_that_version_is_materialized() -> None:
    left = (days(1, 4), days(6, 6))
    known = msg.RecordedData("7", 20, "data", "text", "now", left)
    assert record_metadata("prod", known)["sqlmesh/internal"].value["unmaterialized"] == [list(of) for of in left]
    [again], _ = outside_data([replace(DATA, ranges=((days(4, 5), 30),))], {"a": known}, [])
    assert (again.intervals, again.unmaterialized) == ((days(4, 5),), (days(1, 3), days(6, 6)))
    assert again.record.unmaterialized == ()
    [other], _ = outside_data([DATA], {"a": replace(known, version="6")}, [])
    assert other.unmaterialized == ()


def test_outdated_ranges_stay_in_the_record_until_the_model_is_computed_for_them() -> None:
    known = msg.RecordedData("7", 20, "data", "text", "now", outdated=(days(1, 4),), compared_at=15)
    assert record_metadata("prod", known)["sqlmesh/internal"].value == {
        "record": "prod 7 20 data text now",
        "outdated": [list(days(1, 4))],
        "compared_at": 15,
    }
    [again], _ = outside_data([replace(DATA, ranges=((days(2, 3), 30),))], {"a": known}, [])
    assert (again.record.outdated, again.record.compared_at) == ((days(1, 1), days(4, 4)), 15)
    [other], _ = outside_data([DATA], {"a": replace(known, version="6")}, [])
    assert (other.record.outdated, other.record.compared_at) == ((), 0)


def test_adjoining_and_overlapping_intervals_are_merged() -> None:
    assert merged([days(3, 4), days(1, 1), days(2, 3), days(6, 6)]) == (days(1, 4), days(6, 6))


def test_removed_intervals_leave_the_parts_around_them() -> None:
    assert subtract([days(1, 9)], [days(3, 4), days(9, 12)]) == (days(1, 2), days(5, 8))
    assert subtract([days(1, 2), days(4, 5)], [(day(2), day(4) + DAY // 2)]) == (
        days(1, 1),
        (day(4) + DAY // 2, day(6)),
    )
    assert subtract([days(2, 3)], [days(1, 9)]) == ()
