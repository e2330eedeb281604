"""Which intervals may be computed, from a plain picture of the nodes.

These are the cases that random pictures (test_availability_by_minutes.py) do not decide, and what they do not draw.
"""

from collections.abc import Sequence
from typing import Any

import pytest
from unit.builders import day

from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.worker.intervals.availability import HeldBackBy, Left, Node, brings_new, may_compute

RAW, OTHER = '"raw"."orders"', '"raw"."other"'
WEEK = [(day(number), day(number + 1)) for number in range(1, 8)]
HOLE: msg.Sources = {RAW: (WEEK[1], (day(5), msg.FOREVER))}
LATER: msg.Sources = {OTHER: ((day(20), msg.FOREVER),)}


def node(
    name: str, *parents: str, is_past: bool = False, due: Sequence[msg.Interval] | None = None, **facts: Any
) -> Node:
    """A node whose query does not read earlier rows of its own, unless `is_past`. What it lacks is due."""
    return Node(name, parents, lambda: is_past, lambda: facts.get("lacks", ()) if due is None else due, **facts)


def daily(name: str, *parents: str, **facts: Any) -> Node:
    """A node that is computed range by range."""
    return node(name, *parents, is_by_interval=True, **facts)


def view(name: str, *parents: str, **facts: Any) -> Node:
    return node(name, *parents, shows_others=True, **facts)


def decided(nodes: Sequence[Node], awaited: msg.Sources | None = None) -> Left | None:
    """What is left for the last node, and why; None if it reads nothing that is pending or awaited."""
    return may_compute({of.name: of for of in nodes}, awaited or {}).get(nodes[-1].name)


LOST = daily("a", lacks=WEEK[2:3], forgotten=WEEK[2:3], computed=WEEK[:2])
"""Its third day is to be computed again, and it does not run."""
GAP = daily("a", lacks=WEEK[2:3], computed=[*WEEK[:2], *WEEK[3:]])
"""Its third day is missing, and the later days are there."""
OF_PARTS = daily("a", requested=[WEEK[1], WEEK[3]], computed=[WEEK[0], WEEK[2]], forgotten=WEEK[1:2], awaits={RAW})
"""It runs, and its second day, which had rows, is not loaded."""

NOT_LOADED: dict[str, tuple[list[Node], msg.Sources, Sequence[msg.Interval]]] = {
    "a whole table waits: it needs everything before its end, and reads the rows after the hole": (
        [node("a", awaits={RAW}, requested=WEEK)],
        HOLE,
        [],
    ),
    "range by range": ([daily("a", awaits={RAW}, requested=WEEK)], HOLE, [WEEK[0], WEEK[2], WEEK[3]]),
    "a whole table waits if a table that it reads runs and leaves out rows that it had": (
        [OF_PARTS, node("b", "a", requested=WEEK[3:4])],
        {RAW: (WEEK[1],)},
        [],
    ),
    "a whole table waits for a refused day that it has computed before": (
        [node("b", awaits={RAW}, requested=WEEK[:1], computed=WEEK[1:3])],
        {RAW: (WEEK[1],)},
        [],
    ),
    "a whole table waits for rows that it would lose, also if a source is loaded long enough": (
        [LOST, node("b", "a", awaits={OTHER}, requested=WEEK[3:])],
        LATER,
        [],
    ),
    "a whole table does not wait for a hole after its end": (
        [node("b", awaits={RAW}, requested=WEEK[:1])],
        HOLE,
        WEEK[:1],
    ),
    "a whole table waits for a hole of a source that another table reads: it reads the rows after the hole": (
        [daily("a", awaits={RAW}, requested=WEEK), node("b", "a", awaits={OTHER}, requested=WEEK)],
        {**HOLE, **LATER},
        [],
    ),
    "a whole table does not wait for a hole of another table after its end": (
        [daily("a", awaits={RAW}, requested=WEEK), node("b", "a", requested=WEEK[:1])],
        HOLE,
        WEEK[:1],
    ),
}


@pytest.mark.parametrize(("nodes", "awaited", "expected"), NOT_LOADED.values(), ids=NOT_LOADED)
def test_what_is_not_loaded_is_left_out(
    nodes: list[Node], awaited: msg.Sources, expected: Sequence[msg.Interval]
) -> None:
    found = decided(nodes, awaited)
    assert found is not None
    assert found[0] == expected


