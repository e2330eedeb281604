"""Apply a plan while runs go on: they wait only while it computes tables that prod shows, and while it promotes.

Until SQLMesh writes the environment, a plan computes two kinds of tables: those that prod shows, with gaps that a run
would fill too, and those of new versions, which nobody reads yet and which take long. Only for the first kind, the lock
of runs is held. On DuckDB, the file is the lock, and SQLMesh applies the plan alone.

`_in_rounds` returns with the lock held. `serve.py` releases it after the last event, a preview before its promotion.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence, Set
from dataclasses import replace
from functools import partial
from typing import Any

from sqlmesh.core.environment import Environment
from sqlmesh.core.plan import EvaluatablePlan
from sqlmesh.core.plan.stages import (
    AuditOnlyRunStage,
    BackfillStage,
    EnvironmentRecordUpdateStage,
    FinalizeEnvironmentStage,
    PhysicalLayerUpdateStage,
    PlanStage,
    VirtualLayerUpdateStage,
    build_plan_stages,
)
from sqlmesh.core.snapshot import DeployabilityIndex, Snapshot, SnapshotTableInfo
from sqlmesh.core.snapshot.definition import Interval
from sqlmesh.utils.date import now_timestamp, to_datetime
from sqlmesh.utils.errors import CircuitBreakerError

from dg_sqlmesh_component.capabilities.plans import messages as msg
from dg_sqlmesh_component.capabilities.plans.worker.concurrent_changes import ConcurrentChanges
from dg_sqlmesh_component.capabilities.plans.worker.context import PlanContext, versions_shown
from dg_sqlmesh_component.capabilities.plans.worker.gained_rows import GainedRows
from dg_sqlmesh_component.capabilities.plans.worker.new_audits import evaluate_new_audits
from dg_sqlmesh_component.capabilities.plans.worker.promotion import Promotion
from dg_sqlmesh_component.capabilities.plans.worker.rounds import Rounds
from dg_sqlmesh_component.capabilities.plans.worker.versions import Shown, Versions
from dg_sqlmesh_component.protocol.errors import EnvironmentNotReadyError
from dg_sqlmesh_component.protocol.formatting import listed
from dg_sqlmesh_component.protocol.graph import grouped, reachable
from dg_sqlmesh_component.protocol.intervals import add, merged, subtract
from dg_sqlmesh_component.worker.context import display_name
from dg_sqlmesh_component.worker.environment import has_table
from dg_sqlmesh_component.worker.intervals.held_back import held_back_from
from dg_sqlmesh_component.worker.intervals.tables import computed_intervals, missing_now, single_intervals, upstream
from dg_sqlmesh_component.worker.sqlmesh_internals import EvaluateStages, replace_scheduler_of_plan, replace_stages
from dg_sqlmesh_component.worker.state_lock import StateLock, is_file_locked

Pending = Mapping[str, Sequence[Interval]]
"""What each model lacks, by name."""

Compute = Callable[[Sequence[PlanStage], EvaluatablePlan, Pending], None]
"""Evaluates stages of SQLMesh. Downstream of what is pending, they compute nothing."""


class BesideRuns:
    """Applies one plan with SQLMesh's evaluator of plans, and holds the lock of runs where it has to."""

    def __init__(
        self,
        context: PlanContext,
        prod: Environment | None,
        lock: StateLock,
        promotion: Promotion,
        interrupted: Sequence[Interval],
        gained: GainedRows | None = None,
    ) -> None:
        """Remember what prod shows.

        Args:
            prod: As it was when the plan was built; None if the plan creates it.
            interrupted: As in `PlanApproval`.
            gained: What its tables had; None for a preview, which changes no table of prod.
        """
        self._gained = gained
        self._context = context
        self._lock = lock
        self._promotion = promotion
        self._interrupted = interrupted
        self._shown = {info.name: info for info in prod.snapshots} if prod else {}
        self._is_unfinished = prod is not None and prod.finalized_ts is None
        self._rounds_at_bound = 0
        self._caught_up: tuple[dict[str, tuple[Interval, ...]], dict[str, tuple[Interval, ...]]] = {}, {}

    def apply(self, evaluator: Any, plan: EvaluatablePlan, circuit_breaker: Callable[[], bool] | None) -> None:
        """Apply the plan with SQLMesh's evaluator."""
        self._promotion.watch(evaluator)
        audit = partial(
            evaluate_new_audits,
            evaluator=evaluator,
            context=self._context,
            breaker=circuit_breaker,
            is_unfinished=self._is_unfinished,
        )

        def apply_stages(evaluate: EvaluateStages, stages: Sequence[PlanStage], plan: EvaluatablePlan) -> None:
            def compute(stages: Sequence[PlanStage], plan: EvaluatablePlan, pending: Pending) -> None:
                replace_scheduler_of_plan(evaluator, partial(self._context.create_scheduler, pending=pending))
                evaluate(self._with_empty_tables(stages, plan), plan)

            self._apply_stages(compute, audit, stages, plan)

        replace_stages(evaluator, apply_stages)
        evaluator.evaluate(plan, circuit_breaker=circuit_breaker)

    def _apply_stages(
        self,
        compute: Compute,
        audit: Callable[[Versions, EvaluatablePlan], None],
        stages: Sequence[PlanStage],
        plan: EvaluatablePlan,
    ) -> None:
        shares_tables = not plan.is_dev and _changes_shared_tables(plan, self._shown)
        # Runs compute into the tables that the plan changes.
        if shares_tables:
            self._lock.acquire()
        changes = ConcurrentChanges(self._context, self._shown, plan, _index(stages), self._interrupted, self._gained)
        if changes.times_forgotten or self._is_unfinished:
            stages = self._stages(plan)
        if (shares_tables or is_file_locked(self._context)) and changes.forget_outdated(_missing(stages)):
            stages = self._stages(plan)
        before = [stage for stage in _halves(stages)[0] if not isinstance(stage, AuditOnlyRunStage)]
        pending: Pending = {}
        if is_file_locked(self._context):
            if not plan.is_dev:  # no run fills a gap meanwhile: what the plan does not compute itself, its models lack
                planned, now = _missing(stages), missing_now(changes.versions.nodes)
                pending = {name: subtract(found, planned.get(name, ())) for name, found in now.items()}
            compute(before, plan, pending)
        else:
            compute([stage for stage in before if not isinstance(stage, BackfillStage)], plan, {})
            plan, stages, pending = self._in_rounds(compute, stages, plan, changes, keeps_lock=shares_tables)
        _, promotion = _halves(stages)
        if creation := self._checked_empty_versions(promotion[0], plan):
            compute(creation, plan, pending)
        audit(changes.versions, plan)
        if plan.is_dev:  # runs do not read a preview
            self._lock.release()
        compute(self._with_late_tables(promotion, plan), plan, pending)
        if left_out := self._still_missing(stages, plan, pending):
            self._context.tracker.pipe.send(msg.LeftOut(left_out, self._rounds_at_bound))
        if changes.outdated:
            self._refresh([info for info in plan.environment.snapshots if info.name in changes.outdated])
        self._caught_up = changes.caught_up()

    def _refresh(self, infos: Sequence[SnapshotTableInfo]) -> None:
        """Read the intervals of snapshots that SQLMesh's cache has as they were before they were computed again.

        SQLMesh itself adds to the marks that a snapshot has.
        """
        state = self._context.state_reader
        cached = state.get_snapshots(infos).values()
        for snapshot in cached:
            snapshot.pending_restatement_intervals = []
        state.refresh_snapshot_intervals(cached)

    def _in_rounds(
        self,
        compute: Compute,
        stages: Sequence[PlanStage],
        plan: EvaluatablePlan,
        changes: ConcurrentChanges,
        *,
        keeps_lock: bool,
    ) -> tuple[EvaluatablePlan, Sequence[PlanStage], Pending]:
        """Compute all that SQLMesh computes before the promotion.

        Returns:
            The plan of this moment, its stages, and what is pending. The lock of runs is held since that moment.

        Raises:
            EnvironmentNotReadyError: A preview has read what a run has not finished to compute again.
        """
        changes.expect(_missing(stages))
        first = _missing(_halves(stages)[0])
        gaps = first.keys() & changes.versions.others.keys()
        # What reads a gap waits until it is filled, although pending intervals are held back: the model of the gap may
        # have a `lookback`, and would compute days again that have been read.
        ungapped = _only(stages, first.keys() - _reading(gaps, changes.versions))
        compute(ungapped, plan, _pending(stages, changes.versions))
        rounds = Rounds(keeps_lock=keeps_lock)
        while True:
            self._lock.acquire()
            plan, stages, pending = self._look(plan, stages, changes)
            lacking = _lacking(stages, changes.versions)
            # A table that SQLMesh computes again for this plan, such as a seed, is missing in each round, although its
            # intervals count as computed. It is filled in the first round, and in no other.
            filled = {*(lacking.keys() & changes.versions.others.keys()), *(gaps if rounds.number == 0 else ())}
            if gap_stages := _only(stages, filled):
                compute(gap_stages, plan, pending)
                # Models that read these gaps are computed again.
                plan, stages, pending = self._look(plan, stages, changes)
                lacking = _lacking(stages, changes.versions)
            of_new = {name: found for name, found in lacking.items() if name in changes.versions.new}
            waits_for_models = {name for name, held_back in self._context.waiting.by.items() if held_back.models}
            ready = rounds.next(of_new, changes.times_forgotten, waits_for_models)
            if not ready:
                break
            if not rounds.keeps_lock:
                self._lock.release()
            compute(_only(stages, ready), plan, pending)
        self._rounds_at_bound = rounds.number if rounds.has_reached_bound else 0
        return plan, stages, pending

    def _look(
        self, plan: EvaluatablePlan, stages: Sequence[PlanStage], changes: ConcurrentChanges
    ) -> tuple[EvaluatablePlan, Sequence[PlanStage], Pending]:
        """Look at what runs have done, and build the plan and its stages again. The lock of runs must be held."""
        changes.look(_index(stages))
        plan = self._renewed(plan, changes)
        stages = self._stages(plan)
        if changes.forget_outdated(_missing(stages)):
            changes.look(_index(stages))
            plan = self._renewed(plan, changes)
            stages = self._stages(plan)
        return plan, stages, _pending(stages, changes.versions)

    def _renewed(self, plan: EvaluatablePlan, changes: ConcurrentChanges) -> EvaluatablePlan:
        """The plan as SQLMesh would build it now. It builds a plan of prod for each model until where prod has come.

        Raises:
            CircuitBreakerError: Another plan has changed what the environment shows.
        """
        # The preview of a forward-only change is a restatement for SQLMesh, which is always missing.
        plan = plan.copy(update={"execution_time": now_timestamp(), "restatements": {}})
        if plan.is_dev or not self._shown:
            return plan
        name, state, shown = plan.environment.name, self._context.state_reader, self._context.shown
        if (stored := state.get_environment(name)) is None or versions_shown(self._context, name) != shown:
            raise CircuitBreakerError
        ends = state.max_interval_end_per_model(name, ensure_finalized_snapshots=plan.ensure_finalized_snapshots)
        for model, intervals in changes.outdated.items():  # prod's last intervals may be among them
            ends[model] = max(ends.get(model, 0), intervals[-1][1])
        seeds = {name for name, node in changes.versions.nodes.items() if node.is_seed}
        # SQLMesh refuses a plan whose previous plan is not the last one. A restatement is a plan too.
        environment = plan.environment.copy(update={"previous_plan_id": stored.plan_id})
        renewed = {
            "end": max((end for model, end in ends.items() if model not in seeds), default=plan.end),
            "end_override_per_model": {model: to_datetime(end) for model, end in ends.items()},
            "environment": environment,
        }
        return plan.copy(update=renewed)

    def _stages(self, plan: EvaluatablePlan) -> Sequence[PlanStage]:
        """The stages of the plan with the intervals of this moment."""
        # SQLMesh's plan starts at the first interval that was missing. Runs may have forgotten older ones.
        plan = plan.copy(update={"start": plan.environment.start_at})
        state: Any = _LastFinished(self._context)
        return build_plan_stages(plan, state, self._context.default_catalog)

    def _with_empty_tables(self, stages: Sequence[PlanStage], plan: EvaluatablePlan) -> list[PlanStage]:
        """The stages, which also create the new tables without an interval that others may read.

        SQLMesh creates a table when it computes the model for the first time. Models that read it fail, if nothing is
        to be computed of it, as with `cron @monthly` before the first month has ended.
        """
        new = {info.name: info for info in plan.environment.snapshots if _is_new_table(info, self._shown)}
        idle = [new[name] for name in new.keys() - _missing(stages).keys()]
        nodes = self._context.stored.now(idle, plan.new_snapshots) if idle else {}
        empty = {name for name in new.keys() & nodes.keys() if not nodes[name].intervals}
        return [_creating(stage, empty) if isinstance(stage, BackfillStage) else stage for stage in stages]

    def _checked_empty_versions(self, stage: Any, plan: EvaluatablePlan) -> list[PlanStage]:
        """Before the promotion, refuse new versions without an interval in place of old rows. Create the others.

        If SQLMesh computes other models, it does not create them, and then fails when it creates the first view of one.

        Args:
            stage: SQLMesh's first stage of the promotion.
        """
        new = [info for info in plan.environment.snapshots if _is_new_table(info, self._shown)]
        if not plan.is_dev:  # the others are computed after the promotion. Columns that they read may not exist yet
            new = [info for info in new if info.name in stage.no_gaps_snapshot_names]
        empty = {name for name, node in self._context.stored.now(new).items() if not node.intervals}
        if not empty:
            return []
        versions = Versions.read(self._context.stored, plan, self._shown)
        if not plan.is_dev:
            self._refuse_empty(empty, versions)
        return [_creation(empty, versions)]

    def _with_late_tables(self, promotion: Sequence[PlanStage], plan: EvaluatablePlan) -> Sequence[PlanStage]:
        """The stages of the promotion, with one that creates the empty new versions that it does not compute.

        Downstream of a forward-only change, SQLMesh creates versions after it has promoted, and only if it computes one
        of them then. Otherwise the view of one without an interval fails, and prod stays between two plans.
        """
        others = promotion[0].no_gaps_snapshot_names | _missing(promotion).keys()
        new = [info for info in plan.environment.snapshots if _is_new_table(info, self._shown)]
        late = [info for info in new if info.name not in others]
        empty = {name for name, node in self._context.stored.now(late).items() if not node.intervals}
        if plan.is_dev or not empty:
            return promotion
        ends = VirtualLayerUpdateStage, FinalizeEnvironmentStage
        first = next(number for number, stage in enumerate(promotion) if isinstance(stage, ends))
        creation = _creation(empty, Versions.read(self._context.stored, plan, self._shown))
        return [*promotion[:first], creation, *promotion[first:]]

    def _still_missing(
        self, stages: Sequence[PlanStage], plan: EvaluatablePlan, pending: Pending
    ) -> dict[str, tuple[Interval, ...]]:
        """What these stages were to compute, and signals held back, by name as written in SQLMesh."""
        missing, index = _missing(stages), _index(stages)
        if index is None or not missing:
            return {}
        nodes = self._context.stored.now(plan.environment.snapshots)
        left = _not_computed(missing, nodes, index)
        # The plan has said before what it leaves out because of tables, and of what it does not compute upstream.
        lacking = {nodes[name]: single_intervals(nodes[name], found) for name, found in left.items()}
        others = {name: subtract(found, missing.get(name, ())) for name, found in pending.items()}
        known = held_back_from(lacking, nodes, index, self._context.known.tables, others) if lacking else {}
        left |= {name: merged(of_signals) for name, (of_signals, _) in known.items()}
        return {display_name(nodes[name].node, self._context): found for name, found in left.items() if found}

    def _refuse_empty(self, empty: Set[str], versions: Versions) -> None:
        """Refuse to show a table without rows in place of one that has some, because signals hold everything back.

        Raises:
            EnvironmentNotReadyError: An old version has intervals, and the new one should have some.
        """
        old = self._context.stored.now([self._shown[name] for name in empty & self._shown.keys()])
        computed = {name: versions.nodes[name] for name, node in old.items() if node.intervals}
        pending = missing_now(versions.nodes) if computed else {}
        if refused := [
            display_name(node.node, self._context)
            for name, node in sorted(computed.items())
            if name in pending and not node.is_view
        ]:
            raise EnvironmentNotReadyError(
                f"Prod would lose all rows of {listed(refused)}: no interval of the new version is computed. Their "
                "signals, or tables that they read, hold all of them back."
            )

    def event(self) -> msg.ConcurrentRuns | None:
        """What the plan computed because of runs; None if the state's file is the lock."""
        if is_file_locked(self._context):
            return None
        return msg.ConcurrentRuns(round(self._lock.seconds_held, 1), *self._caught_up)


