"""Every history of a small world of a source and up to three models, with the real decider between the actions.

`model.world` says what the words mean, and `model.histories` which worlds and actions there are.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace

import pytest
from model import histories, world
from model.histories import HIDDEN, PROJECTS, searched

from dg_sqlmesh_component.protocol.messages import Sources
from dg_sqlmesh_component.worker.intervals.availability import HeldBackBy, Left, Node, may_compute

HIDDEN_SOURCE = f"""\
1. load hour 0
2. run a, b
3. run b
=> b, {HIDDEN}"""
"""A known fault. The reason is "a: select it too". A run of both says that they wait for the source."""


def faults(names: Iterable[str], length: int) -> list[str]:
    """Return the faults, without the known one."""
    found = {name: searched(PROJECTS[name], length).found for name in names}
    return [f"{name}\n{fault}" for name, of in found.items() for fault in of if not fault.fault.endswith(HIDDEN)]


@pytest.mark.parametrize("name", PROJECTS)
def test_no_history_of_three_actions_computes_from_refused_rows_or_past_a_gap(name: str) -> None:
    assert faults([name], 3) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", PROJECTS)
def test_no_history_of_five_actions_computes_from_refused_rows_or_past_a_gap(name: str) -> None:
    assert faults([name], 5) == []


def test_the_reason_of_a_waiting_model_hides_a_source_further_upstream() -> None:
    assert [str(fault) for fault in searched(PROJECTS["incremental"], 2).found] == [HIDDEN_SOURCE]


def test_the_search_finds_a_decider_that_holds_nothing_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "may_compute", lambda *_: {})
    found = "\n".join(faults(["whole over incremental", "whole, through a view"], 3))
    assert "b was computed before what it reads" in found
    assert "c was computed past a gap" in found


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
    monkeypatch.setattr(histories, "missing", lambda _: ([], []))
    found = "\n".join(faults(["incremental"], 2))
    assert "a shows refused rows, and its intervals check does not name them" in found
    assert "the intervals check of b names other hours than those that are not computed" in found


def test_the_search_finds_a_check_that_lets_ready_hours_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(histories, "missing", lambda node: ([], node.pending))
    assert "says that hours wait, and a run computes them" in "\n".join(faults(["incremental"], 1))
