"""The columns of its upstream models that a model reads: for its own columns, and to decide which rows it has.

SQLMesh's column lineage has only the first kind. A column that is read in a filter alone would look unused.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import chain

from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.optimizer.pushdown_projections import pushdown_projections
from sqlglot.optimizer.scope import Scope, build_scope
from sqlmesh.core.model import Model
from sqlmesh.utils.errors import SQLMeshError

from dg_sqlmesh_component.capabilities.plans.messages import ROWS, ColumnReads

_Column = tuple[str, str]
"""The fqn of a table, and the name of a column."""

CLOCK = "dg_sqlmesh clock"
"""A table that no query has: `clock_columns` writes its column in place of the functions of the clock."""

_DECIDES_ROWS = ("where", "having", "qualify", "group", "distinct", "connect")


class _UntracedError(Exception):
    """A column cannot be traced to tables by the query alone."""


def column_reads(model: Model) -> ColumnReads | None:
    """By upstream table and column, what the model makes of it; None if the query does not tell.

    Examples are a Python model, and `SELECT *` of a table whose columns are not known.
    """
    if model.is_seed:
        return {}
    if not model.is_sql:
        return None
    try:
        query = model.render_query()
        scope = build_scope(query) if query is not None else None
        if scope is None:
            return None
        reads: ColumnReads = {}
        for (table, column), own in _pairs(scope):
            of_column = reads.setdefault(table, {}).setdefault(column, [])
            if own not in of_column:
                of_column.append(own)
        return reads
    except (_UntracedError, SqlglotError, SQLMeshError):
        return None


def traced_columns(query: exp.Query) -> Iterator[tuple[_Column, str]]:
    """What each column of a query is made of. Columns that cannot be traced are left out.

    Raises a SqlglotError if sqlglot cannot analyze the query.
    """
    scope = build_scope(query)
    for name in scope.expression.named_selects if scope is not None else ():
        try:
            origins = _of_output(scope, name)
        except _UntracedError:
            continue
        yield from ((origin, name) for origin in origins)


def _pairs(scope: Scope) -> Iterator[tuple[_Column, str]]:
    for name in scope.expression.named_selects:
        yield from ((origin, name) for origin in _of_output(scope, name))
    for inner in scope.traverse():
        if not _is_in_subquery(inner):  # else its columns are those of the expression that it is in
            yield from ((origin, ROWS) for origin in _deciding_rows(inner))


def _is_in_subquery(scope: Scope | None) -> bool:
    return scope is not None and (scope.is_subquery or _is_in_subquery(scope.parent))


def _deciding_rows(scope: Scope) -> Iterator[_Column]:
    """The columns by which a part of the query has these rows and no others."""
    query = scope.expression
    if isinstance(query, exp.SetOperation):
        if query.args.get("distinct") or not isinstance(query, exp.Union):
            for name in query.named_selects:
                yield from _of_output(scope, name)
        return
    if not isinstance(query, exp.Select):
        return
    parts = [query.args[name] for name in _DECIDES_ROWS if isinstance(query.args.get(name), exp.Expression)]
    parts += query.args.get("joins") or ()
    if query.args.get("distinct"):
        parts += query.selects
    if query.args.get("limit") or query.args.get("offset"):
        parts += [query.args["order"]] if query.args.get("order") else []
    for part in parts:
        yield from _of_expression(scope, part)


def _of_expression(scope: Scope, expression: exp.Expression) -> Iterator[_Column]:
    if isinstance(expression, exp.Star):
        raise _UntracedError
    for column in expression.find_all(exp.Column):
        yield from _of_column(scope, column)


def _of_column(scope: Scope, column: exp.Column) -> Iterator[_Column]:
    if isinstance(column.this, exp.Star):
        raise _UntracedError
    if column.table == CLOCK:
        yield CLOCK, column.name
        return
    within = (inner for subquery in scope.subquery_scopes for inner in subquery.traverse())
    owner = next((s for s in within if column.table in s.sources and any(c is column for c in s.columns)), scope)
    source = owner.sources.get(column.table)
    if source is None:
        raise _UntracedError
    if isinstance(source, exp.Table):
        yield ".".join(f'"{part.name}"' for part in source.parts), column.name
    else:
        yield from _of_output(source, column.name)


@lru_cache(maxsize=4096)
def _of_output(scope: Scope, name: str) -> tuple[_Column, ...]:
    """What a column of a query is made of.

    Without the cache, a column that is mentioned k times in each of n nested CTEs would be traced k^n times.
    """
    query = scope.expression
    if not isinstance(query, exp.Query) or name not in query.named_selects:
        raise _UntracedError
    position = query.named_selects.index(name)
    parts: list[Iterable[_Column]] = [_of_expression(scope, query.selects[position])]
    if isinstance(query, exp.SetOperation):
        parts = [_of_output(inner, inner.expression.named_selects[position]) for inner in scope.union_scopes]
    return tuple(dict.fromkeys(chain.from_iterable(parts)))


_FUNCTIONS = {
    "CLOCK_TIMESTAMP", "CURRENTDATE", "CURRENTDATETIME", "CURRENTTIME", "CURRENTTIMESTAMP", "CURRENTTIMESTAMPLTZ",
    "GET_CURRENT_TIMESTAMP", "LOCALTIME", "LOCALTIMESTAMP", "NOW", "RAND", "RANDN", "STATEMENT_TIMESTAMP", "SYSDATE",
    "SYSTIMESTAMP", "TIMEOFDAY", "TRANSACTION_TIMESTAMP", "UNIX_TIMESTAMP", "UTCDATE", "UTCTIME", "UTCTIMESTAMP",
    "UUID",
}  # fmt: skip
"""Classes of sqlglot, and names of functions for which a dialect of sqlglot has none."""

_INSTANT = "1973-05-11 03:14:15"
_SPELLINGS = ("1973-05-11", "19730511", "1059380")
"""What SQLMesh's macros, such as @execution_ts, make of this execution time. sqlglot adds up numbers."""


