"""Decide which intervals a model has computed too early: a table that it reads has got them only afterwards.

Plans compute such models again (`gained`). Runs do not: somebody has computed the model without its source, for example
`sqlmesh run` in a shell, or a signal of the source was not ready then. The model's check names these intervals.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from operator import attrgetter

from dg_sqlmesh_component.protocol.intervals import ALL_TIME, ComputedRange, common, merged, subtract
from dg_sqlmesh_component.protocol.messages import Interval


@dataclass(frozen=True)
class Reader:
    """An incremental model that reads others.

    Attributes:
        rows: Its computed ranges.
        computed: Its computed intervals. A restatement leaves ranges of intervals that are not computed any more.
        known: The intervals that are known as computed too early.
        known_at: Nobody had computed these again until then.
    """

    rows: Sequence[ComputedRange]
    computed: Sequence[Interval]
    known: Sequence[Interval] = ()
    known_at: int = 0

    @property
    def of_all_rows(self) -> Reader:
        """The same model, if each of its computations reads all rows of its sources."""
        return replace(self, rows=[replace(row, interval=ALL_TIME) for row in self.rows])


@dataclass(frozen=True)
class Source:
    """An incremental table that the model reads, also through views, embedded models, and tables computed as a whole.

    Attributes:
        new: What was computed since the model was compared with it.
        earlier: Asks for its other computed ranges.
        of_other_versions: Asks for those of versions of it that the environment does not show.
        single: The single intervals of a range.
        due_at: The first tick of its cron at or after the end of an interval.
    """

    new: Sequence[ComputedRange]
    earlier: Callable[[], Sequence[ComputedRange]]
    of_other_versions: Callable[[], Sequence[ComputedRange]]
    single: Callable[[Sequence[Interval]], Iterable[Interval]]
    due_at: Callable[[int], int]

    def together(self, other: Source) -> Source:
        """The same table, read in two ways."""
        return replace(
            self, new=[*{*self.new, *other.new}], due_at=lambda end: max(self.due_at(end), other.due_at(end))
        )


@dataclass(frozen=True)
class ReadEarly:
    """What a model was computed for too early.

    Attributes:
        may_hide: Whether its sources have other new ranges: the janitor has merged them, or they were computed again.
            They tell nothing, but what was known before may still be true.
        until_computed: Those of the intervals whose rows any computation of the model brings, as it reads all rows.
        first: The models furthest upstream that were computed too early, by name: they have to be computed again first.
    """

    intervals: tuple[Interval, ...] = ()
    may_hide: bool = False
    until_computed: tuple[Interval, ...] = ()
    first: frozenset[str] = frozenset()


def shown_by(whole: Sequence[ComputedRange], source: Source, due_at: Callable[[int], int]) -> Source:
    """A source as a table shows it that reads it and is computed as a whole: with the times at which the table got it.

    A range that the table has not read yet is left out. Before the first known computation of the table, nobody knows
    when it was read: SQLMesh may have forgotten an older version of the table, or its janitor has merged the times.

    Args:
        whole: The computed ranges of the table, also of its other versions, in the order of their times.
        due_at: The first tick of the table's cron at or after an instant.
    """
    moved = []
    for row in source.new:
        position = bisect_left(whole, row.at, key=time_of)
        if position < len(whole):
            read = whole[position]
            is_unknown = row.is_merged or read.is_merged or position == 0
            moved.append(replace(row, at=read.at, is_merged=is_unknown))
    return replace(source, new=moved, due_at=lambda end: due_at(source.due_at(end)))


time_of = attrgetter("at")


def read_early(reader: Reader, sources: Iterable[Source]) -> ReadEarly:
    """The intervals of a model that were computed before a table that it reads had them.

    A range of a source counts if no version of it had the range before. If it is computed again, as by a `lookback`, it
    does not count. Neither does one that was not due when the model was computed: as in SQLMesh, an hourly model does
    not wait for the day of a daily one. A range that the janitor has merged tells nothing.
    """
    found, may_hide = list(reader.known), False
    if found:
        again = [row.interval for row in reader.rows if row.at > reader.known_at and not row.is_merged]
        found = list(subtract(found, again))
    later_rows = _LaterRows(reader.rows)
    for source in sources:
        for row in source.new:
            if later_rows.cover(row):  # in most runs, all of them
                continue
            read = [of for of in reader.rows if _overlaps(of, row.interval)]
            later = [of.interval for of in read if of.at >= row.at and not of.is_merged]
            newer = subtract(common([row.interval], reader.computed), later)
            gained = () if row.is_merged else common(_gained(source, row), newer)
            single = source.single(gained) if gained else ()
            found += [of for of in single if _should_have_had(source, of, read, row.at)]
            may_hide |= bool(subtract(newer, gained))
    return ReadEarly(common(merged(found), reader.computed), may_hide)


class _LaterRows:
    """Finds quickly whether a model was computed for a whole range after its source."""

    def __init__(self, rows: Sequence[ComputedRange]) -> None:
        self._rows = rows

    def cover(self, row: ComputedRange) -> bool:
        """Whether one of the last rows of the model covers it, or one of the nearest. If not, another one may."""
        if any(_covers(of, row) for of in self._rows[-2:]):  # as after most runs
            return True
        rows, starts = self._in_order
        position = bisect_right(starts, row.interval[0])
        return any(_covers(of, row) for of in rows[max(position - 2, 0) : position])

    @cached_property
    def _in_order(self) -> tuple[Sequence[ComputedRange], Sequence[int]]:
        rows = sorted((row for row in self._rows if not row.is_merged), key=lambda row: row.interval)
        return rows, [row.interval[0] for row in rows]


def _covers(later: ComputedRange, row: ComputedRange) -> bool:
    (start, end), (first, last) = later.interval, row.interval
    return later.at >= row.at and start <= first and last <= end and not later.is_merged


def _gained(source: Source, row: ComputedRange) -> Sequence[Interval]:
    """The parts of a range that no version of a table had before it was computed."""
    rows = [*source.earlier(), *source.new]
    before = [of.interval for of in rows if of.is_merged or of.at < row.at]
    return subtract([row.interval], [*before, *(of.interval for of in source.of_other_versions())])


def _should_have_had(source: Source, interval: Interval, read: Sequence[ComputedRange], at: int) -> bool:
    """Whether a source should have had an interval, which it has got at an instant, when the model was computed for it.

    SQLMesh may have forgotten what an older version of the source had. So the source must have rows of that time.

    Args:
        read: The computed ranges of the model that may be about the interval.
    """
    read_at = max((row.at for row in read if _overlaps(row, interval) and row.at < at), default=0)
    if source.due_at(interval[1]) > read_at:
        return False
    rows = [*source.earlier(), *source.new, *source.of_other_versions()]
    return any(row.is_merged or row.at <= read_at for row in rows)


def _overlaps(row: ComputedRange, interval: Interval) -> bool:
    return row.interval[0] < interval[1] and interval[0] < row.interval[1]
