"""Dagster's records of the models' data, and the data that they do not describe.

Each materialization and observation of a model in the declared environment has a record: the version of the table, and
an instant. Everything that SQLMesh had computed until then is recorded. What SQLMesh has computed since then, and no
unfinished run of ours is about to record, was computed outside of Dagster. Runs and the sensor apply this rule, so the
first of them records the data, and the other finds it recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg

from dg_sqlmesh_component.definitions.project_assets import ProjectAssets
from dg_sqlmesh_component.history.active_runs import ActiveRun
from dg_sqlmesh_component.history.stored_record import StoredRecord, internal, internal_part, stored_record
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.intervals import merged, subtract

_PAGE = 50
"""Events that one query reads. Usually the newest has a record."""


def record_metadata(environment: str, recorded: msg.RecordedData | None) -> dict[str, Any]:
    """The record as metadata of a materialization or an observation."""
    if recorded is None:
        return {}
    hashes = (recorded.data_hash, recorded.metadata_hash, recorded.identifier)
    line = StoredRecord(environment, recorded.version, recorded.up_to, hashes).line
    left = {"unmaterialized": [list(of) for of in recorded.unmaterialized]} if recorded.unmaterialized else {}
    return internal(record=line, **left)


def record_of(
    promoted: msg.PromotedVersion, up_to: int, unmaterialized: tuple[msg.Interval, ...] = ()
) -> msg.RecordedData:
    """The record of a promoted version: everything that was computed until `up_to` (epoch milliseconds) is recorded."""
    hashes = promoted.data_hash, promoted.metadata_hash, promoted.identifier
    return msg.RecordedData(promoted.version, up_to, *hashes, unmaterialized)


def record_in(event: dg.EventLogRecord, environment: str) -> msg.RecordedData | None:
    of_asset = event.asset_materialization or event.asset_observation
    stored = stored_record(of_asset.metadata) if of_asset else None
    if of_asset is None or stored is None or stored.environment != environment or len(stored.hashes) != 3:
        return None
    data_hash, metadata_hash, identifier = stored.hashes
    left = tuple((start, end) for start, end in internal_part(of_asset.metadata, "unmaterialized") or ())
    return msg.RecordedData(stored.version, stored.up_to, data_hash, metadata_hash, identifier, left)


def materialized_data(
    instance: dg.DagsterInstance, assets: ProjectAssets, models: Collection[str]
) -> dict[str, msg.RecordedData | None]:
    """The data that the last materialization of each model describes, by fqn."""
    recorded: dict[str, msg.RecordedData | None] = dict.fromkeys(models)
    environment = assets.manifest.environment
    for record in instance.get_asset_records([assets.key(fqn) for fqn in models]):
        entry = record.asset_entry
        if entry.last_materialization_record is not None:
            # Somebody may have reported a materialization in Dagster's UI.
            recorded[assets.fqn_by_key[entry.asset_key]] = record_in(
                entry.last_materialization_record, environment
            ) or _newest(_events(instance.fetch_materializations, entry.asset_key), environment)
    return recorded


def recorded_data(
    instance: dg.DagsterInstance, assets: ProjectAssets, models: Collection[str]
) -> dict[str, msg.RecordedData | None]:
    """The data that the last materialization or observation of each model describes, by fqn.

    A run that has computed some batches of a model, and then failed, observes the model.
    """
    recorded = materialized_data(instance, assets, models)
    for fqn, materialized in recorded.items():
        since = dg.AssetRecordsFilter(
            asset_key=assets.key(fqn), after_timestamp=materialized.up_to / 1000 if materialized else None
        )
        observed = _newest(_events(instance.fetch_observations, since), assets.manifest.environment)
        if observed and (materialized is None or observed.up_to > materialized.up_to):
            recorded[fqn] = observed
    return recorded


def _events(fetch: Callable[..., Any], of: dg.AssetKey | dg.AssetRecordsFilter) -> Iterator[dg.EventLogRecord]:
    """Events, the newest first."""
    page = fetch(of, limit=_PAGE)
    yield from page.records
    while page.has_more:
        page = fetch(of, limit=_PAGE, cursor=page.cursor)
        yield from page.records


def _newest(events: Iterator[dg.EventLogRecord], environment: str) -> msg.RecordedData | None:
    return next((record for event in events if (record := record_in(event, environment))), None)


# -- data computed outside of Dagster -----------------------------------------------------------------


@dataclass(frozen=True)
class OutsideData:
    """Data of a model that was computed outside of Dagster, and that no record describes."""

    fqn: str
    promoted: msg.PromotedVersion
    # Empty if a plan has only promoted the recorded data again, with a change upstream that does not affect it.
    intervals: tuple[msg.Interval, ...]
    computed_at: int  # when the last interval was computed, epoch milliseconds
    coverage: msg.IntervalCoverage | None
    computed_by: str  # as in `ComputedData`, like the columns and the rows
    columns: Mapping[str, str]
    rows: int | None
    unmaterialized: tuple[msg.Interval, ...] = ()  # as in `RecordedData`, before this data

    @property
    def record(self) -> msg.RecordedData:
        """The record of its materialization."""
        return record_of(self.promoted, self.computed_at)


def outside_data(
    compared: Sequence[msg.ComputedData], recorded: Mapping[str, msg.RecordedData | None], active: Sequence[ActiveRun]
) -> tuple[list[OutsideData], list[str]]:
    """The data to record, and the models with data that unfinished runs have computed and will record.

    The unfinished runs (`active`) are read after the state, and the records after both.
    """
    outside, left_to_runs = [], []
    for data in compared:
        record, promoted = recorded.get(data.fqn), data.promoted
        is_same = record is not None and record.version == promoted.version
        up_to, left = (record.up_to, record.unmaterialized) if record and is_same else (-1, ())
        if not data.ranges and record and up_to >= 0 and record.identifier != promoted.identifier:
            outside.append(_outside(data, (), up_to, left))
        unrecorded = [(interval, at) for interval, at in data.ranges if at > up_to]
        ours = [(interval, at) for interval, at in unrecorded if any(run.has_computed(data.fqn, at) for run in active)]
        others = [found for found in unrecorded if found not in ours]
        if ours:
            left_to_runs.append(data.fqn)
        if others:
            intervals, computed_at = merged(interval for interval, _ in others), max(at for _, at in others)
            outside.append(_outside(data, intervals, computed_at, subtract(left, intervals)))
    return outside, left_to_runs


def _outside(
    data: msg.ComputedData, intervals: tuple[msg.Interval, ...], computed_at: int, left: tuple[msg.Interval, ...]
) -> OutsideData:
    computed = data.coverage, data.computed_by, data.columns, data.rows
    return OutsideData(data.fqn, data.promoted, intervals, computed_at, *computed, left)
