"""Data that was computed outside of Dagster: which of it Dagster has not recorded, and its materialization.

Runs and the sensor apply the same rule, so the first of them records the data, and the other one finds it recorded.
The rule compares the state of SQLMesh with Dagster's last record of each model. It needs no memory of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import dagster as dg

from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.formatting import utc_text
from dg_sqlmesh_component.run.check_history import stored_value
from dg_sqlmesh_component.run.metadata import intervals_metadata, timestamp

_MAX_OBSERVATIONS = 20
"""How many observations of a model are searched for the intervals that a failed run has computed."""


def recorded_data(
    instance: dg.DagsterInstance, keys: Collection[dg.AssetKey], environment: str
) -> dict[dg.AssetKey, msg.RecordedData]:
    """The data that the last materialization of each asset describes. Assets without one are left out."""
    recorded = {}
    for record in instance.get_asset_records(list(keys)):
        last = record.asset_entry.last_materialization_record
        materialization = last.asset_materialization if last else None
        if last is None or materialization is None:
            continue
        metadata = materialization.metadata
        if stored_value(metadata, "environment") in (None, environment):  # None: the declared one
            computed_at = stored_value(metadata, "computed_at")  # only if that data was computed outside of Dagster
            seconds = last.timestamp if computed_at is None else float(computed_at)
            version = str(stored_value(metadata, "snapshot_version"))
            recorded[record.asset_entry.asset_key] = msg.RecordedData(version, round(seconds * 1000))
    return recorded


def unrecorded(
    instance: dg.DagsterInstance, computed: Mapping[dg.AssetKey, tuple[str, int]], environment: str
) -> set[dg.AssetKey]:
    """The assets whose data Dagster has not recorded.

    Args:
        computed: The promoted version of each asset's model, and when it was last computed (epoch milliseconds).
    """
    if not computed:
        return set()
    recorded = recorded_data(instance, computed, environment)
    return {
        key
        for key, (version, at) in computed.items()
        if not ((found := recorded.get(key)) and found.version == version and at <= found.up_to)
        and not _was_observed(instance, key, version, at, environment)
    }


def outside_metadata(
    environment: str, version: str, intervals: Sequence[msg.Interval], computed_at: int
) -> dict[str, Any]:
    """Metadata of a materialization; `recorded_data` reads it."""
    return {
        "sqlmesh/environment": environment,
        "sqlmesh/snapshot_version": version,
        **intervals_metadata(intervals),
        "sqlmesh/origin": f"outside of Dagster, at {utc_text(computed_at)}",
        "sqlmesh/computed_at": timestamp(computed_at),
    }


def outside_materialization(
    key: dg.AssetKey, promoted: msg.PromotedVersion, computed_at: int, metadata: Mapping[str, Any]
) -> dg.AssetMaterialization:
    """The materialization of a model that was computed outside of Dagster."""
    return dg.AssetMaterialization(
        asset_key=key,
        metadata=metadata,
        tags={
            "dagster/data_version": f"{promoted.version}@{utc_text(computed_at)}",
            "dagster/code_version": promoted.data_hash,
        },
    )


def _was_observed(instance: dg.DagsterInstance, key: dg.AssetKey, version: str, at: int, environment: str) -> bool:
    """Whether a run has reported the data in an observation, because it computed only some batches of a model."""
    since = dg.AssetRecordsFilter(asset_key=key, after_timestamp=at / 1000 - 1)
    for record in instance.fetch_observations(since, limit=_MAX_OBSERVATIONS).records:
        metadata = record.asset_observation.metadata if record.asset_observation else {}
        if (
            record.timestamp * 1000 >= at
            and stored_value(metadata, "environment") in (None, environment)
            and stored_value(metadata, "snapshot_version") == version
            and stored_value(metadata, "intervals") is not None
        ):
            return True
    return False
