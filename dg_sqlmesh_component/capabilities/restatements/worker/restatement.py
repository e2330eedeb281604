"""Serve a `RestateRequest`: compute a range of the models again.

SQLMesh plans it: `plan_builder(restate_models=...)` takes the models from the state, whatever the local files contain.
SQLMesh decides which downstream models have to be computed again, and which other versions of the models.

Then the planned intervals are removed from the state, of all models at once, before the first batch. So they are
pending, for everybody, and an ordinary run computes them. What a failure, a kill, a cancel or a closed signal leaves is
still pending, and the next run computes it.

If other assets split the run into steps, each step plans the restatement of all steps, and computes its own part
(`split`). A step also removes the intervals of models that later steps compute.

SQLMesh alone removes the intervals of other versions only after all models are computed. If one failed, a restatement
of the rest would leave the versions of the finished ones as they are. So they are removed before, too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlmesh.core import constants as c
from sqlmesh.core.plan import Plan
from sqlmesh.core.plan.common import identify_restatement_intervals_across_snapshot_versions
from sqlmesh.core.scheduler import Scheduler, SnapshotToIntervals
from sqlmesh.core.selector import NativeSelector
from sqlmesh.core.snapshot import Snapshot, start_date
from sqlmesh.core.snapshot.definition import Interval
from sqlmesh.utils.date import make_exclusive, to_timestamp
from sqlmesh.utils.errors import ConflictingPlanError, PlanError

from dg_sqlmesh_component.capabilities.restatements.messages import RestateRequest
from dg_sqlmesh_component.capabilities.restatements.worker.pushed_ranges import pushed_ranges
from dg_sqlmesh_component.capabilities.restatements.worker.split import Split, split
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.errors import ConfigurationError, EvaluationError
from dg_sqlmesh_component.protocol.formatting import listed, unquoted, utc_text
from dg_sqlmesh_component.protocol.graph import reachable
from dg_sqlmesh_component.protocol.intervals import common
from dg_sqlmesh_component.worker.context import display_name
from dg_sqlmesh_component.worker.evaluate.evaluation import (
    EvaluationContext,
    await_finalized_environment,
    evaluate,
    resolved,
    resolved_range,
)
from dg_sqlmesh_component.worker.evaluate.run import RunContext
from dg_sqlmesh_component.worker.explain import describe_error
from dg_sqlmesh_component.worker.intervals.tables import (
    has_start,
    is_incremental,
    shows_others,
    single_intervals,
    upstream,
    whole_intervals,
)
from dg_sqlmesh_component.worker.observe.run_tracker import RunTracker
from dg_sqlmesh_component.worker.pipe import Pipe
from dg_sqlmesh_component.worker.sqlmesh_internals import (
    Forgotten,
    forget_intervals,
    forget_other_versions,
    replace_intervals,
)

_NO_START = (
    "it has no `start`, so SQLMesh does not compute this range: set a `start`, for example in `model_defaults`, and "
    "apply a plan"
)


def serve_restatement(request: RestateRequest, pipe: Pipe) -> None:
    """Compute the requested range, then audit other nodes. A retry that has only audits left has no range."""
    evaluate(request, pipe, RunContext if request.restate is None else RestatementContext)


class _ExactSelector(NativeSelector):
    """Takes each selection as the fqn of a model, because SQLMesh's language cannot quote every name."""

    def expand_model_selections(
        self, model_selections: Iterable[str], models: dict[str, Any] | None = None
    ) -> set[str]:
        return set(model_selections) - {"*"}  # which SQLMesh asks for too, to find the selected dbt models


