"""Whether a step is still what its run was planned with.

Each process of Dagster's builds definitions of its own. If the project was reloaded after a run was created (a
reload in `dg dev`, `dg utils refresh-defs-state`), a step may hold other models than it was planned with: a model that
has moved to another step, or away, would be neither run nor missed.
"""

from __future__ import annotations

from collections.abc import Iterable

import dagster as dg

from dg_sqlmesh_component.dagster_internals import planned_selection
from dg_sqlmesh_component.protocol.errors import DeclarationError
from dg_sqlmesh_component.protocol.formatting import listed


def refuse_what_was_not_planned(context: dg.AssetExecutionContext) -> None:
    """Refuse a step that is not what its run, or the run that it repeats from its failure, was planned with.

    Raises:
        DeclarationError: Names what is missing and what is new.
    """
    selected = {*context.selected_asset_keys, *context.selected_asset_check_keys}
    planned = planned_selection(context, context.run)
    if planned is not None and planned != selected:
        raise DeclarationError(
            f"The project was reloaded after this run was created.{_named('No longer', planned - selected)}"
            f"{_named('Now also', selected - planned)} Nothing was run in this step. Launch a new run."
        )
    if context.run.parent_run_id is None or context.run.step_keys_to_execute is None:
        return  # it repeats no steps of another run
    parent = context.instance.get_run_by_id(context.run.parent_run_id)
    before = parent and planned_selection(context, parent)
    lost = {key for key in before or () if isinstance(key, dg.AssetKey)} - selected
    if lost:
        raise DeclarationError(
            "The project was reloaded after the run that this one repeats was created."
            f"{_named('No longer', lost)} Nothing was run in this step. Launch a new run of everything that is "
            "missing, instead of steps of that one."
        )


def _named(what: str, keys: Iterable[dg.AssetKey | dg.AssetCheckKey]) -> str:
    names = sorted(key.to_user_string() for key in keys)
    return f" {what} part of this step: {listed(names)}." if names else ""
