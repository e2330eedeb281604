"""Records of the models' data: the metadata that has them, and the data that was computed outside of Dagster. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import dagster as dg

from dg_sqlmesh_component.dagster_internals import DataVersions
from dg_sqlmesh_component.definitions.project_assets import ProjectAssets
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.formatting import utc_text
from dg_sqlmesh_component.report.coverage import coverage_metadata
from dg_sqlmesh_component.report.metadata import intervals_metadata, unapplied_change
from dg_sqlmesh_component.report.stored_record import StoredRecord, stored_record


def record_metadata(environment: str, recorded: msg.RecordedData | None) -> dict[str, Any]:
    """The record as metadata of a materialization or an observation."""
    if recorded is None:
        return {}
    hashes = (recorded.data_hash, recorded.metadata_hash, recorded.identifier)
    return StoredRecord(environment, recorded.version, recorded.up_to, hashes).metadata


def record_of(promoted: msg.PromotedVersion, up_to: int) -> msg.RecordedData:
    """The record of a promoted version.

    Args:
        up_to: Everything that was computed until then is recorded, epoch milliseconds.
    """
    return msg.RecordedData(promoted.version, up_to, promoted.data_hash, promoted.metadata_hash, promoted.identifier)


def record_in(event: dg.EventLogRecord, environment: str) -> msg.RecordedData | None:
    of_asset = event.asset_materialization or event.asset_observation
    stored = stored_record(of_asset.metadata, event.timestamp) if of_asset else None
    if stored is None or stored.environment != environment or len(stored.hashes) == 1:
        return None
    return msg.RecordedData(stored.version, stored.up_to, *stored.hashes)


@dataclass(frozen=True)
class OutsideData:
    """Data of a model that was computed outside of Dagster, and that no record describes.

    Attributes:
        intervals: Empty if a plan has only promoted the recorded data again, with a change upstream that does not
            affect it.
        computed_at: When the last interval was computed, epoch milliseconds.
        computed_by: As in `ComputedData`.
    """

    fqn: str
    promoted: msg.PromotedVersion
    intervals: tuple[msg.Interval, ...]
    computed_at: int
    coverage: msg.IntervalCoverage | None
    computed_by: str

    @property
    def record(self) -> msg.RecordedData:
        """The record of its materialization."""
        return record_of(self.promoted, self.computed_at)


def outside_materialization(
    assets: ProjectAssets,
    data: OutsideData,
    versions: DataVersions,
    of_outcome: Mapping[str, Any],
    origin: str | None = None,
) -> dg.AssetMaterialization:
    """The materialization of a model whose data no run of SQLMesh in Dagster has computed.

    This is no `MaterializeResult`: Dagster accepts one only for assets of the step, and only one for each.

    Args:
        of_outcome: Metadata of the model's outcome in the run that records the data.
        origin: What has computed or promoted it; None: something outside of Dagster.
    """
    key, promoted, computed_at = assets.key(data.fqn), data.promoted, utc_text(data.computed_at)
    version = f"{promoted.version}@{computed_at}" if data.intervals else versions.current(key)
    origin = origin or ("outside of Dagster" if data.intervals else "promoted outside of Dagster; computed before")
    change = unapplied_change(assets, data.fqn, promoted)
    return dg.AssetMaterialization(
        asset_key=key,
        metadata={
            **of_outcome,
            "sqlmesh/origin": f"{origin}, at {computed_at}",
            **(intervals_metadata(data.intervals) if data.intervals else {}),
            **coverage_metadata(data.coverage),
            **({"sqlmesh/unapplied_change": change} if change else {}),
            "sqlmesh/snapshot_version": promoted.version,
            **record_metadata(assets.manifest.environment, data.record),
        },
        tags=versions.tags_of_materialization(key, version, data.computed_by),
    )
