"""Which intervals of a node are missing and which wait, by days: (1, 3) are the first and the second day."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from dg_sqlmesh_component.protocol.messages import MAX_GAPS, Interval, IntervalCoverage
from dg_sqlmesh_component.worker.intervals.missing import Expected, coverage, missing, uncovered

DAYS = [(day, day + 1) for day in range(1, 9)]
NONE = frozenset[Interval]()


@pytest.mark.parametrize(
    ("covered", "expected"),
    [([], DAYS), ([(1, 9)], []), ([(1, 4), (5, 9)], [(4, 5)]), ([(-3, 2), (4, 12)], [(2, 3), (3, 4)])],
)
def test_interval_that_is_in_no_range_as_a_whole_is_uncovered(
    covered: Sequence[Interval], expected: Sequence[Interval]
) -> None:
    assert uncovered(DAYS, covered) == expected


def test_part_of_an_interval_does_not_cover_it() -> None:
    assert uncovered([(0, 24), (24, 48)], [(0, 47)]) == [(24, 48)]


def node(first: int, *, until: int = 9, waits_for: Sequence[Interval] = (), **known: Any) -> Expected:
    """Return a node that lacks the days from the first one on and has computed those before, unless `known` has more.

    A tick is due three hours after the end of a day, if a day has ten hours.
    """
    pending = [day for day in DAYS if day[0] >= first]
    found = Expected(until, pending, lambda: frozenset(waits_for), lambda end: end + 3, computed=[(1, first)])
    unready = frozenset(known.pop("unready", ()))
    return replace(found, unready=unready, **known)


@pytest.mark.parametrize(
    ("known", "lacks", "waits"),
    [
        (node(9), [], []),
        (node(6), [(6, 7), (7, 8), (8, 9)], []),
        (node(6, until=8), [(6, 7), (7, 8)], []),
        (node(6, until=7, forgotten=[(7, 8)]), [(6, 7), (7, 8)], []),
        (node(6, waits_for=[(8, 9)]), [(6, 7), (7, 8)], [(8, 9)]),
        (node(6, unready=[(6, 7)]), [(7, 8), (8, 9)], [(6, 7)]),
        (node(6, unready=[(6, 7)], waits_for=[(8, 9)]), [(7, 8)], [(6, 7), (8, 9)]),
        (node(6, until=8, waits_for=[(8, 9)]), [(6, 7), (7, 8)], []),
        (node(6, unready=[(6, 7)], waits_for=[(7, 8)], forgotten=[(6, 8)]), [(6, 7), (7, 8), (8, 9)], []),
        (node(4, computed=[(1, 4), (5, 8)]), [(4, 5), (8, 9)], []),
        (node(6, computed=[(1, 9)], copied=[(6, 9)]), [], []),
    ],
    ids=[
        "everything is computed",
        "what is not computed is missing",
        "not before its cron has ticked",
        "what was computed and forgotten is missing before the tick",
        "what a table lacks waits",
        "what a signal holds back waits",
        "some wait for a signal, others for a table",
        "what is not due does not wait either",
        "what was computed and forgotten is missing, whatever it waits for",
        "what a lookback would compute again is not missing",
        "what SQLMesh has copied is not missing",
    ],
)
def test_due_intervals_are_missing_unless_they_were_never_computed_and_wait(
    known: Expected, lacks: Sequence[Interval], waits: Sequence[Interval]
) -> None:
    assert missing(known) == (lacks, waits)


def test_tables_are_not_asked_about_a_node_that_lacks_nothing_new() -> None:
    def ask() -> frozenset[Interval]:
        raise AssertionError

    assert missing(replace(node(6, forgotten=[(6, 9)]), waits_for_tables=ask)) == ([(6, 7), (7, 8), (8, 9)], [])


def test_copied_intervals_are_filled_as_soon_as_they_are_computed() -> None:
    copied = node(4, computed=[(1, 9)], copied=[(4, 9)])
    assert copied.filled == ((1, 4),)
    assert copied.after([(4, 6)], []).filled == ((1, 6),)


def test_forgotten_intervals_lack_their_rows_until_they_are_computed_again() -> None:
    begun = node(6, until=6).after([], [(2, 5)])
    assert begun.filled == ((1, 2), (5, 6))
    assert missing(replace(begun, pending=DAYS)) == ([(2, 3), (3, 4), (4, 5)], [])
    assert missing(replace(begun.after([(2, 4)], []), pending=DAYS)) == ([(4, 5)], [])


def test_coverage_has_what_is_computed_and_what_is_missing_since_the_first_tick() -> None:
    known = node(4, computed=[(1, 4), (5, 8)], waits_for=[(8, 9)], late=[(2, 3), (8, 9)])
    assert coverage("a", known, now=9) == IntervalCoverage(
        "a", (1, 8), ((4, 5),), 1, 1, missing_since=8, waiting=((8, 9),), late=((2, 3),), lacking=1
    )
    assert coverage("a", known.after([(2, 3)], []), now=9).late == ()


def test_interval_is_missing_since_its_end_if_its_tick_is_in_the_future() -> None:
    assert coverage("a", node(8, forgotten=[(8, 9)]), now=10).missing_since == 9


def test_gaps_beyond_the_limit_are_counted() -> None:
    hours = [(hour, hour + 1) for hour in range(0, 100, 2)]
    found = coverage("a", replace(node(1, until=100), pending=hours, computed=()), now=100)
    assert (found.gaps, found.gap_count, found.missing_intervals) == (tuple(hours[:MAX_GAPS]), 50, 50)


def test_node_without_computed_intervals_has_no_computed_range() -> None:
    assert coverage("a", replace(node(1, until=1), computed=()), now=2) == IntervalCoverage("a", None)
