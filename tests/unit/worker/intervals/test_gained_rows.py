"""All small changes of a source: which rows a model downstream lacks, by a simulation of every row.

The simulation (tests/simulated_tables.py) computes tables with and without the change. What the rule names must be
exactly what makes the rows downstream right.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import product

import pytest
from simulated_tables import Range, Schedule, Table, ranges, run_all, slots_in

from dg_sqlmesh_component.worker.intervals.gained import Again, LackingRows, ReadTable, lacking_rows

NOW = 42
"""Two slots of the current day, the eleventh, are over. A week has 28 slots."""
SCHEDULES = [Schedule(*values) for values in product((0, 8), (None, 24), (1, 4, 28))]
READERS = [Schedule(start, None, unit) for start, unit in product((0, 8), (1, 4))]
NAMES = ("source", "reader", "last")
WHOLE = ("as_a_whole", "at_its_tick")
LATER = 28
PLANNED_AT = (NOW, NOW - 4)
"""When prod was computed last: now, or a day earlier, so that a run has a day to compute."""


@dataclass(frozen=True)
class Change:
    """Another schedule of a source, of which a reader keeps its rows, and a reader of this reader, too.

    Attributes:
        keeps_rows: Whether the source keeps its rows. Else it has a new table.
        again: How the reader is computed again.
    """

    before: Schedule
    after: Schedule
    reader: Schedule
    planned_at: int
    keeps_rows: bool
    again: Again = "in_parts"

    def prod(self) -> list[Table]:
        """The source, the reader, and its reader, before the change."""
        source = Table(self.before)
        reader = Table(self.reader, source, "whole" if self.again in WHOLE else "by_time")
        tables = [source, reader, Table(Schedule(), reader)]
        run_all(tables, self.planned_at)
        return tables

    def changed(self) -> list[Table]:
        """The same right after the change, before anything is computed."""
        source, reader, last = self.prod()
        new = Table(self.after)
        if self.keeps_rows:
            new.rows, new.computed = source.rows, source.computed
        kept = reader.copy(new)
        return [new, kept, last.copy(kept)]

    def found(self) -> LackingRows:
        """What the rule finds."""
        before, after = self.prod(), self.changed()
        again: tuple[Again, ...] = ("in_parts", self.again, "in_parts")
        return lacking_rows(
            {
                name: ReadTable(
                    reads=frozenset(NAMES[number - 1 : number]) if number else frozenset(),
                    shown=() if again[number] in WHOLE else ranges(before[number].computed),
                    coming=() if again[number] in WHOLE else ranges(before[number].missing(NOW)),
                    computed=ranges(after[number].computed),
                    planned=ranges(after[number].missing(NOW)),
                    keeps_rows=self.keeps_rows or number > 0,
                    again=again[number],
                    whole=after[number].schedule.around,
                    depends_on_past=lambda: False,
                )
                for number, name in enumerate(NAMES)
            }
        )

    def fresh(self, schedule: Schedule) -> list[Table]:
        """The same tables, computed now from nothing."""
        source = Table(schedule)
        tables = [source, *(table.copy(source) for table in self.prod()[1:])]
        tables[2].reads = tables[1]
        for table in tables:
            table.rows, table.computed = set(), set()
        run_all(tables, NOW)
        return tables


def changes(again: Again) -> Iterator[Change]:
    every = product(SCHEDULES, SCHEDULES, READERS, PLANNED_AT, (True, False))
    return (Change(*values, again) for values in every)


@cache
def lacks_without_change(change: Change) -> list[set[int]]:
    return lacks(change.prod(), change.fresh(change.before))


@cache
def fresh_after(change: Change) -> list[Table]:
    return change.fresh(change.after)


def lacks(tables: list[Table], fresh: list[Table], now: int = NOW) -> list[set[int]]:
    """Run tables. Return the computed slots of each whose row a fresh project has, and it does not."""
    run_all(tables, now)
    return [(new.rows & table.computed) - table.rows for table, new in zip(tables, fresh, strict=True)]


def is_needed(named: Sequence[Range], lacking: set[int]) -> bool:
    """Whether each range that is named lacks a row."""
    return all(lacking & {*range(start, end)} for start, end in named)


@pytest.mark.parametrize("again", ["in_parts", "at_its_tick", "as_a_whole", "never"])
def test_the_ranges_that_are_named_are_those_that_lack_rows(again: Again) -> None:
    """What a reader lacks also without the change is not named: it ticks before its source."""
    for change in changes(again):
        found, tables = change.found(), change.changed()
        fresh = fresh_after(replace(change, before=change.after, keeps_rows=True, planned_at=NOW))
        without = lacks_without_change(replace(change, after=change.before, keeps_rows=True))
        unaided = lacks(change.changed(), fresh)
        for table, name in zip(tables, NAMES, strict=True):
            table.computed -= slots_in(found.again.get(name, ()))
        aided = lacks(tables, fresh)
        for number, name in enumerate(NAMES[1:], 1):
            left, case = found.left.get(name, ()), (change, name, found, aided, unaided)
            is_idle = name == "reader" and again in WHOLE
            # The last table may compute an interval after the plan from rows that are left to a restatement.
            accepted = without[number] | slots_in([*left, *found.left.get("reader", ())])
            assert is_idle or aided[number] <= accepted, case
            assert is_idle or is_needed(found.again.get(name, ()), unaided[number] - without[number]), case
            assert is_needed(left, aided[number] - without[number]), case
        lacking_later = lacks(tables, fresh, NOW + LATER)
        assert again not in WHOLE or lacking_later[1] <= without[1], (change, found, lacking_later)
