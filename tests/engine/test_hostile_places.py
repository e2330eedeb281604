"""Read-only folders, full disks, homes that are not there, paths of all letters, endless lines."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from harness import CONFIG, DagsterProject, dagster_project, plan, write_project

from dg_sqlmesh_component.worker_process.worker import LONGEST_LINE

TALKATIVE = """
import typing as t

import pandas as pd
from sqlmesh import model


@model("t.talkative", kind="FULL", columns={"id": "int", "text": "text"}, depends_on=["t.first"])
def execute(context, start, end, execution_time, **kwargs: t.Any) -> pd.DataFrame:
    print("x" * 3_000_000)
    return pd.DataFrame({"id": [1] * 200, "text": [str(start) * 500] * 200})
"""
FILES = {
    "models/first.sql": "MODEL (name t.first, kind FULL); SELECT 1 AS id",
    "models/talkative.py": TALKATIVE,
}
EVERYTHING = {"t/first", "t/talkative"}


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[tuple[Path, DagsterProject]]:
    """A project below a folder with spaces and letters that are not ASCII; its database is in a folder of its own."""
    (tmp_path / "data").mkdir()
    config = CONFIG.replace("warehouse.duckdb", str(tmp_path / "data" / "warehouse.duckdb"))
    project = write_project(tmp_path / "Läden & Höfe (日本)" / "shop", FILES, config)
    plan(project)
    with dagster_project(tmp_path) as dagster:
        dagster.declare("shop", {"project": str(project)})
        yield project, dagster


def in_namespace(*preparation: str) -> list[str]:
    """A command that runs another one where these mounts were made, which nobody else sees."""
    if os.geteuid() != 0 or subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("MOUNTS CANNOT BE MADE here, so nothing was tried in a folder of that kind: that needs root")
    return ["unshare", "-m", "sh", "-c", " && ".join([*preparation, 'exec "$@"']), "sh"]


def test_a_project_in_a_read_only_folder_runs(shop: tuple[Path, DagsterProject]) -> None:
    project, dagster = shop
    shutil.rmtree(project / ".cache")
    where = shlex.quote(str(project))
    inside = in_namespace(f"mount --bind {where} {where}", f"mount -o remount,ro,bind {where} {where}")
    run_id = dagster.launch_beside(inside=inside).communicate(timeout=200)[0].split()[-1]
    told = dagster.told(run_id)
    assert told.status == dg.DagsterRunStatus.SUCCESS, told.failures
    assert set(told.materializations) == EVERYTHING
    assert f"{project} cannot be written to, so SQLMesh's cache is kept in " in told.log


def test_a_full_disk_fails_the_run_in_the_engines_words_and_the_next_run_does_the_rest(
    shop: tuple[Path, DagsterProject],
) -> None:
    project, dagster = shop
    dagster.refresh()
    data = project.parents[1] / "data"
    shutil.copy(data / "warehouse.duckdb", data.parent / "copy")
    size = (data / "warehouse.duckdb").stat().st_size // 1024 + 64
    inside = in_namespace(
        f"mount -t tmpfs -o size={size}k tmpfs {shlex.quote(str(data))}",
        f"cp {shlex.quote(str(data.parent / 'copy'))} {shlex.quote(str(data / 'warehouse.duckdb'))}",
    )
    run_id = dagster.launch_beside(inside=inside).communicate(timeout=200)[0].split()[-1]
    told = dagster.told(run_id)
    assert told.status == dg.DagsterRunStatus.FAILURE
    assert "No space left on device" in told.failures[0]
    again = dagster.launch()
    assert again.status == dg.DagsterRunStatus.SUCCESS, again.failures
    assert set(again.materializations) == EVERYTHING


def test_a_home_that_is_not_there_is_not_needed_and_an_endless_line_is_cut(shop: tuple[Path, DagsterProject]) -> None:
    _, dagster = shop
    run_id = dagster.launch_beside(HOME="/nobody/lives/here").communicate(timeout=200)[0].split()[-1]
    told = dagster.told(run_id)
    assert told.status == dg.DagsterRunStatus.SUCCESS, told.failures
    assert set(told.materializations) == EVERYTHING
    assert f"x [{3_000_000 - LONGEST_LINE} more characters]" in told.log
    assert len(told.log) < 2 * LONGEST_LINE
