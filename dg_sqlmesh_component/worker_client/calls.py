"""Starts a worker, sends it a request and returns its answer or its events."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TypeVar

from dg_sqlmesh_component.config.project import SQLMeshProject
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.errors import ERRORS_BY_NAME, WorkerError
from dg_sqlmesh_component.protocol.manifest import DEFAULT_LIMITS, AnsweredSelection, Limits, Manifest
from dg_sqlmesh_component.protocol.redaction import Redactor
from dg_sqlmesh_component.worker_client.start import EARLY_WORKERS
from dg_sqlmesh_component.worker_client.worker import Worker

_Answer = TypeVar("_Answer")


@contextmanager
def serving(
    project: SQLMeshProject, request: msg.Request, query_characters: int = DEFAULT_LIMITS.characters
) -> Iterator[Worker]:
    """Serve one request in its own process. If the context is left early, the process is stopped.

    Args:
        query_characters: Longer queries in its events are cut.

    Yields:
        The worker. Iterate over it to receive its events in order, with its output as `LogLine`s. The last event is
        one of `LAST_EVENTS`.

    Raises:
        ConfigurationError, InstallationError: The worker cannot be started.
        WorkerError: While iterating: the worker died or broke the protocol.
        StoppedError: While iterating: the worker was cancelled, did not end, and was killed.
    """
    project.check_folders()
    worker = Worker(EARLY_WORKERS.take(project), request, Redactor(project.process_environment, query_characters))
    try:
        yield worker
    finally:
        worker.stop()


def load_manifest(
    project: SQLMeshProject,
    select: Sequence[str] = (),
    exclude: Sequence[str] = (),
    include: Sequence[msg.Addition] = (),
    limits: Limits = DEFAULT_LIMITS,
    before: Manifest | None = None,
    files: frozenset[str] = frozenset(),
    selections: Sequence[AnsweredSelection] = (),
    asked_by: str = "defs.yaml",
) -> Manifest:
    """Load the project in a worker and return its manifest.

    Args:
        include: Optional parts of the manifest.
        before: An earlier manifest of the project, if only `files` have changed since. SQLMesh then loads only their
            models and the models downstream.
        files: SQL files of models.
        selections: Selections to answer again; one that matches no model any more is left out.
        asked_by: Where `select` and `exclude` are written, for error messages.

    Raises:
        SQLMeshComponentError: The class says who must act.
    """
    models = before.models_changed_by(files) if before else frozenset()
    request = msg.LoadRequest(
        project.open_request,
        tuple(select),
        tuple(exclude),
        tuple(include),
        limits,
        files if models else frozenset(),
        models,
        tuple(selections),
        asked_by,
    )
    loaded = _answer(serving(project, request, limits.characters), msg.ProjectLoaded)
    return loaded.manifest if loaded.is_whole or before is None else before.with_models_of(loaded.manifest)


def find_pending(project: SQLMeshProject, environment: str, models: Collection[str], now: int) -> msg.PendingFound:
    """Answer a `PendingRequest`.

    Raises:
        DatabaseInUseError: The state is in a DuckDB file that another process has open.
        SQLMeshComponentError: Any other; the class says who must act.
    """
    request = msg.PendingRequest(project.open_request, environment, frozenset(models), now)
    return _answer(serving(project, request), msg.PendingFound)


def find_changes(project: SQLMeshProject, environment: str, records: msg.Records, now: int) -> msg.ChangesFound:
    """Answer a `ChangesRequest`. It raises the same errors as `find_pending`."""
    request = msg.ChangesRequest(project.open_request, environment, records, now)
    return _answer(serving(project, request), msg.ChangesFound)


def _answer(served: AbstractContextManager[Worker], answer: type[_Answer]) -> _Answer:
    """The last event of a served request. Its log lines are dropped."""
    with served as events:
        for event in events:
            if isinstance(event, answer):
                return event
            if isinstance(event, msg.RequestFailed):
                raise ERRORS_BY_NAME.get(event.error, WorkerError)(event.message)
    raise WorkerError("The worker ended without an answer.")
