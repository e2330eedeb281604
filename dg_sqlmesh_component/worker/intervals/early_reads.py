"""The intervals of models that were computed before a table that they read had them.

`read_early` decides. This module makes its picture from SQLMesh's state and Dagster's records, when a coverage asks for
it. It reads a snapshot only of a source that has got intervals which the model had computed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

from sqlmesh.core import constants as c
from sqlmesh.core.context import Context
from sqlmesh.core.environment import Environment
from sqlmesh.core.snapshot import Snapshot, SnapshotTableInfo

from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.graph import grouped
from dg_sqlmesh_component.protocol.intervals import ComputedRange
from dg_sqlmesh_component.worker.intervals.read_early import ReadEarly, Reader, Source, read_early
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
        sources = []
        for of in self._tables_read(snapshot.name):
            to_come = [ComputedRange(interval, sys.maxsize, False, None) for interval in lacked_by(of.name)]
            if to_come or any(row.at > recorded.compared_at for row in self._rows(of)):
                sources.append(self._source(of, to_come))
        if not sources and not recorded.outdated:
            return ReadEarly()
        known = recorded.compared_at, recorded.outdated, recorded.up_to
        return read_early(Reader(self._rows(info), snapshot.intervals, *known), sources)

    def _tables_read(self, name: str) -> list[SnapshotTableInfo]:
        read = (self._infos[of] for of in tables_read(name, self._infos, self._parents))
        return [info for info in read if is_incremental(info)]

    def _rows(self, info: SnapshotTableInfo) -> Sequence[ComputedRange]:
        return self._ranges.get((info.name, info.version, False), ())

    def _source(self, info: SnapshotTableInfo, to_come: Sequence[ComputedRange]) -> Source:
        return Source(
            [*self._rows(info), *to_come],
            [
                row
                for table in self._versions.get(info.name, ())
                if table[1] != info.version and not table[2]
                for row in self._ranges[table]
            ],
            lambda ranges: single_intervals(self._snapshot(info), ranges),
            lambda end: due_at(self._snapshot(info), end),
        )

    def _snapshot(self, info: SnapshotTableInfo) -> Snapshot:
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
