"""A few of the trials of `make soak`."""

from __future__ import annotations

import random
from pathlib import Path

from soak import random_subsets
from soak.random_projects import try_one
from soak.soak import FAULTS, soak, table


def test_nothing_is_lost_or_done_twice_when_a_run_is_killed() -> None:
    """Pairs of runs that overlap, and what is killed on PostgreSQL, stand in tests/engine/test_overlap.py."""
    said: list[str] = []
    found = soak(["duckdb"], kills=1, pairs=0, seed=7, say=said.append)
    assert sum(one["tried"] for one in found.values()) == 1
    faults = {name: number for one in found.values() for name in FAULTS if (number := one[name])}
    assert not faults, (said, table(found))


def test_dagster_says_what_happened_to_a_random_project(tmp_path: Path) -> None:
    assert " models, " in try_one(random.Random(5), tmp_path)


def test_no_row_is_lost_where_random_subsets_of_a_project_run_before_all_of_it(tmp_path: Path) -> None:
    assert " models, " in random_subsets.try_one(random.Random(3), tmp_path)
