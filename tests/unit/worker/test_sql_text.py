"""Readable SQL: only necessary quotes. Arguments of audits that are recognized in a stored version."""

import pytest
import sqlglot
from sqlglot import exp
from sqlmesh.core.dialect import parse
from sqlmesh.core.model import Model, SqlModel, load_sql_based_model

from dg_sqlmesh_component.worker.sql_text import arguments_hash, audit_arguments, plain_sql


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


def audited(model: Model) -> dict[str, exp.Expr]:
    [(_, args)] = model.audits_with_args
    return args


@pytest.mark.parametrize(
    ("dialect", "argument"),
    [
        ("clickhouse", "value := CAST('2026-01-01' AS DATE)"),
        ("duckdb", 'condition := x / 2 = "Weird Name"'),
        ("redshift", "columns := [a, b]"),
        ("snowflake", "condition := TRY_CAST(a AS DECIMAL(10, 2)) IS NULL"),
        ("spark", "criteria := (a != 1, b::INT = 2 /* two */)"),
        ("tsql", "condition := x / 2 = [y]"),
    ],
)
def test_stored_arguments_of_another_text_have_the_same_hash(dialect: str, argument: str) -> None:
    sql = f"MODEL (name t.x, dialect {dialect}, audits (not_null({argument}, blocking := false))); SELECT 1 AS id"
    model = load_sql_based_model(parse(sql, default_dialect=dialect), dialect=dialect)
    stored = SqlModel.model_validate_json(model.json())
    assert audit_arguments(audited(stored), dialect) != audit_arguments(audited(model), dialect)
    assert arguments_hash(audited(stored)) == arguments_hash(audited(model))


def test_other_arguments_have_another_hash() -> None:
    uses: list[dict[str, exp.Expr]] = [
        {},
        {"columns": exp.column("a")},
        {"columns": exp.column("b")},
        {"column": exp.column("a")},
        {"columns": exp.column("a"), "condition": exp.column("b")},
    ]
    assert len(set(map(arguments_hash, uses))) == len(uses)
    assert arguments_hash(dict(reversed(uses[-1].items()))) == arguments_hash(uses[-1])
