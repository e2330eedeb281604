"""Dagster's records of the models' data, and the data that they do not describe.

Each materialization and observation of a model in the declared environment has a record: the version of the table, and
an instant. Everything that SQLMesh had computed until then is recorded. What SQLMesh has computed since then, and no
unfinished run of ours is about to record, was computed outside of Dagster. Runs and the sensor apply this rule, so the
first of them records the data, and the other finds it recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
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
    parts: dict[str, Any] = {name: [list(of) for of in getattr(recorded, name)] for name in _RANGES}
    parts |= {"compared_at": recorded.compared_at}
    return internal(record=line, **{name: part for name, part in parts.items() if part})


_RANGES = ("unmaterialized", "outdated")
"""The parts of a record that are ranges, stored only if there are some."""


def record_of(promoted: msg.PromotedVersion, up_to: int, **more: Any) -> msg.RecordedData:
    """The record of a promoted version: everything that was computed until `up_to` (epoch milliseconds) is recorded.

    `more` are other attributes of `RecordedData`.
    """
    hashes = promoted.data_hash, promoted.metadata_hash, promoted.identifier
    return msg.RecordedData(promoted.version, up_to, *hashes, **more)


def record_in(event: dg.EventLogRecord, environment: str) -> msg.RecordedData | None:
    of_asset = event.asset_materialization or event.asset_observation
    stored = stored_record(of_asset.metadata) if of_asset else None
    if of_asset is None or stored is None or stored.environment != environment or len(stored.hashes) != 3:
        return None
    data_hash, metadata_hash, identifier = stored.hashes
    unmaterialized, outdated = (_ranges_in(of_asset.metadata, name) for name in _RANGES)
    compared_at = internal_part(of_asset.metadata, "compared_at") or 0
    hashes = data_hash, metadata_hash, identifier
    return msg.RecordedData(stored.version, stored.up_to, *hashes, unmaterialized, outdated, compared_at)


def _ranges_in(metadata: Mapping[str, dg.MetadataValue], name: str) -> tuple[msg.Interval, ...]:
    return tuple((start, end) for start, end in internal_part(metadata, name) or ())


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
    # unmaterialized, outdated, compared_at: As in `RecordedData`, before this data, as far as it leaves them.
    unmaterialized: tuple[msg.Interval, ...] = ()
    outdated: tuple[msg.Interval, ...] = ()
    compared_at: int = 0

    @property
    def record(self) -> msg.RecordedData:
        """The record of its materialization."""
        return record_of(self.promoted, self.computed_at, outdated=self.outdated, compared_at=self.compared_at)

    def with_outdated(self, outdated: Sequence[msg.Interval]) -> OutsideData:
        """The data with more outdated ranges."""
        if not outdated:
            return self
        coverage = self.coverage and replace(self.coverage, outdated=merged([*self.coverage.outdated, *outdated]))
        return replace(self, coverage=coverage, outdated=merged([*self.outdated, *outdated]))


def outside_data(
    compared: Sequence[msg.ComputedData], recorded: Mapping[str, msg.RecordedData | None], active: Sequence[ActiveRun]
) -> tuple[list[OutsideData], list[str]]:
    """The data to record, and the models with data that unfinished runs have computed and will record.

    The unfinished runs (`active`) are read after the state, and the records after both.
    """
    outside, left_to_runs = [], []
    for data in compared:
        record, promoted = recorded.get(data.fqn), data.promoted
        known = record if record is not None and record.version == promoted.version else None
        up_to = known.up_to if known else -1
        if not data.ranges and known and up_to >= 0 and known.identifier != promoted.identifier:
            outside.append(_outside(data, (), up_to, known))
        unrecorded = [(interval, at) for interval, at in data.ranges if at > up_to]
        ours = [(interval, at) for interval, at in unrecorded if any(run.has_computed(data.fqn, at) for run in active)]
        others = [found for found in unrecorded if found not in ours]
        if ours:
            left_to_runs.append(data.fqn)
        if others:
            intervals, computed_at = merged(interval for interval, _ in others), max(at for _, at in others)
            outside.append(_outside(data, intervals, computed_at, known))
    return outside, left_to_runs


def _outside(
    data: msg.ComputedData, intervals: tuple[msg.Interval, ...], computed_at: int, known: msg.RecordedData | None
) -> OutsideData:
    """The outside data. `known` is the record of the same version before it."""
    computed = data.coverage, data.computed_by, data.columns, data.rows
    outside = OutsideData(data.fqn, data.promoted, intervals, computed_at, *computed)
    if known is None:
        return outside
    left, again = subtract(known.unmaterialized, intervals), subtract(intervals, data.merged_ranges)
    outside = replace(outside, unmaterialized=left, compared_at=known.compared_at)
    return outside.with_outdated(subtract(known.outdated, again))
