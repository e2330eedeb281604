"""The queries of a comparison: their SQL for each engine of SQLMesh, and their counts on five engines."""

import importlib.util
import math
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from harness import at_night
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mariadb import mariadb_server
from postgres import postgres_server
from sqlglot import exp, parse
from sqlmesh.core.engine_adapter import DIALECT_TO_ENGINE_ADAPTER

from dg_sqlmesh_component.capabilities.plans.worker.table_comparison_queries import UNTRIED, CountQueries, Table

DIALECTS = sorted({adapter.DIALECT for adapter in DIALECT_TO_ENGINE_ADAPTER.values()} - set(UNTRIED))
COLUMNS = {
    "Id": "BIGINT",
    "part": "VARCHAR",
    "price": "DECIMAL(18, 2)",
    "rate": "DOUBLE",
    "label": "VARCHAR",
    "tags": "ARRAY<INT>",
    "document": "JSON",
    "attributes": "MAP<VARCHAR, INT>",
    "pairs": "STRUCT<a MAP<VARCHAR, INT>>",
}


def queries_of(dialect: str, **changed: str) -> CountQueries:
    before, after = (
        Table(name, {column: exp.DataType.build(type_) for column, type_ in columns.items()})
        for name, columns in (("db.Orders__1", COLUMNS), ("db.Orders__2", {**COLUMNS, **changed}))
    )
    return CountQueries(dialect, before, after)


def all_queries(dialect: str) -> Iterator[str]:
    queries = queries_of(dialect, Id="DECIMAL(20, 2)", rate="DECIMAL(9, 3)", label="INT")
    for side in queries.sides:
        yield queries.values(side).sql(dialect, identify=True)
        yield queries.unusable_keys(side, ["Id", "part"], 0.1).sql(dialect, identify=True)
    yield queries.matched(["Id", "part"], 0.1).sql(dialect, identify=True)
    yield queries.surplus().sql(dialect, identify=True)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_each_query_is_one_select_of_aggregates_without_a_union_around_it(dialect: str) -> None:
    for sql in all_queries(dialect):
        [query] = parse(sql, dialect=dialect)
        assert isinstance(query, exp.Select)
        aggregates = [selected.find(exp.AggFunc) for selected in query.selects]
        assert all(isinstance(aggregate, exp.Sum | exp.Count | exp.Min | exp.Max) for aggregate in aggregates)
        assert "NOT NOT" not in sql


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_name_is_quoted(dialect: str) -> None:
    for sql in all_queries(dialect):
        [query] = parse(sql, dialect=dialect)
        assert query is not None
        names = list(query.find_all(exp.Identifier))
        assert names
        assert [name.sql() for name in names if not name.quoted] == []


@pytest.mark.parametrize("dialect", DIALECTS)
def test_sampled_keys_are_chosen_by_hex_digits_and_never_by_bytes(dialect: str) -> None:
    sql = queries_of(dialect).matched(["Id"], 0.25).sql(dialect, identify=True)
    hashed = re.findall(r"SUBSTR(?:ING)?\((.*?)(?:, 1, 8| FROM 1 FOR 8)\) < '40000000'", sql)
    assert len(hashed) in (2, 5), "on both sides; for MySQL once more in each of its joins"
    start = "LOWER(HEX(MD5(" if dialect == "clickhouse" else "MD5("  # ClickHouse returns bytes
    assert all(expression.startswith(start) for expression in hashed)


TEXT_OF = {
    "spark": "CAST(`{}` AS STRING)",
    "databricks": "CAST(`{}` AS STRING)",
    "duckdb": 'CAST("{}" AS TEXT)',
    "clickhouse": 'CAST("{}" AS Nullable(String))',
}


@pytest.mark.parametrize("dialect", TEXT_OF)
def test_values_that_an_engine_cannot_compare_are_compared_as_text(dialect: str) -> None:
    for sql in (
        queries_of(dialect).matched(["Id"], None).sql(dialect, identify=True),
        queries_of(dialect).surplus().sql(dialect, identify=True),
    ):
        for column in ("document", "attributes", "pairs"):
            assert sql.count(TEXT_OF[dialect].format(column)) == 2
        assert sql.count(TEXT_OF[dialect].format("tags")) == 0, "arrays can be compared"


