"""Every history of the check of an audit: what runs evaluate, and what later runs repeat. `model.audits` explains."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from model.audits import PROJECTS, searched

from dg_sqlmesh_component.definitions.project_assets import ProjectAssets
from dg_sqlmesh_component.history import repetition
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.run import ledger

REPEATED = "=> the check repeats that it has passed, and the audit would fail"


def faults(names: Iterable[str], length: int) -> list[str]:
    found = {name: searched(PROJECTS[name], length).found for name in names}
    return [f"{name}\n{fault}" for name, of in found.items() for fault in of]


@pytest.mark.parametrize("name", ["incremental", "by key", "whole of another", "view"])
def test_no_history_of_three_actions_has_a_passed_check_of_rows_that_fail(name: str) -> None:
    assert faults([name], 3) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", PROJECTS)
def test_no_history_of_five_actions_has_a_passed_check_of_rows_that_fail(name: str) -> None:
    assert faults([name], 5) == []


def test_the_search_finds_results_that_are_repeated_although_a_batch_was_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    def trusting(idle: msg.NodeIdle, *facts: Any) -> str | None:
        return why_not_repeated(replace(idle, is_unaccepted=False), *facts)

    why_not_repeated = repetition.why_not_repeated
    monkeypatch.setattr(repetition, "why_not_repeated", trusting)
    story = """\
1. load hour 1 with rows that the audit refuses
2. restate hour 1 of a, killed after the rows of batch 1, with its step
3. run a from hour 2"""
    assert faults(["incremental"], 3) == [f"incremental\n{story}\n{REPEATED}"]


def test_the_search_finds_results_of_models_that_were_not_reached_although_a_batch_was_begun(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(repetition, "repeats_unreached", lambda *_: True)
    assert REPEATED in "\n".join(faults(["whole of another"], 3))


def test_the_search_finds_an_audit_of_a_whole_table_before_its_last_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    audit_results = ledger._audit_results
    monkeypatch.setattr(ledger, "_audit_results", lambda audits, *_: audit_results(audits))
    assert "=> the check has passed, and the audit would fail" in "\n".join(faults(["by key"], 2))


def test_the_search_finds_a_view_that_counts_as_unchanged_over_a_model_that_was_computed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ProjectAssets, "shown_tables", lambda *_: set())
    assert REPEATED in "\n".join(faults(["view"], 2))
