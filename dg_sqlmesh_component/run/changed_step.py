"""Refuses a step whose assets have changed since its run was created.

Each Dagster process loads definitions itself. If the project was reloaded after a run was created (`dg dev`, `dg utils
refresh-defs-state`), a step may have other models than planned. A model that has moved to another step, or that was
removed, would not be executed, and nobody would notice.
"""

from __future__ import annotations

from collections.abc import Iterable

import dagster as dg

from dg_sqlmesh_component.dagster_internals.steps import JobOfAssets, planned_selection
from dg_sqlmesh_component.protocol.errors import ConfigurationError
from dg_sqlmesh_component.protocol.formatting import listed


def refuse_changed_step(context: dg.AssetExecutionContext) -> None:
    """Compare the step with the plan of its run, and with the plan of the failed run that this run repeats.

    Raises:
        ConfigurationError: With the assets and checks that are missing or new.
    """
    if isinstance(context, JobOfAssets):
        return  # the plan of its run has no assets
    selected = {*context.selected_asset_keys, *context.selected_asset_check_keys}
    planned = planned_selection(context, context.run)
    if planned is not None and planned != selected:
        raise ConfigurationError(
            f"The project was reloaded after this run was created.{_named('No longer', planned - selected)}"
            f"{_named('Now also', selected - planned)} Nothing was run in this step. Launch a new run."
        )
    if context.run.parent_run_id is None or context.run.step_keys_to_execute is None:
        return  # the run does not repeat steps of another run
    parent = context.instance.get_run_by_id(context.run.parent_run_id)
    planned_before = parent and planned_selection(context, parent)
    lost = {key for key in planned_before or () if isinstance(key, dg.AssetKey)} - selected
    if lost:
        raise ConfigurationError(
            "The project was reloaded after the run that this one repeats was created."
            f"{_named('No longer', lost)} Nothing was run in this step. Launch a new run of all assets that were not "
            "materialized, instead of repeating steps."
        )


def _named(change: str, keys: Iterable[dg.AssetKey | dg.AssetCheckKey]) -> str:
    names = sorted(key.to_user_string() for key in keys)
    return f" {change} part of this step: {listed(names)}." if names else ""
