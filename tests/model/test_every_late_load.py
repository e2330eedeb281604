"""Every history of loads, runs, commands and the janitor: which hours are late. `model.late` says what there is."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from model import late
from model.late import searched

from dg_sqlmesh_component.protocol.messages import Interval, SourceLoad
from dg_sqlmesh_component.worker.intervals import unrecorded
from dg_sqlmesh_component.worker.intervals.unrecorded import ShownTable


def faults(length: int) -> list[str]:
    return [str(fault) for fault in searched(length).found]


def test_no_history_of_six_actions_hides_a_late_load_or_names_a_new_row() -> None:
    assert faults(6) == []


@pytest.mark.slow
def test_no_history_of_nine_actions_hides_a_late_load_or_names_a_new_row() -> None:
    assert faults(9) == []


def test_the_search_finds_a_decider_that_sees_no_late_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(late, "late", lambda *_: ())
    expected = "1. sqlmesh run\n2. load hour 0\n=> an hour is late, and the next run does not name it"
    assert faults(3) == [expected]


def test_the_search_finds_a_decider_that_trusts_merged_times(monkeypatch: pytest.MonkeyPatch) -> None:
    def trusting(table: ShownTable, loads: Sequence[SourceLoad]) -> tuple[Interval, ...]:
        rows = [replace(row, is_merged=False) for row in table.rows]
        return unrecorded.late(replace(table, rows=rows), loads)

    monkeypatch.setattr(late, "late", trusting)
    assert "an hour is late, and the next run does not name it" in "\n".join(faults(6))
