"""Sets of intervals. An interval does not include its end."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence

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


def common(intervals: Iterable[Interval], others: Iterable[Interval]) -> tuple[Interval, ...]:
    """The parts of the intervals that lie in one of the others."""
    intervals = list(intervals)
    return subtract(intervals, subtract(intervals, others))


def without(intervals: Iterable[Interval], taken: Sequence[Interval], *, uninterrupted: bool) -> list[Interval]:
    """The intervals that overlap with none of `taken`, which are in order and apart.

    SQLMesh's own `interval_diff` is wrong for intervals of different units: if one hour is taken from a day, it removes
    the days after it as well, or nothing.

    Args:
        uninterrupted: Leave out everything after the first overlap.
    """
    ends = [end for _, end in taken]
    free = []
    for start, end in intervals:
        following = bisect_right(ends, start)
        if following == len(taken) or taken[following][0] >= end:
            free.append((start, end))
        elif uninterrupted:
            break
    return free
