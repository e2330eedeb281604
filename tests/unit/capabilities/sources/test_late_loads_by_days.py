"""Random histories of a model that reads loaded tables: which days its check shows as late, compared with a simulation.

The oracle was written from docs/ and the descriptions of the arguments alone, without a look at the rule. It knows when
each day was loaded, and when the rows of each day have read their sources. A day is late if it was loaded after that.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from itertools import count
from random import Random

import dagster as dg
import pytest
import time_machine
from harness import empty_instance
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.builders import DAY, day, days, fqn
from unit.capabilities.sources.late_data import loads_of

from dg_sqlmesh_component.capabilities.sources.late_check import late_data_result
from dg_sqlmesh_component.history.earlier_results import evaluation_of
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.intervals import ComputedRange, merged, subtract
from dg_sqlmesh_component.report.wording import Wording
from dg_sqlmesh_component.worker.intervals.unrecorded import ShownTable, late

Days = set[int]
END, FIRST = 6, day(1)
START = datetime(2026, 3, 1, tzinfo=timezone.utc)
NUMBERS = count()


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dg.DagsterInstance]:
    with empty_instance(tmp_path_factory.mktemp("home")) as instance:
        yield instance


def in_days(intervals: Iterable[msg.Interval]) -> Days:
    return {number for start, end in intervals for number in range((start - FIRST) // DAY, (end - FIRST) // DAY)}


def ranges(of: Iterable[int]) -> tuple[msg.Interval, ...]:
    return merged(days(number + 1, number + 1) for number in of)


@dataclass
class Table:
    """A version of the model: SQLMesh's state of it, and when the rows of each day have read the sources."""

    version: str
    sources: list[str]
    created_at: int | None
    rows: list[ComputedRange] = field(default_factory=list)
    by_snapshot: dict[str, Days] = field(default_factory=lambda: defaultdict(set))
    read_at: dict[tuple[str, int], int] = field(default_factory=dict)  # by source and day

    @property
    def computed(self) -> Days:
        return {number for _, number in self.read_at}


@dataclass
class Report:
    """What the check shows after one run, and what the oracle knows."""

    shown: tuple[msg.Interval, ...]
    late: Days
    whole: Days  # all days of the intervals with a late day
    maybe: Days  # computed outside of Dagster and merged by the janitor, or lost in this run


