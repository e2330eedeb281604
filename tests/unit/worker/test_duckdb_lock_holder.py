"""Which process holds a DuckDB file: its command, start time and Dagster run, read from /proc."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

import duckdb
import pytest

from dg_sqlmesh_component.worker.duckdb_lock_holder import COMMAND_CHARACTERS, command_line, holder_sentence, is_locked

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
HOLD = """
import sys
{before}
import duckdb
held = duckdb.connect(sys.argv[1])
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def file_held_by_process(file: Path, *arguments: str, before: str = "") -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start a process that holds the file. Yield it with the error that DuckDB raises for another process."""
    script = file.with_name("hold.py")
    script.write_text(HOLD.format(before=before))
    holder = subprocess.Popen(
        [sys.executable, script, file, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(duckdb.IOException) as refused:
            duckdb.connect(str(file))
        yield holder, str(refused.value)
    finally:
        holder.communicate()


@linux
def test_holder_is_named_by_its_command_and_start(tmp_path: Path) -> None:
    file = tmp_path / "shop.duckdb"
    with file_held_by_process(file, "--fast") as (holder, error):
        now = datetime.now(timezone.utc)
        message = holder_sentence(error)
    program = Path(sys.executable).name
    command = f"`{program} {tmp_path / 'hold.py'} {file} --fast`"
    holder_text, started = message.split(", started at ")
    assert holder_text == f"{file} is held by {command} (PID {holder.pid}"
    began = datetime.strptime(started, "%Y-%m-%d %H:%M:%S UTC).").replace(tzinfo=timezone.utc)
    assert abs((now - began).total_seconds()) < 60


@linux
def test_holding_worker_is_named_by_its_run(tmp_path: Path) -> None:
    file = tmp_path / "shop.duckdb"
    run = "Dagster run 7c1e6f5a-0d34-4f7e-9d7a-1a2b3c4d5e6f"
    show_run = f"from dg_sqlmesh_component.worker.duckdb_lock_holder import show_holder; show_holder({run!r})"
    with file_held_by_process(file, before=show_run) as (holder, error):
        message = holder_sentence(error)
    assert message.startswith(f"{file} is held by {run} (PID {holder.pid}, started at 20")


def test_ended_holder_is_named_by_its_process_id(tmp_path: Path) -> None:
    with file_held_by_process(tmp_path / "shop.duckdb") as (holder, error):
        pass
    assert holder_sentence(error) == f"{tmp_path / 'shop.duckdb'} is held by the process with PID {holder.pid}."


def test_process_that_reuses_the_id_is_named_by_its_process_id_only(tmp_path: Path) -> None:
    (tmp_path / "shop.duckdb").touch()
    bystander = subprocess.Popen([sys.executable, "-c", "input()", "bystander"], stdin=subprocess.PIPE)
    try:
        error = f'IO Error: Could not set lock on file "{tmp_path}/shop.duckdb": held in /bin/x (PID {bystander.pid}).'
        assert holder_sentence(error) == f"{tmp_path}/shop.duckdb is held by the process with PID {bystander.pid}."
    finally:
        bystander.communicate()


@pytest.mark.parametrize("end", ["", ": Resource temporarily unavailable", ": held by somebody (PID 0)"])
def test_duckdb_error_without_a_process_is_unchanged(end: str) -> None:
    error = f'IO Error: Could not set lock on file "/shop/db.duckdb"{end}'
    assert is_locked(error)
    assert holder_sentence(error) == f"{error}."


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["/usr/bin/python3.11", "etl.py", "a b"], "python3.11 etl.py 'a b'"),
        (["nginx: worker in /srv"], "nginx: worker in /srv"),
        (["etl", "--password", "hunter2", "--user", "ada"], "etl --password *** --user ada"),
        (["etl", "--password=hunter2 and more", "-v"], "etl --password=*** -v"),
        (["env", "API_TOKEN=hunter2", "etl"], "env API_TOKEN=*** etl"),
        (["psql", "postgres://ada:hunter2@db/shop"], "psql postgres://ada:***@db/shop"),
        (["etl", "of-the-environment"], "etl ***"),
        (["python", "-c", "import os\nprint(1)", "x"], "python -c ... x"),
        (["python", "-c", "1;" * 200, "2;" * 200, "x"], "python -c ... x"),
    ],
)
def test_command_line_is_redacted_and_shortened(
    words: Sequence[str], shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_PASSWORD", "of-the-environment")
    assert command_line(words) == shown


def test_command_line_has_a_maximum_length() -> None:
    assert len(command_line(["etl", *map(str, range(1000))])) <= COMMAND_CHARACTERS + len(" ...")
