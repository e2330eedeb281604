"""The job `<op>_test`, which runs SQLMesh's unit tests and linter, and its step."""

from __future__ import annotations

from collections.abc import Iterator

import dagster as dg

from dg_sqlmesh_component.capabilities.project_tests.attributes import ProjectTests
from dg_sqlmesh_component.capabilities.project_tests.messages import TestRequest, TestsFinished
from dg_sqlmesh_component.definitions.op import graph_of_op, refuse_reserved_tags
from dg_sqlmesh_component.definitions.settings import Settings
from dg_sqlmesh_component.protocol.formatting import counted
from dg_sqlmesh_component.worker_client.session import WorkerSession

_DESCRIPTION = "Runs SQLMesh's unit tests and linter on the files of this deployment. It reads and writes no data."


def build_test_job(configured: ProjectTests, settings: Settings) -> dg.Definitions:
    """A job with one op. No schedule or sensor starts it: CI or a person does. It writes nothing, so it has no pool."""
    refuse_reserved_tags("test.tags", configured.tags)
    name = settings.job_name("test")
    graph = graph_of_op(name, _DESCRIPTION, lambda context: run_tests(context, settings), None)
    return dg.Definitions(jobs=[graph.to_job(tags=configured.tags)])


def run_tests(context: dg.OpExecutionContext, settings: Settings) -> Iterator[dg.Output[None]]:
    """Run the unit tests and the linter, and yield one output with their numbers as metadata.

    Raises:
        dagster.Failure: A test failed, or the linter found an error: the description has them, and the metadata the
            numbers. Or SQLMesh could not load the project.
        dagster.DagsterExecutionInterruptedError: The step was cancelled (SIGINT, SIGTERM).
    """
    session = WorkerSession(context, settings.project)
    yield from session.drive(_results(context, session, TestRequest(settings.project.open_request)))


def _results(context: dg.OpExecutionContext, session: WorkerSession, request: TestRequest) -> Iterator[dg.Output[None]]:
    end = session.last_event(request, TestsFinished)
    if problems := (*end.failures, *end.lint_errors):
        raise dg.Failure(description="\n\n".join([summary(end), *problems]), metadata=numbers(end))
    context.log.info(summary(end))
    yield dg.Output(None, metadata=numbers(end))


def summary(end: TestsFinished) -> str:
    """The numbers as sentences."""
    tests = counted(end.tests, "unit test")
    ran = f"{end.failed_tests} of {tests} failed." if end.failures else f"{tests} passed."
    if not end.linted_models:
        return f"{ran} The linter is off. To turn it on, set `linter: {{enabled: true}}` in SQLMesh's configuration."
    errors, warnings = counted(len(end.lint_errors), "error"), counted(end.lint_warnings, "warning")
    return f"{ran} The linter checked {counted(end.linted_models, 'model')}: {errors}, {warnings}."


def numbers(end: TestsFinished) -> dict[str, int]:
    """The numbers as metadata."""
    return {
        "sqlmesh/unit_tests": end.tests,
        "sqlmesh/failed_unit_tests": end.failed_tests,
        "sqlmesh/linted_models": end.linted_models,
        "sqlmesh/lint_errors": len(end.lint_errors),
        "sqlmesh/lint_warnings": end.lint_warnings,
    }
