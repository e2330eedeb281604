"""Decide which intervals a node should have and lacks, from plain data."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass, replace
from itertools import pairwise

from dg_sqlmesh_component.protocol.intervals import common, merged, subtract, without
from dg_sqlmesh_component.protocol.messages import MAX_GAPS, Interval, IntervalCoverage


@dataclass(frozen=True)
class Expected:
    """A node, as far as the decision needs it.

    Attributes:
        until: The instant up to which it must be computed: the last tick of its cron, in whole intervals.
        pending: The single intervals that it lacks, also if its cron has not ticked, and those that its `lookback`
            computes again with them.
        waits_for_tables: Finds those of `pending` that a run of all nodes would hold back because of tables.
        due_at: Finds the first tick of its cron at or after the end of an interval.
        computed: Its computed intervals.
        forgotten: Those that are to be computed again: their rows were there.
        copied: Those of `computed` without rows, which SQLMesh has copied from prod's record. They are not missing.
        late: Computed before their source was loaded.
        outdated: Computed before a model that it reads had them.
        outdated_until_computed: Those of `outdated` whose rows the next computation of any interval brings.
        starts_at: Finds the instant before which SQLMesh computes nothing of it.
        has_start: Finds whether that is its `start`. If not, it is that of the newest interval.
        restated_first: As in `IntervalCoverage`, like the next one.
        unready: The single intervals that signals hold back.
    """

    until: int
    pending: Sequence[Interval]
    waits_for_tables: Callable[[], Set[Interval]]
    due_at: Callable[[int], int]
    computed: Sequence[Interval] = ()
    forgotten: Sequence[Interval] = ()
    copied: Sequence[Interval] = ()
    late: Sequence[Interval] = ()
    outdated: Sequence[Interval] = ()
    outdated_until_computed: Sequence[Interval] = ()
    starts_at: Callable[[], int] = lambda: 0
    has_start: Callable[[], bool] = lambda: True
    restated_first: Sequence[str] = ()
    may_hide_outdated: bool = False
    unready: Set[Interval] = frozenset()

    def after(self, done: Sequence[Interval], forgotten: Sequence[Interval]) -> Expected:
        """The node after intervals were forgotten to be computed again, and others were then computed."""
        return replace(
            self,
            computed=merged([*subtract(self.computed, forgotten), *done]),
            forgotten=[*self.forgotten, *forgotten],
            copied=subtract(self.copied, [*forgotten, *done]),
            late=subtract(self.late, done),
            outdated=subtract(self.outdated, [*done, *(self.outdated_until_computed if done else ())]),
        )

    @property
    def filled(self) -> Sequence[Interval]:
        """The intervals whose rows are in its table."""
        return subtract(self.computed, self.copied)

    def due(self, intervals: Sequence[Interval]) -> list[Interval]:
        """Those of its intervals for which its cron has ticked, or that were computed before."""
        new = self.never_computed(intervals)
        return [interval for interval in intervals if interval[1] <= self.until or interval not in new]

    def never_computed(self, intervals: Sequence[Interval]) -> set[Interval]:
        return set(uncovered(intervals, merged([*self.computed, *self.forgotten])))


def missing(node: Expected) -> tuple[list[Interval], list[Interval]]:
    """The intervals that a node should have and lacks: those without an excuse, and those that wait.

    They wait for tables or signals. An interval is missing from the next tick of the cron on. One that was computed
    and forgotten is missing at once, whatever it waits for: its old rows may be shown.
    """
    lacking = node.due(uncovered(node.pending, merged(node.computed)))
    # Nothing else has an excuse, and to find what waits for tables takes a decision about all nodes.
    if not (never := node.never_computed(lacking)):
        return lacking, []
    ready = set(without(lacking, merged(node.unready), uninterrupted=False))
    waiting = {of for of in never if of not in ready or of in node.waits_for_tables()}
    return [of for of in lacking if of not in waiting], [of for of in lacking if of in waiting]


def coverage(name: str, node: Expected, now: int) -> IntervalCoverage:
    """What is computed and what is missing of an incremental model, at an instant in epoch milliseconds."""
    filled = node.filled
    found, waiting = missing(node)
    outdated, late = common(node.outdated, filled), common(node.late, filled)
    covered = IntervalCoverage(
        name,
        (filled[0][0], filled[-1][1]) if filled else None,
        waiting=merged(waiting),
        late=late,
        outdated=outdated,
        before_start=common(merged([*outdated, *late]), [(0, node.starts_at())]) if outdated or late else (),
        restated_first=tuple(node.restated_first),
        may_hide_outdated=node.may_hide_outdated,
        lacking=sum(after[0] - before[1] for before, after in pairwise(filled)),
        skipped=_skipped(node)[:MAX_GAPS],
    )
    if not found:
        return covered
    gaps, end = merged(found), found[0][1]
    since = node.due_at(end)
    return replace(
        covered,
        gaps=gaps[:MAX_GAPS],
        gap_count=len(gaps),
        missing_intervals=len(found),
        missing_since=since if since <= now else end,
    )


def _skipped(node: Expected) -> tuple[Interval, ...]:
    """The forgotten ranges, and those between others, that no run computes, because the model has no `start`."""
    known = merged([*node.computed, *node.forgotten])
    lacking = subtract([(known[0][0], known[-1][1])], node.computed) if known else ()
    return common(lacking, [(0, node.starts_at())]) if lacking and not node.has_start() else ()


def uncovered(intervals: Iterable[Interval], covered: Sequence[Interval]) -> list[Interval]:
    """The intervals that lie in none of the covered ranges, which are in order and apart."""
    starts = [start for start, _ in covered]
    found = []
    for interval in intervals:
        position = bisect_right(starts, interval[0]) - 1
        if position < 0 or covered[position][1] < interval[1]:
            found.append(interval)
    return found
