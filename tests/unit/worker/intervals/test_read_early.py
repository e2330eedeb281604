"""Which intervals of a model are older than the same intervals of a table that it reads, as far as the state tells."""

from collections.abc import Sequence

import pytest

from dg_sqlmesh_component.protocol.intervals import ComputedRange
from dg_sqlmesh_component.protocol.messages import Interval
from dg_sqlmesh_component.worker.intervals.read_early import Reader, Source, read_early


def row(start: int, end: int, at: int, *, is_merged: bool = False) -> ComputedRange:
    return ComputedRange((start, end), at, is_merged, None)


def reader(*rows: ComputedRange, since: int = 0, known: Sequence[Interval] = (), known_at: int = 0) -> Reader:
    computed = [(min(row.interval[0] for row in rows), max(row.interval[1] for row in rows))]
    return Reader(rows, computed, since, known, known_at)


def source(*rows: ComputedRange, others: Sequence[ComputedRange] = (), due_in: int = 0) -> Source:
    """A source with intervals of 1, each due at its end, or later."""
    return Source(
        rows,
        others,
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
        (reader(OLD, row(10, 13, 30), since=45), [source(OLD, row(10, 12, 40), row(12, 13, 50))], [(12, 13)]),
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
    assert list(read_early(reader(*EARLY.rows, since=50, known=known, known_at=30), quiet).intervals) == known
    merged_rows = [row(0, 13, 60, is_merged=True)]
    assert list(read_early(Reader(merged_rows, [(0, 13)], 50, known, 30), quiet).intervals) == known
    rows = [*EARLY.rows, row(11, 12, 60)]
    assert list(read_early(Reader(rows, [(0, 13)], 50, known, 30), quiet).intervals) == [(10, 11), (12, 13)]


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
