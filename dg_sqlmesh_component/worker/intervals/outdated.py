"""Decide which rows are outdated: a table that they were computed from has changed since."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

from dg_sqlmesh_component.protocol.graph import parents_first
from dg_sqlmesh_component.protocol.intervals import ComputedRange, common, merged
from dg_sqlmesh_component.protocol.messages import Interval

_SLACK = 5_000
"""Milliseconds by which the clocks of two hosts may differ, and by which a row may be written after its time."""


@dataclass(frozen=True)
class Table:
    """A table that prod shows.

    Attributes:
        rows: Its computed ranges. One that was not there before is the evidence of a computation.
        seen: Those that were there before.
        lost: The intervals that it had before, and does not have.
        is_torn: Whether it has no rows while it is replaced.
    """

    rows: Sequence[ComputedRange]
    seen: Sequence[ComputedRange] = ()
    lost: Sequence[Interval] = ()
    is_torn: bool = False

    def altered(self, since: int, *, only_rewritten: bool) -> Sequence[Interval]:
        """The intervals that were computed since an instant, epoch milliseconds, or are lost.

        Args:
            only_rewritten: Leave out those that the table did not have before.
        """
        seen = set(self.seen)
        after = [row for row in self.rows if row not in seen and row.at > since - _SLACK]
        if after and self.is_torn:
            return [(0, sys.maxsize)]
        if not only_rewritten:
            return [*self.lost, *(row.interval for row in after)]
        # If a day was taken and computed again, perhaps only `seen` has its first row: the janitor merges the others.
        before = merged(row.interval for row in [*self.seen, *(row for row in self.rows if row not in after)])
        whole = [row.interval for row in after if row.is_merged]  # SQLMesh's janitor has merged it with older ones
        return [*self.lost, *whole, *common((row.interval for row in after if not row.is_merged), before)]

    def computed_twice(self, since: int) -> Iterator[Interval]:
        """The intervals that were computed again since an instant. A row that the janitor has merged does not tell.

        Without `_SLACK`: a restatement computes a table and, within seconds, what reads it.
        """
        before: tuple[Interval, ...] = ()
        for row in sorted(self.rows, key=lambda row: row.at):
            if row.at > since and not row.is_merged:
                yield from common([row.interval], before)
            before = merged([*before, row.interval])


@dataclass(frozen=True)
class Version:
    """A version that prod does not show yet.

    Attributes:
        reads: The other new versions that it reads, by name.
        computed: Its intervals.
        lost: Those that it had before, and does not have.
        gaps: Other intervals that it lacks, before computed ones that depend on them.
        altered: The rewritten and lost intervals of the tables of prod that it reads.
        whole: The range of its own intervals that a range overlaps.
        depends_on_past: Asks SQLMesh, which renders a query for the answer.
        is_by_interval: Whether SQLMesh computes it range by range.
        is_in_parts: Whether SQLMesh computes a part of it again, and what follows. It computes others as a whole.
    """

    reads: Set[str]
    computed: Sequence[Interval]
    lost: Sequence[Interval]
    gaps: Sequence[Interval]
    altered: Sequence[Interval]
    whole: Callable[[Interval], Interval]
    depends_on_past: Callable[[], bool]
    is_by_interval: bool
    is_in_parts: bool


def outdated(versions: Mapping[str, Version]) -> dict[str, tuple[Interval, ...]]:
    """By name, the intervals to compute again: lost ones, those after a gap, and those that have read old rows."""
    found: dict[str, tuple[Interval, ...]] = {}
    for name in parents_first(versions, lambda name: versions[name].reads):
        version = versions[name]
        computed = merged([*version.computed, *version.lost])
        read = (interval for parent in version.reads for interval in found.get(parent, ()))
        parts = common([*version.lost, *version.altered, *version.gaps, *read], [*computed, *version.gaps])
        if not parts:
            continue
        if not version.is_by_interval or version.depends_on_past():  # what was computed after an interval has read it
            parts = ((parts[0][0] if version.is_in_parts else computed[0][0], computed[-1][1]),)
        found[name] = common([version.whole(part) for part in parts], computed)
    return found
