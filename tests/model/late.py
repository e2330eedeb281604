"""Loads of a source after a model has read it, in a small world: Dagster's runs, `sqlmesh run`, and SQLMesh's janitor.

    PYTHONPATH=tests .venv/bin/python -m model.late 6

The real functions decide which intervals are late (`late`, `LoadComparison`). Each row knows the load that it has read.
Times are numbers: only their order counts, so worlds with the same order are equal.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any

import dagster as dg
from model.histories import Found, Searched
from model.world import intervals_of

from dg_sqlmesh_component.capabilities.sources import late_loads
from dg_sqlmesh_component.capabilities.sources.late_check import Compared
from dg_sqlmesh_component.capabilities.sources.late_loads import LoadComparison, SourceLoads
from dg_sqlmesh_component.protocol.intervals import ComputedRange, merged
from dg_sqlmesh_component.protocol.messages import Interval
from dg_sqlmesh_component.worker.intervals.unrecorded import ShownTable, late

HOURS = (0, 1)
SOURCE = dg.AssetKey("source")
NOTHING_COMPARED = Compared()
Action = str


@dataclass(frozen=True)
class Loads:
    """The loads of the source, in place of `SourceLoads`: by hour, the number of the last load. It is its time too."""

    last: tuple[int, ...]

    def loaders(self, _: Iterable[str]) -> tuple[list[Any], list[Any]]:
        return [_Loader()], []

    def since(self, before: dict[dg.AssetKey, int], _: Iterable[Any]) -> list[late_loads._Load]:
        newer = [(hour, at) for hour, at in enumerate(self.last) if at > before.get(SOURCE, 0)]
        return [late_loads._Load(at, (hour, hour + 1), at) for hour, at in newer]


@dataclass(frozen=True)
class _Loader:
    key: dg.AssetKey = SOURCE


@dataclass(frozen=True)
class World:
    """An incremental model over a source, both by hour.

    Attributes:
        loads: By hour, when it was loaded last; 0: never.
        read: By hour, which load the row of the model has read; None: there is no row.
        rows: What SQLMesh's state has recorded.
        compared: What the model's check remembers.
        late: What the model's check has named at last.
    """

    loads: tuple[int, ...] = (0,) * len(HOURS)
    read: tuple[int | None, ...] = (None,) * len(HOURS)
    rows: tuple[ComputedRange, ...] = ()
    compared: Compared = NOTHING_COMPARED
    late: tuple[Interval, ...] = ()

    @property
    def now(self) -> int:
        times = [*self.loads, self.compared.newest, self.compared.at, *(row.at for row in self.rows)]
        return max(times) + 1

    @property
    def computed(self) -> tuple[Interval, ...]:
        return intervals_of(hour for hour, read in enumerate(self.read) if read is not None)

    def ranked(self) -> World:
        """Return the world with the smallest times in the same order."""
        known = self.compared
        times = {0, *self.loads, known.newest, known.at, *(row.at for row in self.rows)}
        times |= {read for read in self.read if read is not None}
        rank = {at: number for number, at in enumerate(sorted(times))}
        return World(
            tuple(rank[at] for at in self.loads),
            tuple(None if at is None else rank[at] for at in self.read),
            tuple(sorted((replace(row, at=rank[row.at]) for row in self.rows), key=lambda row: (row.interval, row.at))),
            replace(known, newest=rank[known.newest], at=rank[known.at]),
            self.late,
        )


def computed(world: World, hours: Iterable[int]) -> World:
    """Compute hours: SQLMesh records each batch."""
    for hour in hours:
        now = world.now
        read = tuple(world.loads[of] if of == hour else at for of, at in enumerate(world.read))
        world = replace(world, read=read, rows=(*world.rows, ComputedRange((hour, hour + 1), now, False, None)))
    return world


def compared(world: World, hours: Sequence[int]) -> World:
    """Do what a run does: compare the loads, compute the hours, and let the check name and remember what is late."""
    loads = Loads(world.loads)
    since = loads.since({SOURCE: world.compared.newest}, ())
    found: SourceLoads = loads  # type: ignore[assignment]
    comparison = LoadComparison(found, world.now, {"m": world.compared}, {SOURCE: max(world.loads)}, {"m": since})
    before, world = world, replace(world, compared=replace(world.compared, at=world.now))
    world = computed(world, hours)
    table = ShownTable("1", before.rows, before.computed, 0, False, None, lambda interval: interval)
    found_late = _single(late(table, comparison.loads.get("m", ())))
    named = merged(of for of in found_late if of[0] not in hours)  # what the run computes is not late
    memory = comparison.compared("m", named, world.computed, is_new=bool(hours))
    return replace(world, compared=memory, late=memory.late)


def _single(intervals: Iterable[Interval]) -> list[Interval]:
    return [(hour, hour + 1) for first, last in intervals for hour in range(first, last)]


def actions_of(world: World) -> dict[Action, World]:
    """Return the worlds after what may happen next."""
    loaded = [hour for hour in HOURS if world.loads[hour]]
    missing = [hour for hour in HOURS if world.read[hour] is None]
    actions = {
        f"load hour {hour}": replace(
            world, loads=tuple(world.now if of == hour else at for of, at in enumerate(world.loads))
        )
        for hour in HOURS
    }
    actions["run"] = compared(world, [hour for hour in missing if hour in loaded])
    for hour in loaded:
        if hour not in missing:
            rows = tuple(row for row in _without(world.rows, hour))
            actions[f"restate hour {hour}"] = compared(replace(world, rows=rows), [hour])
    if missing:
        actions["sqlmesh run"] = computed(world, missing)
    for hour in HOURS:
        if hour not in missing:
            actions[f"sqlmesh plan --restate-model, hour {hour}"] = computed(
                replace(world, rows=tuple(_without(world.rows, hour))), [hour]
            )
    if len(world.rows) > 1 or any(not row.is_merged for row in world.rows):
        at = max((row.at for row in world.rows), default=0)
        rows = tuple(ComputedRange(of, at, True, None) for of in world.computed)
        actions["the janitor merges"] = replace(world, rows=rows)
    return {action: after.ranked() for action, after in actions.items()}


def _without(rows: Iterable[ComputedRange], hour: int) -> Iterator[ComputedRange]:
    """The records after an hour was removed."""
    for row in rows:
        for first, last in _single([row.interval]):
            if first != hour:
                yield replace(row, interval=(first, last))


def is_at_limit(world: World) -> bool:
    """Whether a load is hidden, as wait.md says: the janitor has merged before the first run that compares loads."""
    is_merged = {hour for row in world.rows if row.is_merged for hour, _ in _single([row.interval])}
    unseen = is_merged.difference(hour for hour, _ in _single(world.compared.computed))
    return any(world.loads[hour] > (world.read[hour] or 0) for hour in unseen)


def faults(world: World) -> Iterator[str]:
    """Yield what the next run says wrong. wait.md: a range is late if it was loaded after it was computed.

    If the janitor merges before the next run, what a command has computed again stays late.
    """
    named = {hour for hour, _ in _single(compared(world, []).late)}
    is_merged = {hour for row in world.rows if row.is_merged for hour, _ in _single([row.interval])}
    for hour, read in enumerate(world.read):
        if read is not None and world.loads[hour] > read and hour not in named:
            yield "an hour is late, and the next run does not name it"
        if hour in named - is_merged and world.loads[hour] == read:
            yield "an hour is named as late, and has the newest rows"


def searched(length: int) -> Searched:
    """Return what all histories of so many actions lead to. A history with a fault is not continued."""
    first = World().ranked()
    histories: dict[World, tuple[Any, ...]] = {first: ()}
    edge, found = [first], dict[str, Found]()
    for _ in range(length):
        following = []
        for world in edge:
            for action, after in actions_of(world).items():
                if after in histories or is_at_limit(after):
                    continue
                histories[after] = (*histories[world], action)
                wrong = list(faults(after))
                for fault in wrong:
                    found.setdefault(fault, Found(fault, histories[after]))
                if not wrong:
                    following.append(after)
        edge = following
    return Searched(len(histories), list(found.values()))


if __name__ == "__main__":
    began = monotonic()
    result = searched(int(sys.argv[1]))
    print(f"{result.worlds:,} worlds, {monotonic() - began:.1f} s", *result.found, sep="\n")
