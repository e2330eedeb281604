"""Apply a plan while runs go on: they wait only while it computes tables that prod shows, and while it promotes.

Until SQLMesh writes the environment, a plan computes two kinds of tables: those that prod shows, with gaps that a run
would fill too, and those of new versions, which nobody reads yet. The lock of runs is held for the first kind, and not
for the second, which takes long. Right before, the plan takes the lock and catches up with what runs have done
(`ConcurrentChanges`). The versions of a model share one table if its mode is `dev_only`: if such a model changes, runs
wait for the whole plan. On DuckDB, the file is the lock.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence, Set
from dataclasses import replace
from itertools import count
from typing import Any

from sqlmesh.core.environment import Environment
from sqlmesh.core.plan import EvaluatablePlan
from sqlmesh.core.plan.stages import (
    BackfillStage,
    EnvironmentRecordUpdateStage,
    PhysicalLayerUpdateStage,
    build_plan_stages,
)
from sqlmesh.core.snapshot import SnapshotTableInfo
from sqlmesh.core.snapshot.definition import Interval
from sqlmesh.utils.date import now_timestamp
from sqlmesh.utils.errors import CircuitBreakerError

from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.errors import EnvironmentNotReadyError
from dg_sqlmesh_component.protocol.formatting import listed
from dg_sqlmesh_component.protocol.intervals import add, subtract
from dg_sqlmesh_component.worker.context import display_name
from dg_sqlmesh_component.worker.intervals.tables import computed_intervals, missing_now, snapshots_now, upstream
from dg_sqlmesh_component.worker.plan.concurrent_changes import ConcurrentChanges
from dg_sqlmesh_component.worker.plan.context import PlanContext, versions_shown
from dg_sqlmesh_component.worker.plan.promotion import Promotion
from dg_sqlmesh_component.worker.plan.versions import Shown, Versions, behind_gaps
from dg_sqlmesh_component.worker.state_lock import StateLock

_Backfill = Callable[[BackfillStage, EvaluatablePlan], None]

_ROUNDS = 3
"""How often a plan catches up without the lock, so that runs wait shortly for the last time."""


class BesideRuns:
    """Applies one plan with SQLMesh's evaluator of plans, and holds the lock of runs where it has to."""

    def __init__(
        self,
        context: PlanContext,
        prod: Environment | None,
        lock: StateLock,
        promotion: Promotion,
        interrupted: Sequence[Interval],
    ) -> None:
        """Remember what prod shows.

        Args:
            prod: As it was when the plan was built; None if the plan creates it.
            interrupted: As in `PlanApproval`.
        """
        self._context = context
        self._lock = lock
        self._promotion = promotion
        self._interrupted = interrupted
        self._shown = {info.name: info for info in prod.snapshots} if prod else {}
        self._state = versions_shown(context, prod.name) if prod else None
        self._changes = ConcurrentChanges(context, self._shown)
        self._follow: Set[str] = frozenset()
        """The names of the models that SQLMesh computes after the promotion. Each of its stages before then sets it."""
        self._at_promotion: BackfillStage | None = None
        """All that was missing right before the promotion. None before, and if nothing is computed after it."""

    def apply(self, evaluator: Any, plan: EvaluatablePlan, circuit_breaker: Callable[[], bool] | None) -> None:
        """Apply the plan with SQLMesh's evaluator, two of whose stages are replaced."""
        self._promotion.watch(evaluator)
        self._check_empty_versions(evaluator)
        if self._interrupted or not self._lock.is_file:
            self._replace_stages(evaluator, plan)
        if not plan.is_dev and _changes_shared_tables(plan, self._shown):
            self._lock.acquire()
        evaluator.evaluate(plan, circuit_breaker=circuit_breaker)

    def _check_empty_versions(self, evaluator: Any) -> None:
        """Before the promotion, refuse new versions without an interval in place of old rows, and create the others.

        If SQLMesh computes other models, it does not create them, and then fails when it creates the first view of one.
        """
        write = evaluator.visit_environment_record_update_stage

        def visit_environment_record_update_stage(stage: EnvironmentRecordUpdateStage, plan: EvaluatablePlan) -> None:
            new = [info for info in plan.environment.snapshots if _is_new_table(info, self._shown)]
            if not plan.is_dev:  # the others are computed after the promotion. Columns that they read may not exist yet
                new = [info for info in new if info.name in stage.no_gaps_snapshot_names]
            empty = {name for name, node in snapshots_now(self._context, new).items() if not node.intervals}
            if empty:
                versions = Versions.read(self._context, plan, self._shown)
                if not plan.is_dev:
                    self._refuse_empty(empty, versions)
                nodes = {node.snapshot_id: node for node in versions.nodes.values()}
                created = [node for name, node in versions.nodes.items() if name in empty]
                creation = PhysicalLayerUpdateStage(created, nodes, set(), versions.index)
                evaluator.visit_physical_layer_update_stage(creation, plan)
            write(stage, plan)

        evaluator.visit_environment_record_update_stage = visit_environment_record_update_stage

    def _refuse_empty(self, empty: Set[str], versions: Versions) -> None:
        """Refuse to show a table without rows in place of one that has some, because signals hold everything back.

        Raises:
            EnvironmentNotReadyError: An old version has intervals, and the new one should have some.
        """
        old = snapshots_now(self._context, [self._shown[name] for name in empty & self._shown.keys()])
        computed = {name: versions.nodes[name] for name, node in old.items() if node.intervals}
        pending = missing_now(versions.nodes) if computed else {}
        if refused := [
            display_name(node.node, self._context)
            for name, node in sorted(computed.items())
            if name in pending and not (node.is_view or node.is_seed)
        ]:
            raise EnvironmentNotReadyError(
                f"Prod would lose all rows of {listed(refused)}: no interval of the new version is computed. Their "
                "signals, or tables that they read, hold all of them back."
            )

    def _replace_stages(self, evaluator: Any, plan: EvaluatablePlan) -> None:
        backfill, write = evaluator.visit_backfill_stage, evaluator.visit_environment_record_update_stage
        index = self._now(plan).deployability_index if plan.is_dev else None
        self._changes.begin(plan, index, self._interrupted)

        def visit_backfill_stage(stage: BackfillStage, plan: EvaluatablePlan) -> None:
            self._changes.index = stage.deployability_index
            if plan.empty_backfill or not stage.snapshot_to_intervals:  # nothing is computed
                backfill(stage, plan)
            elif self._at_promotion:  # the lock is held since then
                # SQLMesh has built this stage before the plan caught up.
                versions = Versions.of_stage(self._at_promotion, plan, self._shown)
                needed = _only(self._at_promotion, self._follow)
                lacking = self._changes.lacking(versions)
                add(needed, {name: found for name, found in lacking.items() if name in self._follow})
                backfill(versions.stage(needed, stage.selected_snapshot_ids), _at_this_time(plan))
            else:
                self._note_following(plan, {id_.name for id_ in stage.selected_snapshot_ids})
                self._compute(stage, plan, backfill)

        def visit_environment_record_update_stage(stage: EnvironmentRecordUpdateStage, plan: EvaluatablePlan) -> None:
            if plan.empty_backfill:
                self._lock.acquire()
            else:
                self._note_following(plan, stage.no_gaps_snapshot_names)
                self._catch_up(plan, backfill)
                self._at_promotion = self._hold_back_behind(plan) if self._follow else None
            if plan.is_dev:  # runs do not read what it shows
                self._lock.release()
            write(stage, plan if plan.is_dev else self._after_restatements(plan))

        evaluator.visit_backfill_stage = visit_backfill_stage
        evaluator.visit_environment_record_update_stage = visit_environment_record_update_stage

    def _note_following(self, plan: EvaluatablePlan, before_promotion: Set[str]) -> None:
        """Note which models SQLMesh computes after the promotion: columns that they read may not exist before it."""
        self._follow = set() if plan.is_dev else {info.name for info in plan.environment.snapshots} - before_promotion

    def _compute(self, stage: BackfillStage, plan: EvaluatablePlan, backfill: _Backfill) -> None:
        """Compute a stage that is before the promotion, with the lock of runs where prod shows the tables."""
        versions = Versions.of_stage(stage, plan, self._shown)
        needed = _only(stage, versions.new)
        gaps: Set[str] = _only(stage, versions.others).keys()
        self._changes.ask({name: found for name, found in needed.items() if versions.nodes[name].is_model})
        if gaps:
            with self._lock.held():
                gaps = self._fill(plan, backfill, stage)
            versions = self._changes.versions()  # SQLMesh empties a table that it does not know to have intervals
        add(needed, self._changes.lacking(versions))  # also older ones than those that SQLMesh looks for
        waiting = behind_gaps(needed.keys(), gaps, upstream(versions.nodes)) | self._follow
        if ready := {name: found for name, found in needed.items() if name not in waiting}:
            backfill(versions.stage(ready, stage.selected_snapshot_ids), plan)

    def _catch_up(self, plan: EvaluatablePlan, backfill: _Backfill) -> None:
        """Compute what new versions lack, at first without the lock of runs. At the end, it is held.

        Raises:
            EnvironmentNotReadyError: A preview has read what a run has not finished to compute again.
        """
        tried: dict[str, tuple[Interval, ...]] = {}
        for number in count():
            self._lock.acquire()
            self._changes.look()
            gaps = self._fill(plan, backfill)
            versions = self._changes.versions()
            waiting = set(self._follow)
            needed = self._changes.lacking(versions)
            if not number:  # what they wait for may have to wait too, for a signal
                waiting |= behind_gaps(needed.keys(), gaps, upstream(versions.nodes))
            ready = {name: found for name, found in needed.items() if name not in waiting}
            if ready == tried:
                return
            tried = ready
            if number < _ROUNDS:
                self._lock.release()
            backfill(versions.stage(ready), _at_this_time(plan))

    def _fill(self, plan: EvaluatablePlan, backfill: _Backfill, first: BackfillStage | None = None) -> Set[str]:
        """Compute what tables that prod shows lack, as a run would. The lock of runs must be held.

        A preview computes none. What reads a new version is left out until that one lacks nothing.

        Args:
            first: SQLMesh's first stage. SQLMesh always finds a seed to be missing that it rebuilds.

        Returns:
            The names of the tables of prod that still lack something.
        """
        now = self._hold_back_behind(plan)
        here = Versions.of_stage(now, plan, self._shown)
        names = set(_only(first, here.others) if first else self._context.pending) - self._follow
        gaps = _only(now, set() if plan.is_dev else names & here.others.keys())
        if gaps:
            selected = first.selected_snapshot_ids if first else frozenset()
            backfill(here.stage(gaps, selected), _at_this_time(plan))
            self._changes.look()  # what has read them before reads them again
            self._hold_back_behind(plan)
        return self._context.pending.keys() & here.others.keys()

    def _hold_back_behind(self, plan: EvaluatablePlan) -> BackfillStage:
        """Let SQLMesh leave out intervals that the plan lacks upstream. SQLMesh alone looks only within one stage.

        The lock of runs must be held: during a run, intervals that it computes again are missing.
        """
        now, versions = self._now(plan), self._changes.versions()
        self._context.pending = {
            name: left
            for name, found in _only(now, versions.nodes).items()
            if (left := subtract(found, computed_intervals(versions.nodes[name], versions.index)))
        }
        return now

    def event(self) -> msg.ConcurrentRuns | None:
        """What the plan computed because of runs; None if the state's file is the lock."""
        if self._lock.is_file:
            return None
        return msg.ConcurrentRuns(round(self._lock.seconds_held, 1), *self._changes.caught_up())

    def _now(self, plan: EvaluatablePlan) -> BackfillStage:
        """One stage with all that is missing now: runs may have computed some of it since the plan was built.

        SQLMesh may now find that a model can be computed before the promotion, which it could not before. So the caller
        names those that it wants.
        """
        if not plan.is_dev:  # runs may have forgotten intervals that are older than those that the plan began with
            plan = plan.copy(update={"start": plan.environment.start_at})
        stages = build_plan_stages(plan, self._context.state_reader, self._context.default_catalog)
        found = [stage for stage in stages if isinstance(stage, BackfillStage)]
        if not found:
            return self._changes.versions().stage({})
        missing = {node: intervals for stage in found for node, intervals in stage.snapshot_to_intervals.items()}
        return replace(found[0], snapshot_to_intervals=missing)

    def _after_restatements(self, plan: EvaluatablePlan) -> EvaluatablePlan:
        """The plan after those of restatements. SQLMesh refuses a plan whose previous plan is not the last one.

        Raises:
            CircuitBreakerError: Another plan has changed what the environment shows.
        """
        stored = self._context.state_reader.get_environment(plan.environment.name)
        if stored is None:
            return plan
        if versions_shown(self._context, plan.environment.name) != self._state:
            raise CircuitBreakerError
        environment = plan.environment.copy(update={"previous_plan_id": stored.plan_id})
        return plan.copy(update={"environment": environment})


def _is_new_table(info: SnapshotTableInfo, shown: Shown) -> bool:
    before = shown.get(info.name)
    return info.is_model and not info.is_symbolic and (before is None or before.version != info.version)


def _changes_shared_tables(plan: EvaluatablePlan, shown: Shown) -> bool:
    return any(
        info.is_model
        and info.virtual_environment_mode.is_dev_only
        and info.name in shown
        and info.snapshot_id != shown[info.name].snapshot_id
        for info in plan.environment.snapshots
    )


def _at_this_time(plan: EvaluatablePlan) -> EvaluatablePlan:
    """The plan with this time for the models that ask for it. Runs have computed later than the plan was built."""
    return plan.copy(update={"execution_time": now_timestamp()})


def _only(stage: BackfillStage, names: Container[str]) -> dict[str, tuple[Interval, ...]]:
    """The intervals that a stage computes of these models, by name."""
    return {node.name: tuple(found) for node, found in stage.snapshot_to_intervals.items() if node.name in names}
