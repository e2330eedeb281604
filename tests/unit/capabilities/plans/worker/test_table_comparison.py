"""How a model of a preview is compared with prod's, on tables of DuckDB."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import cast

import duckdb
import pytest
from sqlmesh.core.engine_adapter import DuckDBEngineAdapter
from sqlmesh.core.snapshot import Snapshot
from unit.worker.snapshots import days, snapshot

from dg_sqlmesh_component.capabilities.plans.messages import Amounts, DiffLimits, ModelCompared
from dg_sqlmesh_component.capabilities.plans.worker.table_comparison import ComparedModel, Warehouse
from dg_sqlmesh_component.protocol.messages import Interval, Sample, Sampling

LIMITS = DiffLimits(max_rows=1_000)
FULL = "kind FULL, grain id"
BY_DAY = "kind INCREMENTAL_BY_TIME_RANGE (time_column day), start '2026-03-01', grain id"
BY_KEY = "kind INCREMENTAL_BY_UNIQUE_KEY (unique_key id), start '2026-03-01'"


@pytest.fixture
def adapter() -> Iterator[DuckDBEngineAdapter]:
    connection = duckdb.connect()
    yield DuckDBEngineAdapter(connection.cursor)
    connection.close()


def version(
    adapter: DuckDBEngineAdapter, properties: str, query: str, rows: str, computed: Sequence[Interval] = ()
) -> Snapshot:
    """A version of the model `t.m`, whose query is only its identity, with a table of these rows."""
    node = snapshot(f"name t.m, {properties}", query, computed=computed)
    table = node.table_name(is_deployable=True)
    adapter.execute(f"CREATE SCHEMA IF NOT EXISTS {table.split('.')[-2]}")
    adapter.execute(f"CREATE TABLE {'.'.join(table.split('.')[-2:])} AS {rows}")
    return node


def compare(
    adapter: DuckDBEngineAdapter,
    prod: Snapshot | None,
    preview: Snapshot | None,
    limits: DiffLimits = LIMITS,
    preview_computed: Sequence[Interval] | None = None,
    *,
    is_known: bool = True,
) -> ModelCompared:
    is_own_table = preview_computed is None
    computed = preview.intervals if preview and preview_computed is None else preview_computed or ()
    model = ComparedModel("t.x", prod, preview, is_own_table=is_own_table, computed=computed, is_known=is_known)
    return model.compare(Warehouse(adapter), limits)


def compare_rows(
    adapter: DuckDBEngineAdapter, in_prod: str, in_preview: str, limits: DiffLimits = LIMITS, properties: str = FULL
) -> ModelCompared:
    """Compare two versions with these rows, whose queries say nothing about them."""
    prod = version(adapter, properties, "SELECT 1 AS id", in_prod)
    return compare(adapter, prod, version(adapter, properties, "SELECT 2 AS id", in_preview), limits)


def test_rows_are_matched_by_the_grain_and_columns_have_shares_and_amounts(adapter: DuckDBEngineAdapter) -> None:
    rows = "SELECT i AS id, CASE i WHEN 4 THEN 9 ELSE i END AS x FROM range(2, 7) t(i)"
    compared = compare_rows(adapter, "SELECT i AS id, i AS x FROM range(1, 5) t(i)", rows)
    assert (compared.rows_prod, compared.rows, compared.removed, compared.added, compared.changed) == (4, 5, 1, 2, 1)
    assert compared.keys == ("id",)
    assert compared.columns == {"x": pytest.approx(2 / 3)}
    assert compared.amounts["x"] == (Amounts(0, 25, 2, 9), Amounts(0, 10, 1, 4))


def test_removed_rows_have_examples_if_no_row_of_both_has_changed(adapter: DuckDBEngineAdapter) -> None:
    rows, limits = "SELECT i AS id, i AS x FROM range({}) t(i)", replace(LIMITS, examples=Sampling(rows=5))
    compared = compare_rows(adapter, rows.format(3), rows.format(2), limits)
    assert (compared.error, compared.removed, compared.changed) == (None, 1, 0)
    assert compared.examples == {"removed": Sample(("id", "x"), (("2", "2"),))}


def test_model_of_one_environment_has_its_rows_added_or_removed(adapter: DuckDBEngineAdapter) -> None:
    one = version(adapter, FULL, "SELECT 1 AS id", "SELECT i AS id FROM range(3) t(i)")
    new, gone = compare(adapter, None, one), compare(adapter, one, None)
    assert (new.rows, new.rows_prod, new.added, new.removed, new.changed) == (3, None, 3, 0, 0)
    assert (gone.rows, gone.rows_prod, gone.added, gone.removed, gone.changed) == (None, 3, 0, 3, 0)


def by_day(first: int, last: int) -> str:
    return f"SELECT i AS id, DATE '2026-03-01' + (i - 1)::INT AS day FROM range({first}, {last + 1}) t(i)"


def test_only_ranges_that_both_have_computed_are_compared(adapter: DuckDBEngineAdapter) -> None:
    prod = version(adapter, BY_DAY, "SELECT 1 AS id, @start_ds AS day", by_day(1, 5), [days(1, 5)])
    preview = version(adapter, BY_DAY, "SELECT 2 AS id, @start_ds AS day", by_day(4, 9), [days(4, 9)])
    compared = compare(adapter, prod, preview)
    assert compared.ranges == (days(4, 5),)
    assert (compared.rows_prod, compared.rows, compared.added, compared.removed, compared.changed) == (2, 2, 0, 0, 0)


def test_nothing_is_compared_if_no_range_was_computed_by_both(adapter: DuckDBEngineAdapter) -> None:
    prod = version(adapter, BY_DAY, "SELECT 1 AS id, @start_ds AS day", by_day(1, 3), [days(1, 3)])
    preview = version(adapter, BY_DAY, "SELECT 2 AS id, @start_ds AS day", by_day(4, 9), [days(4, 9)])
    compared = compare(adapter, prod, preview)
    assert (compared.is_partial, compared.rows, compared.rows_prod, compared.added) == (True, None, None, None)


def test_whole_tables_are_compared_and_called_partial_if_rows_have_no_time(adapter: DuckDBEngineAdapter) -> None:
    prod = version(adapter, BY_KEY, "SELECT 1 AS id", "SELECT i AS id FROM range(9) t(i)", [days(1, 9)])
    preview = version(adapter, BY_KEY, "SELECT 2 AS id", "SELECT i AS id FROM range(3) t(i)", [days(7, 9)])
    compared = compare(adapter, prod, preview)
    assert (compared.is_partial, compared.ranges, compared.keys) == (True, (), ("id",))
    assert (compared.rows_prod, compared.rows, compared.removed) == (9, 3, 6)


def test_only_the_time_of_the_previews_rows_is_compared_if_its_record_is_merged(adapter: DuckDBEngineAdapter) -> None:
    prod = version(adapter, BY_DAY, "SELECT 1 AS id, @start_ds AS day", by_day(1, 9), [days(1, 9)])
    preview = version(adapter, BY_DAY, "SELECT 2 AS id, @start_ds AS day", by_day(7, 8), [days(1, 9)])
    dev = preview.table_name(is_deployable=False).split(".")[-1]
    adapter.execute(f"CREATE TABLE sqlmesh__t.{dev} AS {by_day(7, 8)}")
    compared = compare(adapter, prod, preview, preview_computed=[days(1, 9)], is_known=False)
    assert (compared.only_its_time, compared.rows_prod, compared.rows) == (True, 2, 2)
    exact = compare(adapter, prod, preview, preview_computed=[days(7, 8)])
    assert (exact.only_its_time, exact.ranges, exact.rows_prod) == (False, (days(7, 8),), 2)
    adapter.execute(f"DELETE FROM sqlmesh__t.{dev}")
    empty = compare(adapter, prod, preview, preview_computed=[days(1, 9)], is_known=False)
    assert (empty.only_its_time, empty.rows_prod, empty.rows, empty.removed) == (True, 9, 0, 9)


@pytest.mark.parametrize(
    ("properties", "rows", "problem"),
    [
        ("kind FULL", "SELECT 1 AS id", "no_grain"),
        ("kind FULL, grain other", "SELECT 1 AS id", "other_columns"),
        (FULL, "SELECT 1 AS id FROM range(2)", "duplicate_keys"),
        (FULL, "SELECT NULL::INT AS id", "null_keys"),
        (FULL, "SELECT 1 AS y", "no_columns"),
    ],
)
def test_rows_match_only_by_usable_keys(adapter: DuckDBEngineAdapter, properties: str, rows: str, problem: str) -> None:
    compared = compare_rows(adapter, "SELECT 1 AS id", rows, properties=properties)
    assert (compared.key_problem, compared.changed, compared.columns) == (problem, None, {})


def test_rows_are_only_counted_on_an_engine_whose_queries_no_test_executes(adapter: DuckDBEngineAdapter) -> None:
    prod = version(adapter, FULL, "SELECT 1 AS id", "SELECT i AS id FROM range(3) t(i)")
    preview = version(adapter, FULL, "SELECT 2 AS id", "SELECT i AS id, 1 AS x FROM range(5) t(i)")
    warehouse = Warehouse(adapter)
    warehouse.dialect = "trino"  # whose queries for counts DuckDB can execute
    compared = ComparedModel("t.x", prod, preview, is_own_table=True).compare(warehouse, LIMITS)
    assert (compared.key_problem, compared.error) == ("engine", None)
    assert (compared.rows, compared.rows_prod, compared.added, compared.changed) == (5, 3, None, None)
    assert [change.name for change in compared.schema] == ["x"]
    assert compared.amounts["id"] == (Amounts(0, 10, 0, 4), Amounts(0, 3, 0, 2))


def test_ignored_columns_are_left_out_and_named_but_never_those_of_the_key(adapter: DuckDBEngineAdapter) -> None:
    rows = "SELECT i AS id, 1 AS x, i + {} AS _loaded_at FROM range(3) t(i)"
    limits = replace(LIMITS, ignore=("*_LOADED_AT", "id"))
    compared = compare_rows(adapter, rows.format(0), rows.format(9), limits)
    assert (compared.ignored, compared.keys) == (("_loaded_at",), ("id",))
    assert (compared.changed, compared.columns, [*compared.amounts]) == (0, {"x": 1.0}, ["id", "x"])


@pytest.mark.parametrize("properties", [FULL, "kind FULL"], ids=["by key", "without a key"])
@pytest.mark.parametrize(
    ("x", "at", "clock"),
    [(1, "now()", ("at",)), (2, "now()", ()), (1, "now() + INTERVAL 1 DAY", ())],
    ids=["only the clock", "another column too", "another definition too"],
)
def test_rows_that_differ_only_by_the_clock_are_told_from_others(
    adapter: DuckDBEngineAdapter, properties: str, x: int, at: str, clock: tuple[str, ...]
) -> None:
    query, rows = "SELECT {} AS id, 1 AS x, {} AS at", "SELECT i AS id, {} AS x, {} AS at FROM range(3) t(i)"
    prod = version(adapter, properties, query.format(1, "now()"), rows.format(1, 1))
    compared = compare(adapter, prod, version(adapter, properties, query.format(2, at), rows.format(x, 2)))
    assert (compared.clock, compared.changed, compared.added) == (
        (clock, 3, 0) if properties == FULL else (clock, None, 3)
    )


def test_amounts_may_be_infinite_or_no_number(adapter: DuckDBEngineAdapter) -> None:
    rows = "SELECT i AS id, CASE i WHEN 1 THEN '{}'::DOUBLE ELSE 1 END AS x FROM range(2) t(i)"
    compared = compare_rows(adapter, rows.format("nan"), rows.format("-inf"))
    assert compared.amounts["x"] == (Amounts(0, "-inf", "-inf", 1), Amounts(0, "nan", 1, "nan"))


def test_masked_columns_have_no_total_and_no_smallest_or_largest_value(adapter: DuckDBEngineAdapter) -> None:
    rows = "SELECT 1 AS id, 5000 * {} AS salary, 42 * {} AS password, 7 * {} AS x"
    limits = replace(LIMITS, mask=("SAL*",))
    compared = compare_rows(adapter, rows.replace("{}", "1"), rows.replace("{}", "2"), limits)
    assert compared.columns == {"salary": 0, "password": 0, "x": 0}
    assert compared.amounts["salary"] == compared.amounts["password"] == (Amounts(0), Amounts(0))
    assert compared.amounts["x"] == (Amounts(0, 14, 14, 14), Amounts(0, 7, 7, 7))


def test_grain_is_found_in_columns_of_another_case(adapter: DuckDBEngineAdapter) -> None:
    compared = compare_rows(adapter, 'SELECT 1 AS "Id"', 'SELECT 1 AS "Id"', properties="kind FULL, grain ID")
    assert (compared.keys, compared.changed) == (("Id",), 0)


def test_larger_tables_are_compared_by_a_share_of_their_keys(adapter: DuckDBEngineAdapter) -> None:
    rows = "SELECT i AS id, i AS x FROM range(4000) t(i)"
    compared = compare_rows(adapter, rows, f"{rows} WHERE i % 2 = 0")
    assert (compared.sample, compared.rows, compared.rows_prod, compared.added) == (0.25, 2000, 4000, 0)
    assert compared.removed is not None
    assert 350 < compared.removed < 650


def test_refused_query_is_named_by_its_class_without_its_message(adapter: DuckDBEngineAdapter) -> None:
    prod = version(adapter, FULL, "SELECT 1 AS id", "SELECT 'secret' AS id")
    preview = version(adapter, FULL, "SELECT 2 AS id", "SELECT 'secret' AS id")
    adapter.execute(f"DROP TABLE sqlmesh__t.{preview.table_name().split('.')[-1]}")
    compared = compare(adapter, prod, preview)
    assert compared.error is not None
    assert (compared.rows, compared.added) == (None, None)
    assert "secret" not in repr(compared)


def test_a_bug_of_this_package_is_not_reported_as_an_error_of_the_engine(adapter: DuckDBEngineAdapter) -> None:
    prod, preview = (version(adapter, FULL, f"SELECT {n} AS id", "SELECT 1 AS id") for n in (1, 2))
    with pytest.raises(AttributeError):
        compare(adapter, prod, preview, cast(DiffLimits, None))
