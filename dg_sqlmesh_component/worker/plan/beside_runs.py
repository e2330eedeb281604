"""Apply a plan while runs go on: they wait only while it computes tables that prod shows, and while it promotes.

Theory of operation. SQLMesh applies a plan in stages. Until it writes the environment, the plan computes two kinds of
tables: those that prod shows, with gaps that a run would fill too, and those of new versions, which nobody reads yet.
This module holds the lock of runs for the first kind, and not for the second, which takes long.

Before SQLMesh writes the environment, the lock is taken for good, and what has happened meanwhile is made up for:

- A run has computed newer intervals of a model that gets a new version. The new version computes them too: prod must
  not go back. So do the new versions upstream of it.
- A run has rewritten an interval that a new version has read (a restatement, a `lookback`). The new version may have
  read it half, so the same intervals are computed again, and in all new versions downstream. A model that SQLMesh can
  only compute as a whole is computed as a whole.

An upstream row of the state is evidence: it was added after the new version's first batch began. SQLMesh's janitor
merges such rows; a merged row counts as rewritten as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import replace
from functools import partial
from graphlib import TopologicalSorter
from typing import Any

from sqlmesh.core.environment import Environment
from sqlmesh.core.plan import EvaluatablePlan
from sqlmesh.core.plan.stages import BackfillStage, EnvironmentRecordUpdateStage
from sqlmesh.core.snapshot import DeployabilityIndex, Snapshot, SnapshotIdLike
from sqlmesh.core.snapshot.definition import Interval
from sqlmesh.utils.date import now_timestamp
from sqlmesh.utils.errors import CircuitBreakerError

from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.formatting import listed, ranges
from dg_sqlmesh_component.protocol.graph import reachable
from dg_sqlmesh_component.protocol.intervals import common, merged, subtract
from dg_sqlmesh_component.worker.coverage import is_incremental, whole_intervals
from dg_sqlmesh_component.worker.environment import computed_intervals, upstream
from dg_sqlmesh_component.worker.plan.context import PlanContext
from dg_sqlmesh_component.worker.sqlmesh_internals import ComputedRange, computed_ranges, forget_intervals
from dg_sqlmesh_component.worker.state_lock import StateLock

_ROUNDS = 3
"""How often is made up without the lock, so that runs wait shortly for the last time."""


class Rewritten:
    """Which intervals of new versions have to be computed, because of what runs have done since.

    Args:
        new: The snapshots whose tables prod does not show, by name.
        others: All other snapshots of the plan, by name.
        rows: The computed ranges of the state.
    """

    def __init__(
        self, new: Mapping[str, Snapshot], others: Mapping[str, Snapshot], rows: Mapping[Any, Sequence[ComputedRange]]
    ) -> None:
        self._new = new
        self._others = others
        self._rows = rows
        self._parents = upstream({**others, **new})

    def again(self, index: DeployabilityIndex, since: Mapping[str, int]) -> dict[str, tuple[Interval, ...]]:
        """By name, the computed intervals that have read what was rewritten.

        Args:
            since: When each new version has begun to read, epoch milliseconds. Others have read nothing.
        """
        found: dict[str, tuple[Interval, ...]] = {}
        for name in TopologicalSorter({name: self._parents[name] for name in self._new}).static_order():
            snapshot = self._new.get(name)
            if snapshot is None or not snapshot.is_model or snapshot.is_symbolic or name not in since:
                continue
            computed = computed_intervals(snapshot, index)
            altered = [interval for parent in self._tables_read(name) for interval in found.get(parent, ())]
            for parent in self._tables_read(name) & self._others.keys():
                altered += self._altered(self._others[parent], since[name], only_rewritten=not is_incremental(snapshot))
            if not common(altered, computed):
                continue
            is_whole = not is_incremental(snapshot) or snapshot.full_history_restatement_only
            parts = computed if is_whole else [whole_intervals(snapshot, part) for part in common(altered, computed)]
            found[name] = common(parts, computed)
        return found

    def _altered(self, snapshot: Snapshot, since: int, *, only_rewritten: bool) -> Sequence[Interval]:
        rows = self._rows.get((snapshot.name, snapshot.version, False), ())
        before = merged(row.interval for row in rows if row.at <= since)
        after = [row for row in rows if row.at > since]
        if not only_rewritten:
            return [row.interval for row in after]
        whole = [row.interval for row in after if row.is_merged]
        return [*whole, *common((row.interval for row in after if not row.is_merged), before)]

    def _tables_read(self, name: str) -> Set[str]:
        nodes = {**self._others, **self._new}

        def behind(node: str) -> Iterable[str]:
            is_table = not (nodes[node].is_model and (nodes[node].is_view or nodes[node].is_symbolic))
            return () if is_table else self._parents[node]

        return reachable(self._parents[name], behind)


def moved_on(
    new: Mapping[str, Snapshot], before: Mapping[str, Sequence[Interval]], now: Mapping[str, Sequence[Interval]]
) -> dict[str, tuple[Interval, ...]]:
    """By name, the intervals that runs have computed of old versions since, for the new versions that lack them.

    Args:
        before, now: The intervals of the version that prod shows of each model, when the plan was built and now.
    """
    parents = upstream(new)
    needed: dict[str, tuple[Interval, ...]] = {
        name: subtract(now[name], before.get(name, ())) for name in new if name in now
    }
    order = [*TopologicalSorter({name: parents[name] for name in new}).static_order()]
    for name in reversed(order):
        for parent in parents.get(name, ()):
            if parent in new:
                needed[parent] = merged([*needed.get(parent, ()), *needed.get(name, ())])
    found = {}
    for name, intervals in needed.items():
        snapshot = new[name]
        if snapshot.is_model and not snapshot.is_symbolic and intervals:
            whole = [whole_intervals(snapshot, interval) for interval in intervals]
            if lacking := subtract(whole, snapshot.intervals):
                found[name] = lacking
    return found


class BesideRuns:
    """Applies one plan with SQLMesh's evaluator of plans, and holds the lock of runs where it has to."""

    def __init__(
        self, context: PlanContext, prod: Environment | None, lock: StateLock, interrupted_since: int | None
    ) -> None:
        """Remember what prod shows.

        Args:
            prod: As it was when the plan was built; None if the plan creates it.
            interrupted_since: As in `PlanApproval`.
        """
        self._interrupted_since = interrupted_since
        self._context = context
        self._lock = lock
        self._shown = {info.name: info for info in prod.snapshots} if prod else {}
        self._is_preview = isinstance(context.request, msg.PreviewRequest)
        self._before = self._intervals_shown()

    def watch(self, evaluator: Any) -> None:
        """Replace two stages of SQLMesh's evaluator."""
        backfill, write = evaluator.visit_backfill_stage, evaluator.visit_environment_record_update_stage
        made_up: list[Callable[[], bool]] = []

        def visit_backfill_stage(stage: BackfillStage, plan: EvaluatablePlan) -> None:
            if not stage.before_promote or plan.empty_backfill:
                backfill(stage, plan)
                return
            shown = {node: i for node, i in stage.snapshot_to_intervals.items() if self._is_shown(node)}
            if shown:
                with self._lock.held():
                    backfill(replace(stage, snapshot_to_intervals=shown), plan)
            new = {node: i for node, i in stage.snapshot_to_intervals.items() if node not in shown}
            backfill(replace(stage, snapshot_to_intervals=new), plan)
            made_up.append(partial(self._make_up, stage, partial(backfill, plan=plan)))

        def visit_environment_record_update_stage(stage: EnvironmentRecordUpdateStage, plan: EvaluatablePlan) -> None:
            for make_up in made_up:
                for _ in range(_ROUNDS):
                    if not make_up():
                        break
            self._lock.acquire()
            for make_up in made_up:
                make_up()
            if plan.is_dev:  # runs do not read what it shows
                self._lock.release()
            write(stage, plan if plan.is_dev else self._after_restatements(plan))

        evaluator.visit_backfill_stage = visit_backfill_stage
        evaluator.visit_environment_record_update_stage = visit_environment_record_update_stage

    def _after_restatements(self, plan: EvaluatablePlan) -> EvaluatablePlan:
        """The plan after those of restatements. SQLMesh refuses a plan whose previous plan is not the last one.

        Raises:
            CircuitBreakerError: Another plan has changed what the environment shows.
        """
        stored = self._context.state_reader.get_environment(plan.environment.name)
        if stored is None:
            return plan
        if {info.snapshot_id for info in stored.snapshots} != {info.snapshot_id for info in self._shown.values()}:
            raise CircuitBreakerError
        environment = plan.environment.copy(update={"previous_plan_id": stored.plan_id})
        return plan.copy(update={"environment": environment})

    def _is_shown(self, snapshot: Snapshot) -> bool:
        """Whether prod shows the table of a snapshot."""
        info = self._shown.get(snapshot.name)
        return info is not None and info.version == snapshot.version

    def _intervals_shown(self) -> dict[str, list[Interval]]:
        """The computed intervals of each version that prod shows, as in the state."""
        return {name: snapshot.intervals for name, snapshot in self._read(self._shown.values()).items()}

    def _read(self, infos: Iterable[SnapshotIdLike]) -> dict[str, Snapshot]:
        """These snapshots, by name. SQLMesh keeps the intervals that it has read once."""
        state = self._context.state_reader
        copies = [snapshot.copy() for snapshot in state.get_snapshots(infos).values()]
        state.refresh_snapshot_intervals(copies)
        return {snapshot.name: snapshot for snapshot in copies}

    def _make_up(self, stage: BackfillStage, backfill: Callable[[BackfillStage], None]) -> bool:
        """Compute what runs have made necessary since the last time. Return whether that was anything."""
        looked_at = now_timestamp()
        snapshots = self._read(stage.all_snapshots.values())
        new = {name: node for name, node in snapshots.items() if not self._is_shown(node)}
        others = {name: node for name, node in snapshots.items() if name not in new}
        index = stage.deployability_index
        started = self._context.started
        if self._interrupted_since is not None:  # an interrupted plan may have computed some of them
            unread = [name for name, node in new.items() if computed_intervals(node, index)]
            started = {**started, **dict.fromkeys(unread, self._interrupted_since)}
            self._interrupted_since = None
        again = Rewritten(new, others, computed_ranges(self._context)).again(index, started)
        self._context.started = dict.fromkeys(started, looked_at)
        newer: Mapping[str, Sequence[Interval]] = {}
        if not self._is_preview:
            now = self._intervals_shown()
            newer, self._before = moved_on(new, self._before, now), now
        for name, intervals in again.items():
            is_dev = not index.is_representative(new[name])
            forget_intervals(self._context.state_sync, new[name], intervals, is_dev=is_dev)
        self._log("rewritten by runs meanwhile", again, snapshots.values())
        self._log("computed by runs meanwhile", newer, snapshots.values())
        if not (again or newer):
            return False
        needed = {name: merged([*again.get(name, ()), *newer.get(name, ())]) for name in {**again, **newer}}
        refreshed = self._read(stage.all_snapshots.values())
        by_snapshot = {refreshed[name]: list(intervals) for name, intervals in needed.items()}
        backfill(replace(stage, snapshot_to_intervals=by_snapshot, all_snapshots=refreshed))
        return True

    def _log(self, what: str, intervals: Mapping[str, Sequence[Interval]], snapshots: Iterable[Snapshot]) -> None:
        names = {snapshot.name: snapshot.node.name for snapshot in snapshots}
        if intervals:
            named = [f"{names[name]} ({ranges(of_model)})" for name, of_model in intervals.items()]
            text = f"The plan computes again what was {what}: {listed(named)}."
            self._context.tracker.pipe.log("info", text)
