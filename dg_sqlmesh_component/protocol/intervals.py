"""Sets of intervals. An interval does not include its end."""

from __future__ import annotations

from collections.abc import Iterable

from dg_sqlmesh_component.protocol.messages import Interval


def merged(intervals: Iterable[Interval]) -> tuple[Interval, ...]:
    """The intervals in order. Those that adjoin or overlap become one."""
    found: list[Interval] = []
    for start, end in sorted(intervals):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return tuple(found)


def subtract(intervals: Iterable[Interval], removed: Iterable[Interval]) -> tuple[Interval, ...]:
    """The parts of the intervals that lie in none of the removed intervals."""
    left = merged(intervals)
    for start, end in removed:
        parts = [part for old in left for part in ((old[0], min(old[1], start)), (max(old[0], end), old[1]))]
        left = tuple((first, last) for first, last in parts if first < last)
    return left
