"""Serve a `PlanRequest`: build a plan from the project's files, and apply it if Dagster's process approves it.

Dagster's process decides, by the facts of the plan alone (`gate.py`). A refused plan is never applied: the
worker is stopped while it waits for the approval.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from sqlmesh.utils.date import now_timestamp

from dg_sqlmesh_component.capabilities.plans import messages as msg
from dg_sqlmesh_component.capabilities.plans.findings import lost_values, named
from dg_sqlmesh_component.capabilities.plans.worker.beside_runs import BesideRuns
from dg_sqlmesh_component.capabilities.plans.worker.context import (
    PlanContext,
    apply_approved,
    built,
    open_plan_context,
    refuse_long_names,
)
from dg_sqlmesh_component.capabilities.plans.worker.corrections import forget_outdated_rows
from dg_sqlmesh_component.capabilities.plans.worker.dependents import claim_names, lost_grants_reported
from dg_sqlmesh_component.capabilities.plans.worker.facts import plan_built
from dg_sqlmesh_component.capabilities.plans.worker.gained_rows import GainedRows
from dg_sqlmesh_component.capabilities.plans.worker.missing_tables import forget_missing_tables
from dg_sqlmesh_component.capabilities.plans.worker.promotion import Promotion
from dg_sqlmesh_component.capabilities.plans.worker.selection import take_only_selected
from dg_sqlmesh_component.capabilities.plans.worker.serve_preview import preview
from dg_sqlmesh_component.worker.environment import missing_environment, refuse_lost_versions, stored_environment
from dg_sqlmesh_component.worker.explain import describe_error, explain
from dg_sqlmesh_component.worker.intervals.records import compare
from dg_sqlmesh_component.worker.observe.computed_table import ComputedTables
from dg_sqlmesh_component.worker.pipe import Pipe
from dg_sqlmesh_component.worker.sqlmesh_internals import replace_apply
from dg_sqlmesh_component.worker.state_lock import RUNS, LockWait, StateLock, locked_context


def serve_plan(request: msg.PlanRequest, pipe: Pipe) -> None:
    """Build the plan, send it, and apply it if the request applies and an approval comes."""
    with locked_context(request, partial(open_plan_context, request, pipe), pipe, writes=request.applies) as context:
        runs = StateLock(context, request, LockWait(pipe, request.job.overlap_timeout), RUNS)
        try:
            _serve(request, context, runs)
            # Until Dagster has recorded the data. A run that began before would take it for data of somebody else.
            if request.applies:
                pipe.await_release()
        finally:
            runs.release()


def _serve(request: msg.PlanRequest, context: PlanContext, runs: StateLock) -> None:
    """Send all events. An error becomes one here, so that the lock is still held when the step stores its results."""
    pipe = context.tracker.pipe
    try:
        if isinstance(request, msg.PreviewRequest):
            pipe.send(preview(request, context, runs))
        else:
            pipe.send(_planned(request, context, runs))
    except Exception as error:  # noqa: BLE001  # SQLMesh, its engine's driver and code of the project raise anything
        pipe.fail(explain(error, request.project))


def _planned(request: msg.PlanRequest, context: PlanContext, runs: StateLock) -> msg.EvaluationFinished:
    pipe = context.tracker.pipe
    if (shown := context.state_reader.get_environment(request.environment)) is not None:
        refuse_lost_versions(shown, {id_.name for id_ in context.state_reader.snapshots_exist(shown.snapshots)})
    else:
        missing = missing_environment(request.project, request.environment, context)
        pipe.log("warning", f"{missing} The plan creates it.")
    take_only_selected(context, request.environment)
    plan = built(context, request.environment)
    if not plan.uncategorized:  # else it promotes nothing yet
        refuse_long_names(plan, context, "Rename the model.")
    forget_missing_tables(plan, context, in_state=request.applies)
    if not plan.is_dev:
        forget_outdated_rows(plan, shown, context, in_state=request.applies)
    gained = GainedRows.before_plan(plan, shown)
    facts = plan_built(plan, context, gained)
    pipe.send(facts)
    if not request.applies:
        return msg.EvaluationFinished("not_run")
    # If the plan is refused, the worker waits here until the step stops it.
    approval = pipe.receive(msg.PlanApproval)
    pipe.begin()
    claim_names(plan, shown, context)
    losses = named(finding for model in facts.models for finding in lost_values(model))
    promotion = Promotion(plan, shown, context, tuple(losses), approval.interrupted)
    with lost_grants_reported(plan, shown, context), promotion.explained():
        beside_runs = BesideRuns(context, shown, runs, promotion, approval.interrupted, gained)
        replace_apply(context, beside_runs.apply)
        try:
            apply_approved(context, plan, approval)
        except Exception:
            if promotion.is_finished:  # a statement of `after_all` has failed: the next attempt finds nothing changed
                _try_to_compare(request, approval, context)
            raise
        _compare(request, approval, context)
    if went_on := beside_runs.event():
        pipe.send(went_on)
    return msg.EvaluationFinished("success")


def _try_to_compare(request: msg.PlanRequest, approval: msg.PlanApproval, context: PlanContext) -> None:
    """Compare after an error, which has to be the one that ends the job. The statement may have broken more."""
    try:
        _compare(request, approval, context)
    except Exception as error:  # noqa: BLE001  # any driver's
        lost = f"The data that prod shows was not recorded, because it could not be read: {describe_error(error)}"
        context.tracker.pipe.log("warning", lost)


def _compare(request: msg.PlanRequest, approval: msg.PlanApproval, context: PlanContext) -> None:
    """Send the data that prod shows and Dagster has not recorded."""
    pipe, known = context.tracker.pipe, context.known.tables
    environment = stored_environment(request.project, request.environment, context)
    found = compare(approval.records, environment, context)
    tables = ComputedTables(pipe, context.snapshot_evaluator, found.index, lambda _: request.job.count_rows)
    compared = found.event(found.coverages(context, now_timestamp(), known, context.waiting.unready), tables.count)
    pipe.send(replace(compared, reads=known.reads_of(environment)))
