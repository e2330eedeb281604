"""The messages of a run of unit tests and linter."""

from __future__ import annotations

from dataclasses import dataclass

from dg_sqlmesh_component.protocol.messages import LastEvent, Question
from dg_sqlmesh_component.protocol.texts import ErrorText


@dataclass(frozen=True, slots=True)
class TestRequest(Question):
    """Run SQLMesh's unit tests and linter on the project's files; the answer is one `TestsFinished`."""

    SERVED_BY = "capabilities.project_tests.worker.tests_and_linter:run_tests"


@dataclass(frozen=True, slots=True)
class TestsFinished(LastEvent):
    """The last event of a `TestRequest` that was served, even if a test failed."""

    tests: int  # how many unit tests were executed
    failed_tests: int  # how many of them failed
    failures: tuple[ErrorText, ...]  # Each with the differences. A test may have several: for its query and its CTEs.
    linted_models: int  # how many models the linter checked; 0 if it is off
    lint_errors: tuple[ErrorText, ...]  # each with the model and the rule
    lint_warnings: int  # How many. The log has them.
