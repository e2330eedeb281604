"""Whether the rows of a model's query depend on the range for which it is computed."""

from __future__ import annotations

from sqlglot.errors import SqlglotError
from sqlmesh.core.model import Model
from sqlmesh.utils.errors import SQLMeshError

_FIRST, _SECOND, _THIRD, _FOURTH = "2001-02-03", "2002-04-05", "2013-07-09", "2014-08-10"


def range_limits(model: Model) -> tuple[bool, bool]:
    """Whether a range has no rows before its start, and none after its end, by the rendered query.

    SQLMesh itself removes other rows of `INCREMENTAL_BY_TIME_RANGE`. Nobody knows which rows Python returns.
    """
    if model.kind.is_incremental_by_time_range or not model.is_sql:
        return True, True
    try:
        between = _rendered(model, _FIRST, _FOURTH)
        return _rendered(model, _SECOND, _FOURTH) != between, _rendered(model, _FIRST, _THIRD) != between
    except (SqlglotError, SQLMeshError):
        return True, True


def _rendered(model: Model, start: str, end: str) -> str:
    query = model.render_query(start=start, end=end, execution_time=_FOURTH)
    return "" if query is None else query.sql()


def uses_range(model: Model) -> bool:
    """Whether a computation of a range reads less than a computation of all time."""
    return any(range_limits(model))
