"""Which intervals a model computes after it has forgotten some, on real snapshots."""

from functools import partial

import pytest
from sqlmesh.core.scheduler import merged_missing_intervals
from sqlmesh.core.snapshot import Snapshot
from unit.worker import snapshots
from unit.worker.snapshots import day

from dg_sqlmesh_component.worker.intervals import tables
from dg_sqlmesh_component.worker.intervals.tables import missing_now, missing_with_forgotten, restate_automatically

KIND = "INCREMENTAL_BY_TIME_RANGE (time_column ds, lookback 2)"
Days = list[tuple[int, int]]


def ranges(days: Days) -> list[tuple[int, int]]:
    """The ranges with these first and last days."""
    return [snapshots.days(*of) for of in days]


def daily_model(computed: Days, *properties: str, kind: str = KIND) -> Snapshot:
    header = ", ".join([f"name t.days, kind {kind}, start '2026-03-01'", *properties])
    return snapshots.snapshot(header, "SELECT 1 AS ds", computed=ranges(computed))


@pytest.mark.parametrize(
    ("computed", "forgotten", "now", "expected"),
    [
        ([(1, 9)], [], 11, [(8, 10)]),
        ([(1, 7)], [(8, 9)], 11, [(8, 10)]),  # no earlier day, however often it fails
        ([(1, 7), (9, 9)], [(8, 8)], 11, [(8, 10)]),
        ([(1, 4), (6, 9)], [(5, 5)], 11, [(5, 5), (8, 10)]),
        ([(1, 4), (6, 9)], [(5, 5)], 10, [(5, 5)]),  # nothing else is missing
        ([(1, 7)], [(8, 9)], 13, [(8, 12)]),
        ([(1, 3), (8, 9)], [(6, 7)], 11, [(2, 10)]),  # days 4 and 5 were never computed
    ],
)
def test_forgotten_days_have_no_own_lookback(computed: Days, forgotten: Days, now: int, expected: Days) -> None:
    snapshot = daily_model(computed)
    before = list(snapshot.intervals)
    find_missing = partial(merged_missing_intervals, [snapshot], execution_time=day(now), end=day(now))
    found = missing_with_forgotten(find_missing, {snapshot: ranges(forgotten)} if forgotten else {})
    assert found == {snapshot: ranges(expected)}
    assert snapshot.intervals == before


@pytest.mark.parametrize(
    ("computed", "forgotten", "now", "expected"),
    [
        ([(1, 8), (10, 10)], [(9, 9)], 12, [(9, 9)]),  # not day 11, whose cron has not ticked either
        ([(1, 8)], [(9, 10)], 12, [(9, 10)]),
        ([(1, 8), (10, 10)], [(9, 9)], 15, [(9, 14)]),  # the cron has ticked
    ],
)
def test_forgotten_days_are_computed_before_a_tick(computed: Days, forgotten: Days, now: int, expected: Days) -> None:
    """A run with `ignore_cron` has computed them early. The cron ticks on the 8th and on the 15th."""
    snapshot = daily_model(computed, "cron '@weekly'", "interval_unit 'day'")
    find_missing = partial(merged_missing_intervals, [snapshot], execution_time=day(now), end=day(now))
    assert missing_with_forgotten(find_missing, {snapshot: ranges(forgotten)}) == {snapshot: ranges(expected)}


def test_a_plan_finds_forgotten_days_before_their_cron_ticks_as_a_run_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "now_timestamp", lambda: day(12))
    snapshot = daily_model([(1, 8), (10, 10)], "cron '@weekly'", "interval_unit 'day'")
    assert missing_now({"t.days": snapshot}) == {}
    snapshot.pending_restatement_intervals = ranges([(9, 9)])
    assert missing_now({"t.days": snapshot}) == {snapshot.name: tuple(ranges([(9, 9)]))}


def test_an_automatic_restatement_marks_only_what_was_computed() -> None:
    """SQLMesh marks everything before now, also what the cron has not reached. The next run would compute it."""
    snapshot = daily_model(
        [(1, 9)], kind=KIND.replace("lookback 2", "auto_restatement_cron '@daily', auto_restatement_intervals 4")
    )
    snapshot.next_auto_restatement_ts = day(1)
    assert restate_automatically({snapshot.snapshot_id: snapshot}, day(12)) == {snapshot: tuple(ranges([(8, 9)]))}
    assert snapshot.pending_restatement_intervals == ranges([(8, 9)])
    assert snapshot.intervals == ranges([(1, 7)])
