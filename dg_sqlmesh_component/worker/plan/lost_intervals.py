"""The intervals that a plan takes from the readers of a model.

SQLMesh computes a new version only for its own `start`, `end` and `cron`, and shows it in place of the old one.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlmesh.core.snapshot import Snapshot
from sqlmesh.core.snapshot.definition import Interval

from dg_sqlmesh_component.protocol.intervals import common, subtract
from dg_sqlmesh_component.worker.intervals.tables import is_incremental


def lost_intervals(snapshot: Snapshot, old: Snapshot | None, computes: Sequence[Interval]) -> tuple[Interval, ...]:
    """The intervals that the old version of a model has, and the new one would not have.

    A view needs none, and SQLMesh loads a seed when it creates its table. A model of another kind than the incremental
    ones is computed as a whole, so it has everything up to its last interval.

    Args:
        computes: The missing intervals of the new version that the plan computes.
    """
    if old is None or not snapshot.is_model or snapshot.is_symbolic or snapshot.is_view or snapshot.is_seed:
        return ()
    if old.version == snapshot.version and old.model_kind_name == snapshot.model_kind_name:
        return ()  # the table and its rows stay, also if SQLMesh forgets its intervals, as for another interval unit
    if is_incremental(snapshot):
        return subtract(old.intervals, [*snapshot.intervals, *computes])
    if computes:
        return ()
    return subtract(old.intervals, [(0, end) for _, end in snapshot.intervals[-1:]])


def brought_back(snapshot: Snapshot, lost: tuple[Interval, ...], computed: Sequence[Interval]) -> tuple[Interval, ...]:
    """The lost intervals that a computation brings back. If SQLMesh computes a model as a whole, these are all."""
    if is_incremental(snapshot):
        return common(lost, computed)
    return lost if computed else ()
