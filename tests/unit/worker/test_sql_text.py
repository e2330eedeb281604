"""Readable SQL: only necessary quotes."""

import pytest
import sqlglot

from dg_sqlmesh_component.worker.sql_text import plain_sql


@pytest.mark.parametrize(
    ("dialect", "sql", "shown"),
    [
        ("duckdb", '"event_date"', "event_date"),
        ("duckdb", '"Event Date"', '"Event Date"'),
        ("duckdb", '"a.b"', '"a.b"'),
        ("duckdb", '"order"', '"order"'),
        ("duckdb", '"date"', "date"),
        ("duckdb", '"current_date"', '"current_date"'),
        ("duckdb", '"2nd"', '"2nd"'),
        ("duckdb", "DATE_TRUNC('MONTH', \"event_date\")", "DATE_TRUNC('MONTH', event_date)"),
        ("duckdb", '"event_date" /* local time */', "event_date"),
        ("snowflake", '"EVENT_DATE"', "EVENT_DATE"),
        ("snowflake", '"event_date"', '"event_date"'),
        ("bigquery", "`event_date`", "event_date"),
        ("postgres", '"EventDate"', '"EventDate"'),
        (None, '"event_date"', "event_date"),
    ],
)
def test_only_necessary_quotes_are_kept(dialect: str | None, sql: str, shown: str) -> None:
    expression = sqlglot.parse_one(sql, dialect=dialect)
    before = expression.sql(dialect=dialect)
    assert plain_sql(expression, dialect) == shown
    assert expression.sql(dialect=dialect) == before, "SQLMesh still uses the expression, so it must not change"
