"""Events of every request, and the answers to those that neither run, plan nor preview."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from dg_sqlmesh_component.protocol.manifest import Manifest
from dg_sqlmesh_component.protocol.texts import ErrorText, Text

Level = Literal["debug", "info", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Event:
    """A message from the worker. Fields that may contain a secret have a type of `protocol/texts.py`."""


@dataclass(frozen=True, slots=True)
class StateHeld(Event):
    """Sent with each line that logs the wait for the lock on the SQLMesh state.

    Attributes:
        run_id: The Dagster run that holds the lock.
    """

    run_id: str


@dataclass(frozen=True, slots=True)
class ProjectLoaded(Event):
    """The answer to a `LoadRequest`.

    Attributes:
        is_whole: True if the manifest has every model, False if it has only the requested models.
    """

    manifest: Manifest
    is_whole: bool = True


@dataclass(frozen=True, slots=True)
class ObjectDropped(Event):
    """Sent after the janitor has dropped one view, schema, table or catalog, if that existed.

    Source: `Console.update_cleanup_progress`.
    """

    name: str


@dataclass(frozen=True, slots=True)
class StateSize:
    """The size of the SQLMesh state.

    Attributes:
        snapshots: Versions of models.
        interval_rows: Rows of the `_intervals` table. Each run adds rows.
    """

    snapshots: int
    interval_rows: int


@dataclass(frozen=True, slots=True)
class JanitorFinished(Event):
    """The last event of a `JanitorRequest` that was served. An `ObjectDropped` for each object precedes it.

    Attributes:
        environments: The expired environments that were deleted.
        before, after: The size of the state before and after the deletion.
    """

    environments: tuple[str, ...]
    before: StateSize
    after: StateSize


@dataclass(frozen=True, slots=True)
class TestsFinished(Event):
    """The last event of a `TestRequest` that was served, even if a test failed.

    Attributes:
        tests: How many unit tests were executed.
        failed_tests: How many of them failed.
        failures: Each with the differences. A test may have several: for its query and its CTEs.
        linted_models: How many models the linter checked; 0 if it is off.
        lint_errors: Each with the model and the rule.
        lint_warnings: How many. The log has them.
    """

    tests: int
    failed_tests: int
    failures: tuple[ErrorText, ...]
    linted_models: int
    lint_errors: tuple[ErrorText, ...]
    lint_warnings: int


@dataclass(frozen=True, slots=True)
class SecretsKnown(Event):
    """Values of variables and connections that Dagster's process hides in all texts of the worker.

    Sent twice while the worker opens the project: before and after it loads the configuration.
    """

    values: tuple[str, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class LogLine(Event):
    """Text for the run's log: a warning of SQLMesh or a driver, or the output of a `print` in a Python model.

    The worker sends log messages at any time. Dagster's process creates it for lines of stdout and stderr.

    Attributes:
        source: The logger's name, or `output` for lines of stdout and stderr.
    """

    level: Level
    text: Text
    source: str


@dataclass(frozen=True, slots=True)
class RequestFailed(Event):
    """The last event of a request that could not be served.

    Attributes:
        error: Name of a class in `errors`.
        message: Complete sentences for the user.
        is_transient: Whether a retry may succeed.
    """

    error: str
    message: ErrorText
    is_transient: bool = False
