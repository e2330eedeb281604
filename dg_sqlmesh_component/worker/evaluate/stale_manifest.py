"""Refuse to run if the manifest is stale: it differs from the project's configuration or from the promoted models."""

from __future__ import annotations

from sqlmesh.core.context import Context
from sqlmesh.core.environment import Environment

from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.errors import ConfigurationError, EnvironmentNotReadyError
from dg_sqlmesh_component.protocol.formatting import block, listed, plan_block, unquoted
from dg_sqlmesh_component.worker.context import environment_name

_MAX_NAMED = 5
"""How many pairs of models a message names."""

_REFRESH = block("dg utils refresh-defs-state")


def refuse_changed_defaults(request: msg.EvaluationRequest, context: Context) -> None:
    """Refuse a gateway or environment other than the manifest's: its results would be reported for the wrong assets."""
    manifest = request.manifest_facts
    if manifest is None:
        return
    defaults = [("gateway", manifest.gateway, context.selected_gateway)]
    if manifest.environment is not None:
        defaults.append(("environment", manifest.environment, environment_name(request.project, context)))
    for name, in_manifest, in_project in defaults:
        if in_project != in_manifest:
            raise ConfigurationError(
                f"The manifest of the SQLMesh project was created for {name} {in_manifest!r}, but the project's "
                f"configuration now has {name} {in_project!r}, perhaps because of an environment variable. Set "
                f"`project.{name}` in defs.yaml, or refresh the manifest with the variables of this deployment:"
                f"{_REFRESH}"
            )


def refuse_unknown_upstream(request: msg.EvaluationRequest, environment: Environment, plan: str) -> None:
    """Refuse to run models that read promoted models that are not in the manifest.

    The component orders its steps by the manifest. A promoted model that the manifest lacks is in no step or in a later
    step. Its downstream models would be computed before it, and their intervals would count as computed for good.

    Args:
        plan: The `sqlmesh plan` command that updates the environment.
    """
    unknown = _unknown_reads(request, environment)
    if not unknown:
        return
    named = listed([f"{unquoted(model)} reads {unquoted(parent)}" for model, parent in unknown], _MAX_NAMED)
    raise EnvironmentNotReadyError(
        f"The models promoted in environment {request.environment} read models that the manifest does not know of: "
        f"{named}. This run would compute them without these models, and no later run would correct it. If the local "
        f"files equal the promoted models, the manifest is stale. Refresh it:{_REFRESH}\n\n"
        f"If the local files are newer, promote them:{plan_block(plan)}"
    )


def _unknown_reads(request: msg.EvaluationRequest, environment: Environment) -> list[tuple[str, str]]:
    """Pairs of a requested model and a promoted model that it reads unknown to the manifest."""
    manifest = request.manifest_facts
    if manifest is None:
        return []
    by_id = {snapshot.snapshot_id: snapshot for snapshot in environment.snapshots}
    requested = set(request.models)
    return [
        (snapshot.name, parent.name)
        for snapshot in environment.snapshots
        if snapshot.name in requested
        for parent in snapshot.parents  # includes models that are read through an embedded model
        if parent.name not in manifest.assets
        and parent.name not in manifest.upstream_outside_assets.get(snapshot.name, ())
        and parent in by_id
        and not (by_id[parent].is_symbolic or by_id[parent].is_seed)  # these never have pending intervals
    ]