def clock_columns(
    new: Model, old: Model, upstream: Mapping[str, Collection[str]], changed: Collection[str]
) -> frozenset[str]:
    """The columns of a model that differ from prod each time they are computed: by the clock or by chance alone.

    These are those that the query tells. A column that prod defines in another way is left out. If the model reads a
    changed one, so is a column that is made of others, too.

    Args:
        upstream: These columns of upstream models, by fqn.
        changed: The models whose rows differ by more than that, by fqn.
    """
    try:
        query, promoted = (m.render_query(execution_time=_INSTANT) if m.is_sql else None for m in (new, old))
        if query is None or promoted is None:
            return frozenset()
        by_clock, by_others = set[str](), set[str]()
        for (table, column), own in traced_columns(query.transform(_marked)):
            is_clock = table == CLOCK or column in upstream.get(table, ())
            (by_clock if is_clock else by_others).add(own)
        found = by_clock if new.depends_on.isdisjoint(changed) else by_clock - by_others
        return frozenset(name for name in found if _definition(query, name) == _definition(promoted, name))
    except (SqlglotError, SQLMeshError):
        return frozenset()


def _definition(query: exp.Query, name: str) -> exp.Query:
    """The query of a column alone, without the columns of its parts that are not needed for it."""
    query = query.copy()
    if isinstance(query, exp.Select) and not (query.args.get("distinct") or query.args.get("group")):
        query.set("expressions", [column for column in query.selects if column.alias_or_name == name])
    is_qualified = all(column.table for column in query.find_all(exp.Column))
    alone = exp.select(exp.column(name, table="q", quoted=True)).from_(query.subquery("q"))
    return pushdown_projections(alone) if is_qualified else alone


def _marked(node: exp.Expression) -> exp.Expression:
    name = node.name if isinstance(node, exp.Anonymous) else type(node).__name__
    is_instant = isinstance(node, exp.Literal) and any(text in node.name for text in _SPELLINGS)
    return exp.column("now", table=CLOCK) if is_instant or name.upper() in _FUNCTIONS else node
