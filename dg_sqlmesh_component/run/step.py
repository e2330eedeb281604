"""The step: selection -> request -> events -> outcomes -> results, and one Failure at the end.

The step is the run's coordinator: whatever was selected becomes one `Context.run` in one worker.
Results are yielded while SQLMesh is still at work; what SQLMesh did is known from events alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Generator, Iterator, Mapping, Set
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeAlias

import dagster as dg

from dg_sqlmesh_component.config.project import SQLMeshProject
from dg_sqlmesh_component.config.retries import Retries
from dg_sqlmesh_component.config.run_config import (
    SQLMeshRunConfig,
    chosen_environment,
    config_of_run,
    refuse_what_does_nothing,
)
from dg_sqlmesh_component.dagster_internals import (
    PlannedStep,
    assets_of_run,
    awaited_outputs,
    is_only_step,
    is_part_of_backfill,
    released_output,
    repeats_failed_assets,
    with_steps_downstream,
)
from dg_sqlmesh_component.definitions.op import PROJECT_TAG
from dg_sqlmesh_component.definitions.project_assets import PARTITIONED, ProjectAssets
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.errors import DeclarationError, SQLMeshComponentError, StatementError, StoppedError
from dg_sqlmesh_component.protocol.formatting import block, counted, listed
from dg_sqlmesh_component.protocol.manifest import DEFAULT_LIMITS
from dg_sqlmesh_component.run.cancellation import Interruption
from dg_sqlmesh_component.run.check_history import CheckHistory, EarlierResult, last_evaluations
from dg_sqlmesh_component.run.outcomes import AuditOnlyOutcome, Ledger, NodeOutcome, Outcome
from dg_sqlmesh_component.run.planned_step import refuse_what_was_not_planned
from dg_sqlmesh_component.run.recorder import told_checks
from dg_sqlmesh_component.run.results import Reporter, not_evaluated, rows, unapplied_change
from dg_sqlmesh_component.worker_process.requests import serving
from dg_sqlmesh_component.worker_process.worker import CUT_OFF_GRACE_SECONDS, FINISH_GRACE_SECONDS, Worker


@dataclass(frozen=True)
class StepOptions:
    """What the declaration says about every run.

    Attributes:
        allowed_environments: Patterns of environments that a run may name instead of the declared one.
        concurrent_tasks: How many batches at once; None for the project's own setting.
        count_rows: Whether to count the rows of each executed model's table.
        query_characters: How much is kept of the query of an audit that was evaluated.
        retries: Further attempts after transient errors; None for no further attempt.
        overlap_timeout: Seconds to wait for another run on the same state.
        environment_timeout: Seconds to wait for a plan that is updating the environment.
        record_unchanged: Whether each model that had nothing to do is observed; if not, its checks are left out too
            where the run has no other step.
        owned: The models that are assets of any component of the code location, by fqn.
    """

    allowed_environments: tuple[str, ...] = ()
    concurrent_tasks: int | None = None
    count_rows: bool = False
    query_characters: int = DEFAULT_LIMITS.characters
    retries: Retries | None = None
    overlap_timeout: float = 0.0
    environment_timeout: int = 1
    record_unchanged: bool = True
    owned: Set[str] = frozenset()


def execute_step(
    context: dg.AssetExecutionContext, project: SQLMeshProject, assets: ProjectAssets, options: StepOptions
) -> Iterator[Any]:
    """Run what the step selected and yield what came of it, parents before children.

    Yields:
        `MaterializeResult`, `AssetCheckResult`, `AssetObservation`, and for models that had nothing
        to do the bare step output that lets assets downstream of them run.

    Raises:
        dagster.Failure: At the end, when anything selected did not come out right.
        dagster.DagsterExecutionInterruptedError: At the end, when the step was told to end (SIGINT, SIGTERM).
    """
    try:
        refuse_what_was_not_planned(context)
        request = build_request(context, project, assets, options)
    except DeclarationError as error:
        yield from repeated_checks(context, "the run was refused", fails=True)
        raise dg.Failure(description=str(error), allow_retries=False) from None
    tags = run_tags(request)
    context.instance.add_run_tags(context.run.run_id, tags)
    context.log.info("SQLMesh runs: " + ", ".join(f"{name.split('/')[1]} {value}" for name, value in tags.items()))
    step = _Step(context, assets, request, options.retries, options.record_unchanged, options.owned)
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


def run_tags(request: msg.EvaluationRequest) -> dict[str, str]:
    """What the run was told, as tags of the run, by which runs can be found."""
    said = {
        "environment": request.environment,
        "ignore_cron": "true" if request.ignore_cron else None,
        "start": request.start,
        "end": request.end,
        "skip_janitor": None if request.skip_janitor else "false",
    }
    return {f"sqlmesh/{name}": value for name, value in said.items() if value is not None}


def build_request(
    context: dg.AssetExecutionContext, project: SQLMeshProject, assets: ProjectAssets, options: StepOptions
) -> msg.EvaluationRequest:
    """What the step's selection means to SQLMesh.

    A selected asset is a model to run; its audits come with it. A selected check of an asset that is
    not selected is an audit to evaluate without running the model.

    Raises:
        DeclarationError: The run config says what cannot be done, or an asset has partitions.
    """
    for spec in context.assets_def.specs:  # `post_processing` may have given them some
        if spec.partitions_def is not None:
            raise DeclarationError(f"The asset {spec.key.to_user_string()} {PARTITIONED}")
    models = {assets.fqn_by_key[key] for key in context.selected_asset_keys}
    nodes = models | assets.audited_externals(models)
    standalone: set[str] = set()
    audit_only: set[str] = set()
    for check in told_checks(context):
        node = assets.node_by_check[check]
        if node in assets.standalone_audits and assets.fqn_by_key[check.asset_key] in models:
            standalone.add(node)
        elif node not in nodes:
            audit_only.add(node)
    standalone |= {name for name, reader in assets.unchecked_standalone_audits.items() if reader in models}
    config = _run_config(context)
    environment = chosen_environment(config, assets.manifest.environment, options.allowed_environments)
    # Of the whole run: a step of it that has only checks is given the config of the others.
    runs_models = not assets.fqn_by_key.keys().isdisjoint(assets_of_run(context))
    # What is repeated Dagster has chosen, and it gives that the config of the failed run.
    is_repeated = repeats_failed_assets(context.run)
    refuse_what_does_nothing(config, environment, runs_models=runs_models or is_repeated)
    return msg.EvaluationRequest(
        project=project.opening,
        environment=environment,
        models=tuple(fqn for fqn in assets.parents_first if fqn in nodes),
        standalone_audits=tuple(sorted(standalone)),
        audit_only={node: _uses(assets, node, context.selected_asset_check_keys) for node in sorted(audit_only)},
        execution_time=_run_started_at(context),
        external_models=frozenset(
            fqn for fqn in nodes | audit_only if fqn in assets.models and assets.models[fqn].is_external
        ),
        start=config.start,
        end=config.end,
        ignore_cron=config.ignore_cron,
        skip_janitor=config.skip_janitor,
        concurrent_tasks=options.concurrent_tasks,
        count_rows=options.count_rows,
        query_characters=options.query_characters,
        holder=f"Dagster run {context.run.run_id}",
        overlap_timeout=options.overlap_timeout,
        environment_timeout=options.environment_timeout,
        described_as=msg.DescribedAs(
            assets.manifest.gateway,
            None if project.opening.environment else assets.manifest.environment,
            frozenset(assets.specs),
            assets.read_beyond(models),
        ),
    )


def _uses(assets: ProjectAssets, node: str, selected: Set[dg.AssetCheckKey]) -> tuple[msg.AuditUse, ...]:
    """A node's audits as the local project has them, and which of them are selected."""
    return tuple(
        msg.AuditUse(
            use.name, use.args, use.position, is_requested=assets.check_by_audit.get((node, use.position)) in selected
        )
        for use in assets.audits_of(node)
    )


