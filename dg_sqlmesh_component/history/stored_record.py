"""What an event tells later runs, in one key of its metadata, which pages show as `[Show JSON]`. Pure.

Dagster has no place of ours that pages hide (ADR-0036): an event's tags allow 63 characters, and a check's result has
none.

The part `record` says which data the event describes, as one line of text:

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

INTERNAL = "sqlmesh/internal"


@dataclass(frozen=True)
class StoredRecord:
    """Attributes: `up_to` in epoch milliseconds; `hashes` as above."""

    environment: str
    version: str
    up_to: int
    hashes: tuple[str, ...]

    @property
    def line(self) -> str:
        return " ".join((self.environment, self.version, str(self.up_to), *self.hashes))


def internal(**parts: Any) -> dict[str, Any]:
    """Metadata for later runs only. `internal_part` reads it."""
    return {INTERNAL: dg.MetadataValue.json(parts)}


def internal_part(metadata: Mapping[str, dg.MetadataValue], name: str) -> Any:
    """One of the parts; None if there is none."""
    value = metadata.get(INTERNAL)
    return value.value.get(name) if value is not None and isinstance(value.value, dict) else None


def stored_record(metadata: Mapping[str, dg.MetadataValue]) -> StoredRecord | None:
    """The record in an event's metadata."""
    parts = str(internal_part(metadata, "record") or "").split(" ")
    if len(parts) not in (4, 6) or not parts[2].isdecimal():
        return None
    environment, version, up_to, *hashes = parts
    return StoredRecord(environment, version, int(up_to), tuple(hashes))


def stored_value(metadata: Mapping[str, dg.MetadataValue], name: str) -> Any:
    """The value of `sqlmesh/<name>` in stored metadata; None if there is none."""
    value = metadata.get(f"sqlmesh/{name}")
    return None if value is None else value.value
