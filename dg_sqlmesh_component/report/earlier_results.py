"""Results of checks from earlier runs, and the metadata in which a result stores its data for later runs. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import dagster as dg

from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.formatting import utc_text
from dg_sqlmesh_component.report.stored_record import StoredRecord, stored_record

NOT_EVALUATED = "sqlmesh/not_evaluated"
"""Metadata of a check result that only says why the audit was not evaluated."""

Data: TypeAlias = tuple[str, msg.AuditedData, int]
"""The data that a result describes: environment, version of data and audits, everything computed until then (ms)."""


@dataclass(frozen=True)
class EarlierResult:
    """The last known result of a check whose model was not executed in this run.

    Attributes:
        run_id: The run in which the audit was evaluated.
        evaluated_at: When it was evaluated, in epoch seconds.
        audited_data: The data that was audited; None if it is not stored.
        metadata: The metadata with which it was reported.
    """

    passed: bool
    severity: dg.AssetCheckSeverity
    run_id: str
    evaluated_at: float
    audited_data: Data | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @property
    def is_blocking_failure(self) -> bool:
        """Whether the result stops downstream models."""
        return not self.passed and self.severity is dg.AssetCheckSeverity.ERROR

    @property
    def label(self) -> dict[str, dg.MetadataValue]:
        """Metadata that marks a result as repeated."""
        return {
            "sqlmesh/carried_over": dg.MetadataValue.bool(True),
            "sqlmesh/evaluated_in_run": dg.MetadataValue.text(self.run_id),
            "sqlmesh/evaluated_at": dg.MetadataValue.timestamp(self.evaluated_at),
        }

    @property
    def sentence(self) -> str:
        """The result, its run and its time, without a full stop."""
        verdict = "passed" if self.passed else "failed"
        return f"The check {verdict} in run {self.run_id[:8]} at {utc_text(round(self.evaluated_at * 1000))}"


def data_metadata(data: Data | None) -> dict[str, Any]:
    """The audited data as a record for later runs; `data_in` reads it."""
    if data is None:
        return {}
    environment, audited, up_to = data
    return StoredRecord(environment, audited.version, up_to, (audited.audits,)).metadata


def data_in(metadata: Mapping[str, dg.MetadataValue]) -> Data | None:
    """The audited data in a check result's metadata; None if there is none."""
    stored = stored_record(metadata)
    if stored is None or len(stored.hashes) != 1:
        return None
    return stored.environment, msg.AuditedData(stored.version, *stored.hashes), stored.up_to
