"""The messages of a run of the janitor."""

from __future__ import annotations

from dataclasses import dataclass

from dg_sqlmesh_component.protocol.messages import Event, LastEvent, LockRequest


@dataclass(frozen=True, slots=True)
class JanitorRequest(LockRequest):
    """Run SQLMesh's janitor once; the answer is one `JanitorFinished`."""

    HOLDER = "janitor run"
    SERVED_BY = "capabilities.janitor.worker.janitor:run_janitor"


@dataclass(frozen=True, slots=True)
class ObjectDropped(Event):
    """Sent after the janitor has dropped one view, schema, table or catalog, if that existed.

    Source: `Console.update_cleanup_progress`.
    """

    name: str


@dataclass(frozen=True, slots=True)
class StateSize:
    """The size of the SQLMesh state."""

    snapshots: int  # versions of models
    interval_rows: int  # Rows of the `_intervals` table. Each run adds rows.


@dataclass(frozen=True, slots=True)
class JanitorFinished(LastEvent):
    """The last event of a `JanitorRequest` that was served. An `ObjectDropped` for each object precedes it."""

    environments: tuple[str, ...]  # the expired environments that were deleted
    # before, after: The size of the state before and after the deletion.
    before: StateSize
    after: StateSize
