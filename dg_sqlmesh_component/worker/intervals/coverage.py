"""Interval coverage: which intervals of incremental models are computed, and which expected ones are missing."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property, partial

from sqlmesh.core.snapshot import DeployabilityIndex, Snapshot, missing_intervals
from sqlmesh.core.snapshot.definition import merge_intervals
from sqlmesh.utils.date import to_timestamp

from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.graph import reachable
from dg_sqlmesh_component.protocol.intervals import common, merged, subtract, without
from dg_sqlmesh_component.worker.intervals.known import KnownToDagster, lost_to_readers
from dg_sqlmesh_component.worker.intervals.tables import (
    computed_intervals,
    due_at,
    forgotten_intervals,
    is_incremental,
    upstream,
)


class Coverages:
    """The coverage of each incremental model of an environment. Snapshots must have the intervals of the state."""

    def __init__(
        self,
        snapshots: Mapping[str, Snapshot],
        index: DeployabilityIndex,
        execution_time: int,
        known: KnownToDagster,
        *,
        ignore_cron: bool = False,
    ) -> None:
        """Prepare the coverages of these snapshots, by name. It takes half a second for 1,000 models.

        Args:
            ignore_cron: Also count intervals as pending whose cron has not ticked. The coverages do not depend on it.
        """
        self._snapshots = snapshots
        self.index = index
        self._execution_time = execution_time
        self.known = known
        self._forgotten = {
            name: intervals for name, node in snapshots.items() if (intervals := forgotten_intervals(node, index))
        }
        # Without `end`, SQLMesh resolves a relative `start` now, so never earlier than it did when it planned the run.
        find = partial(missing_intervals, snapshots.values(), execution_time=execution_time, deployability_index=index)
        pending = {snapshot.name: tuple(found) for snapshot, found in find(ignore_cron=ignore_cron).items()}
        if self._forgotten and not ignore_cron:  # a run computes them before their cron has ticked
            for snapshot, found in find(ignore_cron=True).items():
                early = contained(found, self._forgotten.get(snapshot.name, ()))
                pending[snapshot.name] = tuple(sorted(early.union(pending.get(snapshot.name, ()))))
        self.pending = {name: intervals for name, intervals in pending.items() if intervals}
        """The pending intervals of each node that has some."""

    def of(
        self,
        fqn: str,
        done: Sequence[msg.Interval] = (),
        undone: Sequence[msg.Interval] = (),
        forgotten: Sequence[msg.Interval] = (),
    ) -> msg.IntervalCoverage | None:
        """The coverage of a model; None for a node that is no incremental model.

        Args:
            done: Intervals that were computed and recorded after the snapshots were read.
            undone: Intervals of a restatement that has failed after the snapshots were read.
            forgotten: Computed intervals that were forgotten after the snapshots were read, to compute them again.
        """
        snapshot = self._snapshots[fqn]
        if not is_incremental(snapshot):
            return None
        computed = merge_intervals([*subtract(computed_intervals(snapshot, self.index), forgotten), *done])
        whole = (computed[0][0], computed[-1][1]) if computed else None
        # SQLMesh itself remembers the automatic restatements that have not finished.
        automatic = subtract(computed, subtract(computed, snapshot.pending_restatement_intervals))
        unrestated = subtract([*self.known.unrestated.get(fqn, ()), *automatic, *undone], done)
        late = common(subtract(self.known.late.get(fqn, ()), done), computed)
        missing = uncovered(self.pending.get(fqn, ()), computed)
        if missing:
            expected_until = _expected_until(snapshot, self._execution_time)
            early = contained(missing, merge_intervals([*self._forgotten.get(fqn, ()), *forgotten]))
            missing = [interval for interval in missing if interval[1] <= expected_until or interval in early]
        loaded = without(missing, self._not_loaded(fqn), uninterrupted=False) if missing else []
        waiting = tuple(merge_intervals(list(set(missing).difference(loaded))))
        missing = loaded
        if not missing:
            return msg.IntervalCoverage(fqn, whole, unrestated=unrestated, waiting=waiting, late=late)
        gaps = merge_intervals(missing)
        end = missing[0][1]
        since = due_at(snapshot, end)
        return msg.IntervalCoverage(
            fqn=fqn,
            computed=whole,
            gaps=tuple(gaps[: msg.MAX_GAPS]),
            gap_count=len(gaps),
            missing_intervals=len(missing),
            missing_since=since if since <= self._execution_time else end,
            unrestated=unrestated,
            waiting=waiting,
            late=late,
        )

    def _not_loaded(self, fqn: str) -> Sequence[msg.Interval]:
        """The ranges for which an awaited table that a model reads is not complete, also through models upstream."""
        tables = self.known.tables
        if not tables.awaited:
            return ()
        found = [*tables.not_loaded(self._snapshots[fqn])]
        for name in reachable(self._upstream[fqn], self._upstream.__getitem__):
            snapshot = self._snapshots[name]
            found += lost_to_readers(snapshot, tables.not_loaded(snapshot), self.index)
        return merged(found)

    @cached_property
    def _upstream(self) -> Mapping[str, Sequence[str]]:
        return upstream(self._snapshots)


def uncovered(intervals: Iterable[msg.Interval], covered: Sequence[msg.Interval]) -> list[msg.Interval]:
    """The intervals that lie in none of the covered ranges, which are in order and apart."""
    starts = [start for start, _ in covered]
    missing = []
    for interval in intervals:
        position = bisect_right(starts, interval[0]) - 1
        if position < 0 or covered[position][1] < interval[1]:
            missing.append(interval)
    return missing


def contained(intervals: Sequence[msg.Interval], ranges: Sequence[msg.Interval]) -> set[msg.Interval]:
    """The intervals that lie in one of these ranges, which are in order and apart."""
    return set(intervals).difference(uncovered(intervals, ranges))


def _expected_until(snapshot: Snapshot, now: int) -> int:
    """The instant up to which a model must be computed: the last tick of its cron, in whole intervals.

    Without the second part, a model with `allow_partials` would lack an interval that is not over.
    """
    tick = snapshot.node.cron_floor(now)
    return int(to_timestamp(snapshot.node.interval_unit.cron_floor(tick)))
