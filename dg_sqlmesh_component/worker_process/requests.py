"""The two requests that a worker serves: load the project, and evaluate models."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from dg_sqlmesh_component.config.project import SQLMeshProject
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.errors import ERRORS_BY_NAME, WorkerError
from dg_sqlmesh_component.protocol.manifest import DEFAULT_LIMITS, AnsweredSelection, Limits, Manifest
from dg_sqlmesh_component.protocol.redaction import Redactor
from dg_sqlmesh_component.worker_process.start import EARLY_WORKERS
from dg_sqlmesh_component.worker_process.worker import Worker


@contextmanager
def serving(project: SQLMeshProject, request: msg.Request) -> Iterator[Worker]:
    """Serve one request in a process of its own. Leaving the context early stops that process.

    Yields:
        The worker, to be iterated: its events in order, and what it prints as `LogLine`s. The last one is
        `ProjectDescribed`, `EvaluationFinished` or `RequestFailed`.

    Raises:
        DeclarationError, InstallationError: The worker cannot be started.
        WorkerError: While iterating: the worker died or broke the protocol.
        StoppedError: While iterating: it did not end when it was cancelled, and was killed.
    """
    project.require()
    worker = Worker(EARLY_WORKERS.take(project), request, Redactor(project.process_environment))
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
    """Load the project in a worker and return its manifest, with the additions that are asked for, within limits.

    Args:
        before: The manifest of the project when nothing differed but these files: SQLMesh loads no more than it must.
        files: SQL files of models.
        selections: Selections to answer again; one that matches no model any more is left out.
        asked_by: Where `select` and `exclude` are written, for error messages.

    Raises:
        SQLMeshComponentError: Of the class that says who must act.
    """
    models = before.models_changed_by(files) if before else frozenset()
    request = msg.DescribeRequest(
        project.opening,
        tuple(select),
        tuple(exclude),
        tuple(include),
        limits,
        files if models else frozenset(),
        models,
        tuple(selections),
        asked_by,
    )
    with serving(project, request) as events:
        for event in events:
            if isinstance(event, msg.ProjectDescribed):
                return event.manifest if event.is_whole or before is None else before.with_models_of(event.manifest)
            if isinstance(event, msg.RequestFailed):
                raise ERRORS_BY_NAME.get(event.error, WorkerError)(event.message)
    raise WorkerError("The worker ended without describing the project.")
