"""Apply a plan while runs go on: they wait only while it computes tables that prod shows, and while it promotes.

Theory of operation. SQLMesh applies a plan in stages. Until it writes the environment, the plan computes two kinds of
tables: those that prod shows, with gaps that a run would fill too, and those of new versions, which nobody reads yet.
The lock of runs is held for the first kind, and not for the second, which takes long. With the lock, the gaps are
looked for again: a run may have filled them.

Before SQLMesh writes the environment, the lock is taken for good, and what has happened meanwhile is made up for:

- A run has computed newer intervals of a model that gets a new version. The new version computes them too: prod must
  not go back. So do the new versions upstream of it.
- A run has rewritten an interval that a new version has read (a restatement, a `lookback`). The new version may have
  read it half, so the same intervals are computed again, and in all new versions downstream. A model that SQLMesh can
  only compute as a whole is computed as a whole.
- A run has computed an interval of an old version that the new version has computed too, from the same tables. A
  restatement of it says that a table outside of the project has changed, so the new version computes it again.
- A restatement has taken intervals from a new version that an environment shows. They are computed again.
- A killed run has left a gap in a table that prod shows. It is filled, and counts as rewritten.
- A model that keeps its table reads new versions. Its gaps are filled after theirs.

An upstream row of the state is evidence: it was added after the new version's first batch began. SQLMesh's janitor
merges such rows; a merged row counts as rewritten as a whole.

The versions of a model share one table if its mode is `dev_only`. If such a model changes, runs wait for the whole
plan. On DuckDB, the file is the lock.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import cached_property, partial
from graphlib import TopologicalSorter
from typing import Any

from sqlmesh.core.environment import Environment
from sqlmesh.core.plan import EvaluatablePlan
from sqlmesh.core.plan.stages import BackfillStage, EnvironmentRecordUpdateStage, build_plan_stages
from sqlmesh.core.snapshot import (
    DeployabilityIndex,
    Snapshot,
    SnapshotId,
    SnapshotIdLike,
    SnapshotTableInfo,
    missing_intervals,
)
from sqlmesh.core.snapshot.definition import Interval
from sqlmesh.utils.date import now_timestamp
from sqlmesh.utils.errors import CircuitBreakerError

from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.errors import EnvironmentNotReadyError
from dg_sqlmesh_component.protocol.formatting import listed, ranges
from dg_sqlmesh_component.protocol.graph import reachable
from dg_sqlmesh_component.protocol.intervals import common, merged, subtract
from dg_sqlmesh_component.worker.coverage import is_incremental, whole_intervals
from dg_sqlmesh_component.worker.environment import computed_intervals, upstream
from dg_sqlmesh_component.worker.plan.context import PlanContext
from dg_sqlmesh_component.worker.sqlmesh_internals import (
    ComputedRange,
    computed_ranges,
    forget_intervals,
)
from dg_sqlmesh_component.worker.state_lock import StateLock

_ROUNDS = 3
"""How often is made up without the lock, so that runs wait shortly for the last time."""


@dataclass(frozen=True)
class Rewritten:
    """Which intervals of new versions have to be computed, because of what runs have done since.

    Attributes:
        new: The snapshots whose tables prod does not show, by name.
        others: All other snapshots of the plan, by name.
        shown: The versions that prod shows, by name.
        rows: The computed ranges of the state.
        gaps: By name, intervals of the others that are going to be computed.
        lost: By name, intervals that restatements have taken from the new versions.
    """

    new: Mapping[str, Snapshot]
    others: Mapping[str, Snapshot]
    shown: Mapping[str, SnapshotTableInfo]
    rows: Mapping[Any, Sequence[ComputedRange]]
    gaps: Mapping[str, Sequence[Interval]]
    lost: Mapping[str, Sequence[Interval]]

    def again(self, index: DeployabilityIndex, since: Mapping[str, int]) -> dict[str, tuple[Interval, ...]]:
        """By name, the intervals that have read what was rewritten, and those that are lost.

        Args:
            since: When each new version has begun to read, epoch milliseconds. Others have read nothing.
        """
        found: dict[str, tuple[Interval, ...]] = {}
        for name in TopologicalSorter({name: self._parents[name] for name in self.new}).static_order():
            snapshot = self.new.get(name)
            if snapshot is None or not _is_table(snapshot):
                continue
            lost = self.lost.get(name, ())
            computed = merged([*computed_intervals(snapshot, index), *lost])
            altered = [*lost, *(interval for parent in self._tables_read(name) for interval in found.get(parent, ()))]
            if name in since:
                altered += self._altered_since(snapshot, since[name])
            if not common(altered, computed):
                continue
            is_whole = not is_incremental(snapshot) or snapshot.full_history_restatement_only
            parts = computed if is_whole else [whole_intervals(snapshot, part) for part in common(altered, computed)]
            found[name] = common(parts, computed)
        return found

    def _altered_since(self, snapshot: Snapshot, since: int) -> Iterator[Interval]:
        """What runs have rewritten of the tables that a new version reads, and of its old version."""
        for parent in self._tables_read(snapshot.name) & self.others.keys():
            yield from self._altered(self.others[parent], since, only_rewritten=not is_incremental(snapshot))
        if snapshot.name in self.shown:
            yield from self._altered(self.shown[snapshot.name], since, only_rewritten=False)

    def _altered(
        self, snapshot: Snapshot | SnapshotTableInfo, since: int, *, only_rewritten: bool
    ) -> Sequence[Interval]:
        rows = self.rows.get((snapshot.name, snapshot.version, False), ())
        before = merged(row.interval for row in rows if row.at <= since)
        after = [row for row in rows if row.at > since]
        gaps = self.gaps.get(snapshot.name, ())
        if not only_rewritten:
            return [*gaps, *(row.interval for row in after)]
        whole = [row.interval for row in after if row.is_merged]
        return [*gaps, *whole, *common((row.interval for row in after if not row.is_merged), before)]

    def _tables_read(self, name: str) -> Set[str]:
        nodes = {**self.others, **self.new}

        def behind(node: str) -> Iterable[str]:
            return () if _is_table(nodes[node]) else self._parents[node]

        return reachable(self._parents[name], behind)

    @cached_property
    def _parents(self) -> Mapping[str, Sequence[str]]:
        return upstream({**self.others, **self.new})


def _is_table(snapshot: Snapshot) -> bool:
    return bool(snapshot.is_model and (snapshot.is_materialized or snapshot.is_materialized_view))


def moved_on(
    nodes: Mapping[str, Snapshot],
    new: Set[str],
    before: Mapping[str, Sequence[Interval]],
    now: Mapping[str, Sequence[Interval]],
    pending: Mapping[str, Sequence[Interval]],
) -> dict[str, tuple[Interval, ...]]:
    """By name, the intervals that runs have computed of old versions since, for the new versions that lack them.

    Args:
        nodes: All nodes of the plan, by name.
        new: The names of those whose tables prod does not show.
        before, now: The intervals of the version that prod shows of each model, when the plan was built and now.
        pending: What the other nodes lack. A new version may read a model that the old one did not read.
    """
    parents = upstream(nodes)
    needed: dict[str, tuple[Interval, ...]] = {
        name: subtract(now[name], before.get(name, ())) for name in new if name in now
    }
    order = [*TopologicalSorter({name: parents[name] for name in new}).static_order()]
    for name in reversed(order):
        for parent in new & set(parents[name]) if name in new else ():
            needed[parent] = merged([*needed.get(parent, ()), *needed.get(name, ())])
    found = {}
    for name, intervals in needed.items():
        snapshot = nodes[name]
        if snapshot.is_model and not snapshot.is_symbolic and intervals:
            whole = [whole_intervals(snapshot, interval) for interval in intervals]
            read = reachable(parents[name], parents.__getitem__)
            not_there = [part for node in read for part in pending.get(node, ())]
            if lacking := subtract(subtract(whole, snapshot.intervals), not_there):
                found[name] = lacking
    return found


class BesideRuns:
    """Applies one plan with SQLMesh's evaluator of plans, and holds the lock of runs where it has to.

    Attributes:
        rewritten: By name, the intervals that were computed again because runs rewrote their source meanwhile.
        newer: By name, the intervals that runs had computed of old versions, and the plan then of new ones.
    """

    def __init__(
        self, context: PlanContext, prod: Environment | None, lock: StateLock, interrupted_since: int | None
    ) -> None:
        """Remember what prod shows.

        Args:
            prod: As it was when the plan was built; None if the plan creates it.
            interrupted_since: As in `PlanApproval`.
        """
        self.rewritten: dict[str, tuple[Interval, ...]] = {}
        self.newer: dict[str, tuple[Interval, ...]] = {}
        self._context = context
        self._lock = lock
        self._interrupted_since = interrupted_since
        self._shown = {info.name: info for info in prod.snapshots} if prod else {}
        self._before: Mapping[str, Sequence[Interval]] = {}
        self._had: dict[str, tuple[Interval, ...]] = {}
        """By name, the intervals of new versions that were computed, before or by this plan."""

    def apply(self, evaluator: Any, plan: EvaluatablePlan, circuit_breaker: Callable[[], bool] | None) -> None:
        """Apply the plan with SQLMesh's evaluator, two of whose stages are replaced."""
        backfill, write = evaluator.visit_backfill_stage, evaluator.visit_environment_record_update_stage

        def visit_backfill_stage(stage: BackfillStage, plan: EvaluatablePlan) -> None:
            if not stage.before_promote or plan.empty_backfill:  # the lock is held, or nothing is computed
                backfill(self._now(stage, plan) if stage.snapshot_to_intervals else stage, plan)
                return
            nodes = {snapshot.name: snapshot for snapshot in stage.all_snapshots.values()}
            new = {name for name, snapshot in nodes.items() if not self._is_shown(snapshot)}
            parents = upstream(nodes)
            first = {name for name in nodes if reachable([name], parents.__getitem__).isdisjoint(new)}
            if _only(stage, first).snapshot_to_intervals:
                with self._lock.held():
                    backfill(_only(self._now(stage, plan), first), plan)
            backfill(_only(stage, new), plan)

        def visit_environment_record_update_stage(stage: EnvironmentRecordUpdateStage, plan: EvaluatablePlan) -> None:
            make_up = partial(self._make_up, plan, partial(backfill, plan=plan))
            if not plan.empty_backfill:
                for _ in range(_ROUNDS):
                    if not make_up(has_lock=False):
                        break
            self._lock.acquire()
            if not plan.empty_backfill:
                make_up(has_lock=True)
            if plan.is_dev:  # runs do not read what it shows
                self._lock.release()
            write(stage, plan if plan.is_dev else self._after_restatements(plan))

        if not self._lock.is_file or self._interrupted_since is not None:
            self._before = self._intervals_shown()
            stage = self._stage(plan)
            self._had = self._computed(stage)
            if self._interrupted_since is not None:  # an interrupted plan or preview may have computed them
                self._context.started.update(dict.fromkeys(self._had, self._interrupted_since))
            evaluator.visit_backfill_stage = visit_backfill_stage
            evaluator.visit_environment_record_update_stage = visit_environment_record_update_stage
        if not plan.is_dev and self._changes_shared_tables(plan):
            self._lock.acquire()
        evaluator.evaluate(plan, circuit_breaker=circuit_breaker)

    def event(self) -> msg.RunsWentOn | None:
        """What the plan computed because of runs; None if the state's file is the lock."""
        if self._lock.is_file:
            return None
        return msg.RunsWentOn(round(self._lock.seconds_held, 1), self.rewritten, self.newer)

    def _now(self, stage: BackfillStage, plan: EvaluatablePlan) -> BackfillStage:
        """A stage, with what is missing now: runs may have computed some of it since the plan was built."""
        stages = build_plan_stages(plan, self._context.state_reader, self._context.default_catalog)
        for now in stages:
            if isinstance(now, BackfillStage) and now.before_promote == stage.before_promote:
                return now
        return replace(stage, snapshot_to_intervals={})

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

    def _changes_shared_tables(self, plan: EvaluatablePlan) -> bool:
        return any(
            info.is_model
            and info.virtual_environment_mode.is_dev_only
            and info.name in self._shown
            and info.snapshot_id != self._shown[info.name].snapshot_id
            for info in plan.environment.snapshots
        )

    def _intervals_shown(self) -> dict[str, list[Interval]]:
        """The computed intervals of each version that prod shows."""
        return {snapshot.name: snapshot.intervals for snapshot in self._read(self._shown.values()).values()}

    def _read(self, infos: Iterable[SnapshotIdLike]) -> dict[SnapshotId, Snapshot]:
        """Snapshots with the intervals of the state. SQLMesh keeps those that it has read once."""
        state = self._context.state_reader
        copies = {id_: snapshot.copy() for id_, snapshot in state.get_snapshots(infos).items()}
        state.refresh_snapshot_intervals(copies.values())
        return copies

    def _make_up(self, plan: EvaluatablePlan, backfill: Callable[[BackfillStage], None], *, has_lock: bool) -> bool:
        """Compute what runs have made necessary since the last time. Return whether that was anything.

        Raises:
            EnvironmentNotReadyError: A preview has read what a run has not finished to compute again.
        """
        looked_at = now_timestamp()
        stage = self._stage(plan)
        snapshots = {snapshot.name: snapshot for snapshot in stage.all_snapshots.values()}
        new = {name: node for name, node in snapshots.items() if not self._is_shown(node)}
        others = {name: node for name, node in snapshots.items() if name not in new}
        gaps = self._gaps(stage, plan, others) if has_lock else {}
        computed, started = self._computed(stage), self._context.started
        _add(self._had, {name: self._context.tracker.finished(name) for name in new})
        lost = {name: subtract(intervals, computed.get(name, ())) for name, intervals in self._had.items()}
        rewritten = Rewritten(new, others, self._shown, computed_ranges(self._context), gaps, lost)
        again = rewritten.again(stage.deployability_index, started)
        self._context.started = dict.fromkeys(started, looked_at)
        newer: Mapping[str, Sequence[Interval]] = {}
        if not plan.is_dev:
            now = self._intervals_shown()
            newer = moved_on(snapshots, new.keys(), self._before, now, self._pending(others))
            self._before = now
        for name, intervals in again.items():
            is_dev = not stage.deployability_index.is_representative(new[name])
            forget_intervals(self._context.state_sync, new[name], intervals, is_dev=is_dev)
        _add(self.rewritten, again)
        _add(self.newer, newer)
        needed: dict[str, tuple[Interval, ...]] = {}
        for of_reason in (gaps, again, newer):
            _add(needed, of_reason)
        if needed:
            stage = self._stage(plan)
            by_snapshot = {
                node: list(needed[node.name]) for node in stage.all_snapshots.values() if node.name in needed
            }
            ids = {snapshot.snapshot_id for snapshot in by_snapshot}
            backfill(replace(stage, snapshot_to_intervals=by_snapshot, selected_snapshot_ids=ids))
        return bool(again or newer)

    def _stage(self, plan: EvaluatablePlan) -> BackfillStage:
        """A stage that computes nothing yet, with the snapshots as they are in the state."""
        snapshots = self._read(plan.environment.snapshots)
        index = (
            DeployabilityIndex.create(snapshots, start=plan.start)
            if plan.is_dev
            else DeployabilityIndex.all_deployable()
        )
        return BackfillStage({}, set(), {node.name: node for node in snapshots.values()}, index)

    def _computed(self, stage: BackfillStage) -> dict[str, tuple[Interval, ...]]:
        """The computed intervals of the new versions that have some, by name."""
        computed = {
            name: tuple(computed_intervals(node, stage.deployability_index))
            for name, node in stage.all_snapshots.items()
            if not self._is_shown(node)
        }
        return {name: intervals for name, intervals in computed.items() if intervals}

    def _gaps(
        self, stage: BackfillStage, plan: EvaluatablePlan, shown: Mapping[str, Snapshot]
    ) -> dict[str, Sequence[Interval]]:
        """By name, what the tables that prod shows lack. A preview does not compute it."""
        if not plan.is_dev:
            return {node.name: i for node, i in _only(self._now(stage, plan), shown).snapshot_to_intervals.items()}
        lost = {name: subtract(self._before[name], node.intervals) for name, node in shown.items()}
        named = [f"{shown[name].node.name} ({ranges(intervals)})" for name, intervals in lost.items() if intervals]
        if named:
            raise EnvironmentNotReadyError(
                f"A run has not finished to compute again what the preview has read: {listed(named)}. Launch a run of "
                "prod, and then this job again."
            )
        return {}

    def _pending(self, shown: Mapping[str, Snapshot]) -> dict[str, list[Interval]]:
        return {
            node.name: intervals
            for node, intervals in missing_intervals(shown.values(), execution_time=now_timestamp()).items()
        }


def _only(stage: BackfillStage, names: Container[str]) -> BackfillStage:
    intervals = {node: found for node, found in stage.snapshot_to_intervals.items() if node.name in names}
    return replace(stage, snapshot_to_intervals=intervals)


def _add(total: dict[str, tuple[Interval, ...]], intervals: Mapping[str, Sequence[Interval]]) -> None:
    for name, of_model in intervals.items():
        total[name] = merged([*total.get(name, ()), *of_model])
