"""Tell bugs of this package from errors of SQLMesh, of drivers and of the project's code.

`worker/__main__.py` imports this module before it checks the interpreter, so it needs the standard library only.
"""

from __future__ import annotations

import os
import traceback

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_OF_THE_MACHINE = (OSError, MemoryError)


def is_own_bug(error: BaseException) -> bool:
    """Whether code of this package raised this error, or the error that caused it, by mistake.

    It did if the error is one of Python's own, such as a TypeError, and the innermost frame of its traceback is in this
    package. Drivers written in C have no frames, but they raise errors of their own classes.
    """
    while error.__cause__ is not None:
        error = error.__cause__
    if type(error).__module__ != "builtins" or isinstance(error, _OF_THE_MACHINE):
        return False
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and os.path.abspath(frames[-1].filename).startswith(_PACKAGE)


def describe_own_bug(error: BaseException) -> str:
    """What a user reads about such an error, with its traceback."""
    trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    return (
        "This is a bug of dg-sqlmesh-component, not of your project. Please report it with this traceback:\n\n"
        f"{trace.rstrip()}"
    )
