"""A model that reads another one, in a small world: Dagster's runs, `sqlmesh run` in a shell, and SQLMesh's janitor.

    PYTHONPATH=tests .venv/bin/python -m model.shell 6

A `sqlmesh run` of one model computes hours whose source is not there. The real functions decide which of them a check
names as outdated (`read_early`), what Dagster has not recorded (`unrecorded`), and what becomes its record
(`outside_data`). Each row knows whether it has read the row of its source. Times are numbers: only their order counts.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any

from model.histories import Found, Searched
from model.world import hours_of, intervals_of

from dg_sqlmesh_component.history.records import outside_data, record_of
from dg_sqlmesh_component.protocol.intervals import ComputedRange, common, merged, subtract
from dg_sqlmesh_component.protocol.messages import ComputedData, Interval, PromotedVersion, RecordedData
from dg_sqlmesh_component.worker.intervals.read_early import ReadEarly, Reader, Source, read_early
from dg_sqlmesh_component.worker.intervals.unrecorded import ShownTable, unrecorded

HOURS = (0, 1, 2)
PROMOTED = PromotedVersion("1", "", "")
Rows = tuple[ComputedRange, ...]


@dataclass(frozen=True)
class World:
    """`b` reads `a`, both by hour.

    Attributes:
        over: When each hour was over, as far as it is.
        a, b: What SQLMesh's state has recorded of each.
        read: By hour, whether the row of `b` has read that of `a`. None: `b` has no row.
        materialized: The record of the last materialization of `b`.
        observed: That of the last observation.
        checked: When the last check of `b` was evaluated, and what it named as outdated.
        named: The hours that a check has named, and that are outdated still.
        hidden: The hours that the janitor has hidden before a run of Dagster has compared them.
        doubtful: The hours that were named, and that a command has computed again before the janitor has merged.
        wrong: What is wrong with the last run.
    """

    over: tuple[int, ...]
    a: Rows = ()
    b: Rows = ()
    read: tuple[bool | None, ...] = (None,) * len(HOURS)
    materialized: RecordedData | None = None
    observed: RecordedData | None = None
    checked: tuple[int, tuple[Interval, ...]] = (0, ())
    named: frozenset[int] = frozenset()
    hidden: frozenset[int] = frozenset()
    doubtful: frozenset[int] = frozenset()
    wrong: str | None = None

    @property
    def now(self) -> int:
        return max(self._times()) + 1

    def _times(self) -> set[int]:
        records = [of for of in (self.materialized, self.observed) if of is not None]
        of_records = [at for of in records for at in (of.up_to, of.compared_at)]
        return {0, *self.over, *(row.at for row in (*self.a, *self.b)), self.checked[0], *of_records}

    def ranked(self) -> World:
        """Return the world with the smallest times in the same order."""
        rank = {at: number for number, at in enumerate(sorted(self._times()))}

        def rows(of: Rows) -> Rows:
            return tuple(sorted((replace(row, at=rank[row.at]) for row in of), key=lambda row: (row.interval, row.at)))

        def record(of: RecordedData | None) -> RecordedData | None:
            return of and replace(of, up_to=rank[of.up_to], compared_at=rank[of.compared_at])

        return replace(
            self,
            over=tuple(rank[at] for at in self.over),
            a=rows(self.a),
            b=rows(self.b),
            materialized=record(self.materialized),
            observed=record(self.observed),
            checked=(rank[self.checked[0]], self.checked[1]),
        )

    def computed(self, rows: Rows) -> set[int]:
        return {*hours_of(row.interval for row in rows)}

    @property
    def missing_a(self) -> list[int]:
        return [hour for hour, _ in enumerate(self.over) if hour not in self.computed(self.a)]

    @property
    def missing_b(self) -> list[int]:
        return [hour for hour, _ in enumerate(self.over) if hour not in self.computed(self.b)]

    @property
    def outdated(self) -> set[int]:
        """The hours of `b` that lack the row of `a`, which is there or comes with the next run."""
        return {hour for hour, read in enumerate(self.read) if read is False}


def computed(world: World, of: str, hours: Iterable[int]) -> World:
    """Compute hours of a model: SQLMesh records each batch."""
    for hour in hours:
        rows = (*(world.a if of == "a" else world.b), ComputedRange((hour, hour + 1), world.now, False, None))
        if of == "a":
            world = replace(world, a=rows)
            continue
        has_read = hour in world.computed(world.a)
        read = tuple(has_read if number == hour else old for number, old in enumerate(world.read))
        world = replace(world, b=rows, read=read, named=world.named - {hour}, hidden=world.hidden - {hour},
                        doubtful=world.doubtful - {hour})  # fmt: skip
    return world


def removed(world: World, of: str, hour: int) -> World:
    rows = world.a if of == "a" else world.b
    left = tuple(replace(row, interval=part) for row in rows for part in subtract([row.interval], [(hour, hour + 1)]))
    return replace(world, a=left) if of == "a" else replace(world, b=left)


# -- what a run of Dagster does ------------------------------------------------------------------------


def run(world: World, of_a: Sequence[int], of_b: Sequence[int], forgotten: Sequence[int] = ()) -> World:
    """A run of Dagster that computes these hours. Its check of `b` names what is outdated, and remembers it."""
    read_at, early = world.now, _compared(world)
    world, known = _with_outside_data(world)
    for hour in forgotten:
        world = removed(world, "b", hour)
    world = computed(world, "a", of_a)
    world = computed(world, "b", of_b)
    done = intervals_of(of_b)
    outdated = common(subtract(early.intervals, done), intervals_of(world.computed(world.b)))
    if early.may_hide:
        named = [*_last_named(world, known), *(known.outdated if known else ())]
        outdated = merged([*outdated, *subtract(named, done)])
    hidden = world.hidden - {*of_b}
    up_to = max([known.up_to if known else 0, *([world.now - 1] if of_b else [])])
    record = record_of(PROMOTED, up_to, outdated=outdated, compared_at=read_at)
    world = replace(world, materialized=record) if of_b else replace(world, observed=record)
    return replace(_checked(world, outdated), hidden=hidden, wrong=_wrong(world, outdated, hidden))


def sensor(world: World) -> World:
    """What the sensor does: it records data that was computed outside of Dagster, and evaluates the check."""
    early, before = _compared(world), world.materialized
    world, known = _with_outside_data(world)
    if known is None or known is before:
        return world
    outdated = merged([*common(early.intervals, intervals_of(world.computed(world.b))), *known.outdated])
    return replace(_checked(world, outdated), wrong=_wrong(world, outdated, world.hidden))


def _checked(world: World, outdated: tuple[Interval, ...]) -> World:
    named = world.outdated & {*hours_of(outdated)}
    return replace(world, checked=(world.now, outdated), named=frozenset(named))


def _wrong(world: World, outdated: Iterable[Interval], hidden: Set[int]) -> str | None:
    is_named = {*hours_of(outdated)}
    if world.outdated - is_named - hidden:
        return "an hour of b is outdated, and the check does not name it"
    if is_named - world.outdated - world.doubtful:
        return "the check of b names an hour as outdated that has read its source"
    return None


def _with_outside_data(world: World) -> tuple[World, RecordedData | None]:
    """Record what Dagster has not recorded. Return what is known of the data then."""
    known, computed = world.materialized, intervals_of(world.computed(world.b))
    table = ShownTable("1", world.b, computed, 0, False, None, lambda interval: interval)
    if not (ranges := unrecorded(table, known)):
        return world, known
    known = _newest(world.materialized, world.observed)
    merged_ranges = tuple(row.interval for row in world.b if row.is_merged)
    if known and merged_ranges:
        known = replace(known, outdated=merged([*known.outdated, *_last_named(world, known)]))
    data = ComputedData("b", PROMOTED, ranges, merged_ranges=merged_ranges)
    for outside in outside_data([data], {"b": known}, [])[0]:
        known = outside.record
        world = replace(world, materialized=known)
    return world, known


def _compared(world: World) -> ReadEarly:
    """As `early_reads.py` asks it."""
    recorded = world.materialized or RecordedData("", 0)
    to_come = [ComputedRange((hour, hour + 1), sys.maxsize, False, None) for hour in world.missing_a]
    new, earlier = ([row for row in world.a if (row.at > recorded.compared_at) is is_new] for is_new in (True, False))
    sources = [Source([*new, *to_come], lambda: earlier, tuple, _single, lambda end: _due_at(world, end))]
    reader = Reader(world.b, intervals_of(world.computed(world.b)), recorded.outdated, recorded.up_to)
    return read_early(reader, sources if new or to_come else ())


def _newest(materialized: RecordedData | None, observed: RecordedData | None) -> RecordedData | None:
    """As `recorded_data` finds it."""
    if observed and (materialized is None or observed.up_to > materialized.up_to):
        return observed
    return materialized


def _last_named(world: World, known: RecordedData | None) -> Sequence[Interval]:
    """As `last_outdated` finds it."""
    at, named = world.checked
    return () if known and at < known.up_to else named


def _single(intervals: Sequence[Interval]) -> list[Interval]:
    return [(hour, hour + 1) for hour in hours_of(intervals)]


def _due_at(world: World, end: int) -> int:
    return world.over[end - 1] if end <= len(world.over) else sys.maxsize


def actions_of(world: World) -> dict[str, World]:
    """Return the worlds after what may happen next."""
    actions: dict[str, World] = {}
    if len(world.over) < len(HOURS):
        actions["an hour passes"] = replace(world, over=(*world.over, world.now))
    missing_a, missing_b = world.missing_a, world.missing_b
    actions["run"] = run(world, missing_a, missing_b)
    actions["the sensor ticks"] = sensor(world)
    actions["run b"] = run(world, [], [hour for hour in missing_b if hour not in missing_a])
    if missing_b:
        actions["sqlmesh run --select-model b"] = computed(world, "b", missing_b)
    if missing_a:
        actions["sqlmesh run --select-model a"] = computed(world, "a", missing_a)
    for hour in sorted(world.computed(world.b)):
        actions[f"restate hour {hour} of b"] = run(world, [hour] if hour in missing_a else [], [hour], [hour])
        actions[f"sqlmesh plan --restate-model b, hour {hour}"] = computed(removed(world, "b", hour), "b", [hour])
    if any(len(rows) > 1 or any(not row.is_merged for row in rows) for rows in (world.a, world.b)):
        actions["the janitor merges"] = _merged_by_janitor(world)
    return {action: after.ranked() for action, after in actions.items()}


def _merged_by_janitor(world: World) -> World:
    def merge(rows: Rows) -> Rows:
        at = max((row.at for row in rows), default=0)
        return tuple(ComputedRange(of, at, True, None) for of in intervals_of(world.computed(rows)))

    there, named = world.outdated & world.computed(world.a), {*hours_of(world.checked[1])}
    return replace(
        world,
        a=merge(world.a),
        b=merge(world.b),
        hidden=world.hidden | (there - world.named),
        doubtful=world.doubtful | (named - world.outdated),
    )


def first_world() -> World:
    """Return the world after a run of hour 0."""
    return run(World(over=(1,)), [0], [0]).ranked()


def searched(length: int) -> Searched:
    """Return what all histories of so many actions lead to. A history with a fault is not continued."""
    histories: dict[World, tuple[Any, ...]] = {first_world(): ()}
    edge, found = list(histories), dict[str, Found]()
    for _ in range(length):
        following = []
        for world in edge:
            for action, after in actions_of(world).items():
                if after in histories:
                    continue
                histories[after] = (*histories[world], action)
                if after.wrong:
                    found.setdefault(after.wrong, Found(after.wrong, histories[after]))
                else:
                    following.append(after)
        edge = following
    return Searched(len(histories), list(found.values()))


def faults(length: int) -> Iterator[str]:
    return map(str, searched(length).found)


if __name__ == "__main__":
    began = monotonic()
    result = searched(int(sys.argv[1]))
    print(f"{result.worlds:,} worlds, {monotonic() - began:.1f} s", *result.found, sep="\n")
