"""One step that creates or updates a preview and compares it with prod, and one that deletes it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import dagster as dg

from dg_sqlmesh_component.clean_up.step import JanitorStep
from dg_sqlmesh_component.definitions.settings import Settings
from dg_sqlmesh_component.plan.gate import Decision, Refusal, digest_of, headline, preview_refusals, refusals
from dg_sqlmesh_component.plan.report import PlanReport
from dg_sqlmesh_component.plan.report_file import begin_report, write_report
from dg_sqlmesh_component.plan.step import PlanStep
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.errors import ConfigurationError
from dg_sqlmesh_component.protocol.formatting import counted, listed


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
    request = msg.ClosePreviewRequest(
        settings.project.open_request,
        environment,
        settings.attributes.execution.concurrent_tasks,
        holder=f"preview of run {context.run.run_id}",
        overlap_timeout=settings.attributes.execution.overlap_timeout,
    )
    step = JanitorStep(context, settings.project, request, f"the deletion of the preview {environment}")
    report = PlanReport(environment, "", None, {}, [], None, is_preview=True)
    begin_report(report)
    try:
        for result in step.session.drive(step.run()):
            is_open = step.end is not None and environment in step.end.environments
            done = f"Deleted the preview {environment}." if is_open else f"There is no preview {environment}."
            report = replace(report, result=done)
            yield result
    except (dg.Failure, dg.DagsterExecutionInterruptedError) as error:
        text = error.description if isinstance(error, dg.Failure) else str(error)
        write_report(replace(report, refusals=[Refusal("error", (), text or "")]), context.log)
        raise
    write_report(report, context.log)


def _required_environment(context: dg.OpExecutionContext, settings: Settings) -> str:
    """The name of the preview. If it is not known, the report says why, and the step fails."""
    assert settings.attributes.preview is not None, "only these jobs need it"
    try:
        return settings.attributes.preview.environment.required()
    except ConfigurationError as error:
        refused = Refusal("unset_variable", (), str(error))
        write_report(PlanReport("", "", None, {}, [refused], None, is_apply=True, is_preview=True), context.log)
        raise dg.Failure(str(error), allow_retries=False) from None


class _PreviewStep(PlanStep):
    """One request: it plans the preview, applies that plan, and compares the data with prod."""

    _advice = "Correct the files of the project, and launch this job again. Finished intervals are not computed again."

    def __init__(self, context: dg.OpExecutionContext, settings: Settings, environment: str) -> None:
        super().__init__(context, settings, Decision(), environment)
        self._name = environment
        self._planned = self._report = replace(self._report, is_apply=True, is_preview=True)

    def _request(self) -> msg.PlanRequest:
        preview, execution = self._settings.attributes.preview, self._settings.attributes.execution
        assert preview is not None, "the job exists"
        return msg.PreviewRequest(
            self._settings.project.open_request,
            self._name,
            run_id=self._context.run.run_id,
            overlap_timeout=execution.overlap_timeout,
            concurrent_tasks=execution.concurrent_tasks,
            sampling=self._settings.sampling,
            max_rows=preview.diff.max_rows,
            decimals=preview.diff.decimals,
        )

    def _answer(self, plan: msg.PlanBuilt) -> msg.PlanApproval | None:
        if plan.environment != self._name:
            self._note_plan_of_prod(plan)
            return None
        seconds, excess = self._estimated(plan)
        config = self._context.op_config
        found = preview_refusals(
            plan, allow_pending=config["allow_pending"], over_budget=config["over_budget"], budget=excess
        )
        self._planned = self._report = replace(self._report, plan=plan, seconds=seconds, refusals=found)
        self._publish(headline(plan))
        self._refuse("preview")
        return msg.PlanApproval((), msg.Records({}))

    def _note_plan_of_prod(self, plan: msg.PlanBuilt) -> None:
        """What remains to be done after the merge: the plan that the job which applies plans would apply."""
        seconds, excess = self._estimated(plan)
        digest = digest_of(plan, ())
        found = refusals(plan, Decision(), self._settings.apply_job, excess)
        command = self._apply_command(digest, found)
        self._report = PlanReport(self._name, digest, plan, seconds, found, command, is_preview=True)

    def _note_outcomes(self, event: msg.Event) -> None:
        if isinstance(event, msg.ModelCompared):
            self._report = replace(self._report, diff=[*self._report.diff, event])
        else:
            super()._note_outcomes(event)

    def _end(self) -> Iterator[Any]:
        diff = self._report.diff
        result = f"The preview is ready. {self._cost(self._planned)} Differ from prod: {counted(len(diff), 'model')}."
        if self._planned.plan is None:
            result = "The files are the same as in prod, so there is nothing to preview."
        failed = [compared.name for compared in diff if compared.error is not None]
        if failed:
            result += f" Could not be compared: {listed(failed)}."
        self._report = replace(self._report, result=result)
        self._publish(f"Preview {self._name}: {result}")
        self._log.end(self._outcomes)
        if failed:
            queries = [f"{compared.name}: {compared.error}\n{compared.query}" for compared in diff if compared.error]
            text = "The message of the engine may contain values, so it is not shown. Execute the query to see it."
            raise dg.Failure("\n\n".join([result, text, *queries]), allow_retries=False)
        yield from ()
