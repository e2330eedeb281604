"""What holds for all tests: the signals, the profiles of Hypothesis, and an environment for tests of two folders."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from hypothesis import settings

# A shell ignores SIGINT in what it starts in the background, and Dagster then ignores SIGTERM too.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Every run draws the same examples, so that a test fails only because of a change. `make fuzz` draws new ones.
settings.register_profile("same", derandomize=True, database=None)
settings.register_profile("fuzz", print_blob=True)
settings.load_profile("same")


@pytest.fixture(scope="session")
def dlt_environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create an environment with dlt and dbt, and return the folder of its commands."""
    from package_environment import DBT, create_environment

    return create_environment(
        tmp_path_factory.mktemp("dlt_environment"), *DBT, "dagster-dlt", "dlt[duckdb]", "dagster-webserver"
    )
