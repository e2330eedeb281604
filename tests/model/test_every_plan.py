"""Every history of plans, runs and loads after a first run, with the real deciders of a plan's rows.

`model.plans` says which worlds and actions there are.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest
from model import plans
from model.plans import NOT_ASKED, PROJECTS, searched
from model.world import HOURS

from dg_sqlmesh_component.capabilities.plans import gate
from dg_sqlmesh_component.capabilities.plans.messages import LostRows
from dg_sqlmesh_component.capabilities.plans.worker.lost_rows import Losses
from dg_sqlmesh_component.worker.intervals.gained import LackingRows


def faults(names: Iterable[str], length: int) -> dict[str, list[str]]:
    found = {name: [str(fault) for fault in searched(PROJECTS[name], length).found] for name in names}
    return {name: of for name, of in found.items() if of}


@pytest.mark.parametrize("name", ["incremental", "whole over a view"])
def test_no_history_of_two_actions_takes_rows_that_no_plan_names(name: str) -> None:
    assert faults([name], 2) == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["daily", "whole"])
def test_no_history_of_four_actions_takes_rows_that_no_plan_names(name: str) -> None:
    assert faults([name], 4) == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", PROJECTS)
def test_no_history_of_three_actions_takes_rows_that_no_plan_names(name: str) -> None:
    assert faults([name], 3) == {}


@pytest.mark.slow
def test_the_search_finds_a_whole_table_that_waits_for_its_tick_under_a_model_that_becomes_incremental(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(plans, "shown_by", lambda _, source, __: replace(source, new=[]))
    expected = """\
1. plan: c gets kind whole
2. plan: a gets start at hour 0
3. plan: c gets kind incremental
=> c lacks rows of its source for good, and neither a plan nor its check names them"""
    assert faults(["incremental over whole"], 3) == {"incremental over whole": [expected]}


def test_the_search_finds_readers_of_a_source_that_gains_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "lacking_rows", lambda _: LackingRows())
    found = faults(["incremental", "daily", "incremental, through a view"], 1)
    expected = (
        "1. plan: a gets start at hour 0\n"
        "=> b lacks rows of its source for good, and neither a plan nor its check names them"
    )
    assert found == {name: [expected] for name in found}
    assert len(found) == 3


def test_the_search_finds_another_kind_that_shows_fewer_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "lost_rows", lambda _: {})
    found = "\n".join(faults(["whole over a view"], 1)["whole over a view"])
    assert "1. plan: a gets kind incremental\n=> a loses rows, and the plan does not name them" in found
    assert "1. plan: a gets kind incremental\n=> b loses rows, and the plan does not name them" in found


def test_the_search_finds_a_gate_that_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "_lost_intervals", lambda *_: ())
    assert NOT_ASKED in str(faults(["whole over a view"], 1))


def test_the_search_finds_a_report_whose_offer_does_not_help(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "apply_config", lambda *_: {})
    assert "what its report offers does not help" in str(faults(["whole over a view"], 1))


def test_the_search_finds_rows_that_are_named_and_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    all_rows = Losses(LostRows(((0, len(HOURS)),)), LostRows(), ())
    monkeypatch.setattr(plans, "lost_rows", lambda changes: dict.fromkeys(changes, all_rows))
    assert "keeps rows, and the plan names them as lost" in str(faults(["incremental"], 1))
