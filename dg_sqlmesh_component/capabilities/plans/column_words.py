"""Changes of columns, and in words. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from dg_sqlmesh_component.capabilities.plans import messages as msg


def columns_of(model: msg.PlannedModel, compared: msg.ModelCompared | None) -> tuple[msg.ColumnChange, ...] | None:
    """The columns that consumers of a model gain, lose or see with another type; None if they are not known.

    A preview has computed the model, so its table tells what SQLMesh did not know.
    """
    if model.columns is not None:
        return model.columns
    return compared.schema if compared and compared.error is None else None


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