class _LastFinished:
    """A state in which an environment between two plans has the versions that it showed before the unfinished plan.

    SQLMesh compares a plan with the environment's record. A plan that finishes another would find nothing changed: it
    would leave the views of removed models, and the rows of a table whose kind has changed. Snapshots are read once.
    """

    def __init__(self, context: PlanContext) -> None:
        self._state = context.state_reader
        self.get_snapshots = context.stored.get_snapshots

    def __getattr__(self, name: str) -> Any:
        return getattr(self._state, name)

    def get_environment(self, name: str) -> Environment | None:
        found = self._state.get_environment(name)
        if found is None or found.finalized_ts is not None:
            return found
        return found.copy(update={"snapshots_": found.previous_finalized_snapshots or []})


def _halves(stages: Sequence[PlanStage]) -> tuple[Sequence[PlanStage], Sequence[PlanStage]]:
    """The stages before the promotion, and those from there on."""
    [first] = [n for n, stage in enumerate(stages) if isinstance(stage, EnvironmentRecordUpdateStage)]
    return stages[:first], stages[first:]


def _missing(stages: Sequence[PlanStage]) -> dict[str, tuple[Interval, ...]]:
    """What the stages compute, by name."""
    return {
        node.name: tuple(intervals)
        for stage in stages
        if isinstance(stage, BackfillStage)
        for node, intervals in stage.snapshot_to_intervals.items()
    }


