"""Serve an `EvaluationRequest` with a restatement (`restate`): compute a range of the models again.

A restatement is a plan that changes no code: `plan_builder(restate_models=...)` takes the models from the state,
whatever the local files contain. SQLMesh decides which downstream models have to be computed again.

In prod, SQLMesh also removes the intervals of other versions of these models from the state: their data would be older
than prod's. It does so after all models are computed. If one fails, it does not, and a restatement of the rest would
leave the versions of the finished ones as they are. So the intervals are also removed before the first model is
computed. If the run is killed after that, other environments only compute them again.

Intervals that are held back, or whose signals are not ready, would stay computed in the state, with the rows of an
older source. So they are forgotten: the next run computes them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import replace
from typing import Any

from sqlmesh.core import constants as c
from sqlmesh.core.plan import EvaluatablePlan, Plan
from sqlmesh.core.plan.common import identify_restatement_intervals_across_snapshot_versions
from sqlmesh.core.plan.stages import RestatementStage
from sqlmesh.core.scheduler import Scheduler, SnapshotToIntervals
from sqlmesh.core.selector import NativeSelector
from sqlmesh.core.snapshot import DeployabilityIndex, Snapshot, start_date
from sqlmesh.core.snapshot.definition import Interval
from sqlmesh.utils.date import make_exclusive, now_timestamp, to_timestamp
from sqlmesh.utils.errors import ConflictingPlanError, PlanError

from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.errors import ConfigurationError, EvaluationError
from dg_sqlmesh_component.protocol.formatting import listed, unquoted, utc_text
from dg_sqlmesh_component.protocol.intervals import common, subtract
from dg_sqlmesh_component.worker.context import display_name
from dg_sqlmesh_component.worker.evaluate.evaluation import (
    EvaluationContext,
    await_finalized_environment,
    resolved_range,
)
from dg_sqlmesh_component.worker.explain import describe_error
from dg_sqlmesh_component.worker.intervals.held_back import held_back_from, hold_back_pending_upstream
from dg_sqlmesh_component.worker.intervals.tables import is_incremental
from dg_sqlmesh_component.worker.observe.run_tracker import Observed, Replaced, RunTracker
from dg_sqlmesh_component.worker.sqlmesh_internals import (
    check_before_stages,
    forget_intervals,
    replace_apply,
    replace_intervals,
)


class _ExactSelector(NativeSelector):
    """Takes each selection as the fqn of a model, because SQLMesh's language cannot quote every name."""

    def expand_model_selections(
        self, model_selections: Iterable[str], models: dict[str, Any] | None = None
    ) -> set[str]:
        return set(model_selections) - {"*"}


