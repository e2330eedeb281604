"""SQL for people: SQLMesh quotes every identifier, also one that would be the same without quotes."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import sqlglot
from sqlglot import exp
from sqlglot.dialects.dialect import Dialect
from sqlglot.errors import SqlglotError


def plain_sql(expression: Any, dialect: str | None) -> str:
    """An expression as SQL without comments, and without quotes around identifiers that need none."""
    shown = expression.copy()
    for identifier in shown.find_all(exp.Identifier):
        if identifier.args.get("quoted") and _needs_no_quotes(identifier.name, dialect):
            identifier.set("quoted", False)
    return str(shown.sql(dialect=dialect, comments=False))  # which quotes the dialect's reserved words again


@lru_cache(maxsize=10_000)
def _needs_no_quotes(name: str, dialect: str | None) -> bool:
    """Whether the dialect takes the bare name for a column of exactly that name."""
    bare = Dialect.get_or_raise(dialect).normalize_identifier(exp.to_identifier(name, quoted=False))
    if bare.name != name:
        return False
    try:
        read = sqlglot.parse_one(name, dialect=dialect)
    except SqlglotError:
        return False
    return isinstance(read, exp.Column) and read.name == name and not read.table