# -- counts, on engines ---------------------------------------------------------------------------


@dataclass
class Engine:
    dialect: str
    run: Callable[[str], list[tuple[Any, ...]]]

    def fill(self, table: str, columns: Mapping[str, str], rows: list[dict[str, Any]]) -> Table:
        types = {name: exp.DataType.build(type_, dialect=self.dialect) for name, type_ in columns.items()}
        self.run(f"DROP TABLE IF EXISTS {table}")
        if self.dialect == "spark":
            columns = {name: type_.sql("spark") for name, type_ in types.items()}  # it has no DOUBLE PRECISION
        listed = ", ".join(f"{exp.column(name, quoted=True).sql(self.dialect)} {t}" for name, t in columns.items())
        self.run(f"CREATE TABLE {table} ({listed})")
        if self.dialect == "clickhouse":  # its own names of types, as SQLMesh reads them
            types = {name: exp.DataType.build(t, "clickhouse") for name, t, *_ in self.run(f"DESCRIBE TABLE {table}")}
        if rows:
            values = ", ".join(f"({', '.join(_literal(row[name]) for name in columns)})" for row in rows)
            self.run(f"INSERT INTO {table} VALUES {values}")
        return Table(f"s.{table.split('.')[1]}", types)

    def count(self, query: exp.Select) -> list[int]:
        [row] = self.run(query.sql(self.dialect, identify=True))
        return [int(value or 0) for value in row]


def _literal(value: Any) -> str:
    if value is None:
        return "NULL"
    return f"'{value}'" if isinstance(value, str) else f"{value!r}" if isinstance(value, float) else str(value)


@pytest.fixture(scope="module", params=["duckdb", "postgres", "mysql", *at_night("clickhouse", "spark")])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    if request.param == "duckdb":
        import duckdb

        with duckdb.connect() as connection:
            engine = Engine("duckdb", lambda sql: connection.execute(sql).fetchall())
            engine.run("CREATE SCHEMA s")
            yield engine
    elif request.param == "postgres":
        with postgres_server() as postgres:
            postgres.query("CREATE DATABASE compared")
            with postgres.session("compared") as cursor:
                yield _on_server("postgres", cursor)
    elif request.param == "clickhouse":
        yield _clickhouse()
    elif request.param == "spark":
        yield from _spark(tmp_path_factory.mktemp("spark"))
    else:
        with mariadb_server() as mariadb, mariadb.session() as cursor:
            yield _on_server("mysql", cursor)


def _clickhouse() -> Engine:
    """ClickHouse as a library in this process."""
    if not importlib.util.find_spec("chdb"):
        pytest.skip("CHDB IS NOT INSTALLED, so nothing was tested on ClickHouse: run `make test-engines`")
    from chdb import dbapi

    cursor = dbapi.connect().cursor()
    cursor.execute("SET data_type_default_nullable = 1")
    cursor.execute("SET default_table_engine = 'Memory'")
    return _on_server("clickhouse", cursor)


def _spark(folder: Path) -> Iterator[Engine]:
    """Spark in this process, with a catalog in memory."""
    if not shutil.which("java") or not importlib.util.find_spec("pyspark"):
        pytest.skip("JAVA OR PYSPARK IS NOT INSTALLED, so nothing was tested on a local Spark: run `make test-engines`")
    from pyspark.sql import SparkSession

    builder = SparkSession.builder.master("local[2]").config("spark.sql.warehouse.dir", str(folder))
    for name, value in {
        "spark.ui.enabled": "false",
        "spark.sql.shuffle.partitions": "1",
        "spark.sql.legacy.createHiveTableByDefault": "false",
    }.items():
        builder = builder.config(name, value)
    with builder.getOrCreate() as session:
        session.sql("CREATE SCHEMA s")
        yield Engine("spark", lambda sql: [tuple(row) for row in session.sql(sql).collect()])


def _on_server(dialect: str, cursor: Any) -> Engine:
    def run(sql: str) -> list[tuple[Any, ...]]:
        cursor.execute(sql)
        return list(cursor.fetchall()) if cursor.description else []

    run(f"CREATE {'DATABASE' if dialect == 'clickhouse' else 'SCHEMA'} s")
    return Engine(dialect, run)


