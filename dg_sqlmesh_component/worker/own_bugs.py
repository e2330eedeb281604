"""Tell bugs of this package from errors of SQLMesh, of drivers and of the project's code.

`worker/__main__.py` imports this module before it checks the interpreter, so it needs the standard library only.
"""

from __future__ import annotations

import os
import traceback

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_OF_THE_MACHINE = (OSError, MemoryError)


def own_bug(error: BaseException) -> str | None:
    """What a user reads about an error that code of this package raised by mistake; None for any other error.

    It did if the error, or the cause of it, is one of Python's own, such as a TypeError, and the innermost frame of its
    traceback is in this package. Drivers written in C have no frames, but they raise errors of their own classes.
    """
    cause = innermost_cause(error)
    frames = traceback.extract_tb(cause.__traceback__)
    if type(cause).__module__ != "builtins" or isinstance(cause, _OF_THE_MACHINE) or not frames:
        return None
    if not os.path.abspath(frames[-1].filename).startswith(_PACKAGE):
        return None
    trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    return (
        "This is a bug of dg-sqlmesh-component, not of your project. Please report it with this traceback:\n\n"
        f"{trace.rstrip()}"
    )


def innermost_cause(error: BaseException) -> BaseException:
    """The last error of the chain of causes; `error` itself if it has none."""
    seen = {id(error)}
    while error.__cause__ is not None and id(error.__cause__) not in seen:  # `raise error from error` makes a circle
        error = error.__cause__
        seen.add(id(error))
    return error