class RestatementContext(EvaluationContext):
    """A context that computes a range of the requested models again, and of the models downstream of them."""

    restatement: Plan

    def __init__(self, request: msg.EvaluationRequest, tracker: RunTracker, **options: Any) -> None:
        super().__init__(request, tracker, selector=_ExactSelector, **options)

    def prepare(self) -> None:
        """Plan the restatement. From then on, the models that SQLMesh adds count as requested."""
        await_finalized_environment(self)
        self.restatement = plan = _planned(self)
        computed = {missing.snapshot_id.name for missing in plan.missing_intervals if missing.intervals}
        self.request = replace(self.request, models=tuple(dict.fromkeys([*self.request.models, *sorted(computed)])))

    def compute(self) -> msg.Status:
        replace_apply(self, self._apply_with_locks)
        try:
            self.apply(self.restatement)
        except ConflictingPlanError as error:
            raise EvaluationError(
                f"Another plan has changed environment {self.request.environment} during the restatement. Versions "
                "that it has promoted may have older rows. To restate them too, launch the same restatement again. "
                f"SQLMesh reported: {describe_error(error)}"
            ) from error
        except PlanError:
            if not (self.tracker.failed or self.tracker.was_cancelled):  # else SQLMesh has reported the failed models
                raise
            return "failure"
        return "success"

    def _apply_with_locks(
        self, evaluator: Any, plan: EvaluatablePlan, circuit_breaker: Callable[[], bool] | None
    ) -> None:
        check_before_stages(evaluator, self.tracker.require_locks)
        if plan.restate_all_snapshots:
            nodes = self.restatement.context_diff.snapshots_by_name
            evaluator.visit_restatement_stage(RestatementStage(nodes), plan)
        evaluator.evaluate(plan, circuit_breaker=circuit_breaker)

    def watch(self, scheduler: Scheduler) -> None:
        self.current_scheduler = scheduler
        pending = self.coverages(scheduler.snapshots_by_name).pending
        # SQLMesh restates a model that it computes as a whole up to now, whatever the range.
        self.tracker.held_back_by = hold_back_pending_upstream(scheduler, self.known.tables, pending).by
        self._forget_what_waits(scheduler)

    def observed(self, scheduler: Scheduler) -> Observed:
        incremental = [snapshot for snapshot in scheduler.snapshots.values() if is_incremental(snapshot)]
        replaces_table = {snapshot.name for snapshot in incremental if snapshot.full_history_restatement_only}
        replaces_rows = {
            snapshot.name
            for snapshot in incremental
            if snapshot.name not in replaces_table
            and not scheduler.snapshot_evaluator.get_adapter(snapshot.model_gateway).SUPPORTS_TRANSACTIONS
        }
        return replace(super().observed(scheduler), replaced=Replaced(replaces_table, replaces_rows))

    def _forget_what_waits(self, scheduler: Scheduler) -> None:
        """Forget the computed intervals that the restatement leaves out.

        That holds for a whole table too, although the restatement has computed it: it has read a source that is
        computed later. SQLMesh restates some incremental models only as a whole. If all intervals of such a model were
        forgotten, the next restatement would replace the table with the rows of its own range. So it counts as not
        restated.

        Standalone audits are no part of a restatement. SQLMesh would run those that read a restated model or are due.
        The selected ones are evaluated after it, over everything; they stay due for the next run.
        """
        batch = scheduler.batch_intervals

        def batch_intervals(
            requested: SnapshotToIntervals, index: DeployabilityIndex | None, *args: Any, **kwargs: Any
        ) -> dict[Snapshot, Any]:
            requested = {node: intervals for node, intervals in requested.items() if node.is_model}
            batches = batch(requested, index, *args, **kwargs)
            for node, intervals in self._left_out(requested, batches, index).items():
                if is_incremental(node) and node.full_history_restatement_only and not batches.get(node):
                    unrestated = {**self.known.unrestated, node.name: intervals}
                    self.known = replace(self.known, unrestated=unrestated)
                else:
                    is_dev = index is not None and not index.is_deployable(node)
                    forget_intervals(self.state_sync, node, self._forgotten(node, intervals), is_dev=is_dev)
            return batches

        replace_intervals(scheduler, scheduler.merged_missing_intervals, batch_intervals)

    def _forgotten(self, node: Snapshot, left_out: Sequence[Interval]) -> Sequence[Interval]:
        """Those of the intervals to forget: for a whole table, those whose sources are not loaded.

        One pending interval is enough to compute a whole table again. If older ones were pending too, the next run
        would compute the table for these, from the rows for which it waits.
        """
        tables = self.tracker.held_back_by.get(node.name, msg.HeldBackBy()).tables
        not_loaded = common(left_out, [part for table in tables for part in self.known.tables.awaited[table]])
        return left_out if is_incremental(node) or not not_loaded else not_loaded

    def _left_out(
        self, requested: SnapshotToIntervals, batches: SnapshotToIntervals, index: DeployabilityIndex | None
    ) -> dict[Snapshot, Sequence[Interval]]:
        """The computed intervals of restated models that have no batch. SQLMesh requests models upstream too."""
        restated = {node: self.restatement.restatements.get(node.snapshot_id) for node in requested if not node.is_view}
        left = {
            node: common(subtract(requested[node], batches.get(node, ())), [interval])
            for node, interval in restated.items()
            if interval
        }
        stored = {node: node.copy() for node, intervals in left.items() if intervals}
        self.state_reader.refresh_snapshot_intervals(stored.values())  # SQLMesh has removed those of the others
        computed = {
            node: common(
                left[node], copy.intervals if index is None or index.is_deployable(node) else copy.dev_intervals
            )
            for node, copy in stored.items()
        }
        return {node: intervals for node, intervals in computed.items() if intervals}

    def may_be_idle(self) -> Set[str]:
        """The models that wait: all their intervals are left out."""
        return {fqn for fqn, batches in self.tracker.planned.items() if not batches} & set(self.request.models)

    def restated(self, snapshots: Mapping[str, Snapshot]) -> Iterable[Snapshot]:
        return snapshots.values()


