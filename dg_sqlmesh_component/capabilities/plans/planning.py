"""One request that plans: what showing, applying and previewing a plan have in common."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NoReturn

import dagster as dg

from dg_sqlmesh_component.capabilities.plans import messages as msg
from dg_sqlmesh_component.capabilities.plans.affected import Affected, KeyReads, affected_assets, lineage_in
from dg_sqlmesh_component.capabilities.plans.digest import digest_of
from dg_sqlmesh_component.capabilities.plans.earlier_runs import keep_audits, with_way_back
from dg_sqlmesh_component.capabilities.plans.findings import named
from dg_sqlmesh_component.capabilities.plans.gate import Decision, Refusal, apply_config, refusals
from dg_sqlmesh_component.capabilities.plans.names import apply_job
from dg_sqlmesh_component.capabilities.plans.report import Origin, Planned, PlanReport
from dg_sqlmesh_component.capabilities.plans.report_file import begin_report, write_report
from dg_sqlmesh_component.capabilities.plans.report_markdown import markdown
from dg_sqlmesh_component.capabilities.plans.sentences import between_two_plans, grants_to_give
from dg_sqlmesh_component.config.attribute_types import Budget, selectors
from dg_sqlmesh_component.dagster_internals.steps import assets_of, log_step_metadata, repository_of
from dg_sqlmesh_component.definitions.settings import Settings
from dg_sqlmesh_component.history.costs import estimates
from dg_sqlmesh_component.protocol.errors import SQLMeshComponentError
from dg_sqlmesh_component.protocol.formatting import counted, listed, unquoted
from dg_sqlmesh_component.protocol.git import git
from dg_sqlmesh_component.protocol.intervals import merged
from dg_sqlmesh_component.report.failure import build_failure
from dg_sqlmesh_component.report.outcomes import NodeOutcome
from dg_sqlmesh_component.report.wording import Wording
from dg_sqlmesh_component.run.ledger import Ledger
from dg_sqlmesh_component.run.limits import not_estimated, over_budget
from dg_sqlmesh_component.run.run_log import RunLog
from dg_sqlmesh_component.worker_client.session import WorkerSession


class Planning:
    """One request, with its report. `advice` says what to do after a failure, as sentences."""

    def __init__(self, context: dg.OpExecutionContext, settings: Settings, report: PlanReport, advice: str) -> None:
        self._context = context
        self._settings = settings
        self._advice = advice
        self.wording = Wording(settings.assets, report.environment)
        self._log = RunLog(context, self.wording, set(), frozenset())
        self._ledger = Ledger(())
        models = settings.assets.models.values()
        upstream = {model.fqn: model.depends_on for model in models}
        report.upstream, report.origin = upstream, _origin(context, settings)
        self.report = report
        self.rounds: list[NodeOutcome] = []  # of computed or audited nodes, in order; some nodes have several
        self.went_on: msg.ConcurrentRuns | None = None  # what runs did meanwhile; None if they could do nothing
        self.left_out: msg.LeftOut | None = None  # what signals held back
        self.lost_grants: Sequence[str] = ()  # statements that give grants again which views have lost
        self.ended_at = 0.0  # of the worker's work. While a plan is applied, it holds the lock until the step ends.
        self.session = WorkerSession(context, settings.project)

    @property
    def tables(self) -> msg.AwaitedTables:
        """The tables that models wait for: those that the project's files read, because the plan promotes them."""
        awaited = self._settings.ports.awaited(self._context.instance, assets_of(self._context), self._settings)
        return replace(awaited.tables, are_all=True)

    def events(self, request: msg.PlanRequest) -> Iterator[msg.Event]:
        """Send the request, and yield the events that are about a plan or its data. The others are logged and noted.

        Raises:
            dagster.Failure: The request failed, or the report cannot be written.
            dagster.DagsterExecutionInterruptedError: The step was cancelled (SIGINT, SIGTERM).
        """
        # Nobody may take the report of an earlier job for that of a job which was killed.
        begin_report(self.report)
        for event in self.session.events(request):
            if isinstance(event, msg.ConcurrentRuns):
                self.went_on = event
            elif isinstance(event, msg.LeftOut):
                self.left_out = event
            elif isinstance(event, msg.GrantsLost):
                self.lost_grants = event.statements
            elif isinstance(event, (msg.PlanBuilt, msg.DataComparedWithRecords, msg.ModelCompared, msg.AuditsCompared)):
                yield event
            else:
                self._log.event(event)
                self._note_outcomes(event)
        self.ended_at = time.monotonic()
        if isinstance(self.session.end, msg.LastEvent):
            self._note_outcomes(self.session.end)
        if (error := self.session.error) is not None:
            self._fail([str(error)], type(error))
        if self._ledger.contradictions:
            self._fail([])

    def _note_outcomes(self, event: msg.Event) -> None:
        # SQLMesh also audits models whose audits alone have changed, and creates tables without computing them.
        if isinstance(event, msg.EvaluationPlanned):
            self._ledger.add(event.batches)
        elif isinstance(event, msg.NodeFailed):
            self._ledger.add([event.fqn])
        elif isinstance(event, msg.NodesBlocked):
            self._ledger.add(event.failed_upstream)
        self.rounds += [outcome for outcome in self._ledger.feed(event) if isinstance(outcome, NodeOutcome)]

    @property
    def outcomes(self) -> list[NodeOutcome]:
        """The outcome of each node, with what all rounds have computed, in the order of the last rounds."""
        outcomes: dict[str, NodeOutcome] = {}
        for outcome in self.rounds:
            before = outcomes.pop(outcome.fqn, None)
            outcomes[outcome.fqn] = outcome if before is None else _together(before, outcome)
        return list(outcomes.values())

    @property
    def earlier_rounds(self) -> list[NodeOutcome]:
        """The outcomes without the last one of each node."""
        last = {outcome.fqn: outcome for outcome in self.rounds}
        return [outcome for outcome in self.rounds if outcome is not last[outcome.fqn]]

    def affected(
        self, plan: msg.PlanBuilt, compared: Sequence[msg.ModelCompared] | None = None
    ) -> dict[str, Sequence[Affected]]:
        """As `affected_assets`, in this code location."""
        repository = repository_of(self._context)
        if repository is None:
            return {}
        graph = repository.asset_graph

        def lineage(key: dg.AssetKey) -> KeyReads | None:
            last = self._context.instance.get_latest_materialization_event(key)
            of_data = last.asset_materialization.metadata if last and last.asset_materialization else {}
            return lineage_in({**(graph.get(key).metadata if graph.has(key) else {}), **of_data})

        return affected_assets(plan, compared, self._settings.assets, graph, lineage)

    def estimated(self, plan: msg.PlanBuilt) -> tuple[dict[str, float], str | None]:
        """The estimated seconds of each model with a record, by fqn, and why they are over the budget."""
        computed = {model.fqn: model.rows.milliseconds for model in plan.models if model.rows.intervals}
        costs = estimates(self._context.instance, self._settings.assets, computed)
        without = [model.name for model in plan.models if model.rows.intervals and model.fqn not in costs]
        if without and self._settings.attributes.budget != Budget():
            self._context.log.info(not_estimated(without))
        excess = over_budget(self._settings.attributes.budget, costs.values())
        return {fqn: cost.seconds for fqn, cost in costs.items()}, excess

    def for_prod(self, plan: msg.PlanBuilt, decision: Decision) -> Planned:
        """The plan that the job which applies plans would apply by this decision."""
        plan = with_way_back(plan, self._context.instance, self._settings.state_tag)
        seconds, excess = self.estimated(plan)
        digest = digest_of(plan)
        project = self._settings.assets.names.by_fqn
        found = refusals(plan, decision, apply_job(self._settings), project, excess)
        if decision.digest and not any(refusal.kind in ("digest", "moved") for refusal in found):
            digest = decision.digest  # the approved one, from before the plan finished
        config = apply_config(digest, plan, decision, found, project)
        return Planned(plan, seconds, found, digest, self._apply_config(plan, config))

    def publish(self, headline: str) -> None:
        """Show the report on the step's page, log its refusals, and write it to the file that somebody asked for."""
        prod, shown = self.report.prod, self.report.shown
        metadata = {
            "sqlmesh/report": dg.MetadataValue.md(markdown(self.report, in_dagster=True)),
            "sqlmesh/plan_digest": dg.MetadataValue.text(shown.digest if shown else ""),
            "sqlmesh/plan_json": dg.MetadataValue.json(self.report.as_json()),
        }
        log_step_metadata(self._context, headline, metadata)
        self._context.log.info(headline)
        if shown and (unfinished := between_two_plans(shown.plan)):
            self._context.log.warning(unfinished)
        if prod and (lost := self.report.losses):
            self._context.log.warning(f"{prod.plan.environment.capitalize()} loses: {listed(named(lost))}.")
        for refusal in prod.refusals if prod and not self.report.is_apply else ():  # else the failure has them
            self._context.log.warning(f"Applying it would be refused ({refusal.kind}): {refusal.message}")
        write_report(self.report, self._context.log)

    def refuse(self, what: str) -> None:
        """End the step if the report has refusals."""
        if self.report.refusals:
            text = "\n\n".join(f"{refusal.kind}: {refusal.message}" for refusal in self.report.refusals)
            raise dg.Failure(f"The {what} was refused, and nothing was computed.\n\n{text}", allow_retries=False)

    def _apply_config(self, plan: msg.PlanBuilt, config: dict[str, object] | None) -> dict[str, object] | None:
        if (deploy := self._settings.attributes.deploy) is None or config is None:
            return None
        if plan.select != selectors(deploy.select):
            config["select"] = list(plan.select)
        return {"ops": {apply_job(self._settings): {"config": config}}}

    def end(self, result: str) -> None:
        """Log what the job has done, and write it into the report."""
        self.report.result = result
        self._log.end(self.outcomes)
        write_report(self.report, self._context.log)

    def cost(self, planned: Planned) -> str:
        """The number of computed models of an applied plan, with their estimated and actual seconds."""
        executed = sum(outcome.fqn in planned.computed for outcome in self.outcomes)
        text = f"Computed: {counted(executed, 'model')}."
        if estimated := planned.seconds:
            actual = sum(outcome.duration_ms for outcome in self.outcomes if outcome.fqn in estimated) / 1000
            text += (
                f" Estimated: {sum(estimated.values()):.2f} s, computed in {actual:.2f} s "
                f"({counted(len(estimated), 'model')} with an estimate)."
            )
        return text

    def _fail(self, problems: list[str], error: type[SQLMeshComponentError] | None = None) -> NoReturn:
        """Report the problems and raise them. While there is no plan, the error's class decides about a refusal."""
        end: dg.Failure | dg.DagsterExecutionInterruptedError | None
        problems = [*problems, *grants_to_give(self.lost_grants)]
        if self.session.is_cancelled:
            problems = ["The run was cancelled.", *problems]
            text = " ".join(problems)
            end = dg.DagsterExecutionInterruptedError(text)
        else:
            problems = [*problems, *self._ledger.contradictions]
            end = build_failure(self.wording, self.outcomes, problems, self._advice)
            assert end is not None, "there is a problem"
            text = f"Failed. {end.description}"
        keep_audits(self._context, self.rounds)
        if self.report.shown is None:
            kind = "error" if error is None else error.kind
            self.report.problems.append(Refusal(kind, (), "\n\n".join(problems)))
        else:
            names = {fqn: model.name for fqn, model in self.report.planned.items()}
            failed = [outcome.fqn for outcome in self.outcomes if outcome.outcome.rule.is_cause]
            self.report.problems.append(Refusal("error", tuple(names.get(fqn, unquoted(fqn)) for fqn in failed), text))
            self.report.result = text
        write_report(self.report, self._context.log)
        raise end


def _together(before: NodeOutcome, after: NodeOutcome) -> NodeOutcome:
    """The outcome of a model that a plan has computed in two rounds. The later one follows what runs did meanwhile.

    Its audits are those of the later round: `Checks` adds up the results of all rounds.
    """
    return replace(
        after,
        intervals=merged([*before.intervals, *after.intervals]),
        planned_batches=before.planned_batches + after.planned_batches,
        finished_batches=before.finished_batches + after.finished_batches,
        duration_ms=before.duration_ms + after.duration_ms,
        rows=None if before.rows is None or after.rows is None else before.rows + after.rows,
        bytes=None if before.bytes is None or after.bytes is None else before.bytes + after.bytes,
        is_second_outcome=False,
    )


def _origin(context: dg.OpExecutionContext, settings: Settings) -> Origin:
    run_id, web = context.run.run_id, settings.attributes.webserver_base_url
    commit = git(settings.project.paths[0], "rev-parse", "--short", "HEAD")
    return Origin(run_id, f"{web.rstrip('/')}/runs/{run_id}" if web else None, commit, int(time.time() * 1000))
