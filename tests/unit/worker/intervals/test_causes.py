"""What a waiting node names: all causes that can be acted on, in place of models that wait themselves."""

from collections.abc import Callable, Collection
from time import process_time
from typing import Any

import pytest

from dg_sqlmesh_component.protocol.messages import Cause, HeldBack, Interval
from dg_sqlmesh_component.worker.intervals.availability import HeldBackBy, Left, Node
from dg_sqlmesh_component.worker.intervals.causes import Waiting, held_back

READS: tuple[Interval, ...] = ((0, 3),)
WAITS_FOR_SOURCE: Left = ([], HeldBackBy(tables=("source",), intervals=READS))
SOURCE = Cause("source", "source")


def node(name: str, *parents: str, **facts: Any) -> Node:
    """Return a table that is computed range by range, and lacks what is read."""
    facts = {"lacks": READS, "is_by_interval": True, **facts}
    return Node(name, parents, depends_on_past=lambda: False, is_due=tuple, **facts)


def run(
    *nodes: Node,
    models: Collection[str] = ("a",),
    tables: Collection[str] = (),
    if_all: dict[str, Left] | None = None,
    reads: tuple[Interval, ...] = READS,
    **facts: Any,
) -> Waiting:
    """Return a run in which `f` waits for these. It reads the first of the nodes."""
    named = {"a": node("a"), **{found.name: found for found in nodes}}
    of_f = named.pop("f", None) or node("f", *named, requested=list(READS))
    by = HeldBackBy(tuple(models), tuple(tables), reads)
    return Waiting({"f": of_f, **named}, {"f": by} if by else {}, lambda: if_all or {}, **facts)


def found(*causes: Cause, through_others: bool = False, reads: tuple[Interval, ...] = READS) -> HeldBack:
    return HeldBack(causes, reads, through_others)


