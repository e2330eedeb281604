"""Read-only folders, full disks, missing home folders, paths with non-ASCII letters, and very long lines."""

import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from harness import CONFIG, NewShop, Shop, planned_shop

from dg_sqlmesh_component.worker_client.worker import LONGEST_LINE

VERBOSE_MODEL = """
import typing as t

import pandas as pd
from sqlmesh import model


@model("t.talkative", kind="FULL", columns={"id": "int", "text": "text"}, depends_on=["t.first"])
def execute(context, start, end, execution_time, **kwargs: t.Any) -> pd.DataFrame:
    print("x" * 3_000_000)
    return pd.DataFrame({"id": [1] * 200, "text": [str(start) * 500] * 200})
"""
FILES = {"models/first.sql": "MODEL (name t.first, kind FULL); SELECT 1 AS id", "models/talkative.py": VERBOSE_MODEL}
ALL_MODELS = {"t/first", "t/talkative"}


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    """A project below a folder with spaces and non-ASCII letters. Its database is in a separate folder."""
    (tmp_path / "data").mkdir()
    config = CONFIG.replace("warehouse.duckdb", str(tmp_path / "data" / "warehouse.duckdb"))
    with planned_shop(tmp_path / "Läden & Höfe (日本)", FILES, config) as shop:
        yield shop


UNSHARE = ["unshare", "-m" if os.geteuid() == 0 else "-rm"]


def in_namespace(*preparation: str) -> list[str]:
    """Return a command that runs another command in its own mount namespace, after these mounts."""
    if subprocess.run([*UNSHARE, "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True).returncode:
        pytest.skip("MOUNTS CANNOT BE MADE here, so nothing was tried in a folder of that kind: allow user namespaces")
    return [*UNSHARE, "sh", "-c", " && ".join([*preparation, 'exec "$@"']), "sh"]


@contextmanager
def read_only(folder: Path) -> Iterator[list[str]]:
    """Make a folder read-only for the command after the one that is returned. Root may write to it without a mount."""
    if os.geteuid() == 0:
        quoted = shlex.quote(str(folder))
        yield in_namespace(f"mount --bind {quoted} {quoted}", f"mount -o remount,ro,bind {quoted} {quoted}")
        return
    modes = {path: path.stat().st_mode for path in (folder, *folder.rglob("*"))}
    try:
        for path, mode in modes.items():
            path.chmod(mode & ~0o222)
        yield []
    finally:
        for path, mode in modes.items():
            path.chmod(mode)


def test_project_in_read_only_folder_runs(shop: Shop) -> None:
    shutil.rmtree(shop.project / ".cache", ignore_errors=True)
    shop.refresh()
    with read_only(shop.project) as wrapper:
        run_id = shop.start_new_process(wrapper=wrapper).communicate(timeout=200)[0].split()[-1]
    record = shop.run_record(run_id).succeeded()
    assert set(record.materializations) == ALL_MODELS
    assert f"{shop.project} cannot be written to, so SQLMesh's cache is kept in " in record.log


@pytest.mark.night(
    "engine/test_interruptions.py::test_next_run_computes_interrupted_models_once",
    "test_project_in_read_only_folder_runs",
)
def test_full_disk_fails_the_run_and_next_run_computes_the_rest(shop: Shop) -> None:
    shop.refresh()
    data = shop.project.parents[1] / "data"
    shutil.copy(data / "warehouse.duckdb", data.parent / "copy")
    size = (data / "warehouse.duckdb").stat().st_size // 1024 + 64
    wrapper = in_namespace(
        f"mount -t tmpfs -o size={size}k tmpfs {shlex.quote(str(data))}",
        f"cp {shlex.quote(str(data.parent / 'copy'))} {shlex.quote(str(data / 'warehouse.duckdb'))}",
    )
    run_id = shop.start_new_process(wrapper=wrapper).communicate(timeout=200)[0].split()[-1]
    record = shop.run_record(run_id).failed()
    assert "No space left on device" in record.failures[0]
    second_run = shop.launch().succeeded()
    assert set(second_run.materializations) == ALL_MODELS


@pytest.mark.night(
    "test_project_in_read_only_folder_runs", "engine/test_defs_yaml.py::test_project_env_reaches_only_sqlmesh"
)
def test_project_is_loaded_and_run_without_a_home_folder(new_shop: NewShop) -> None:
    shop = new_shop({"models/one.sql": "MODEL (name t.one, kind FULL); SELECT 1 AS id"})
    shop.configure(project={"path": str(shop.project), "env": {"HOME": "/proc/nobody"}})  # not even root can create it
    assert set(shop.launch().succeeded().materializations) == {"t/one"}


@pytest.mark.slow
def test_very_long_line_is_cut(shop: Shop) -> None:
    record = shop.launch().succeeded()
    assert set(record.materializations) == ALL_MODELS
    assert f"x [{3_000_000 - LONGEST_LINE} more characters]" in record.log
    assert len(record.log) < 2 * LONGEST_LINE
