"""What a tick keeps of the snapshots of prod, and when it reads them again."""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import CONFIG, plan, planned_project, sqlmesh
from sqlmesh.core.console import NoopConsole
from sqlmesh.core.context import Context
from sqlmesh.core.snapshot import Snapshot, missing_intervals
from sqlmesh.utils.date import now_timestamp
from sqlmesh.utils.errors import SQLMeshError

from dg_sqlmesh_component.capabilities.schedule.worker.kept_snapshots import read_code, read_snapshots

PYTHON = """
import pandas as pd
from sqlmesh import model


@model("t.python", kind="FULL", columns={"id": "int"}, depends_on=["t.daily"])
def execute(context, **kwargs):
    return pd.DataFrame({"id": [1]})
"""
FILES = {
    "models/daily.sql": "MODEL (name t.daily, kind INCREMENTAL_BY_TIME_RANGE (time_column day, lookback 2), "
    "audits (not_null(columns := (id)))); SELECT 1 AS id, @start_ds::DATE AS day",
    "models/hourly.sql": "MODEL (name t.hourly, kind INCREMENTAL_BY_TIME_RANGE (time_column day), cron '@hourly'); "
    "SELECT 1 AS id, @start_ts::TIMESTAMP AS day",
    "models/shown.sql": "MODEL (name t.shown, kind VIEW); SELECT id FROM t.daily",
    "models/python.py": PYTHON,
    "models/seed.sql": "MODEL (name t.seed, kind SEED (path '../seeds/seed.csv'))",
    "seeds/seed.csv": "id\n1\n",
    "audits/alone.sql": "AUDIT (name alone, standalone true); SELECT * FROM t.daily WHERE id < 0",
}


class Reader:
    """Reads the snapshots of an environment as the next tick does. Between two ticks, the project is closed."""

    def __init__(self, project: Path) -> None:
        self.project = project
        self.context: Context | None = None

    def close(self) -> None:
        if self.context is not None:
            self.context.close()

    def __call__(self, environment: str = "prod") -> Collection[Snapshot]:
        self.close()
        self.context = Context(paths=[str(self.project)], load=False)
        self.context.console = NoopConsole()
        stored = self.context.state_reader.get_environment(environment)
        assert stored is not None
        return read_snapshots(self.context, stored, now_timestamp())


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("sqlmesh.core.constants.MAX_FORK_WORKERS", 1)
    project = planned_project(tmp_path / "shop", FILES, CONFIG, {}, "3 days ago")
    monkeypatch.chdir(project)
    return project


@pytest.fixture
def read(project: Path) -> Iterator[Reader]:
    reader = Reader(project)
    yield reader
    reader.close()


def short(snapshot: Snapshot) -> str:
    """The name without catalog and schema."""
    return str(snapshot.name).strip('"').split('"')[-1]


def without_code(snapshots: Collection[Snapshot]) -> set[str]:
    names = set()
    for snapshot in snapshots:
        if snapshot.is_model and snapshot.model.is_sql:
            try:
                snapshot.model.render_query_or_raise(start="2026-01-01", end="2026-01-01")
            except SQLMeshError as error:
                if "dg_sqlmesh_has_left_out_this_code" not in str(error):
                    raise
                names.add(short(snapshot))
    return names


SQL = {"daily", "hourly", "shown"}


def facts(snapshots: Collection[Snapshot]) -> dict[str, tuple[Any, ...]]:
    missing = {node.name: found for node, found in missing_intervals(snapshots).items()}
    return {
        node.name: (node.identifier, node.version, node.intervals, node.parents, missing.get(node.name))
        for node in snapshots
    }


def test_the_second_tick_reads_no_code_and_finds_the_same_as_the_first(read: Reader) -> None:
    first = read()
    assert without_code(first) == set()
    expected = facts(first)
    assert len(expected) == 6
    second = read()
    assert without_code(second) == SQL
    assert facts(second) == expected


def test_intervals_are_those_of_the_state_at_each_tick(read: Reader, project: Path) -> None:
    before = facts(read())
    read.close()
    sqlmesh(project, "run")
    after = facts(read())
    assert without_code(read()) == SQL
    assert before.keys() == after.keys()
    assert before != after
    assert not any(values[-1] for values in after.values()), "nothing is missing"


def test_code_that_was_left_out_is_read_from_the_state(read: Reader) -> None:
    read()
    snapshots = read()
    some = [snapshot for snapshot in snapshots if short(snapshot) in ("shown", "python")]
    assert read.context is not None
    read_code(read.context, some)
    assert without_code(snapshots) == {"daily", "hourly"}
    [python] = [snapshot for snapshot in some if not snapshot.model.is_sql]
    assert python.model.python_env


def test_after_another_plan_everything_is_read_again(read: Reader, project: Path) -> None:
    read()
    read.close()
    (project / "models" / "shown.sql").write_text("MODEL (name t.shown, kind VIEW); SELECT id + 1 AS id FROM t.daily")
    plan(project)
    assert without_code(read()) == set()
    assert without_code(read()) == SQL


def test_nothing_is_kept_of_another_environment(read: Reader, project: Path) -> None:
    plan(project, "dev", "--include-unmodified")
    read("dev")
    assert without_code(read("dev")) == set()


def test_if_the_file_is_damaged_everything_is_read_again(read: Reader, project: Path) -> None:
    read()
    [file] = (project / ".cache" / "dg_sqlmesh_tick").iterdir()
    file.write_bytes(b"damaged")
    assert without_code(read()) == set()
    assert without_code(read()) == SQL


def test_if_the_cache_cannot_be_written_to_everything_is_read_again_and_logged(
    read: Reader, project: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (project / ".cache").mkdir(exist_ok=True)
    (project / ".cache" / "dg_sqlmesh_tick").write_text("a file in place of the folder")
    assert without_code(read()) == set()
    assert without_code(read()) == set()
    assert "each tick reads all snapshots again" in caplog.text


def test_if_an_automatic_restatement_is_due_everything_is_read(project: Path, read: Reader) -> None:
    text = FILES["models/daily.sql"].replace("lookback 2", "auto_restatement_cron '@daily'")
    (project / "models" / "daily.sql").write_text(text)
    plan(project)
    sqlmesh(project, "run")  # SQLMesh finds the next tick of a new model when it runs
    read()
    assert without_code(read()) == SQL - {"daily"}
    assert read.context is not None
    table = "sqlmesh._auto_restatements"
    read.context.state_sync.state_sync.engine_adapter.execute(f"UPDATE {table} SET next_auto_restatement_ts = 1000")
    assert without_code(read()) == set()
