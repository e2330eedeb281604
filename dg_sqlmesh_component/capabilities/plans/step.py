"""One step that shows a plan, one that applies it, and one that takes back a plan which has not finished."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import dagster as dg

from dg_sqlmesh_component.capabilities.plans import messages as msg
from dg_sqlmesh_component.capabilities.plans.column_words import all_dropped
from dg_sqlmesh_component.capabilities.plans.earlier_runs import (
    DIGEST_TAG,
    PLAN_TAG,
    all_losses,
    applied_plans,
    earlier_attempts,
    kept_audits,
)
from dg_sqlmesh_component.capabilities.plans.findings import Kind, named
from dg_sqlmesh_component.capabilities.plans.gate import Decision, allowed_fqns, headline
from dg_sqlmesh_component.capabilities.plans.names import apply_job, plan_job
from dg_sqlmesh_component.capabilities.plans.planning import Planning
from dg_sqlmesh_component.capabilities.plans.report import Planned, PlanReport
from dg_sqlmesh_component.capabilities.plans.sentences import (
    appended_again,
    caught_up,
    grants_to_give,
    kept_rows,
    left_out,
    not_ready,
    outdated,
)
from dg_sqlmesh_component.dagster_internals.steps import DataVersions, assets_of
from dg_sqlmesh_component.definitions.op import NOT_SET
from dg_sqlmesh_component.definitions.settings import Settings
from dg_sqlmesh_component.history import repetition
from dg_sqlmesh_component.history.active_runs import (
    APPLIES_TAG,
    CHANGES_TAG,
    active_runs,
    interrupted_changes,
    mark_as_computing,
)
from dg_sqlmesh_component.history.check_results import last_results, results_of_same_data, with_named_outdated
from dg_sqlmesh_component.history.earlier_results import evaluation_of, repeated
from dg_sqlmesh_component.history.records import OutsideData, materialized_data, outside_data, recorded_data
from dg_sqlmesh_component.protocol.formatting import listed
from dg_sqlmesh_component.report.checks import Checks, Earlier, outdated_result
from dg_sqlmesh_component.report.intervals_check import outdated_sentence
from dg_sqlmesh_component.report.late_data import SourceLoads
from dg_sqlmesh_component.report.metadata import outcome_metadata, timestamp
from dg_sqlmesh_component.report.outcomes import NodeOutcome
from dg_sqlmesh_component.report.results import outside_materialization
from dg_sqlmesh_component.worker_client.session import WorkerSession


def execute_plan_step(context: dg.OpExecutionContext, settings: Settings) -> Iterator[Any]:
    """Build the plan and report it, with the reasons for which applying it would be refused.

    If the run config has a digest, apply the plan if it is the approved one and no rule refuses it.

    Raises:
        dagster.Failure: SQLMesh cannot build a plan; or the plan was refused, and nothing was computed; or it failed.
        dagster.DagsterExecutionInterruptedError: At the end, if the step was cancelled (SIGINT, SIGTERM).
    """
    config: dict[str, Any] = {key: of for key, of in context.op_config.items() if key != "take_back"}
    values: dict[str, Any] = {key: tuple(of) if isinstance(of, list) else of for key, of in config.items()}
    step = _PlanStep(context, settings, Decision(**values))
    yield from step.session.drive(step.run())


_ADVICE = (
    "If you change a file of the project, review the new plan: it has another digest. If you correct only data, "
    "launch this job again with the same run config. Finished intervals are not computed again."
)


class _PlanStep(Planning):
    """One request: it plans, and applies the plan if the decision has a digest."""

    def __init__(self, context: dg.OpExecutionContext, settings: Settings, decision: Decision) -> None:
        self._decision = decision
        self._applies = decision.digest is not None
        super().__init__(context, settings, PlanReport(settings.environment, is_apply=self._applies), _ADVICE)
        self._compared: msg.DataComparedWithRecords | None = None
        self._source_loads: SourceLoads | None = settings.ports.source_loads(
            context.instance, assets_of(context), settings
        )
        self._newest_loads: Mapping[dg.AssetKey, int] = {}  # before the plan has computed anything
        self._computing_since = 0

    def run(self) -> Iterator[Any]:
        """Yield the results of the step."""
        # A run that was launched again has copies of the first run's tags, which describe the plan of that run.
        copied = {tag: NOT_SET for tag in (DIGEST_TAG, PLAN_TAG) if tag in self._context.run.tags}
        self._context.instance.add_run_tags(self._context.run.run_id, copied)
        try:
            for event in self.events(self._request()):
                if isinstance(event, msg.PlanBuilt):
                    if (approval := self._answer(event)) is not None:
                        self.session.answer(approval)
                elif isinstance(event, msg.DataComparedWithRecords):
                    self._compared = event
        except (dg.Failure, dg.DagsterExecutionInterruptedError):
            if self._compared is not None and self.report.prod is not None:  # prod shows the plan
                yield from self._records(self.report.prod, self._compared)
            raise
        yield from self._end()
        yield dg.Output(None)

    def _request(self) -> msg.PlanRequest:
        settings = self._settings
        return msg.PlanRequest(
            settings.project.open_request,
            settings.environment,
            applies=self._applies,
            job=settings.job(self._context.run.run_id),
            sampling=settings.attributes.audits.sampling,
            tables=self.tables,
            select=self._decision.select,
        )

    def _answer(self, plan: msg.PlanBuilt) -> msg.PlanApproval | None:
        """Report the plan. If it is refused, the step ends here: the worker waits for an approval and is stopped."""
        assets = self._settings.assets
        self.report.prod = planned = self.for_prod(plan, self._decision)
        self.report.affected = self.affected(plan)
        tags = {DIGEST_TAG: planned.digest}
        if self._applies:
            tags |= {PLAN_TAG: plan.plan_id}
            tags |= {APPLIES_TAG: self._settings.state_tag, CHANGES_TAG: self._settings.changes_tag}
        self._context.instance.add_run_tags(self._context.run.run_id, tags)
        self.publish(f"{headline(plan)} Digest: {planned.digest}")
        if not self._applies:
            return None
        self.refuse("plan")
        state = self._settings.changes_tag
        self._computing_since = mark_as_computing(self._context.instance, self._context.run.run_id, state)
        # Before SQLMesh computes: it may not have read what is loaded from now on.
        if self._source_loads:
            self._newest_loads = self._source_loads.newest_awaited()
        records = materialized_data(self._context.instance, assets, assets.specs)
        interrupted = interrupted_changes(self._context.instance, self._settings.changes_tag, self._computing_since)
        allowed = allowed_fqns(plan, self._decision, assets.names.by_fqn)
        return msg.PlanApproval(allowed, msg.Records(records), interrupted)

    def _end(self) -> Iterator[Any]:
        if not self._applies:
            return
        planned = self.report.prod
        assert planned is not None, "a plan was applied"
        assert self._compared is not None, "SQLMesh has applied it"
        yield from self._records(planned, self._compared)
        result = " ".join(self._result(planned))
        self._context.log.info(result)
        self.end(result)

    def _result(self, planned: Planned) -> Iterator[str]:
        """What the apply has done, in sentences."""
        plan, settings = planned.plan, self._settings
        yield f"Applied: environment {settings.environment} shows the plan. {self.cost(planned)}"
        yield from self._lost(planned)
        yield from kept_rows(plan.models, settings.environment)
        yield from appended_again(plan.models)
        yield from outdated(plan.models)
        yield from left_out(plan.models)
        yield from not_ready(self.left_out)
        went_on = self.went_on
        if went_on is not None:  # runs also wait while this step records the data
            went_on = replace(went_on, seconds=went_on.seconds + time.monotonic() - self.ended_at)
        yield from caught_up(went_on, plan.models)
        yield from grants_to_give(self.lost_grants)

    def _lost(self, planned: Planned) -> Iterator[str]:
        """What this attempt and earlier ones have lost, in sentences."""
        plan, settings, run_id = planned.plan, self._settings, self._context.run.run_id
        attempts = earlier_attempts(
            self._context.instance, apply_job(settings), settings.state_tag, planned.digest, run_id
        )
        if attempts:
            yield f"Earlier attempts: {listed([f'run {attempt}' for attempt in attempts])}."
        losses = all_losses(attempts.values(), plan)
        if lost := [f"{name} ({all_dropped(columns)})" for name, columns in losses.items()]:
            yield f"Values are lost: {listed(lost)}."
        later = {model.fqn for model in plan.models if model.rows.loses_at}
        if fewer := named(of for of in self.report.losses if of.kind is Kind.ROWS and of.fqn not in later):
            yield f"Rows no longer shown, if it had such rows: {listed(fewer)}."
        if emptied := [name for name, columns in losses.items() if any(c.after is not None for c in columns)]:
            yield f"To compute the values of the added columns again, restate {listed(emptied)}."

    def _records(self, planned: Planned, data: msg.DataComparedWithRecords) -> Iterator[Any]:
        """Record the data of the promoted versions, once, and the results of the audits that SQLMesh has evaluated."""
        instance, assets, plan = self._context.instance, self._settings.assets, planned.plan
        compared = [of_model for of_model in data.unrecorded if of_model.fqn in assets.specs]
        computed, coverages = planned.computed, {of_model.fqn: of_model.coverage for of_model in compared}
        outcomes = {outcome.fqn: replace(outcome, coverage=coverages.get(outcome.fqn)) for outcome in self.outcomes}
        models = dict.fromkeys([*coverages, *(fqn for fqn in outcomes if fqn in assets.specs)])
        recorded = recorded_data(instance, assets, models)
        others = [run for run in active_runs(instance, self._settings) if run.run_id != self._context.run.run_id]
        found, left_to_runs = outside_data(compared, with_named_outdated(instance, assets, recorded, compared), others)
        if left_to_runs:
            self._context.log.info(f"Left to a run that has not finished: {listed(left_to_runs)}.")
        left = {model.fqn: model.rows.outdated_for_good for model in plan.models if model.rows.outdated_for_good}
        by_model = {data.fqn: data.with_outdated(left.get(data.fqn, ())) for data in found}
        checks = Checks(self.wording, self._computing_since)
        earlier, kept = self._earlier_results(checks, plan, recorded)
        upstream = {spec.key: {dep.asset_key for dep in spec.deps} for spec in assets.specs.values()}
        versions = DataVersions(instance, upstream.__getitem__)
        for fqn in assets.parents_first:
            if fqn in by_model:
                outcome = outcomes.get(fqn) if fqn in computed else None
                # First: after the next materialization, Dagster does not show them any more.
                repeated_results = list(results_of_same_data(instance, assets, by_model[fqn]))
                yield self._materialization(by_model[fqn], outcome, versions, plan)
            if fqn in outcomes and fqn in assets.specs:
                # A model that was only audited was not executed.
                reported = assets.checks_of(fqn) if fqn in computed else assets.audit_checks.get(fqn, ())
                yield from checks.evaluations(reported, outcomes[fqn], earlier)
                yield from self._late_data(outcomes[fqn], data.reads)
            elif fqn in by_model:
                yield from checks.evaluations(assets.checks_of(fqn), by_model[fqn])
                yield from repeated_results
                why = "a preview or an earlier attempt has audited the table that the plan has promoted"
                for check in filter(kept.__contains__, assets.audit_checks.get(fqn, ())):
                    yield evaluation_of(repeated(check, kept[check], why, kept[check].metadata))
        for fqn, outcome in outcomes.items():
            if fqn not in assets.specs:  # a standalone audit, or an external table
                yield from checks.evaluations(assets.checks_of(fqn), outcome)
        for fqn in left.keys() - outcomes.keys() - by_model.keys():
            if (of_intervals := assets.intervals_check(fqn)) is not None:
                text = outdated_sentence(assets.name(fqn), left[fqn])
                yield evaluation_of(outdated_result(of_intervals, left[fqn], text))
        yield from self._observations(plan)

    def _earlier_results(
        self, checks: Checks, plan: msg.PlanBuilt, recorded: Mapping[str, msg.RecordedData | None]
    ) -> tuple[Earlier, Earlier]:
        """What audits had found, by check, before the last round of the plan; and the kept results among it.

        A table that the plan has replaced does not count.
        """
        instance, settings, run_id = self._context.instance, self._settings, self._context.run.run_id
        versions = {model.fqn: model.rows.audited.version for model in plan.models if model.rows.audited is not None}
        same = [fqn for fqn, data in recorded.items() if data and versions.get(fqn, data.version) == data.version]
        audits = [check for fqn in same for check in settings.assets.audit_checks.get(fqn, ())]
        known = last_results(instance, audits, settings.environment)
        found = checks.added_up(kept_audits(instance, settings.changes_tag, plan.models), {})
        kept = {check: of for check, of in found.items() if repetition.is_newer_result(of, known.get(check))}
        earlier = known | kept
        rounds = [(run_id, outcome) for outcome in self.earlier_rounds]
        return earlier | checks.added_up(rounds, earlier), kept

    def _late_data(
        self, outcome: NodeOutcome, reads_of: Mapping[str, msg.PromotedReads]
    ) -> Iterator[dg.AssetCheckEvaluation]:
        """The check for late data, if a source was loaded while the plan computed a model."""
        check, reads = self._settings.assets.late_data_check(outcome.fqn), reads_of.get(outcome.fqn)
        if self._source_loads is None or check is None or reads is None:
            return
        newest = self._newest_loads
        if result := self._source_loads.result_of_plan(self.wording, check, reads, outcome.intervals, newest):
            yield evaluation_of(result)

    def _observations(self, plan: msg.PlanBuilt) -> Iterator[dg.AssetObservation]:
        """One of each model that keeps the rows of another definition. No materialization says so."""
        for model in plan.models:
            if model.rows.kept and model.fqn in self._settings.assets.specs:
                [sentence] = kept_rows([model], plan.environment)
                metadata: dict[str, Any] = {
                    "sqlmesh/plan_id": plan.plan_id,
                    "sqlmesh/next_due": timestamp(model.rows.kept.due),
                }
                key = self._settings.assets.key(model.fqn)
                yield dg.AssetObservation(key, f"Plan {plan.plan_id} has changed {model.name}. {sentence}", metadata)

    def _materialization(
        self, data: OutsideData, outcome: NodeOutcome | None, versions: DataVersions, plan: msg.PlanBuilt
    ) -> dg.AssetMaterialization:
        of_outcome = outcome_metadata(self.wording, outcome) if outcome else {}
        by_plan = f"by plan {plan.plan_id} of job {apply_job(self._settings)}"
        # A plan creates changed views again without computing a batch.
        is_new = outcome is not None or (data.intervals and data.computed_at >= self._computing_since)
        origin = f"computed {by_plan}" if is_new else f"promoted {by_plan}; computed before"
        data = replace(data, columns=outcome.columns if outcome else data.columns)
        return outside_materialization(self._settings.assets, data, versions, of_outcome, origin)


def execute_apply_step(context: dg.OpExecutionContext, settings: Settings) -> Iterator[Any]:
    """As `execute_plan_step`. With `take_back`, show what the environment showed before a plan that has not finished.

    Raises:
        dagster.Failure: As there; or the run config is wrong, or the plan cannot be taken back.
        dagster.DagsterExecutionInterruptedError: At the end, if the step was cancelled (SIGINT, SIGTERM).
    """
    config: dict[str, Any] = context.op_config
    if config["take_back"] == ("digest" in config):
        raise dg.Failure(
            f"Nothing was done. Write `digest` in the run config, from {plan_job(settings)}; or, to take back a plan "
            "that has not finished, `take_back: true` without a digest.",
            allow_retries=False,
        )
    if not config["take_back"]:
        yield from execute_plan_step(context, settings)
        return
    session = WorkerSession(context, settings.project)
    yield from session.drive(_take_back(context, settings, session))


def _take_back(context: dg.OpExecutionContext, settings: Settings, session: WorkerSession) -> Iterator[Any]:
    instance = context.instance
    request = msg.TakeBackRequest(
        settings.project.open_request,
        settings.environment,
        plans=applied_plans(instance, settings.state_tag),
        interrupted=interrupted_changes(instance, settings.changes_tag, int(time.time() * 1000)),
        job=settings.job(context.run.run_id),
    )
    session.last_event(request, msg.EvaluationFinished)
    yield dg.Output(None)
