"""Which intervals of a model are older than the same intervals of a table that it reads, as far as the state tells."""

from collections.abc import Sequence

import pytest

from dg_sqlmesh_component.protocol.intervals import ComputedRange
from dg_sqlmesh_component.protocol.messages import Interval
from dg_sqlmesh_component.worker.intervals.read_early import Reader, Source, read_early, shown_by


def row(start: int, end: int, at: int, *, is_merged: bool = False) -> ComputedRange:
    return ComputedRange((start, end), at, is_merged, None)


def reader(*rows: ComputedRange, known: Sequence[Interval] = (), known_at: int = 0) -> Reader:
    computed = [(min(row.interval[0] for row in rows), max(row.interval[1] for row in rows))]
    return Reader(rows, computed, known, known_at)


def source(*rows: ComputedRange, others: Sequence[ComputedRange] = (), due_in: int = 0, compared_at: int = 0) -> Source:
    """A source with intervals of 1, each due at its end, or later."""
    return Source(
        [of for of in rows if of.at > compared_at],
        lambda: [of for of in rows if of.at <= compared_at],
        lambda: others,
        lambda ranges: [(number, number + 1) for start, end in ranges for number in range(start, end)],
        lambda end: end + due_in,
    )


OLD = row(0, 10, 20)
"""What both have computed at first, each in its own table."""
EARLY = reader(OLD, row(10, 13, 30))


@pytest.mark.parametrize(
    ("of", "tables", "expected"),
    [
        (EARLY, [source(OLD)], []),
        (EARLY, [source(OLD, row(10, 12, 40))], [(10, 12)]),
        (EARLY, [source(OLD, row(10, 12, 29))], []),
        (EARLY, [source(OLD, row(10, 20, 40))], [(10, 13)]),
        (EARLY, [source(OLD, row(10, 11, 40)), source(OLD, row(12, 13, 50))], [(10, 11), (12, 13)]),
        (EARLY, [source(OLD, row(8, 12, 40))], [(10, 12)]),
        (EARLY, [source(OLD, row(2, 4, 40))], []),
        (EARLY, [source(OLD, row(10, 12, 25), row(10, 12, 40))], []),
        (reader(OLD, row(10, 13, 30), row(10, 11, 50)), [source(OLD, row(10, 12, 40))], [(11, 12)]),
        (reader(OLD, row(10, 13, 30), row(10, 11, 50)), [source(OLD, row(10, 12, 60))], [(10, 12)]),
        (EARLY, [source(OLD, row(0, 13, 40, is_merged=True))], []),
        (reader(row(0, 13, 30, is_merged=True)), [source(OLD, row(10, 12, 40))], [(10, 12)]),
        (EARLY, [source(OLD, row(10, 12, 40), row(12, 13, 50), compared_at=45)], [(12, 13)]),
        (EARLY, [source(OLD, row(10, 12, 40), row(10, 13, 50), compared_at=45)], [(12, 13)]),
        (EARLY, [source(row(0, 12, 40), others=[OLD])], [(10, 12)]),
        (EARLY, [source(row(0, 12, 40))], []),
        (EARLY, [source(OLD, row(10, 12, 40), due_in=19)], [(10, 11)]),
        (EARLY, [source(OLD, row(10, 12, 40), due_in=20)], []),
        (Reader(EARLY.rows, [(0, 11)]), [source(OLD, row(10, 12, 40))], [(10, 11)]),
    ],
    ids=[
        "the source has nothing new",
        "the source gets two intervals later",
        "the source had them before",
        "only what the model has computed",
        "two sources",
        "a batch that computes others again",
        "a restatement or lookback of the source alone",
        "the source had them once, and computes them again",
        "the model has computed one of them again",
        "the model has computed one again, before the source",
        "the janitor has merged the source",
        "the janitor has merged the model",
        "compared before: what is known is remembered elsewhere",
        "computed again after it was compared",
        "a new version of the source has more than the old one",
        "a new version, and the old one is forgotten",
        "one of them was not due when the model was computed",
        "none of them was due",
        "the model has forgotten one of them",
    ],
)
def test_an_interval_is_computed_too_early_if_a_source_gets_it_later(
    of: Reader, tables: list[Source], expected: list[Interval]
) -> None:
    assert list(read_early(of, tables).intervals) == expected


