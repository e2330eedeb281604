"""The metadata with which an event tells later runs which data it describes: one line of text. Pure.

    <environment> <version of the table> <instant> <hash> ...

Everything that was computed until the instant (epoch milliseconds) is recorded. The number of hashes is the version of
the line. A result of a check has one: of the audits. A materialization or an observation has three: of the data, of the
metadata, and SQLMesh's identifier of the snapshot. A line with another number of them is no record.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import dagster as dg

RECORD = "sqlmesh/record"


@dataclass(frozen=True)
class StoredRecord:
    """Attributes: `up_to` in epoch milliseconds; `hashes` as above."""

    environment: str
    version: str
    up_to: int
    hashes: tuple[str, ...]

    @property
    def metadata(self) -> dict[str, Any]:
        # One line: Dagster shows it on the asset's page.
        return {RECORD: " ".join((self.environment, self.version, str(self.up_to), *self.hashes))}


def stored_record(metadata: Mapping[str, dg.MetadataValue]) -> StoredRecord | None:
    """The record in an event's metadata."""
    parts = str(stored_value(metadata, "record") or "").split(" ")
    if len(parts) not in (4, 6) or not parts[2].isdecimal():
        return None
    environment, version, up_to, *hashes = parts
    return StoredRecord(environment, version, int(up_to), tuple(hashes))


def stored_value(metadata: Mapping[str, dg.MetadataValue], name: str) -> Any:
    """The value of `sqlmesh/<name>` in stored metadata; None if there is none."""
    value = metadata.get(f"sqlmesh/{name}")
    return None if value is None else value.value
