"""The versions of a plan at one moment, and which intervals the new ones compute because of runs."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import cached_property
from graphlib import TopologicalSorter
from types import MappingProxyType
from typing import Any

from sqlmesh.core.context import Context
from sqlmesh.core.engine_adapter import EngineAdapter
from sqlmesh.core.plan import EvaluatablePlan
from sqlmesh.core.snapshot import DeployabilityIndex, Snapshot, SnapshotTableInfo
from sqlmesh.core.snapshot.definition import Interval

from dg_sqlmesh_component.protocol.graph import reachable
from dg_sqlmesh_component.protocol.intervals import common, merged
from dg_sqlmesh_component.worker.intervals.tables import (
    computed_intervals,
    is_incremental,
    snapshots_now,
    upstream,
    whole_intervals,
)
from dg_sqlmesh_component.worker.sqlmesh_internals import ComputedRange

_SLACK = 5_000
"""Milliseconds by which the clocks of two hosts may differ, and by which a row may be written after its time."""

_ALL = [(0, sys.maxsize)]

Rows = Mapping[Any, Sequence[ComputedRange]]
"""Rows of the state, by table."""

Shown = Mapping[str, SnapshotTableInfo]
"""The versions that prod shows, by name."""


@dataclass(frozen=True)
class Versions:
    """The snapshots of a plan, by name, and which of their tables its environment shows.

    Attributes:
        is_dev: Whether the environment is not prod.
    """

    nodes: Mapping[str, Snapshot]
    index: DeployabilityIndex
    shown: Shown
    is_dev: bool

    @classmethod
    def read(
        cls, context: Context, plan: EvaluatablePlan, shown: Shown, index: DeployabilityIndex | None = None
    ) -> Versions:
        """Read them with their intervals.

        Args:
            index: Of SQLMesh's stages, if they are known.
        """
        nodes = snapshots_now(context, plan.environment.snapshots, plan.new_snapshots)
        if index is None and plan.is_dev:
            index = DeployabilityIndex.create(nodes.values(), start=plan.start)
        return cls(nodes, index or DeployabilityIndex.all_deployable(), shown, plan.is_dev)

    @cached_property
    def new(self) -> dict[str, Snapshot]:
        """Those whose tables prod does not show."""
        return {
            name: node
            for name, node in self.nodes.items()
            if (info := self.shown.get(name)) is None
            or info.version != node.version
            or (self.is_dev and self.is_dev_table(node))
        }

    @cached_property
    def others(self) -> dict[str, Snapshot]:
        """All but the new ones."""
        return {name: node for name, node in self.nodes.items() if name not in self.new}

    @cached_property
    def computed(self) -> dict[str, tuple[Interval, ...]]:
        """The computed intervals of the new ones that have some."""
        computed = {name: tuple(computed_intervals(node, self.index)) for name, node in self.new.items()}
        return {name: intervals for name, intervals in computed.items() if intervals}

    def is_dev_table(self, node: Snapshot) -> bool:
        return not self.index.is_representative(node)

    def table(self, node: Snapshot) -> Any:
        """The key of a table's rows in the state."""
        is_dev = self.is_dev_table(node)
        return node.name, node.dev_version if is_dev else node.version, is_dev


