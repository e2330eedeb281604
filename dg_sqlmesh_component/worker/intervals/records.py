"""Compare the state with Dagster's records: find data that they do not describe, and the promoted models.

Only the state is read. It has a row for each range that SQLMesh has computed, with the time. A restatement adds rows
too, so it is found although the model has no new interval.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from types import MappingProxyType

from sqlmesh.core import constants as c
from sqlmesh.core.context import Context
from sqlmesh.core.environment import Environment
from sqlmesh.core.snapshot import Snapshot, SnapshotChangeCategory, SnapshotTableInfo
from sqlmesh.utils.date import now_timestamp

from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.graph import reachable
from dg_sqlmesh_component.protocol.intervals import ComputedRange, common, subtract
from dg_sqlmesh_component.worker.environment import has_table, opened_without_lock, promoted_version
from dg_sqlmesh_component.worker.intervals.coverage import Coverages
from dg_sqlmesh_component.worker.intervals.known import ExternalTables, KnownToDagster
from dg_sqlmesh_component.worker.intervals.tables import (
    computed_intervals,
    copied_intervals,
    deployability,
    ranges_of_table,
    upstream,
    whole_intervals,
)
from dg_sqlmesh_component.worker.pipe import Pipe
from dg_sqlmesh_component.worker.sql_text import column_types
from dg_sqlmesh_component.worker.sqlmesh_internals import computed_ranges


def find_changes(request: msg.ChangesRequest, pipe: Pipe) -> msg.ChangesFound:
    """Find the promoted models, and data of the requested models that Dagster has not recorded.

    Raises:
        EnvironmentNotReadyError: The environment does not exist.
        DatabaseInUseError: Another process has the DuckDB file of the state open.
    """
    with opened_without_lock(request, pipe) as (context, environment):
        if environment.finalized_ts is None:
            return msg.ChangesFound(environment.plan_id, is_finalized=False)
        tables = ExternalTables.of_promoted(request.tables, environment, context, pipe)
        found = Comparison(request.records, environment, context)
        return msg.ChangesFound(
            environment.plan_id,
            is_finalized=True,
            promoted={info.name: promoted_version(info) for info in environment.snapshots if has_table(info)},
            compared=found.event(coverages=found.coverages(request.now, tables)),
        )


class Comparison:
    """The state of an environment, compared with Dagster's records.

    Attributes:
        late: As in `KnownToDagster`.
        index: Which tables the environment shows.
    """

    def __init__(self, records: msg.Records, environment: Environment, context: Context) -> None:
        self._records, self._context = records, context
        self._finalized_at = environment.finalized_ts or now_timestamp()
        self._ranges = computed_ranges(context)
        self._infos = {info.name: info for info in environment.snapshots}
        requested = [self._infos[fqn] for fqn in {**records.data, **records.loads} if fqn in self._infos]
        if environment.name == c.PROD:
            # Most models have not changed, so only the others are read. This takes most of the time of a large project.
            read = [info for info in requested if info.name in records.loads or self._is_new(info) or self._since(info)]
            self._snapshots = _read(context, read)
        else:  # which table a model shows depends on all models upstream of it
            self._snapshots = _read(context, environment.snapshots if requested else [])
        self.index = deployability(environment.name, self._snapshots.values())
        self._copied = copied_intervals(self._snapshots.values(), self.index, context)
        late = {fqn: self._late(self._snapshots[fqn]) for fqn in records.loads.keys() & self._snapshots.keys()}
        self.late = {fqn: intervals for fqn, intervals in late.items() if intervals}

    def event(
        self, coverages: Coverages | None = None, count: Callable[[Snapshot], int | None] = lambda _: None
    ) -> msg.DataComparedWithRecords:
        """The comparison as an event. `coverages` add that of each model, and `count` the rows of its table."""
        unrecorded = []
        for fqn in self._records.data:
            if (snapshot := self._snapshots.get(fqn)) is None:
                continue
            ranges = self._unrecorded(snapshot)
            if ranges or self._is_unaffected(self._infos[fqn]):
                coverage = coverages.of(fqn) if coverages else None
                promoted = promoted_version(self._infos[fqn])
                by, columns = self._computed_by(snapshot), self._columns(snapshot)
                rows = count(snapshot)
                unrecorded.append(msg.ComputedData(fqn, promoted, ranges, coverage, by, columns, rows))
        return msg.DataComparedWithRecords(tuple(unrecorded))

    def coverages(
        self, now: int, tables: ExternalTables, unready: Mapping[str, Set[msg.Interval]] = MappingProxyType({})
    ) -> Coverages:
        """The coverages of the models with unrecorded data. The arguments are those of `Coverages`."""
        requested = {fqn: self._snapshots[fqn] for fqn in self._records.data if fqn in self._snapshots}
        if tables.awaited:  # a model waits also for tables that models upstream of it read
            names = reachable(requested, upstream(self._infos).__getitem__)
            others = [self._infos[name] for name in names - self._snapshots.keys()]
            requested = {**_read(self._context, others), **{n: s for n, s in self._snapshots.items() if n in names}}
        known = KnownToDagster(tables, self.late)
        return Coverages(requested, self.index, now, known, self._copied, unready)

    def _unrecorded(self, snapshot: Snapshot) -> tuple[tuple[msg.Interval, int], ...]:
        """The ranges of a model's table that Dagster has not recorded, with times.

        SQLMesh's janitor merges ranges: then more than the new ones are returned, but never less.
        """
        info, recorded = self._infos[snapshot.name], self._records.data[snapshot.name]
        ranges = self._ranges_of(snapshot)
        if not ranges:
            return ()
        if recorded is None or recorded.version != info.version:
            newest, computed = max(row.at for row in ranges), self._computed(snapshot)
            # Each with its own time: until a plan has ended, runs may have recorded some of them.
            timed = [(interval, row.at) for row in ranges for interval in common([row.interval], computed)]
            return *timed, *((interval, newest) for interval in subtract(computed, [interval for interval, _ in timed]))
        unrecorded = tuple((computed.interval, computed.at) for computed in ranges if computed.at > recorded.up_to)
        if not unrecorded and info.is_view and self._since(info) and not self._is_unaffected(info):
            return tuple((interval, self._finalized_at) for interval in self._computed(snapshot))
        return unrecorded

    def _columns(self, snapshot: Snapshot) -> dict[str, str]:
        """As in `ComputedData`. To know the columns, SQLMesh may have to render the query."""
        recorded, info = self._records.data[snapshot.name], self._infos[snapshot.name]
        is_same = recorded is None or recorded.data_hash == info.fingerprint.data_hash
        return {} if is_same else column_types(snapshot.model, snapshot.model.columns_to_types)

    def _computed_by(self, snapshot: Snapshot) -> str:
        """As in `ComputedData`. A view has no rows of its own."""
        info = self._infos[snapshot.name]
        promoted = info.fingerprint.data_hash
        if info.is_view:
            return promoted
        newest = max(self._ranges_of(snapshot), key=lambda computed: computed.at, default=None)
        by_identifier = {version.snapshot_id(info.name).identifier: version for version in info.all_versions}
        version = by_identifier.get(newest.identifier or "") if newest else None
        return version.fingerprint.data_hash if version else promoted

    def _since(self, info: SnapshotTableInfo) -> Set[SnapshotChangeCategory | None]:
        """The categories of the changes of a model since its record, if its table is the same and they are known."""
        recorded = self._records.data[info.name]
        if recorded is None or recorded.version != info.version or recorded.identifier == info.identifier:
            return set()
        identifiers = [version.snapshot_id(info.name).identifier for version in info.all_versions]
        if recorded.identifier not in identifiers:
            return set()
        position = len(identifiers) - identifiers[::-1].index(recorded.identifier)
        return {version.change_category for version in info.all_versions[position:]}

    def _is_unaffected(self, info: SnapshotTableInfo) -> bool:
        """Whether plans have changed only models upstream since the record, in a way that does not affect the data."""
        since = self._since(info)
        return SnapshotChangeCategory.INDIRECT_NON_BREAKING in since and since <= _KEEP_DATA

    def _is_new(self, info: SnapshotTableInfo) -> bool:
        """Whether a table of prod has data that Dagster has not recorded."""
        recorded = self._records.data[info.name]
        up_to = -1 if recorded is None or recorded.version != info.version else recorded.up_to
        return any(computed.at > up_to for computed in self._ranges.get((info.name, info.version, False), ()))

    def _late(self, snapshot: Snapshot) -> tuple[msg.Interval, ...]:
        """The whole intervals that a model had computed before its source was loaded.

        A merged range is no evidence that a range known as late was computed again, unless the table is newer.
        """
        ranges = self._ranges_of(snapshot)
        has_own_table = snapshot.version == snapshot.fingerprint.to_version()
        found: list[msg.Interval] = []
        for load in self._records.loads[snapshot.name]:
            is_evidence = not load.is_late or (has_own_table and snapshot.created_ts > load.at)
            since = [c.interval for c in ranges if c.at > load.at and (is_evidence or not c.is_merged)]
            found += subtract([load.interval], since)
        computed = self._computed(snapshot)
        return common([whole_intervals(snapshot, interval) for interval in common(found, computed)], computed)

    def _computed(self, snapshot: Snapshot) -> Sequence[msg.Interval]:
        """The intervals whose rows are in the table that the environment shows."""
        return subtract(computed_intervals(snapshot, self.index), self._copied.get(snapshot.name, ()))

    def _ranges_of(self, snapshot: Snapshot) -> Sequence[ComputedRange]:
        """The computed ranges of the table that the environment shows."""
        return ranges_of_table(snapshot, self.index, self._ranges)


_KEEP_DATA = {SnapshotChangeCategory.INDIRECT_NON_BREAKING, SnapshotChangeCategory.METADATA}


def _read(context: Context, infos: Sequence[SnapshotTableInfo]) -> Mapping[str, Snapshot]:
    return {snapshot.name: snapshot for snapshot in context.state_reader.get_snapshots(infos).values()} if infos else {}
