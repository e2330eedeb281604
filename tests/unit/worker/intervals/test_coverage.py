"""The intervals that a model lacks, on real snapshots."""

from typing import Any

import pytest
from sqlmesh.core.snapshot import DeployabilityIndex, Snapshot
from unit.worker.snapshots import day, days, snapshot

from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.worker.intervals.coverage import Coverages
from dg_sqlmesh_component.worker.intervals.known import ExternalTables, KnownToDagster

BY_TIME = "INCREMENTAL_BY_TIME_RANGE (time_column ds)"


def coverages(now: int, *nodes: Snapshot, tables: ExternalTables | None = None) -> Coverages:
    known = KnownToDagster(tables or ExternalTables())
    return Coverages({node.name: node for node in nodes}, DeployabilityIndex.all_deployable(), now, known)


def daily(computed: list[tuple[int, int]], *properties: str, kind: str = BY_TIME, reads: str = "") -> Snapshot:
    """Return a model that starts on the first of March, and has computed these first and last days."""
    header = ", ".join([f"name t.days, kind {kind}, start '2026-03-01'", *properties])
    return snapshot(header, f"SELECT 1 AS id, '2026-03-01' AS ds {reads}", computed=[days(*of) for of in computed])


def coverage(node: Snapshot, now: int, **in_this_run: tuple[msg.Interval, ...]) -> msg.IntervalCoverage | None:
    return coverages(now, node).of(node.name, **in_this_run)


def expected(computed: msg.Interval | None, *facts: Any, **more: Any) -> msg.IntervalCoverage:
    return msg.IntervalCoverage('"t"."days"', computed, *facts, **more)


LOOKBACK = "INCREMENTAL_BY_TIME_RANGE (time_column ds, lookback 3)"
WEEKLY = ("cron '@weekly'", "interval_unit 'day'")
PARTIALS = ("cron '@hourly'", "interval_unit 'day'", "allow_partials true")


@pytest.mark.parametrize(
    ("node", "now", "found"),
    [
        pytest.param(
            daily([(1, 2), (5, 6)]),
            day(9, 3),
            expected(days(1, 6), (days(3, 4), days(7, 8)), 2, 4, day(4), lacking=day(5) - day(3)),
            id="a hole and a missing tail are gaps since the tick at which the oldest was due",
        ),
        pytest.param(
            daily([]),
            day(4),
            expected(None, (days(1, 3),), 1, 3, day(2)),
            id="a model that was never computed lacks everything since its start",
        ),
        pytest.param(
            daily([(1, 7)], *WEEKLY), day(14, 23), expected(days(1, 7)), id="nothing before the cron has ticked"
        ),
        pytest.param(
            daily([(1, 7)], *WEEKLY),
            day(15),
            expected(days(1, 7), (days(8, 14),), 1, 7, day(15)),
            id="everything when the cron has ticked",
        ),
        pytest.param(
            daily([(1, 7)], kind=LOOKBACK),
            day(9),
            expected(days(1, 7), (days(8, 8),), 1, 1, day(9)),
            id="not what a lookback computes again",
        ),
        pytest.param(
            daily([(1, 7)], *PARTIALS), day(8, 11), expected(days(1, 7)), id="not what is not over, with allow_partials"
        ),
        pytest.param(
            daily([(1, 4)], "end '2026-03-04'"), day(20), expected(days(1, 4)), id="nothing after the end of the model"
        ),
        pytest.param(daily([], kind="FULL"), day(4), None, id="no coverage of a kind that always computes everything"),
        pytest.param(daily([], kind="VIEW"), day(4), None, id="no coverage of a view"),
    ],
)
def test_a_model_lacks_what_is_due_and_not_computed(
    node: Snapshot, now: int, found: msg.IntervalCoverage | None
) -> None:
    assert coverage(node, now) == found


def test_interval_that_lookback_has_begun_to_compute_again_is_missing_until_it_is_done() -> None:
    node = daily([(1, 7)], kind=LOOKBACK)
    assert coverage(node, day(9), done=(days(6, 8),), forgotten=(days(5, 7),)) == expected(
        days(1, 8), (days(5, 5),), 1, 1, day(6), lacking=day(2) - day(1)
    )


def test_part_of_an_interval_that_this_run_has_computed_does_not_fill_it() -> None:
    found = coverage(daily([(1, 7)], *PARTIALS), day(9, 11), done=((day(8), day(8, 10)),))
    assert found == expected((day(1), day(8, 10)), (days(8, 8),), 1, 1, day(9))


def test_interval_that_was_computed_early_and_then_forgotten_is_missing_before_its_cron_ticks() -> None:
    node = daily([(1, 8), (10, 10)], *WEEKLY, kind="INCREMENTAL_BY_TIME_RANGE (time_column ds, lookback 2)")
    node.pending_restatement_intervals = [days(9, 9)]
    assert coverage(node, day(12)) == expected(days(1, 10), (days(9, 9),), 1, 1, day(10), lacking=day(2) - day(1))


def test_days_that_sqlmesh_will_restate_automatically_are_missing_as_far_as_they_are_due() -> None:
    node = daily([(1, 3)])
    node.pending_restatement_intervals = [days(2, 8)]
    assert coverage(node, day(4)) == expected(days(1, 1), (days(2, 3),), 1, 2, day(3))


@pytest.mark.parametrize(("cron", "computed_until", "now", "gaps_until"), [("@daily", 3, 5, 3), ("@weekly", 8, 11, 11)])
def test_day_for_which_an_upstream_model_is_up_to_date_does_not_wait_for_its_source(
    cron: str, computed_until: int, now: int, gaps_until: int
) -> None:
    """A run computes it, so it is a gap until then."""
    above = daily([(1, computed_until - 1)], f"cron '{cron}'", reads="FROM raw.orders")
    below = snapshot(f"name t.below, kind {BY_TIME}, start '2026-03-01'", "SELECT ds FROM t.days", [above])
    tables = ExternalTables({'"raw"."orders"': ((day(2), msg.FOREVER),)})
    found = coverages(day(now), above, below, tables=tables).of(below.name)
    assert found is not None
    waiting = ((day(gaps_until), day(now)),) if gaps_until < now else ()
    assert (found.gaps, found.waiting) == (((day(1), day(gaps_until)),), waiting)


def test_days_after_one_that_is_not_loaded_wait_too_if_a_model_is_built_from_its_first_day_on() -> None:
    """A run holds them back, so they are no gap."""
    node = daily([], kind="INCREMENTAL_BY_UNIQUE_KEY (unique_key ds)", reads="FROM raw.orders")
    tables = ExternalTables({'"raw"."orders"': (days(2, 2), (day(8), msg.FOREVER))})
    found = coverages(day(6), node, tables=tables).of(node.name)
    assert found is not None
    assert (found.gaps, found.waiting) == ((days(1, 1),), (days(2, 5),))


def test_days_that_a_lookback_would_compute_again_are_pending_and_not_missing() -> None:
    """A preview is not refused for them, and an audit is not of older data because of them."""
    node = daily([(1, 4)], kind="INCREMENTAL_BY_TIME_RANGE (time_column ds, lookback 2)")
    found = coverages(day(6), node)
    assert found.pending[node.name] == (days(3, 3), days(4, 4), days(5, 5))
    assert found.missing(node.name) == ([days(5, 5)], [])
