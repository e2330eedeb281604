"""Every error this package raises on purpose: one family, split by who must act.

Both worlds read this module (see ADR-0010), so it needs the standard library only. Each error
carries a message of three parts: what is wrong, where it is, and what to do about it.
"""

from __future__ import annotations


class SQLMeshComponentError(Exception):
    """Base of the family. Catch this to catch everything that this package raises on purpose.

    Attributes:
        is_transient: Whether the error may be gone when the same thing is tried again.
    """

    def __init__(self, message: str, *, is_transient: bool = False) -> None:
        super().__init__(message)
        self.is_transient = is_transient


class DeclarationError(SQLMeshComponentError):
    """The author of `defs.yaml` must act: a path, gateway, selector or option is wrong."""


class ProjectLoadError(SQLMeshComponentError):
    """The author of the SQLMesh project must act: SQLMesh cannot load it, or Dagster refuses what it says."""


class EnvironmentNotReadyError(SQLMeshComponentError):
    """Whoever operates SQLMesh must act: run a plan or a migration, or release the database."""


class DatabaseInUseError(EnvironmentNotReadyError):
    """Another process holds what SQLMesh needs; whoever runs that must act, or time will do."""


class InstallationError(SQLMeshComponentError):
    """Whoever installs must act: the worker's interpreter has no usable SQLMesh."""


class EvaluationError(SQLMeshComponentError):
    """SQLMesh gave up on a whole run (not on one model), in its own words."""


class StatementError(EvaluationError):
    """A statement behind the models failed, as of `after_all`. What came of the models stands."""


class StoppedError(SQLMeshComponentError):
    """Nobody must act: the run was cancelled, the worker did not end in time, and was killed."""


class WorkerError(SQLMeshComponentError):
    """The worker process died or broke the protocol. If nothing killed it, this is our fault."""


ERRORS_BY_NAME: dict[str, type[SQLMeshComponentError]] = {
    error.__name__: error
    for error in (
        DeclarationError,
        ProjectLoadError,
        EnvironmentNotReadyError,
        DatabaseInUseError,
        InstallationError,
        EvaluationError,
        StatementError,
        WorkerError,
    )
}
"""How an error crosses the pipe: by its class name."""