def _run_config(context: dg.AssetExecutionContext) -> SQLMeshRunConfig:
    """What the run was told; an overridden schema may know more than concerns us."""
    op = context.op_execution_context
    said = config_of_run(context.run.run_config, op.op_handle.name, op.op_def.name, op.op_config)
    return SQLMeshRunConfig(**{name: said[name] for name in SQLMeshRunConfig.model_fields if name in said})


def _run_started_at(context: dg.AssetExecutionContext) -> int:
    """The Dagster run's start, the same in all of its steps and processes, so that one run is one point in time."""
    record = context.instance.get_run_record_by_id(context.run.run_id)
    assert record is not None, "a step's own run is always on record"
    started = record.start_time or record.create_timestamp.timestamp()
    return int(started * 1000)


REFRESH = "dg utils refresh-defs-state"

NAMED_CHECKS = 3
"""How many of the checks without a result a line of the log names: after a first plan it is all of them."""

_End: TypeAlias = msg.EvaluationFinished | msg.RequestFailed | SQLMeshComponentError
"""How an attempt ended."""


@dataclass
class _Step:
    context: dg.AssetExecutionContext
    assets: ProjectAssets
    request: msg.EvaluationRequest
    retries: Retries | None
    record_unchanged: bool
    owned: Set[str]
    outcomes: list[NodeOutcome] = field(default_factory=list)
    audited: list[AuditOnlyOutcome] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    checked: set[dg.AssetCheckKey] = field(default_factory=set)
    unobserved: list[NodeOutcome] = field(default_factory=list)
    released: set[dg.AssetKey] = field(default_factory=set)
    unseen: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.interruption = Interruption(self._cancel)
        self._worker: Worker | None = None
        self._in_flight: tuple[str, ...] = ()
        self._cut_off: set[str] = set()
        self.ledger = Ledger([*self.request.models, *self.request.standalone_audits], self.request.audit_only)
        self.selected_checks = self.context.selected_asset_check_keys
        self.history = CheckHistory(self.context.instance, self.request.environment)
        is_declared = self.request.environment == self.assets.manifest.environment
        self.told_checks = told_checks(self.context) if is_declared else frozenset()
        self.reporter = Reporter(self.assets, self.told_checks, self.request.environment, self.request.execution_time)

    def run(self, project: SQLMeshProject) -> Iterator[Any]:
        attempt, end = 1, (yield from self._attempt(project, self.request))
        while remaining := self._worth_another(attempt, end):
            yield from self._report(self.ledger.pause(frozenset(remaining.models) | set(remaining.standalone_audits)))
            attempt += 1
            self._wait(attempt, end, remaining)
            if self.interruption.came:
                break
            failed_statement = _failed_statement(end)
            end = yield from self._attempt(project, remaining)
            if failed_statement and not _ran_statements(end):
                self.problems.append(failed_statement)
        yield from self._finish(end)
        self.problems += self.ledger.contradictions
        failure = self.reporter.failure(self.outcomes, self.audited, self.problems)
        # Dagster shows checks without a result as failed in a failed run; in a cancelled one, as skipped.
        if failure is not None and not self.interruption.came:
            yield from self._noted(self._checks_left_out())
            yield from self._noted(self._checks_not_evaluated())
            failure = self.reporter.failure(self.outcomes, self.audited, self.problems)
        if not self.reporter.is_declared:
            why = f"this run was in environment {self.request.environment}"
            yield from repeated_checks(self.context, why, fails=failure is not None)
        elif self.ledger.was_refused:
            yield from repeated_checks(self.context, "the run was refused", fails=True)
        yield from self._release_checks()
        self._log_unrecorded()
        self._log_backfill()
        if self.interruption.came:
            said = failure.description if failure and failure.description else "Everything was finished before."
            raise dg.DagsterExecutionInterruptedError(f"The run was cancelled. {said}")
        if failure is not None:
            raise failure

    # -- attempts ---------------------------------------------------------------------------------

    def _attempt(self, project: SQLMeshProject, request: msg.EvaluationRequest) -> Generator[Any, None, _End]:
        """One SQLMesh run; what became certain while it ran is reported."""
        try:
            with serving(project, request) as self._worker:
                if self.interruption.came:
                    self._worker.cancel()
                for event in self._worker:
                    event = self.retries.classify(event) if self.retries else event
                    if isinstance(event, (msg.EvaluationFinished, msg.RequestFailed)):
                        return event
                    self._tell(event)
                    yield from self._report(self.ledger.feed(event))
        except SQLMeshComponentError as error:
            return error  # the worker is gone or could not be started; what it finished is known and was reported
        raise AssertionError("a worker that ends without a last event raises")

    def _worth_another(self, attempt: int, end: _End) -> msg.EvaluationRequest | None:
        """The request of the next attempt; None when there is nothing to retry or no attempt left."""
        if self.retries is None or attempt > self.retries.max_retries or self.interruption.came:
            return None
        if isinstance(end, msg.EvaluationFinished):
            if end.status == "not_run":
                return None
            kept = self.ledger.worth_retrying(interruption_is_transient=False)
        elif _failed_statement(end):  # repeated behind the models that the next attempt computes
            kept = self.ledger.worth_retrying(interruption_is_transient=False)
        elif self.retries.is_transient(_message(end), end.is_transient):
            kept = self.ledger.worth_retrying(interruption_is_transient=True)
        else:
            return None
        kept -= self.assets.downstream_of(self.ledger.failed_for_good)  # SQLMesh would not know of the failure
        audit_only = self.ledger.open_audit_only
        if not kept and not audit_only:
            return None
        return replace(
            self.request,
            models=tuple(fqn for fqn in self.request.models if fqn in kept),
            standalone_audits=tuple(fqn for fqn in self.request.standalone_audits if fqn in kept),
            audit_only={node: self.request.audit_only[node] for node in audit_only},
        )

    def _wait(self, attempt: int, end: _End, remaining: msg.EvaluationRequest) -> None:
        assert self.retries is not None
        seconds = self.retries.delay_before(attempt)
        nodes = [*remaining.models, *remaining.standalone_audits, *remaining.audit_only]
        if isinstance(end, msg.EvaluationFinished) or (_failed_statement(end) and remaining.models):
            cause = "of transient errors."
        else:
            cause = f"of this: {_message(end)}"
        self.context.log.warning(
            f"Attempt {attempt} of {self.retries.max_retries + 1} follows in {seconds:.1f} seconds, because {cause} It "
            f"computes what is missing of {listed([self.assets.name(node) for node in nodes])}."
        )
        self.interruption.wait(seconds)

    def _cancel(self) -> None:
        """Called from a thread, at any time."""
        if self._worker is not None:
            self._worker.cancel()
        self.context.log.warning(
            "The run is being cancelled. SQLMesh is asked to finish the batches in flight and to start no other; after "
            f"{FINISH_GRACE_SECONDS:.0f} seconds their queries are cancelled, after {CUT_OFF_GRACE_SECONDS:.0f} more "
            "its process is killed."
        )

    def _finish(self, end: _End) -> Iterator[Any]:
        """Settle whatever the last attempt left open."""
        if self.interruption.came:
            self.reporter.running = self._cut_off
        if isinstance(end, msg.EvaluationFinished):
            yield from self._report(self.ledger.feed(end))
        elif isinstance(end, msg.RequestFailed):
            self.problems.append(end.message)
            yield from self._report(self.ledger.feed(end))
        elif isinstance(end, StoppedError):
            self.problems.append(self._stopped)
            yield from self._report(self.ledger.close(self._stopped))
        else:
            self.problems.append(str(end))
            yield from self._report(self.ledger.close("SQLMesh's process ended before it was done."))

    @property
    def _stopped(self) -> str:
        """What became of a cancelled run that did not end by itself."""
        running = listed([self.assets.name(node) for node in self._in_flight]) or "it"
        return (
            f"The run was cancelled. After {FINISH_GRACE_SECONDS:.0f} seconds the queries in flight were cancelled, "
            f"after {CUT_OFF_GRACE_SECONDS:.0f} more SQLMesh's process was ended, because {running} was still running."
        )

    # -- results ----------------------------------------------------------------------------------

    def _report(self, settled: list[NodeOutcome | AuditOnlyOutcome]) -> Iterator[Any]:
        yield from self._noted(self._told(settled))

    def _noted(self, results: Iterator[Any]) -> Iterator[Any]:
        for result in results:
            self._note(result)
            yield result

    def _note(self, result: Any) -> None:
        checks = [result] if isinstance(result, dg.AssetCheckResult) else []
        if isinstance(result, dg.MaterializeResult):
            checks = list(result.check_results)
        for check in checks:
            assert check.asset_key is not None and check.check_name is not None, "ours always say both"  # noqa: PT018
            self.checked.add(dg.AssetCheckKey(check.asset_key, check.check_name))

    def _release_checks(self) -> Iterator[Any]:
        """Let what waits for a blocking check without a result go on, where its asset is as it should be.

        What is downstream waits for the outputs of blocking checks too. An audit that was last evaluated outside of
        Dagster has no result to carry over: without this, Dagster would pass over what is downstream, or with
        `require_upstream_step_success: false` end with an error of its own.
        """
        fine = self.released | {
            self.assets.key(one.fqn)
            for one in self.outcomes
            if one.outcome is Outcome.EXECUTED and one.fqn in self.assets.specs
        }
        if not self._awaited:
            return
        for check in self.selected_checks - self.checked:
            if check.asset_key in fine and self.assets.checks[check].blocking:
                yield from self._release(self._output_by_check[check])

    @cached_property
    def _output_by_check(self) -> dict[dg.AssetCheckKey, str]:
        return {spec.key: output for output, spec in self.context.assets_def.check_specs_by_output_name.items()}

    def _release(self, output: str) -> Iterator[dg.DagsterEvent]:
        if output in self._awaited:
            yield released_output(self.context, output)

    def _held_back_by(self, waiting: NodeOutcome, output: str) -> bool:
        """Whether a waiting model holds back the steps that wait for it, which is logged: the run stays green.

        Steps of the same SQLMesh project go on: SQLMesh itself keeps back there what has to wait. But one output serves
        all that wait for it, or none.
        """
        own = self.context.op_execution_context.op_def.tags[PROJECT_TAG]
        awaiting = self._awaited.get(output, ())
        if all(step.tags.get(PROJECT_TAG) == own for step in awaiting):
            return False
        skipped = with_steps_downstream(self.context, [step.key for step in awaiting])
        assets = sorted({key.to_user_string() for step in skipped for key in step.assets})
        self.context.log.warning(
            f"{self.assets.name(waiting.fqn)} is waiting, so Dagster skips the steps that wait for it: "
            f"{listed([step.key for step in skipped])}. Not run because of that: {listed(assets)}."
        )
        return True

    @cached_property
    def _awaited(self) -> Mapping[str, tuple[PlannedStep, ...]]:
        """The outputs of this step that other steps of the run wait for, and which steps these are."""
        return awaited_outputs(self.context)

    def _told(self, settled: list[NodeOutcome | AuditOnlyOutcome]) -> Iterator[Any]:
        unchanged = [one for one in settled if isinstance(one, NodeOutcome) and self._keeps_results(one)]
        carried = self._last_results(unchanged)
        self.unseen |= self._computed_outside(settled)
        for one in settled:
            if isinstance(one, AuditOnlyOutcome):
                self.audited.append(one)
                self._log_audits(one)
                yield from self.reporter.audited(one)
            else:
                self.outcomes.append(one)
                yield from self._results(one, carried.get(one.fqn, {}))

    def _results(self, outcome: NodeOutcome, carried: dict[dg.AssetCheckKey, EarlierResult]) -> Iterator[Any]:
        self._log(outcome)
        self._log_audits(outcome)
        if outcome.again:
            return  # its output of the first pass stands; a failure of the second is in the Failure
        is_asset = outcome.fqn in self.assets.specs  # else a standalone audit or an external model
        if is_asset and not self.reporter.is_declared:
            yield self.reporter.observation(outcome)
        elif is_asset and outcome.outcome is Outcome.EXECUTED:
            yield self.reporter.materialization(outcome)
            return
        elif self.reporter.is_declared:
            yield from self._unexecuted(outcome, carried)
        if is_asset:
            yield from self._release_asset(outcome)

    def _unexecuted(self, outcome: NodeOutcome, carried: dict[dg.AssetCheckKey, EarlierResult]) -> Iterator[Any]:
        """Of a node of the declared environment that this run did not execute, or that is no asset."""
        if outcome.fqn in self.unseen:
            yield self.reporter.computed_outside(outcome)
        elif outcome.fqn in self.assets.specs and self._is_observed(outcome):
            yield self.reporter.observation(outcome)
        if not self._is_observed(outcome):
            self.unobserved.append(outcome)
        if self._is_observed(outcome) or not self._is_alone:
            yield from self._check_results(outcome, carried)

    def _is_observed(self, outcome: NodeOutcome) -> bool:
        return self.record_unchanged or outcome.outcome is not Outcome.UP_TO_DATE

    def _release_asset(self, outcome: NodeOutcome) -> Iterator[Any]:
        """Let what is downstream run, of a model that is as it should be and was not materialized in this run."""
        if outcome.outcome not in (Outcome.EXECUTED, Outcome.UP_TO_DATE, Outcome.WAITING):
            return
        key = self.assets.key(outcome.fqn)
        output = self.context.assets_def.get_output_name_for_asset_key(key)
        if outcome.outcome is Outcome.WAITING and self._held_back_by(outcome, output):
            return
        self.released.add(key)
        yield from self._release(output)

    def _computed_outside(self, settled: list[NodeOutcome | AuditOnlyOutcome]) -> set[str]:
        """The models that have nothing to do and data that no materialization on record is about."""
        found = {
            self.assets.key(one.fqn): one
            for one in settled
            if isinstance(one, NodeOutcome)
            and one.outcome is Outcome.UP_TO_DATE
            and one.computed
            and one.computed_at is not None
            and one.fqn in self.assets.specs
        }
        if not found or not self.reporter.is_declared:
            return set()
        unseen = {outcome.fqn for outcome in found.values()}
        for record in self.context.instance.get_asset_records(list(found)):
            last, outcome = record.asset_entry.last_materialization_record, found[record.asset_entry.asset_key]
            if last is not None and self.reporter.has_seen(last.asset_materialization, last.timestamp, outcome):
                unseen.discard(outcome.fqn)
        return unseen

    def _check_results(self, outcome: NodeOutcome, carried: dict[dg.AssetCheckKey, EarlierResult]) -> Iterator[Any]:
        """Of a node that is not materialized."""
        if outcome.fqn in self.assets.specs:
            yield from self.reporter.status_check(outcome)
        yield from self.reporter.audit_checks(outcome.fqn, outcome.audits)
        if outcome.outcome is Outcome.EXECUTED:
            yield from self.reporter.audits_that_did_not_run(outcome)
        yield from self.reporter.carried_over(outcome, carried)
        self.problems += self.reporter.known_failures(outcome, carried)

    @cached_property
    def _is_alone(self) -> bool:
        """Whether the run ends as this step does. A failure elsewhere makes checks without a result look failed."""
        return is_only_step(self.context)

    def _checks_not_evaluated(self) -> Iterator[Any]:
        """A warning for each audit without a result; a run that was refused has none of them."""
        for outcome in self.outcomes:
            yield from self.reporter.not_evaluated(outcome, self.checked)

    def _checks_left_out(self) -> Iterator[Any]:
        """The checks that `record_unchanged: false` has left out."""
        left_out = self.unobserved if self._is_alone else []
        carried = self._last_results(left_out)
        for outcome in left_out:
            yield from self._check_results(outcome, carried.get(outcome.fqn, {}))

    def _keeps_results(self, outcome: NodeOutcome) -> bool:
        """Whether the data is what it was before the run, so that what audits last said of it is said again."""
        if not self.reporter.is_declared:
            return False
        if outcome.outcome is Outcome.UP_TO_DATE:
            return self.record_unchanged or not self._is_alone
        return outcome.outcome is Outcome.WAITING

    def _last_results(self, unchanged: list[NodeOutcome]) -> dict[str, dict[dg.AssetCheckKey, EarlierResult]]:
        """The last known results of the selected audits of nodes that did not run, by node."""
        node_by_check = {check: outcome.fqn for outcome in unchanged for check in self._audit_checks_of(outcome.fqn)}
        if not node_by_check:
            return {}
        found: dict[str, dict[dg.AssetCheckKey, EarlierResult]] = {}
        for check, last in self.history.last_results(node_by_check).items():
            found.setdefault(node_by_check[check], {})[check] = last
        unknown = [
            check
            for outcome in unchanged
            for check in self._audit_checks_of(outcome.fqn)
            if not (result := found.get(outcome.fqn, {}).get(check)) or not self.reporter.holds(outcome, result)
        ]
        if unknown:
            names = [f"{check.asset_key.to_user_string()}:{check.name}" for check in unknown]
            self.context.log.info(
                f"Without a result in this run: {counted(len(unknown), 'audit')} of models that did not run. None is "
                "on record, or the data may have changed since. To evaluate audits now, execute their checks alone: "
                f"{listed(names, NAMED_CHECKS)}."
            )
        return found

    def _audit_checks_of(self, node: str) -> list[dg.AssetCheckKey]:
        return [check for check in self.assets.audit_checks.get(node, ()) if check in self.selected_checks]

    # -- the run's log ----------------------------------------------------------------------------

    def _log_unrecorded(self) -> None:
        """What would otherwise be said of each model: how many had nothing to do, and why."""
        reasons = Counter(one.reason for one in self.unobserved)
        if reasons:
            said = "; ".join(f"{count}: {reason}" for reason, count in reasons.most_common())
            nodes = self._counted([one.fqn for one in self.unobserved])
            self.context.log.info(f"Nothing to do: {nodes}. {said}.")

    def _log_backfill(self) -> None:
        """Dagster's backfills know of materializations only, and there is none of what had nothing to do."""
        if not is_part_of_backfill(self.context.run):
            return
        idle = {
            self.assets.name(one.fqn)
            for one in self.outcomes
            if one.outcome in (Outcome.UP_TO_DATE, Outcome.WAITING) and one.fqn in self.assets.specs
        }
        if idle:
            self.context.log.warning(
                "This run belongs to a backfill, which takes what was not materialized for failed, and starts nothing "
                f"downstream of it in other runs. Not executed here: {listed(sorted(idle))}. Launch what is "
                "downstream by itself."
            )

    def _tell(self, event: msg.Event) -> None:
        log = self.context.log
        if isinstance(event, msg.LogLine):
            log.log(level=event.level.upper(), msg=f"[{event.source}] {event.text}")
        elif isinstance(event, msg.EvaluationPlanned):
            batches = sum(map(len, event.batches.values()))
            nodes = self._counted([node for node, planned in event.batches.items() if planned])
            if batches:
                log.info(f"SQLMesh computes {counted(batches, 'batch', 'batches')} of {nodes}.")
        elif isinstance(event, msg.BatchesInFlight):
            self._in_flight = event.nodes
            self._cut_off.update(event.nodes)
        elif isinstance(event, msg.EnvironmentOpened):
            self._tell_differences(event)
            self._tell_unowned(event)
            if event.missing:
                log.warning(
                    f"Not promoted in environment {event.environment}: "
                    f"{counted(len(event.missing), 'requested model')}. To promote the project's files:"
                    f"{block(event.plan_command)}\n\n"
                    f"If the plan reports no changes, the manifest is stale. Refresh it:{block(REFRESH)}"
                )

    def _counted(self, nodes: Collection[str]) -> str:
        audits = sum(node in self.assets.standalone_audits for node in nodes)
        models = counted(len(nodes) - audits, "model")
        return f"{models} and {counted(audits, 'standalone audit')}" if audits else models

    def _tell_differences(self, event: msg.EnvironmentOpened) -> None:
        changed = [
            f"{self.assets.name(node)} ({change} changed)"
            for node, promoted in event.promoted.items()
            if (change := unapplied_change(self.assets, node, promoted))
        ]
        if changed:
            self.context.log.warning(
                f"Local files differ from environment {event.environment}. This run executes the promoted version of "
                f"{listed(changed)}. To promote the local files:{block(event.plan_command)}\n\n"
                f"If the plan reports no changes, the manifest is stale. Refresh it:{block(REFRESH)}"
            )

    def _tell_unowned(self, event: msg.EnvironmentOpened) -> None:
        """Once in a run: in the first of the steps that Dagster makes of one op."""
        op = self.context.op_execution_context
        unowned = [fqn.replace('"', "") for fqn in event.others if fqn not in self.owned]
        if unowned and op.op_handle.name == op.op_def.name:
            self.context.log.warning(
                f"Environment {event.environment} has promoted models that are not assets of any component in this "
                f"code location, so no Dagster run executes them: {listed(unowned)}. If their files were deleted, "
                f"promote that:{block(event.plan_command)}\n\nIf not, widen `select` in defs.yaml, add a component for "
                "their project, or run them with `sqlmesh run`."
            )

    def _log(self, outcome: NodeOutcome) -> None:
        """Failures, and what no materialization or observation says: each line is one more event to record."""
        if outcome.outcome.is_failure:
            self.context.log.error(self.reporter.sentence(outcome))
        elif outcome.outcome is Outcome.WAITING or outcome.fqn not in self.assets.specs:
            self.context.log.info(self.reporter.sentence(outcome))

    def _log_audits(self, outcome: NodeOutcome | AuditOnlyOutcome) -> None:
        """Results of audits that no check shows: of another environment, or whose check the run does not have."""
        if not self.reporter.is_declared:
            for line, audit in zip(self.reporter.audit_lines(outcome), outcome.audits):
                self.context.log.log(level="INFO" if audit.passed else "WARNING", msg=line)
        elif isinstance(outcome, NodeOutcome):
            self._log_unselected(outcome)

    def _log_unselected(self, outcome: NodeOutcome) -> None:
        """Failed audits whose check the run does not have, such as that of a table on another of its readers."""
        if all(audit.passed for audit in outcome.audits):
            return
        for check, audit in self.assets.check_of(outcome.fqn, outcome.audits).items():
            if not audit.passed and check not in self.told_checks:
                self.context.log.warning(
                    f"{self.assets.name(outcome.fqn)}: audit {audit.name} failed: {rows(audit.failing_rows)}. Its "
                    f"check {check.asset_key.to_user_string()}:{check.name} is not part of this step."
                )


def _failed_statement(end: _End) -> str | None:
    """What is said of a statement that failed behind the models."""
    return end.message if isinstance(end, msg.RequestFailed) and end.error == StatementError.__name__ else None


def _ran_statements(end: _End) -> bool:
    """Whether SQLMesh came to the statements behind the models in this attempt."""
    if isinstance(end, msg.EvaluationFinished):
        return end.status in ("success", "failure")
    return _failed_statement(end) is not None


def _message(end: msg.RequestFailed | SQLMeshComponentError) -> str:
    return f"{end.error}: {end.message}" if isinstance(end, msg.RequestFailed) else f"{type(end).__name__}: {end}"
