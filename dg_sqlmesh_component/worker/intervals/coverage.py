"""Interval coverage: which intervals of incremental models are computed, and which expected ones are missing.

`missing` decides. This module makes its picture of the nodes from SQLMesh's snapshots.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from functools import cache, cached_property, partial
from threading import Lock
from types import MappingProxyType

from sqlmesh.core.snapshot import DeployabilityIndex, Snapshot, missing_intervals, start_date
from sqlmesh.utils.date import to_timestamp

from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.graph import parents_first
from dg_sqlmesh_component.protocol.intervals import common, merged, subtract
from dg_sqlmesh_component.worker.intervals.held_back import held_back_from
from dg_sqlmesh_component.worker.intervals.known import KnownToDagster
from dg_sqlmesh_component.worker.intervals.missing import Expected, coverage, missing
from dg_sqlmesh_component.worker.intervals.read_early import ReadEarly
from dg_sqlmesh_component.worker.intervals.tables import (
    computed_intervals,
    due_at,
    forgotten_intervals,
    has_start,
    is_incremental,
    shows_others,
    upstream,
    without_restated_intervals,
)


class Coverages:
    """The coverage of each incremental model of an environment. Snapshots must have the intervals of the state."""

    def __init__(
        self,
        snapshots: Mapping[str, Snapshot],
        index: DeployabilityIndex,
        execution_time: int,
        known: KnownToDagster,
        copied: Mapping[str, Sequence[msg.Interval]] = MappingProxyType({}),
        unready: Mapping[str, Set[msg.Interval]] = MappingProxyType({}),
    ) -> None:
        """Prepare the coverages of these snapshots, by name. It takes half a second for 1,000 models.

        Args:
            copied: The `copied_intervals`. They are neither computed nor missing.
            unready: What signals have held back, by name.
        """
        self._snapshots = snapshots = without_restated_intervals(snapshots)
        self.index = index
        self._execution_time = execution_time
        self.known = known
        self._copied = copied
        self._unready = unready
        # Without `end`, SQLMesh resolves a relative `start` now, so never earlier than it did when it planned the run.
        found = missing_intervals(
            snapshots.values(), execution_time=execution_time, deployability_index=index, ignore_cron=True
        )
        self.pending = {snapshot.name: tuple(intervals) for snapshot, intervals in found.items()}
        """What each node lacks, also if its cron has not ticked, and what its `lookback` computes again with it."""
        self.node = cache(self._node)
        self._early: dict[str, ReadEarly] = {}
        self._of_one_thread = Lock()

    def _node(self, fqn: str) -> Expected:
        """A node as it was when the snapshots were read."""
        snapshot, no_intervals = self._snapshots[fqn], frozenset[msg.Interval]()
        early = self._read_early(fqn) if is_incremental(snapshot) else ReadEarly()
        return Expected(
            until=_expected_until(snapshot, self._execution_time),
            pending=self.pending.get(fqn, ()),
            waits_for_tables=lambda: self._waiting_for_tables.get(fqn, no_intervals),
            due_at=partial(due_at, snapshot),
            computed=computed_intervals(snapshot, self.index),
            forgotten=forgotten_intervals(snapshot, self.index),
            copied=self._copied.get(fqn, ()),
            late=self.known.late.get(fqn, ()),
            outdated=early.intervals,
            outdated_until_computed=early.until_computed,
            starts_at=lambda: to_timestamp(start_date(snapshot, self._snapshots.values())),
            has_start=lambda: has_start(snapshot, self._snapshots.values()),
            restated_first=sorted(early.first - {fqn}),
            may_hide_outdated=early.may_hide,
            unready=self._unready.get(fqn, no_intervals),
        )

    def _read_early(self, fqn: str) -> ReadEarly:
        """What a model was computed for too early. Models that read it, also through views, lack the same rows."""
        found, names = self._early, [fqn]
        if not found.keys() >= {*self._parents[fqn]}:
            names = parents_first([fqn], lambda of: () if of in found else self._parents[of])
        for name in names:
            if name in found:
                continue
            snapshot, early = self._snapshots[name], ReadEarly()
            read = [part for parent in self._parents[name] for part in found[parent].intervals]
            first = frozenset[str]().union(*(found[parent].first for parent in self._parents[name]))
            if is_incremental(snapshot):
                early = self.known.read_early(snapshot, self._never_computed)
                early = replace(early, until_computed=subtract(early.until_computed, read))
                through_others = common(read, computed_intervals(snapshot, self.index))
                first = first if through_others else frozenset({name} if early.intervals else ())
                read = [*early.intervals, *through_others]
            if is_incremental(snapshot) or shows_others(snapshot):
                early = replace(early, intervals=merged(read), first=first)
            found[name] = early
        return found[fqn]

    @cached_property
    def _parents(self) -> Mapping[str, Sequence[str]]:
        return upstream(self._snapshots)

    def _never_computed(self, fqn: str) -> Sequence[msg.Interval]:
        """The missing intervals for which the cron of a node has ticked, without those that are only computed again."""
        if fqn not in self.pending:  # as in most runs, or its snapshot was not read
            return ()
        node = self.node(fqn)
        return sorted(node.never_computed([of for of in node.pending if of[1] <= node.until]))

    def missing(self, fqn: str) -> tuple[list[msg.Interval], list[msg.Interval]]:
        """The intervals that a node should have and lacks: those without an excuse, and those that wait."""
        return missing(self.node(fqn))

    @cached_property
    def _waiting_for_tables(self) -> Mapping[str, Set[msg.Interval]]:
        """The intervals of each node that a run of all nodes would hold back because of tables."""
        requested = {self._snapshots[name]: self.node(name).due(intervals) for name, intervals in self.pending.items()}
        now = self._execution_time
        left = held_back_from(requested, self._snapshots, self.index, self.known.tables, now=now)
        return {name: set(self.pending[name]).difference(of_node) for name, (of_node, _) in left.items()}

    def of(
        self, fqn: str, done: Sequence[msg.Interval] = (), forgotten: Sequence[msg.Interval] = ()
    ) -> msg.IntervalCoverage | None:
        """The coverage of a model; None for a node that is no incremental model.

        Args:
            done: Intervals that were computed and recorded after the snapshots were read.
            forgotten: Computed intervals that were forgotten after the snapshots were read, to compute them again.
        """
        if not is_incremental(self._snapshots[fqn]):
            return None
        with self._of_one_thread:  # SQLMesh's cache has no snapshot for a thread while another one reads it
            return coverage(fqn, self.node(fqn).after(done, forgotten), self._execution_time)


def _expected_until(snapshot: Snapshot, now: int) -> int:
    """The instant up to which a model must be computed: the last tick of its cron, in whole intervals.

    Without the second part, a model with `allow_partials` would lack an interval that is not over.
    """
    tick = snapshot.node.cron_floor(now)
    return int(to_timestamp(snapshot.node.interval_unit.cron_floor(tick)))