class World:
    def __init__(self, instance: dg.DagsterInstance, clock: time_machine.Traveller, rng: Random, unit: int) -> None:
        self.instance, self.clock, self.rng, self.unit = instance, clock, rng, unit
        number, self.versions, self.snapshots = next(NUMBERS), count(1), count(1)
        self.sources = [f"{source}_{number}" for source in "ab"[: self.rng.randint(1, 2)]]
        self.name = fqn(f"core.model_{number}")
        self.comparison = loads_of(instance, {f"model_{number}": self.sources})
        self.loaded: dict[tuple[str, int], int] = {}  # by source and day, when it was loaded last
        self.tables: list[Table] = []
        self.compared: msg.PromotedReads | None = None
        self.shown, self.hidden, self.maybe = Days(), Days(), Days()
        self.remembered = dict[str, Days]()  # by version, what its last comparison has shown
        for _ in range(self.rng.randint(0, END)):
            self._load()
        self._plan()

    def happens(self, has_janitor: bool) -> None:
        """Between two runs: loads, the `sqlmesh` command, the janitor and plans, some seconds apart."""
        for _ in range(self.rng.randint(0, 5)):
            kind = self.rng.random()
            if kind < 0.4:
                self._load()
            elif kind < 0.6:
                self._compute_outside()
            elif kind < 0.7:
                self._lose(self._some())
            elif kind < 0.8:
                self._plan()
            elif has_janitor:
                self.merge()

    def run(self, days_to_compute: Days | None = None, is_disturbed: bool = True) -> Report:
        """A run compares, then computes these days, or some. Meanwhile days may be loaded, and a day may fail."""
        started, table = self._tick(), self.table
        reads = msg.PromotedReads(table.version, tuple(fqn(f"raw.{source}") for source in table.sources))
        comparison = self.comparison.compare([self.name], {self.name: reads})
        of_table = table.version, list(table.rows), ranges(table.computed), self.promoted_at, False, table.created_at
        shown = ShownTable(*of_table, self._whole)
        if reads != self.compared:
            self._forget_hidden_loads()
        self.compared = reads
        known, done, late_now = late(shown, comparison.loads.get(self.name, ())), Days(), self._late()
        self.hidden = Days()
        self.maybe &= in_days(known)
        steps = ["compute"] if days_to_compute else []
        if is_disturbed:
            steps = self.rng.choices(["load", "compute", "lose"], (4, 4, 1), k=self.rng.randint(0, 4))
        for step in steps:
            if step == "load":
                self._load()
            elif step == "lose":
                self._lose(self._some() - done)
            else:
                computed = days_to_compute or self._some()
                # A day that is loaded during the run counts as late, even if it was loaded before it was computed.
                self._compute(computed, read_at=started)
                self.maybe -= computed
                done |= computed
        late_then = subtract(known, ranges(done))
        compared = comparison.compared(self.name, late_then, ranges(table.computed), is_new=bool(done))
        assets = self.comparison.assets
        check = assets.late_data_check(self.name)
        assert check is not None
        result = late_data_result(Wording(assets, "prod"), check, compared, comparison.names_of(self.name))
        assert result.passed is not bool(compared.late)
        self._tick()
        self.instance.report_runless_asset_event(evaluation_of(result))
        self.shown, has = in_days(compared.late), table.computed
        self.remembered[table.version] = self.shown
        now = self._late() if done else late_now & has
        return Report(compared.late, now, self._whole_days(now), self.maybe | in_days(known) - has)

    def _tick(self) -> int:
        self.clock.shift(self.rng.randint(1, 90))
        return self.clock.time_ns() // 1_000_000

    def _whole(self, interval: msg.Interval) -> msg.Interval:
        (start, end), length = interval, self.unit * DAY
        return start - (start - FIRST) % length, end + (FIRST - end) % length

    def _whole_days(self, of: Iterable[int]) -> Days:
        return in_days(self._whole(days(number + 1, number + 1)) for number in of)

    def _some(self) -> Days:
        start = self.rng.randrange(END)
        return self._whole_days(range(start, min(start + self.rng.randint(1, 3), END)))

    def _load(self) -> None:
        source, number = self.rng.choice(self.sources), self.rng.randrange(END)
        self.loaded[source, number] = self._tick()
        event = dg.AssetMaterialization(["load", source], partition=f"2026-01-{number + 1:02}")
        self.instance.report_runless_asset_event(event)

    def _compute(self, computed: Days, read_at: int | None = None) -> None:
        table, now = self.table, self._tick()
        table.rows += [ComputedRange(interval, now, False, self.snapshot) for interval in ranges(computed)]
        table.by_snapshot[self.snapshot] |= computed
        for source in self.sources:
            table.read_at |= {(source, n): read_at if read_at and source in table.sources else now for n in computed}

    def _compute_outside(self) -> None:
        computed = self._some()
        self.hidden |= computed & (self._whole_days(self._late()) | self.shown)
        self._compute(computed)

    def _lose(self, lost: Days) -> None:
        """A restatement fails: SQLMesh has forgotten the intervals."""
        self.table.read_at = {of: at for of, at in self.table.read_at.items() if of[1] not in lost}
        for of_snapshot in self.table.by_snapshot.values():
            of_snapshot -= lost

    def merge(self) -> None:
        """SQLMesh's janitor merges the rows of each snapshot, and keeps its newest time."""
        table, rows = self.table, self.table.rows
        newest = {row.identifier: row.at for row in sorted(rows, key=lambda row: row.at)}
        table.rows = [
            ComputedRange(interval, newest[identifier], True, identifier)
            for identifier, numbers in table.by_snapshot.items()
            for interval in ranges(numbers)
        ]
        self.maybe |= self.hidden

    def _plan(self) -> None:
        """A plan makes another table and computes some days, or keeps the table, or shows an earlier one again."""
        kind, changed_at = self.rng.random() if self.tables else 0, self._tick()
        self.snapshot = f"s{next(self.snapshots)}"
        if kind < 0.5:
            self.table = Table(f"v{next(self.versions)}", self._sources(), changed_at)
            self.tables.append(self.table)
            self._compute(self._whole_days(range(self.rng.randint(1, END))))
        elif kind < 0.75:
            self.table.created_at = None
            self.table.sources = self._sources()
        else:
            self.table = self.rng.choice(self.tables)
        self.promoted_at = self._tick()

    def _sources(self) -> list[str]:
        return sorted(self.rng.sample(self.sources, self.rng.randint(1, len(self.sources))))

    def _late(self) -> Days:
        """The days that a source has loaded after their rows were read."""
        read_at = self.table.read_at.items()
        return {of[1] for of, at in read_at if of[0] in self.table.sources and self.loaded.get(of, 0) > at}

    def _forget_hidden_loads(self) -> None:
        """Another version or other tables: all partitions are compared, and what was known as late stays so.

        A row may have a later time than when its sources were read: the janitor keeps the newest time, and a day may be
        loaded during a run. So the oracle accepts both answers for another load between these times.
        """
        for of, at in self.table.read_at.items():
            if of[1] in self.remembered.get(self.table.version, ()):
                continue
            newest = max(row.at for row in self.table.rows if of[1] in in_days([row.interval]))
            if at < self.loaded.get(of, 0) < newest:
                self.table.read_at[of] = newest
                self.maybe |= self._whole_days([of[1]])


@contextmanager
def world(instance: dg.DagsterInstance, seed: int, unit: int) -> Iterator[World]:
    with time_machine.travel(START, tick=False) as clock:
        yield World(instance, clock, Random(seed), unit)


def histories(test: Callable[..., None]) -> Callable[..., None]:
    drawn = given(seed=st.integers(0, 2**32), unit=st.sampled_from([1, 2]))
    few = settings(max_examples=settings().max_examples // 12)(drawn(test))
    found: Callable[..., None] = pytest.mark.parametrize("has_janitor", [False, True])(few)
    return found


@histories
def test_a_check_shows_each_late_day_and_no_other(
    instance: dg.DagsterInstance, has_janitor: bool, seed: int, unit: int
) -> None:
    with world(instance, seed, unit) as of:
        for _ in range(6):
            of.happens(has_janitor)
            report = of.run()
            assert report.late <= in_days(report.shown) <= report.whole | report.maybe, report


@histories
def test_the_next_comparison_shows_the_same_days_until_runs_have_computed_them(
    instance: dg.DagsterInstance, has_janitor: bool, seed: int, unit: int
) -> None:
    with world(instance, seed, unit) as of:
        for _ in range(2):
            of.happens(has_janitor)
            of.run()
            late = of.run(is_disturbed=False)
            assert has_janitor or merged(late.shown) == ranges(late.whole)
            assert of.run(is_disturbed=False).shown == late.shown
            of.run(in_days(late.shown), is_disturbed=False)
            if has_janitor:
                of.merge()
            assert of.run(is_disturbed=False).shown == ()
