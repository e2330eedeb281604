"""Name the causes for which intervals of a node wait, as far upstream as somebody can act on them. Pure.

`availability` names the nearest pending models and awaited tables. If such a model waits itself, a run of it changes
nothing, so its own causes are named instead: those that it would have in a run of all models without bounds. All causes
are named, so that none is hidden behind another. `report/causes.py` has the sentence of each kind:

| kind | the cause |
|---|---|
| `signal` | a node whose signals are not ready, in this step or in another one of the run |
| `source` | an awaited table that is not complete |
| `own` | older intervals of the node itself, which the bounds of the run leave out |
| `bounds` | a model of the run, with intervals that the bounds leave out |
| `not_computed` | a model of the run whose step has not computed it, although no bounds leave it out |
| `unselected` | a model that the run does not select, and that could be computed |

The ledger adds `failed`, the models upstream that failed in the run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass, field

from dg_sqlmesh_component.protocol.graph import parents_first, reachable
from dg_sqlmesh_component.protocol.intervals import common
from dg_sqlmesh_component.protocol.messages import Cause, HeldBack, Interval
from dg_sqlmesh_component.worker.intervals.availability import HeldBackBy, Left, Node


@dataclass
class Waiting:
    """What a scheduler leaves out. It is empty until SQLMesh batches intervals.

    Attributes:
        nodes: The requested nodes and those upstream of them, by name.
        by: What `availability` has found, by requested node.
        if_all: Returns what a run of all models without bounds would decide, less the intervals that this run requests.
            A model that waits for nothing is not in it.
        selected: The models that the step selects, also those that have nothing to compute.
        elsewhere: The models of the run's other steps and earlier attempts.
        is_bounded: Whether `start`, `end` or `restate` leaves out intervals.
        unready: The intervals that signals hold back, by node. They include those of nodes upstream.
        closed: The signals that hold back intervals, by their node.
    """

    nodes: Mapping[str, Node] = field(default_factory=dict)
    by: Mapping[str, HeldBackBy] = field(default_factory=dict)
    if_all: Callable[[], Mapping[str, Left]] = dict
    selected: Set[str] = frozenset()
    elsewhere: Set[str] = frozenset()
    is_bounded: bool = False
    unready: dict[str, Set[Interval]] = field(default_factory=dict)
    closed: dict[str, list[str]] = field(default_factory=dict)
    _closed_upstream: dict[str, frozenset[str]] = field(default_factory=dict)

    def decide(
        self, nodes: Mapping[str, Node], by: Mapping[str, HeldBackBy], if_all: Callable[[], Mapping[str, Left]]
    ) -> None:
        """Replace what the scheduler left out before by what it leaves out now."""
        self.nodes, self.by, self.if_all = nodes, by, if_all
        self._closed_upstream.clear()

    def closed_upstream(self, name: str) -> frozenset[str]:
        """The nodes whose signals hold back intervals of a node: itself, or upstream of it.

        An idle view passes on the signals of what it shows. All nodes are searched at once: one search for each node
        would take 28 seconds for a chain of 3,000.
        """
        if not self._closed_upstream:
            idle_views = {of for of, node in self.nodes.items() if node.shows_others and of not in self.unready}
            held = idle_views.union(of for of, intervals in self.unready.items() if intervals and of in self.nodes)
            parents = {of: [parent for parent in self.nodes[of].parents if parent in held] for of in held}
            for of in parents_first(held, parents.__getitem__):
                own = {of} & self.closed.keys()
                found = (self._closed_upstream[parent] for parent in parents[of])
                self._closed_upstream[of] = frozenset(own).union(*found)
        return self._closed_upstream.get(name, frozenset())


def held_back(name: str, run: Waiting) -> HeldBack:
    """Why intervals of a requested node wait in a run; without causes if none waits."""
    causes = [*_closed_signals(name, run)]
    by = run.by.get(name)
    if not by:
        return HeldBack(tuple(causes))
    models, tables, waiting = _actionable(name, by, run)
    causes += [Cause("source", table) for table in sorted(tables)]
    causes += [cause for of in sorted(models) for cause in _causes_of(of, name, run)]
    return HeldBack(tuple(causes), by.intervals, through_others=bool(waiting - run.selected - run.elsewhere))


def _closed_signals(name: str, run: Waiting) -> Iterator[Cause]:
    """The node and nodes upstream of it whose signals hold back intervals that it requests."""
    unready = run.unready.get(name)
    if not unready or not (held := common(run.nodes[name].requested or (), unready)):
        return
    for of in sorted(run.closed_upstream(name), key=lambda of: (of != name, of)):
        if common(run.unready[of], held):
            yield Cause("signal", of, tuple(run.closed[of]))


def _actionable(name: str, by: HeldBackBy, run: Waiting) -> tuple[set[str], set[str], set[str]]:
    """The pending models that could be computed, the incomplete tables, and the models that only wait themselves."""
    models, tables, seen = {name} & {*by.models}, set(by.tables), set[str]()
    to_visit = [of for of in by.models if of != name]
    if_all = run.if_all() if to_visit else {}
    while to_visit:
        of = to_visit.pop()
        if of in seen:
            continue
        seen.add(of)
        if of in run.selected and (behind := _pending_behind_view(of, by, run)):
            to_visit += behind  # the view shows them, and has nothing to compute itself
            continue
        left, own = if_all.get(of, (None, HeldBackBy()))
        causes = [cause for cause in own.models if cause != of]
        waits = left is not None and (not left or bool(common(own.intervals, by.intervals)))
        if not waits or common(left or (), by.intervals) or not (own.tables or causes):
            models.add(of)  # running it computes what is read, or what must come before that
        if waits:
            tables |= set(own.tables)
            to_visit += causes
    return models, tables, seen - models


def _pending_behind_view(of: str, by: HeldBackBy, run: Waiting) -> list[str]:
    """The tables that a view shows, and whose pending intervals are read; none if it is not a view."""
    nodes = run.nodes
    if of not in nodes or not nodes[of].shows_others:
        return []
    shown = reachable(nodes[of].parents, lambda name: nodes[name].parents if nodes[name].shows_others else ())
    return [name for name in shown if not nodes[name].shows_others and common(nodes[name].pending, by.intervals)]


def _causes_of(of: str, name: str, run: Waiting) -> Iterator[Cause]:
    """A pending model as causes: what keeps this run from computing it."""
    node = run.nodes.get(of)
    signals = tuple(node.signals) if node else ()
    refused = common(node.forgotten, node.pending) if node else ()
    gap = _gap(node) if node and run.nodes[name].is_whole else ()
    if of == name:
        yield Cause("own", of, refused=refused)
    elif of not in run.selected and of not in run.elsewhere:
        yield Cause("unselected", of, signals, refused, gap)
    else:
        is_asked_elsewhere = of in run.elsewhere and signals
        if is_asked_elsewhere:
            yield Cause("signal", of, signals)
        if run.is_bounded:
            yield Cause("bounds", of, refused=refused, gap=gap)
        elif not is_asked_elsewhere:
            yield Cause("not_computed", of, refused=refused, gap=gap)


def _gap(node: Node) -> tuple[Interval, ...]:
    """The pending intervals of a table before later ones that it has."""
    if not node.is_by_interval or not node.computed:
        return ()
    return common(node.pending, [(0, max(end for _, end in node.computed))])