OLD = {
    "Id": "BIGINT",
    "wide": "DECIMAL(20, 0)",
    "money": "DECIMAL(18, 2)",
    "number": "BIGINT",
    "rounded": "DECIMAL(18, 2)",
    "text": "VARCHAR(40)",
    "digits": "BIGINT",
    "rate": "DOUBLE PRECISION",
}
NEW = {
    **OLD,
    "Id": "DECIMAL(20, 2)",
    "number": "DECIMAL(24, 4)",
    "rounded": "DOUBLE PRECISION",
    "text": "VARCHAR(50)",
    "digits": "VARCHAR(30)",
}
IDS = [1, 2, 3, 4, 10000000000000001, 10000000000000002, 10000000000000003, 900719925474099300]
WIDE = [10000000000000000999, 10000000000000001000, 10000000000000000001, 0, None]
MONEY = [Decimal("1200000000000000.78"), Decimal("1200000000000000.69"), Decimal("0.01"), None]
NUMBERS = [9007199254740993, 9007199254740992, 2, -2, None]
MORE = [Decimal("9007199254740993.0000"), Decimal("9007199254740992.0000"), Decimal("2.0001"), Decimal("2.0000"), None]
ROUNDED = [1.5, 1.25, 0.01, 7.0, None]
TEXTS = ["a", "A", "ä", "a ", "", None]
RATES = [1.0, 1.0000001, 1.001, None]


def _rows(number: st.SearchStrategy[Any], rounded: st.SearchStrategy[Any], digits: Callable[[int], Any]) -> Any:
    row = st.fixed_dictionaries(
        {
            "wide": st.sampled_from(WIDE),
            "money": st.sampled_from(MONEY),
            "number": number,
            "rounded": rounded,
            "text": st.sampled_from(TEXTS),
            "digits": st.one_of(st.none(), st.sampled_from(IDS).map(digits)),
            "rate": st.sampled_from(RATES),
        }
    )
    return st.dictionaries(st.sampled_from(IDS), row)


ROUNDED_MONEY = st.sampled_from(
    [None if value is None else Decimal(str(value)).quantize(Decimal("0.01")) for value in ROUNDED]
)


def _is_same(column: str, old: Any, new: Any) -> bool:
    if old is None or new is None:
        return old is new
    if column in ("rounded", "rate"):
        return abs(float(old) - float(new)) < 1e-6
    return str(old) == new if column == "digits" else bool(old == new)