HERE: dict[str, Any] = {"selected": {"f", "a", "b", "v"}}
BOUNDED: dict[str, Any] = {**HERE, "is_bounded": True}
OF_OTHERS: Left = ([], HeldBackBy(("b",), (), READS))
CASES: dict[str, tuple[Waiting, HeldBack]] = {
    "nothing": (run(models=()), HeldBack()),
    # Models that are not selected.
    "a model that is not selected and can run": (run(), found(Cause("unselected", "a"))),
    "its signal, which nobody has evaluated": (
        run(node("a", signals=("landed",))),
        found(Cause("unselected", "a", ("landed",))),
    ),
    "a model that only waits for its own older intervals": (
        run(if_all={"a": ([], HeldBackBy(("a",), (), READS))}),
        found(Cause("unselected", "a")),
    ),
    "a model that needs its older intervals first, and waits for a source for later ones": (
        run(if_all={"a": ([(-1, 0)], HeldBackBy(tables=("source",), intervals=((3, 4),)))}, **BOUNDED),
        found(Cause("bounds", "a")),
    ),
    # Models that wait themselves.
    "the source of a model that waits for it, selected": (run(if_all={"a": WAITS_FOR_SOURCE}, **HERE), found(SOURCE)),
    "the source of a model that waits for it, not selected": (
        run(if_all={"a": WAITS_FOR_SOURCE}),
        found(SOURCE, through_others=True),
    ),
    "the source of a model of another step": (
        run(if_all={"a": WAITS_FOR_SOURCE}, selected={"f"}, elsewhere={"a"}),
        found(SOURCE),
    ),
    "a model that can run in part, and the source for the rest": (
        run(if_all={"a": ([(0, 1)], HeldBackBy(tables=("source",), intervals=((1, 3),)))}),
        found(SOURCE, Cause("unselected", "a")),
    ),
    "no source of intervals that are not read": (
        run(if_all={"a": ([(0, 3)], HeldBackBy(tables=("source",), intervals=((3, 4),)))}),
        found(Cause("unselected", "a")),
    ),
    "the source two models upstream": (
        run(if_all={"a": OF_OTHERS, "b": WAITS_FOR_SOURCE}),
        found(SOURCE, through_others=True),
    ),
    "all sources and models": (
        run(node("b"), models=("a", "b"), tables=("other",), if_all={"a": WAITS_FOR_SOURCE}),
        found(Cause("source", "other"), SOURCE, Cause("unselected", "b"), through_others=True),
    ),
    # What the bounds of the run config leave out.
    "a model of the run with intervals beyond its bounds": (run(**BOUNDED), found(Cause("bounds", "a"))),
    "a model of another step with intervals beyond the bounds": (
        run(elsewhere={"a"}, is_bounded=True),
        found(Cause("bounds", "a")),
    ),
    "the table that a view of the run shows": (
        run(node("v", "a", shows_others=True), models=("v",), **BOUNDED),
        found(Cause("bounds", "a")),
    ),
    "the table that a view of the run shows, and that is not selected": (
        run(node("v", "a", shows_others=True), models=("v",), selected={"f", "v"}, is_bounded=True),
        found(Cause("unselected", "a")),
    ),
    "a view whose tables are there": (
        run(node("a", lacks=()), node("v", "a", shows_others=True), models=("v",), **BOUNDED),
        found(Cause("bounds", "v")),
    ),
    "its own older intervals": (run(models=("f",), **BOUNDED), found(Cause("own", "f"))),
    # Other steps and attempts.
    "a model that another step has not computed": (run(elsewhere={"a"}), found(Cause("not_computed", "a"))),
    "the signal of a model of another step": (
        run(node("a", signals=("landed",)), elsewhere={"a"}),
        found(Cause("signal", "a", ("landed",))),
    ),
    "the signal of a model of another step, and the bounds": (
        run(node("a", signals=("landed",)), elsewhere={"a"}, is_bounded=True),
        found(Cause("signal", "a", ("landed",)), Cause("bounds", "a")),
    ),
    # The rows that stand in the table.
    "rows that were refused": (
        run(node("a", forgotten=[(0, 1), (3, 4)]), **BOUNDED),
        found(Cause("bounds", "a", refused=((0, 1),))),
    ),
    "a gap in a table that is read as a whole": (
        run(node("f", "a", is_by_interval=False), node("a", lacks=[(0, 1), (2, 3)], computed=[(1, 2)])),
        found(Cause("unselected", "a", gap=((0, 1),))),
    ),
    "no gap in a table that is read range by range": (
        run(node("a", lacks=[(0, 1), (2, 3)], computed=[(1, 2)])),
        found(Cause("unselected", "a")),
    ),
    # Signals of this step.
    "its signal": (
        run(models=(), unready={"f": {(0, 1)}}, closed={"f": ["landed"]}),
        found(Cause("signal", "f", ("landed",)), reads=()),
    ),
    "a signal upstream": (
        run(models=(), unready={"f": {(0, 1)}, "a": {(0, 1)}}, closed={"a": ["landed"]}),
        found(Cause("signal", "a", ("landed",)), reads=()),
    ),
    "no signal of intervals that it does not request": (
        run(models=(), unready={"f": {(3, 4)}, "a": {(3, 4)}}, closed={"a": ["landed"]}),
        HeldBack(),
    ),
    "a signal and a source": (
        run(models=(), tables=("source",), unready={"f": {(0, 1)}, "a": {(0, 1)}}, closed={"a": ["landed"]}),
        found(Cause("signal", "a", ("landed",)), SOURCE),
    ),
}


@pytest.mark.parametrize(("waiting", "causes"), CASES.values(), ids=CASES)
def test_a_waiting_node_names(waiting: Waiting, causes: HeldBack) -> None:
    assert held_back("f", waiting) == causes


def test_a_run_without_bounds_is_decided_only_if_a_model_upstream_waits() -> None:
    """It takes as long as the decision about the run itself."""
    asked: list[bool] = []

    def if_all() -> dict[str, Left]:
        asked.append(True)
        return {}

    def of(waiting: Waiting, if_all: Callable[[], dict[str, Left]]) -> Waiting:
        waiting.if_all = if_all
        return waiting

    held_back("f", of(run(models=("f",), tables=("source",)), if_all))
    assert not asked
    held_back("f", of(run(), if_all))
    assert asked


def test_signals_upstream_of_a_long_chain_are_found_once_for_all_of_its_models() -> None:
    """Asked one by one, 3,000 models would take half a minute of each run in which the first signal is closed."""
    names = [f"m{number}" for number in range(3_000)]
    chain = {
        name: node(name, *before, requested=[*READS]) for name, before in zip(names, [(), *zip(names)], strict=False)
    }
    waiting = Waiting(chain, unready={name: {READS[0]} for name in names}, closed={"m0": ["landed"]})
    began = process_time()
    assert {held_back(name, waiting) for name in names} == {found(Cause("signal", "m0", ("landed",)), reads=())}
    assert process_time() - began < 2, "0.03 seconds on an idle machine"
