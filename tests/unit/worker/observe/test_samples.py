"""Which names of an audit's query stand for masked columns."""

import pytest
from sqlglot import parse_one

from dg_sqlmesh_component.worker.observe.samples import masked_names


@pytest.mark.parametrize(
    ("query", "masked"),
    [
        ("SELECT * FROM t", set()),
        ("SELECT id, note FROM t", set()),
        ("SELECT t.Email AS contact, id FROM t", {"email", "contact"}),
        ("SELECT lower(email) || id AS a FROM t", {"email", "a"}),
        ("WITH c AS (SELECT email AS e FROM t) SELECT substr(e, 1) AS f, id FROM c", {"email", "e", "f"}),
        ("SELECT id, count(*) AS n FROM t WHERE email IS NULL GROUP BY id", {"email"}),
        ("SELECT max(api_key) AS k FROM t", {"api_key", "k"}),
        # Any column may hold the values: the engine or a position gives its name.
        ("SELECT email || 'x' FROM t", {"email", ""}),
        ("SELECT (SELECT max(email) FROM t) AS m FROM u", {"email", "m", ""}),
        ("SELECT id FROM t UNION SELECT email FROM t", {""}),
        ("WITH c(a) AS (SELECT email FROM t) SELECT a FROM c", {""}),
    ],
)
def test_names_of_expressions_of_masked_columns_are_masked(query: str, masked: set[str]) -> None:
    assert masked_names(parse_one(query), ["email"]) == masked
