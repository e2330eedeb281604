"""Which errors are bugs of this package, and which are errors of SQLMesh, of drivers or of the project's code."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from dg_sqlmesh_component.protocol import wire
from dg_sqlmesh_component.protocol.errors import ConfigurationError
from dg_sqlmesh_component.protocol.formatting import counted, listed
from dg_sqlmesh_component.worker.explain import describe_error
from dg_sqlmesh_component.worker.own_bugs import innermost_cause, own_bug


class DriverError(Exception):
    """An error class of a driver."""


def raised(cause: Callable[[], Any]) -> Exception:
    with pytest.raises(Exception) as caught:  # of any class
        cause()
    return caught.value


def wrapped(cause: Callable[[], Any]) -> Exception:
    """Return what SQLMesh raises for a failed model: an error of its own, with the cause."""

    def wrap() -> None:
        raise RuntimeError("Execution failed for node") from raised(cause)

    return raised(wrap)


def raise_in_package(error: Exception) -> None:
    """Raise an error in a frame of the package, without a frame below it, as a driver written in C does."""
    code = compile("def call(error): raise error", wire.__file__, "exec")
    names: dict[str, Any] = {}
    exec(code, names)
    names["call"](error)


def missing_argument_inside() -> None:
    listed(5)  # type: ignore[arg-type]


@pytest.mark.parametrize("raising", [raised, wrapped])
def test_python_error_raised_in_the_package_is_a_bug(raising: Callable[[Callable[[], Any]], Exception]) -> None:
    text = own_bug(raising(missing_argument_inside))
    assert text is not None
    assert text.startswith("This is a bug of dg-sqlmesh-component, not of your project. Please report it")
    assert "formatting.py" in text
    assert "TypeError: object of type 'int' has no len()" in text


@pytest.mark.parametrize(
    "cause",
    [
        lambda: json.loads("{"),
        lambda: 1 / 0,
        lambda: counted(),  # type: ignore[call-arg]
        lambda: raise_in_package(ConfigurationError("wrong")),
        lambda: raise_in_package(DriverError("no such table")),
        lambda: raise_in_package(ConnectionResetError(104, "Connection reset by peer")),
        lambda: raise_in_package(MemoryError()),
    ],
    ids=["library", "other file", "wrong arguments", "own class", "driver without frames", "connection", "memory"],
)
@pytest.mark.parametrize("raising", [raised, wrapped])
def test_any_other_error_is_no_bug(raising: Callable[[Callable[[], Any]], Exception], cause: Callable[[], Any]) -> None:
    assert own_bug(raising(cause)) is None


def test_error_without_a_traceback_is_no_bug() -> None:
    assert own_bug(TypeError("never raised")) is None


def test_circle_of_causes_has_an_end() -> None:
    """Python accepts `raise error from error`, and longer circles."""
    first, second = KeyError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    assert innermost_cause(first) is second
    second.__cause__ = second
    assert own_bug(first) is None
    assert describe_error(second) == "ValueError: second"
