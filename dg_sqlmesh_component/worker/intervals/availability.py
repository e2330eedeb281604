"""Decide which intervals may be computed, from a plain picture of the nodes.

A step runs exactly the requested models. If an upstream model has pending intervals and does not run (as in a run of
one model, in a retry, or in the second part of a split step), its downstream models would be computed for these
intervals without their source. SQLMesh would then count them as computed and never compute them again.

An interval is pending if it is missing, not computed, and not part of this run. Intervals that are only computed again,
because of a `lookback` or because they are not over, hold nothing back. A model that runs within bounds (`start`,
`end`) may have pending intervals too: a daily downstream model needs the whole day. An external table that an asset of
Dagster loads lacks the ranges that are not loaded.

An interval is held back if it overlaps with one that a source of the model lacks. Then the models downstream lack it
too. So a missing hour holds back a whole day, and a gap may hold back everything after it. `_decide` has more rules.

A model that is computed as a whole reads all rows that stand in a table, also those after a gap, and those of a batch
that failed, was cancelled or killed (`_hold_all`).

A table that is up to date by its own cron holds nothing back, whatever its sources lack: it will not change before its
next tick. So a daily model does not wait for the running week of a weekly one.

Invariants: no interval is computed while a table that it reads, also through views, lacks it. No whole table is
computed past a gap, or from rows that were not accepted. A model whose tables lack nothing is computed as SQLMesh would
compute it. tests/soak/random_sources.py counts rows. Known exceptions stand in
tests/unit/worker/intervals/test_availability_by_minutes.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field

from dg_sqlmesh_component.protocol.graph import parents_first, reachable
from dg_sqlmesh_component.protocol.intervals import common, merged, subtract, without
from dg_sqlmesh_component.protocol.messages import FOREVER, Interval, Sources


@dataclass(frozen=True, slots=True)
class HeldBackBy:
    """What lacks intervals that a node would read.

    Attributes:
        models: The nearest upstream models that have them pending and do not run. If it depends on its past, the node
            itself may be one of them.
        tables: The awaited tables that are not complete.
        intervals: What the node reads of them for the intervals for which it waits.
    """

    models: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
    intervals: tuple[Interval, ...] = ()

    def __bool__(self) -> bool:
        """Whether anything lacks them."""
        return bool(self.models or self.tables)


Left = tuple[list[Interval], HeldBackBy]
"""The intervals that a requested model may compute, and what holds back the others."""


@dataclass(frozen=True)
class Node:
    """A node of an environment or a plan, as far as the decision needs it.

    Attributes:
        name: As in SQLMesh's snapshots.
        parents: The nodes that it reads, by name.
        awaits: The awaited tables that it reads itself, by name. If it is one, only itself.
        requested: The single intervals that it is to compute, in order. None if it does not run.
        lacks: Its missing intervals before the run. A restatement also requests intervals that are computed.
        computed: The computed intervals of the table that the environment shows.
        forgotten: Those that are marked and not computed: their rows may stand in the table, and are old, or were not
            accepted.
        has_table: Whether it has rows, or shows those of others.
        shows_others: Whether it has no rows of its own: a view, an embedded model or an external table.
        is_by_interval: Whether SQLMesh computes it range by range.
        starts_with_all: Whether its first computation brings rows of any time.
        awaits_accepted: Whether it waits for rows that stand in a table and were not accepted.
        lookback: How many intervals SQLMesh computes again with each.
        signals: The names of its signals.
        depends_on_past: Asks SQLMesh, which renders a query for the answer.
        is_due: Asks SQLMesh which of its missing intervals a run of all nodes would compute.
    """

    name: str
    parents: Sequence[str]
    depends_on_past: Callable[[], bool]
    is_due: Callable[[], Sequence[Interval]]
    awaits: Set[str] = frozenset()
    requested: Sequence[Interval] | None = None
    lacks: Sequence[Interval] = ()
    computed: Sequence[Interval] = ()
    forgotten: Sequence[Interval] = ()
    has_table: bool = True
    shows_others: bool = False
    is_by_interval: bool = False
    starts_with_all: bool = False
    awaits_accepted: bool = True
    lookback: int = 0
    signals: Sequence[str] = ()

    @property
    def is_whole(self) -> bool:
        """Whether a computation reads all rows, also those that are refused or half loaded."""
        return not (self.is_by_interval or self.shows_others)

    @property
    def again(self) -> set[Interval]:
        """The requested intervals that a `lookback` computes although they are computed."""
        requested = self.requested or () if self.lookback else ()
        return {interval for interval in requested if not subtract([interval], self.computed)}

    @property
    def pending(self) -> Sequence[Interval]:
        """Its missing intervals that this run does not request."""
        if not self.has_table:
            return ()
        lacks = subtract(self.lacks, [*self.computed, *(self.requested or ())])
        return lacks if self.requested else self.with_first_rows(lacks)

    def drops_rows(self, intervals: Iterable[Interval]) -> bool:
        """Whether rows would be gone if only these are computed: the first batch is put in place of all rows."""
        is_replaced = self.is_by_interval and self.starts_with_all and not self.computed
        return is_replaced and bool(subtract(self.forgotten, intervals))

    def with_first_rows(self, lacks: Sequence[Interval]) -> Sequence[Interval]:
        """These missing intervals. If its table is still empty, also everything before them."""
        is_first = self.starts_with_all and lacks and not self.computed
        return [(0, lacks[-1][1])] if is_first else lacks


@dataclass(frozen=True)
class _Sources:
    """What a node finds upstream of it.

    Attributes:
        lacking: The intervals for which the nodes that it reads are not there.
        own_not_loaded: The ranges for which tables that it reads itself are not loaded.
        not_loaded: The same, also through views.
        nearest: The nearest pending models and awaited tables.
    """

    lacking: Sequence[Interval]
    own_not_loaded: Sequence[Interval]
    not_loaded: Sequence[Interval]
    nearest: Set[str]


@dataclass(frozen=True)
class _HandedOn:
    """What the nodes downstream of a node find in it.

    Attributes:
        lacking: The intervals for which they lack it.
        not_loaded: What tables lack that they read through it.
        nearest: The nearest pending models and awaited tables through it.
        is_unaccepted: Whether rows may stand in it that are old, or were not accepted, also after the run.
        gap: The instant at which it lacks rows, although later ones stand in it. FOREVER if there is none.
    """

    lacking: Sequence[Interval]
    not_loaded: Sequence[Interval]
    nearest: Set[str]
    is_unaccepted: bool
    gap: int


@dataclass(frozen=True)
class _Walk:
    """What is known while the nodes are decided, upstream nodes first.

    Attributes:
        nodes: As in `may_compute`, like `awaited`.
        pending: By name, what is pending of nodes.
        seen: By name, what nodes hand on that are decided already.
    """

    nodes: Mapping[str, Node]
    awaited: Sources
    pending: Mapping[str, Sequence[Interval]]
    seen: dict[str, _HandedOn] = field(default_factory=dict)


def may_compute(nodes: Mapping[str, Node], awaited: Sources, since: int = 0) -> dict[str, Left]:
    """By name, what each requested node may compute that reads pending nodes or awaited tables, or is pending itself.

    Args:
        nodes: The requested ones, and all that are upstream of them.
        awaited: The ranges for which awaited tables are not loaded, by name.
        since: The first instant of the environment. Gaps before it count as the beginning of a table.
    """
    pending = {name: found for name, node in nodes.items() if (found := node.pending)}
    # As in most runs. What follows asks SQLMesh, which renders queries for some of the answers.
    if not pending and not any(awaited.values()):
        return {}
    decided: dict[str, Left] = {}
    walk = _Walk(nodes, awaited, pending)
    for name in parents_first(nodes, lambda name: nodes[name].parents):
        node = nodes[name]
        sources = _sources(node, {parent: walk.seen[parent] for parent in node.parents}, awaited)
        denied: Sequence[Interval] = ()
        if node.requested is not None and (sources.lacking or sources.own_not_loaded or name in pending):
            decided[name], denied = _decide(node, sources, walk)
        lacking = () if awaited.get(name) else _lacking_for_others(node, sources, denied)
        through = sources.nearest if lacking else frozenset()
        if own := pending.get(name):  # it hides those further upstream
            through = {name, *(sources.nearest if subtract(lacking, own) else ())}
        own_lacking = merged([*pending.get(name, ()), *denied])
        walk.seen[name] = _HandedOn(
            lacking,
            sources.not_loaded if node.shows_others else (),
            through,
            is_unaccepted=bool(common(node.forgotten, own_lacking)),
            gap=_gap(node, subtract(own_lacking, [(0, since)])),
        )
    return decided


def _sources(node: Node, parents: Mapping[str, _HandedOn], awaited: Sources) -> _Sources:
    own = merged(interval for table in node.awaits for interval in awaited[table])
    if own and node.is_whole:
        own = ((own[0][0], FOREVER),)  # it needs everything before its end
    return _Sources(
        merged(interval for parent in parents.values() for interval in parent.lacking),
        own,
        merged([*own, *(interval for parent in parents.values() for interval in parent.not_loaded)]),
        frozenset(node.awaits).union(*(parent.nearest for parent in parents.values())),
    )


def _decide(node: Node, sources: _Sources, walk: _Walk) -> tuple[Left, Sequence[Interval]]:
    """What a requested node may compute, and the intervals that it still lacks after the run."""
    awaited, pending, seen = walk.awaited, walk.pending, walk.seen
    single, holding = list(node.requested or ()), _hold_all(node, walk)
    behind_own = _behind_own(node, pending.get(node.name, ()))
    is_held = bool(holding) or _waits_as_a_whole(node, sources, walk)
    denied = sorted(set(single) if is_held else _denied(node, sources, behind_own))
    if node.lookback:
        denied = sorted(within_lookback(single, node.again, set(denied), node.lookback))
    if not denied:
        return (single, HeldBackBy()), ()
    # If none of them is pending for a denied interval, one of them lacks it because of what it reads.
    handed_on = {of: seen[of].lacking for of in sources.nearest & pending.keys()}
    own = {node.name} if behind_own or node.drops_rows(single) else set()
    by = (
        _concerned(sources.nearest, {**awaited, **pending}, denied).union(own, *(seen[of].nearest for of in holding))
        or _concerned(sources.nearest, {**awaited, **handed_on}, denied)
        or sources.nearest
    )
    reads = ((0, denied[-1][1]),) if node.is_whole else merged(denied)
    held_back_by = HeldBackBy(tuple(sorted(by - awaited.keys())), tuple(sorted(by & awaited.keys())), reads)
    left = sorted(set(single).difference(denied))
    return (left, held_back_by), denied if left else node.with_first_rows(denied)


def _concerned(names: Set[str], lacked: Mapping[str, Sequence[Interval]], denied: Sequence[Interval]) -> set[str]:
    """Those that lack a part of these intervals."""
    return {of for of in names if without(lacked[of], denied, uninterrupted=False) != [*lacked[of]]}


def _waits_as_a_whole(node: Node, sources: _Sources, walk: _Walk) -> bool:
    """Whether a model that reads all rows would read past a range that is not loaded."""
    if not sources.not_loaded or not node.is_whole:
        return False
    from_first = [(sources.not_loaded[0][0], FOREVER)]
    return bool(common(from_first, [*node.computed, *node.forgotten])) or _has_hole(node, walk)


def _denied(node: Node, sources: _Sources, behind_own: Set[Interval]) -> Set[Interval]:
    """The requested intervals that a node must not compute, of one that does not wait as a whole."""
    single, not_loaded = list(node.requested or ()), sources.not_loaded
    if not_loaded and node.is_whole:
        not_loaded = [(not_loaded[0][0], FOREVER)]
    taken = merged([*sources.lacking, *not_loaded])
    possible = without(single, taken, uninterrupted=False)
    if possible != single[: len(possible)] and node.depends_on_past():
        possible = without(single, taken, uninterrupted=True)
    denied = set(single).difference(possible) | behind_own
    return set(single) if node.drops_rows(set(single) - denied) else denied


def _lacking_for_others(node: Node, sources: _Sources, denied: Sequence[Interval]) -> Sequence[Interval]:
    """What downstream nodes lack of a node. A view shows its sources as they are now.

    A table that is up to date by its own cron lacks nothing: it would not change if its sources were there. The
    downstream models of an awaited table wait for the table themselves.
    """
    of_sources = merged([*sources.lacking, *sources.own_not_loaded])
    if of_sources and not node.shows_others:
        of_sources = common(of_sources, node.is_due())
    return merged([*node.pending, *denied, *of_sources])


def tables_read(name: str, nodes: Mapping[str, Node]) -> set[str]:
    """The nodes that a node reads, also through views and embedded models."""
    return reachable(nodes[name].parents, lambda of: nodes[of].parents if nodes[of].shows_others else ())


def _has_hole(node: Node, walk: _Walk) -> bool:
    """Whether a table that a node reads is not loaded for a range before its end, and loaded for a later one."""
    nodes, awaited = walk.nodes, walk.awaited
    views = {read for read in tables_read(node.name, nodes) if nodes[read].shows_others}
    tables = {table for name in (node.name, *views) for table in nodes[name].awaits}
    ends = [end for _, end in (node.requested or ())[-1:]]
    return any(len(awaited[of]) > 1 and awaited[of][0][0] < end for of in tables for end in ends)


def _behind_own(node: Node, pending: Sequence[Interval]) -> Set[Interval]:
    """The requested intervals that would be computed before an older one of the node, although it depends on it."""
    newer = {interval for interval in node.requested or () if pending and interval[0] >= pending[0][0]}
    return newer if newer and node.is_by_interval and node.depends_on_past() else frozenset()


def _gap(node: Node, lacking: Sequence[Interval]) -> int:
    """The instant at which a table that is computed range by range lacks rows that are older than others of it."""
    if not node.is_by_interval or not lacking:
        return FOREVER
    shown = subtract([*node.computed, *(node.requested or ())], lacking)
    return lacking[0][0] if shown and shown[-1][1] > lacking[0][0] else FOREVER


def _hold_all(node: Node, walk: _Walk) -> Set[str]:
    """The tables that a requested node reads, also through views, and that hold back all of its intervals.

    A model that is computed as a whole reads every row, also after a gap, and also if the row was not accepted. A table
    that is computed as a whole, or not by time, may have unaccepted rows for any interval.
    """

    nodes = walk.nodes

    def holds(of: str) -> bool:
        source, has_rows = walk.seen[of], not nodes[of].shows_others
        if source.is_unaccepted and node.awaits_accepted:
            return node.is_whole or (has_rows and (nodes[of].starts_with_all or nodes[of].is_whole))
        return node.is_whole and source.gap < end

    end = node.requested[-1][1] if node.requested else 0
    return {of for of in tables_read(node.name, nodes) if holds(of)}


def within_lookback(
    intervals: Sequence[Interval], again: Set[Interval], denied: Set[Interval], lookback: int
) -> set[Interval]:
    """The held-back intervals, and the newer intervals whose `lookback` would compute a held-back interval again.

    If the newer intervals were computed, SQLMesh would no longer compute the held-back interval.

    Args:
        intervals: Single intervals of the model, in order.
        again: Those that are computed already, and that a `lookback` computes again.
        denied: Those that are held back.
    """
    all_denied, last = set(denied), -1
    for position, interval in enumerate(intervals):
        if position <= last:
            all_denied.add(interval)
        if interval in all_denied and interval in again:
            last = position + lookback
    return all_denied


def brings_new(node: Node, intervals: Iterable[Interval]) -> bool:
    """Whether a node that computes these of its requested intervals does more than its `lookback`, if it can.

    If the new ones wait, each run would compute the others again until they are ready.
    """
    again = node.again
    return not again or not again.issuperset(intervals) or again.issuperset(node.requested or ())
