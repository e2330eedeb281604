"""Every history of a small world of a source and up to three models, with the real decider between the actions.

`model.world` says what the words mean, and `model.histories` which worlds and actions there are.
"""

from collections.abc import Iterable
from dataclasses import replace

import pytest
from model import world
from model.histories import PROJECTS, searched

from dg_sqlmesh_component.protocol.messages import Sources
from dg_sqlmesh_component.worker.intervals.availability import Left, Node, may_compute


def faults(names: Iterable[str], length: int) -> list[str]:
    found = {name: searched(PROJECTS[name], length).found for name in names}
    return [f"{name}\n{fault}" for name, of_project in found.items() for fault in of_project]


@pytest.mark.parametrize("name", PROJECTS)
def test_no_history_of_four_actions_computes_from_refused_rows_or_past_a_gap(name: str) -> None:
    assert faults([name], 4) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", PROJECTS)
def test_no_history_of_five_actions_computes_from_refused_rows_or_past_a_gap(name: str) -> None:
    assert faults([name], 5) == []


def test_the_search_finds_a_decider_that_holds_nothing_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "may_compute", lambda *_: {})
    found = "\n".join(faults(["whole over incremental", "whole, through a view"], 3))
    assert "b was computed before what it reads" in found
    assert "c was computed past a gap" in found


def test_the_search_finds_a_decider_that_forgets_what_was_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(nodes: dict[str, Node], awaited: Sources) -> dict[str, Left]:
        return may_compute({name: replace(node, forgotten=()) for name, node in nodes.items()}, awaited)

    monkeypatch.setattr(world, "may_compute", forgetful)
    assert "b was computed from rows that were refused" in "\n".join(faults(["whole"], 4))


def test_the_search_finds_a_decider_that_never_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "may_compute", lambda nodes, _: {name: ([], None) for name in nodes})
    assert "a still waits after everything was loaded" in "\n".join(faults(["incremental"], 1))
