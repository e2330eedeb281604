"""One step that creates or updates a preview and compares it with prod, and one that deletes it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import dagster as dg

from dg_sqlmesh_component.capabilities.janitor.job import JanitorStep
from dg_sqlmesh_component.capabilities.plans import messages as msg
from dg_sqlmesh_component.capabilities.plans.data_tables import differs
from dg_sqlmesh_component.capabilities.plans.earlier_runs import keep_audits
from dg_sqlmesh_component.capabilities.plans.gate import Decision, Refusal, headline, preview_refusals
from dg_sqlmesh_component.capabilities.plans.messages import ClosePreviewRequest
from dg_sqlmesh_component.capabilities.plans.planning import Planning
from dg_sqlmesh_component.capabilities.plans.report import Planned, PlanReport
from dg_sqlmesh_component.capabilities.plans.report_file import begin_report, write_report
from dg_sqlmesh_component.capabilities.plans.sentences import caught_up, not_ready
from dg_sqlmesh_component.definitions.settings import Settings
from dg_sqlmesh_component.history.active_runs import CHANGES_TAG, interrupted_changes, mark_as_computing
from dg_sqlmesh_component.protocol.errors import ConfigurationError
from dg_sqlmesh_component.protocol.formatting import counted, listed

PREVIEW_TAG = "sqlmesh/preview"
"""Tag of a run: the environment that it previews or closes."""

_ADVICE = "Correct the files of the project, and launch this job again. Finished intervals are not computed again."


def show_preview(context: dg.OpExecutionContext, settings: Settings) -> Iterator[Any]:
    """Create or update the environment of the pull request, and report how its data differs from prod.

    Raises:
        dagster.Failure: The preview was refused, and nothing was computed; or it failed.
        dagster.DagsterExecutionInterruptedError: At the end, if the step was cancelled (SIGINT, SIGTERM).
    """
    step = _PreviewStep(context, settings, _required_environment(context, settings))
    yield from step.session.drive(step.run())


def close_preview(context: dg.OpExecutionContext, settings: Settings) -> Iterator[Any]:
    """Delete the environment of the pull request, with everything that only it uses.

    Raises:
        dagster.Failure: Something could not be deleted.
        dagster.DagsterExecutionInterruptedError: At the end, if the step was cancelled (SIGINT, SIGTERM).
    """
    environment = _required_environment(context, settings)
    context.instance.add_run_tags(context.run.run_id, {PREVIEW_TAG: environment})
    request = ClosePreviewRequest(settings.project.open_request, environment, job=settings.job(context.run.run_id))
    step = JanitorStep(context, settings.project, request, f"the deletion of the preview {environment}")
    report = PlanReport(environment, is_preview=True)
    begin_report(report)
    try:
        for result in step.session.drive(step.run()):
            is_open = step.end is not None and environment in step.end.environments
            report.result = f"Deleted the preview {environment}." if is_open else f"There is no preview {environment}."
            yield result
    except (dg.Failure, dg.DagsterExecutionInterruptedError) as error:
        text = error.description if isinstance(error, dg.Failure) else str(error)
        report.problems.append(Refusal("error", (), text or ""))
        write_report(report, context.log)
        raise
    write_report(report, context.log)


def _required_environment(context: dg.OpExecutionContext, settings: Settings) -> str:
    """The name of the preview. If it is not known, the report says why, and the step fails."""
    assert settings.attributes.preview is not None, "only these jobs need it"
    configured, named = settings.attributes.preview.environment, context.op_config.get("environment")
    try:
        name = configured.named(named) if named else configured.required()
        if name == settings.environment:
            raise ConfigurationError(f"{name} is the environment of the component itself, so it is no preview.")
        return name
    except ConfigurationError as error:
        refused = Refusal("unset_variable", (), str(error))
        write_report(PlanReport("", is_preview=True, problems=[refused]), context.log)
        raise dg.Failure(str(error), allow_retries=False) from None


class _PreviewStep(Planning):
    """One request: it plans the preview, applies that plan, and compares the data with prod."""

    def __init__(self, context: dg.OpExecutionContext, settings: Settings, environment: str) -> None:
        super().__init__(context, settings, PlanReport(environment, is_preview=True), _ADVICE)
        self._name = environment

    def run(self) -> Iterator[Any]:
        """Yield the result of the step."""
        self._context.instance.add_run_tags(self._context.run.run_id, {PREVIEW_TAG: self._name})
        for event in self.events(self._request()):
            if isinstance(event, msg.ModelCompared):
                self.report.diff.append(event)
            elif isinstance(event, msg.AuditsCompared):
                self.report.audits.append(event)
            elif isinstance(event, msg.PlanBuilt) and event.environment == self._name:
                self.session.answer(self._approval(event))
            elif isinstance(event, msg.PlanBuilt):  # what remains to be done after the merge
                self.report.prod = self.for_prod(event, Decision())
        self._end()
        yield dg.Output(None)

    def _request(self) -> msg.PreviewRequest:
        attributes = self._settings.attributes
        assert attributes.preview is not None, "the job exists"
        return msg.PreviewRequest(
            self._settings.project.open_request,
            self._name,
            job=self._settings.job(self._context.run.run_id),
            sampling=self._settings.attributes.audits.sampling,
            tables=self.tables,
            select=tuple(self._context.op_config["select"]),
            diff=attributes.preview.limits,
        )

    def _approval(self, plan: msg.PlanBuilt) -> msg.PlanApproval:
        """Report the plan of the preview. If it is refused, the step ends here."""
        seconds, excess = self.estimated(plan)
        config = self._context.op_config
        found = preview_refusals(
            plan, allow_pending=config["allow_pending"], over_budget=config["over_budget"], budget=excess
        )
        self.report.preview = Planned(plan, seconds, found)
        self.publish(headline(plan))
        self.refuse("preview")
        instance, run_id, state = self._context.instance, self._context.run.run_id, self._settings.changes_tag
        instance.add_run_tags(run_id, {CHANGES_TAG: state})
        interrupted = interrupted_changes(instance, state, mark_as_computing(instance, run_id, state))
        # A preview drops no columns of prod, and its data is no asset.
        return msg.PlanApproval((), msg.Records({}), interrupted)

    def _end(self) -> None:
        report, planned = self.report, self.report.preview
        if report.prod is not None:
            report.affected = self.affected(report.prod.plan, report.diff)
        files = "selected models" if self._context.op_config["select"] else "files"
        result = f"The {files} are the same as in prod, so there is nothing to preview."
        if planned is not None:
            different, by_clock = sum(map(differs, report.diff)), sum(bool(of.clock) for of in report.diff)
            compared = f"{counted(len(report.diff), 'model')}, {different} different"
            compared += f", {by_clock} of them only by the clock" if by_clock else ""
            result = f"The preview is ready. {self.cost(planned)} Compared with prod: {compared}."
        models = planned.plan.models if planned is not None else ()
        sentences = (*not_ready(self.left_out), *caught_up(self.went_on, models))
        result += "".join(f" {sentence}" for sentence in sentences)
        failed = [compared for compared in report.diff if compared.error is not None]
        if failed:
            names = tuple(compared.name for compared in failed)
            problem = f"Could not be compared: {listed(names)}."
            result += f" {problem}"
            report.problems.append(Refusal("error", names, problem))
        keep_audits(self._context, self.rounds)
        self.end(result)
        self.publish(f"Preview {self._name}: {result}")
        if failed:
            queries = [f"{compared.name}: {compared.error}\n{compared.query}" for compared in failed]
            text = "The message of the engine may contain values, so it is not shown. Execute the query to see it."
            raise dg.Failure("\n\n".join([result, text, *queries]), allow_retries=False)
