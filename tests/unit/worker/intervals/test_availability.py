"""Which intervals may be computed, from a plain picture of the nodes."""

from collections.abc import Sequence
from typing import Any

import pytest
from unit.builders import day

from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.worker.intervals.availability import Node, brings_new, may_compute

RAW = '"raw"."orders"'


def node(name: str, *parents: str, **facts: Any) -> Node:
    """A node whose query does not read earlier rows of its own."""
    return Node(name, parents, lambda: False, lambda: facts.get("lacks", ()), **facts)


def left(name: str, *nodes: Node, awaited: msg.Sources | None = None) -> Sequence[msg.Interval] | None:
    """What is left of what a node requests; None if it reads nothing that is pending or awaited."""
    decided = may_compute({of.name: of for of in nodes}, awaited or {})
    return decided[name][0] if name in decided else None


WEEK = [(day(number), day(number + 1)) for number in range(1, 8)]
HOLE: msg.Sources = {RAW: (WEEK[1], (day(5), msg.FOREVER))}
BY_INTERVAL = {"is_by_interval": True}
VIEW = {"shows_others": True}


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        pytest.param({}, [], id="a whole table needs everything before its end, and reads the rows after the hole"),
        pytest.param(VIEW, [WEEK[0], WEEK[2], WEEK[3]], id="a view"),
        pytest.param(BY_INTERVAL, [WEEK[0], WEEK[2], WEEK[3]], id="range by range"),
    ],
)
def test_a_range_that_is_not_loaded_is_left_out(facts: dict[str, Any], expected: Sequence[msg.Interval]) -> None:
    assert left("a", node("a", awaits={RAW}, requested=WEEK, **facts), awaited=HOLE) == expected


def test_a_model_that_depends_on_its_past_stops_at_the_first_hole() -> None:
    summing = Node("a", (), lambda: True, lambda: WEEK, awaits={RAW}, requested=WEEK, is_by_interval=True)
    assert left("a", summing, awaited=HOLE) == WEEK[:1]


def test_a_pending_day_that_does_not_run_is_left_out_downstream_also_through_views() -> None:
    nodes = (
        node("a", lacks=WEEK[:2], computed=WEEK[2:], **BY_INTERVAL),
        node("v", "a", **VIEW),
        node("b", "v", requested=WEEK, **BY_INTERVAL),
    )
    assert left("b", *nodes) == WEEK[2:]
    [(_, by)] = may_compute({of.name: of for of in nodes}, {}).values()
    assert by == msg.HeldBackBy(("a",), (), ((day(1), day(3)),))


def test_a_table_that_is_up_to_date_by_its_own_cron_hands_on_nothing() -> None:
    nodes = (
        node("a", lacks=WEEK[6:], computed=WEEK[:6], **BY_INTERVAL),
        Node("b", ("a",), lambda: False, lambda: (), computed=WEEK[:6], is_by_interval=True),
        node("c", "b", requested=WEEK, **BY_INTERVAL),
    )
    assert left("c", *nodes) is None


@pytest.mark.parametrize(("was_computed", "expected"), [(True, []), (False, WEEK[3:])])
def test_a_whole_table_with_rows_waits_while_rows_that_it_reads_are_computed_again(
    *, was_computed: bool, expected: Sequence[msg.Interval]
) -> None:
    """A new one has no rows to lose, and waits only for the intervals themselves."""
    nodes = (
        node("a", lacks=WEEK[2:3], forgotten=WEEK[2:3], computed=WEEK[:2], **BY_INTERVAL),
        node("b", "a", requested=WEEK[3:], was_computed=was_computed),
    )
    assert left("b", *nodes) == expected


def test_a_whole_table_waits_also_if_the_table_that_it_reads_runs_and_leaves_such_rows_out() -> None:
    nodes = (
        node(
            "a",
            requested=[WEEK[1], WEEK[3]],
            computed=[WEEK[0], WEEK[2]],
            forgotten=WEEK[1:2],
            awaits={RAW},
            **BY_INTERVAL,
        ),
        node("b", "a", requested=WEEK[3:4], was_computed=True),
    )
    awaited: msg.Sources = {RAW: (WEEK[1],)}
    assert left("a", *nodes, awaited=awaited) == [WEEK[3]]
    assert left("b", *nodes, awaited=awaited) == []


def test_a_model_behind_one_that_depends_on_its_past_names_that_one_alone() -> None:
    nodes = (
        Node("a", (), lambda: True, lambda: WEEK[1:3], {RAW}, WEEK[2:3], WEEK[1:3], WEEK[:1], is_by_interval=True),
        node("b", "a", requested=WEEK[2:3], **BY_INTERVAL),
    )
    decided = may_compute({of.name: of for of in nodes}, {RAW: (WEEK[0],)})
    assert decided["b"] == ([], msg.HeldBackBy(("a",), (), (WEEK[2],)))


