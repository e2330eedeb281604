"""Walks through graphs of models, steps and audits."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from graphlib import TopologicalSorter
from typing import TypeVar

_Node = TypeVar("_Node", bound=Hashable)
_Group = TypeVar("_Group")
_Member = TypeVar("_Member")


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


def parents_first(starts: Iterable[str], parents: Callable[[str], Iterable[str]]) -> list[str]:
    """The starts and every node that they depend on, each after its parents. Equally deep ones are in order."""
    sorter = TopologicalSorter({node: parents(node) for node in reachable(starts, parents)})
    sorter.prepare()
    found: list[str] = []
    while sorter.is_active():
        ready = sorted(sorter.get_ready())
        found += ready
        sorter.done(*ready)
    return found


def grouped(pairs: Iterable[tuple[_Group, _Member]]) -> dict[_Group, list[_Member]]:
    """The second members of the pairs, by the first."""
    groups: dict[_Group, list[_Member]] = {}
    for group, member in pairs:
        groups.setdefault(group, []).append(member)
    return groups
