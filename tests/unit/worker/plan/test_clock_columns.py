"""Which columns of a model have another value each time they are computed."""

import pytest
from sqlmesh.core.dialect import parse
from sqlmesh.core.model import load_sql_based_model

from dg_sqlmesh_component.worker.plan.column_reads import clock_columns

QUERIES = {
    "SELECT id, CURRENT_TIMESTAMP AS loaded_at FROM t.a": {"loaded_at"},
    "SELECT *, now()::DATE AS loaded_on FROM raw.unknown": {"loaded_on"},
    "SELECT @execution_ts AS a, @execution_ds::DATE AS b, @execution_epoch + 1 AS c, @execution_millis AS d, 1 AS f": {
        "a", "b", "c", "d",
    },
    "WITH w AS (SELECT id, random() AS r FROM t.a) SELECT id, w.r + 1 AS x, uuid() AS y FROM w": {"x", "y"},
    "SELECT id, upstream.at AS seen_at, other FROM t.upstream": {"seen_at"},
    "SELECT id FROM t.a WHERE day < CURRENT_DATE": set(),
    "SELECT 1 AS now, DATE '2026-01-01' AS day": set(),
}  # fmt: skip


@pytest.mark.parametrize("query", QUERIES)
def test_columns_of_the_clock_are_followed_through_the_query(query: str) -> None:
    parsed = parse(f"MODEL (name t.m, dialect duckdb, kind FULL); {query}", default_dialect="duckdb")
    found = clock_columns(load_sql_based_model(parsed), {'"t"."upstream"': {"at"}})
    assert found == QUERIES[query]
