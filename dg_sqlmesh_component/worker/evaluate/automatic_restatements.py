"""Automatic restatements: refuse them in a run of a subset that they reach beyond."""

from __future__ import annotations

from collections.abc import Mapping, Set
from graphlib import TopologicalSorter

from sqlmesh.core.snapshot import Snapshot

from dg_sqlmesh_component.protocol.graph import reachable


def restated_before_its_source(snapshots: Mapping[str, Snapshot], requested: Set[str], now: int) -> str | None:
    """A requested model that would be restated now, although a restated model that it reads is not requested.

    If an `auto_restatement_cron` is due, SQLMesh removes the intervals of that model and of all its downstream models,
    whatever runs. A downstream model that runs alone would read data that is about to be replaced, and would never be
    computed again.

    Args:
        snapshots: The environment's, by name.
        now: The instant of the run, epoch milliseconds.
    """
    graph = {name: {parent.name for parent in snapshot.parents} for name, snapshot in snapshots.items()}
    restated: set[str] = set()
    for name in TopologicalSorter(graph).static_order():
        snapshot = snapshots.get(name)
        if snapshot is None or not snapshot.is_model or snapshot.model.disable_restatement:
            continue
        if snapshot.get_next_auto_restatement_interval(now) or restated & graph[name]:
            restated.add(name)

    def restated_parents_of_embedded(name: str) -> Set[str]:
        """An embedded model runs within the models that read it."""
        return restated & graph[name] if snapshots[name].is_symbolic else set()

    for name in sorted(restated & requested):
        upstream = reachable(restated & graph[name], restated_parents_of_embedded)
        if any(not snapshots[parent].is_symbolic and parent not in requested for parent in upstream):
            return name
    return None
