"""Which rows a plan takes from an environment: what a version shows minus what the next one shows."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
from unit.worker.snapshots import day, days

from dg_sqlmesh_component.capabilities.plans.messages import LostRows
from dg_sqlmesh_component.capabilities.plans.worker.lost_rows import (
    NO_LOSSES,
    ChangedModel,
    ShownVersion,
    appended_again,
    lost_rows,
)
from dg_sqlmesh_component.protocol.intervals import ALL_TIME, subtract
from dg_sqlmesh_component.protocol.messages import Interval

EARLIEST, LATEST = ALL_TIME
DAY = day(2) - day(1)
WEEK = [days(3, 9)]
BEFORE, SINCE = (EARLIEST, day(3)), (day(10), LATEST)


def ranges(from_start: bool = True, to_end: bool = True, computed: Sequence[Interval] = WEEK) -> ShownVersion:
    return ShownVersion("ranges", computed, lambda: (from_start, to_end))


VIEW = ShownVersion("sources")
KINDS = {
    "VIEW": VIEW,
    "FULL": ShownVersion("whole", WEEK),
    "SCD_TYPE_2": ShownVersion("whole", WEEK, has_past=True),
    "BY_TIME": ranges(),
    "BY_KEY since the start": ranges(to_end=False),
    "BY_KEY up to the end": ranges(from_start=False),
    "BY_KEY without its range": ranges(from_start=False, to_end=False),
}
SHOWN = {
    "VIEW": "<i>-",
    "FULL": "<i>-",
    "SCD_TYPE_2": "<i>-",
    "BY_TIME": "i",
    "BY_KEY since the start": "i>",
    "BY_KEY up to the end": "<i",
    "BY_KEY without its range": "<i>-",
}
"""By kind, the rows that it shows: before the start, of the computed intervals, after their end, and without a time."""

TIMES = {"<": BEFORE, "i": days(3, 9), ">": SINCE}


def lost(change: ChangedModel) -> LostRows:
    return lost_rows({"m": change}).get("m", NO_LOSSES).own


@pytest.mark.parametrize("after", KINDS)
@pytest.mark.parametrize("before", KINDS)
def test_rows_that_only_the_old_kind_shows_are_lost(before: str, after: str) -> None:
    gone = set(SHOWN[before]) - set(SHOWN[after])

    found = lost(ChangedModel((), KINDS[before], KINDS[after]))

    assert found.intervals == tuple(TIMES[sign] for sign in "<i>" if sign in gone)
    assert found.without_time == ("-" in gone)
    assert found.until_later_runs == tuple(TIMES[sign] for sign in ">" if sign in gone)
    assert (found.until_run, found.not_loaded) == ((), ())
    assert found.of_past == (before == "SCD_TYPE_2")
    assert bool(found) == bool(gone or before == "SCD_TYPE_2")


@dataclass(frozen=True)
class Later:
    """A change, and the rows that come back after the plan."""

    change: ChangedModel
    lost: LostRows


FULL, EMPTY_FULL = KINDS["FULL"], ShownVersion("whole")
SHORT = ranges(computed=[days(5, 7)])
TO_RANGES = ChangedModel((), FULL, SHORT)
SINCE_8 = (day(8), LATEST)
LATER = {
    "the next run computes two days, and later runs the others": Later(
        replace(TO_RANGES, pending=lambda: [days(8, 9)]),
        LostRows(((EARLIEST, day(5)), SINCE_8), (), (days(8, 9),), (SINCE,), without_time=True),
    ),
    "a source is not loaded for a day that the next run would compute": Later(
        replace(TO_RANGES, pending=lambda: [days(8, 11)], not_loaded=lambda: [days(9, 10)]),
        LostRows(
            ((EARLIEST, day(5)), SINCE_8),
            (days(9, 9),),
            (days(8, 8), days(11, 11)),
            (days(10, 10), (day(12), LATEST)),
            without_time=True,
        ),
    ),
    "a source is not loaded for a whole table that the next run would compute": Later(
        ChangedModel((), FULL, EMPTY_FULL, is_computed=False, pending=lambda: WEEK, not_loaded=lambda: WEEK),
        LostRows((ALL_TIME,), not_loaded=(ALL_TIME,)),
    ),
    "a source is not loaded for a day before the others, and for one after them": Later(
        replace(TO_RANGES, waiting=[days(4, 4), days(8, 8)], pending=lambda: [days(4, 4), days(8, 9)]),
        LostRows(((EARLIEST, day(5)), SINCE_8), (days(4, 4), days(8, 8)), (days(9, 9),), (SINCE,), without_time=True),
    ),
    "a hole that nobody computes": Later(
        replace(TO_RANGES, after=ranges(computed=[days(3, 4), days(6, 9)])),
        LostRows((BEFORE, days(5, 5), SINCE), until_later_runs=(SINCE,), without_time=True),
    ),
    "the model has ended, so no later run computes a row": Later(
        replace(TO_RANGES, after=ranges(), end=day(10)), LostRows((BEFORE, SINCE), without_time=True)
    ),
    "the model ends after two more days": Later(
        replace(TO_RANGES, after=ranges(), end=day(12)),
        LostRows((BEFORE, SINCE), until_later_runs=((day(10), day(12)),), without_time=True),
    ),
    "no interval is computed": Later(
        replace(TO_RANGES, after=ranges(computed=[])), LostRows((ALL_TIME,), without_time=True)
    ),
    "no interval is computed, and the next run computes all": Later(
        replace(TO_RANGES, after=ranges(computed=[]), pending=lambda: WEEK),
        LostRows((ALL_TIME,), (), tuple(WEEK), (SINCE,), without_time=True),
    ),
    "a whole table is not computed before a later tick": Later(
        ChangedModel((), FULL, EMPTY_FULL, is_computed=False), LostRows((ALL_TIME,), until_later_runs=(ALL_TIME,))
    ),
    "a whole table is computed by the next run": Later(
        ChangedModel((), FULL, EMPTY_FULL, is_computed=False, pending=lambda: WEEK),
        LostRows((ALL_TIME,), until_run=(ALL_TIME,)),
    ),
    "a whole table waits for a source": Later(
        ChangedModel((), FULL, EMPTY_FULL, is_computed=False, waiting=WEEK, pending=lambda: WEEK),
        LostRows((ALL_TIME,), not_loaded=(ALL_TIME,)),
    ),
    "a whole table that is not computed, of a model with an end": Later(
        ChangedModel((), FULL, EMPTY_FULL, is_computed=False, end=day(10)), LostRows((ALL_TIME,))
    ),
    "a table that was computed as a whole at an earlier time": Later(
        ChangedModel((), FULL, ShownVersion("whole", [days(3, 7)]), is_computed=False),
        LostRows((SINCE_8,), until_later_runs=(SINCE_8,)),
    ),
    "a later start": Later(ChangedModel((), ranges(), ranges(computed=[days(6, 9)])), LostRows((days(3, 5),))),
    "longer intervals": Later(
        ChangedModel((), ranges(), ranges(computed=[days(3, 7)])),
        LostRows((days(8, 9),), until_later_runs=(days(8, 9),)),
    ),
    "a day fewer downstream of a change, of a query that does not use its range": Later(
        ChangedModel((), KINDS["BY_KEY without its range"], ranges(False, False, [days(3, 8)]), is_redefined=False),
        LostRows(),
    ),
}


@pytest.mark.parametrize("case", LATER)
def test_lost_rows_are_named_with_what_brings_them_back(case: str) -> None:
    assert lost(LATER[case].change) == LATER[case].lost


NOTHING_LOST = {
    "an environment without the model": ChangedModel((), None, ranges()),
    "an old table without an interval": ChangedModel((), EMPTY_FULL, ranges()),
    "an old table without an interval, of a kind that keeps the past": ChangedModel(
        (), replace(KINDS["SCD_TYPE_2"], computed=()), VIEW
    ),
    "a table that stays": ChangedModel((), FULL, ranges(), keeps_rows=True),
    "a table that has the same rows from an earlier computation": ChangedModel((), FULL, FULL, is_computed=False),
    "more intervals": ChangedModel((), ranges(computed=[days(5, 6)]), ranges()),
}


@pytest.mark.parametrize("case", NOTHING_LOST)
def test_nothing_is_lost(case: str) -> None:
    assert lost_rows({"m": NOTHING_LOST[case]}) == {}


def refuses_to_render() -> tuple[bool, bool]:
    raise AssertionError


def test_no_query_is_rendered_for_a_model_without_a_change_of_its_own_that_has_the_same_intervals() -> None:
    version = replace(ranges(), limits=refuses_to_render)
    assert lost_rows({"m": ChangedModel((), version, version, is_redefined=False)}) == {}


TWICE = {
    "a table with all rows, up to now": (FULL, (), (SINCE,)),
    "and an earlier start, which the plan computes": (FULL, [days(1, 2)], ((day(1), day(3)), SINCE)),
    "a key, of a query that does not use its range": (KINDS["BY_KEY without its range"], (), (SINCE,)),
    "a table of its intervals": (ranges(), [days(1, 2)], ()),
    "a table that was appended to before": (replace(KINDS["BY_KEY without its range"], appends=True), (), ()),
    "an empty table": (EMPTY_FULL, (), ()),
    "no table": (None, (), ()),
}


@pytest.mark.parametrize("case", TWICE)
def test_rows_are_named_that_a_table_has_and_its_new_version_appends_again(case: str) -> None:
    before, missing, expected = TWICE[case]
    change = ChangedModel((), before, replace(ranges(), appends=True), keeps_rows=True)
    assert appended_again(change, missing) == expected
    assert appended_again(replace(change, keeps_rows=False), missing) == ()
    assert appended_again(replace(change, after=ranges()), missing) == ()


def test_no_row_is_appended_again_after_the_end_of_a_model() -> None:
    change = ChangedModel((), FULL, replace(ranges(), appends=True), keeps_rows=True, end=day(11))
    assert appended_again(change, ()) == ((day(10), day(11)),)


# -- models downstream ----------------------------------------------------------------------------

SOURCE = ChangedModel((), FULL, ranges())
GONE = LostRows((BEFORE, SINCE), until_later_runs=(SINCE,), without_time=True)


def unchanged(version: ShownVersion, *reads: str, keeps_rows: bool = False) -> ChangedModel:
    return ChangedModel(reads, version, version, is_redefined=False, keeps_rows=keeps_rows)


LONGER = ranges(computed=[days(1, 12)])
READERS = {
    "a view": (unchanged(VIEW, "source"), GONE),
    "a view that keeps its version": (unchanged(VIEW, "source", keeps_rows=True), GONE),
    "a whole table": (unchanged(FULL, "source"), GONE),
    "a whole table that keeps its rows": (unchanged(FULL, "source", keeps_rows=True), LostRows()),
    "a whole table that keeps its rows until a later tick": (
        replace(unchanged(FULL, "source", keeps_rows=True), replaced_at=day(12)),
        LostRows((BEFORE, (day(12), LATEST)), until_later_runs=((day(12), LATEST),), without_time=True),
    ),
    "a whole table that the plan replaces": (replace(unchanged(FULL, "source", keeps_rows=True), replaced_at=0), GONE),
    "a table of the same range": (unchanged(ranges(), "source"), LostRows()),
    "a table of a longer range, which is computed without the rows": (
        unchanged(LONGER, "source"),
        LostRows((days(1, 2), days(10, 12))),
    ),
    "a table whose query does not use its range": (unchanged(KINDS["BY_KEY without its range"], "source"), GONE),
    "a table without an interval": (unchanged(EMPTY_FULL, "source"), LostRows()),
    "a model that the environment does not show": (ChangedModel(["source"], None, VIEW), LostRows()),
    "a model that does not read it": (unchanged(VIEW), LostRows()),
}


@pytest.mark.parametrize("case", READERS)
def test_models_that_show_or_read_lost_rows_lose_them_too(case: str) -> None:
    reader, expected = READERS[case]
    found = lost_rows({"reader": reader, "source": SOURCE})
    assert found["source"].own == GONE
    of_reader = found.get("reader", NO_LOSSES)
    assert (of_reader.own, of_reader.read) == (LostRows(), expected)
    assert of_reader.causes == (("source",) if expected else ())
    assert ("reader" in found) == bool(expected)


EMPTY_UNTIL_12 = ChangedModel((), FULL, EMPTY_FULL, is_computed=False, first_due=day(12))
DAILY = replace(unchanged(ranges(), "source"), computed_until=lambda at: at // DAY * DAY)
READERS_OF_NOTHING = {
    "a table that is computed by the plan, and by the runs before": (DAILY, days(3, 10)),
    "a table that keeps its rows": (replace(DAILY, keeps_rows=True), days(10, 10)),
    "a whole table that keeps its rows": (unchanged(FULL, "source", keeps_rows=True), None),
    "a table of weeks": (replace(DAILY, computed_until=lambda at: min(at, day(10))), days(3, 9)),
}


@pytest.mark.parametrize("case", READERS_OF_NOTHING)
def test_what_runs_compute_from_a_table_that_has_not_ticked_yet_is_lost(case: str) -> None:
    """No run computes it again after the tick."""
    reader, expected = READERS_OF_NOTHING[case]
    view = unchanged(VIEW, "source")
    found = lost_rows({"source": EMPTY_UNTIL_12, "view": view, "reader": replace(reader, reads=["view"])})
    assert found["view"].read == LostRows((ALL_TIME,), until_later_runs=(ALL_TIME,))
    assert found.get("reader", NO_LOSSES).read == (LostRows((expected,)) if expected else LostRows())


def test_a_whole_table_that_is_replaced_while_its_source_is_still_empty_loses_all_rows() -> None:
    reader = unchanged(FULL, "source", keeps_rows=True)
    models = {"source": EMPTY_UNTIL_12, "early": replace(reader, replaced_at=day(11))}
    found = lost_rows({**models, "late": replace(reader, replaced_at=day(12))})
    assert found["early"].read == LostRows((ALL_TIME,), until_later_runs=(ALL_TIME,))
    assert found["late"].read == LostRows(((day(12), LATEST),), until_later_runs=((day(12), LATEST),))


def test_lost_rows_are_followed_through_new_and_embedded_models_and_tables() -> None:
    models = {
        "source": SOURCE,
        "embedded": ChangedModel(["source"], None, VIEW),
        "long": unchanged(LONGER, "embedded"),
        "view": unchanged(VIEW, "long"),
    }
    found = lost_rows(models)
    assert found.keys() == {"source", "long", "view"}
    assert found["view"] == found["long"]
    assert found["view"].read.intervals == (days(1, 2), days(10, 12))


def test_a_model_names_rows_once_and_each_upstream_model_that_loses_rows_by_its_own_change() -> None:
    models = {
        "a": SOURCE,
        "b": ChangedModel((), ranges(), ranges(computed=[days(5, 9)])),
        "both": ChangedModel(["a", "b"], VIEW, ranges(computed=[days(4, 9)])),
        "last": unchanged(VIEW, "both"),
    }
    found = lost_rows(models)
    assert found["both"].own.intervals == ((EARLIEST, day(4)), SINCE)
    assert found["both"].read == LostRows((days(4, 4),))
    assert found["both"].causes == ("a", "b")
    assert found["last"].read.intervals == ((EARLIEST, day(5)), SINCE)
    assert found["last"].causes == ("a", "b", "both")


def test_a_reader_lacks_rows_as_long_as_the_model_that_lacks_them_longest() -> None:
    short = ranges(computed=[days(3, 7)])
    pending = ChangedModel((), ranges(), short, pending=lambda: [days(8, 9)])
    waiting = replace(pending, waiting=[days(8, 8)])
    gone = ChangedModel((), ranges(), ranges(computed=[days(4, 7)]), end=day(8))
    reader = unchanged(VIEW, "pending", "waiting", "gone")
    found = lost_rows({"pending": pending, "waiting": waiting, "gone": gone, "reader": reader})["reader"].read
    assert found.intervals == (days(3, 3), days(8, 9))
    assert subtract(found.intervals, [*found.not_loaded, *found.until_run]) == found.intervals
    models = {"pending": pending, "waiting": waiting, "reader": unchanged(VIEW, "pending", "waiting")}
    assert lost_rows(models)["reader"].read == LostRows(
        (days(8, 9),), not_loaded=(days(8, 8),), until_run=(days(9, 9),)
    )
