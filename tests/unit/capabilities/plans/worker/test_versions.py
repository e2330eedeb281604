"""Which intervals of new versions are computed again because of what runs have done."""

from collections.abc import Mapping, Sequence

import pytest
from sqlmesh.core.snapshot import DeployabilityIndex, Snapshot
from unit.worker.snapshots import days, snapshot

from dg_sqlmesh_component.capabilities.plans.worker.corrections import corrected
from dg_sqlmesh_component.capabilities.plans.worker.versions import Versions, find_outdated, tables_of
from dg_sqlmesh_component.protocol.intervals import ComputedRange
from dg_sqlmesh_component.protocol.messages import Interval
from dg_sqlmesh_component.worker.intervals.outdated import Table

DAILY = "kind INCREMENTAL_BY_TIME_RANGE (time_column day), start '2026-03-01'"
INDEX = DeployabilityIndex.all_deployable()
NOON, LATER = 12 * 3_600_000, 13 * 3_600_000


def version(name: str, properties: str, query: str, parents: Sequence[Snapshot] = (), *, first: int = 1) -> Snapshot:
    """A version that has computed the days from the first to the fifth."""
    return snapshot(f"name t.{name}, {properties}", query, parents, [days(first, 5)])


ORDERS = version("orders", DAILY, "SELECT 1 AS n, @start_ds AS day")
DIM = version("dim", "kind FULL, start '2026-03-01'", "SELECT 1 AS one")
OF_DAYS = "SELECT n, day FROM t.orders CROSS JOIN t.dim"
DAYS = version("days", DAILY, OF_DAYS, [ORDERS, DIM])
TOTAL = version("total", "kind FULL, start '2026-03-01'", "SELECT sum(n) AS n FROM t.days", [DAYS])
OLD_DAYS = version("days", DAILY, f"{OF_DAYS} WHERE n > 0", [ORDERS, DIM])


def row(first: int, last: int, at: int, *, is_merged: bool = False) -> ComputedRange:
    return ComputedRange(days(first, last), at, is_merged=is_merged, identifier=None)


BEFORE = row(1, 5, NOON)


def again(
    rows: Mapping[str, Sequence[ComputedRange]],
    *,
    new: Sequence[Snapshot] = (DAYS, TOTAL),
    since: Mapping[str, int] | None = None,
    lost: Mapping[str, Sequence[Interval]] | None = None,
    torn: frozenset[str] = frozenset(),
    lost_by_new: Mapping[str, Sequence[Interval]] | None = None,
) -> dict[str, list[Interval]]:
    """What is computed again if the state has these rows of the tables of prod, by the name of the model."""
    tables = {"orders": ORDERS, "dim": DIM, "days": OLD_DAYS}

    def by_table(
        of: Mapping[str, Sequence[ComputedRange]],
    ) -> dict[tuple[str, str | None, bool], Sequence[ComputedRange]]:
        return {(tables[name].name, tables[name].version, False): found for name, found in of.items()}

    nodes = {node.name: node for node in (ORDERS, DIM, *new)}
    versions = Versions(nodes, INDEX, {node.name: node.table_info for node in (ORDERS, DIM, OLD_DAYS)}, is_dev=False)
    seen = by_table({"orders": [BEFORE], "dim": [BEFORE], "days": [BEFORE]})
    of_prod = tables_of(versions.shown, by_table(rows), seen, lost or {}, torn)
    found = find_outdated(
        versions,
        lambda name, at, only_rewritten: of_prod[name].altered(at, only_rewritten=only_rewritten),
        lambda name: (since or {}).get(name, 0),
        lost=lost_by_new or {},
    )
    return {name.split(".")[-1].strip('"'): list(intervals) for name, intervals in found.items()}


@pytest.mark.parametrize(
    ("table", "at"),
    [("orders", LATER), ("orders", NOON - 60_000), ("days", LATER)],
    ids=["source", "source, by a row that was written after its time", "old version"],
)
def test_a_rewritten_interval_is_read_again_downstream_and_whole_tables_from_there_on(table: str, at: int) -> None:
    assert again({table: [BEFORE, row(2, 2, at)]}) == {"days": [days(2, 2)], "total": [days(2, 5)]}


def test_a_rewritten_interval_is_read_again_behind_a_view() -> None:
    view = version("shown", "kind VIEW", "SELECT n, day FROM t.orders", [ORDERS])
    behind = version("days", DAILY, "SELECT n, day FROM t.shown", [view])
    assert again({"orders": [BEFORE, row(2, 2, LATER)]}, new=[view, behind]) == {"days": [days(2, 2)]}


def test_a_row_counts_although_its_time_is_a_moment_before_the_begin() -> None:
    begun = {DAYS.name: LATER + 1_000}
    assert again({"orders": [BEFORE, row(2, 2, LATER)]}, new=[DAYS], since=begun) == {"days": [days(2, 2)]}


@pytest.mark.parametrize("table", [ORDERS, OLD_DAYS])
def test_what_has_read_a_lost_interval_is_forgotten_although_nobody_has_computed_it_again(table: Snapshot) -> None:
    assert again({}, lost={table.name: [days(2, 2)]}) == {"days": [days(2, 2)], "total": [days(2, 5)]}


