"""Sentences about models that are being computed. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from dg_sqlmesh_component.definitions.project_assets import ProjectAssets
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.formatting import as_sentence, duration_text, listed


def progress(assets: ProjectAssets, event: msg.BatchesRunning) -> str:
    """Which nodes run, the longest-running ones first, and how many have finished."""
    running = [
        f"{assets.name(fqn)} for {duration_text(timedelta(seconds=int(seconds)))}"
        + (f" ({finished} of {planned} batches finished)" if planned > 1 else "")
        for fqn, (finished, planned, seconds) in sorted(event.running.items(), key=lambda item: -item[1][2])
    ]
    return f"Running: {listed(running)}. Finished: {event.finished} of {event.planned}."


def not_cancelled(assets: ProjectAssets, event: msg.QueriesNotCancelled) -> str:
    """Which queries the engine may still execute after a cancelled run, and why."""
    return " ".join(
        f"A query of {assets.name(fqn)} was not cancelled: {as_sentence(reason)} End it in the engine."
        for fqn, reason in sorted(event.reasons.items())
    )


def killed(assets: ProjectAssets, seconds: float, running: Sequence[str]) -> str:
    """The problem of a cancelled run whose worker had to be killed.

    Args:
        running: The nodes that still ran.
    """
    names = listed([assets.name(node) for node in running]) or "it"
    return (
        f"The run was cancelled. SQLMesh's process was killed after {seconds:.0f} seconds, because {names} was still "
        "running."
    )
