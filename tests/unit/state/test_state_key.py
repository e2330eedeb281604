"""The key under which Dagster stores a manifest, as Dagster reads it when a component is loaded."""

from pathlib import Path

import dagster as dg
import pytest
from harness import dagster_project, write_project

from dg_sqlmesh_component import SQLMeshProjectComponent

ONE = {"models/one.sql": "MODEL (name t.one, kind FULL); SELECT 1 AS id"}


def registered_key(folder: Path, **opened: str) -> str:
    """The key that Dagster registers for a component at load, to find the component when its manifest changes."""
    write_project(folder / "shop", ONE)
    with dagster_project(folder) as dagster:
        dagster.add_component("shop", {"project": {"path": "../../../../shop", **opened}})
        tree = dg.ComponentTree.for_project(dagster.root)
        component = tree.load_component("shop", SQLMeshProjectComponent)
        [key] = tree.state_tracker._component_defs_state_key_dict
    assert component.defs_state_config.key == key
    return key


def test_the_key_at_load_does_not_depend_on_the_folder_of_the_code_location(tmp_path: Path) -> None:
    assert registered_key(tmp_path / "built") == registered_key(tmp_path / "runs here")


def test_the_key_of_an_interpreter_in_path_does_not_depend_on_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = registered_key(tmp_path / "built", python="python3")
    monkeypatch.chdir("/")
    assert registered_key(tmp_path / "runs here", python="python3") == built
    assert registered_key(tmp_path / "with another", python="python3.11") != built


def test_a_component_that_is_created_without_a_dagster_project_has_a_key() -> None:
    component = SQLMeshProjectComponent.resolve_from_yaml("project: /shop")
    assert component.defs_state_config.key.startswith("SQLMeshProjectComponent[shop_")