def _only(stages: Sequence[PlanStage], names: Container[str]) -> list[PlanStage]:
    """The stage that computes these models before the promotion, if SQLMesh finds some of them to be missing."""
    narrowed = []
    for stage in _halves(stages)[0]:
        if isinstance(stage, BackfillStage):
            found = {node: of_node for node, of_node in stage.snapshot_to_intervals.items() if node.name in names}
            narrowed += [replace(stage, snapshot_to_intervals=found)] if found else []
    return narrowed


def _creating(stage: BackfillStage, empty: Container[str]) -> BackfillStage:
    """The stage, with no interval of these models: SQLMesh creates their tables, each after what it reads."""
    nodes = [node for node in stage.all_snapshots.values() if node.snapshot_id in stage.selected_snapshot_ids]
    created: dict[Snapshot, list[Interval]] = {
        node: [] for node in nodes if node.name in empty and node not in stage.snapshot_to_intervals
    }
    return replace(stage, snapshot_to_intervals={**stage.snapshot_to_intervals, **created})


def _pending(stages: Sequence[PlanStage], versions: Versions) -> Pending:
    """What each model lacks, by name, which holds back models downstream. SQLMesh alone looks only within one stage.

    It computes models as far as prod has them, and an added one as far as any: also beyond what this one reads. Without
    the lock of runs, also those are missing that a run computes again. Then the next round computes them.
    """
    missing = _missing(stages)
    if not versions.is_dev:
        add(missing, missing_now(versions.nodes))
    return _not_computed(missing, versions.nodes, versions.index)


