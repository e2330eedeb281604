"""What runs change while a plan is applied, and which intervals the plan's new versions then have to compute."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlmesh.core.plan import EvaluatablePlan
from sqlmesh.core.snapshot import DeployabilityIndex, Snapshot, SnapshotId
from sqlmesh.core.snapshot.definition import Interval

from dg_sqlmesh_component.capabilities.plans.worker.context import PlanContext
from dg_sqlmesh_component.capabilities.plans.worker.corrections import corrected
from dg_sqlmesh_component.capabilities.plans.worker.gained_rows import GainedRows
from dg_sqlmesh_component.capabilities.plans.worker.versions import (
    Rows,
    Shown,
    Versions,
    computed_in,
    find_outdated,
    is_torn,
    tables_of,
)
from dg_sqlmesh_component.protocol.errors import EnvironmentNotReadyError
from dg_sqlmesh_component.protocol.formatting import listed, ranges
from dg_sqlmesh_component.protocol.graph import reachable
from dg_sqlmesh_component.protocol.intervals import add, common, merged, subtract
from dg_sqlmesh_component.worker.context import display_name
from dg_sqlmesh_component.worker.intervals.outdated import Table
from dg_sqlmesh_component.worker.intervals.tables import filled_intervals, upstream
from dg_sqlmesh_component.worker.sqlmesh_internals import Forgotten, computed_ranges, forget_intervals


@dataclass(frozen=True)
class _Look:
    """The state at one moment.

    Attributes:
        rows: Its computed ranges.
        shown: The computed intervals of the versions that prod shows, by name.
        versions: Those of the plan.
    """

    rows: Rows
    shown: Mapping[str, Sequence[Interval]]
    versions: Versions


class ConcurrentChanges:
    """Compares the state of SQLMesh with that of the last look. A look needs the lock of runs.

    Attributes:
        times_forgotten: How often new versions had to forget intervals because of runs.
        outdated: By name, what other tables had to forget because a table that they read gains rows by the plan.
    """

    def __init__(
        self,
        context: PlanContext,
        shown: Shown,
        plan: EvaluatablePlan,
        index: DeployabilityIndex | None,
        interrupted: Sequence[Interval],
        gained: GainedRows | None = None,
    ) -> None:
        """Look for the first time, without the lock of runs: a plan must not wait for the run in flight.

        That run's rows come later, so the next look sees them.

        Args:
            index: Of the stages that SQLMesh has built last; None if they compute nothing.
            interrupted: As in `PlanApproval`.
            gained: What the tables of prod had when the plan was built; None for a preview.
        """
        self.outdated: dict[str, tuple[Interval, ...]] = {}
        self._gained = gained
        self._expected: dict[str, tuple[Interval, ...]] = {}
        """By name, what new versions had or lacked. Set before the plan computes. The rest is newer."""
        self._forgotten: dict[str, tuple[Interval, ...]] = {}
        """By name, what new versions have to compute again because of runs. Each look adds to it. Read at the end."""
        self._context = context
        self._shown = shown
        self._plan = plan
        self.times_forgotten = 0
        rows, now, versions = computed_ranges(context), self._shown_now(), self._read(index)
        if interrupted:
            versions = self._forget(self._read_before_interruption(interrupted, rows, now, versions), versions)
        # A restatement may have ended since the plan was built. Rows are no evidence here: the plan has compared them.
        versions = self._forget(corrected(versions, {}, {}), versions)
        self._last = _Look(rows, _intervals(now), versions)
        """Each look replaces it. What happens to the state between two looks is seen by the second one, and once."""

    @property
    def versions(self) -> Versions:
        """The versions of the plan at the last look."""
        return self._last.versions

    def look(self, index: DeployabilityIndex | None) -> None:
        """Find what runs have done since the last look, and forget what new versions have read of it.

        Args:
            index: As in `__init__`. It depends on intervals, which change.

        Raises:
            EnvironmentNotReadyError: A preview has read what a run has not finished to compute again.
        """
        rows, shown, versions = computed_ranges(self._context), _intervals(self._shown_now()), self._read(index)

        def lost(table: Any, before: Sequence[Interval], now: Sequence[Interval]) -> tuple[Interval, ...]:
            """The intervals that a table had at the last look, or that were computed since, and no longer has."""
            seen = set(self._last.rows.get(table, ()))
            since = [row.interval for row in rows.get(table, ()) if row not in seen]
            return subtract([*before, *since], now)

        # Whoever removes intervals has begun to compute them again, or lets them wait for a signal. What has read them
        # before is as old as they are, also if nobody computes them before the plan promotes.
        lost_by_shown = {
            name: lost((name, self._shown[name].version, False), before, shown.get(name, ()))
            for name, before in self._last.shown.items()
        }
        # A restatement also removes intervals of each version that another environment shows.
        lost_by_new = {  # `self.versions` are those of the last look
            name: lost(versions.table(node), self.versions.computed.get(name, ()), versions.computed.get(name, ()))
            for name, node in versions.new.items()
        }
        adapter_of = self._context.snapshot_evaluator.get_adapter
        torn = {name for name, node in versions.others.items() if is_torn(node, adapter_of(node.model_gateway))}
        tables = tables_of(self._shown, rows, self._last.rows, lost_by_shown, torn)
        again = find_outdated(versions, _altered(tables), lost=lost_by_new)
        forgotten = self._forget(again, versions)
        if self._plan.is_dev:
            self._refuse_gaps(lost_by_shown, versions)
        self._last = _Look(rows, shown, forgotten)

    def forget_outdated(self, planned: Mapping[str, Sequence[Interval]]) -> bool:
        """Forget what lacks rows that the plan brings, of tables that prod shows. They need the lock of runs.

        Args:
            planned: What the plan still computes, by name.

        Returns:
            Whether something was forgotten.
        """
        if self._gained is None:
            return False
        lacking = self._gained.lacking(self.versions.nodes, planned, self._last.shown).again
        left = {name: subtract(found, self.outdated.get(name, ())) for name, found in lacking.items()}
        if found := _without_empty(left):
            # What prod's tables lose here, the next look sees: new versions that have read it are computed again too.
            versions = self._forget(found, self.versions, because_of_runs=False)
            add(self.outdated, found)
            self._last = replace(self._last, versions=versions)
        return bool(found)

    def expect(self, missing: Mapping[str, Sequence[Interval]]) -> None:
        """Note what new versions have or lack, by name, before the plan computes."""
        versions = self.versions
        self._expected = {
            name: merged([*versions.computed.get(name, ()), *missing.get(name, ())]) for name in versions.new
        }

    def caught_up(self) -> tuple[dict[str, tuple[Interval, ...]], dict[str, tuple[Interval, ...]]]:
        """By name, what new versions have computed again, and what they have computed of newer intervals."""
        versions, rows = self._read(self.versions.index), computed_ranges(self._context)
        computed = {name: filled_intervals(node, versions.index, rows) for name, node in versions.new.items()}
        again = {name: common(found, computed.get(name, ())) for name, found in self._forgotten.items()}
        newer = {name: subtract(computed.get(name, ()), known) for name, known in self._expected.items()}
        return _without_empty(again), _without_empty(newer)

    def _refuse_gaps(self, lost: Mapping[str, Sequence[Interval]], versions: Versions) -> None:
        """A preview fills no gaps of prod's tables."""
        read = reachable(versions.new, upstream(versions.nodes).__getitem__) & versions.others.keys()
        named = [
            f"{display_name(versions.nodes[name].node, self._context)} ({ranges(found)})"
            for name, found in sorted(lost.items())
            if found and name in read
        ]
        if named:
            raise EnvironmentNotReadyError(
                f"A run has not finished to compute again what the preview has read: {listed(named)}. Launch a run of "
                "prod, and then this job again."
            )

    def _forget(
        self, intervals: Mapping[str, tuple[Interval, ...]], versions: Versions, *, because_of_runs: bool = True
    ) -> Versions:
        """Forget intervals of the versions, to compute them again. Returns the versions without them."""
        nodes = {name: versions.nodes[name] for name in intervals}
        forgotten = (Forgotten(node, intervals[name], versions.is_dev_table(node)) for name, node in nodes.items())
        forget_intervals(self._context.state_sync, forgotten)
        if because_of_runs:
            add(self._forgotten, intervals)
            self.times_forgotten += bool(intervals)
        return self._read(versions.index) if intervals else versions

    def _read(self, index: DeployabilityIndex | None) -> Versions:
        return Versions.read(self._context.stored, self._plan, self._shown, index)

    def _read_before_interruption(
        self, interrupted: Sequence[Interval], rows: Rows, shown: Mapping[str, Snapshot], versions: Versions
    ) -> dict[str, tuple[Interval, ...]]:
        """By name, the intervals that interrupted plans have computed of data that was rewritten, or is lost, since.

        An interrupted plan may not have looked.
        """
        complete: dict[SnapshotId, int] = {}  # a plan that has finished has looked
        for environment in self._context.state_reader.get_environments():
            for info in environment.snapshots if environment.finalized_ts else ():
                complete[info.snapshot_id] = max(complete.get(info.snapshot_id, 0), environment.finalized_ts or 0)

        def times(node: Snapshot) -> list[Interval]:
            return [time for time in interrupted if time[0] > complete.get(node.snapshot_id, 0)]

        since = {
            name: begins[0]
            for name, node in versions.new.items()
            if (begins := computed_in(times(node), rows.get(versions.table(node), ())))
        }
        lost = {}
        for name, node in shown.items() if since else ():
            computed = [row.interval for row in rows.get((name, node.version, False), ())]
            # SQLMesh's janitor may have deleted rows of removed intervals. A mark is left of those that a run forgot.
            lost[name] = subtract([*computed, *node.pending_restatement_intervals], node.intervals)
        tables = tables_of(self._shown, rows, lost=lost)
        return find_outdated(versions, _altered(tables), lambda name: since.get(name, sys.maxsize))

    def _shown_now(self) -> dict[str, Snapshot]:
        return self._context.stored.now(self._shown.values())


def _altered(tables: Mapping[str, Table]) -> Callable[[str, int, bool], Sequence[Interval]]:
    return lambda name, since, only_rewritten: tables[name].altered(since, only_rewritten=only_rewritten)


def _intervals(shown: Mapping[str, Snapshot]) -> dict[str, list[Interval]]:
    return {name: node.intervals for name, node in shown.items()}


def _without_empty(by_name: Mapping[str, tuple[Interval, ...]]) -> dict[str, tuple[Interval, ...]]:
    return {name: intervals for name, intervals in by_name.items() if intervals}
