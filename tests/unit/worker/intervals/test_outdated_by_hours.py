"""Random histories of runs during a plan: which hours of new versions are stale, compared with a simulated warehouse.

The oracle was written from docs/ and the descriptions of the arguments alone, without a look at the rule. It keeps the
rows of each hour as one number. An hour is stale if a computation from today's rows would give another number.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dg_sqlmesh_component.protocol.intervals import ComputedRange, merged
from dg_sqlmesh_component.protocol.messages import Interval
from dg_sqlmesh_component.worker.intervals.outdated import Table, Version, outdated

Hours = set[int]
END, MINUTE, NO_ROWS, TO_COME = 12, 60_000, -1, -2
EXAMPLES = 4 * settings().max_examples
KINDS = [(True, False), (True, False), (True, True), (False, False), (False, True)]


def hours(intervals: Iterable[Interval]) -> Hours:
    return {hour for interval in intervals for hour in range(*interval)}


def ranges(of: Iterable[int]) -> tuple[Interval, ...]:
    return merged((hour, hour + 1) for hour in of)


@dataclass
class New:
    """A new version of a model. It reads the hours of its own interval, or everything before the end of it."""

    unit: int
    sources: list[str]
    is_by_interval: bool
    is_past: bool
    is_in_parts: bool
    outside: list[int] = field(default_factory=lambda: [0] * END)  # what it reads outside of the project
    since: int | None = None  # its first computation
    known: dict[str, dict[int, int]] = field(default_factory=dict)  # the tables of prod then, or at a later look

    def whole(self, interval: Interval) -> Interval:
        return interval[0] // self.unit * self.unit, -(-interval[1] // self.unit) * self.unit

    def reads(self, hour: int) -> list[tuple[str, int]]:
        start, end = self.whole((hour, hour + 1))
        return [(source, h) for source in self.sources for h in range(start if self.is_by_interval else 0, end)]

    def past(self, hour: int) -> Hours:
        return set(range(self.whole((hour, hour))[0])) if self.is_past else set()


class World:
    def __init__(self, seed: int, has_janitor: bool) -> None:
        self.rng, self.now, self.fresh, self.has_janitor = Random(seed), 0, count(1), has_janitor
        self.numbers: dict[object, int] = {}
        self.rows: dict[str, list[ComputedRange]] = {f"t{number}": [] for number in range(self.rng.randint(1, 2))}
        self.content: dict[str, dict[int, int]] = {name: {} for name in self.rows}
        self.new: dict[str, New] = {}
        for number in range(self.rng.randint(1, 4)):
            sources = self.rng.sample(list(self.content), self.rng.randint(1, min(2, len(self.content))))
            kind = (*self.rng.choice(KINDS), self.rng.random() < 0.7)
            self.new[f"n{number}"] = New(self.rng.choice((1, 1, 2, 3)), sources, *kind)
            self.content[f"n{number}"] = {}
        for name in self.rows:
            self._write(name, (0, self.rng.randint(4, END)))
        self.forget({})

    def forget(self, answer: dict[str, Hours]) -> None:
        """The plan forgets what it computes again. Then it remembers what there is, and what each version lacks."""
        for name, again in answer.items():
            self.content[name] = {hour: rows for hour, rows in self.content[name].items() if hour not in again}
        self.seen = {name: list(rows) for name, rows in self.rows.items()}
        self.had = {name: set(content) for name, content in self.content.items()}
        self.todo = {name: set(range(END)) - self.had[name] for name in self.new}
        for new in self.new.values():
            new.known = self._prod()

    def happens(self) -> None:
        """Between two looks of the plan: runs, restatements, the janitor, and the plan itself, minutes apart."""
        for _ in range(self.rng.randint(1, 10)):
            self.now += self.rng.randint(1, 3) * MINUTE
            start, kind = self.rng.randrange(END), self.rng.random()
            some = (start, self.rng.randint(start + 1, min(start + 4, END)))
            name, of_prod = self.rng.choice(list(self.new)), self.rng.choice(list(self.rows))
            if kind < 0.25:
                self._write(of_prod, some)
            elif kind < 0.35:
                self._take(of_prod, hours([some]))
            elif kind < 0.45:
                # Not between a loss and the computation after it: then `altered(only_rewritten=True)` leaves out what
                # the table had before, because no row shows it any more.
                if self.has_janitor and not self.lost(of_prod):
                    self._merge(of_prod)
            elif kind < 0.5:
                self._take(name, hours([self.new[name].whole(some)]) & self.had[name])
            else:
                self._compute(name)
        for name, new in self.new.items():  # before the look, also downstream: a restatement of prod has left a gap
            if new.is_past and self.rng.random() < 0.2:
                start, concerned = self.rng.randrange(0, END, 6), {name}
                for other in self.new:
                    if other in concerned or concerned & set(self.new[other].sources):
                        concerned.add(other)
                        self._take(other, set(range(start, start + 6)))
                        self.had[other] -= set(range(start, start + 6))

    def _write(self, name: str, interval: Interval) -> None:
        self.rows[name].append(ComputedRange(interval, self.now, is_merged=False, identifier="shown"))
        self.content[name] |= {hour: next(self.fresh) for hour in range(*interval)}

    def _merge(self, name: str) -> None:
        rows, self.rows[name] = self.rows[name], []
        for start, end in ranges(self.content[name]):
            of = [row for row in rows if row.interval[0] < end and start < row.interval[1]]
            one = ComputedRange((start, end), max(row.at for row in of), is_merged=True, identifier="shown")
            self.rows[name].append(of[0] if [row.interval for row in of] == [(start, end)] else one)

    def _take(self, name: str, taken: Hours) -> None:
        """SQLMesh forgets intervals, because a table outside of the project has changed."""
        for hour in taken & self.content[name].keys():
            del self.content[name][hour]
            if name in self.new:
                self.new[name].outside[hour] = next(self.fresh)

    def _compute(self, name: str) -> None:
        """The plan computes what was pending at its last look, from tables of prod that were computed then."""
        new, has, possible = self.new[name], self.content | self.had, list[Hours]()
        has |= {source: self.content[source] for source in self.new}
        for start in range(0, END, new.unit):
            if all(hour in has[source] for source, hour in new.reads(start)):
                possible.append(set(range(start, start + new.unit)))
        todo = self.todo[name]
        if not new.is_by_interval:
            is_needed = todo & set().union(*possible) and not self.lost(name)
            todo = set(range(END)) if is_needed else set()
        for interval in possible:
            is_next = new.past(min(interval)) <= self.content[name].keys()
            if interval <= todo and is_next and (not new.is_by_interval or self.rng.random() < 0.9):
                if new.since is None:
                    new.since, new.known = self.now, self._prod()
                number = self._number(name, min(interval), lambda source, hour: self.content[source].get(hour, NO_ROWS))
                self.content[name] |= dict.fromkeys(interval, number)
                self.todo[name] -= interval

    def _number(self, name: str, hour: int, content: Callable[[str, int], int]) -> int:
        """The rows of an hour, as a function of everything that they are computed from."""
        new = self.new[name]
        read = [content(*source) for source in new.reads(hour)] + [content(name, past) for past in new.past(hour)]
        outside = new.outside[slice(*new.whole((hour, hour + 1)))]
        return self.numbers.setdefault((name, hour // new.unit, *outside, *read), len(self.numbers))

    def _prod(self) -> dict[str, dict[int, int]]:
        return {name: dict(self.content[name]) for name in self.rows}

    def stale(self, name: str) -> Hours:
        """The computed hours that would have other rows if everything was computed now."""
        now = {(shown, hour): self.content[shown].get(hour, TO_COME) for shown in self.rows for hour in range(END)}
        for of_name in self.new:
            for hour in range(END):
                now[of_name, hour] = self._number(of_name, hour, lambda *source: now[source])
        return {hour for hour, rows in self.content[name].items() if rows != now[name, hour]}

    def lost(self, name: str) -> Hours:
        return self.had[name] - self.content[name].keys()

    def gaps(self, name: str) -> Hours:
        before = set(range(max(self.content[name], default=0))) if self.new[name].is_past else set()
        return before - self.content[name].keys() - self.lost(name)

    def concerned(self) -> dict[str, Hours]:
        """The hours for which there is a reason: they were lost, or have read others that have changed or will."""
        found: dict[str, Hours] = {}
        for name, new in self.new.items():
            now = self._prod()
            changed = {(of, h) for of in now for h in range(END) if now[of].get(h, TO_COME) != new.known[of].get(h)}
            changed |= {(parent, hour) for parent, again in found.items() for hour in again}
            own, has = self.lost(name), set(self.content[name])
            own |= {hour for hour in has if changed & set(new.reads(hour))}
            if new.is_past or not new.is_by_interval:  # what follows, or the whole
                start = min(own | self.gaps(name), default=END) if new.is_in_parts or not own else 0
                own |= {hour for hour in has if hour >= start}
            found[name] = own
        return found

    def answer(self) -> dict[str, Hours]:
        tables = {name: Table(rows, self.seen[name], ranges(self.lost(name))) for name, rows in self.rows.items()}
        found = outdated({name: self._version(new, name, tables) for name, new in self.new.items()})
        return {name: hours(found.get(name, ())) for name in self.new}

    def _version(self, new: New, name: str, tables: dict[str, Table]) -> Version:
        read = [tables[source] for source in new.sources if source in tables and new.since is not None]
        altered = [table.altered(new.since or 0, only_rewritten=not new.is_by_interval) for table in read]
        return Version(
            reads=set(new.sources) & set(self.new),
            computed=ranges(self.content[name]),
            lost=ranges(self.lost(name)),
            gaps=ranges(self.gaps(name)),
            altered=merged(interval for of_table in altered for interval in of_table),
            whole=new.whole,
            depends_on_past=lambda: new.is_past,
            is_by_interval=new.is_by_interval,
            is_in_parts=new.is_in_parts,
        )


def looks(seed: int, has_janitor: bool) -> Iterator[tuple[World, dict[str, Hours]]]:
    world = World(seed, has_janitor)
    for _ in range(4):
        world.happens()
        answer = world.answer()
        yield world, answer
        world.forget(answer)


@pytest.mark.parametrize("has_janitor", [False, True])
@settings(max_examples=EXAMPLES)
@given(st.integers(0, 2**32))
def test_no_stale_hour_is_left_out(has_janitor: bool, seed: int) -> None:
    for world, answer in looks(seed, has_janitor):
        for name, new in world.new.items():
            again = world.stale(name) | world.lost(name)
            if again and not new.is_in_parts and (new.is_past or not new.is_by_interval):
                again |= world.content[name].keys()  # "it computes others as a whole"
            assert again <= answer[name], name


@settings(max_examples=EXAMPLES)
@given(st.integers(0, 2**32))
def test_no_hour_is_computed_again_without_a_reason(seed: int) -> None:
    for world, answer in looks(seed, has_janitor=False):
        concerned = world.concerned()
        assert not {name: again - concerned[name] for name, again in answer.items() if again - concerned[name]}
