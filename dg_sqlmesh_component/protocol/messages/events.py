"""Events of every request, and the answers to those that neither run, plan nor preview."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from dg_sqlmesh_component.protocol.manifest import Manifest
from dg_sqlmesh_component.protocol.texts import ErrorText

Level = Literal["debug", "info", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Event:
    """A message from the worker. Fields that may contain a secret have a type of `protocol/texts.py`."""


@dataclass(frozen=True, slots=True)
class LastEvent(Event):
    """The last event of a request."""


@dataclass(frozen=True, slots=True)
class StateHeld(Event):
    """Sent with each line that logs the wait for the lock on the SQLMesh state."""

    run_id: str  # the Dagster run that holds the lock


@dataclass(frozen=True, slots=True)
class ProjectLoaded(LastEvent):
    """The answer to a `LoadRequest`."""

    manifest: Manifest
    is_whole: bool = True  # True if the manifest has every model, False if it has only the requested models


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
    """

    level: Level
    text: str  # `Worker` hides secrets in it
    source: str  # the logger's name, or `output` for lines of stdout and stderr


@dataclass(frozen=True, slots=True)
class RequestFailed(LastEvent):
    """The last event of a request that could not be served."""

    error: str  # name of a class in `errors`
    message: ErrorText  # complete sentences for the user
    is_transient: bool = False  # whether a retry may succeed
