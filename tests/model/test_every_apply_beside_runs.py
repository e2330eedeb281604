"""Every history of runs beside a plan that is applied. `model.beside` says what there is."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
from model import beside
from model.beside import OLD, searched

from dg_sqlmesh_component.worker.intervals.outdated import Table, Version, outdated


def faults(length: int, *, is_whole: bool) -> list[str]:
    return [str(fault) for fault in searched(length, is_whole=is_whole).found]


@pytest.mark.parametrize("is_whole", [False, True], ids=["by hours", "as a whole"])
def test_no_history_of_four_actions_promotes_rows_that_runs_have_rewritten(is_whole: bool) -> None:
    assert faults(4, is_whole=is_whole) == []


@pytest.mark.slow
@pytest.mark.parametrize("is_whole", [False, True], ids=["by hours", "as a whole"])
def test_no_history_of_eight_actions_promotes_rows_that_runs_have_rewritten(is_whole: bool) -> None:
    assert faults(8, is_whole=is_whole) == []


def test_the_search_finds_a_decider_that_sees_no_old_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beside, "outdated", lambda _: {})
    expected = f"1. the plan computes hour 0\n2. a restatement forgets hour 0\n3. the plan looks\n=> {OLD}"
    assert faults(3, is_whole=False) == [expected]


def test_the_search_finds_a_look_that_trusts_what_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beside, "Table", lambda rows, seen, _: Table(rows, seen))
    assert OLD in str(faults(3, is_whole=True))


def test_the_search_finds_a_whole_table_that_nobody_computes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def by_hours_only(versions: Mapping[str, Version]) -> dict[str, object]:
        left = {name: of if of.is_by_interval else replace(of, altered=()) for name, of in versions.items()}
        return {**outdated(left)}

    monkeypatch.setattr(beside, "outdated", by_hours_only)
    assert OLD in str(faults(3, is_whole=True))
    assert faults(3, is_whole=False) == []
