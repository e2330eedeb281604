"""Serve a `PreviewRequest`: show the files of a pull request in an environment of their own, and compare it with prod.

SQLMesh's plan for another environment may write to tables of prod: it fills gaps of unchanged models upstream. So the
plan is narrowed to the tables that prod does not show (ADR-0042).
"""

from __future__ import annotations

import inspect
from dataclasses import replace
from itertools import chain
from typing import Any

import sqlmesh
from sqlmesh.core import constants as c
from sqlmesh.core.context import Context
from sqlmesh.core.environment import Environment
from sqlmesh.core.plan import Plan
from sqlmesh.core.snapshot import DeployabilityIndex, Snapshot, earliest_start_date
from sqlmesh.utils.date import now_timestamp
from sqlmesh.utils.errors import NoChangesPlanError

from dg_sqlmesh_component.capabilities.plans import messages as msg
from dg_sqlmesh_component.capabilities.plans.worker.beside_runs import BesideRuns
from dg_sqlmesh_component.capabilities.plans.worker.close import (
    CAN_CLOSE,
    OwnVersions,
    delete_unused,
    without_leftovers,
)
from dg_sqlmesh_component.capabilities.plans.worker.compared_audits import compare_audits
from dg_sqlmesh_component.capabilities.plans.worker.context import PlanContext, apply_approved, built, refuse_long_names
from dg_sqlmesh_component.capabilities.plans.worker.corrections import forget_outdated_rows
from dg_sqlmesh_component.capabilities.plans.worker.facts import plan_built
from dg_sqlmesh_component.capabilities.plans.worker.gained_rows import GainedRows
from dg_sqlmesh_component.capabilities.plans.worker.missing_tables import forget_missing_tables
from dg_sqlmesh_component.capabilities.plans.worker.promotion import Promotion
from dg_sqlmesh_component.capabilities.plans.worker.selection import take_only_selected
from dg_sqlmesh_component.capabilities.plans.worker.table_comparison import compare_environments
from dg_sqlmesh_component.protocol.errors import ConfigurationError, EnvironmentNotReadyError, EvaluationError
from dg_sqlmesh_component.protocol.graph import reachable
from dg_sqlmesh_component.worker.context import display_name
from dg_sqlmesh_component.worker.environment import stored_environment
from dg_sqlmesh_component.worker.intervals.coverage import Coverages
from dg_sqlmesh_component.worker.intervals.tables import upstream
from dg_sqlmesh_component.worker.running_queries import watch_queries
from dg_sqlmesh_component.worker.sqlmesh_internals import computed_ranges, replace_apply
from dg_sqlmesh_component.worker.state_lock import StateLock

_HAS_PREVIEW_START = "preview_start" in inspect.signature(Context.plan_builder).parameters