@dataclass(frozen=True)
class Rewritten:
    """What runs have rewritten, and which intervals new versions compute again because of it.

    Attributes:
        rows: The computed ranges of the state. One that was not there before is the evidence of a computation.
        seen: Those that were there before.
        lost: By name, intervals that the versions that prod shows had before, and do not have.
        lost_by_new: The same of new versions.
        torn: The names of tables of prod that have no rows while they are replaced.
    """

    versions: Versions
    rows: Rows
    seen: Rows
    lost: Mapping[str, Sequence[Interval]] = field(default_factory=dict)
    lost_by_new: Mapping[str, Sequence[Interval]] = field(default_factory=dict)
    torn: Set[str] = frozenset()

    def again(
        self, since: Mapping[str, int] = MappingProxyType({}), *, others_since: int = 0
    ) -> dict[str, tuple[Interval, ...]]:
        """By name, intervals of new versions that are lost, later than `gaps`, or of a rewritten or lost source.

        Args:
            since: Rows count from then on, epoch milliseconds, by the name of the new version that may have read them.
            others_since: The same for all others.
        """
        found: dict[str, tuple[Interval, ...]] = {}
        for name in TopologicalSorter({name: self._parents[name] for name in self.versions.new}).static_order():
            snapshot = self.versions.new.get(name)
            if snapshot is None or not _is_table(snapshot):
                continue
            lost = self.lost_by_new.get(name, ())
            computed = merged([*self.versions.computed.get(name, ()), *lost])
            altered = [*lost, *(interval for parent in self._tables_read(name) for interval in found.get(parent, ()))]
            altered += self._altered_since(snapshot, since.get(name, others_since))
            gaps = self.gaps(snapshot, computed)
            if not (parts := common([*altered, *gaps], [*computed, *gaps])):
                continue
            if snapshot.depends_on_past or not is_incremental(snapshot):
                # What was computed after an interval has read it. One missing interval lets SQLMesh compute a whole
                # table of kind FULL. It inserts into other whole tables unless it has forgotten everything.
                in_parts = is_incremental(snapshot) and not snapshot.full_history_restatement_only
                parts = ((parts[0][0] if in_parts or snapshot.is_full else computed[0][0], computed[-1][1]),)
            found[name] = common([whole_intervals(snapshot, part) for part in parts], computed)
        return found

    def gaps(self, snapshot: Snapshot, computed: Sequence[Interval]) -> Sequence[Interval]:
        """What a new version lacks before computed intervals that depend on it, in addition to `lost_by_new`."""
        return ()

    def _altered_since(self, snapshot: Snapshot, since: int) -> Iterator[Interval]:
        """The rewritten and lost intervals of the tables that a new version reads, and of its old version.

        If its old version is computed again, a table outside of the project has changed.
        """
        for parent in self._tables_read(snapshot.name) & self.versions.others.keys():
            yield from self.altered(self.versions.others[parent], since, only_rewritten=not is_incremental(snapshot))
        if snapshot.name in self.versions.shown:
            yield from self.altered(self.versions.shown[snapshot.name], since, only_rewritten=False)

    def altered(
        self, snapshot: Snapshot | SnapshotTableInfo, since: int, *, only_rewritten: bool
    ) -> Sequence[Interval]:
        """The intervals of a table of prod that were computed since, or are lost.

        Args:
            only_rewritten: Leave out those that the table did not have before.
        """
        table = (snapshot.name, snapshot.version, False)
        rows, seen = self.rows.get(table, ()), set(self.seen.get(table, ()))
        after = [row for row in rows if row not in seen and row.at > since - _SLACK]
        lost = self.lost.get(snapshot.name, ())
        if after and snapshot.name in self.torn:
            return _ALL
        if not only_rewritten:
            return [*lost, *(row.interval for row in after)]
        before = merged(row.interval for row in rows if row not in after)
        whole = [row.interval for row in after if row.is_merged]  # the janitor has merged it with older ones
        return [*lost, *whole, *common((row.interval for row in after if not row.is_merged), before)]

    def _tables_read(self, name: str) -> Set[str]:
        def behind(node: str) -> Iterable[str]:
            return () if _is_table(self.versions.nodes[node]) else self._parents[node]

        return reachable(self._parents[name], behind)

    @cached_property
    def _parents(self) -> Mapping[str, Sequence[str]]:
        return upstream(self.versions.nodes)


def _is_table(snapshot: Snapshot) -> bool:
    return bool(snapshot.is_model and (snapshot.is_materialized or snapshot.is_materialized_view))


def is_torn(snapshot: Snapshot, adapter: EngineAdapter) -> bool:
    """Whether the table of a snapshot is without rows while a run replaces it."""
    if not _is_table(snapshot) or (is_incremental(snapshot) and not snapshot.full_history_restatement_only):
        return False
    in_steps = adapter.INSERT_OVERWRITE_STRATEGY.name in ("DELETE_INSERT", "INTO_IS_OVERWRITE")
    return in_steps and not (adapter.SUPPORTS_TRANSACTIONS or adapter.SUPPORTS_REPLACE_TABLE)


def computed_in(times: Sequence[Interval], rows: Sequence[ComputedRange]) -> list[int]:
    """The begins of those times in which a table was computed, as far as its rows tell."""
    return sorted(
        begin for begin, end in times if any(row.at >= begin and (row.at < end or row.is_merged) for row in rows)
    )
