"""A dry run: the step shows what a run of its selection would do now, and why. It computes and records nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import dagster as dg

from dg_sqlmesh_component.capabilities.dry_run.messages import DryRunRequest
from dg_sqlmesh_component.capabilities.dry_run.prediction import (
    Prediction,
    predicted,
    prediction_line,
    prediction_log,
    prediction_metadata,
)
from dg_sqlmesh_component.capabilities.restatements.step import refuse_restatement
from dg_sqlmesh_component.dagster_internals.steps import log_step_metadata
from dg_sqlmesh_component.definitions.awaited import Awaited
from dg_sqlmesh_component.definitions.ports import DryRun
from dg_sqlmesh_component.definitions.settings import Settings
from dg_sqlmesh_component.history.check_results import last_results
from dg_sqlmesh_component.history.costs import RecordedCost, estimates
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.errors import REFUSALS, ConfigurationError, SQLMeshComponentError
from dg_sqlmesh_component.protocol.formatting import block
from dg_sqlmesh_component.protocol.graph import grouped
from dg_sqlmesh_component.report.outcomes import NodeOutcome, Outcome
from dg_sqlmesh_component.report.wording import Wording
from dg_sqlmesh_component.run.ledger import Ledger
from dg_sqlmesh_component.run.limits import over_budget
from dg_sqlmesh_component.run.request import bounds_of, limits_of
from dg_sqlmesh_component.run.run_log import RunLog
from dg_sqlmesh_component.worker_client.session import WorkerSession


def predict(
    context: dg.AssetExecutionContext,
    settings: Settings,
    request: msg.EvaluationRequest,
    awaited: Awaited,
    session: WorkerSession,
) -> None:
    """Show what a run would do: in the log, and as metadata of the step.

    A refusal is an answer too: the step succeeds and names it, so that no asset turns red.

    Raises:
        dagster.Failure: There is no answer. For example, a signal has raised an error.
        dagster.DagsterExecutionInterruptedError: The step was cancelled (SIGINT, SIGTERM).
    """
    wording = Wording(settings.assets, request.environment, sources=awaited.sources, bounds=bounds_of(request))
    try:
        log = RunLog(context, wording, set(), settings.owned)
        limits = limits_of(context, settings)
        refuse_restating = partial(refuse_restatement, settings, limits, log=log)
        outcomes = _outcomes_if_all_succeed(request, session, log, awaited, refuse_restating)
    except REFUSALS as refusal:
        log_step_metadata(context, "Dry run", {"sqlmesh/refusal": dg.MetadataValue.text(str(refusal))})
        context.log.error(f"Dry run: a run would be refused, and nothing would be computed.{block(str(refusal))}")
        return
    except SQLMeshComponentError as error:
        raise dg.Failure(description=f"The dry run has no result. {error}", allow_retries=False) from None
    costs = estimates(context.instance, settings.assets, _computed(outcomes))
    predictions = _predictions(context.instance, wording, outcomes, costs)
    excess = over_budget(settings.attributes.budget, costs.values())
    if excess and request.restate is None:
        context.log.warning(f"Dry run: a run would be refused without `over_budget: true` in its run config. {excess}")
    line = prediction_line(wording, predictions)
    context.log.info(prediction_log(line, predictions))
    log_step_metadata(context, line, prediction_metadata(predictions))


def _outcomes_if_all_succeed(
    request: msg.EvaluationRequest,
    session: WorkerSession,
    log: RunLog,
    awaited: Awaited,
    refuse_restating: Callable[[msg.RestatementPlanned], str | None],
) -> list[NodeOutcome]:
    """The outcomes of a run in which each planned batch finishes.

    Raises:
        SQLMeshComponentError: A run would be refused, or there is no answer.
        dagster.DagsterExecutionInterruptedError: The step was cancelled.
    """
    ledger = Ledger([*request.models, *request.standalone_audits])
    outcomes: list[NodeOutcome] = []
    errors: list[str] = []
    for event in session.events(request):
        if not isinstance(event, msg.EvaluationPlanned):  # the predictions say more
            log.event(event)
        if isinstance(event, msg.StateLocked):
            session.answer(msg.Records())
        elif isinstance(event, msg.OtherTablesFound):
            session.answer(awaited.answer(event))
        elif isinstance(event, msg.RestatementPlanned):
            ledger.leave_out(event.left_out)
            ledger.add([*event.added, *event.only_pending])
            if why := refuse_restating(event):
                raise ConfigurationError(why)
            session.answer(msg.GoAhead())
        elif isinstance(event, msg.NodeFailed):  # its signal has raised it
            errors.append(block(event.message))
        elif isinstance(event, msg.EvaluationPlanned) and event.batches:
            session.answer(msg.GoAhead())
        for assumed in _as_if_finished(event):
            outcomes += [settled for settled in ledger.feed(assumed) if isinstance(settled, NodeOutcome)]
    if session.is_cancelled:
        raise dg.DagsterExecutionInterruptedError("The run was cancelled.")
    if session.error is not None:
        raise type(session.error)(f"{session.error}{''.join(errors)}")
    assert isinstance(session.end, msg.EvaluationFinished), "it was asked to evaluate"
    return outcomes + [settled for settled in ledger.feed(session.end) if isinstance(settled, NodeOutcome)]


def _as_if_finished(event: msg.Event) -> Iterable[msg.Event]:
    yield event
    if isinstance(event, msg.EvaluationPlanned):
        for fqn, batches in event.batches.items():
            for index, interval in enumerate(batches):
                yield msg.BatchFinished(fqn, index, interval, duration_ms=0, rows=None, bytes=None)


def _computed(outcomes: Sequence[NodeOutcome]) -> dict[str, int]:
    """The length of what a run would compute of each model, in milliseconds."""
    return {
        outcome.fqn: sum(end - start for start, end in outcome.intervals)
        for outcome in outcomes
        if outcome.outcome is Outcome.EXECUTED
    }


def _predictions(
    instance: dg.DagsterInstance, wording: Wording, outcomes: Sequence[NodeOutcome], costs: Mapping[str, RecordedCost]
) -> list[Prediction]:
    """The predictions, parents first and standalone audits last."""
    assets = wording.assets
    failed = _failed_audits(instance, wording, list(_computed(outcomes)))
    downstream = {fqn: assets.downstream_of([fqn]) for fqn in failed}
    position = {fqn: number for number, fqn in enumerate(assets.parents_first)}

    return [
        predicted(
            wording,
            outcome,
            costs[outcome.fqn].seconds if outcome.fqn in costs else None,
            failed.get(outcome.fqn, ()),
            [fqn for fqn, models in downstream.items() if outcome.fqn in models],
        )
        for outcome in sorted(outcomes, key=lambda outcome: position.get(outcome.fqn, len(position)))
    ]


def _failed_audits(instance: dg.DagsterInstance, wording: Wording, nodes: Sequence[str]) -> dict[str, list[str]]:
    """The checks of blocking audits that failed when they were last evaluated, by node."""
    checks = {check: node for node in nodes for check in wording.assets.audit_checks.get(node, ())}
    last = last_results(instance, checks.keys(), wording.environment)
    return grouped((checks[check], check.name) for check, result in last.items() if result.is_blocking_failure)


DRY_RUN = DryRun(DryRunRequest, predict)
