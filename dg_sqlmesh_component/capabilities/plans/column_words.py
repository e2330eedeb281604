"""Changes of columns, in words."""

from __future__ import annotations

from collections.abc import Iterable

from dg_sqlmesh_component.capabilities.plans import messages as msg


def described(change: msg.ColumnChange) -> str:
    """What readers see of a change."""
    if change.after is None:
        return f"drops {change.name}"
    if change.before is None:
        return f"adds {change.name}" + (f" {change.after}" if change.after else "")
    return f"changes {change.name} from {change.before} to {change.after}"


def dropped(change: msg.ColumnChange) -> str:
    """What SQLMesh does to a column of an existing table (`PlannedModel.destructive`)."""
    if change.after is not None:
        return f"drops {change.name} and adds it again as {change.after}"
    return f"drops {change.name}" + (" (not in the promoted definition)" if change.before is None else "")


def all_dropped(columns: Iterable[msg.ColumnChange]) -> str:
    """As `dropped`, of several columns."""
    return ", ".join(map(dropped, columns))


def lost_values(models: Iterable[msg.PlannedModel]) -> tuple[str, ...]:
    """The models whose existing tables lose columns, each with what SQLMesh does to them."""
    return tuple(
        f"{model.name} ({all_dropped(model.table.destructive)})" for model in models if model.table.destructive
    )
