"""The intervals that a model lacks, on real snapshots."""

import pytest
from sqlglot import parse
from sqlmesh.core.model import load_sql_based_model
from sqlmesh.core.snapshot import DeployabilityIndex, Snapshot
from sqlmesh.utils.date import to_timestamp

from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.worker.intervals.coverage import Coverages
from dg_sqlmesh_component.worker.intervals.known import ExternalTables, KnownToDagster


def day(number: int, hour: int = 0) -> int:
    """Return an hour of the n-th of March 2026, a month that begins on a Sunday, in epoch milliseconds."""
    return int(to_timestamp(f"2026-03-{number:02d} {hour:02d}:00:00"))


def coverage(
    computed: list[tuple[int, int]],
    now: int,
    *properties: str,
    kind: str = "INCREMENTAL_BY_TIME_RANGE (time_column ds)",
    done: tuple[msg.Interval, ...] = (),
    forgotten: tuple[msg.Interval, ...] = (),
    restated_by_sqlmesh: tuple[msg.Interval, ...] = (),
) -> msg.IntervalCoverage | None:
    """Return the coverage of a model that starts on the first of March.

    Args:
        computed: First and last day of each computed range.
    """
    text = f"MODEL (name t.days, kind {kind}, start '2026-03-01', {', '.join(['dialect duckdb', *properties])});"
    parsed = parse(f"{text} SELECT 1 AS id, '2026-03-01' AS ds", dialect="duckdb")
    snapshot = Snapshot.from_node(load_sql_based_model(parsed), nodes={})
    for first, last in computed:
        snapshot.add_interval(day(first), day(last + 1))
    snapshot.pending_restatement_intervals = list(restated_by_sqlmesh)
    index = DeployabilityIndex.all_deployable()
    known = KnownToDagster(ExternalTables())
    return Coverages({snapshot.name: snapshot}, index, now, known).of(snapshot.name, done, forgotten)


FQN = '"t"."days"'


def test_hole_and_missing_tail_are_gaps_with_the_tick_at_which_the_oldest_was_due() -> None:
    assert coverage([(1, 2), (5, 6)], day(9, 3)) == msg.IntervalCoverage(
        FQN, (day(1), day(7)), ((day(3), day(5)), (day(7), day(9))), 2, 4, day(4), lacking=day(5) - day(3)
    )


def test_intervals_that_this_run_has_computed_are_no_gap() -> None:
    done = ((day(3), day(5)), (day(7), day(9)))
    assert coverage([(1, 2), (5, 6)], day(9, 3), done=done) == msg.IntervalCoverage(FQN, (day(1), day(9)))


def test_model_that_was_never_computed_lacks_everything_since_its_start() -> None:
    assert coverage([], day(4)) == msg.IntervalCoverage(FQN, None, ((day(1), day(4)),), 1, 3, day(2))


def test_interval_is_not_missing_before_its_cron_has_ticked() -> None:
    weekly = "cron '@weekly'"  # Sundays: 1, 8, 15
    unit = "interval_unit 'day'"
    assert coverage([(1, 7)], day(14, 23), weekly, unit) == msg.IntervalCoverage(FQN, (day(1), day(8)))
    assert coverage([(1, 7)], day(15), weekly, unit) == msg.IntervalCoverage(
        FQN, (day(1), day(8)), ((day(8), day(15)),), 1, 7, day(15)
    )


def test_interval_that_lookback_computes_again_is_not_missing() -> None:
    kind = "INCREMENTAL_BY_TIME_RANGE (time_column ds, lookback 3)"
    assert coverage([(1, 7)], day(9), kind=kind) == msg.IntervalCoverage(
        FQN, (day(1), day(8)), ((day(8), day(9)),), 1, 1, day(9)
    )


def test_interval_that_lookback_has_begun_to_compute_again_is_missing_until_it_is_done() -> None:
    kind = "INCREMENTAL_BY_TIME_RANGE (time_column ds, lookback 3)"
    forgotten = ((day(5), day(8)),)
    assert coverage([(1, 7)], day(9), kind=kind, done=((day(6), day(9)),), forgotten=forgotten) == msg.IntervalCoverage(
        FQN, (day(1), day(9)), ((day(5), day(6)),), 1, 1, day(6), lacking=day(2) - day(1)
    )


def test_interval_that_was_computed_early_and_then_forgotten_is_missing_before_its_cron_ticks() -> None:
    kind = "INCREMENTAL_BY_TIME_RANGE (time_column ds, lookback 2)"
    weekly = ("cron '@weekly'", "interval_unit 'day'")  # ticks on the 8th and on the 15th
    expected = msg.IntervalCoverage(
        FQN, (day(1), day(11)), ((day(9), day(10)),), 1, 1, day(10), lacking=day(2) - day(1)
    )
    forgotten = ((day(9), day(10)),)
    in_state = coverage([(1, 8), (10, 10)], day(12), *weekly, kind=kind, restated_by_sqlmesh=forgotten)
    assert in_state == expected


