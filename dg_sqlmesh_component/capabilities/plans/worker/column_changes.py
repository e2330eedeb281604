"""How the columns of two definitions or tables differ."""

from __future__ import annotations

from collections.abc import Mapping

from sqlglot import exp
from sqlmesh.utils import columns_to_types_all_known

from dg_sqlmesh_component.capabilities.plans.messages import ColumnChange

Columns = Mapping[str, exp.DataType]


def column_change(name: str, before: Columns, after: Columns, dialect: str) -> ColumnChange:
    """The column of this name on both sides."""
    return ColumnChange(name, _type(before.get(name), dialect), _type(after.get(name), dialect))


def column_changes(before: Columns, after: Columns, dialect: str) -> tuple[ColumnChange, ...]:
    """Lost and retyped columns, then new ones.

    Types are compared where both are known: SQLMesh may know names only. They are compared as the dialect writes them,
    because sqlglot has several types for one of an engine.
    """
    changes = [column_change(name, before, after, dialect) for name in dict.fromkeys([*before, *after])]
    return tuple(
        change
        for change in changes
        if None in (change.before, change.after)
        or ("" not in (change.before, change.after) and change.before != change.after)
    )


def is_known(type_: exp.DataType) -> bool:
    """Whether SQLMesh knows a type before it computes the model."""
    return bool(columns_to_types_all_known({"": type_}))


def _type(type_: exp.DataType | None, dialect: str) -> str | None:
    return None if type_ is None else type_.sql(dialect) if is_known(type_) else ""
