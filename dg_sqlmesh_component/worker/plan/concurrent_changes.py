"""What runs change while a plan is applied, and which intervals the plan's new versions then have to compute."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlmesh.core.engine_adapter import EngineAdapter
from sqlmesh.core.plan import EvaluatablePlan
from sqlmesh.core.snapshot import DeployabilityIndex, Snapshot, SnapshotId
from sqlmesh.core.snapshot.definition import Interval

from dg_sqlmesh_component.protocol.errors import EnvironmentNotReadyError
from dg_sqlmesh_component.protocol.formatting import listed, ranges
from dg_sqlmesh_component.protocol.graph import reachable
from dg_sqlmesh_component.protocol.intervals import add, common, subtract
from dg_sqlmesh_component.worker.context import display_name
from dg_sqlmesh_component.worker.intervals.tables import missing_now, snapshots_now, upstream
from dg_sqlmesh_component.worker.plan.context import PlanContext
from dg_sqlmesh_component.worker.plan.rewritten import Rewritten, Rows, computed_in, is_torn, moved_on
from dg_sqlmesh_component.worker.plan.versions import Shown, Versions
from dg_sqlmesh_component.worker.sqlmesh_internals import computed_ranges, forget_intervals


@dataclass(frozen=True)
class _Look:
    """The state at one moment.

    Attributes:
        rows: Its computed ranges.
        shown: The computed intervals of the versions that prod shows, by name.
        new: Those of the plan's new versions that have some, by name.
    """

    rows: Rows
    shown: Mapping[str, Sequence[Interval]]
    new: Mapping[str, Sequence[Interval]]


class ConcurrentChanges:
    """Compares the state of SQLMesh with that of the last look. A look needs the lock of runs.

    Attributes:
        index: Of the stages that SQLMesh has built. It depends on intervals, which change. The caller sets it before
            each stage that computes. None if the plan is of prod and has computed nothing yet.
    """

    _plan: EvaluatablePlan
    _last: _Look
    """Each look replaces it. What happens to the state between two looks is seen by the second one, and once."""

    def __init__(self, context: PlanContext, shown: Shown) -> None:
        self.index: DeployabilityIndex | None = None
        self._asked: dict[str, tuple[Interval, ...]] = {}
        """By name, what SQLMesh's first stage computes of new versions."""
        self._rewritten: dict[str, tuple[Interval, ...]] = {}
        """By name, what new versions have to compute again because of runs. Each look adds to it."""
        self._newer: dict[str, tuple[Interval, ...]] = {}
        """By name, what runs have computed of old versions since the plan was built. Each look adds to it."""
        self._context = context
        self._shown = shown

    def begin(self, plan: EvaluatablePlan, index: DeployabilityIndex | None, interrupted: Sequence[Interval]) -> None:
        """Look for the first time, without the lock of runs: a plan must not wait for the run in flight.

        That run's rows come later, so the next look sees them.

        Args:
            interrupted: As in `PlanApproval`.
        """
        self._plan, self.index = plan, index
        rows, shown, versions = computed_ranges(self._context), self._shown_now(), self.versions()
        if interrupted:
            self._forget(self._read_before_interruption(interrupted, rows, shown, versions), versions)
            versions = self.versions()
        self._last = _Look(rows, _intervals(shown), versions.computed)

    def versions(self) -> Versions:
        return Versions.read(self._context, self._plan, self._shown, self.index)

    def look(self) -> None:
        """Find what runs have done since the last look, and forget what new versions have read of it.

        Raises:
            EnvironmentNotReadyError: A preview has read what a run has not finished to compute again.
        """
        rows, shown, versions = computed_ranges(self._context), _intervals(self._shown_now()), self.versions()
        # Whoever removes intervals has begun to compute them again, or lets them wait for a signal. What has read them
        # before is as old as they are, also if nobody computes them before the plan promotes.
        lost_by_shown = {
            name: subtract([*before, *self._since(rows, (name, self._shown[name].version, False))], shown.get(name, ()))
            for name, before in self._last.shown.items()
        }
        # A restatement also removes intervals of each version that another environment shows.
        lost_by_new = {
            name: subtract(
                [*self._last.new.get(name, ()), *self._since(rows, versions.table(node))],
                versions.computed.get(name, ()),
            )
            for name, node in versions.new.items()
        }
        torn = {name for name, node in versions.others.items() if is_torn(node, self._adapter(node))}
        again = Rewritten(versions, rows, self._last.rows, lost_by_shown, lost_by_new, torn).again()
        self._forget(again, versions)
        if self._plan.is_dev:
            self._refuse_gaps(lost_by_shown, versions)
        else:
            add(self._newer, self._computed_of_old(shown, versions))
        if again:
            versions = self.versions()
        self._last = _Look(rows, shown, versions.computed)

    def ask(self, intervals: Mapping[str, tuple[Interval, ...]]) -> None:
        """Note what SQLMesh's first stage computes of new versions, by name."""
        add(self._asked, intervals)

    def lacking(self, versions: Versions) -> dict[str, tuple[Interval, ...]]:
        """By name, what new versions have to compute and have not. Signals and gaps upstream may hold it back."""
        needed: dict[str, tuple[Interval, ...]] = {}
        for intervals in (self._asked, self._rewritten, self._newer):
            add(needed, intervals)
        lacking = {name: subtract(found, versions.computed.get(name, ())) for name, found in needed.items()}
        return {name: intervals for name, intervals in lacking.items() if intervals}

    def caught_up(self) -> tuple[dict[str, tuple[Interval, ...]], dict[str, tuple[Interval, ...]]]:
        """By name, what new versions have computed again, and what they have computed of newer intervals."""
        computed = self.versions().computed if self._rewritten or self._newer else {}
        again, newer = (
            {name: part for name, found in by_name.items() if (part := common(found, computed.get(name, ())))}
            for by_name in (self._rewritten, self._newer)
        )
        return again, newer

    def _since(self, rows: Rows, table: tuple[str, str | None, bool]) -> list[Interval]:
        """The intervals of a table that were computed since the last look, and may have been lost since then."""
        before = set(self._last.rows.get(table, ()))
        return [row.interval for row in rows.get(table, ()) if row not in before]

    def _computed_of_old(
        self, shown: Mapping[str, Sequence[Interval]], versions: Versions
    ) -> dict[str, tuple[Interval, ...]]:
        """By name, the intervals of new versions that runs have computed of the old ones, since the last look."""
        newer = moved_on(versions, self._last.shown, shown, missing_now(versions.others))
        possible = missing_now(versions.new, ignore_cron=True) if newer else {}
        return {name: part for name, found in newer.items() if (part := common(found, possible.get(name, ())))}

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

    def _forget(self, intervals: Mapping[str, tuple[Interval, ...]], versions: Versions) -> None:
        """Forget the intervals of new versions, to compute them again."""
        for name, of_model in intervals.items():
            node = versions.nodes[name]
            forget_intervals(self._context.state_sync, node, of_model, is_dev=versions.is_dev_table(node))
        add(self._rewritten, intervals)

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
        return Rewritten(versions, rows, {}, lost).again(since, others_since=sys.maxsize)

    def _shown_now(self) -> dict[str, Snapshot]:
        return snapshots_now(self._context, self._shown.values())

    def _adapter(self, snapshot: Snapshot) -> EngineAdapter:
        return self._context.engine_adapters[snapshot.model_gateway or self._context.selected_gateway]


def _intervals(shown: Mapping[str, Snapshot]) -> dict[str, list[Interval]]:
    return {name: node.intervals for name, node in shown.items()}