class RestatementContext(RunContext):
    """A context that computes a range of the requested models again, and of the models downstream of them."""

    restatement: Plan
    parts: Split

    def __init__(self, request: msg.EvaluationRequest, tracker: RunTracker, **options: Any) -> None:
        super().__init__(request, tracker, selector=_ExactSelector, **options)

    def prepare(self) -> None:
        """Plan the restatement. From then on, the models that SQLMesh adds count as requested."""
        await_finalized_environment(self)
        self.restatement, self.parts = _planned(self)
        models = dict.fromkeys([*self.request.models, *sorted(self.parts.here)])
        self.request = replace(self.request, models=tuple(models))

    @property
    def planned(self) -> dict[str, Sequence[Interval]]:
        """The intervals that SQLMesh has planned, by model."""
        missing = self.restatement.missing_intervals
        return {of_model.snapshot_id.name: of_model.intervals for of_model in missing if of_model.intervals}

    def compute(self) -> msg.Status:
        self._forget_other_versions()
        forgotten = [*self.computed_again()]
        forget_intervals(self.state_sync, forgotten)
        for of_model in forgotten:
            self.tracker.report_forgotten(of_model.snapshot.name, of_model.intervals)
        status = super().compute()
        if status == "success":
            self._forget_other_versions()  # those that somebody has added meanwhile, as SQLMesh does
        return status

    def computed_again(self) -> Iterable[Forgotten]:
        """The restated models with the planned intervals that their table has."""
        plan, planned, parts = self.restatement, self.planned, self.parts
        forgotten = planned.keys() & {*parts.here, *parts.later}  # what earlier steps have computed stays
        copies = [plan.context_diff.snapshots[of].copy() for of in plan.restatements if of.name in forgotten]
        self.state_reader.refresh_snapshot_intervals(copies)
        for node in copies:
            is_dev = not plan.deployability_index.is_deployable(node)
            computed = common(node.dev_intervals if is_dev else node.intervals, planned[node.name])
            if node.is_view and not node.is_materialized_view:
                # It shows its sources as they are. One interval is enough to create it again and to audit it, and its
                # downstream models do not wait for the others.
                computed = tuple(single_intervals(node, computed)[-1:])
            if computed:
                yield Forgotten(node, computed, is_dev)

    def _forget_other_versions(self) -> None:
        """Remove the planned intervals of versions that prod does not show.

        Raises an EvaluationError if a plan has promoted another version: SQLMesh does not remove its intervals.
        """
        self.tracker.require_locks()
        try:
            forget_other_versions(self, self.restatement)
        except ConflictingPlanError as error:
            raise EvaluationError(
                f"Another plan has changed environment {self.request.environment} during the restatement. Versions "
                "that it has promoted may have older rows. To restate them too, launch the same restatement again. "
                f"SQLMesh reported: {describe_error(error)}"
            ) from error

    def watch(self, scheduler: Scheduler) -> None:
        super().watch(scheduler)
        find_missing, batch, planned = scheduler.merged_missing_intervals, scheduler.batch_intervals, self.planned

        def planned_intervals(*args: Any, **kwargs: Any) -> SnapshotToIntervals:
            """Of a model that SQLMesh restates only as a whole, all: it cannot compute a range of an empty table."""
            missing = find_missing(*args, **kwargs)
            within = {
                node: intervals
                if node.full_history_restatement_only and node.snapshot_id in self.restatement.restatements
                else common(intervals, planned.get(node.name, ()))
                for node, intervals in missing.items()
            }
            return {node: [*intervals] for node, intervals in within.items() if intervals}

        def batch_intervals(*args: Any, **kwargs: Any) -> SnapshotToIntervals:
            """SQLMesh's signal `freshness` is ready in a restatement."""
            return batch(*args, **{**kwargs, "is_restatement": True})

        replace_intervals(scheduler, planned_intervals, batch_intervals)

    def may_restate_automatically(self, scheduler: Scheduler) -> bool:
        return False


def _planned(context: EvaluationContext) -> tuple[Plan, Split]:
    """Plan the restatement of all steps of the run, and report the part that is still to be computed.

    Models that cannot be restated are left out. Raises a ConfigurationError if none of the requested models is left.
    """
    request, restate = context.request, context.request.restate
    assert restate is not None, "the request restates"
    requested, unfit = _requested(restate, context)
    plan = _built(restate, requested, context)
    ranges, restated = _ranges(plan), {snapshot_id.name for snapshot_id in plan.restatements}
    left_out = _left_out(plan, ranges, requested, unfit, context)
    context.request = replace(request, models=tuple(fqn for fqn in request.models if fqn not in left_out))
    steps = {*restate.earlier}, {*request.models}, {*restate.later}
    parts = split(ranges, restated, upstream(plan.context_diff.snapshots_by_name), steps)
    ranges = {fqn: found for fqn, found in ranges.items() if fqn in parts.here | parts.later}
    planned = msg.RestatementPlanned(
        ranges=ranges,
        added=tuple(sorted(parts.here - set(request.models))),
        environments=_environments(plan, context) if request.environment == c.PROD else {},
        asked_for=resolved_range(request),
        left_out=left_out,
        only_pending=tuple(sorted(parts.here - restated)),
        later=tuple(sorted(parts.later)),
    )
    context.tracker.pipe.send(planned)
    context.tracker.pipe.receive(msg.GoAhead)
    return plan, parts


def _requested(restate: msg.Restatement, context: EvaluationContext) -> tuple[list[str], dict[str, str]]:
    """The models of all steps of the run, and those of them that are left out at once, with the reason."""
    request = context.request
    own = [fqn for fqn in request.models if fqn not in request.external_models]
    requested = [*restate.earlier, *own, *restate.later]
    if not restate.only_promoted:
        return requested, {}
    promoted = {info.name for info in context.stored_environment().snapshots}
    left_out = {fqn: "not promoted" for fqn in requested if fqn not in promoted}
    requested = [fqn for fqn in requested if fqn in promoted]
    if restate.tables:
        readers = _readers(restate.tables, context)
        left_out |= {fqn: "does not read the tables itself" for fqn in requested if fqn not in readers}
        requested = [fqn for fqn in requested if fqn in readers]
        if not requested:
            names = " or ".join(map(unquoted, restate.tables))
            raise ConfigurationError(
                f"None of the selected models reads {names} itself, as promoted in {request.environment}. Nothing was "
                "computed. Select the models that read it, or all models."
            )
    if not requested:
        raise _unrestatable(left_out, {}, context)
    return requested, left_out