def _planned(context: EvaluationContext) -> Plan:
    """Plan the restatement and report it.

    Raises a ConfigurationError if a requested model cannot be restated, or the range is empty. If models are left out,
    it is raised if none of the requested models can be restated.
    """
    request, restate = context.request, context.request.restate
    assert restate is not None, "the request restates"
    requested = [fqn for fqn in request.models if fqn not in request.external_models]
    left_out: dict[str, str] = {}
    if restate.leaves_out:
        promoted = {info.name for info in context.stored_environment().snapshots}
        left_out = {fqn: "not promoted" for fqn in requested if fqn not in promoted}
        requested = [fqn for fqn in requested if fqn in promoted]
        if not requested:
            raise _unrestatable(left_out, {}, context)
    try:
        plan = context.plan_builder(
            request.environment,
            restate_models=requested,
            start=restate.start,
            end=restate.end,
            execution_time=request.execution_time,
            skip_tests=True,
            skip_linter=True,
            forward_only=False,  # with `plan.forward_only`, SQLMesh would restate tables of prod in a dev environment
        ).build()
    except PlanError as error:
        raise ConfigurationError(
            f"SQLMesh refuses the restatement: {describe_error(error).rstrip('.')}. Nothing was computed. Correct "
            "`restate` in the run config."
        ) from error
    snapshots = plan.context_diff.snapshots_by_name
    ranges = _ranges(plan)
    restated = {snapshot_id.name for snapshot_id in plan.restatements}
    # In a dev_only project, all plans are forward-only.
    shared = {fqn for fqn in restated if request.environment != c.PROD and not snapshots[fqn].is_paused}
    possible = (restated & ranges.keys()) - shared
    left_out |= {
        fqn: _why_not(snapshots[fqn], request.environment, plan)
        for fqn in [*requested, *sorted(shared.difference(requested))]
        if fqn in snapshots and fqn not in possible
    }
    # SQLMesh would still compute whole tables downstream, and a run that restates none of its models would be green.
    if left_out and (shared or not (restate.leaves_out and possible.intersection(requested))):
        raise _unrestatable(left_out, snapshots, context)
    context.request = replace(request, models=tuple(fqn for fqn in request.models if fqn not in left_out))
    planned = msg.RestatementPlanned(
        ranges=ranges,
        added=tuple(sorted(ranges.keys() - set(request.models))),
        environments=_environments(plan, context) if request.environment == c.PROD else {},
        asked_for=resolved_range(request),
        planned_at=now_timestamp(),
        not_loaded=_not_loaded(plan, {fqn: interval for fqn, (interval, _) in ranges.items()}, snapshots, context),
        left_out=left_out,
        not_for_prod=tuple(
            sorted(fqn for fqn in ranges if not plan.deployability_index.is_representative(snapshots[fqn]))
        ),
        only_pending=tuple(sorted(ranges.keys() - restated)),
    )
    context.tracker.pipe.send(planned)
    context.tracker.pipe.receive(msg.GoAhead)
    return plan


def _ranges(plan: Plan) -> dict[str, tuple[Interval, int]]:
    """As in `RestatementPlanned`."""
    snapshots = plan.context_diff.snapshots_by_name
    return {
        missing.snapshot_id.name: (
            (missing.intervals[0][0], missing.intervals[-1][1]),
            # SQLMesh counts days for a view too, but computes it once.
            len(missing.intervals) if is_incremental(snapshots[missing.snapshot_id.name]) else 1,
        )
        for missing in plan.missing_intervals
        if missing.intervals
    }


def _not_loaded(
    plan: Plan, ranges: Mapping[str, Interval], snapshots: Mapping[str, Snapshot], context: EvaluationContext
) -> tuple[tuple[str, Interval], ...]:
    """As in `RestatementPlanned`."""
    requested = {snapshots[fqn]: [interval] for fqn, interval in ranges.items()}
    tables = context.read_tables(context.stored_environment())
    held_back = held_back_from(requested, snapshots, plan.deployability_index, tables)
    incremental = {fqn: by.tables for fqn, (_, by) in held_back.items() if is_incremental(snapshots[fqn])}
    return tuple(sorted({(table, ranges[fqn]) for fqn, of_model in incremental.items() for table in of_model}))


def _unrestatable(
    reasons: Mapping[str, str], snapshots: Mapping[str, Snapshot], context: EvaluationContext
) -> ConfigurationError:
    named = [
        f"{display_name(snapshots[fqn].node, context) if fqn in snapshots else unquoted(fqn)} ({why})"
        for fqn, why in reasons.items()
    ]
    return ConfigurationError(
        f"SQLMesh cannot restate {listed(named)}. Nothing was computed. Leave these models out of the run."
    )


def _why_not(snapshot: Snapshot, environment: str, plan: Plan) -> str:
    if snapshot.is_seed:
        return "a seed: to load it again, change its file and apply a plan"
    if environment != c.PROD and not snapshot.is_paused:
        return f"environment {environment} shows the table of prod: restate it in prod"
    if snapshot.disable_restatement:
        return f"kind {snapshot.model.kind.name.value}: `disable_restatement` is true"
    start = start_date(snapshot, plan.context_diff.snapshots)
    began, ended = plan.restatements[snapshot.snapshot_id]
    if snapshot.node.end and (end := to_timestamp(make_exclusive(snapshot.node.end))) <= began:
        return f"it ends at {utc_text(end)}, before this range"
    if ended <= to_timestamp(start):
        return f"it starts at {utc_text(to_timestamp(start))}, after this range"
    if began < ended:
        return f"its cron, {snapshot.node.cron}, has not ticked since this range began: the next tick computes it"
    unit = snapshot.node.interval_unit.value
    return f"no complete interval of its unit, {unit}, lies in this range: choose a longer one"


def _environments(plan: Plan, context: EvaluationContext) -> dict[str, int]:
    """The other environments that lose intervals, with the number of their models, as SQLMesh finds them."""
    evaluatable = plan.to_evaluatable()
    cleared = identify_restatement_intervals_across_snapshot_versions(
        state_reader=context.state_reader,
        prod_restatements=evaluatable.restatements,
        disable_restatement_models=evaluatable.disabled_restatement_models,
        loaded_snapshots=plan.context_diff.snapshots,
    )
    return dict(Counter(name for request in cleared.values() for name in sorted(request.environment_names)))