LACKING: dict[str, tuple[list[Node], Sequence[msg.Interval] | None]] = {
    "a table that is up to date by its own cron hands on nothing": (
        [
            daily("a", lacks=WEEK[6:], computed=WEEK[:6]),
            daily("b", "a", computed=WEEK[:6]),
            daily("c", "b", requested=WEEK),
        ],
        None,
    ),
    "a whole table with rows waits while rows that it reads are computed again": (
        [LOST, node("b", "a", requested=WEEK[3:])],
        [],
    ),
    "in the report of a plan, a whole table waits only for the intervals themselves": (
        [LOST, node("b", "a", requested=WEEK[3:], awaits_accepted=False)],
        WEEK[3:],
    ),
    "a whole table waits for an old gap of a table that has later rows": (
        [GAP, node("b", "a", requested=WEEK[5:])],
        [],
    ),
    "a whole table computes what is before the last rows of a table": (
        [daily("a", lacks=WEEK[2:], computed=WEEK[:2]), node("b", "a", requested=WEEK)],
        WEEK[:2],
    ),
    "later rows that this run computes count too, as with a `start`": (
        [daily("a", lacks=WEEK[2:], computed=WEEK[:2], requested=WEEK[3:]), node("b", "a", requested=WEEK[3:])],
        [],
    ),
    "a gap that this run computes holds nothing back": (
        [
            daily("a", lacks=WEEK[2:3], computed=[*WEEK[:2], *WEEK[3:]], requested=WEEK[2:3]),
            node("b", "a", requested=WEEK),
        ],
        None,
    ),
    "a whole table waits for a gap after a view, and so does one that keeps a history": (
        [GAP, view("v", "a"), node("b", "v", is_past=True, requested=WEEK[5:])],
        [],
    ),
    "a whole table does not wait for a gap after its end": ([GAP, node("b", "a", requested=WEEK[:2])], WEEK[:2]),
    "a table by time computes the days that are there": (
        [GAP, daily("b", "a", requested=WEEK)],
        [*WEEK[:2], *WEEK[3:]],
    ),
    "a whole table waits for rows that were not accepted, although they are newer than its end": (
        [daily("a", lacks=WEEK[5:], forgotten=WEEK[5:6], computed=WEEK[:5]), node("b", "a", requested=WEEK[:5])],
        [],
    ),
    "a table by time waits only for the days themselves": (
        [daily("a", lacks=WEEK[5:], forgotten=WEEK[5:6], computed=WEEK[:5]), daily("b", "a", requested=WEEK)],
        WEEK[:5],
    ),
    "rows that were not accepted may have any time in a table that is not by time": (
        [
            daily("a", lacks=WEEK[5:], forgotten=WEEK[5:6], computed=WEEK[:5], starts_with_all=True),
            daily("b", "a", requested=WEEK),
        ],
        [],
    ),
    "and in a table that is computed as a whole": (
        [node("a", lacks=WEEK[5:], forgotten=WEEK[5:6], computed=WEEK[:5]), daily("b", "a", requested=WEEK)],
        [],
    ),
    "a whole table that was not begun has the rows of before": (
        [node("a", lacks=WEEK[5:], computed=WEEK[:5]), daily("b", "a", requested=WEEK)],
        WEEK[:5],
    ),
    "a whole table over a view waits while rows behind the view are computed again": (
        [LOST, view("v", "a"), node("b", "v", requested=WEEK[3:])],
        [],
    ),
    "a whole table over another table does not wait for rows behind that one": (
        [LOST, daily("b", "a", computed=WEEK), node("c", "b", requested=WEEK[3:])],
        None,
    ),
    "what a lookback computes again is not lacking": (
        [daily("a", lacks=WEEK, computed=WEEK[:6], requested=WEEK, lookback=1), daily("b", "a", requested=WEEK)],
        None,
    ),
    "newer days whose lookback would compute a held-back one again": (
        [daily("a", lacks=WEEK[4:5]), daily("b", "a", requested=WEEK, computed=WEEK[:6], lookback=1)],
        WEEK[:4],
    ),
    "a first computation within bounds brings the rows before it": (
        [node("a", lacks=WEEK, requested=WEEK[:1], starts_with_all=True), daily("b", "a", requested=WEEK)],
        WEEK[:1],
    ),
    "a first computation of some intervals brings the rows before them": (
        [
            daily("a", lacks=WEEK[3:4]),
            daily("b", "a", requested=WEEK, starts_with_all=True),
            daily("c", "b", requested=WEEK),
        ],
        [*WEEK[:3], *WEEK[4:]],
    ),
    "a first computation that waits brings no rows": (
        [
            daily("a", lacks=WEEK[5:6]),
            daily("b", "a", requested=WEEK[5:6], starts_with_all=True),
            daily("c", "b", requested=WEEK),
        ],
        WEEK[6:],
    ),
    "a model that depends on its past stops before its own pending day": (
        [daily("a", is_past=True, due=[], requested=[*WEEK[:2], WEEK[3]], lacks=WEEK[:4])],
        WEEK[:2],
    ),
}
"""Upstream nodes first. Expected are the days that the last one computes of those that it requests."""


