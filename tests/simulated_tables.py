"""Tables of rows, computed as SQLMesh computes them, in slots of time. It is slow, and knows no interval arithmetic.

A slot is a quarter of a day. The source has a row in each slot, and one without a time. Rows are the slots, so what a
table shows is a set of numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby

FIRST, END = -8, 80
"""The source has a row in each slot from the first one to the end."""
NO_TIME = -1000
SOURCE = frozenset([*range(FIRST, END), NO_TIME])
Range = tuple[int, int]


def ranges(slots: Iterable[int]) -> list[Range]:
    """The adjoining slots as pairs of start and end."""
    numbered = enumerate(sorted(slots))
    runs = [[slot for _, slot in run] for _, run in groupby(numbered, lambda pair: pair[1] - pair[0])]
    return [(run[0], run[-1] + 1) for run in runs]


def slots_in(pairs: Iterable[Range]) -> set[int]:
    return {slot for start, end in pairs for slot in range(max(start, FIRST), min(end, END))}


@dataclass(frozen=True)
class Schedule:
    """Which intervals a model has.

    Attributes:
        start: Its first slot.
        end: The slot before which it ends; None for no end.
        unit: The length of its intervals.
    """

    start: int = 0
    end: int | None = None
    unit: int = 4

    def expected(self, now: int) -> set[int]:
        """The slots of the intervals that are over."""
        until = now if self.end is None else min(now, self.end)
        first = self.start // self.unit * self.unit
        return {
            slot
            for begin in range(first, until, self.unit)
            if begin + self.unit <= until
            for slot in range(max(begin, self.start), begin + self.unit)
        }

    def around(self, interval: Range) -> Range:
        """The range of its own intervals that a range overlaps."""
        start, end = interval
        return max(start // self.unit * self.unit, self.start), -(-end // self.unit) * self.unit


@dataclass
class Table:
    """A table whose rows are computed by intervals, as a whole, or never, because it is a view.

    Attributes:
        reads: What it reads; None is the source.
        kind: `by_time`; `unfiltered` computes intervals, and adds all rows of its source each time; `whole` computes
            all rows at each tick; `view` shows what its source shows.
    """

    schedule: Schedule
    reads: Table | None = None
    kind: str = "by_time"
    rows: set[int] = field(default_factory=set)
    computed: set[int] = field(default_factory=set)

    @property
    def shown(self) -> set[int]:
        return self.source if self.kind == "view" else self.rows

    @property
    def source(self) -> set[int]:
        return set(SOURCE) if self.reads is None else self.reads.shown

    def missing(self, now: int) -> set[int]:
        return self.schedule.expected(now) - self.computed

    def compute(self, slots: set[int]) -> None:
        """Compute intervals."""
        if not slots or self.kind == "view":
            return
        self.computed |= slots
        if self.kind == "by_time":
            self.rows = (self.rows - slots) | (self.source & slots)
        else:
            self.rows = self.source | (self.rows if self.kind == "unfiltered" else set())

    def run(self, now: int) -> None:
        self.compute(self.missing(now))

    def copy(self, reads: Table | None) -> Table:
        return Table(self.schedule, reads, self.kind, {*self.rows}, {*self.computed})


def run_all(tables: Sequence[Table], now: int) -> None:
    """Run the missing intervals of tables, each after the tables that it reads."""
    for table in tables:
        table.run(now)