def test_interval_that_is_not_over_is_not_missing_with_allow_partials() -> None:
    partials = ("cron '@hourly'", "interval_unit 'day'", "allow_partials true")
    assert coverage([(1, 7)], day(8, 11), *partials) == msg.IntervalCoverage(FQN, (day(1), day(8)))
    with_part = coverage([(1, 7)], day(9, 11), *partials, done=((day(8), day(8, 10)),))
    assert with_part == msg.IntervalCoverage(FQN, (day(1), day(8, 10)), ((day(8), day(9)),), 1, 1, day(9))


def test_intervals_after_the_end_of_the_model_are_not_missing() -> None:
    assert coverage([(1, 4)], day(20), "end '2026-03-04'") == msg.IntervalCoverage(FQN, (day(1), day(5)))


@pytest.mark.parametrize("kind", ["FULL", "VIEW"])
def test_kind_that_always_computes_everything_has_no_coverage(kind: str) -> None:
    assert coverage([], day(4), kind=kind) is None


def test_days_that_sqlmesh_will_restate_automatically_are_missing_as_far_as_they_are_due() -> None:
    automatic = coverage([(1, 3)], day(4), restated_by_sqlmesh=((day(2), day(9)),))
    assert automatic == msg.IntervalCoverage(FQN, (day(1), day(2)), ((day(2), day(4)),), 1, 2, day(3))


@pytest.mark.parametrize(("cron", "computed_until", "now", "gaps_until"), [("@daily", 3, 5, 3), ("@weekly", 8, 11, 11)])
def test_day_for_which_an_upstream_model_is_up_to_date_does_not_wait_for_its_source(
    cron: str, computed_until: int, now: int, gaps_until: int
) -> None:
    """A run computes it, so it is a gap until then."""
    header = "MODEL (name t.{}, kind INCREMENTAL_BY_TIME_RANGE (time_column ds), start '2026-03-01', cron '{}');"
    nodes: dict[str, Snapshot] = {}
    for name, its_cron, table in (("days", cron, "raw.orders"), ("behind", "@daily", "t.days")):
        parsed = parse(f"{header.format(name, its_cron)} SELECT ds FROM {table}", dialect="duckdb")
        snapshot = Snapshot.from_node(load_sql_based_model(parsed), nodes={of.name: of.node for of in nodes.values()})
        nodes[snapshot.name] = snapshot
    nodes['"t"."days"'].add_interval(day(1), day(computed_until))
    tables = ExternalTables({'"raw"."orders"': ((day(2), msg.FOREVER),)})
    coverages = Coverages(nodes, DeployabilityIndex.all_deployable(), day(now), KnownToDagster(tables))
    found = coverages.of('"t"."behind"')
    assert found is not None
    waiting = ((day(gaps_until), day(now)),) if gaps_until < now else ()
    assert (found.gaps, found.waiting) == (((day(1), day(gaps_until)),), waiting)


def test_days_after_one_that_is_not_loaded_wait_too_if_a_model_is_built_from_its_first_day_on() -> None:
    """A run holds them back, so they are no gap."""
    header = "name t.days, kind INCREMENTAL_BY_UNIQUE_KEY (unique_key ds), start '2026-03-01', dialect duckdb"
    parsed = parse(f"MODEL ({header}); SELECT ds FROM raw.orders", dialect="duckdb")
    snapshot = Snapshot.from_node(load_sql_based_model(parsed), nodes={})
    tables = ExternalTables({'"raw"."orders"': ((day(2), day(3)), (day(8), msg.FOREVER))})
    found = Coverages(
        {snapshot.name: snapshot}, DeployabilityIndex.all_deployable(), day(6), KnownToDagster(tables)
    ).of(snapshot.name)
    assert found is not None
    assert (found.gaps, found.waiting) == (((day(1), day(2)),), ((day(2), day(6)),))


def test_days_that_a_lookback_would_compute_again_are_not_missing() -> None:
    """A preview is not refused for them, and an audit is not of older data because of them."""
    kind = "kind INCREMENTAL_BY_TIME_RANGE (time_column ds, lookback 2)"
    parsed = parse(f"MODEL (name t.days, {kind}, start '2026-03-01', dialect duckdb); SELECT 1 AS ds", dialect="duckdb")
    snapshot = Snapshot.from_node(load_sql_based_model(parsed), nodes={})
    snapshot.add_interval(day(1), day(5))
    known = KnownToDagster(ExternalTables())
    coverages = Coverages({snapshot.name: snapshot}, DeployabilityIndex.all_deployable(), day(6), known)
    assert coverages.pending[snapshot.name] == ((day(3), day(4)), (day(4), day(5)), (day(5), day(6)))
    assert coverages.missing(snapshot.name) == ([(day(5), day(6))], [])