@settings(max_examples=settings().max_examples // 5, suppress_health_check=[HealthCheck.too_slow])
@given(
    before=_rows(st.sampled_from(NUMBERS), ROUNDED_MONEY, int),
    after=_rows(st.sampled_from(MORE), st.sampled_from(ROUNDED), str),
)
def test_matched_rows_are_counted_as_python_does(engine: Engine, before: dict[int, Any], after: dict[int, Any]) -> None:
    """Exact types are compared exactly, also if they differ; types with a float up to a decimal place."""
    old = engine.fill("s.old_rows", OLD, [{"Id": key, **row} for key, row in before.items()])
    new = engine.fill("s.new_rows", NEW, [{"Id": key, **row} for key, row in after.items()])
    queries = CountQueries(engine.dialect, old, new)
    both = before.keys() & after.keys()
    same = {
        name: {key for key in both if _is_same(name, before[key][name], after[key][name])} for name in list(OLD)[1:]
    }

    counts = engine.count(queries.matched(["Id"], None))

    unchanged = set.intersection(both, *same.values())
    assert counts[:4] == [len(both), len(after.keys() - both), len(before.keys() - both), len(unchanged)]
    assert dict(zip(same, counts[4:])) == {name: len(keys) for name, keys in same.items()}
    assert engine.count(queries.unusable_keys(new, ["Id"], None)) == [0, 0]
    sampled = engine.count(queries.matched(["Id"], 0.5))
    assert sampled[0] <= len(both)
    if before.keys() == after.keys():
        assert sampled[1:3] == [0, 0], "the same keys on both sides, although their types differ"


SMALL = {"k": "INT", "part": "VARCHAR(9)", "x": "DECIMAL(9, 2)"}
small_rows = st.lists(
    st.fixed_dictionaries(
        {
            "k": st.sampled_from([1, 2, None]),
            "part": st.sampled_from(["p", "P", None]),
            "x": st.sampled_from([Decimal("1.00"), Decimal("1.01"), None]),
        }
    ),
    max_size=6,
)


@settings(max_examples=settings().max_examples // 5, suppress_health_check=[HealthCheck.too_slow])
@given(before=small_rows, after=small_rows, sample=st.sampled_from([None, 0.5]))
def test_unusable_keys_and_surplus_rows_are_counted_as_plain_python_counts_them(
    engine: Engine, before: list[dict[str, Any]], after: list[dict[str, Any]], sample: float | None
) -> None:
    old, new = engine.fill("s.old_small", SMALL, before), engine.fill("s.new_small", SMALL, after)
    queries = CountQueries(engine.dialect, old, new)
    keys = Counter((row["k"], row["part"]) for row in before)
    repeated = [key for key, times in keys.items() if times > 1]
    without = [key for key in keys if None in key]
    rows, rows_prod = (Counter(tuple(row[name] for name in SMALL) for row in side) for side in (after, before))

    counts = engine.count(queries.unusable_keys(old, ["k", "part"], sample))

    assert counts[1] == len(without), "a sample has all keys with NULL: they are no keys"
    assert counts[0] == len(repeated) if sample is None else counts[0] <= len(repeated)
    assert engine.count(queries.surplus()) == [(rows - rows_prod).total(), (rows_prod - rows).total()]
    filled = [sum(row[name] is not None for row in before) for name in SMALL]
    [values] = engine.run(queries.values(old).sql(engine.dialect, identify=True))
    assert list(values[:4]) == [len(before), *filled]
    assert queries.amounts == ["k", "x"]
    for name, aggregates in zip(queries.amounts, (values[4:7], values[7:])):
        numbers = [float(row[name]) for row in before if row[name] is not None]
        expected = [sum(numbers), min(numbers), max(numbers)] if numbers else [None] * 3
        assert list(aggregates) == [None if number is None else pytest.approx(number) for number in expected]


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_a_sample_is_near_its_share_of_the_keys(engine: Engine, share: float) -> None:
    old = engine.fill("s.many_old", {"k": "BIGINT"}, [{"k": key} for key in range(1000)])
    new = engine.fill("s.many_new", {"k": "DECIMAL(20, 3)"}, [{"k": key} for key in range(1000)])
    matched, added, removed, _ = engine.count(CountQueries(engine.dialect, old, new).matched(["k"], share))
    assert (added, removed) == (0, 0)
    assert abs(matched - 1000 * share) < 4 * math.sqrt(1000 * share * (1 - share))


def test_a_real_is_the_number_that_the_engine_prints(engine: Engine) -> None:
    rows = [{"k": 1, "x": 1234.56}, {"k": 2, "x": 0.1}]
    old = engine.fill("s.real_old", {"k": "INT", "x": "FLOAT" if engine.dialect == "mysql" else "REAL"}, rows)
    new = engine.fill("s.real_new", {"k": "INT", "x": "DOUBLE PRECISION"}, rows)
    queries = CountQueries(engine.dialect, old, new)
    are_equal = engine.dialect != "mysql"  # which prints 6 digits of them, and so not all
    assert engine.count(queries.matched(["k"], None))[3] == (2 if are_equal else 1)
    (real,), (double,) = (engine.run(queries.values(side).sql(engine.dialect, identify=True)) for side in (old, new))
    assert (real == double) is are_equal


@pytest.mark.parametrize(("decimals", "equal"), [(6, 1), (1, 2), (0, 3)])
def test_floats_are_equal_up_to_the_configured_decimal_place(engine: Engine, decimals: int, equal: int) -> None:
    """By default, sums of many floats differ although they are of the same rows."""
    columns = {"k": "INT", "x": "DOUBLE PRECISION"}
    before = [{"k": 1, "x": 1.0}, {"k": 2, "x": 123456789.5}, {"k": 3, "x": 1.0}]
    after = [{"k": 1, "x": 1.0000001}, {"k": 2, "x": 123456789.5625}, {"k": 3, "x": 1.5}]
    old, new = engine.fill("s.float_old", columns, before), engine.fill("s.float_new", columns, after)
    queries = CountQueries(engine.dialect, old, new, decimals=decimals)
    assert engine.count(queries.matched(["k"], None))[3] == equal
