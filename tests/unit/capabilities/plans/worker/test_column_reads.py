"""Which columns of its upstream models a model reads: for its own columns, and to decide which rows it has."""

from pathlib import Path

import pytest
from harness import CONFIG, write_project
from sqlglot import exp, parse_one
from sqlmesh.core.context import Context

from dg_sqlmesh_component.capabilities.plans.worker.column_reads import column_reads, traced_columns

A = "MODEL (name t.a, kind FULL); SELECT 1 AS x, 2 AS y, 3 AS z"
B = "MODEL (name t.b, kind FULL); SELECT 1 AS x, 2 AS w"
PYTHON = """
from sqlmesh import model

@model("t.read", columns={"x": "int"}, kind="FULL")
def execute(context, **kwargs):
    return context.fetchdf("SELECT x FROM t.a")
"""

QUERIES = {
    "SELECT x, y AS q FROM t.a WHERE z > 1": {"a": {"x": ["x"], "y": ["q"], "z": ["*"]}},
    "SELECT x + y AS q FROM t.a": {"a": {"x": ["q"], "y": ["q"]}},
    "SELECT * FROM t.a": {"a": {"x": ["x"], "y": ["y"], "z": ["z"]}},
    "SELECT 1 AS one FROM t.a": {},
    "SELECT count(*) AS n FROM t.a GROUP BY y": {"a": {"y": ["*"]}},
    "SELECT a.y, b.w FROM t.a JOIN t.b ON a.x = b.x": {"a": {"y": ["y"], "x": ["*"]}, "b": {"w": ["w"], "x": ["*"]}},
    "WITH c AS (SELECT x AS k, z FROM t.a) SELECT k FROM c WHERE z = 1": {"a": {"x": ["k"], "z": ["*"]}},
    "SELECT x AS k FROM t.a UNION ALL SELECT w FROM t.b": {"a": {"x": ["k"]}, "b": {"w": ["k"]}},
    "SELECT x AS k FROM t.a UNION SELECT w FROM t.b": {"a": {"x": ["k", "*"]}, "b": {"w": ["k", "*"]}},
    "SELECT DISTINCT y FROM t.a": {"a": {"y": ["y", "*"]}},
    "SELECT x FROM t.a WHERE EXISTS (SELECT 1 FROM t.b WHERE b.w = a.y)": {
        "a": {"x": ["x"], "y": ["*"]}, "b": {"w": ["*"]},
    },
    "SELECT x, (SELECT max(w) FROM t.b WHERE b.x = a.z) AS m FROM t.a": {
        "a": {"x": ["x"], "z": ["m"]}, "b": {"w": ["m"], "x": ["m"]},
    },
    "SELECT x FROM t.a WHERE x IN (SELECT d.k FROM (SELECT w AS k, x AS l FROM t.b) AS d WHERE d.l > a.y)": {
        "a": {"x": ["x", "*"], "y": ["*"]}, "b": {"w": ["*"], "x": ["*"]},
    },
    "SELECT x, row_number() OVER (PARTITION BY y ORDER BY z) AS n FROM t.a": {
        "a": {"x": ["x"], "y": ["n"], "z": ["n"]},
    },
    "SELECT x FROM t.a ORDER BY y LIMIT 3": {"a": {"x": ["x"], "y": ["*"]}},
    "SELECT x FROM t.a QUALIFY row_number() OVER (ORDER BY z) = 1": {"a": {"x": ["x"], "z": ["*"]}},
    "SELECT * FROM raw.unknown": None,
}  # fmt: skip


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Context:
    models = {
        f"models/m{number}.sql": f"MODEL (name t.m{number}, kind FULL); {query}" for number, query in enumerate(QUERIES)
    }
    files = {"models/a.sql": A, "models/b.sql": B, "models/read.py": PYTHON, **models}
    return Context(paths=[write_project(tmp_path_factory.mktemp("reads") / "shop", files, CONFIG)])


@pytest.mark.parametrize(("number", "query"), list(enumerate(QUERIES)), ids=list(QUERIES))
def test_columns_that_a_query_reads(number: int, query: str, context: Context) -> None:
    found = column_reads(next(m for m in context.models.values() if m.name == f"t.m{number}"))
    expected = QUERIES[query]
    assert (found and {fqn.split(".")[-1].strip('"'): reads for fqn, reads in found.items()}) == expected


def test_a_column_of_a_cte_is_traced_once_although_each_level_mentions_it_several_times() -> None:
    ctes = [f"l{n} AS (SELECT l{n - 1}.x + l{n - 1}.x * l{n - 1}.x AS x FROM l{n - 1})" for n in range(1, 9)]
    query = parse_one(f"WITH l0 AS (SELECT a.x AS x FROM t.a AS a), {', '.join(ctes)} SELECT l8.x AS x FROM l8")
    assert isinstance(query, exp.Query)
    assert list(traced_columns(query)) == [(('"t"."a"', "x"), "x")]


def test_what_a_python_model_reads_is_not_known(context: Context) -> None:
    assert column_reads(next(m for m in context.models.values() if m.name == "t.read")) is None


def test_a_seed_reads_nothing(tmp_path: Path) -> None:
    seed = "MODEL (name t.seed, kind SEED (path '../seed.csv'))"
    project = write_project(tmp_path / "shop", {"models/seed.sql": seed, "seed.csv": "x\n1\n"}, CONFIG)
    [model] = Context(paths=[project]).models.values()
    assert column_reads(model) == {}
