"""Walks through graphs of models, steps and audits."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar

_Node = TypeVar("_Node", bound=Hashable)


def reachable(starts: Iterable[_Node], neighbours: Callable[[_Node], Iterable[_Node]]) -> set[_Node]:
    """The starts and every node that can be reached from them."""
    reached: set[_Node] = set()
    to_visit = list(starts)
    while to_visit:
        node = to_visit.pop()
        if node not in reached:
            reached.add(node)
            to_visit.extend(neighbours(node))
    return reached
