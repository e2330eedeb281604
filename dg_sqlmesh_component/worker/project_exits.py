"""Errors with which a project's code ends the process, such as `sys.exit`. SQLMesh does not catch them.

`worker/__main__.py` imports this module before it imports SQLMesh, so it needs the standard library only.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from dg_sqlmesh_component.worker.forked_processes import end_fork


class ProjectExit(Exception):
    """Code of the project raised an error that is no `Exception`: SystemExit, KeyboardInterrupt, a driver's panic."""


@contextmanager
def exits_as_exceptions() -> Iterator[None]:
    """Raise a `ProjectExit` in place of an error that is no `Exception`."""
    try:
        yield
    except BaseException as error:
        end_fork(error)
        if isinstance(error, Exception):
            raise
        raise as_exception(error) from error


def as_exception(error: BaseException) -> Exception:
    """The error if it is an ordinary one, else a `ProjectExit` that names the place."""
    if isinstance(error, Exception):
        return error
    frame = traceback.extract_tb(error.__traceback__)[-1]
    like = ", as `sys.exit` does" if isinstance(error, SystemExit) else ""
    place = f"{frame.filename}, line {frame.lineno}, in {frame.name},"
    if frame.filename.startswith("<"):  # SQLMesh executes a model's code from the state, without its file
        place = f"Its function {frame.name}"
    exit = ProjectExit(f"{place} raised {error!r}{like}. Raise another error there instead.")
    exit.__cause__ = error
    return exit
