"""Random pictures of nodes: what may be computed, compared with an oracle that looks at each hour.

The oracle was written from docs/ alone, without a look at the rule. Each comment quotes the sentence that it follows.
Where `doubtful` is true, it also accepts that an interval waits because of faults that are known:

- A `lookback` reaches back over gaps in what is requested, as if they were not there.
- What a `lookback` of a table computes again is lacking downstream if its source is not loaded, and if it is requested.
- A verdict may also name tables that the node does not need, and of a whole table only those.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from dg_sqlmesh_component.protocol.intervals import merged, subtract
from dg_sqlmesh_component.protocol.messages import FOREVER, Interval, Sources
from dg_sqlmesh_component.worker.intervals.availability import Node, may_compute

Picture = tuple[dict[str, Node], Sources]
"""The nodes, upstream nodes first, and the ranges that are not loaded. Their unit is an hour."""
Slots = set[int]
EXAMPLES, NOW, HORIZON = 2 * settings().max_examples, 48, 72
TABLES = [{"is_by_interval": True}, {"is_by_interval": True, "starts_with_all": True}, {"starts_with_all": True}]
KINDS: list[tuple[dict[str, Any], bool]] = [(kind, is_past) for kind in TABLES for is_past in (False, True)]
KINDS += [({"shows_others": True}, False)] * 2


def slots(intervals: Iterable[Interval]) -> Slots:
    return {slot for start, end in intervals for slot in range(start, min(end, HORIZON))}


def drawn_picture(size: int, seed: int) -> Picture:
    rng = Random(seed)
    cuts = [sorted(rng.sample(range(HORIZON), rng.choice((1, 1, 3, 5)))) for _ in range(rng.choice((0, 1, 1, 2)))]
    awaited = {f"raw{i}": tuple(zip(at[::2], [*at[1::2], FOREVER], strict=True)) for i, at in enumerate(cuts)}
    mode = rng.choice(("due", "due", "bounds", "ignore_cron", "restate"))
    bounds = (rng.randint(0, NOW), rng.randint(0, NOW))
    nodes = {name: Node(name, (), bool, tuple, {name}, shows_others=True) for name in awaited if rng.random() < 0.5}
    for number in range(size):
        parents = rng.sample(list(nodes), rng.randint(0, min(3, len(nodes))))
        awaits = {*rng.sample(list(awaited), rng.randint(0, min(1, len(awaited)))), *parents} & set(awaited)
        kind, is_past = rng.choice(KINDS)
        node = Node(f"m{number}", parents, partial(bool, is_past), tuple, awaits, **kind)
        is_embedded = node.shows_others and rng.random() < 0.3
        nodes[node.name] = node if is_embedded else _with_intervals(rng, node, mode, bounds)
    needed = {name for name, node in nodes.items() if node.requested is not None}
    for name in reversed(nodes):
        needed |= set(nodes[name].parents) if name in needed else set()
    return {name: node for name, node in nodes.items() if name in needed}, awaited


def _with_intervals(rng: Random, node: Node, mode: str, bounds: Interval) -> Node:
    unit = rng.choice((1, 2, 6, 24))
    grid = [(begin, begin + unit) for begin in range(rng.choice((0, 24)), NOW, unit)]
    lookback = rng.choice((0, 1, 2, 3)) if node.is_by_interval and mode != "restate" else 0
    some = [set(rng.sample(range(len(grid)), rng.choice((0, 0, 1, min(2, len(grid)))))) for _ in range(2)]
    ticked = rng.randint(0, len(grid))
    computed = set(range(rng.randint(0, len(grid)))) ^ some[0]
    forgotten = some[1] - computed if computed else some[1] & set(range(ticked))
    if node.is_by_interval and node.starts_with_all and rng.random() < 0.5:
        # "SQLMesh restates some models only as a whole. If one has lost intervals, a restatement computes all of them."
        computed, forgotten = set(), computed | forgotten

    def missing(until: int) -> set[int]:
        # "A marked interval is missing even if its cron has not ticked." (adr/0044)
        lacks = set(range(until)) - computed
        again = {past for new in lacks - forgotten for past in range(max(0, new - lookback), new)}
        return lacks | forgotten | again

    def intervals(of: Iterable[int]) -> list[Interval]:
        return [grid[number] for number in sorted(of)]

    due, asked = missing(ticked), missing(len(grid) if mode == "ignore_cron" else ticked)
    if mode in ("bounds", "restate"):
        first, last = bounds
        if mode == "restate" and (node.depends_on_past() or node.starts_with_all):
            # SQLMesh restates such a model to its end, and most kinds from their start.
            first, last = (0 if node.starts_with_all else first), ticked * unit + grid[0][0]
        within = {number for number, (begin, end) in enumerate(grid) if first <= begin and end <= last}
        asked = asked & within if mode == "bounds" else within
    return replace(
        node,
        is_due=lambda: intervals(due),
        requested=intervals(asked) if rng.random() < 0.6 else None,
        lacks=intervals(due),
        computed=merged(intervals(computed)),
        forgotten=merged(intervals(forgotten)),
        lookback=lookback,
    )


pictures = st.builds(drawn_picture, st.integers(2, 6), st.integers(0, 2**32))


class Oracle:
    """What the docs say of each node, given the verdicts on the nodes upstream of it."""

    def __init__(self, picture: Picture) -> None:
        self.nodes, self.awaited = picture
        self.verdicts = may_compute(*picture)
        self.whole = {n for n, node in self.nodes.items() if not (node.is_by_interval or node.shows_others)}
        self._lacks: dict[tuple[str, bool], Slots] = {}
        for name, doubtful in product(self.nodes, (False, True)):
            self._lacks[name, doubtful] = self._lacks_of(name, doubtful)

    def left(self, name: str) -> Sequence[Interval]:
        return self.verdicts[name][0] if name in self.verdicts else self.nodes[name].requested or ()

    def held(self, name: str) -> list[Interval]:
        return [interval for interval in self.nodes[name].requested or () if interval not in self.left(name)]

    def pending(self, name: str) -> Slots:
        node = self.nodes[name]
        # "A table holds back only what it lacks itself: what SQLMesh counts as missing of it, by its own cron, start
        # and end." (adr/0047)
        return self._with_first_rows(node, slots(node.is_due()) - slots([*node.computed, *(node.requested or ())]))

    def _with_first_rows(self, node: Node, lacks: Slots) -> Slots:
        # "A table that was never computed holds back everything before its last pending interval, unless its kind is
        # `INCREMENTAL_BY_TIME_RANGE` or `SEED`." (outcomes.md)
        is_first = node.starts_with_all and not node.computed and not self.left(node.name)
        return set(range(max(lacks, default=-1) + 1)) if is_first else lacks

    def _lacks_of(self, name: str, doubtful: bool) -> Slots:
        node = self.nodes[name]
        # "Intervals that are held back from a model are also held back from its downstream models." (adr/0028)
        lacks = self._with_first_rows(node, self.pending(name) | slots(self.held(name)))
        if node.shows_others:  # "A view hands on what its sources lack." (adr/0047)
            return lacks | self.sources_lack(name, doubtful)
        return lacks | (slots(node.is_due()) & self.sources_lack(name, doubtful) if doubtful else set())

    def sources_lack(self, name: str, doubtful: bool) -> Slots:
        of_tables = [slots(self.awaited[table]) for table in self.nodes[name].awaits]
        return set().union(*of_tables, *(self._lacks[parent, doubtful] for parent in self.nodes[name].parents))

    def read_by(self, name: str) -> Iterator[str]:
        yield from self.nodes[name].awaits
        for parent in self.nodes[name].parents:
            yield parent
            if self.nodes[parent].shows_others:
                yield from self.read_by(parent)

    def waits(self, name: str, interval: Interval, doubtful: bool) -> bool:
        # "No interval is computed before Dagster has loaded what it reads." (wait.md)
        # "It never computes an interval that a table upstream lacks." (outcomes.md)
        return bool(
            self.sources_lack(name, doubtful) & slots([interval])
            or (name in self.whole and self._waits_as_a_whole(name, interval))
            or self._waits_for_past(name, interval)
            or self._waits_for_lookback(name, interval, doubtful)
            or self._keeps_its_rows(name, doubtful)
            or self._held_by(name)
        )

    def _waits_as_a_whole(self, name: str, interval: Interval) -> bool:
        node = self.nodes[name]
        has = max(slots([*node.computed, *node.forgotten]), default=-1) + 1
        last, end = max(slots(node.requested or ())) + 1, max(has, interval[1])
        for source in self.read_by(name):
            *holes, (tail, _) = self.awaited.get(source, ((FOREVER, FOREVER),))
            # "If a source has a hole before that end, and later partitions are loaded, the model waits for all
            # intervals, also for those before the hole." (adr/0047)
            # "... while a source is not loaded for any range before the end of what the table has or had." (adr/0067)
            if tail < end or any(start < max(has, last) for start, _ in holes):
                return True
        return False

    def _held_by(self, name: str) -> set[str]:
        """The tables because of which all intervals wait."""
        last, found = max(slots(self.nodes[name].requested or ()), default=-1), set()
        for source in self.read_by(name):
            if source not in self.nodes:
                continue
            node, left = self.nodes[source], slots(self.left(source))
            is_by_time = node.shows_others or (node.is_by_interval and not node.starts_with_all)
            # "Rows of a batch that failed, or was cancelled or killed, stand in a table until they are computed again.
            # A model that is computed as a whole waits with all intervals, and so does each model that reads them in a
            # table of another kind than `INCREMENTAL_BY_TIME_RANGE`." (outcomes.md)
            if slots(node.forgotten) - left and (name in self.whole or not is_by_time):
                found.add(source)
            # "If a table lacks an interval, and has later ones, a model that is computed as a whole waits with all
            # intervals." (outcomes.md)
            lacks = self.pending(source) | slots(self.held(source))
            later = {hour for hour in slots(node.computed) | left if hour > min(lacks, default=HORIZON)}
            if later and node.is_by_interval and name in self.whole and min(lacks) <= last:
                found.add(source)
        return found

    def _keeps_its_rows(self, name: str, doubtful: bool) -> bool:
        # "While one of them waits or is not part of the run, none is computed: SQLMesh would put the first batch in
        # place of all rows." (adr/0067)
        node = self.nodes[name]
        if not (node.is_by_interval and node.starts_with_all and node.forgotten) or node.computed:
            return False
        marked, requested = slots(node.forgotten), node.requested or ()
        if node.depends_on_past():  # then everything before them has to be computed too
            marked |= {hour for hour in slots(requested) | self.pending(name) if hour < max(marked)}
        needed = slots(interval for interval in requested if slots([interval]) & marked)
        return bool(marked - slots(requested) or needed & self.sources_lack(name, doubtful))

    def _waits_for_past(self, name: str, interval: Interval) -> bool:
        # "A model that reads itself also waits for its own older intervals." (recompute.md)
        lacks = slots(self.held(name)) | (set() if name in self.whole else self.pending(name))
        return self.nodes[name].depends_on_past() and min(lacks, default=HORIZON) < interval[0]

    def _waits_for_lookback(self, name: str, interval: Interval, doubtful: bool) -> bool:
        # "Suppose that a downstream model's `lookback` would compute an interval again, and this interval is held back.
        # Then the newer intervals within its lookback are held back too." (adr/0028)
        node, (start, end) = self.nodes[name], interval
        older = [past for past in node.requested or () if past < interval][-node.lookback or NOW :]
        near = [past for past in older if doubtful or start - past[0] <= node.lookback * (end - start)]
        return any(past in self.held(name) and not slots([past]) - slots(node.computed) for past in near)

    def culprits(self, name: str, hours: Slots) -> set[str]:
        node = self.nodes[name]
        hours = set(range(HORIZON)) if name in self.whole or self._held_by(name) else hours
        found = {table for table in node.awaits if slots(self.awaited[table]) & hours}
        if self._keeps_its_rows(name, True):
            hours, found = slots(node.requested or ()), found | ({name} if self.pending(name) else set())
        found |= {name} if node.depends_on_past() and self.pending(name) else set()
        for parent in node.parents:
            found |= {parent} if self.pending(parent) & hours else set()
            held = slots(self.held(parent))
            waits = held if self._with_first_rows(self.nodes[parent], held) & hours else set()
            shown = hours if self.nodes[parent].shows_others else hours & slots(self.nodes[parent].is_due())
            found |= self.culprits(parent, waits | shown) if waits | shown else set()
        return found


@settings(max_examples=EXAMPLES)
@given(st.lists(pictures, min_size=9, max_size=9))
def test_no_interval_is_computed_that_a_table_lacks(drawn: list[Picture]) -> None:
    for oracle in map(Oracle, drawn):
        assert not [
            (name, left) for name in oracle.nodes for left in oracle.left(name) if oracle.waits(name, left, False)
        ]


@settings(max_examples=EXAMPLES)
@given(st.lists(pictures, min_size=9, max_size=9))
def test_every_interval_is_computed_that_no_table_lacks(drawn: list[Picture]) -> None:
    for oracle in map(Oracle, drawn):
        assert not [
            (name, held) for name in oracle.nodes for held in oracle.held(name) if not oracle.waits(name, held, True)
        ]


@settings(max_examples=EXAMPLES)
@given(st.lists(pictures, min_size=9, max_size=9))
def test_what_is_held_back_has_a_reason_and_nothing_else_has_one(drawn: list[Picture]) -> None:
    for oracle in map(Oracle, drawn):
        for name, (left, because) in oracle.verdicts.items():
            # "The observation names the signal, the upstream model or the source that is not loaded." (outcomes.md)
            assert bool(because) is bool(oracle.held(name)), name
            named = {*because.models, *because.tables}
            is_lacking = [oracle.awaited.get(of) or oracle.pending(of) or oracle.held(of) for of in named]
            assert all(is_lacking), name
            if named and name not in oracle.whole:
                assert named & oracle.culprits(name, slots(oracle.held(name))), name
            assert [interval for interval in oracle.nodes[name].requested or () if interval in left] == left


@settings(max_examples=EXAMPLES)
@given(pictures, st.randoms(use_true_random=False))
def test_a_load_or_a_request_upstream_holds_back_nothing_more(picture: Picture, rng: Random) -> None:
    before, (nodes, awaited), changes = Oracle(picture), picture, list[Picture]()
    for name, node in nodes.items():
        if node.requested is None and not node.lookback:
            changes.append((nodes | {name: replace(node, requested=node.is_due())}, awaited))
    for table, ranges in awaited.items():
        for start, end in ranges:  # its beginning is loaded: elsewhere, a load would leave a hole
            loaded = (start, rng.randint(start, min(end, HORIZON)))
            changes.append((nodes, awaited | {table: subtract(ranges, [loaded])}))
    for after in map(Oracle, changes):
        assert all(set(before.left(name)) <= set(after.left(name)) for name in nodes), after.nodes
