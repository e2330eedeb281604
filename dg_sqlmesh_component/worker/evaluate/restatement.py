"""Serve an `EvaluationRequest` with a restatement (`restate`): compute a range of the models again.

A restatement is a plan that changes no code: `plan_builder(restate_models=...)` takes the models from the state,
whatever the local files contain. SQLMesh decides which downstream models have to be computed again. In prod, SQLMesh
also removes the intervals of other versions of these models from the state: their data would be older than prod's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Set
from dataclasses import replace
from typing import Any

from sqlmesh.core import constants as c
from sqlmesh.core.plan import Plan
from sqlmesh.core.plan.common import identify_restatement_intervals_across_snapshot_versions
from sqlmesh.core.scheduler import Scheduler
from sqlmesh.core.selector import NativeSelector
from sqlmesh.core.snapshot import Snapshot
from sqlmesh.utils.date import now_timestamp
from sqlmesh.utils.errors import PlanError

from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.errors import ConfigurationError
from dg_sqlmesh_component.protocol.formatting import counted, listed
from dg_sqlmesh_component.worker.coverage import is_incremental
from dg_sqlmesh_component.worker.evaluate.evaluation import EvaluationContext, evaluate, resolved_range
from dg_sqlmesh_component.worker.explain import describe_error
from dg_sqlmesh_component.worker.observe.tracker import Replaced, Tracker
from dg_sqlmesh_component.worker.pipe import Pipe


def restate(request: msg.EvaluationRequest, pipe: Pipe) -> None:
    """Restate the requested models and those downstream of them, and audit others."""
    evaluate(request, pipe, RestatementContext)


class _ExactSelector(NativeSelector):
    """Takes each selection as the fqn of a model, because SQLMesh's language cannot quote every name."""

    def expand_model_selections(
        self, model_selections: Iterable[str], models: dict[str, Any] | None = None
    ) -> set[str]:
        return set(model_selections) - {"*"}


class RestatementContext(EvaluationContext):
    """A context that computes a range of the requested models again, and of the models downstream of them."""

    restatement: Plan

    def __init__(self, request: msg.EvaluationRequest, tracker: Tracker, **options: Any) -> None:
        super().__init__(request, tracker, selector=_ExactSelector, **options)

    def prepare(self) -> None:
        """Plan the restatement. From then on, the models that SQLMesh adds count as requested."""
        self.await_finalized_environment()
        self.restatement = _planned(self)
        computed = {missing.snapshot_id.name for missing in self.restatement.missing_intervals if missing.intervals}
        self.request = replace(self.request, models=tuple(dict.fromkeys([*self.request.models, *sorted(computed)])))

    def compute(self) -> msg.Status:
        try:
            self.apply(self.restatement)
        except PlanError:
            if not self.tracker.is_through:  # else SQLMesh has reported the failed models
                raise
            return "failure"
        return "success"

    def watch(self, scheduler: Scheduler) -> None:
        self.current_scheduler = scheduler
        self.tracker.coverages = self.coverages(scheduler.snapshots_by_name, scheduler.snapshots.values())
        incremental = [snapshot for snapshot in scheduler.snapshots.values() if is_incremental(snapshot)]
        replaces_table = {snapshot.name for snapshot in incremental if snapshot.full_history_restatement_only}
        replaces_rows = {
            snapshot.name
            for snapshot in incremental
            if snapshot.name not in replaces_table
            and not scheduler.snapshot_evaluator.get_adapter(snapshot.model_gateway).SUPPORTS_TRANSACTIONS
        }
        self.tracker.replaced = Replaced(replaces_table, replaces_rows)


