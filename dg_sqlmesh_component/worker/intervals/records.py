"""Compare the state with Dagster's records: find data that they do not describe.

Only the state is read. It has a row for each range that SQLMesh has computed, with the time. A restatement adds rows
too, so it is found although the model has no new interval.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

from sqlmesh.core import constants as c
from sqlmesh.core.context import Context
from sqlmesh.core.environment import Environment
from sqlmesh.core.snapshot import DeployabilityIndex, Snapshot, SnapshotChangeCategory, SnapshotTableInfo
from sqlmesh.utils.date import now_timestamp

from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.graph import reachable
from dg_sqlmesh_component.protocol.intervals import subtract
from dg_sqlmesh_component.worker.environment import promoted_version
from dg_sqlmesh_component.worker.intervals.coverage import Coverages
from dg_sqlmesh_component.worker.intervals.early_reads import EarlyReads
from dg_sqlmesh_component.worker.intervals.known import ExternalTables, KnownToDagster
from dg_sqlmesh_component.worker.intervals.tables import (
    computed_intervals,
    copied_intervals,
    deployability,
    ranges_of_table,
    upstream,
    whole_intervals,
)
from dg_sqlmesh_component.worker.intervals.unrecorded import ShownTable, late, unrecorded
from dg_sqlmesh_component.worker.sql_text import column_types
from dg_sqlmesh_component.worker.sqlmesh_internals import ComputedRanges, computed_ranges


@dataclass(frozen=True)
class Comparison:
    """The state of an environment, compared with Dagster's records. `compare` makes it.

    Attributes:
        infos: The versions that the environment shows, by name.
        snapshots: Those of the compared models, and of models upstream of them, by name.
        index: Which tables the environment shows.
        tables: The tables of the compared models, by name.
        copied: The `copied_intervals`.
        early_reads: Compares the models with the tables that they read.
    """

    records: msg.Records
    infos: Mapping[str, SnapshotTableInfo]
    snapshots: Mapping[str, Snapshot]
    index: DeployabilityIndex
    tables: Mapping[str, ShownTable]
    copied: Mapping[str, Sequence[msg.Interval]]
    early_reads: EarlyReads

    @property
    def late(self) -> dict[str, tuple[msg.Interval, ...]]:
        """As in `KnownToDagster`."""
        loads = {fqn: of for fqn, of in self.records.loads.items() if fqn in self.tables}
        found = {fqn: late(self.tables[fqn], of) for fqn, of in loads.items()}
        return {fqn: intervals for fqn, intervals in found.items() if intervals}

    def event(
        self, coverages: Coverages | None = None, count: Callable[[Snapshot], int | None] = lambda _: None
    ) -> msg.DataComparedWithRecords:
        """The comparison as an event. `coverages` add that of each model, and `count` the rows of its table."""
        compared = []
        for fqn, recorded in self.records.data.items():
            if (table := self.tables.get(fqn)) is None:
                continue
            ranges, info, snapshot = unrecorded(table, recorded), self.infos[fqn], self.snapshots[fqn]
            if ranges or _is_unaffected(info, recorded):
                coverage = coverages.of(fqn) if coverages else None
                data = msg.ComputedData(
                    fqn,
                    promoted_version(info),
                    ranges,
                    coverage,
                    merged_ranges=tuple(row.interval for row in table.rows if row.is_merged),
                    computed_by=_computed_by(info, table),
                    columns=_columns(snapshot, info, recorded),
                    rows=count(snapshot),
                )
                compared.append(data)
        return msg.DataComparedWithRecords(tuple(compared))

    def coverages(
        self,
        context: Context,
        now: int,
        tables: ExternalTables,
        unready: Mapping[str, Set[msg.Interval]] = MappingProxyType({}),
    ) -> Coverages:
        """The coverages of the models with unrecorded data. The arguments are those of `Coverages`."""
        requested = {fqn: self.snapshots[fqn] for fqn in self.records.data if fqn in self.snapshots}
        if tables.awaited:  # a model waits also for tables that models upstream of it read
            names = reachable(requested, upstream(self.infos).__getitem__)
            others = [self.infos[name] for name in names - self.snapshots.keys()]
            requested = {**_read(context, others), **{n: s for n, s in self.snapshots.items() if n in names}}
        known = KnownToDagster(tables, self.late, self.early_reads.of)
        return Coverages(requested, self.index, now, known, self.copied, unready)


def compare(records: msg.Records, environment: Environment, context: Context) -> Comparison:
    """Read the state of the models with records."""
    ranges, infos = computed_ranges(context), {info.name: info for info in environment.snapshots}
    requested = [infos[fqn] for fqn in {**records.data, **records.loads} if fqn in infos]
    if environment.name == c.PROD:
        # Most models have not changed, so only the others are read. This takes most of the time of a large project.
        snapshots = _read(context, [info for info in requested if _may_differ(info, records, ranges)])
    else:  # which table a model shows depends on all models upstream of it
        snapshots = _read(context, environment.snapshots if requested else [])
    index = deployability(environment.name, snapshots.values())
    copied = copied_intervals(snapshots.values(), index, context)
    promoted_at = environment.finalized_ts or now_timestamp()

    def table(info: SnapshotTableInfo) -> ShownTable:
        snapshot, recorded = snapshots[info.name], records.data.get(info.name)
        is_changed = bool(_changes_since(info, recorded)) and not _is_unaffected(info, recorded)
        return ShownTable(
            version=info.version,
            rows=ranges_of_table(snapshot, index, ranges),
            computed=subtract(computed_intervals(snapshot, index), copied.get(info.name, ())),
            promoted_at=promoted_at,
            is_shown_again=info.is_view and is_changed,
            created_at=snapshot.created_ts if snapshot.version == snapshot.fingerprint.to_version() else None,
            whole=partial(whole_intervals, snapshot),
        )

    tables = {info.name: table(info) for info in requested if info.name in snapshots}
    early_reads = EarlyReads(records, environment, ranges, context)
    return Comparison(records, infos, snapshots, index, tables, copied, early_reads)


def _may_differ(info: SnapshotTableInfo, records: msg.Records, ranges: ComputedRanges) -> bool:
    """Whether a model of prod may have data that Dagster has not recorded, without a look at its snapshot."""
    recorded = records.data.get(info.name)
    up_to = -1 if recorded is None or recorded.version != info.version else recorded.up_to
    is_new = any(row.at > up_to for row in ranges.get((info.name, info.version, False), ()))
    return is_new or info.name in records.loads or bool(_changes_since(info, recorded))


def _columns(snapshot: Snapshot, info: SnapshotTableInfo, recorded: msg.RecordedData | None) -> dict[str, str]:
    """As in `ComputedData`. To know the columns, SQLMesh may have to render the query."""
    is_same = recorded is None or recorded.data_hash == info.fingerprint.data_hash
    return {} if is_same else column_types(snapshot.model, snapshot.model.columns_to_types)


def _computed_by(info: SnapshotTableInfo, table: ShownTable) -> str:
    """As in `ComputedData`. A view has no rows of its own."""
    if info.is_view:
        return info.fingerprint.data_hash
    newest = max(table.rows, key=lambda row: row.at, default=None)
    by_identifier = {version.snapshot_id(info.name).identifier: version for version in info.all_versions}
    version = by_identifier.get(newest.identifier or "") if newest else None
    return (version or info).fingerprint.data_hash


def _changes_since(info: SnapshotTableInfo, recorded: msg.RecordedData | None) -> Set[SnapshotChangeCategory | None]:
    """The categories of the changes of a model since its record, if its table is the same and they are known."""
    if recorded is None or recorded.version != info.version or recorded.identifier == info.identifier:
        return set()
    identifiers = [version.snapshot_id(info.name).identifier for version in info.all_versions]
    if recorded.identifier not in identifiers:
        return set()
    position = len(identifiers) - identifiers[::-1].index(recorded.identifier)
    return {version.change_category for version in info.all_versions[position:]}


def _is_unaffected(info: SnapshotTableInfo, recorded: msg.RecordedData | None) -> bool:
    """Whether plans have changed only models upstream since the record, in a way that does not affect the data."""
    since = _changes_since(info, recorded)
    return SnapshotChangeCategory.INDIRECT_NON_BREAKING in since and since <= _KEEP_DATA


_KEEP_DATA = {SnapshotChangeCategory.INDIRECT_NON_BREAKING, SnapshotChangeCategory.METADATA}


def _read(context: Context, infos: Sequence[SnapshotTableInfo]) -> Mapping[str, Snapshot]:
    return {snapshot.name: snapshot for snapshot in context.state_reader.get_snapshots(infos).values()} if infos else {}
