"""Which columns of a model have another value each time they are computed."""

import pytest
from sqlmesh.core.model import Model
from unit.worker import snapshots

from dg_sqlmesh_component.capabilities.plans.worker.column_reads import clock_columns

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


UPSTREAM = {'"t"."upstream"': {"at"}}


def model(query: str) -> Model:
    return snapshots.model("name t.m, kind FULL", query)


@pytest.mark.parametrize("query", QUERIES)
def test_columns_of_the_clock_are_followed_through_the_query(query: str) -> None:
    assert clock_columns(model(query), model(query), UPSTREAM, ()) == QUERIES[query]


OVERDUE = "CASE WHEN a.due < CURRENT_DATE THEN a.amount * {} ELSE 0 END AS overdue"
WITH = "WITH w AS (SELECT a.id, {} AS x, " + OVERDUE + " FROM t.a AS a {}) SELECT w.id, w.x, w.overdue FROM w"
UNION = f"SELECT {{}} AS x, now() AS at, {OVERDUE} FROM t.a AS a UNION ALL SELECT 1 AS x, now() AS at, 2 AS overdue"
CHANGES = {
    "the column": (f"SELECT a.id, {OVERDUE} FROM t.a AS a", "2", "3", set()),
    "the column in a CTE": (WITH.format("1", "{}", ""), "2", "3", set()),
    "another column of the CTE": (WITH.format("{}", 2, ""), "1", "2", {"overdue"}),
    "the rows of the CTE": (WITH.format(1, 2, "WHERE a.id < {}"), "2", "3", set()),
    "another column of a part of UNION": (UNION.replace("* {}", "* 2"), "1", "2", {"at", "overdue"}),
    "the column in a part of UNION": (UNION.replace("{} AS x", "1 AS x"), "1", "2", {"at"}),
    "another column of unknown ones": ("SELECT *, now() AS at, {} AS x FROM raw.unknown", "1", "2", {"at"}),
    "another column than one of unknown ones": ("SELECT x + {} AS x, now() AS at FROM raw.a, raw.b", "1", "2", {"at"}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_column_whose_definition_has_changed_does_not_differ_by_the_clock_alone(change: str) -> None:
    query, before, after, expected = CHANGES[change]
    assert clock_columns(model(query.format(after)), model(query.format(before)), {}, ()) == expected


def test_a_column_that_is_made_of_others_too_does_not_count_if_the_model_reads_a_changed_one() -> None:
    reader = model(f"SELECT a.id, now() AS at, {OVERDUE.format(2)} FROM t.a AS a")
    assert clock_columns(reader, reader, {}, {'"t"."b"'}) == {"at", "overdue"}
    assert clock_columns(reader, reader, {}, {'"t"."a"'}) == {"at"}
