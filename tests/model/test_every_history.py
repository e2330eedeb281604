"""Every history of a small world of a source and up to three models, with the real deciders between the actions.

`model.world` says what the words mean, `model.histories` which worlds and actions there are, and `model.outcomes` what
the real ledger and checks make of a run.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace

import pytest
from model import outcomes, world
from model.histories import PROJECTS, STILL_WAITS, searched
from model.world import HOURS, Action, Load, Run, Signal, Story, planned

from dg_sqlmesh_component.protocol.messages import EvaluationPlanned, HeldBack, IntervalCoverage, Sources
from dg_sqlmesh_component.run.ledger import Ledger
from dg_sqlmesh_component.worker.intervals import missing
from dg_sqlmesh_component.worker.intervals.availability import HeldBackBy, Left, Node, may_compute

FAST = [
    "whole, through a view",
    "whole over incremental",
    "by key",
    "lookback",
    "signal",
    "slow cron of a reader",
    "partials",
]
"""One of each kind. The slow tests have all of them."""


def faults(names: Iterable[str], length: int) -> list[str]:
    found = {name: searched(PROJECTS[name], length).found for name in names}
    return [f"{name}\n{fault}" for name, of in found.items() for fault in of]


@pytest.mark.parametrize("name", FAST)
def test_no_history_of_two_actions_has_a_fault(name: str) -> None:
    assert faults([name], 2) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", PROJECTS)
def test_no_history_of_five_actions_has_a_fault(name: str) -> None:
    assert faults([name], 5) == []


def test_a_closed_signal_holds_back_models_behind_a_view_that_has_nothing_to_compute() -> None:
    """The search would need ten actions."""
    project = PROJECTS["through a view of a signal"]
    state = planned(project)
    restatement: list[Action] = [Signal(1, opens=False), Run(("a",), 1, restates=True), Run(("a", "b"))]
    actions: list[Action] = [*map(Load, HOURS), *map(Signal, HOURS), Run(("a", "v", "b")), *restatement]
    for action in actions:
        story = Story(project, state)
        state = story.after(action)
        assert list(story.faults()) == []
    assert (story.executed and story.executed.batches) == {"a": [], "b": []}


def test_the_search_finds_a_decider_that_holds_nothing_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "may_compute", lambda *_: {})
    found = "\n".join(faults(["whole over incremental"], 3))
    assert "b was computed before what it reads" in found
    assert "c was computed past a gap" in found


@pytest.mark.slow
def test_the_search_finds_a_decider_that_forgets_what_was_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(nodes: Mapping[str, Node], awaited: Sources) -> dict[str, Left]:
        return may_compute({name: replace(node, forgotten=()) for name, node in nodes.items()}, awaited)

    monkeypatch.setattr(world, "may_compute", forgetful)
    assert "b was computed from rows that were refused" in "\n".join(faults(["whole"], 4))


def test_the_search_finds_a_decider_that_never_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "may_compute", lambda nodes, _: dict.fromkeys(nodes, ([], HeldBackBy())))
    assert "a still waits after everything was loaded" in "\n".join(faults(["incremental"], 1))


def test_the_search_finds_a_run_of_a_tick_that_waits_for_a_model_without_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def waits_for_all(nodes: Mapping[str, Node], awaited: Sources) -> dict[str, Left]:
        is_complete = all(node.requested is not None for node in nodes.values())
        return may_compute(nodes, awaited) if is_complete else {name: ([], HeldBackBy()) for name in nodes}

    monkeypatch.setattr(world, "may_compute", waits_for_all)
    assert "a tick requests b, and its run computes something else" in "\n".join(faults(["incremental"], 2))


def test_the_search_finds_a_check_that_names_no_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcomes, "coverage", lambda name, *_: IntervalCoverage(name, None))
    found = "\n".join(faults(["incremental"], 2))
    assert "a shows refused rows, and its intervals check is green and does not name them" in found
    assert "b lacks hours, and its intervals check is green and does not name them" in found


def test_the_search_finds_a_check_that_lets_ready_hours_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(missing, "missing", lambda node: ([], node.pending))
    assert "says that hours wait, and a run computes them" in "\n".join(faults(["incremental"], 1))


def test_the_search_finds_a_ledger_that_forgets_the_open_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ledger, "close", lambda *_: [])
    assert "not each requested model has exactly one outcome" in "\n".join(faults(["incremental"], 1))


@pytest.mark.slow
def test_the_search_finds_a_ledger_that_calls_each_batch_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    def hasty(ledger: Ledger, event: EvaluationPlanned) -> None:
        batches = {name: of[:1] for name, of in event.batches.items()}
        plan(ledger, replace(event, batches=batches))

    plan = Ledger._plan
    monkeypatch.setattr(Ledger, "_plan", hasty)
    assert "SQLMesh finished a batch of a, which it had not planned." in "\n".join(faults(["incremental"], 3))


@pytest.mark.slow
def test_the_search_finds_signals_that_hold_back_no_model_downstream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "ready_by_signals", lambda _, ready, *__, **___: (ready, frozenset()))
    found = "\n".join(faults(["over a whole table over a signal"], 4))
    assert "c was computed before what it reads" in found


def test_the_search_finds_a_reason_that_does_not_help(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "held_back", lambda *_: HeldBack())
    assert f"b {STILL_WAITS}" in "\n".join(faults(["incremental"], 2))