def _lacking(stages: Sequence[PlanStage], versions: Versions) -> dict[str, tuple[Interval, ...]]:
    """What is computed before the promotion, without what only a `lookback` computes again."""
    return _not_computed(_missing(_halves(stages)[0]), versions.nodes, versions.index)


def _not_computed(
    intervals: Mapping[str, Sequence[Interval]], nodes: Mapping[str, Snapshot], index: DeployabilityIndex
) -> dict[str, tuple[Interval, ...]]:
    left = {name: subtract(found, computed_intervals(nodes[name], index)) for name, found in intervals.items()}
    return {name: found for name, found in left.items() if found}


def _reading(names: Set[str], versions: Versions) -> Set[str]:
    """These models, and all that are downstream of them."""
    children = grouped((parent, name) for name, parents in upstream(versions.nodes).items() for parent in parents)
    return reachable(names, lambda name: children.get(name, ()))


def _creation(names: Container[str], versions: Versions) -> PlanStage:
    """The stage that creates the tables of these models."""
    nodes = {node.snapshot_id: node for node in versions.nodes.values()}
    created = [node for name, node in versions.nodes.items() if name in names]
    return PhysicalLayerUpdateStage(created, nodes, set(), versions.index)


def _index(stages: Sequence[PlanStage]) -> DeployabilityIndex | None:
    """Which tables the stages compute; None if they compute none."""
    return next((stage.deployability_index for stage in stages if isinstance(stage, BackfillStage)), None)


def _is_new_table(info: SnapshotTableInfo, shown: Shown) -> bool:
    before = shown.get(info.name)
    return has_table(info) and (before is None or before.version != info.version)


def _changes_shared_tables(plan: EvaluatablePlan, shown: Shown) -> bool:
    return any(
        info.is_model
        and info.virtual_environment_mode.is_dev_only
        and info.name in shown
        and info.snapshot_id != shown[info.name].snapshot_id
        for info in plan.environment.snapshots
    )
