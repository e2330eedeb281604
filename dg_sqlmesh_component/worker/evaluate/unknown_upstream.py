"""Whether what is promoted reads only what the stored manifest knows.

Steps are cut and put in order by that description. A model that the environment has behind its back is in no step, or
in a later one: what reads it would be computed first, and its intervals would count as computed for good.
"""

from __future__ import annotations

from sqlmesh.core.environment import Environment

from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.errors import EnvironmentNotReadyError
from dg_sqlmesh_component.protocol.formatting import bare, listed

_NAMED = 5
"""How many of them a message names."""


def refuse_what_nobody_described(request: msg.EvaluationRequest, environment: Environment, plan: str) -> None:
    """Refuse to run models that read promoted models of which the description does not say so.

    Raises:
        EnvironmentNotReadyError: Names both, and what to do.
    """
    unknown = _unknown_reads(request, environment)
    if not unknown:
        return
    named = listed([f"{bare(model)} reads {bare(read)}" for model, read in unknown], _NAMED)
    raise EnvironmentNotReadyError(
        f"What environment {request.environment} has promoted reads models that the description of the project behind "
        f"these assets does not know of: {named}. In this run they would be computed without them, "
        "and not again. Where the local files are what is promoted, that description is older: dg utils "
        f"refresh-defs-state. Where they are newer, promote them: {plan}"
    )


def _unknown_reads(request: msg.EvaluationRequest, environment: Environment) -> list[tuple[str, str]]:
    described = request.described_as
    if described is None:
        return []
    by_id = {snapshot.snapshot_id: snapshot for snapshot in environment.snapshots}
    requested = set(request.models)
    return [
        (snapshot.name, parent.name)
        for snapshot in environment.snapshots
        if snapshot.name in requested
        for parent in snapshot.parents  # those behind an embedded model are among them
        if parent.name not in described.assets
        and parent.name not in described.read_beyond.get(snapshot.name, ())
        and parent in by_id
        and not (by_id[parent].is_symbolic or by_id[parent].is_seed)  # nothing of it ever is due
    ]