# -- what holds back what, upstream first. The last node requests WEEK; expected are the days that it computes --------


HOUR = 3_600_000
LOOKING_BACK: dict[str, Any] = {"lookback": 1, **BY_INTERVAL}
FIRST = {"starts_with_all": True, **BY_INTERVAL}
LOST = node("a", lacks=WEEK[2:3], forgotten=WEEK[2:3], computed=WEEK[:2], **BY_INTERVAL)
"""Its third day is to be computed again, and it does not run."""


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        pytest.param(
            [node("a", lacks=[(day(2), day(2) + HOUR)], **BY_INTERVAL), node("b", "a", requested=WEEK, **BY_INTERVAL)],
            [WEEK[0], *WEEK[2:]],
            id="a pending hour holds back its whole day",
        ),
        pytest.param(
            [
                node("a", lacks=[(day(2), day(2) + HOUR)], **BY_INTERVAL),
                node("b", "a", requested=WEEK[:3], lacks=WEEK, **BY_INTERVAL),
                node("c", "b", requested=WEEK, **BY_INTERVAL),
            ],
            [WEEK[0], WEEK[2]],
            id="what is held back, or is not requested within bounds, is lacking downstream",
        ),
        pytest.param(
            [node("a", lacks=WEEK[5:], **BY_INTERVAL), node("b", "a", requested=WEEK, was_computed=True)],
            WEEK[:5],
            id="a whole table is computed up to the end of what is there",
        ),
        pytest.param(
            [node("a", **BY_INTERVAL), node("v", "a", lacks=WEEK[3:4], **VIEW), node("b", "v", requested=WEEK)],
            [*WEEK[:3], *WEEK[4:]],
            id="a pending view, whose rows may depend on the time of its computation",
        ),
        pytest.param(
            [node("a", lacks=WEEK[6:], starts_with_all=True), node("b", "a", requested=WEEK, **BY_INTERVAL)],
            [],
            id="the first computation of a table brings rows of any time, which are lacking until then",
        ),
        pytest.param(
            [
                node("a", lacks=WEEK[6:], computed=WEEK[:1], starts_with_all=True),
                node("b", "a", requested=WEEK, **BY_INTERVAL),
            ],
            WEEK[:6],
            id="a table with rows lacks only its missing intervals",
        ),
        pytest.param(
            [
                node("a", lacks=WEEK, computed=WEEK[:6], requested=WEEK, **LOOKING_BACK),
                node("b", "a", requested=WEEK, **BY_INTERVAL),
            ],
            None,
            id="what a lookback computes again is not lacking",
        ),
        pytest.param(
            [node("a", lacks=WEEK, computed=WEEK[:6], **LOOKING_BACK), node("b", "a", requested=WEEK, **BY_INTERVAL)],
            WEEK[:6],
            id="nor if the model does not run",
        ),
        pytest.param(
            [
                node("a", lacks=WEEK[4:5], **BY_INTERVAL),
                node("b", "a", requested=WEEK, computed=WEEK[:6], **LOOKING_BACK),
            ],
            WEEK[:4],
            id="newer days whose lookback would compute a held-back one again",
        ),
        pytest.param(
            [
                node("a", lacks=WEEK[4:5], **BY_INTERVAL),
                node("b", "a", requested=WEEK, computed=WEEK[:4], **LOOKING_BACK),
            ],
            [*WEEK[:4], *WEEK[5:]],
            id="a held-back day that was never computed holds back no newer one",
        ),
        pytest.param(
            [
                node("a", lacks=WEEK, requested=WEEK[:1], starts_with_all=True),
                node("b", "a", requested=WEEK, **BY_INTERVAL),
            ],
            WEEK[:1],
            id="a first computation within bounds brings the rows before it",
        ),
        pytest.param(
            [
                node("a", lacks=WEEK[3:4], **BY_INTERVAL),
                node("b", "a", requested=WEEK, **FIRST),
                node("c", "b", requested=WEEK, **BY_INTERVAL),
            ],
            [*WEEK[:3], *WEEK[4:]],
            id="a first computation of some intervals brings the rows before them",
        ),
        pytest.param(
            [
                node("a", lacks=WEEK[5:6], **BY_INTERVAL),
                node("b", "a", requested=WEEK[5:6], **FIRST),
                node("c", "b", requested=WEEK, **BY_INTERVAL),
            ],
            WEEK[6:],
            id="a first computation that waits brings no rows",
        ),
        pytest.param(
            [node("a", lacks=WEEK[3:4], **BY_INTERVAL), node("b", "a", requested=WEEK, forgotten=WEEK[:6], **FIRST)],
            [],
            id="a computation that puts its rows in place of all others waits for each day that had rows",
        ),
        pytest.param(
            [node("a", lacks=WEEK[6:], **BY_INTERVAL), node("b", "a", requested=WEEK, forgotten=WEEK[:6], **FIRST)],
            WEEK[:6],
            id="it does not wait for a new day",
        ),
        pytest.param(
            [node("b", requested=WEEK[:3], lacks=WEEK, forgotten=WEEK, **FIRST)],
            [],
            id="it waits if it is run within bounds without all days that had rows",
        ),
        pytest.param(
            [LOST, node("v", "a", **VIEW), node("b", "v", requested=WEEK[3:], was_computed=True)],
            [],
            id="a whole table over a view waits while rows behind the view are computed again",
        ),
        pytest.param(
            [
                LOST,
                Node("b", ("a",), lambda: False, lambda: (), computed=WEEK, is_by_interval=True),
                node("c", "b", requested=WEEK[3:], was_computed=True),
            ],
            None,
            id="a whole table over another table does not wait for rows behind that one",
        ),
        pytest.param(
            [Node("a", (), lambda: True, list, requested=[*WEEK[:2], WEEK[3]], lacks=WEEK[:4], is_by_interval=True)],
            WEEK[:2],
            id="a model that depends on its past stops before its own pending day",
        ),
    ],
)
def test_what_a_node_lacks_is_left_out_downstream(nodes: list[Node], expected: Sequence[msg.Interval] | None) -> None:
    assert left(nodes[-1].name, *nodes) == expected