def preview(request: msg.PreviewRequest, context: PlanContext, runs: StateLock) -> msg.EvaluationFinished:
    """Create or update the environment, and compare it with prod.

    Raises:
        ConfigurationError: SQLMesh cannot build a plan, or is too old, or the environment never expires.
        EnvironmentNotReadyError: There is no prod, or a plan is changing it.
        EvaluationError: The plan failed or was cancelled.
    """
    pipe = context.tracker.pipe
    if not CAN_CLOSE:
        raise ConfigurationError(
            f"Previews need SQLMesh 0.236.0 or later, and {sqlmesh.__version__} is installed. Upgrade it, or remove "
            "`preview` in defs.yaml."
        )
    prod = _finalized_prod(request, context)
    take_only_selected(context, c.PROD)
    before = context.state_reader.get_environment(request.environment)
    _refuse_permanent(request.environment, before, context)
    before = without_leftovers(before, context)
    whole = _whole(request, before, context)
    if whole is None:
        pipe.send(_plan_of_prod(context))
        return msg.EvaluationFinished("nothing_to_do")
    own = OwnVersions() if before is None else OwnVersions.of(before, context)
    plan = _narrowed(whole, prod, own)
    remedy = (
        "Make `preview.environment` in defs.yaml shorter. If it has the name of a branch, use the number of the pull "
        "request instead."
    )
    refuse_long_names(plan, context, remedy)
    forget_missing_tables(plan, context, in_state=True)
    forget_outdated_rows(plan, prod, context, in_state=True)
    pending, holes = _pending_upstream(plan, prod, context)
    pipe.send(replace(plan_built(plan, context), pending_upstream=pending, holes_upstream=holes))
    approval = pipe.receive(msg.PlanApproval)
    pipe.begin()
    promotion = Promotion(plan, before, context)
    with promotion.explained():
        beside_runs = BesideRuns(context, prod, runs, promotion, approval.interrupted)
        replace_apply(context, beside_runs.apply)
        apply_approved(context, plan, approval)
    promoted_at = now_timestamp()
    if before is not None:
        delete_unused(own, context)
    pipe.send(_plan_of_prod(context))
    watch_queries(pipe, context.engine_adapters)
    for compared in chain(compare_audits(plan, prod, context), compare_environments(plan, prod, context, request.diff)):
        pipe.send(compared)
        if pipe.is_cancelled:
            raise EvaluationError("The preview is complete, and was cancelled while it was compared with prod.")
    if went_on := beside_runs.event():
        pipe.send(replace(went_on, while_compared=_computed_since(promoted_at, prod, plan, context)))
    return msg.EvaluationFinished("success")


def _whole(request: msg.PreviewRequest, before: Environment | None, context: PlanContext) -> Plan | None:
    """The plan of the preview, which still computes whole ranges; None if there is nothing to preview."""
    # Else SQLMesh would compare the second commit with the first one, and categorize its changes by that alone.
    context.config.plan.always_recreate_environment = True
    try:
        return _plan_of_whole_ranges(request, context)
    except ConfigurationError as error:
        if not isinstance(error.__cause__, NoChangesPlanError):
            raise
    if before is None:
        return None
    context.config.plan.always_recreate_environment = False  # back to the versions of prod
    return built(context, request.environment)


def _refuse_permanent(name: str, before: Environment | None, context: Context) -> None:
    """Refuse an environment that never expires: somebody keeps it, and the job that closes previews would refuse it."""
    is_kept = context.environment_ttl is None or name in context.pinned_environments
    if is_kept or (before is not None and before.expiration_ts is None):
        raise ConfigurationError(
            f"Environment {name} never expires, so it is no preview, and was not changed. Correct "
            "`preview.environment` in defs.yaml, or `pinned_environments` or `environment_ttl` in SQLMesh's "
            "configuration."
        )


def _computed_since(instant: int, prod: Environment, plan: Plan, context: Context) -> tuple[str, ...]:
    """The names of the models that runs have computed since, if the preview shows another version of them."""
    recorded, shown = computed_ranges(context), plan.context_diff.snapshots_by_name
    return tuple(
        display_name(shown[info.name].node, context)
        for info in prod.snapshots
        if info.name in shown
        and info.snapshot_id != shown[info.name].snapshot_id
        and any(computed.at > instant for computed in recorded.get((info.name, info.version, False), ()))
    )


def _plan_of_prod(context: PlanContext) -> msg.PlanBuilt:
    """What the job that applies plans would do after the preview. It has the digest for that job."""
    plan = built(context, c.PROD, skip_tests=True, skip_linter=True)
    forget_missing_tables(plan, context, in_state=False)
    prod = context.state_reader.get_environment(c.PROD)
    forget_outdated_rows(plan, prod, context, in_state=False)
    return plan_built(plan, context, GainedRows.before_plan(plan, prod))


