"""The columns of a model that have another value each time they are computed: by the clock, or by chance."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlmesh.core.model import Model
from sqlmesh.utils.errors import SQLMeshError

from dg_sqlmesh_component.worker.plan.column_reads import CLOCK, traced_columns

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


def clock_columns(model: Model, upstream: Mapping[str, Collection[str]]) -> frozenset[str]:
    """Their names, as far as the query tells. `upstream` has those of upstream models, by fqn."""
    try:
        query = model.render_query(execution_time=_INSTANT) if model.is_sql else None
        if query is None:
            return frozenset()
        return frozenset(
            own
            for (table, column), own in traced_columns(query.transform(_marked))
            if table == CLOCK or column in upstream.get(table, ())
        )
    except (SqlglotError, SQLMeshError):
        return frozenset()


def _marked(node: exp.Expression) -> exp.Expression:
    name = node.name if isinstance(node, exp.Anonymous) else type(node).__name__
    is_instant = isinstance(node, exp.Literal) and any(text in node.name for text in _SPELLINGS)
    return exp.column("now", table=CLOCK) if is_instant or name.upper() in _FUNCTIONS else node
