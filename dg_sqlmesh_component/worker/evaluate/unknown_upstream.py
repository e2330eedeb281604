"""Refuse to run if promoted models depend on models missing from the manifest.

The component divides models into steps and orders the steps by the manifest. A promoted model that the manifest lacks
is in no step or in a later step. Its downstream models would be computed before it, and their intervals would count as
computed for good.
"""

from __future__ import annotations

from sqlmesh.core.environment import Environment

from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.errors import EnvironmentNotReadyError
from dg_sqlmesh_component.protocol.formatting import block, listed, unquoted

_MAX_NAMED = 5
"""How many pairs of models a message names."""


def refuse_unknown_upstream(request: msg.EvaluationRequest, environment: Environment, plan: str) -> None:
    """Refuse to run models that read promoted models that are not in the manifest.

    Args:
        plan: The `sqlmesh plan` command that updates the environment.

    Raises:
        EnvironmentNotReadyError: Names the models on both sides and the command to run.
    """
    unknown = _unknown_reads(request, environment)
    if not unknown:
        return
    named = listed([f"{unquoted(model)} reads {unquoted(parent)}" for model, parent in unknown], _MAX_NAMED)
    raise EnvironmentNotReadyError(
        f"The models promoted in environment {request.environment} read models that the manifest does not know of: "
        f"{named}. This run would compute them without these models, and no later run would correct it. If the local "
        f"files equal the promoted models, the manifest is stale. Refresh it:{block('dg utils refresh-defs-state')}\n\n"
        f"If the local files are newer, promote them:{block(plan)}"
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