def test_only_models_that_lack_what_is_held_back_are_named() -> None:
    nodes = (
        node("a", lacks=WEEK[2:3], **BY_INTERVAL),
        node("b", lacks=WEEK[6:], **BY_INTERVAL),
        node("c", "a", "b", requested=WEEK[:4], **BY_INTERVAL),
    )
    decided = may_compute({of.name: of for of in nodes}, {})
    assert decided["c"] == ([*WEEK[:2], WEEK[3]], msg.HeldBackBy(("a",), (), (WEEK[2],)))


@pytest.mark.parametrize(
    ("nodes", "named"),
    [
        pytest.param(
            [
                node("a", lacks=WEEK[:1], **BY_INTERVAL),
                node("b", "a", lacks=WEEK[:1], **BY_INTERVAL),
                node("c", "b", requested=WEEK, **BY_INTERVAL),
            ],
            ("b",),
            id="a pending model hides the one upstream of it",
        ),
        pytest.param(
            [
                node("a", lacks=WEEK[:2], **BY_INTERVAL),
                Node("b", ("a",), lambda: False, lambda: WEEK[:2], lacks=WEEK[:1], is_by_interval=True),
                node("c", "b", requested=WEEK, **BY_INTERVAL),
            ],
            ("a", "b"),
            id="unless that one lacks more",
        ),
        pytest.param(
            [
                node("a", lacks=WEEK[6:], **BY_INTERVAL),
                Node("b", ("a",), lambda: False, lambda: (), computed=WEEK, is_by_interval=True),
                node("d", lacks=WEEK[6:], **BY_INTERVAL),
                node("c", "b", "d", requested=WEEK, **BY_INTERVAL),
            ],
            ("d",),
            id="a pending model upstream of a model that is up to date is not named",
        ),
        pytest.param(
            [
                LOST,
                node("d", lacks=WEEK[3:4], **BY_INTERVAL),
                node("c", "a", "d", requested=WEEK[3:], was_computed=True),
            ],
            ("a", "d"),
            id="a whole table names what it waits for and whose rows it would lose",
        ),
    ],
)
def test_the_nearest_models_that_hold_a_node_back_are_named(nodes: list[Node], named: tuple[str, ...]) -> None:
    assert may_compute({of.name: of for of in nodes}, {})["c"][1].models == named


OTHER = '"raw"."other"'
LATER: msg.Sources = {OTHER: ((day(20), msg.FOREVER),)}


@pytest.mark.parametrize(
    ("nodes", "awaited", "expected"),
    [
        pytest.param(
            [node("b", awaits={RAW}, requested=WEEK[:1], computed=WEEK[1:3])],
            {RAW: (WEEK[1],)},
            [],
            id="a refused day that it has computed before",
        ),
        pytest.param(
            [LOST, node("b", "a", awaits={OTHER}, requested=WEEK[3:], was_computed=True)],
            LATER,
            [],
            id="rows that it would lose, also if a source is loaded long enough",
        ),
        pytest.param([node("b", awaits={RAW}, requested=WEEK[:1])], HOLE, WEEK[:1], id="not a hole after its end"),
        pytest.param(
            [node("a", awaits={RAW}, requested=WEEK, **BY_INTERVAL), node("b", "a", awaits={OTHER}, requested=WEEK)],
            {**HOLE, **LATER},
            [WEEK[0], WEEK[2], WEEK[3]],
            id="not a hole of a source that another table reads",
        ),
    ],
)
def test_a_whole_table_waits_for(nodes: list[Node], awaited: msg.Sources, expected: Sequence[msg.Interval]) -> None:
    assert left("b", *nodes, awaited=awaited) == expected


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
