"""The intervals of models that were computed before a table that they read had them.

`read_early` decides. This module makes its picture from SQLMesh's state and Dagster's records, when a coverage asks for
it. It reads a snapshot only of a source that has got intervals which the model had computed.
"""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, lru_cache, partial

from sqlmesh.core import constants as c
from sqlmesh.core.context import Context
from sqlmesh.core.environment import Environment
from sqlmesh.core.snapshot import Snapshot, SnapshotTableInfo

from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.graph import grouped
from dg_sqlmesh_component.protocol.intervals import ComputedRange
from dg_sqlmesh_component.worker.intervals.query_ranges import uses_range
from dg_sqlmesh_component.worker.intervals.read_early import ReadEarly, Reader, Source, read_early, shown_by, time_of
from dg_sqlmesh_component.worker.intervals.tables import due_at, is_incremental, single_intervals, tables_read, upstream
from dg_sqlmesh_component.worker.sqlmesh_internals import ComputedRanges


class EarlyReads:
    """Compares the models of prod with the tables that they read."""

    def __init__(
        self, records: msg.Records, environment: Environment, ranges: ComputedRanges, context: Context
    ) -> None:
        """`ranges` are those of the state."""
        self._records = records
        self._is_prod = environment.name == c.PROD  # previews copy intervals of prod, which have other times
        self._infos = {info.name: info for info in environment.snapshots}
        self._ranges = ranges
        self._context = context
        self._sources: dict[str, Snapshot] = {}
        self._tables_read: dict[str, Sequence[SnapshotTableInfo]] = {}
        self._rows: dict[str, Sequence[ComputedRange]] = {}
        self._all_rows: dict[str, Sequence[ComputedRange]] = {}
        self._walk = lru_cache(maxsize=1)(partial(_Walk, self))  # the models of one coverage have tables in common

    def of(self, snapshot: Snapshot, lacked_by: Callable[[str], Sequence[msg.Interval]]) -> ReadEarly:
        """Those of an incremental model that has a record, or should have one.

        Args:
            lacked_by: Finds what a model upstream, by name, lacks and should have. A run computes it afterwards.
        """
        info = self._infos.get(snapshot.name)
        if not self._is_prod or info is None or snapshot.name not in self._records.data:
            return ReadEarly()
        recorded = self._records.data[snapshot.name]
        if recorded is None or recorded.version != info.version:
            recorded = msg.RecordedData("", 0)
        sources = [source for _, source in self._walk(lacked_by).sources(snapshot.name, recorded.compared_at)]
        if not sources and not recorded.outdated:
            return ReadEarly()
        reader = Reader(self.rows(info), snapshot.intervals, recorded.outdated, recorded.up_to)
        found = read_early(reader, sources)
        if found.intervals and not uses_range(snapshot.model):
            found = read_early(reader.of_all_rows, sources)
            return replace(found, until_computed=found.intervals)
        return found

    def tables_read(self, name: str) -> Sequence[SnapshotTableInfo]:
        """Those with rows of intervals, or with all rows that they have read."""
        if name not in self._tables_read:
            read = (self._infos[of] for of in tables_read(name, self._infos, self._parents))
            self._tables_read[name] = [info for info in read if is_incremental(info) or _is_whole(info)]
        return self._tables_read[name]

    def rows(self, info: SnapshotTableInfo) -> Sequence[ComputedRange]:
        """The computed ranges of the shown version, in the order of their times."""
        if info.name not in self._rows:
            rows = self._ranges.get((info.name, info.version, False), ())
            self._rows[info.name] = sorted(rows, key=time_of)
        return self._rows[info.name]

    def rows_of_other_versions(self, info: SnapshotTableInfo) -> list[ComputedRange]:
        """Those of versions that the environment does not show."""
        return [
            row
            for table in self._versions.get(info.name, ())
            if table[1] != info.version and not table[2]
            for row in self._ranges[table]
        ]

    def rows_of_all_versions(self, info: SnapshotTableInfo) -> Sequence[ComputedRange]:
        """The computed ranges of all versions, in the order of their times."""
        if info.name not in self._all_rows:
            self._all_rows[info.name] = sorted([*self.rows(info), *self.rows_of_other_versions(info)], key=time_of)
        return self._all_rows[info.name]

    def snapshot(self, info: SnapshotTableInfo) -> Snapshot:
        """Read it from the state, once."""
        if info.name not in self._sources:
            self._sources |= {of.name: of for of in self._context.state_reader.get_snapshots([info]).values()}
        return self._sources[info.name]

    @cached_property
    def _parents(self) -> Mapping[str, list[str]]:
        return upstream(self._infos)

    @cached_property
    def _versions(self) -> Mapping[str, list[tuple[str, str, bool]]]:
        """The tables of all versions of each model."""
        return grouped((table[0], table) for table in self._ranges)


class _Walk:
    """Finds what the models of an environment have got, also through tables that are computed as a whole."""

    def __init__(self, early_reads: EarlyReads, lacked_by: Callable[[str], Sequence[msg.Interval]]) -> None:
        """`lacked_by`: As in `EarlyReads.of`."""
        self._all = early_reads
        self._lacked_by = lacked_by
        self._found: dict[tuple[str, int], Mapping[str, Source]] = {}

    def sources(self, name: str, since: int) -> Iterator[tuple[str, Source]]:
        """The incremental tables, with their names, that have brought a model rows after an instant."""
        for info in self._all.tables_read(name):
            rows = self._all.rows(info)
            to_come = [ComputedRange(of, sys.maxsize, False, None) for of in self._lacked_by(info.name)]
            if not to_come and (not rows or rows[-1].at <= since):
                continue
            if is_incremental(info):
                yield info.name, self._source(info, bisect_right(rows, since, key=time_of), to_come)
            else:
                yield from self._through(info, to_come, since).items()

    def _source(self, info: SnapshotTableInfo, earlier: int, to_come: Sequence[ComputedRange]) -> Source:
        rows = self._all.rows(info)
        return Source(
            [*rows[earlier:], *to_come],
            lambda: rows[:earlier],
            lambda: self._all.rows_of_other_versions(info),
            lambda ranges: single_intervals(self._all.snapshot(info), ranges),
            lambda end: due_at(self._all.snapshot(info), end),
        )

    def _through(self, info: SnapshotTableInfo, to_come: Sequence[ComputedRange], since: int) -> Mapping[str, Source]:
        """What a table that is computed as a whole has got by its computations after an instant."""
        if (info.name, since) not in self._found:
            rows = [*self._all.rows_of_all_versions(info), *to_come]
            earlier = bisect_right(rows, since, key=time_of)
            found: dict[str, Source] = {}
            for name, source in self.sources(info.name, rows[earlier - 1].at if earlier else 0):
                shown = shown_by(rows, source, lambda end: due_at(self._all.snapshot(info), end))
                found[name] = found[name].together(shown) if name in found else shown
            self._found[info.name, since] = found
        return self._found[info.name, since]


def _is_whole(info: SnapshotTableInfo) -> bool:
    """Whether each computation of a table reads all rows of its sources."""
    return bool(info.is_full or info.is_scd_type_2)
