"""What runs have done while a plan is applied, and which intervals new versions then have to compute."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from sqlmesh.core.engine_adapter import EngineAdapter
from sqlmesh.core.plan import EvaluatablePlan
from sqlmesh.core.snapshot import DeployabilityIndex, Snapshot, SnapshotId
from sqlmesh.core.snapshot.definition import Interval

from dg_sqlmesh_component.protocol.intervals import add, common, subtract
from dg_sqlmesh_component.worker.intervals.tables import missing_now, snapshots_now
from dg_sqlmesh_component.worker.plan.context import PlanContext
from dg_sqlmesh_component.worker.plan.rewritten import Filled, Rewritten, Rows, computed_in, is_torn, moved_on
from dg_sqlmesh_component.worker.plan.versions import Shown, Versions
from dg_sqlmesh_component.worker.sqlmesh_internals import computed_ranges, forget_intervals


class Meanwhile:
    """Compares the state of SQLMesh with that of the last look.

    Attributes:
        rewritten: By name, the intervals that were computed again because runs rewrote their source meanwhile.
        newer: By name, the intervals that runs had computed of old versions, and the plan then of new ones.
        index: Of the stages that SQLMesh has built. It depends on intervals, which change meanwhile. None if the plan
            is of prod and has computed nothing yet.
    """

    def __init__(self, context: PlanContext, shown: Shown) -> None:
        self.rewritten: dict[str, tuple[Interval, ...]] = {}
        self.newer: dict[str, tuple[Interval, ...]] = {}
        self.index: DeployabilityIndex | None = None
        self._context = context
        self._shown = shown
        self._before: Mapping[str, Sequence[Interval]] = {}
        """By name, the computed intervals of the versions that prod shows, at the last look."""
        self._shown_ever: dict[str, tuple[Interval, ...]] = {}
        """The same, at any look."""
        self._had: dict[str, tuple[Interval, ...]] = {}
        """By name, the intervals of new versions that were computed, before or by this plan."""
        self._seen: Rows = {}
        self._own: Rows = {}
        """What the plan has computed of tables that prod shows."""

    def begin(self, plan: EvaluatablePlan, index: DeployabilityIndex | None, interrupted: Sequence[Interval]) -> None:
        """Remember what is computed. Forget what new versions have computed of rewritten data before an interruption.

        Args:
            interrupted: As in `PlanApproval`.
        """
        self.index = index
        self._before, self._seen = self._intervals_shown(), computed_ranges(self._context)
        add(self._shown_ever, self._before)
        self._had = dict(self.versions(plan).computed)
        if interrupted:
            self._forget_interrupted(plan, interrupted)

    def versions(self, plan: EvaluatablePlan) -> Versions:
        return Versions.read(self._context, plan, self._shown, self.index)

    @contextmanager
    def own(self) -> Iterator[None]:
        """Remember what the plan computes of tables that prod shows, with the lock of runs."""
        before = computed_ranges(self._context)
        yield
        self._own = {
            table: [*self._own.get(table, ()), *(row for row in rows if row not in before.get(table, ()))]
            for table, rows in computed_ranges(self._context).items()
        }

    def again(self, plan: EvaluatablePlan, filled: Filled) -> dict[str, tuple[Interval, ...]]:
        """By name, the intervals that new versions have to compute again, since the last look. They are forgotten."""
        rows, versions = computed_ranges(self._context), self.versions(plan)
        kept = {name: subtract(had, _computed(rows, self._seen, versions, name)) for name, had in self._had.items()}
        add(self._had, {name: self._context.tracker.finished(name) for name in versions.new})
        lost = {name: subtract(had, versions.computed.get(name, ())) for name, had in self._had.items()}
        torn = {name for name, node in versions.others.items() if is_torn(node, self._adapter(node))}
        found = Rewritten(versions, rows, self._seen, filled, lost, torn, self._own, kept)
        again = found.again(self._context.started)
        self._context.started, self._seen = {}, rows
        self._forget(again, versions)
        return again

    def lacking(self, plan: EvaluatablePlan) -> dict[str, tuple[Interval, ...]]:
        """By name, the intervals of new versions that runs have computed of the old ones, since the last look."""
        if plan.is_dev:
            return {}
        now, versions = self._intervals_shown(), self.versions(plan)
        newer = moved_on(versions, self._before, now, missing_now(versions.others))
        possible = missing_now(versions.new, ignore_cron=True) if newer else {}
        newer = {name: part for name, found in newer.items() if (part := common(found, possible.get(name, ())))}
        self._before = now
        add(self._shown_ever, now)
        add(self.newer, newer)
        return newer

    def lost_by_prod(self, versions: Versions) -> dict[str, tuple[Interval, ...]]:
        """By name, the intervals that tables of prod have had, and have no more."""
        lost = {
            name: subtract(self._shown_ever.get(name, ()), node.intervals) for name, node in versions.others.items()
        }
        return {name: intervals for name, intervals in lost.items() if intervals}

    def _forget(self, intervals: Mapping[str, tuple[Interval, ...]], versions: Versions) -> None:
        """Forget the intervals of new versions, to compute them again."""
        for name, of_model in intervals.items():
            node = versions.nodes[name]
            forget_intervals(self._context.state_sync, node, of_model, is_dev=versions.is_dev_table(node))
        add(self.rewritten, intervals)

    def _forget_interrupted(self, plan: EvaluatablePlan, interrupted: Sequence[Interval]) -> None:
        rows, versions = computed_ranges(self._context), self.versions(plan)
        complete: dict[SnapshotId, int] = {}
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
        self._forget(Rewritten(versions, rows, {}).again(since, others_since=sys.maxsize), versions)

    def _intervals_shown(self) -> dict[str, list[Interval]]:
        """The computed intervals of each version that prod shows."""
        return {name: node.intervals for name, node in snapshots_now(self._context, self._shown.values()).items()}

    def _adapter(self, snapshot: Snapshot) -> EngineAdapter:
        return self._context.engine_adapters[snapshot.model_gateway or self._context.selected_gateway]


def _computed(rows: Rows, seen: Rows, versions: Versions, name: str) -> list[Interval]:
    """The intervals that the plan has computed of a new version since the last look."""
    if name not in versions.new:
        return []
    table = versions.table(versions.new[name])
    before = set(seen.get(table, ()))
    return [row.interval for row in rows.get(table, ()) if row not in before]