def _planned(context: EvaluationContext) -> Plan:
    """Plan the restatement and report it.

    Raises:
        ConfigurationError: A requested model cannot be restated, the range is empty, or the restatement is too large.
    """
    request, restate = context.request, context.request.restate
    assert restate is not None, "the request restates"
    requested = [fqn for fqn in request.models if fqn not in request.external_models]
    try:
        plan = context.plan_builder(
            request.environment,
            restate_models=requested,
            start=restate.start,
            end=restate.end,
            execution_time=request.execution_time,
            skip_tests=True,
            skip_linter=True,
        ).build()
    except PlanError as error:
        raise ConfigurationError(
            f"SQLMesh refuses the restatement: {describe_error(error).rstrip('.')}. Nothing was computed. Correct "
            "`restate` in the run config."
        ) from error
    snapshots = {snapshot.name: snapshot for snapshot in plan.context_diff.snapshots.values()}
    ranges = {
        missing.snapshot_id.name: (
            (missing.intervals[0][0], missing.intervals[-1][1]),
            # SQLMesh counts days for a view too, but computes it once.
            len(missing.intervals) if is_incremental(snapshots[missing.snapshot_id.name]) else 1,
        )
        for missing in plan.missing_intervals
        if missing.intervals
    }
    _refuse_unrestatable(request, requested, ranges.keys(), snapshots)
    planned = msg.RestatementPlanned(
        ranges=ranges,
        added=tuple(sorted(ranges.keys() - set(request.models))),
        environments=_environments(plan, context) if request.environment == c.PROD else {},
        estimate=estimated(restate.costs, {fqn: number for fqn, (_, number) in ranges.items()}),
        without_cost=tuple(sorted(ranges.keys() - restate.costs.keys())),
        planned_at=now_timestamp(),
    )
    context.tracker.pipe.send(planned)
    refuse_large(restate, planned, resolved_range(request))
    return plan


def _refuse_unrestatable(
    request: msg.EvaluationRequest, requested: list[str], restated: Set[str], snapshots: Mapping[str, Snapshot]
) -> None:
    reasons = [
        f"{snapshots[fqn].model.name} ({_why_not(snapshots[fqn], request.environment)})"
        for fqn in requested
        if fqn in snapshots and fqn not in restated
    ]
    if reasons:
        raise ConfigurationError(
            f"SQLMesh cannot restate {listed(reasons)}. Nothing was computed. Leave these models out of the run."
        )


def _why_not(snapshot: Snapshot, environment: str) -> str:
    if snapshot.is_seed:
        return "a seed: to load it again, change its file and apply a plan"
    if environment != c.PROD and not snapshot.is_paused:
        return f"environment {environment} shows the table of prod: restate it in prod"
    if snapshot.disable_restatement:
        return f"kind {snapshot.model.kind.name.value}: `disable_restatement` is true"
    unit = snapshot.node.interval_unit.value
    return f"no complete interval of its unit, {unit}, lies in this range: choose a longer one"


def estimated(costs: Mapping[str, msg.RecordedCost], intervals: Mapping[str, int]) -> msg.RecordedCost | None:
    """What so many intervals of each model cost. Models without a recorded cost are left out; None if all are.

    It is high for a long range of a model that was always computed one interval at a time: then nothing tells how much
    of its time each computation needs anyway.
    """
    return msg.RecordedCost.total([costs[fqn].of(number) for fqn, number in intervals.items() if fqn in costs])


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


def refuse_large(restate: msg.Restatement, planned: msg.RestatementPlanned, asked_for: str) -> None:
    """Refuse a restatement beyond a limit.

    Args:
        asked_for: The range of the run config.

    Raises:
        ConfigurationError: With the size, the limit and what to do.
    """
    intervals = sum(number for _, number in planned.ranges.values())
    remedy = "Choose a shorter range or fewer models, or raise the limit in defs.yaml."
    if restate.max_intervals is not None and intervals > restate.max_intervals:
        raise ConfigurationError(
            f"The restatement {asked_for} would compute {counted(intervals, 'interval')} of "
            f"{counted(len(planned.ranges), 'model')}; `restate.max_intervals` in defs.yaml is "
            f"{restate.max_intervals}. Nothing was computed. {remedy}"
        )
    if restate.budget is not None and (excess := restate.budget.excess(planned.estimate)):
        raise ConfigurationError(
            f"The restatement {asked_for} is over the budget. {excess} Nothing was computed. Choose a shorter range or "
            "fewer models, or set `over_budget: true` in the run config."
        )
