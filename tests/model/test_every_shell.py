"""Every history of runs, commands in a shell, the sensor and the janitor. `model.shell` says what there is."""

import pytest
from model import shell
from model.shell import searched

from dg_sqlmesh_component.worker.intervals.read_early import ReadEarly


def faults(length: int) -> list[str]:
    return [str(fault) for fault in searched(length).found]


def test_no_history_of_four_actions_hides_an_hour_that_was_computed_before_its_source() -> None:
    assert faults(4) == []


@pytest.mark.slow
def test_no_history_of_seven_actions_hides_an_hour_that_was_computed_before_its_source() -> None:
    assert faults(7) == []


def test_the_search_finds_a_decider_that_sees_no_early_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shell, "read_early", lambda *_: ReadEarly())
    assert "an hour of b is outdated, and the check does not name it" in "\n".join(faults(3))


@pytest.mark.slow
def test_the_search_finds_a_memory_that_ends_when_the_janitor_merges(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command has computed other hours, so the record is newer than the check that has named the hour."""
    monkeypatch.setattr(shell, "_last_named", lambda *_: ())
    assert "an hour of b is outdated, and the check does not name it" in "\n".join(faults(5))