@pytest.mark.parametrize(("nodes", "expected"), LACKING.values(), ids=LACKING)
def test_what_a_node_lacks_is_left_out_downstream(nodes: list[Node], expected: Sequence[msg.Interval] | None) -> None:
    found = decided(nodes)
    assert (found and found[0]) == expected


def test_a_gap_before_the_first_day_of_an_environment_holds_nothing_back() -> None:
    """A plan of another environment than prod may have computed a few days only."""
    nodes = {of.name: of for of in (GAP, node("b", "a", requested=WEEK[3:]))}
    assert [may_compute(nodes, {}, since=since)["b"][0] for since in (day(3), day(4))] == [[], WEEK[3:]]


NAMED: dict[str, tuple[list[Node], HeldBackBy]] = {
    "a pending model hides the one upstream of it": (
        [daily("a", lacks=WEEK[:1]), daily("b", "a", lacks=WEEK[:1]), daily("c", "b", requested=WEEK)],
        HeldBackBy(("b",), (), (WEEK[0],)),
    ),
    "a view hides nothing": (
        [daily("a", lacks=WEEK[:2]), view("v", "a"), daily("b", "v", requested=WEEK)],
        HeldBackBy(("a",), (), ((day(1), day(3)),)),
    ),
    "a pending model does not, if the one upstream of it lacks more": (
        [daily("a", lacks=WEEK[:2]), daily("b", "a", due=WEEK[:2], lacks=WEEK[:1]), daily("c", "b", requested=WEEK)],
        HeldBackBy(("a", "b"), (), ((day(1), day(3)),)),
    ),
    "a pending model upstream of a model that is up to date is not named": (
        [
            daily("a", lacks=WEEK[6:]),
            daily("b", "a", computed=WEEK),
            daily("d", lacks=WEEK[6:]),
            daily("c", "b", "d", requested=WEEK),
        ],
        HeldBackBy(("d",), (), (WEEK[6],)),
    ),
    "only models that lack what is held back": (
        [daily("a", lacks=WEEK[2:3]), daily("b", lacks=WEEK[6:]), daily("c", "a", "b", requested=WEEK[:4])],
        HeldBackBy(("a",), (), (WEEK[2],)),
    ),
    "a model that depends on its past hides what it waits for": (
        [
            daily(
                "a", is_past=True, due=WEEK[1:3], awaits={RAW}, requested=WEEK[2:3], lacks=WEEK[1:3], computed=WEEK[:1]
            ),
            daily("b", "a", requested=WEEK[2:3]),
        ],
        HeldBackBy(("a",), (), (WEEK[2],)),
    ),
    "a whole table names what it waits for and whose rows it would lose": (
        [LOST, daily("d", lacks=WEEK[3:4]), node("c", "a", "d", requested=WEEK[3:])],
        HeldBackBy(("a", "d"), (), ((0, day(8)),)),
    ),
    "a whole table names the model with the gap": (
        [GAP, view("v", "a"), node("c", "v", requested=WEEK[5:])],
        HeldBackBy(("a",), (), ((0, day(8)),)),
    ),
    "a whole table names the source behind the gap of a model that runs": (
        [daily("a", awaits={RAW}, requested=WEEK), node("b", "a", requested=WEEK)],
        HeldBackBy((), (RAW,), ((0, day(8)),)),
    ),
}


@pytest.mark.parametrize(("nodes", "by"), NAMED.values(), ids=NAMED)
def test_the_nearest_models_that_hold_a_node_back_are_named(nodes: list[Node], by: HeldBackBy) -> None:
    found = decided(nodes, {RAW: (WEEK[0],)})
    assert found is not None
    assert found[1] == by


@pytest.mark.parametrize(
    ("facts", "left_over", "expected"),
    [
        ({"requested": WEEK[:3], "computed": WEEK[:2], "lookback": 2}, WEEK[:3], True),
        ({"requested": WEEK[:3], "computed": WEEK[:2], "lookback": 2}, WEEK[:2], False),
        ({"requested": WEEK[:3], "computed": WEEK[:2], "lookback": 2}, [], False),
        ({"requested": WEEK[:2], "computed": WEEK[:2], "lookback": 2}, WEEK[:2], True),
        ({"requested": WEEK[:3], "computed": WEEK[:2]}, WEEK[:2], True),
        ({"requested": WEEK[:1], "lookback": 2}, [], True),
    ],
    ids=["a new day", "the new day waits", "all wait", "restated", "restated without a lookback", "nothing again"],
)
def test_days_of_a_lookback_are_computed_again_only_with_a_new_one(
    *, facts: dict[str, Any], left_over: Sequence[msg.Interval], expected: bool
) -> None:
    assert brings_new(node("a", **facts), left_over) is expected
