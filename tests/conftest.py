"""What holds for all tests: signals, time zone, temporary files, servers, profiles of Hypothesis, an environment."""

import gc
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.util import Finalize
from pathlib import Path

import mariadb
import postgres
import pytest
from hypothesis import Phase, settings

# A shell ignores SIGINT in what it starts in the background, and Dagster then ignores SIGTERM too.
signal.signal(signal.SIGINT, signal.default_int_handler)

# SQLMesh counts days in UTC. Engines have `current_date` in the time zone of the machine, which may differ by a day.
os.environ["TZ"] = "UTC"
time.tzset()

# Every run draws the same examples, so that a test fails only because of a change. `make fuzz` draws many new ones.
settings.register_profile("same", max_examples=60, deadline=None, derandomize=True, database=None)
settings.register_profile("fuzz", max_examples=600, deadline=None, print_blob=True)
settings.register_profile("mutation", settings.get_profile("same"), max_examples=20, phases=[Phase.generate])
settings.load_profile("same")


MEMORY = Path("/dev/shm")
NEEDED_MEMORY = 6 << 30
"""How many bytes of memory must be free, so that temporary files are kept there."""
TEMPORARY = "dg_sqlmesh_tests_"


def pytest_configure(config: pytest.Config) -> None:
    """Keep the temporary files of a run of tests in memory, where it is large enough: databases are written faster.

    The worker processes, the servers and everything that tests start find the folder in the environment. What an
    earlier run has left, because a test failed or it was killed, is removed.
    """
    gc.set_threshold(100_000, 50, 50)  # Dagster's definitions are many objects, and few of them are garbage
    if hasattr(config, "workerinput"):
        return  # a worker of pytest-xdist uses the folder of the process that started it
    is_in_memory = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free >= NEEDED_MEMORY
    parent = MEMORY if is_in_memory else Path(tempfile.gettempdir())
    for left in parent.glob(f"{TEMPORARY}*"):
        if not Path(f"/proc/{left.name.removeprefix(TEMPORARY)}").exists():
            shutil.rmtree(left, ignore_errors=True)
    folder = parent / f"{TEMPORARY}{os.getpid()}"
    folder.mkdir()
    folder.chmod(0o711)  # the user of a database server passes through it
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Remove the temporary files if no test has failed."""
    if not hasattr(session.config, "workerinput") and not exitstatus:
        # After multiprocessing, which has a folder in it that it removes with priority -100, when Python ends.
        Finalize(None, shutil.rmtree, (os.environ["TMPDIR"], True), exitpriority=-200)


@pytest.fixture(autouse=True, scope="session")
def _servers() -> Iterator[None]:
    """End the database servers that tests of this process have started and shared."""
    yield
    postgres.shared.stop()
    mariadb.shared.stop()


@pytest.fixture(scope="session")
def dlt_environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create an environment with dlt and dbt, and return the folder of its commands."""
    from package_environment import DBT, create_environment

    return create_environment(
        tmp_path_factory.mktemp("dlt_environment"), *DBT, "dagster-dlt", "dlt[duckdb]", "dagster-webserver"
    )
