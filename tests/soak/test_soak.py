"""A few of the stories of `make soak`: they show that the stories work."""

from collections.abc import Callable
from pathlib import Path

import pytest
import worker_zygote
from databases import Servers
from harness import needs_previews
from postgres import postgres_server
from soak import (
    change_matrix,
    random_attempts,
    random_changes,
    random_histories,
    random_losses,
    random_predictions,
    random_restatements,
    random_rows,
    random_sequences,
    random_sources,
)
from stories import Told

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("story", "seed", "engine", "counted"),
    [
        (random_restatements.try_story, 20, "duckdb", "green models"),
        (random_sources.try_story, 3, "duckdb", "intervals"),
        (random_sequences.try_story, 5, "duckdb", "executed"),
        (random_predictions.try_story, 1, "duckdb", "predictions"),
        (random_histories.try_story, 1, "duckdb", "runs"),
        (random_rows.try_story, 3603, "duckdb", "rows computed"),
        (random_losses.try_story, 2, "duckdb", "models with losses"),
        pytest.param(random_attempts.try_story, 32, "duckdb", "apply SUCCESS", marks=needs_previews),
        pytest.param(random_changes.try_story, 205, "postgres", "applied", marks=needs_previews),
        pytest.param(random_changes.try_story, 1, "duckdb", "applied", marks=needs_previews),
    ],
)
def test_no_claim_of_a_random_story_is_wrong(
    story: Callable[..., Told], seed: int, engine: str, counted: str, tmp_path: Path
) -> None:
    with worker_zygote.forked_workers(), postgres_server() as server:
        told = story(seed, engine, tmp_path, Servers(server))
    assert not told.faults, str(told)
    assert told.counts[counted], told.counts


CELLS = (
    "full-time",
    "full-key_all",
    "key-full",
    "scd_column-key",
    "time-embedded",
    "time: start earlier",
    "time: end later",
    "time: daily to hourly",
    "time: 20:00 to daily",
    "key: start earlier",
    "full: monthly",
    "time: start earlier, other readers",
)


def test_changes_name_each_row_that_goes_or_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAX_FORK_WORKERS", "1")
    cells = change_matrix.chosen_cells(CELLS)
    assert len(cells) == len(CELLS)
    with worker_zygote.forked_workers():
        tried = {cell.name: (seen.refusal, faults) for cell, seen, faults in change_matrix.try_all(cells)}
    assert tried == dict.fromkeys(CELLS, ("", []))
