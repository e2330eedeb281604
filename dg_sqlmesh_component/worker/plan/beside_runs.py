"""Apply a plan while runs go on: they wait only while it computes tables that prod shows, and while it promotes.

Theory of operation. SQLMesh applies a plan in stages. Until it writes the environment, the plan computes two kinds of
tables: those that prod shows, with gaps that a run would fill too, and those of new versions, which nobody reads yet.
The lock of runs is held for the first kind, and not for the second, which takes long. With the lock, the gaps are
looked for again: a run may have filled them. Both kinds take turns, so that each table is computed after those that it
reads. If a signal is not ready, a turn leaves out its intervals. They hold back what is downstream in later turns.
Before a table of prod reads a new version, that version reads again what runs have rewritten. Otherwise the table would
keep the old rows.

Before SQLMesh writes the environment, the plan takes the lock and looks for what runs have done meanwhile (the list
below). If new versions lack something because of it, the plan gives the lock up, computes that, takes the lock and
looks again. After three times, it keeps the lock. What SQLMesh computes after the promotion is made up for there
too: before it, columns that such a model reads may not exist.

- A run has computed newer intervals of a model that gets a new version. The new version computes them too: prod must
  not go back. So do the new versions upstream of it.
- A run has rewritten an interval that a new version has read (a restatement, a `lookback`). The new version may have
  read it half, so the same intervals are computed again, and in all new versions downstream. A model that SQLMesh can
  only compute as a whole is computed as a whole, and one that depends on its past from there on.
- A run has computed an interval of an old version that the new version has computed too, from the same tables. A
  restatement of it says that a table outside of the project has changed, so the new version computes it again.
- A restatement has taken intervals from a new version that an environment shows. They are computed again.
- A killed run has left a gap in a table that prod shows. It is filled, and counts as rewritten.
- A model that keeps its table reads new versions, and none that is computed reads it. Its gaps are filled at last.

A row of the state that was not there before is evidence. SQLMesh's janitor merges such rows; a merged row counts as
rewritten as a whole.

A plan or a preview that was interrupted may not have looked. The next one begins with that. It takes the intervals
that the interrupted one has computed. If runs have rewritten their source since then, it computes them again.

The versions of a model share one table if its mode is `dev_only`. If such a model changes, runs wait for the whole
plan. On DuckDB, the file is the lock.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import replace
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
from dg_sqlmesh_component.protocol.formatting import listed, ranges
from dg_sqlmesh_component.protocol.graph import reachable
from dg_sqlmesh_component.protocol.intervals import add, subtract
from dg_sqlmesh_component.worker.context import display_name
from dg_sqlmesh_component.worker.intervals.tables import computed_intervals, snapshots_now, upstream
from dg_sqlmesh_component.worker.plan.context import PlanContext, versions_shown
from dg_sqlmesh_component.worker.plan.meanwhile import Meanwhile
from dg_sqlmesh_component.worker.plan.promotion import Promotion
from dg_sqlmesh_component.worker.plan.rewritten import Filled
from dg_sqlmesh_component.worker.plan.versions import Shown, Versions, in_turns
from dg_sqlmesh_component.worker.state_lock import StateLock

_Backfill = Callable[[BackfillStage, EvaluatablePlan], None]

_ROUNDS = 3
"""How often is made up without the lock, so that runs wait shortly for the last time."""


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
        self._meanwhile = Meanwhile(context, self._shown)
        self._follow: set[str] = set()
        """The names of the models that SQLMesh computes after the promotion."""
        self._later: dict[str, tuple[Interval, ...]] = {}
        """By name, the intervals that they have to compute because of runs."""
        self._at_promotion: BackfillStage | None = None
        """All that was missing right before the promotion. None if nothing is computed after it."""

    def apply(self, evaluator: Any, plan: EvaluatablePlan, circuit_breaker: Callable[[], bool] | None) -> None:
        """Apply the plan with SQLMesh's evaluator, two of whose stages are replaced."""
        self._promotion.watch(evaluator)
        self._create_tables_before_promotion(evaluator)
        if self._interrupted or not self._lock.is_file:
            self._replace_stages(evaluator, plan)
        if not plan.is_dev and _changes_shared_tables(plan, self._shown):
            self._lock.acquire()
        evaluator.evaluate(plan, circuit_breaker=circuit_breaker)

    def _create_tables_before_promotion(self, evaluator: Any) -> None:
        """Create the tables of new versions without an interval.

        If SQLMesh computes other models, it does not create them, and then fails when it creates the first view of one.
        """
        write = evaluator.visit_environment_record_update_stage

        def visit_environment_record_update_stage(stage: EnvironmentRecordUpdateStage, plan: EvaluatablePlan) -> None:
            new = [info for info in plan.environment.snapshots if _is_new_table(info, self._shown)]
            empty = {name for name, node in snapshots_now(self._context, new).items() if not node.intervals}
            if empty:
                versions = Versions.read(self._context, plan, self._shown)
                nodes = {node.snapshot_id: node for node in versions.nodes.values()}
                created = [node for name, node in versions.nodes.items() if name in empty]
                creation = PhysicalLayerUpdateStage(created, nodes, set(), versions.index)
                evaluator.visit_physical_layer_update_stage(creation, plan)
            write(stage, plan)

        evaluator.visit_environment_record_update_stage = visit_environment_record_update_stage

    def _replace_stages(self, evaluator: Any, plan: EvaluatablePlan) -> None:
        backfill, write = evaluator.visit_backfill_stage, evaluator.visit_environment_record_update_stage
        index = self._now(plan).deployability_index if plan.is_dev else None
        self._meanwhile.begin(plan, index, self._interrupted)

        def visit_backfill_stage(stage: BackfillStage, plan: EvaluatablePlan) -> None:
            self._meanwhile.index = stage.deployability_index
            if plan.empty_backfill or not stage.snapshot_to_intervals:  # nothing is computed
                backfill(stage, plan)
            elif self._at_promotion:  # the lock is held since then
                versions = Versions.of_stage(self._at_promotion, plan, self._shown)
                needed = _only(self._at_promotion, self._follow)
                add(needed, self._later)
                backfill(versions.stage(needed, stage.selected_snapshot_ids), _at_this_time(plan))
            else:
                self._compute(stage, plan, backfill)

        def visit_environment_record_update_stage(stage: EnvironmentRecordUpdateStage, plan: EvaluatablePlan) -> None:
            if plan.empty_backfill:
                self._lock.acquire()
            else:
                follow = {info.name for info in plan.environment.snapshots} - stage.no_gaps_snapshot_names
                self._follow = set() if plan.is_dev else follow
                self._make_up(plan, backfill)
                self._at_promotion = self._hold_back_behind(plan) if self._follow else None
            if plan.is_dev:  # runs do not read what it shows
                self._lock.release()
            write(stage, plan if plan.is_dev else self._after_restatements(plan))

        evaluator.visit_backfill_stage = visit_backfill_stage
        evaluator.visit_environment_record_update_stage = visit_environment_record_update_stage

    def _compute(self, stage: BackfillStage, plan: EvaluatablePlan, backfill: _Backfill) -> None:
        """Compute a stage that is before the promotion, with the lock of runs where prod shows the tables."""
        versions = Versions.of_stage(stage, plan, self._shown)
        needed = _only(stage, versions.nodes)
        add(needed, self._meanwhile.rewritten)  # SQLMesh looks for missing intervals only from the start of the plan on
        new = versions.new.keys()
        for number, names in enumerate(in_turns(needed.keys(), new, upstream(versions.nodes))):
            if names <= new:
                of_turn = {name: needed[name] for name in names}
                backfill(versions.stage(of_turn, stage.selected_snapshot_ids), plan)
                continue
            with self._lock.held():
                if number:  # these tables are going to read new versions
                    self._settle(lambda: self._meanwhile.again(plan, {}), plan, backfill)
                now = self._hold_back_behind(plan)
                here = Versions.of_stage(now, plan, self._shown)
                with self._meanwhile.own():
                    backfill(here.stage(_only(now, names), stage.selected_snapshot_ids), _at_this_time(plan))
                self._hold_back_behind(plan)

    def _hold_back_behind(self, plan: EvaluatablePlan) -> BackfillStage:
        """Let SQLMesh leave out intervals that the plan lacks upstream. SQLMesh alone looks only within one turn.

        The lock of runs must be held: during a run, intervals that it computes again are missing.
        """
        now, versions = self._now(plan), self._meanwhile.versions(plan)
        self._context.pending = {
            name: subtract(found, computed_intervals(versions.nodes[name], versions.index))  # SQLMesh rebuilds seeds
            for name, found in _only(now, versions.nodes).items()
        }
        return now

    def event(self) -> msg.RunsWentOn | None:
        """What the plan computed because of runs; None if the state's file is the lock."""
        if self._lock.is_file:
            return None
        return msg.RunsWentOn(round(self._lock.seconds_held, 1), self._meanwhile.rewritten, self._meanwhile.newer)

    def _now(self, plan: EvaluatablePlan) -> BackfillStage:
        """One stage with all that is missing now: runs may have computed some of it since the plan was built.

        SQLMesh may now find that a model can be computed before the promotion, which it could not before. So the caller
        names those that it wants.
        """
        stages = build_plan_stages(plan, self._context.state_reader, self._context.default_catalog)
        found = [stage for stage in stages if isinstance(stage, BackfillStage)]
        if not found:
            return self._meanwhile.versions(plan).stage({})
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

    def _make_up(self, plan: EvaluatablePlan, backfill: _Backfill) -> None:
        """Compute what new versions lack because of runs, at first without the lock of runs. At the end, it is held.

        Raises:
            EnvironmentNotReadyError: A preview has read what a run has not finished to compute again.
        """
        self._settle(lambda: self._look(plan, {}), plan, backfill)
        if gaps := self._gaps(plan):
            self._compute_with_lock(gaps, plan, backfill)
            left = _only(self._now(plan), gaps)
            filled = {name: subtract(found, left.get(name, ())) for name, found in gaps.items()}
            self._compute_with_lock(self._look(plan, filled), plan, backfill)

    def _settle(
        self, look: Callable[[], dict[str, tuple[Interval, ...]]], plan: EvaluatablePlan, backfill: _Backfill
    ) -> None:
        """Look, and compute what is found, until nothing is found. At the end, the lock of runs is held."""
        self._lock.acquire()
        for _ in range(_ROUNDS):
            if not (needed := look()):
                return
            stage = self._stage(needed, plan)
            self._lock.release()
            backfill(stage, _at_this_time(plan))
            self._lock.acquire()
        self._compute_with_lock(look(), plan, backfill)

    def _compute_with_lock(
        self, needed: Mapping[str, Sequence[Interval]], plan: EvaluatablePlan, backfill: _Backfill
    ) -> None:
        if needed:
            backfill(self._stage(needed, plan), _at_this_time(plan))

    def _stage(self, needed: Mapping[str, Sequence[Interval]], plan: EvaluatablePlan) -> BackfillStage:
        """A stage that computes these intervals, by name. The lock of runs must be held."""
        self._hold_back_behind(plan)
        return self._meanwhile.versions(plan).stage(needed)

    def _look(self, plan: EvaluatablePlan, filled: Filled) -> dict[str, tuple[Interval, ...]]:
        """By name, what new versions have to compute because of runs before the promotion. It keeps the rest."""
        needed = self._meanwhile.again(plan, filled)
        add(needed, self._meanwhile.lacking(plan))
        add(self._later, {name: found for name, found in needed.items() if name in self._follow})
        return {name: found for name, found in needed.items() if name not in self._follow}

    def _gaps(self, plan: EvaluatablePlan) -> dict[str, tuple[Interval, ...]]:
        """By name, what the tables that prod shows lack. A preview does not compute it."""
        versions = self._meanwhile.versions(plan)
        lost = self._meanwhile.lost_by_prod(versions)
        if not plan.is_dev:
            before_promotion = versions.others.keys() - self._follow
            gaps = _only(self._now(plan), before_promotion)
            add(gaps, {name: found for name, found in lost.items() if name in before_promotion})
            return gaps
        read = reachable(versions.new, upstream(versions.nodes).__getitem__)
        named = [
            f"{display_name(versions.nodes[name].node, self._context)} ({ranges(found)})"
            for name, found in sorted(lost.items())
            if name in read
        ]
        if named:
            raise EnvironmentNotReadyError(
                f"A run has not finished to compute again what the preview has read: {listed(named)}. Launch a run of "
                "prod, and then this job again."
            )
        return {}


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