def test_known_intervals_stay_until_they_are_computed_again_also_after_a_merge() -> None:
    known, quiet = [(10, 13)], [source(row(0, 13, 40, is_merged=True))]
    assert list(read_early(reader(*EARLY.rows, known=known, known_at=30), quiet).intervals) == known
    merged_rows = [row(0, 13, 60, is_merged=True)]
    assert list(read_early(Reader(merged_rows, [(0, 13)], known, 30), quiet).intervals) == known
    rows = [*EARLY.rows, row(11, 12, 60)]
    assert list(read_early(Reader(rows, [(0, 13)], known, 30), quiet).intervals) == [(10, 11), (12, 13)]


def test_a_model_that_reads_all_rows_has_read_what_its_source_had_at_any_later_computation() -> None:
    tables = [source(OLD, row(10, 12, 40))]
    later = Reader([*EARLY.rows, row(13, 14, 50)], [(0, 14)], [(2, 3)], known_at=45)
    assert list(read_early(later, tables).intervals) == [(2, 3), (10, 12)]
    assert list(read_early(later.of_all_rows, tables).intervals) == []
    assert list(read_early(EARLY.of_all_rows, tables).intervals) == [(10, 12)]


@pytest.mark.parametrize(
    ("tables", "may_hide"),
    [
        ([source(OLD)], False),
        ([source(OLD, row(10, 12, 40))], False),
        ([source(OLD, row(0, 13, 40, is_merged=True))], True),
        ([source(OLD, row(2, 4, 40))], True),
        ([source(OLD, row(15, 20, 40))], False),
        ([source(OLD, row(10, 13, 25))], False),
    ],
    ids=[
        "nothing new",
        "a gain",
        "merged",
        "computed again",
        "nothing that the model has computed",
        "before the model",
    ],
)
def test_ranges_that_tell_nothing_may_hide_what_was_known(tables: list[Source], may_hide: bool) -> None:
    assert read_early(EARLY, tables).may_hide is may_hide


def whole(*computed_at: int, merged_until: int = 0) -> list[ComputedRange]:
    """A table that is computed as a whole at these times."""
    return [row(0, 10, at, is_merged=at <= merged_until) for at in computed_at]


@pytest.mark.parametrize(
    ("between", "expected", "may_hide"),
    [
        (whole(20, 41), [(10, 12)], False),
        (whole(20, 41, 99), [(10, 12)], False),
        (whole(20, 28), [], False),
        (whole(20), [], False),
        (whole(41), [], True),
        (whole(20, 41, merged_until=41), [], True),
        (whole(10, 20, 41, merged_until=20), [(10, 12)], False),
        ([], [], False),
    ],
    ids=[
        "it is computed after the source, and after the model",
        "and once more",
        "it is not computed after the source",
        "the same, before the model",
        "nobody knows what an older version of it has read",
        "the janitor has merged its times",
        "the janitor has merged its older times",
        "it is never computed",
    ],
)
def test_a_table_that_is_computed_as_a_whole_has_a_range_from_its_next_computation_on(
    between: list[ComputedRange], expected: list[Interval], may_hide: bool
) -> None:
    of = shown_by(between, source(OLD, row(10, 12, 29)), lambda end: end)
    found = read_early(EARLY, [of])
    assert list(found.intervals) == expected
    assert found.may_hide is may_hide


def test_an_interval_does_not_count_before_the_tick_of_a_table_that_is_computed_as_a_whole() -> None:
    of = shown_by(whole(20, 41), source(OLD, row(10, 12, 29)), lambda end: -(-end // 20) * 20)
    assert list(read_early(EARLY, [of]).intervals) == [(10, 12)]
    of = shown_by(whole(20, 41), source(OLD, row(10, 12, 29)), lambda end: -(-end // 40) * 40)
    assert list(read_early(EARLY, [of]).intervals) == []


def test_a_table_has_a_range_of_a_source_that_it_reads_twice_from_the_first_time_on() -> None:
    first, second = (shown_by(whole(20, at), source(OLD, row(10, 12, 29)), lambda end: end) for at in (29, 41))
    assert list(read_early(EARLY, [second]).intervals) == [(10, 12)]
    assert list(read_early(EARLY, [second.together(first)]).intervals) == []