def _finalized_prod(request: msg.PreviewRequest, context: Context) -> Environment:
    prod = stored_environment(request.project, c.PROD, context)
    if prod.finalized_ts is None:
        raise EnvironmentNotReadyError(
            f"Plan {prod.plan_id} has begun to change environment {c.PROD} and has not finished. A preview is made "
            "from prod. If that plan is still running, wait for it. If it was interrupted, finish it first."
        )
    return prod


def _plan_of_whole_ranges(request: msg.PreviewRequest, context: PlanContext) -> Plan:
    """The plan that computes the last day of forward-only changes, or one interval, and everything of all others.

    If one change is forward-only, SQLMesh limits all models to the last day, unless the plan has a start.
    """
    plan = built(context, request.environment, **_forward_only_range())
    diff = plan.context_diff
    changed = {*diff.modified_snapshots, *(s_id.name for s_id in diff.added)}
    models = [snapshot.model for snapshot in diff.snapshots.values() if snapshot.is_model and snapshot.name in changed]
    if not any(model.forward_only for model in models):
        return plan
    start = earliest_start_date(diff.snapshots.values())
    return built(context, request.environment, start=start, skip_tests=True, skip_linter=True, **_forward_only_range())


def _forward_only_range() -> dict[str, Any]:
    """What to compute of forward-only changes."""
    return (
        {"enable_preview": True, "preview_start": "1 day ago", "preview_min_intervals": 1} if _HAS_PREVIEW_START else {}
    )


def _narrowed(plan: Plan, prod: Environment, own: OwnVersions) -> Plan:
    """The plan, computing only tables that prod does not show.

    `own` are the versions of the commits before. The environment remembers them, because they are deleted at the end.
    """
    shown = {info.name: info for info in prod.snapshots}

    def is_own(snapshot: Snapshot) -> bool:
        in_prod = shown.get(snapshot.name)
        if in_prod is None:
            return True
        is_prods_table = plan.deployability_index.is_representative(snapshot) and snapshot.version == in_prod.version
        return snapshot.snapshot_id != in_prod.snapshot_id and not is_prods_table

    selected = [s for s in plan.context_diff.snapshots.values() if plan.is_selected_for_backfill(s.name)]
    computed = {snapshot.name for snapshot in selected if is_own(snapshot)}
    # SQLMesh remembers these versions, instead of those of prod, if it believes that another plan has not finished.
    unfinished = {
        "is_unfinalized_environment": True,
        "previous_finalized_snapshots": [snapshot.table_info for snapshot in own.snapshots],
    }
    return plan.copy(update={"models_to_backfill": computed, "context_diff": plan.context_diff.copy(update=unfinished)})


def _pending_upstream(plan: Plan, prod: Environment, context: PlanContext) -> tuple[dict[str, int], dict[str, int]]:
    """By name, the missing intervals of prod's models that the computed models read, directly or not.

    Returns:
        All of them; and those that begin before the end of what the preview computes. It would read these holes: its
        own intervals would count as complete, although they were computed from incomplete data.
    """
    computed = {found.snapshot_id.name: found.intervals for found in plan.missing_intervals if found.intervals}
    if not computed:
        return {}, {}
    end = max(intervals[-1][1] for intervals in computed.values())
    read = reachable(computed, upstream(plan.context_diff.snapshots_by_name).__getitem__) - computed.keys()
    promoted = {s.name: s for s in context.state_reader.get_snapshots(prod.snapshots).values()}
    coverages = Coverages(promoted, DeployabilityIndex.all_deployable(), now_timestamp(), context.known)
    # What waits for a table of prod is no hole: the preview waits for the same table.
    missing = {name: coverages.missing(name)[0] for name in sorted(read & promoted.keys())}
    lacking = {display_name(promoted[name].node, context): found for name, found in missing.items() if found}
    holes = {name: sum(start < end for start, _ in intervals) for name, intervals in lacking.items()}
    pending = {name: len(intervals) for name, intervals in lacking.items()}
    return pending, {name: number for name, number in holes.items() if number}
