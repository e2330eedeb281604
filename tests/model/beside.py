"""A plan that is applied while runs go on, in a small world: runs rewrite the table that a new version reads.

    PYTHONPATH=tests .venv/bin/python -m model.beside 7

The plan computes its new version hour by hour, or as a whole: the hours that `a` had when it looked last. It looks what
runs have done from time to time, and before it promotes. The real function decides what it then computes again
(`outdated`). Each row knows which computation of the source it has read. A restatement forgets an hour before it
computes it, and may never compute it: it was killed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from time import monotonic

from model.histories import Found, Searched
from model.world import hours_of, intervals_of

from dg_sqlmesh_component.protocol.intervals import ComputedRange, subtract
from dg_sqlmesh_component.protocol.messages import Interval
from dg_sqlmesh_component.worker.intervals.outdated import Table, Version, outdated

HOURS = (0, 1, 2)
OLD = "the new version has read old rows, and the plan does not compute them again"

Ranges = frozenset[tuple[Interval, int, bool]]
"""What SQLMesh's state has recorded of a table: interval, a number that grows with the time, whether it is merged."""


@dataclass(frozen=True)
class World:
    """`b` reads `a`. The plan computes a new version of `b`.

    Attributes:
        is_whole: Whether that version is computed as a whole.
        computed: By hour, the number of the last computation of `a`; 0: never.
        forgotten: The hours of `a` that a restatement has forgotten.
        rows: What the state has recorded of `a`.
        read: By hour, which computation of `a` the new version has read. None: it has not this hour.
        seen: At the last look: what the state had recorded, and the computed hours.
    """

    is_whole: bool
    computed: tuple[int, ...] = (0, 0, 0)
    forgotten: frozenset[int] = frozenset()
    rows: Ranges = frozenset()
    read: tuple[int | None, ...] = (None, None, None)
    seen: tuple[Ranges, frozenset[int]] = (frozenset(), frozenset())

    @property
    def there(self) -> frozenset[int]:
        """The hours of `a` that the state records."""
        return frozenset(hour for hour in HOURS if self.computed[hour]) - self.forgotten

    @property
    def is_old(self) -> set[int]:
        """The hours of the new version that have read other rows than those that `a` has, or will have again."""
        known = {hour for hour in HOURS if self.read[hour]}
        return {hour for hour in known if self.read[hour] != self.computed[hour] or hour in self.forgotten}

    def ranked(self) -> World:
        """Return the world with the smallest numbers in the same order."""
        numbers = {*self.computed, *(of for of in self.read if of), *(at for _, at, _ in self.rows | self.seen[0])}
        rank = {at: number for number, at in enumerate(sorted({0, *numbers}))}

        def ranges(of: Ranges) -> Ranges:
            return frozenset((interval, rank[at], is_merged) for interval, at, is_merged in of)

        return replace(
            self,
            computed=tuple(rank[at] for at in self.computed),
            rows=ranges(self.rows),
            read=tuple(None if of is None else rank[of] for of in self.read),
            seen=(ranges(self.seen[0]), self.seen[1]),
        )


def computed(world: World, hour: int) -> World:
    """A run computes an hour of `a`."""
    now = max([0, *world.computed, *(at for _, at, _ in world.rows)]) + 1
    return replace(
        world,
        computed=tuple(now if of == hour else at for of, at in enumerate(world.computed)),
        forgotten=world.forgotten - {hour},
        rows=world.rows | {((hour, hour + 1), now, False)},
    )


def forgotten(world: World, hour: int) -> World:
    """A restatement forgets an hour of `a`. The state keeps its range until the janitor merges."""
    return replace(world, forgotten=world.forgotten | {hour})


def planned(world: World, hours: Iterable[int]) -> World:
    """The plan computes hours of the new version. It may read newer rows too, and does not count them as computed."""
    known = {*hours} & world.there & world.seen[1]
    return replace(
        world, read=tuple(world.computed[hour] if hour in known else of for hour, of in enumerate(world.read))
    )


def looked(world: World) -> tuple[World, str | None]:
    """The plan looks, and forgets what is old. Return what is wrong."""
    seen, had = world.seen
    since = [interval for interval, at, merged in world.rows if (interval, at, merged) not in seen]
    lost = subtract([*intervals_of(had), *since], intervals_of(world.there))
    table = Table(_as_ranges(world.rows), _as_ranges(seen), lost)
    has = intervals_of(hour for hour in HOURS if world.read[hour])
    version = Version(
        reads=frozenset(),
        computed=has,
        lost=(),
        gaps=(),
        altered=table.altered(0, only_rewritten=world.is_whole),
        whole=lambda interval: interval,
        depends_on_past=lambda: world.is_whole,
        is_by_interval=not world.is_whole,
        is_in_parts=True,
    )
    again = {*hours_of(outdated({"b": version}).get("b", ()))}
    old = world.is_old
    wrong = None
    if (old and not again) if world.is_whole else old - again:
        wrong = OLD
    read = tuple(None if again and (world.is_whole or hour in again) else of for hour, of in enumerate(world.read))
    return replace(world, read=read, seen=(world.rows, world.there)), wrong


def _as_ranges(rows: Ranges) -> list[ComputedRange]:
    return [ComputedRange(interval, at, is_merged, None) for interval, at, is_merged in sorted(rows)]


def actions_of(world: World) -> Iterator[tuple[str, World, str | None]]:
    """Yield what may happen next."""
    for hour in HOURS:
        if not world.computed[hour]:
            yield f"a run computes hour {hour}", computed(world, hour), None
        elif hour in world.forgotten:
            yield f"a run computes hour {hour} again", computed(world, hour), None
        else:
            yield f"a restatement forgets hour {hour}", forgotten(world, hour), None
        if hour in world.there & world.seen[1] and not world.is_whole and not world.read[hour]:
            yield f"the plan computes hour {hour}", planned(world, [hour]), None
    if world.is_whole and world.seen[1] <= world.there and not any(world.read):  # else it waits for `a`
        yield "the plan computes the table", planned(world, HOURS), None
    yield "the plan looks", *looked(world)
    if any(not is_merged for _, _, is_merged in world.rows):
        at = max(at for _, at, _ in world.rows)
        rows = frozenset((interval, at, True) for interval in intervals_of(world.there))
        yield "the janitor merges", replace(world, rows=rows), None


def first_world(*, is_whole: bool) -> World:
    """Return the world after a run of two hours, and the first look of the plan."""
    world, _ = looked(computed(computed(World(is_whole), 0), 1))
    return world.ranked()


def searched(length: int, *, is_whole: bool) -> Searched:
    """Return what all histories of so many actions lead to. A history with a fault is not continued."""
    histories: dict[World, tuple[str, ...]] = {first_world(is_whole=is_whole): ()}
    edge, found = list(histories), dict[str, Found]()
    for _ in range(length):
        following = []
        for world in edge:
            for action, after, wrong in actions_of(world):
                ranked, history = after.ranked(), (*histories[world], action)
                if wrong:
                    found.setdefault(wrong, Found(wrong, history))  # type: ignore[arg-type]
                elif ranked not in histories:
                    histories[ranked] = history
                    following.append(ranked)
        edge = following
    return Searched(len(histories), list(found.values()))


if __name__ == "__main__":
    for is_whole in (False, True):
        began = monotonic()
        result = searched(int(sys.argv[1]), is_whole=is_whole)
        name = "as a whole" if is_whole else "by hours"
        print(f"{name}: {result.worlds:,} worlds, {monotonic() - began:.1f} s", *result.found, sep="\n")
