"""The errors that this package raises on purpose: one class for each person who must act.

Dagster's processes and the worker import this module (ADR-0010), so it needs the standard library only. Each message
has three parts: the problem, its place, and the next action.
"""

from __future__ import annotations

from typing import ClassVar


class SQLMeshComponentError(Exception):
    """Base class. Catch it to catch every error that this package raises on purpose.

    Attributes:
        is_transient: Whether a retry may succeed.
    """

    kind: ClassVar[str] = "error"  # the kind of refusal in a plan's report, if the error comes before there is a plan

    def __init__(self, message: str, *, is_transient: bool = False) -> None:
        super().__init__(message)
        self.is_transient = is_transient


class ConfigurationError(SQLMeshComponentError):
    """The author of `defs.yaml` must act: a path, gateway, selector or option is wrong."""

    kind = "not_ready"


class ProjectLoadError(SQLMeshComponentError):
    """The author of the SQLMesh project must act: SQLMesh cannot load it, or Dagster refuses a property in it."""

    kind = "not_ready"


class ProjectRuleError(SQLMeshComponentError):
    """The author of a change must act: it breaks a rule of the SQLMesh project, so SQLMesh cannot build a plan."""


class UnitTestError(ProjectRuleError):
    """A unit test of the project fails."""

    kind = "tests"


class LinterRuleError(ProjectRuleError):
    """A model breaks a rule of the linter."""

    kind = "linter"


class AdditiveChangeError(ProjectRuleError):
    """A model gains a column, which its `on_additive_change` does not allow."""

    kind = "additive"


class EnvironmentNotReadyError(SQLMeshComponentError):
    """The operator of SQLMesh must act: run a plan or a migration, or release the database."""

    kind = "not_ready"


class DatabaseInUseError(EnvironmentNotReadyError):
    """Another process holds a database or lock that SQLMesh needs. Its owner must act, or a later run succeeds.

    Attributes:
        holder: The id of the Dagster run that holds it; None if it is not known.
    """

    def __init__(self, message: str, *, is_transient: bool = False, holder: str | None = None) -> None:
        super().__init__(message, is_transient=is_transient)
        self.holder = holder


class InstallationError(SQLMeshComponentError):
    """The person who installs must act: the worker's interpreter has no usable SQLMesh."""

    kind = "not_ready"


class EvaluationError(SQLMeshComponentError):
    """SQLMesh ended a whole run (not one model) with an error, in SQLMesh's words."""


class StatementError(EvaluationError):
    """A statement after the models failed, such as `after_all`. The outcomes of the models stay valid."""


class LockLostError(EvaluationError):
    """The connection that held a lock on SQLMesh's state has ended, so the run or plan was stopped. Launch it again."""


class StoppedError(SQLMeshComponentError):
    """Nobody must act: the run was cancelled, and the worker was killed because it did not end in time."""


class WorkerError(SQLMeshComponentError):
    """The worker died, broke the protocol or raised an error by mistake. If nothing killed it, this is our bug."""


REFUSALS = (ConfigurationError, ProjectLoadError, ProjectRuleError, EnvironmentNotReadyError, InstallationError)
"""If one of these ends a run before it computes anything, the run was refused. After any other error, it failed."""

ERRORS_BY_NAME: dict[str, type[SQLMeshComponentError]] = {
    name: error
    for name, error in list(vars().items())
    if isinstance(error, type) and issubclass(error, SQLMeshComponentError)
}
"""The worker sends an error as its class name and its message."""
