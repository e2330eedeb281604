"""The metadata with which an event tells later runs which data it describes: one line of text. Pure.

    <environment> <version of the table> <instant> <hash> ...

Everything that was computed until the instant (epoch milliseconds) is recorded. The number of hashes is the version of
the line. A result of a check has one: of the audits. A materialization or an observation has three: of the data, of the
metadata, and SQLMesh's identifier of the snapshot. A line of another version, or of no version, is no record.

Development versions are read too: without the identifier, as JSON, and an event's own time in place of a record.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import dagster as dg

RECORD = "sqlmesh/record"


@dataclass(frozen=True)
class StoredRecord:
    """Attributes: `up_to` in epoch milliseconds; `hashes` as above, or none if the event is older than records."""

    environment: str
    version: str
    up_to: int
    hashes: tuple[str, ...]

    @property
    def metadata(self) -> dict[str, Any]:
        # One line: Dagster shows it on the asset's page.
        return {RECORD: " ".join((self.environment, self.version, str(self.up_to), *self.hashes))}


def stored_record(metadata: Mapping[str, dg.MetadataValue], timestamp: float | None = None) -> StoredRecord | None:
    """The record in an event's metadata.

    Args:
        timestamp: The time of a materialization or an observation, in seconds. If they are older than records, it says
            what they describe.
    """
    value = stored_value(metadata, "record")
    if value is None and timestamp is not None:
        return _before_records(metadata, timestamp)
    if isinstance(value, Mapping):
        named = dict(value)
        first = [named.pop(name, "") for name in ("environment", "version", "up_to")]
        parts = list(map(str, [*first, *named.values()]))
    else:
        parts = str(value or "").split(" ")
    if len(parts) not in (4, 5, 6) or not parts[2].isdecimal():
        return None
    environment, version, up_to, *hashes = parts
    return StoredRecord(environment, version, int(up_to), tuple(hashes))


def _before_records(metadata: Mapping[str, dg.MetadataValue], timestamp: float) -> StoredRecord | None:
    """What an event of a version without records describes. Without `interval_end`, it has computed nothing."""
    names = ("environment", "snapshot_version", "interval_end")
    environment, version, end = (stored_value(metadata, name) for name in names)
    if None in (environment, version, end):
        return None
    computed_at = stored_value(metadata, "computed_at")  # if it was computed outside of Dagster
    return StoredRecord(str(environment), str(version), round((computed_at or timestamp) * 1000), ())


def stored_value(metadata: Mapping[str, dg.MetadataValue], name: str) -> Any:
    """The value of `sqlmesh/<name>` in stored metadata; None if there is none."""
    value = metadata.get(f"sqlmesh/{name}")
    return None if value is None else value.value
