"""A few of the trials of `make soak`: they show that the trials work."""

import random
import re
from pathlib import Path

import pytest
import worker_zygote
from harness import needs_previews
from postgres import postgres_server
from restated_databases import Servers
from soak import random_changes, random_restatements, random_sources, random_subsets
from soak.killed_plans import try_kills
from soak.random_losses import try_random_losses
from soak.random_predictions import try_random_predictions
from soak.random_projects import try_random_project
from soak.random_sequences import try_sequence
from soak.soak import FAULTS, soak, table

pytestmark = pytest.mark.slow


def test_killed_run_loses_nothing_and_repeats_nothing() -> None:
    """Overlapping runs and killed runs on PostgreSQL are tested in tests/engine/test_overlap.py."""
    messages: list[str] = []
    results = soak(["duckdb"], kills=1, pairs=0, seed=7, report=messages.append)
    assert [(counts["tried"], counts["hit"]) for counts in results.values()] == [(1, 1)]
    faults = {name: number for counts in results.values() for name in FAULTS if (number := counts[name])}
    assert not faults, (messages, table(results))


def number_of(what: str, text: str) -> int:
    """The number before these words."""
    number = re.search(rf"(\d+) {what}\b", text)
    assert number is not None, text
    return int(number[1])


def test_dagster_records_what_happened_in_a_random_project(tmp_path: Path) -> None:
    assert "'executed'" in try_random_project(random.Random(5), tmp_path)


@needs_previews
def test_no_row_is_lost_and_nothing_is_left_after_a_killed_plan_or_close(tmp_path: Path) -> None:
    with worker_zygote.forked_workers():
        stages, failures = try_kills("duckdb", kills=1, seed=2, folder=tmp_path)
    assert (stages.total(), failures) == (1, 0)


def test_no_row_is_lost_if_random_subsets_run_before_the_whole_project(tmp_path: Path) -> None:
    assert "executed" in random_subsets.try_random_subsets(random.Random(3), tmp_path)


def test_state_rows_and_records_agree_after_each_action_of_a_random_sequence(tmp_path: Path) -> None:
    with worker_zygote.forked_workers():
        sequence = try_sequence(5, tmp_path)
    assert not sequence.disagreements, sequence.actions


def test_dry_run_predicts_the_outcomes_of_the_run_after_it(tmp_path: Path) -> None:
    assert number_of("predictions", try_random_predictions(random.Random(1), tmp_path)) > 0


def test_the_report_of_a_plan_names_what_prod_loses(tmp_path: Path) -> None:
    with worker_zygote.forked_workers():
        assert number_of("models with losses", try_random_losses(random.Random(1), tmp_path)) > 0


def test_no_interval_is_computed_before_its_source_is_loaded(tmp_path: Path) -> None:
    with worker_zygote.forked_workers():
        assert random_sources.try_history(3, tmp_path).counts["intervals"]


@needs_previews
def test_nothing_is_left_out_if_runs_go_on_while_a_plan_is_applied(tmp_path: Path) -> None:
    with worker_zygote.forked_workers(), postgres_server() as server:
        assert random_changes.try_story(205, tmp_path, random_changes.Servers(server)).counts["applied"]


@needs_previews
def test_nothing_is_left_out_if_runs_wait_for_a_plan_on_duckdb(tmp_path: Path) -> None:
    with worker_zygote.forked_workers():
        assert random_changes.try_story(1, tmp_path, random_changes.Servers()).counts["applied"]


def test_no_run_is_green_while_a_restated_day_is_old(tmp_path: Path) -> None:
    with worker_zygote.forked_workers():
        story = random_restatements.try_story(20, "duckdb", tmp_path, Servers())
    assert not story.faults, random_restatements.describe(story)
    assert story.outcomes["kill both reached"] == 1
