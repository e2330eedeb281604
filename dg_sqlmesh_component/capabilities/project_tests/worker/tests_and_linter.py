"""Serve a `TestRequest`: run SQLMesh's unit tests and linter, as `sqlmesh test` and `sqlmesh lint` do."""

from __future__ import annotations

import inspect
from contextlib import closing
from functools import partial

from sqlmesh.core.context import Context

from dg_sqlmesh_component.capabilities.project_tests.messages import TestRequest, TestsFinished
from dg_sqlmesh_component.protocol.errors import EvaluationError, LinterRuleError, UnitTestError
from dg_sqlmesh_component.worker.context import PipeConsole, open_context
from dg_sqlmesh_component.worker.explain import describe_error
from dg_sqlmesh_component.worker.pipe import Pipe

WITHOUT_STATE = {"load_state": False} if "load_state" in inspect.signature(Context.__init__).parameters else {}
"""SQLMesh 0.235 has no such option: if the project has a name, it adds the models of other projects from the state."""


def run_tests(request: TestRequest, pipe: Pipe) -> TestsFinished:
    """Load the project's files without the SQLMesh state, and test them.

    Raises:
        ProjectLoadError: SQLMesh refuses the project's files.
        EvaluationError: SQLMesh cannot execute a test or a rule of the linter.
    """
    console = PipeConsole(pipe)
    open_files = partial(Context, **WITHOUT_STATE)
    with closing(open_context(request.project, console, context_type=open_files, load=())) as context:
        try:
            tested = context.test()
            context.lint_models(raise_on_error=False)
        except Exception as error:  # the project's macros, Python models and rules raise anything
            raise EvaluationError(f"SQLMesh cannot execute its tests and linter: {describe_error(error)}") from error
        linted = [model for model in context.models.values() if context.config_for_node(model).linter.enabled]
    return TestsFinished(
        tests=console.unit_tests,
        failed_tests=len(tested.get_fail_and_error_tests()),
        failures=tuple(console.violations[UnitTestError]),
        linted_models=len(linted),
        lint_errors=tuple(console.violations[LinterRuleError]),
        lint_warnings=console.lint_warnings,
    )
