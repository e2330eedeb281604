"""The materialization of data that was computed outside of Dagster."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dagster as dg

from dg_sqlmesh_component.dagster_internals import DataVersions
from dg_sqlmesh_component.definitions.project_assets import ProjectAssets
from dg_sqlmesh_component.history.records import OutsideData, record_metadata
from dg_sqlmesh_component.protocol.formatting import utc_text
from dg_sqlmesh_component.report.coverage import coverage_metadata
from dg_sqlmesh_component.report.metadata import column_metadata, intervals_metadata, unapplied_change


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
            **intervals_metadata(assets, data.fqn, data.intervals),
            **coverage_metadata(data.coverage),
            **column_metadata(assets, data.fqn, promoted, data.columns),
            **({"sqlmesh/unapplied_change": change} if change else {}),
            **record_metadata(assets.manifest.environment, data.record),
        },
        tags=versions.tags_of_materialization(key, version, data.computed_by),
    )
