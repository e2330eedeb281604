"""SQL for people. SQLMesh quotes every identifier, even if it would be the same without quotes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from itertools import chain
from typing import Any

import sqlglot
from sqlglot import exp
from sqlglot.dialects.dialect import Dialect
from sqlglot.errors import SqlglotError
from sqlmesh.core.audit import Audit
from sqlmesh.core.model import Model

from dg_sqlmesh_component.protocol.formatting import short_hash


def plain_sql(expression: Any, dialect: str | None) -> str:
    """An expression as SQL without comments, and without quotes around identifiers that need none."""
    copy = expression.copy()
    for identifier in copy.find_all(exp.Identifier):
        if identifier.args.get("quoted") and _needs_no_quotes(identifier.name, dialect):
            identifier.set("quoted", False)
    return str(copy.sql(dialect=dialect, comments=False))  # which quotes the dialect's reserved words again


def audit_arguments(args: Mapping[str, exp.Expr], dialect: str | None) -> dict[str, str]:
    """Arguments of an audit's query as SQL text, in the order written. `blocking` is not among them."""
    return {name: value.sql(dialect=dialect, comments=False) for name, value in args.items() if name != "blocking"}


def arguments_hash(args: Mapping[str, exp.Expr]) -> str:
    """Tells uses of one audit apart. It is the same for the arguments of a file and for those of its stored version.

    Their text is not: SQLMesh stores it, and reads it again, without the model's dialect, which may then write another
    one. Spark, for example, has `TRY_CAST` then for `CAST`. Without a dialect, the text stays.
    """
    return short_hash(chain.from_iterable(sorted(audit_arguments(args, None).items())))


def is_blocking(audit: Audit, args: Mapping[str, exp.Expr]) -> bool:
    """Whether a failure of this use of an audit stops the model. The use decides, before the audit."""
    return args["blocking"] == exp.true() if "blocking" in args else audit.blocking


def column_types(model: Model, columns: Mapping[str, exp.DataType] | None) -> dict[str, str]:
    """The type of each column in the dialect of its model; empty if they are not known."""
    dialect = model.dialect or None
    return {name: type_.sql(dialect=dialect, comments=False) for name, type_ in (columns or {}).items()}


@lru_cache(maxsize=10_000)
def _needs_no_quotes(name: str, dialect: str | None) -> bool:
    """Whether the dialect reads the bare name as a column of exactly that name."""
    bare = Dialect.get_or_raise(dialect).normalize_identifier(exp.to_identifier(name, quoted=False))
    if bare.name != name:
        return False
    try:
        parsed = sqlglot.parse_one(name, dialect=dialect)
    except SqlglotError:
        return False
    return isinstance(parsed, exp.Column) and parsed.name == name and not parsed.table
