"""The step: selection -> request -> events -> outcomes -> results, and one Failure at the end.

The step is the run's coordinator: whatever was selected becomes one `Context.run` in one worker.
Results are yielded while SQLMesh is still at work; what SQLMesh did is known from events alone.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Set
from typing import Any

import dagster as dg

from dg_sqlmesh_component.config.attributes import Execution
from dg_sqlmesh_component.config.project import SQLMeshProject
from dg_sqlmesh_component.definitions.project_assets import ProjectAssets
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.errors import DeclarationError, SQLMeshComponentError, StoppedError
from dg_sqlmesh_component.protocol.formatting import listed
from dg_sqlmesh_component.run import retry_decision
from dg_sqlmesh_component.run.cancellation import Interruption
from dg_sqlmesh_component.run.check_history import CheckHistory, last_evaluations
from dg_sqlmesh_component.run.failure import failure_of
from dg_sqlmesh_component.run.outcomes import Ledger
from dg_sqlmesh_component.run.planned_step import refuse_what_was_not_planned
from dg_sqlmesh_component.run.recorder import told_checks
from dg_sqlmesh_component.run.request import build_request, run_tags
from dg_sqlmesh_component.run.results import Reporter, not_evaluated
from dg_sqlmesh_component.run.run_log import RunLog
from dg_sqlmesh_component.run.step_results import StepResults
from dg_sqlmesh_component.worker_process.requests import serving
from dg_sqlmesh_component.worker_process.worker import CUT_OFF_GRACE_SECONDS, FINISH_GRACE_SECONDS, Worker


def execute_step(
    context: dg.AssetExecutionContext,
    project: SQLMeshProject,
    assets: ProjectAssets,
    execution: Execution,
    *,
    count_rows: bool,
    query_characters: int,
    owned: Set[str],
) -> Iterator[Any]:
    """Run what the step selected and yield what came of it, parents before children.

    Args:
        count_rows: Whether to count the rows of each executed model's table.
        query_characters: How much is kept of the query of an audit that was evaluated.
        owned: The models that are assets of any component of the code location, by fqn.

    Yields:
        `MaterializeResult`, `AssetCheckResult`, `AssetObservation`, and for models that had nothing
        to do the bare step output that lets assets downstream of them run.

    Raises:
        dagster.Failure: At the end, when anything selected did not come out right.
        dagster.DagsterExecutionInterruptedError: At the end, when the step was told to end (SIGINT, SIGTERM).
    """
    try:
        refuse_what_was_not_planned(context)
        request = build_request(
            context, project, assets, execution, count_rows=count_rows, query_characters=query_characters
        )
    except DeclarationError as error:
        yield from repeated_checks(context, "the run was refused", fails=True)
        raise dg.Failure(description=str(error), allow_retries=False) from None
    tags = run_tags(request)
    context.instance.add_run_tags(context.run.run_id, tags)
    context.log.info("SQLMesh runs: " + ", ".join(f"{name.split('/')[1]} {value}" for name, value in tags.items()))
    step = _Step(context, assets, request, execution, owned)
    yield from step.interruption.guard(step.run(project))


def repeated_checks(context: dg.AssetExecutionContext, why: str, *, fails: bool) -> Iterator[Any]:
    """The last result of each check of a step that evaluates none of them.

    Dagster plans the checks of a run that it launches. Without an evaluation it shows them as skipped or, if the run
    fails, as failed without a reason.

    Args:
        why: Why it evaluates none, as a clause behind "because".
        fails: Whether the run fails, so that a check without an earlier result needs a reason too.
    """
    checks = told_checks(context)
    repeated = last_evaluations(context.instance, checks, why)
    yield from repeated.values()
    if fails:
        yield from (not_evaluated(check, f"Not evaluated: {why}.") for check in sorted(checks - repeated.keys()))


class _Step:
    """One request, in as many attempts as `execution.retries` allows, up to the one Failure."""

    def __init__(
        self,
        context: dg.AssetExecutionContext,
        assets: ProjectAssets,
        request: msg.EvaluationRequest,
        execution: Execution,
        owned: Set[str],
    ) -> None:
        self._context = context
        self._assets = assets
        self._request = request
        self._retries = execution.retries
        self.interruption = Interruption(self._cancel)
        self._worker: Worker | None = None
        self._in_flight: tuple[str, ...] = ()
        self._cut_off: set[str] = set()
        self._problems: list[str] = []
        self._ledger = Ledger([*request.models, *request.standalone_audits], request.audit_only)
        is_declared = request.environment == assets.manifest.environment
        checks = told_checks(context) if is_declared else frozenset()
        self._reporter = Reporter(assets, checks, request.environment, request.execution_time)
        self._log = RunLog(context, assets, self._reporter.wording, checks, owned)
        self._results = StepResults(
            context,
            assets,
            self._reporter,
            self._log,
            CheckHistory(context.instance, request.environment),
            record_unchanged=execution.record_unchanged,
        )

    def run(self, project: SQLMeshProject) -> Iterator[Any]:
        """Everything that the step yields, and its end."""
        yield from self._settle((yield from self._attempts(project)))
        self._problems += self._ledger.contradictions
        failure = self._failure()
        # Dagster shows checks without a result as failed in a failed run; in a cancelled one, as skipped.
        if failure is not None and not self.interruption.came:
            yield from self._results.fill_in()
            failure = self._failure()
        if not self._reporter.is_declared:
            why = f"this run was in environment {self._request.environment}"
            yield from repeated_checks(self._context, why, fails=failure is not None)
        elif self._ledger.was_refused:
            yield from repeated_checks(self._context, "the run was refused", fails=True)
        yield from self._results.release_checks()
        self._log.unrecorded(self._results.unobserved)
        self._log.backfill(self._results.outcomes)
        if self.interruption.came:
            said = failure.description if failure and failure.description else "Everything was finished before."
            raise dg.DagsterExecutionInterruptedError(f"The run was cancelled. {said}")
        if failure is not None:
            raise failure

    def _failure(self) -> dg.Failure | None:
        problems = [*self._problems, *self._results.known_failures]
        outcomes, audited = self._results.outcomes, self._results.audited
        return failure_of(self._reporter.wording, outcomes, audited, problems)

    # -- attempts ---------------------------------------------------------------------------------

    def _attempts(self, project: SQLMeshProject) -> Generator[Any, None, retry_decision.End]:
        """SQLMesh runs until nothing is worth another one; how the last one ended."""
        attempt, end = 1, (yield from self._attempt(project, self._request))
        while following := self._next_attempt(attempt, end):
            paused = frozenset(following.models) | set(following.standalone_audits)
            yield from self._results.report(self._ledger.pause(paused))
            attempt += 1
            self._wait(attempt, end, following)
            if self.interruption.came:
                break
            failed_statement = retry_decision.failed_statement(end)
            end = yield from self._attempt(project, following)
            if failed_statement and not retry_decision.ran_statements(end):
                self._problems.append(failed_statement)
        return end

    def _attempt(
        self, project: SQLMeshProject, request: msg.EvaluationRequest
    ) -> Generator[Any, None, retry_decision.End]:
        """One SQLMesh run; what became certain while it ran is reported."""
        try:
            with serving(project, request) as self._worker:
                if self.interruption.came:
                    self._worker.cancel()
                for event in self._worker:
                    event = self._retries.classify(event) if self._retries else event
                    if isinstance(event, (msg.EvaluationFinished, msg.RequestFailed)):
                        return event
                    if isinstance(event, msg.BatchesInFlight):
                        self._in_flight = event.nodes
                        self._cut_off.update(event.nodes)
                    self._log.event(event)
                    yield from self._results.report(self._ledger.feed(event))
        except SQLMeshComponentError as error:
            return error  # the worker is gone or could not be started; what it finished is known and was reported
        raise AssertionError("a worker that ends without a last event raises")

    def _next_attempt(self, attempt: int, end: retry_decision.End) -> msg.EvaluationRequest | None:
        if self._retries is None or attempt > self._retries.max_retries or self.interruption.came:
            return None
        return retry_decision.next_attempt(
            self._request, self._ledger, end, self._retries.is_transient, self._assets.downstream_of
        )

    def _wait(self, attempt: int, end: retry_decision.End, following: msg.EvaluationRequest) -> None:
        assert self._retries is not None
        seconds = self._retries.delay_before(attempt)
        nodes = [*following.models, *following.standalone_audits, *following.audit_only]
        self._context.log.warning(
            f"Attempt {attempt} of {self._retries.max_retries + 1} follows in {seconds:.1f} seconds, because "
            f"{retry_decision.cause(end, following)} It computes what is missing of "
            f"{listed(list(map(self._assets.name, nodes)))}."
        )
        self.interruption.wait(seconds)

    def _cancel(self) -> None:
        """Called from a thread, at any time."""
        if self._worker is not None:
            self._worker.cancel()
        self._context.log.warning(
            "The run is being cancelled. SQLMesh is asked to finish the batches in flight and to start no other; after "
            f"{FINISH_GRACE_SECONDS:.0f} seconds their queries are cancelled, after {CUT_OFF_GRACE_SECONDS:.0f} more "
            "its process is killed."
        )

    def _settle(self, end: retry_decision.End) -> Iterator[Any]:
        """Settle whatever the last attempt left open."""
        if self.interruption.came:
            self._reporter.wording.running = self._cut_off
        if isinstance(end, msg.EvaluationFinished):
            yield from self._results.report(self._ledger.feed(end))
        elif isinstance(end, msg.RequestFailed):
            self._problems.append(end.message)
            yield from self._results.report(self._ledger.feed(end))
        elif isinstance(end, StoppedError):
            self._problems.append(self._stopped)
            yield from self._results.report(self._ledger.close(self._stopped))
        else:
            self._problems.append(str(end))
            yield from self._results.report(self._ledger.close("SQLMesh's process ended before it was done."))

    @property
    def _stopped(self) -> str:
        """What became of a cancelled run that did not end by itself."""
        running = listed(list(map(self._assets.name, self._in_flight))) or "it"
        return (
            f"The run was cancelled. After {FINISH_GRACE_SECONDS:.0f} seconds the queries in flight were cancelled, "
            f"after {CUT_OFF_GRACE_SECONDS:.0f} more SQLMesh's process was ended, because {running} was still running."
        )
