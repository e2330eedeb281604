"""The snapshots that a plan reads again and again while it is applied, with the intervals of each moment."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from sqlmesh.core.snapshot import Snapshot, SnapshotId, SnapshotIdLike
from sqlmesh.core.state_sync import StateReader


class StoredSnapshots:
    """Reads each snapshot once from the state, and its intervals each time.

    Reading them all takes seconds for hundreds of models, while runs wait: SQLMesh reads those again that it has
    computed, and all of them after it has promoted. The rest of what it writes there, such as when prod began to show a
    version, tells nothing about a table.

    Args:
        state: Opens the state of the project.
    """

    def __init__(self, state: Callable[[], StateReader]) -> None:
        self._state = state
        self._known: dict[SnapshotId, Snapshot] = {}

    def now(self, infos: Iterable[SnapshotIdLike], new: Iterable[Snapshot] = ()) -> dict[str, Snapshot]:
        """Snapshots by name. If the state does not have a `new` one yet, it may share a table with another version."""
        stored = self._read(infos)
        copies = {one.snapshot_id: one.copy() for one in new} | {key: one.copy() for key, one in stored.items()}
        self._state().refresh_snapshot_intervals(copies.values())
        return {snapshot.name: snapshot for snapshot in copies.values()}

    def get_snapshots(self, infos: Iterable[SnapshotIdLike]) -> dict[SnapshotId, Snapshot]:
        """As the method of SQLMesh's state."""
        copies = {key: one.copy() for key, one in self._read(infos).items()}
        self._state().refresh_snapshot_intervals(copies.values())
        return copies

    def _read(self, infos: Iterable[SnapshotIdLike]) -> dict[SnapshotId, Snapshot]:
        ids = [info.snapshot_id for info in infos]
        missing = [one for one in ids if one not in self._known]
        found = self._state().get_snapshots(missing) if missing else {}
        for key, snapshot in found.items():
            if not snapshot.is_seed:  # SQLMesh adds the rows of a seed to one that it has read
                self._known[key] = _without_intervals(snapshot)
        return {key: known for key in ids if (known := self._known.get(key) or found.get(key)) is not None}


def _without_intervals(snapshot: Snapshot) -> Snapshot:
    """A copy without what SQLMesh adds to, when it reads the intervals of a snapshot again."""
    added: dict[str, Any] = {"pending_restatement_intervals": [], "last_altered_ts": None, "dev_last_altered_ts": None}
    return snapshot.copy(update=added)
