"""The intervals that a model can compute while upstream intervals are pending."""

import pytest
from sqlmesh.core.scheduler import interval_diff
from sqlmesh.core.snapshot import DeployabilityIndex, Snapshot
from unit.builders import day
from unit.worker.snapshots import snapshot

from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.intervals import without
from dg_sqlmesh_component.worker.intervals.availability import HeldBackBy
from dg_sqlmesh_component.worker.intervals.held_back import held_back_from
from dg_sqlmesh_component.worker.intervals.known import ExternalTables

DAYS = [(0, 24), (24, 48), (48, 72)]


@pytest.mark.parametrize(
    ("intervals", "blocked", "expected"),
    [
        (DAYS, [], DAYS),
        (DAYS, [(24, 48)], [(0, 24), (48, 72)]),
        (DAYS, [(23, 24)], DAYS[1:]),
        (DAYS, [(0, 1)], DAYS[1:]),
        (DAYS, [(5, 6), (50, 51)], [(24, 48)]),
        (DAYS, [(23, 49)], []),
        (DAYS, [(72, 96)], DAYS),
        ([(0, 1), (23, 24), (24, 25)], [(0, 24)], [(24, 25)]),
        ([], [(0, 24)], []),
    ],
)
def test_interval_is_removed_if_any_part_of_it_is_blocked(
    intervals: list[tuple[int, int]], blocked: list[tuple[int, int]], expected: list[tuple[int, int]]
) -> None:
    assert without(intervals, blocked, uninterrupted=False) == expected


def test_model_that_depends_on_past_keeps_only_intervals_before_the_first_gap() -> None:
    assert without(DAYS, [(24, 25)], uninterrupted=True) == DAYS[:1]
    assert without(DAYS, [], uninterrupted=True) == DAYS


def test_sqlmesh_interval_diff_is_wrong_for_hours_within_days() -> None:
    """If this test fails, SQLMesh's `interval_diff` can replace `without`."""
    assert interval_diff(DAYS, [(23, 24)]) != DAYS[1:]
    assert interval_diff(DAYS, [(5, 6), (50, 51)]) != [(24, 48)]


def test_tables_of_the_manifest_are_believed_only_for_the_same_version_of_a_model() -> None:
    days = snapshot("name t.days, kind FULL", "SELECT * FROM raw.orders, raw.other")
    sources: msg.Sources = {'"raw"."orders"': (), '"raw"."items"': ()}

    def read(*known: msg.TablesRead) -> set[str]:
        reads = dict.fromkeys([days.name], *known) if known else {}
        return set(ExternalTables(sources, reads).awaited_by(days))

    assert read() == {'"raw"."orders"'}
    assert read(msg.TablesRead("another", ())) == {'"raw"."orders"'}
    assert read(msg.TablesRead(days.fingerprint.data_hash, ('"raw"."items"', '"raw"."other"'))) == {'"raw"."items"'}


@pytest.mark.parametrize("through", ["raw.orders", "t.view"])
@pytest.mark.parametrize(
    ("first", "not_loaded", "expected"),
    [
        pytest.param(6, ((day(2), day(3)), (day(9), msg.FOREVER)), [], id="a hole before its start"),
        pytest.param(5, ((day(6), day(7)), (day(9), msg.FOREVER)), [], id="a hole among its intervals"),
        pytest.param(5, ((day(6), msg.FOREVER),), [(day(5), day(6))], id="no hole: the table has nothing after it"),
        pytest.param(5, ((day(8), day(9)), (day(10), msg.FOREVER)), None, id="a hole after its end"),
    ],
)
def test_a_whole_table_waits_until_no_hole_is_before_its_end(
    through: str, first: int, not_loaded: tuple[msg.Interval, ...], expected: list[msg.Interval] | None
) -> None:
    """It reads all rows, also those before its start, and those after the hole."""
    nodes: dict[str, Snapshot] = {}
    for name, kind, table in (("view", "VIEW", "raw.orders"), ("total", "FULL", through)):
        properties = f"name t.{name}, kind {kind}, start '2026-01-04'"
        nodes[f'"t"."{name}"'] = snapshot(properties, f"SELECT n FROM {table}", nodes.values())
    total = nodes['"t"."total"']
    total.add_interval(day(4), day(5))
    tables = ExternalTables({'"raw"."orders"': not_loaded})
    held_back = held_back_from({total: [(day(first), day(7))]}, nodes, DeployabilityIndex.all_deployable(), tables)
    by = HeldBackBy(tables=('"raw"."orders"',), intervals=((0, day(7)),))
    assert held_back == ({} if expected is None else {total.name: (expected, by)})


BY_DAY = "INCREMENTAL_BY_TIME_RANGE (time_column day)"


@pytest.mark.parametrize(
    ("kinds", "computed_until", "waits"),
    [
        ({"rates": "FULL, cron '@yearly'"}, day(1), False),
        ({"rates": f"{BY_DAY}, cron '@yearly'"}, day(1), False),
        ({"mid": "FULL", "rates": "FULL, cron '@yearly'"}, day(1), False),
        ({"rates": f"{BY_DAY}, end '2026-01-02'"}, day(3), False),
        ({"rates": BY_DAY}, day(3), True),
        ({"mid": "FULL", "rates": "FULL"}, day(3), True),
    ],
    ids=["whole", "incremental", "whole over a daily one", "ended", "due", "due over a daily one"],
)
def test_a_model_that_is_up_to_date_by_its_own_cron_holds_nothing_back(
    kinds: dict[str, str], computed_until: int, waits: bool
) -> None:
    """Its source is loaded as far as the model needs it now, and not up to today."""
    nodes: dict[str, Snapshot] = {}
    source = "raw.rates"
    for name, kind in {**kinds, "days": BY_DAY}.items():
        properties = f"name t.{name}, kind {kind}, start '2024-01-01'"
        node = snapshot(properties, f"SELECT day FROM {source}", nodes.values())
        node.add_interval("2024-01-01", computed_until)
        nodes[node.name] = node
        source = f"t.{name}"
    days = nodes['"t"."days"']
    tables = ExternalTables({'"raw"."rates"': ((day(3), msg.FOREVER),)})
    requested = {days: [(day(5), day(6))]}
    held_back = held_back_from(requested, nodes, DeployabilityIndex.all_deployable(), tables, now=day(7))
    assert [name for name, (left, _) in held_back.items() if not left] == ([days.name] if waits else [])
