"""The stored description of a project: written when it has changed, read by all, replaced when it is bad."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.definitions_load_context import DefinitionsLoadContext, DefinitionsLoadType
from harness import DagsterProject, dagster_project, load, plan, write_project

from dg_sqlmesh_component import component

ONE = {"models/one.sql": "MODEL (name t.one, kind FULL); SELECT 1 AS id"}
TWO = "MODEL (name t.two, kind FULL); SELECT id FROM t.one"


def stored(dagster: DagsterProject) -> Path:
    [file] = dagster.root.rglob("state")
    return file


def assets(definitions: dg.Definitions) -> set[str]:
    return {key.to_user_string() for key in definitions.resolve_asset_graph().materializable_asset_keys}


def load_in_production(dagster: DagsterProject) -> dg.Definitions:
    DefinitionsLoadContext.set(DefinitionsLoadContext(DefinitionsLoadType.INITIALIZATION))
    return load(dagster.root)


def test_development_describes_a_project_again_only_when_it_has_changed(tmp_path: Path) -> None:
    project = write_project(tmp_path / "shop", ONE)
    with dagster_project(tmp_path) as dagster:
        dagster.declare("shop", {"project": str(project)})
        assert assets(dagster.refresh()) == {"t/one"}
        written = stored(dagster).stat().st_mtime_ns
        assert assets(dagster.refresh()) == {"t/one"}
        assert stored(dagster).stat().st_mtime_ns == written
        (project / "models" / "two.sql").write_text(TWO)
        assert assets(dagster.refresh()) == {"t/one", "t/two"}
        assert stored(dagster).stat().st_mtime_ns > written


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:100],
        lambda content: json.dumps({**json.loads(content), "version": 999}).encode(),
    ],
    ids=["cut", "of a newer version"],
)
def test_a_stored_description_that_cannot_be_read_is_replaced_by_a_fresh_one(
    tmp_path: Path,
    damage: Callable[[bytes], bytes],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(component, "_DESCRIBED", {})
    project = write_project(tmp_path / "shop", ONE)
    with dagster_project(tmp_path) as dagster, caplog.at_level(logging.WARNING):
        dagster.declare("shop", {"project": str(project)})
        dagster.refresh()
        file = stored(dagster)
        file.write_bytes(damage(file.read_bytes()))
        assert assets(load_in_production(dagster)) == {"t/one"}
    assert f"The stored description of the SQLMesh project, {file}, " in caplog.text
    assert "dg utils refresh-defs-state" in caplog.text


def test_without_a_stored_description_each_process_loads_the_project_once_and_says_how_to_make_it_fast(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(component, "_DESCRIBED", {})
    project = write_project(tmp_path / "shop", ONE)
    with dagster_project(tmp_path) as dagster, caplog.at_level(logging.WARNING):
        dagster.declare("shop", {"project": str(project)})
        for _ in range(2):
            assert assets(load_in_production(dagster)) == {"t/one"}
        (project / "models" / "two.sql").write_text(TWO)
        assert assets(load_in_production(dagster)) == {"t/one", "t/two"}
    said = [record.message for record in caplog.records if "There is no stored description" in record.message]
    assert len(said) == 2
    assert "To load it once for all of them: dg utils refresh-defs-state" in said[0]


def test_a_step_never_reads_the_models_files(tmp_path: Path) -> None:
    project = write_project(tmp_path / "shop", ONE)
    plan(project)
    with dagster_project(tmp_path) as dagster:
        dagster.declare("shop", {"project": str(project)})
        dagster.refresh()
        (project / "models" / "one.sql").write_text("MODEL (name t.one, kind FULL); SELECT FROM WHERE")
        (project / "models" / "two.py").write_text("raise RuntimeError('read')")
        told = dagster.launch()
    assert told.status == dg.DagsterRunStatus.SUCCESS, told.failures
    assert told.status_of("t/one") == "executed"
