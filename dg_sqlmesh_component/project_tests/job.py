"""The job `<op>_test`, which runs SQLMesh's unit tests and linter."""

from __future__ import annotations

from collections.abc import Iterator

import dagster as dg

from dg_sqlmesh_component.config.plans import ProjectTests
from dg_sqlmesh_component.dagster_internals import failures_without_traceback
from dg_sqlmesh_component.definitions.op import refuse_reserved_tags
from dg_sqlmesh_component.definitions.settings import Settings
from dg_sqlmesh_component.project_tests.step import run_tests

_DESCRIPTION = "Runs SQLMesh's unit tests and linter on the files of this deployment. It reads and writes no data."


def build_test_job(configured: ProjectTests, settings: Settings) -> dg.Definitions:
    """A job with one op. No schedule or sensor starts it: CI or a person does. It writes nothing, so it has no pool."""
    refuse_reserved_tags("test.tags", configured.tags)
    name = settings.job_name("test")

    def run_project_tests(context: dg.OpExecutionContext) -> Iterator[dg.Output[None]]:
        with failures_without_traceback(context):
            yield from run_tests(context, settings)

    # Dagster looks at the annotation itself to decide which kind of context to pass.
    run_project_tests.__annotations__ = {"context": dg.OpExecutionContext}
    # Dagster allows no op of the job's own name.
    op = dg.op(name=f"{name}_op", description=_DESCRIPTION, out=dg.Out(dg.Nothing))(run_project_tests)
    job = dg.GraphDefinition(name=name, node_defs=[op], description=_DESCRIPTION).to_job(tags=configured.tags)
    return dg.Definitions(jobs=[job])
