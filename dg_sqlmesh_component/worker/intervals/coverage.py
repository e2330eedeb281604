"""Interval coverage: which intervals of incremental models are computed, and which expected ones are missing."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import replace
from functools import cached_property
from itertools import pairwise
from types import MappingProxyType

from sqlmesh.core.snapshot import DeployabilityIndex, Snapshot, missing_intervals
from sqlmesh.utils.date import to_timestamp

from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.intervals import common, merged, subtract, without
from dg_sqlmesh_component.worker.intervals.held_back import held_back_from
from dg_sqlmesh_component.worker.intervals.known import KnownToDagster
from dg_sqlmesh_component.worker.intervals.tables import (
    computed_intervals,
    due_at,
    forgotten_intervals,
    is_incremental,
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

    def missing(
        self, fqn: str, done: Sequence[msg.Interval] = (), forgotten: Sequence[msg.Interval] = ()
    ) -> tuple[list[msg.Interval], list[msg.Interval]]:
        """The intervals that a node should have and lacks: those without an excuse, and those that wait.

        They wait for tables or signals. An interval is missing from the next tick of the cron on. One that was computed
        and forgotten is missing at once, whatever it waits for: its old rows may be shown.
        `done` and `forgotten` are as in `of`.
        """
        recorded = subtract(computed_intervals(self._snapshots[fqn], self.index), forgotten)
        missing = uncovered(self.pending.get(fqn, ()), merged([*recorded, *done]))
        if not missing:
            return [], []
        missing, never = self._due(fqn, missing, forgotten), set(self._never_computed(fqn, missing, forgotten))
        ready = set(without(missing, merged(self._unready.get(fqn, ())), uninterrupted=False))
        waiting = {of for of in never if of not in ready or of in self._waiting.get(fqn, ())}
        return [of for of in missing if of not in waiting], [of for of in missing if of in waiting]

    def computed(
        self, fqn: str, done: Sequence[msg.Interval] = (), forgotten: Sequence[msg.Interval] = ()
    ) -> Sequence[msg.Interval]:
        """The intervals whose rows are in a node's table. `done` and `forgotten` are as in `of`."""
        recorded = computed_intervals(self._snapshots[fqn], self.index)
        return merged([*subtract(recorded, [*forgotten, *self._copied.get(fqn, ())]), *done])

    def _due(
        self, fqn: str, intervals: Sequence[msg.Interval], forgotten: Sequence[msg.Interval] = ()
    ) -> list[msg.Interval]:
        """Those of a node's intervals for which its cron has ticked, or that were computed before."""
        expected_until = _expected_until(self._snapshots[fqn], self._execution_time)
        never = set(self._never_computed(fqn, intervals, forgotten))
        return [interval for interval in intervals if interval[1] <= expected_until or interval not in never]

    def _never_computed(
        self, fqn: str, intervals: Sequence[msg.Interval], forgotten: Sequence[msg.Interval]
    ) -> list[msg.Interval]:
        snapshot = self._snapshots[fqn]
        known = [computed_intervals(snapshot, self.index), forgotten_intervals(snapshot, self.index), forgotten]
        return uncovered(intervals, merged(interval for of in known for interval in of))

    @cached_property
    def _waiting(self) -> Mapping[str, Set[msg.Interval]]:
        """The intervals of each node that a run of all nodes would hold back because of tables."""
        requested = {self._snapshots[name]: self._due(name, intervals) for name, intervals in self.pending.items()}
        now = self._execution_time
        left = held_back_from(requested, self._snapshots, self.index, self.known.tables, now=now)
        return {name: set(self.pending[name]).difference(of_node) for name, (of_node, _) in left.items()}

    def of(
        self,
        fqn: str,
        done: Sequence[msg.Interval] = (),
        forgotten: Sequence[msg.Interval] = (),
    ) -> msg.IntervalCoverage | None:
        """The coverage of a model; None for a node that is no incremental model.

        Args:
            done: Intervals that were computed and recorded after the snapshots were read.
            forgotten: Computed intervals that were forgotten after the snapshots were read, to compute them again.
        """
        snapshot = self._snapshots[fqn]
        if not is_incremental(snapshot):
            return None
        computed = self.computed(fqn, done, forgotten)
        whole = (computed[0][0], computed[-1][1]) if computed else None
        late = common(subtract(self.known.late.get(fqn, ()), done), computed)
        missing, waiting = self.missing(fqn, done, forgotten)
        lacking = sum(after[0] - before[1] for before, after in pairwise(computed))
        coverage = msg.IntervalCoverage(fqn, whole, waiting=merged(waiting), late=late, lacking=lacking)
        if not missing:
            return coverage
        gaps = merged(missing)
        end = missing[0][1]
        since = due_at(snapshot, end)
        return replace(
            coverage,
            gaps=gaps[: msg.MAX_GAPS],
            gap_count=len(gaps),
            missing_intervals=len(missing),
            missing_since=since if since <= self._execution_time else end,
        )


def uncovered(intervals: Iterable[msg.Interval], covered: Sequence[msg.Interval]) -> list[msg.Interval]:
    """The intervals that lie in none of the covered ranges, which are in order and apart."""
    starts = [start for start, _ in covered]
    missing = []
    for interval in intervals:
        position = bisect_right(starts, interval[0]) - 1
        if position < 0 or covered[position][1] < interval[1]:
            missing.append(interval)
    return missing


def _expected_until(snapshot: Snapshot, now: int) -> int:
    """The instant up to which a model must be computed: the last tick of its cron, in whole intervals.

    Without the second part, a model with `allow_partials` would lack an interval that is not over.
    """
    tick = snapshot.node.cron_floor(now)
    return int(to_timestamp(snapshot.node.interval_unit.cron_floor(tick)))
