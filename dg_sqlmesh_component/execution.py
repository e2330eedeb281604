"""The step: selection -> request -> events -> outcomes -> results, and one Failure at the end.

The step is the run's coordinator: whatever was selected becomes one `Context.run` in one worker.
Results are yielded while SQLMesh is still at work; what SQLMesh did is known from events alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import dagster as dg
from dagster._core.events import DagsterEvent
from dagster._core.execution.plan.outputs import StepOutputData, StepOutputHandle

from . import events as e
from .errors import SQLMeshComponentError
from .outcomes import AuditOnlyOutcome, Ledger, NodeOutcome, Outcome
from .project import SQLMeshProject
from .reporting import CarriedResult, Reporter, listed, unapplied_change
from .translator import STATUS_CHECK, ProjectAssets


def execute_step(context: dg.AssetExecutionContext, project: SQLMeshProject, assets: ProjectAssets) -> Iterator[Any]:
    """Run what the step selected and yield what came of it, parents before children.

    Yields:
        `MaterializeResult`, `AssetCheckResult`, `AssetObservation`, and for models that had nothing
        to do the bare step output that lets assets downstream of them run.

    Raises:
        dagster.Failure: At the end, when anything selected did not come out right.
    """
    request = build_request(context, project, assets)
    step = _Step(context, assets, request)
    yield from step.run(project)


def build_request(
    context: dg.AssetExecutionContext, project: SQLMeshProject, assets: ProjectAssets
) -> e.EvaluationRequest:
    """What the step's selection means to SQLMesh.

    A selected asset is a model to run; its audits come with it. A selected check of an asset that is
    not selected is an audit to evaluate without running the model.
    """
    models = {assets.fqn_by_key[key] for key in context.selected_asset_keys}
    standalone: set[str] = set()
    audit_only: set[str] = set()
    for check in context.selected_asset_check_keys:
        node = assets.standalone_by_check.get(check) or assets.fqn_by_key[check.asset_key]
        if node in assets.standalone_audits:
            beside = assets.fqn_by_key[check.asset_key] in models
            (standalone if beside else audit_only).add(node)
        elif node not in models:
            audit_only.add(node)
    return e.EvaluationRequest(
        project=project.opening,
        environment=assets.manifest.environment,
        models=tuple(fqn for fqn in assets.parents_first if fqn in models | assets.audited_externals(models)),
        standalone_audits=tuple(sorted(standalone)),
        audit_only=tuple(sorted(audit_only)),
        execution_time=_run_started_at(context),
    )


def _run_started_at(context: dg.AssetExecutionContext) -> int:
    """The Dagster run's start, the same in all of its steps and processes, so that one run is one point in time."""
    record = context.instance.get_run_record_by_id(context.run.run_id)
    assert record is not None, "a step's own run is always on record"
    started = record.start_time or record.create_timestamp.timestamp()
    return int(started * 1000)


