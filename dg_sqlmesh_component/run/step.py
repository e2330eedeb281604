"""One Dagster step: it requests one SQLMesh run, yields results while it works, and may end with one Failure.

All selected assets and checks become one `Context.run` in one worker process. The outcomes come from the worker's
events alone.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Set
from dataclasses import replace
from functools import partial
from typing import Any

import dagster as dg

from dg_sqlmesh_component.dagster_internals.steps import JobOfAssets, assets_of
from dg_sqlmesh_component.definitions.awaited import Awaited
from dg_sqlmesh_component.definitions.settings import Settings
from dg_sqlmesh_component.history.active_runs import mark_as_computing
from dg_sqlmesh_component.history.check_results import last_evaluations, shown_evaluations
from dg_sqlmesh_component.history.earlier_results import not_evaluated
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.errors import ERRORS_BY_NAME, REFUSALS, ConfigurationError, StoppedError
from dg_sqlmesh_component.protocol.formatting import counted
from dg_sqlmesh_component.report.checks import Checks
from dg_sqlmesh_component.report.failure import build_failure
from dg_sqlmesh_component.report.outcomes import AuditOnlyOutcome, NodeOutcome, Outcome
from dg_sqlmesh_component.report.wording import Wording, correction_advice, killed, not_cancelled
from dg_sqlmesh_component.run import retry_decision
from dg_sqlmesh_component.run.ledger import Ledger
from dg_sqlmesh_component.run.request import (
    awaited_by,
    bounds_of,
    build_request,
    limits_of,
    refuse_changed_step,
    reported_checks,
    run_tags,
)
from dg_sqlmesh_component.run.run_log import RunLog
from dg_sqlmesh_component.run.step_records import StepRecords
from dg_sqlmesh_component.run.step_results import StepResults
from dg_sqlmesh_component.worker_client.session import WorkerSession
from dg_sqlmesh_component.worker_client.worker import CUT_OFF_GRACE_SECONDS, FINISH_GRACE_SECONDS

_REFUSED = "the run was refused"


def execute_step(context: dg.AssetExecutionContext, settings: Settings) -> Iterator[Any]:
    """Run the step's selection and yield its results, parents before children.

    Yields:
        `MaterializeResult`, `AssetCheckResult` and `AssetObservation`. For a model that had nothing to do: a step
        output that lets downstream assets run.

    Raises:
        dagster.Failure: At the end, if a selected asset or check failed.
        dagster.DagsterExecutionInterruptedError: At the end, if the step was cancelled (SIGINT, SIGTERM).
    """
    try:
        refuse_changed_step(context)
        awaited = awaited_by(context, settings)
        request = build_request(context, settings, awaited.tables)
    except ConfigurationError as error:
        yield from repeated_checks(context, _REFUSED, fails=True)
        description = "\n".join([str(error), *shown_as_failed(context)])
        raise dg.Failure(description=description, allow_retries=False) from None
    tags = run_tags(request, context.run.tags, ignores_sources=not awaited.waits)
    context.instance.add_run_tags(context.run.run_id, tags)
    context.log.info("SQLMesh runs: " + ", ".join(f"{name.split('/')[1]} {value}" for name, value in tags.items()))
    dry_run = settings.ports.dry_run
    if dry_run is not None and isinstance(request, dry_run.request):
        session = WorkerSession(context.op_execution_context, settings.project)
        predict = partial(dry_run.predict, context, settings, request, awaited, session)
        yield from session.drive(_dry_run(context, predict))
        return
    step = _Step(context, settings, request, awaited)
    yield from step.session.drive(step.run())


def _dry_run(context: dg.AssetExecutionContext, predict: Callable[[], None]) -> Iterator[Any]:
    """Predict, and yield the last result of each check."""
    why = "this was a dry run"
    try:
        predict()
    except dg.Failure:
        yield from repeated_checks(context, why, fails=True)
        raise
    yield from repeated_checks(context, why, fails=False)


def repeated_checks(
    context: dg.AssetExecutionContext, why: str, *, fails: bool, reported: Set[dg.AssetCheckKey] = frozenset()
) -> Iterator[Any]:
    """The last result of each check that has none (`reported`), for a step that evaluates none of them.

    Dagster plans the checks of a run that it launches, except of a job of ops. If a check has no evaluation, Dagster
    shows it as skipped or, if the run fails, as failed without a reason. So, if the run fails, a check without an
    earlier result gets a reason too: `why`, a clause after "because". Otherwise, a skipped check stays skipped.
    """
    checks = reported_checks(context) - reported
    if isinstance(context, JobOfAssets):
        return
    if not fails:
        yield from shown_evaluations(context.instance, checks, why, context.run.run_id).values()
        return
    repeated = last_evaluations(context.instance, checks, why, context.run.run_id)
    yield from repeated.values()
    yield from (not_evaluated(check, f"{why}.") for check in sorted(checks - repeated.keys()))


def shown_as_failed(context: dg.AssetExecutionContext) -> list[str]:
    """What Dagster shows of the assets of a run that fails before it computes anything. A job of ops plans none."""
    number = 0 if isinstance(context, JobOfAssets) else len(context.selected_asset_keys)
    if not number:
        return []
    return [
        "Until the next successful run of the same assets, Dagster's lineage graph and catalog show "
        f"{counted(number, 'asset')} of this run as failed."
    ]


class _Step:
    """One request, in as many attempts as `execution.retries` allows, and at most one Failure."""

    def __init__(
        self, context: dg.AssetExecutionContext, settings: Settings, request: msg.EvaluationRequest, awaited: Awaited
    ) -> None:
        op, assets = context.op_execution_context, settings.assets
        self._context, self._settings, self._assets = context, settings, assets
        self.session = WorkerSession(op, settings.project)
        self._request = request
        self._retries = settings.attributes.execution.retries
        self._limits = limits_of(context, settings)
        self._computing_since: int | None = None
        self._only_pending: frozenset[str] = frozenset()  # as in `RestatementPlanned`
        self._left_out: frozenset[str] = frozenset()  # as in `RestatementPlanned`
        self._not_cancelled: msg.QueriesNotCancelled | None = None
        self._problems: list[str] = []
        self._ledger = Ledger([*request.models, *request.standalone_audits], request.audit_only)
        self._plan_command: str | None = None
        self._awaited = awaited
        history_url = settings.attributes.query_history_url
        bounds = bounds_of(request)
        self._wording = wording = Wording(assets, request.environment, history_url, awaited.sources, bounds)
        source = settings.ports.source_loads(context.instance, assets_of(op), settings) if wording.is_declared else None
        self._records = StepRecords(context, settings, wording, self._ledger.is_up_to_date, source)
        checks = set(reported_checks(context)) if wording.is_declared else set()
        self._log = RunLog(context, wording, checks, settings.owned)
        of_checks = Checks(wording, request.execution_time)
        self._results = StepResults(context, settings.attributes, of_checks, self._records, self._log, checks)

    def run(self) -> Iterator[Any]:
        """Yield all results of the step, then raise if it failed or was cancelled.

        The last worker holds the lock on the SQLMesh state until Dagster has stored all results.
        """
        failure = yield from self._results_until_failure()
        self.session.close()
        if self.session.is_cancelled:
            finished = failure.description if failure and failure.description else "Everything had finished by then."
            raise dg.DagsterExecutionInterruptedError(f"The run was cancelled. {finished}")
        if failure is not None:
            raise failure

    def _results_until_failure(self) -> Generator[Any, None, dg.Failure | None]:
        end = yield from self._attempts()
        yield from self._settle(end)
        yield from self._records.record_remaining_outside_data()
        self._problems += [*self._ledger.contradictions, *self._restated_none()]
        failure = self._failure()
        # Dagster shows checks without a result as failed in a failed run, and as skipped in a cancelled run.
        if failure is not None and not self.session.is_cancelled:
            yield from self._results.fill_in()
            # Again: a repeated check may be a failure that fails the run.
            failure = self._failure()
        if not self._wording.is_declared:
            why = f"this run was in environment {self._request.environment}"
            yield from repeated_checks(self._context, why, fails=failure is not None)
        elif self._ledger.never_began:
            why = _why_never_began(end, is_cancelled=self.session.is_cancelled)
            yield from repeated_checks(self._context, why, fails=True, reported=self._results.reported)
        if failure is None:
            yield from self._results.release.left_out(self._left_out)
        yield from self._results.release.checks_without_a_result(self._results.reported)
        self._log.nothing_to_do(self._results.unobserved)
        self._log.backfill(self._results.outcomes)
        self._log.end(self._results.outcomes)
        return failure

    def _restated_none(self) -> list[str]:
        """Why a run of a backfill fails although no model has failed: its bar would say that the range is restated."""
        if not isinstance(self._context, JobOfAssets):
            return []
        selected = {self._assets.fqn_by_key[key] for key in self._context.selected_asset_keys} - self._only_pending
        outcomes = {outcome.fqn: outcome.outcome for outcome in self._results.outcomes if outcome.fqn in selected}
        if set(outcomes.values()) != {Outcome.WAITING}:
            return []
        return [
            f"All selected models are waiting, so nothing was restated: {self._wording.names(list(outcomes))}. Their "
            "intervals are pending: a run computes them as soon as they are ready."
        ]

    def _failure(self) -> dg.Failure | None:
        reported: list[NodeOutcome | AuditOnlyOutcome] = [*self._results.outcomes, *self._results.audited]
        problems = [*self._problems, *self._results.known_failures]
        if problems and self._ledger.never_began and not self.session.is_cancelled:
            problems += shown_as_failed(self._context)
        advice = correction_advice(self._plan_command)
        return build_failure(self._wording, reported, problems, advice, self._records.materialized_outside)

    # -- attempts ---------------------------------------------------------------------------------

    def _attempts(self) -> Generator[Any, None, retry_decision.End]:
        """Run SQLMesh until no retry helps. Return the end of the last attempt."""
        attempt, end = 1, (yield from self._attempt(self._request))
        while following := self._next_attempt(attempt, end):
            retried = self._retried(following)
            yield from self._results.report(self._ledger.settle_except(retried))
            attempt += 1
            self._wait(attempt, end, following)
            if self.session.is_cancelled:
                break
            self._ledger.pause(retried)
            failed_statement = retry_decision.failed_statement(end)
            end = yield from self._attempt(following)
            # If this attempt did not reach the statements of `after_all`, the earlier failure still stands.
            if failed_statement and not retry_decision.ran_statements(end):
                self._problems.append(failed_statement)
        return end

    def _attempt(self, request: msg.EvaluationRequest) -> Generator[Any, None, retry_decision.End]:
        """Run SQLMesh once and report each node as soon as it is settled. The worker stays open."""
        for event in self.session.events(request):
            event = self._retries.classify(event) if self._retries else event
            if refusal := self._answer(event):
                return msg.RequestFailed(ConfigurationError.__name__, refusal)
            self._log.event(event)
            if isinstance(event, msg.DataComparedWithRecords):
                self._records.note_outside_data(event.unrecorded, self._computing_since)
            yield from self._results.report(self._ledger.feed(event))
        end = self.session.end
        if isinstance(end, msg.RequestFailed) and self._retries:
            end = self._retries.classify(end)
        assert isinstance(end, retry_decision.End), "it was asked to evaluate"
        return end

    def _answer(self, event: msg.Event) -> str | None:
        """Give the worker the answer that it waits for. Return why the planned intervals are not computed."""
        answer: msg.Answer | None = None
        refusal = None
        match event:
            case msg.StateLocked():
                answer = self._recorded(event.reads)
            case msg.OtherTablesFound():
                answer = self._awaited.answer(event)
            case msg.RestatementPlanned():
                self._plan_restatement(event)
                assert self._settings.ports.restating is not None, "its request was sent"
                refusal = self._settings.ports.restating.refuse(self._settings, self._limits, event, self._log)
                answer = msg.GoAhead()
            # Without batches, it says that SQLMesh starts over, and the worker does not wait.
            case msg.EvaluationPlanned() if event.batches:
                answer = msg.GoAhead(self._results.unaudited(event.earlier_rows, self._ledger.computed))
                refusal = self._limits.refuse_run(event, self._log) if self._request.restate is None else None
            case msg.NodesUpToDate():
                idle = [found for fqn in event.nodes if (found := self._ledger.idle(fqn)) is not None]
                answer = msg.AuditsWanted(self._results.audits_to_evaluate(idle))
            case msg.QueriesNotCancelled():
                self._not_cancelled = event
            case msg.EnvironmentOpened():
                self._plan_command = event.plan_command
        if answer is not None and refusal is None:
            self.session.answer(answer)
        return refusal

    def _recorded(self, reads: Mapping[str, msg.PromotedReads]) -> msg.Records:
        """What Dagster has recorded. The run gets a tag: data that is computed from now on is this run's."""
        instance, run = self._context.instance, self._context.run
        # Once: another attempt must not take what the first one has computed for the data of somebody else.
        if self._computing_since is None:
            self._computing_since = mark_as_computing(instance, run.run_id, self._settings.changes_tag)
        if not self._wording.is_declared:
            return msg.Records()
        requested = {*self._request.models, *self._request.audit_only}
        added = self._assets.downstream_of(requested) if self._request.restate else set()
        models = self._assets.with_upstream(requested | added)
        return msg.Records(self._records.read(models), self._records.compare_loads(requested | added, reads))

    def _plan_restatement(self, planned: msg.RestatementPlanned) -> None:
        """Report models that SQLMesh adds to a restatement like the requested ones."""
        self._ledger.leave_out(planned.left_out)
        self._ledger.add([*planned.added, *planned.only_pending])  # one that is left out may be pending
        self._only_pending = frozenset(planned.only_pending)
        self._left_out |= planned.left_out.keys() - self._only_pending
        others = {*planned.left_out, *self._only_pending}
        models = dict.fromkeys([*self._request.models, *planned.added])
        left = tuple(fqn for fqn in models if fqn not in others)
        elsewhere = self._request.elsewhere.union(self._request.models).difference(left)
        self._request = replace(self._request, models=left, elsewhere=elsewhere)
        self._results.select_checks_of(planned.added)

    def _next_attempt(self, finished_attempts: int, end: retry_decision.End) -> msg.EvaluationRequest | None:
        if self._retries is None or finished_attempts > self._retries.max_retries or self.session.is_cancelled:
            return None
        return retry_decision.next_attempt(
            self._request, self._ledger, end, self._retries.is_transient, self._assets.downstream_of
        )

    def _retried(self, following: msg.EvaluationRequest) -> frozenset[str]:
        """The nodes of an attempt. SQLMesh adds pending models upstream of those that it restates."""
        pending = {fqn: self._assets.downstream_of([fqn]) for fqn in self._only_pending}
        added = [fqn for fqn, downstream in pending.items() if not downstream.isdisjoint(following.models)]
        return frozenset([*following.models, *following.standalone_audits, *added])

    def _wait(self, attempt: int, end: retry_decision.End, following: msg.EvaluationRequest) -> None:
        assert self._retries is not None
        seconds = self._retries.delay_before(attempt)
        sentences = retry_decision.announcement(end, following, self._assets.name)
        attempts = f"Attempt {attempt} of {self._retries.max_retries + 1}"
        self._context.log.warning(f"{attempts} starts in {seconds:.1f} seconds, because {sentences}")
        self.session.wait(seconds)

    # -- the end ----------------------------------------------------------------------------------

    def _settle(self, end: retry_decision.End) -> Iterator[Any]:
        """Report the nodes that are open after the last attempt."""
        if self.session.is_cancelled:
            self._ledger.cancel()
        if isinstance(end, msg.RequestFailed):
            self._problems.append(end.message)
        if isinstance(end, msg.LastEvent):
            settled = self._ledger.feed(end)
        elif isinstance(end, StoppedError):
            seconds = FINISH_GRACE_SECONDS + CUT_OFF_GRACE_SECONDS
            stopped = killed(self._assets, seconds, self._ledger.running)
            if self._not_cancelled is not None:
                stopped += f" {not_cancelled(self._assets, self._not_cancelled)}"
            self._problems.append(stopped)
            settled = self._ledger.close(stopped)
        else:
            self._problems.append(str(end))
            if running := self._wording.names(self._ledger.running):
                self._problems.append(f"Running when it ended: {running}.")
            settled = self._ledger.close("SQLMesh's process ended before it was done.")
        yield from self._results.report(settled)


def _why_never_began(end: retry_decision.End, *, is_cancelled: bool) -> str:
    """Why SQLMesh computed and audited nothing, as a clause after "because"."""
    if is_cancelled:
        return "the run was cancelled before SQLMesh computed or audited anything"
    error = ERRORS_BY_NAME.get(end.error) if isinstance(end, msg.RequestFailed) else type(end)
    is_refusal = error is not None and issubclass(error, REFUSALS)
    return _REFUSED if is_refusal else "the run failed before SQLMesh computed or audited anything"
