"""The job `<op>_test`, which runs SQLMesh's unit tests and linter."""

from __future__ import annotations

import dagster as dg

from dg_sqlmesh_component.config.plans import ProjectTests
from dg_sqlmesh_component.definitions.op import graph_of_op, refuse_reserved_tags
from dg_sqlmesh_component.definitions.settings import Settings
from dg_sqlmesh_component.project_tests.step import run_tests

_DESCRIPTION = "Runs SQLMesh's unit tests and linter on the files of this deployment. It reads and writes no data."


def build_test_job(configured: ProjectTests, settings: Settings) -> dg.Definitions:
    """A job with one op. No schedule or sensor starts it: CI or a person does. It writes nothing, so it has no pool."""
    refuse_reserved_tags("test.tags", configured.tags)
    name = settings.job_name("test")
    graph = graph_of_op(name, _DESCRIPTION, lambda context: run_tests(context, settings), None)
    return dg.Definitions(jobs=[graph.to_job(tags=configured.tags)])