def _built(restate: msg.Restatement, requested: Sequence[str], context: EvaluationContext) -> Plan:
    """Plan them, as far as they reach in all models downstream. Raises a ConfigurationError if SQLMesh refuses."""
    request = context.request
    try:
        plan = context.plan_builder(
            request.environment,
            restate_models=requested,
            start=resolved(restate.start, request),
            end=resolved(restate.end, request),
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
    nodes = {of.name: plan.context_diff.snapshots[of] for of in plan.restatements}
    planned = {of.name: interval for of, interval in plan.restatements.items()}
    pushed = pushed_ranges(planned, upstream(nodes), {name for name, node in nodes.items() if is_incremental(node)})
    wider = {name: whole_intervals(nodes[name], of) for name, of in pushed.items() if of != planned[name]}
    if not wider:
        return plan
    return plan.copy(update={"restatements": {of: wider.get(of.name, had) for of, had in plan.restatements.items()}})


def _left_out(
    plan: Plan,
    ranges: Mapping[str, Any],
    requested: Sequence[str],
    unfit: Mapping[str, str],
    context: EvaluationContext,
) -> dict[str, str]:
    """The models of this step that are not restated, with the reason. `unfit`: those that were left out before.

    Raises a ConfigurationError if they cannot be left out, or if none of the requested models is left.
    """
    request, restate = context.request, context.request.restate
    assert restate is not None, "the request restates"
    snapshots = plan.context_diff.snapshots_by_name
    restated = {snapshot_id.name for snapshot_id in plan.restatements}
    # In a dev_only project, all plans are forward-only.
    shared = {fqn for fqn in restated if request.environment != c.PROD and not snapshots[fqn].is_paused}
    never = _not_computed(plan, restated, ranges)
    never -= {fqn for fqn in never.difference(requested) if shows_others(snapshots[fqn])}
    possible = (restated & ranges.keys()) - shared - never
    of_plan = {
        fqn: _NO_START if fqn in never else _why_not(snapshots[fqn], request.environment, plan)
        for fqn in [*requested, *sorted((shared | never).difference(requested))]
        if fqn in snapshots and fqn not in possible
    }
    left_out = {**unfit, **of_plan}
    # SQLMesh would still compute whole tables downstream, and a run that restates none of its models would be green.
    may_leave_out = possible.intersection(requested) and not never & ranges.keys()
    if left_out and (shared or never.difference(requested) or not may_leave_out):
        raise _unrestatable(left_out, snapshots, context)
    restated_elsewhere = {*possible, *restate.earlier, *restate.later}
    return {fqn: why for fqn, why in left_out.items() if fqn not in restated_elsewhere}


def _not_computed(plan: Plan, restated: Iterable[str], planned: Container[str]) -> set[str]:
    """The models without a `start` that a run would compute for a part of the range only, or not at all.

    SQLMesh takes the newest interval as their start: that of the range when it plans, and that of today when it runs.
    """
    snapshots, nodes = plan.context_diff.snapshots, plan.context_diff.snapshots_by_name

    def is_left(node: Snapshot) -> bool:
        if node.full_history_restatement_only or not is_incremental(node):
            return node.name not in planned
        return plan.restatements[node.snapshot_id][0] < to_timestamp(start_date(node, snapshots))

    return {fqn for fqn in restated if is_left(nodes[fqn]) and not has_start(nodes[fqn], snapshots)}


def _readers(tables: Iterable[str], context: EvaluationContext) -> set[str]:
    """The promoted models that read one of these tables themselves, or through embedded models."""
    promoted = context.state_reader.get_snapshots(context.stored_environment().snapshots).values()
    nodes = {node.name: node for node in promoted}

    def read_through(name: str) -> Iterable[str]:
        return nodes[name].node.depends_on if name in nodes and nodes[name].is_embedded else ()

    return {
        name for name, node in nodes.items() if not reachable(node.node.depends_on, read_through).isdisjoint(tables)
    }


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
    unit = snapshot.node.interval_unit
    if began < to_timestamp(start) and ended - to_timestamp(start) < unit.milliseconds:
        starts = f"it starts at {utc_text(to_timestamp(start))}, inside its first interval"
        return f"{starts}, which SQLMesh restates only together with the next one: choose a longer range"
    if began < ended:
        return f"its cron, {snapshot.node.cron}, has not ticked since this range began: the next tick computes it"
    return f"no complete interval of its unit, {unit.value}, lies in this range: choose a longer one"


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
