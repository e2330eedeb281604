"""Sets of intervals. An interval does not include its end."""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass

from dg_sqlmesh_component.protocol.messages import Interval

ALL_TIME: Interval = (-sys.maxsize, sys.maxsize)
"""Of rows, and not of a table that SQLMesh computes: an interval with one of these bounds has no start or end."""


@dataclass(frozen=True)
class ComputedRange:
    """A range of a table that SQLMesh has computed."""

    interval: Interval
    at: int  # when it was computed (epoch milliseconds); the newest instant if SQLMesh's janitor has merged ranges
    is_merged: bool
    identifier: str | None  # the snapshot that has computed it; None if SQLMesh has deleted that snapshot


def merged(intervals: Iterable[Interval]) -> tuple[Interval, ...]:
    """The intervals in order. Those that adjoin or overlap become one."""
    found: list[Interval] = []
    for start, end in sorted(intervals):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return tuple(found)


def add(total: dict[str, tuple[Interval, ...]], intervals: Mapping[str, Iterable[Interval]]) -> None:
    """Add the intervals of each name to those of a total."""
    for name, of_name in intervals.items():
        total[name] = merged([*total.get(name, ()), *of_name])


def subtract(intervals: Iterable[Interval], removed: Iterable[Interval]) -> tuple[Interval, ...]:
    """The parts of the intervals that lie in none of the removed intervals."""
    taken = merged(removed)
    ends = [end for _, end in taken]
    left: list[Interval] = []
    for start, end in merged(intervals):
        position = bisect_right(ends, start)
        while position < len(taken) and taken[position][0] < end:
            left.append((start, taken[position][0]))
            start = taken[position][1]
            position += 1
        left.append((start, end))
    return tuple((start, end) for start, end in left if start < end)


def common(intervals: Iterable[Interval], others: Iterable[Interval]) -> tuple[Interval, ...]:
    """The parts of the intervals that lie in one of the others."""
    intervals = list(intervals)
    return subtract(intervals, subtract(intervals, others))


def without(intervals: Iterable[Interval], taken: Sequence[Interval], *, uninterrupted: bool) -> list[Interval]:
    """The intervals that overlap with none of `taken`, which are in order and apart.

    SQLMesh's own `interval_diff` is wrong for intervals of different units: if one hour is taken from a day, it removes
    the days after it as well, or nothing. `uninterrupted` leaves out everything after the first overlap.
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


def ready_by_signals(
    intervals: Sequence[Interval],
    ready: list[Interval],
    upstream: Iterable[Set[Interval]],
    *,
    depends_on_past: Callable[[], bool],
    drops_rows: Callable[[Iterable[Interval]], bool],
) -> tuple[list[Interval], Set[Interval]]:
    """The intervals of a model that may be batched, and those that it or models upstream lack because of signals.

    Args:
        intervals: The single intervals that SQLMesh asks the model's signals about.
        ready: Those of them that the signals report as ready.
        upstream: What the models that it reads lack, also those that it reads through views.
        depends_on_past: Asks SQLMesh, which renders a query for the answer.
        drops_rows: Whether rows would be gone if only these are computed.
    """
    lacking = set(intervals).difference(ready).union(*upstream)
    if lacking:
        ready = without(ready, merged(lacking), uninterrupted=depends_on_past())
    if lacking and drops_rows(ready):
        ready = []
    return ready, lacking | set(intervals).difference(ready)
