"""Count calls of functions, and queries: a cost that is the same on every machine."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Engine


def calls_of(function: Callable[[], object]) -> int:
    """Return how many functions in Python a function calls, itself included. Functions in C are not counted."""
    calls = 0

    def count(_: object, event: str, __: Any) -> None:
        nonlocal calls
        calls += event == "call"

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        function()
    finally:
        sys.setprofile(before)
    return calls


def growth(cost: Callable[[int], int], size: int) -> float:
    """Return how many times the cost of a size twice that size costs: 2 if the cost is linear."""
    cost(size)  # caches are filled, and modules are imported
    return cost(2 * size) / cost(size)


@contextmanager
def queries() -> Iterator[list[str]]:
    """Collect the SQL that Dagster executes meanwhile."""
    executed: list[str] = []

    def collect(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        executed.append(statement)

    event.listen(Engine, "before_cursor_execute", collect)
    try:
        yield executed
    finally:
        event.remove(Engine, "before_cursor_execute", collect)
