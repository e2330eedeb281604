"""What the random models of test_missing_by_hours do not have, as parts of intervals and many gaps."""

from dataclasses import replace

from dg_sqlmesh_component.protocol.messages import MAX_GAPS, Interval
from dg_sqlmesh_component.worker.intervals.missing import Expected, coverage, missing, uncovered


def test_part_of_an_interval_does_not_cover_it() -> None:
    assert uncovered([(0, 24), (24, 48)], [(0, 47)]) == [(24, 48)]


def test_tables_are_not_asked_about_a_node_that_lacks_nothing_new() -> None:
    def ask() -> frozenset[Interval]:
        raise AssertionError

    node = Expected(9, [(6, 7), (7, 8)], ask, lambda end: end, computed=[(1, 6)], forgotten=[(6, 9)])
    assert missing(node) == ([(6, 7), (7, 8)], [])


def test_late_intervals_whose_rows_are_gone_are_not_late() -> None:
    node = Expected(9, [], frozenset, lambda end: end, computed=[(1, 4)], late=[(2, 3), (8, 9)])
    assert coverage("a", node, now=9).late == ((2, 3),)


def test_only_a_model_without_start_skips_what_lies_between_or_was_forgotten_before_its_newest_interval() -> None:
    node = Expected(
        9, [], frozenset, lambda end: end, [(2, 3), (5, 6), (8, 9)], forgotten=[(1, 2)], starts_at=lambda: 7
    )
    assert coverage("a", node, now=9).skipped == ()
    assert coverage("a", replace(node, has_start=lambda: False), now=9).skipped == ((1, 2), (3, 5), (6, 7))


def test_late_and_outdated_intervals_before_the_start_are_told_apart() -> None:
    node = Expected(9, [], frozenset, lambda end: end, [(1, 9)], late=[(2, 5)], outdated=[(3, 8)], starts_at=lambda: 4)
    assert coverage("a", node, now=9).before_start == ((2, 4),)


def test_a_model_that_reads_all_rows_is_not_outdated_after_any_computation() -> None:
    """What it lacks because a model upstream lacks it is not brought by that."""
    node = Expected(
        9, [], frozenset, lambda end: end, computed=[(1, 8)], outdated=[(2, 5)], outdated_until_computed=[(2, 4)]
    )
    assert list(node.after([(8, 9)], []).outdated) == [(4, 5)]
    assert list(node.after([], [(7, 8)]).outdated) == [(2, 5)]


def test_gaps_beyond_the_limit_are_counted() -> None:
    hours = [(hour, hour + 1) for hour in range(0, 100, 2)]
    found = coverage("a", Expected(100, hours, frozenset, lambda end: end), now=100)
    assert (found.gaps, found.gap_count, found.missing_intervals) == (tuple(hours[:MAX_GAPS]), 50, 50)