@dataclass
class _Step:
    context: dg.AssetExecutionContext
    assets: ProjectAssets
    request: e.EvaluationRequest
    outcomes: list[NodeOutcome] = field(default_factory=list)
    audited: list[AuditOnlyOutcome] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ledger = Ledger([*self.request.models, *self.request.standalone_audits], self.request.audit_only)
        self.reporter = Reporter(self.assets, self.context.selected_asset_check_keys, self.request.execution_time)

    def run(self, project: SQLMeshProject) -> Iterator[Any]:
        try:
            with project.request(self.request) as events:
                for event in events:
                    self._tell(event)
                    yield from self._report(self.ledger.feed(event))
        except SQLMeshComponentError as error:
            # The worker is gone or could not be started. What it finished is known and was reported.
            self.problems.append(str(error))
            yield from self._report(self.ledger.close("SQLMesh's process ended before it was done."))
        self.problems += self.ledger.contradictions
        failure = self.reporter.failure(self.outcomes, self.audited, self.problems)
        if failure is not None:
            raise failure

    # -- results ----------------------------------------------------------------------------------

    def _report(self, settled: list[NodeOutcome | AuditOnlyOutcome]) -> Iterator[Any]:
        carried = self._last_results([one for one in settled if isinstance(one, NodeOutcome) and _unchanged(one)])
        for one in settled:
            if isinstance(one, AuditOnlyOutcome):
                self.audited.append(one)
                yield from self.reporter.audited(one)
            else:
                self.outcomes.append(one)
                yield from self._results(one, carried.get(one.fqn, {}))

    def _results(self, outcome: NodeOutcome, carried: dict[dg.AssetCheckKey, CarriedResult]) -> Iterator[Any]:
        self._log(outcome)
        if outcome.again:
            return  # its output of the first pass stands; a failure of the second is in the Failure
        reporter = self.reporter
        if outcome.fqn not in self.assets.specs:  # a standalone audit or an external model: no asset of ours
            yield from reporter.audit_checks(outcome.fqn, outcome.audits)
            yield from reporter.carried_over(outcome.fqn, carried)
        elif outcome.outcome is Outcome.EXECUTED:
            yield reporter.materialization(outcome)
        else:
            yield reporter.observation(outcome)
            yield from reporter.status_check(outcome)
            yield from reporter.audit_checks(outcome.fqn, outcome.audits)
            yield from reporter.carried_over(outcome.fqn, carried)
            if outcome.outcome is Outcome.UP_TO_DATE:
                yield released_output(self.context, self.assets.key(outcome.fqn))

    def _last_results(self, unchanged: list[NodeOutcome]) -> dict[str, dict[dg.AssetCheckKey, CarriedResult]]:
        """The last known results of the selected audits of nodes that did not run, by node."""
        node_by_check = {check: outcome.fqn for outcome in unchanged for check in self._audit_checks_of(outcome.fqn)}
        if not node_by_check:
            return {}
        records = self.context.instance.event_log_storage.get_asset_check_summary_records(list(node_by_check))
        found: dict[str, dict[dg.AssetCheckKey, CarriedResult]] = {}
        for check, summary in records.items():
            last = summary.last_completed_check_execution_record
            evaluation = last.event.asset_check_evaluation if last and last.event else None
            if last is not None and evaluation is not None:
                found.setdefault(node_by_check[check], {})[check] = _carried(last, evaluation)
        unknown = [check for check in node_by_check if check not in found.get(node_by_check[check], {})]
        if unknown:
            self.context.log.info(
                f"{len(unknown)} audits of models that did not run have no result to carry over: SQLMesh evaluated "
                "them outside of Dagster. Execute their checks alone to evaluate them here: "
                + ", ".join(listed([f"{check.asset_key.to_user_string()}:{check.name}" for check in unknown]))
            )
        return found

    def _audit_checks_of(self, node: str) -> list[dg.AssetCheckKey]:
        return [
            check
            for check in self.context.selected_asset_check_keys
            if check.name != STATUS_CHECK
            and (self.assets.standalone_by_check.get(check, self.assets.fqn_by_key[check.asset_key]) == node)
        ]

    # -- the run's log ----------------------------------------------------------------------------

    def _tell(self, event: e.Event) -> None:
        log = self.context.log
        if isinstance(event, e.LogLine):
            log.log(level=event.level.upper(), msg=f"[{event.source}] {event.text}")
        elif isinstance(event, e.RequestFailed):
            self.problems.append(event.message)
        elif isinstance(event, e.EvaluationPlanned):
            batches = sum(map(len, event.batches.values()))
            log.info(f"SQLMesh computes {batches} batches of {len(event.batches)} models and audits.")
        elif isinstance(event, e.EnvironmentOpened):
            self._tell_differences(event)

    def _tell_differences(self, event: e.EnvironmentOpened) -> None:
        changed = [
            f"{self.assets.name(node)} ({change})"
            for node, promoted in event.promoted.items()
            if (change := unapplied_change(self.assets, node, promoted))
        ]
        if changed:
            self.context.log.warning(
                f"The local files differ from what environment {event.environment} has promoted, which is what "
                f"runs: {', '.join(listed(changed))}. To promote the local files: {event.plan_command}"
            )

    def _log(self, outcome: NodeOutcome) -> None:
        if outcome.outcome.is_failure:
            self.context.log.error(self._sentence(outcome))
        else:
            self.context.log.info(self._sentence(outcome))

    def _sentence(self, outcome: NodeOutcome) -> str:
        return self.reporter.sentence(outcome)


def _unchanged(outcome: NodeOutcome) -> bool:
    """Whether the data is what it was before the run, so that what audits last said of it still holds."""
    return outcome.outcome in (Outcome.UP_TO_DATE, Outcome.WAITING)


def _carried(record: Any, evaluation: dg.AssetCheckEvaluation) -> CarriedResult:
    """A result that was itself carried over keeps the run in which it was evaluated."""
    metadata = evaluation.metadata
    if "sqlmesh/carried_over" in metadata:
        run_id = str(metadata["sqlmesh/evaluated_in_run"].value)
        evaluated_at = float(metadata["sqlmesh/evaluated_at"].value)  # type: ignore[arg-type]
    else:
        # The record's own time is that of its planning.
        run_id, evaluated_at = record.run_id, record.event.timestamp
    return CarriedResult(evaluation.passed, evaluation.severity, run_id, evaluated_at)


def released_output(context: dg.AssetExecutionContext, key: dg.AssetKey) -> DagsterEvent:
    """The step output of an asset without a materialization: what is downstream of it may run.

    Dagster has no public way to say so. Without it, healthy assets downstream of a model that had
    nothing to do would be passed over, and a retried run would end green without ever refreshing them.
    Held in place by tests/upstream.
    """
    step_context = context.op_execution_context.get_step_execution_context()
    output = context.assets_def.get_output_name_for_asset_key(key)
    return DagsterEvent.step_output_event(
        step_context=step_context,
        step_output_data=StepOutputData(
            step_output_handle=StepOutputHandle(step_key=step_context.step.key, output_name=output)
        ),
    )
