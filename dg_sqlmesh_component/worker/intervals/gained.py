"""Decide which intervals of a model lack rows, because a table that it reads gains intervals in a plan.

A model computes an interval from the rows that its sources have at that moment. If a source gets an interval later, as
with an earlier `start`, the models that have computed it without these rows count as complete. SQLMesh never computes
them again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Literal

from dg_sqlmesh_component.protocol.graph import parents_first
from dg_sqlmesh_component.protocol.intervals import common, merged, subtract
from dg_sqlmesh_component.protocol.messages import Interval

Again = Literal["in_parts", "as_a_whole", "at_its_tick", "never"]
"""How a table is computed again: some intervals; all rows at once; all rows, but only at the next tick of its cron; or
only if somebody asks for it."""


@dataclass(frozen=True)
class ReadTable:
    """A table of a plan.

    Attributes:
        reads: The tables that it reads, through views and embedded models, by name. If it keeps its rows: only those
            that it has also read before the plan.
        shown: The intervals that it had before the plan. A table that is computed as a whole has none here.
        coming: The intervals that it would have had soon without the plan: those that the next run would compute.
        computed: The intervals of the version that the plan shows, as far as they are computed.
        planned: The intervals that the plan, or the first run after it, computes.
        keeps_rows: Whether the plan keeps its rows. Else it is computed from the new versions of what it reads.
        again: How it is computed again.
        whole: The range of its own intervals that a range overlaps.
        depends_on_past: Asks SQLMesh, which renders a query for the answer.
    """

    reads: Set[str]
    shown: Sequence[Interval]
    coming: Sequence[Interval]
    computed: Sequence[Interval]
    planned: Sequence[Interval]
    keeps_rows: bool
    again: Again
    whole: Callable[[Interval], Interval]
    depends_on_past: Callable[[], bool]

    @property
    def has_intervals(self) -> bool:
        """Whether its rows are those of its intervals."""
        return self.again in ("in_parts", "never")

    @property
    def gains(self) -> tuple[Interval, ...]:
        """What it has after the plan, or after the next run, and would not have without the plan."""
        if not self.has_intervals:
            return ()
        return subtract([*self.computed, *self.planned], [*self.shown, *self.coming])


@dataclass(frozen=True)
class LackingRows:
    """By name, the intervals that count as computed and lack rows of a table that the model reads.

    Attributes:
        again: Those that have to be computed again, after what they read.
        left: Those of tables that cannot be computed again in part, and of tables that read these.
        because_of: The nearest tables with these rows.
    """

    again: dict[str, tuple[Interval, ...]] = field(default_factory=dict)
    left: dict[str, tuple[Interval, ...]] = field(default_factory=dict)
    because_of: dict[str, tuple[str, ...]] = field(default_factory=dict)


def lacking_rows(tables: Mapping[str, ReadTable]) -> LackingRows:
    """The intervals that lack rows because of a plan. Tables that read them lack the same rows."""
    order = parents_first(tables, lambda name: tables[name].reads & tables.keys())
    walk = _Walk(tables)
    for name in order:
        if tables[name].keeps_rows:
            walk.visit_kept(name)
        else:
            walk.visit_new(name)
    return _without_idle_wholes(walk.found, tables, order)


class _Walk:
    """Visits each table of a plan once, after those that it reads.

    Attributes:
        new: By name, the ranges with rows that readers have not read: it gains them, or computes them again.
        stale: By name, the ranges that get such rows only when somebody asks, or at the next tick.
    """

    def __init__(self, tables: Mapping[str, ReadTable]) -> None:
        self.found = LackingRows()
        self.new: dict[str, tuple[Interval, ...]] = {}
        self.stale: dict[str, tuple[Interval, ...]] = {}
        self._tables = tables

    def visit_kept(self, name: str) -> None:
        """Of a table with the rows of before, intervals with new rows are computed again, if they can be."""
        table, gained, of_stale = self._tables[name], self.new_of(name), self._read(name, self.stale)
        again: tuple[Interval, ...] = ()
        if not table.has_intervals:
            # Later rows were not due when its cron ticked: its next tick reads them.
            gained = [*common(gained, [(0, table.computed[-1][1])])] if table.computed else []
            is_computed = table.again == "as_a_whole"
            again = tuple(table.computed[-1:]) if is_computed and gained else ()
            self.new[name] = _own(table, gained if is_computed else ())
            self.stale[name] = merged([*of_stale, *(() if is_computed else gained)])
        else:
            parts, is_computed = common(gained, table.computed), table.again == "in_parts"
            again = _parts(table, parts) if parts and is_computed else ()
            left = common([*of_stale, *(() if is_computed else parts)], table.computed)
            self.new[name], self.stale[name] = _own(table, again), left
            self._add(self.found.left, name, left)
        self._add(self.found.again, name, again)

    def visit_new(self, name: str) -> None:
        """A new version is computed from the new versions of what it reads."""
        table, gained = self._tables[name], self.new_of(name)
        # A preview may have computed it from rows that are computed again.
        read_again = {of: self.new.get(of, ()) for of in self.found.again}
        if again := common(self._read(name, read_again), table.computed):
            self._add(
                self.found.again, name, merged(table.computed) if table.again == "never" else _parts(table, again)
            )
        has = [*table.computed, *table.planned]
        self.new[name] = _own(table, common(gained, has) if table.has_intervals else gained)

    def new_of(self, name: str) -> list[Interval]:
        """The ranges with new rows of the tables that a table reads."""
        return self._read(name, self.new)

    def _read(self, name: str, ranges: Mapping[str, Sequence[Interval]]) -> list[Interval]:
        return [part for of in self._tables[name].reads for part in ranges.get(of, ())]

    def _add(self, to: dict[str, tuple[Interval, ...]], name: str, parts: tuple[Interval, ...]) -> None:
        if not parts:
            return
        to[name] = parts
        of_tables = {of: self._changed(of) for of in self._tables[name].reads & self._tables.keys()}
        nearest = sorted(of for of, changed in of_tables.items() if common(changed, parts))
        self.found.because_of[name] = tuple(nearest or sorted(of for of, changed in of_tables.items() if changed))

    def _changed(self, name: str) -> list[Interval]:
        return [*self.new.get(name, ()), *self.stale.get(name, ())]


def _own(table: ReadTable, parts: Sequence[Interval]) -> tuple[Interval, ...]:
    """The ranges of a table with new rows: its own gains, and these."""
    return merged([*table.gains, *parts])


def _parts(table: ReadTable, parts: Sequence[Interval]) -> tuple[Interval, ...]:
    """The whole computed intervals, with the later ones if they depend on them."""
    if table.depends_on_past():
        parts = [(parts[0][0], table.computed[-1][1])]
    return common(map(table.whole, parts), table.computed)


def _without_idle_wholes(found: LackingRows, tables: Mapping[str, ReadTable], order: Sequence[str]) -> LackingRows:
    """Without tables that are computed at their next tick, unless a table that is computed now reads them."""
    needed: set[str] = set()
    again = {}
    for name in reversed(order):
        if name in found.again and (tables[name].again != "as_a_whole" or name in needed):
            again[name] = found.again[name]
            needed |= tables[name].reads
    named = {**again, **found.left}
    return replace(found, again=again, because_of={name: of for name, of in found.because_of.items() if name in named})
