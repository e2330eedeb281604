"""The worker's protocol: one request in, events out, and exit.

Exit status 0 means that the last event says how the request ended, also when it ended badly.
"""

from __future__ import annotations

import logging
import re
import traceback
from importlib import metadata

from dg_sqlmesh_component.errors import InstallationError, SQLMeshComponentError, WorkerError
from dg_sqlmesh_component.events import DescribeRequest, Level, LogLine, Request, RequestFailed

from .pipe import Pipe

SQLMESH_FLOOR = "0.235.2"
"""The lowest SQLMesh that the worker drives; the same as in `pyproject.toml`, with the reasons there."""


def main() -> None:
    """Serve one request."""
    pipe = Pipe()
    request = pipe.receive()
    if request is None:
        return
    logging.getLogger().addHandler(_PipeHandler(pipe))
    try:
        _serve(request, pipe)
    except SQLMeshComponentError as error:
        pipe.send(RequestFailed(type(error).__name__, str(error)))
    except Exception:  # the last line of defence: the facts travel to the parent, which raises them
        pipe.send(
            RequestFailed(
                WorkerError.__name__,
                f"The worker raised an error that it does not know:\n{traceback.format_exc()}",
            )
        )


def _serve(request: Request, pipe: Pipe) -> None:
    _require_sqlmesh()
    if isinstance(request, DescribeRequest):
        from .describe import describe

        pipe.send(describe(request, pipe))
    else:
        from .evaluate import evaluate

        evaluate(request, pipe)


def _require_sqlmesh() -> None:
    import sys

    try:
        found = metadata.version("sqlmesh")
    except metadata.PackageNotFoundError:
        raise InstallationError(
            f"SQLMesh is not installed for the interpreter {sys.executable}, which runs the SQLMesh "
            f"project. Install it there (pip install 'sqlmesh>={SQLMESH_FLOOR}'), or set "
            "`project.python` in defs.yaml to an interpreter that has it."
        ) from None
    if _numbers(found) < _numbers(SQLMESH_FLOOR):
        raise InstallationError(
            f"The interpreter {sys.executable} has SQLMesh {found}; at least {SQLMESH_FLOOR} is needed. "
            f"Upgrade it there (pip install 'sqlmesh>={SQLMESH_FLOOR}'), or set `project.python` in "
            "defs.yaml to an interpreter that has a newer one."
        )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


class _PipeHandler(logging.Handler):
    """Warnings and errors that SQLMesh, drivers and models log become log lines of the Dagster run."""

    def __init__(self, pipe: Pipe) -> None:
        super().__init__(level=logging.WARNING)
        self._pipe = pipe

    def emit(self, record: logging.LogRecord) -> None:
        level: Level = "error" if record.levelno >= logging.ERROR else "warning"
        self._pipe.send(LogLine(level, self.format(record), record.name))


if __name__ == "__main__":
    main()