@pytest.mark.parametrize(
    ("kind", "first"),
    [("FULL", 3), ("INCREMENTAL_UNMANAGED", 1), ("SCD_TYPE_2_BY_COLUMN (unique_key n, columns [n])", 1)],
)
def test_whole_table_is_forgotten_as_a_whole_unless_an_interval_lets_sqlmesh_compute_all(kind: str, first: int) -> None:
    whole = version("days", f"kind {kind}, start '2026-03-01'", "SELECT n FROM t.orders", [ORDERS])
    assert again({"orders": [BEFORE, row(3, 3, LATER)]}, new=[whole]) == {"days": [days(first, 5)]}


@pytest.mark.parametrize(
    ("new", "altered", "rewritten"),
    [
        (row(5, 5, LATER), [days(5, 5)], []),
        (row(2, 2, LATER), [days(2, 2)], [days(2, 2)]),
        (row(4, 6, LATER), [days(4, 6)], [days(4, 4)]),
        (row(1, 6, LATER, is_merged=True), [days(1, 6)], [days(1, 6)]),
    ],
    ids=["added", "rewritten", "partly added", "merged, so it does not tell"],
)
def test_added_days_are_altered_and_not_rewritten(
    new: ComputedRange, altered: Sequence[Interval], rewritten: Sequence[Interval]
) -> None:
    before = row(1, 4, NOON)
    table = Table([before, new], [before])
    assert list(table.altered(0, only_rewritten=False)) == altered
    assert list(table.altered(0, only_rewritten=True)) == rewritten


def test_days_are_computed_twice_if_a_row_that_is_not_merged_is_newer_than_another_one_and_than_the_instant() -> None:
    table = Table([row(3, 4, LATER), row(1, 3, NOON), row(1, 5, LATER + 1, is_merged=True)])
    assert list(table.computed_twice(NOON)) == [days(3, 3)]
    assert list(table.computed_twice(LATER)) == []


def test_intervals_that_a_restatement_has_taken_are_computed_again_and_downstream_too() -> None:
    short = version("days", DAILY, OF_DAYS, [ORDERS, DIM], first=2)
    found = again({}, new=[short, TOTAL], lost_by_new={short.name: [days(1, 1)]})
    assert found == {"days": [days(1, 1)], "total": [days(1, 5)]}


def reading_itself(first: int = 1) -> Snapshot:
    columns = "columns (n int, day date)"
    query = "SELECT n, day FROM t.orders JOIN t.days USING (day)"
    return version("days", f"{DAILY}, {columns}", query, [ORDERS], first=first)


def test_a_table_that_is_empty_while_it_is_replaced_makes_everything_old() -> None:
    found = again({"dim": [BEFORE, row(6, 6, LATER)]}, new=[DAYS], torn=frozenset({DIM.name}))
    assert found == {"days": [days(1, 5)]}


COMPUTED_LATER = row(1, 5, LATER)
"""What a newer version has computed when it was planned."""


@pytest.mark.parametrize(
    ("newer", "source", "expected"),
    [
        ([COMPUTED_LATER], [BEFORE], {}),
        ([COMPUTED_LATER, row(6, 7, LATER + 1)], [BEFORE], {}),
        ([COMPUTED_LATER, row(3, 3, LATER + 1)], [BEFORE], {"days": [days(3, 3)], "total": [days(3, 5)]}),
        ([COMPUTED_LATER], [BEFORE, row(2, 2, LATER)], {"days": [days(2, 2)], "total": [days(2, 5)]}),
        ([row(1, 5, LATER + 1, is_merged=True)], [row(1, 5, LATER, is_merged=True)], {}),
    ],
    ids=["computed once", "newer days", "restated", "source restated", "merged by the janitor"],
)
def test_rows_of_an_earlier_version_are_outdated_if_a_table_was_computed_again_since(
    newer: list[ComputedRange], source: list[ComputedRange], expected: dict[str, list[Interval]]
) -> None:
    nodes = {node.name: node for node in (ORDERS, DIM, DAYS, TOTAL)}
    versions = Versions(nodes, INDEX, {node.name: node.table_info for node in (ORDERS, DIM, OLD_DAYS)}, is_dev=False)
    rows = {
        (OLD_DAYS.name, OLD_DAYS.version, False): newer,
        (ORDERS.name, ORDERS.version, False): source,
        (DAYS.name, DAYS.version, False): [BEFORE],
    }
    found = corrected(versions, rows, {DAYS.name: NOON, TOTAL.name: NOON})
    assert {name.split(".")[-1].strip('"'): list(intervals) for name, intervals in found.items()} == expected


def behind_gaps(node: Snapshot, *, index: DeployabilityIndex = INDEX) -> list[Interval]:
    """What is computed again of a version although no table was."""
    versions = Versions({of.name: of for of in (ORDERS, node)}, index, {ORDERS.name: ORDERS.table_info}, is_dev=True)
    return [interval for intervals in corrected(versions, {}, {}).values() for interval in intervals]


def test_a_version_that_depends_on_its_past_is_computed_again_behind_a_gap() -> None:
    torn = reading_itself()
    torn.remove_interval(days(3, 3))
    assert behind_gaps(torn) == [days(4, 5)]
    assert behind_gaps(reading_itself(first=2)) == [days(2, 5)]
    assert behind_gaps(reading_itself()) == []


def test_a_preview_of_single_days_has_gaps_that_no_restatement_has_made() -> None:
    previewed = reading_itself()
    previewed.dev_intervals = [days(1, 2), days(5, 5)]
    index = DeployabilityIndex.create([ORDERS, previewed]).with_non_deployable(previewed)
    assert behind_gaps(previewed, index=index) == []
