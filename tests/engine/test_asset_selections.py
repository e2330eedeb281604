"""`get_asset_selection`: SQLMesh resolves a selection once, and the manifest stores the result."""

import json
import logging
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.definitions_load_context import DefinitionsLoadContext, DefinitionsLoadType
from harness import BIN, DagsterProject, dagster_project, load, run, write_project

from dg_sqlmesh_component.state import manifest_source

FILES = {
    "models/orders.sql": "MODEL (name shop.orders, kind FULL, tags (finance)); SELECT 1 AS id",
    "models/revenue.sql": "MODEL (name shop.revenue, kind FULL); SELECT id FROM shop.orders",
    "models/weather.sql": "MODEL (name shop.weather, kind FULL); SELECT 1 AS id",
}
COSTS = "MODEL (name shop.costs, kind FULL, tags (finance)); SELECT 1 AS id"
JOBS = """
import dagster as dg

@dg.definitions
def defs(context: dg.ComponentLoadContext):
    shop = context.load_component("shop")
    finance = shop.get_asset_selection("tag:finance+", exclude="shop.weather")
    everything = shop.get_asset_selection(["shop.orders+", "shop.weather"])
    return dg.Definitions(jobs=[dg.define_asset_job("finance", finance), dg.define_asset_job("all", everything)])
"""


@dataclass
class Shop:
    """A project whose interpreter logs each of its starts."""

    project: Path
    dagster: DagsterProject
    starts_file: Path

    @property
    def starts(self) -> int:
        """How often SQLMesh was started since this property was last read."""
        count = len(self.starts_file.read_text().splitlines())
        self.starts_file.write_text("")
        return count

    @property
    def state(self) -> Path:
        [file] = self.dagster.root.rglob("state")
        return file

    def load_in_production(self) -> dg.Definitions:
        DefinitionsLoadContext.set(DefinitionsLoadContext(DefinitionsLoadType.INITIALIZATION))
        return load(self.dagster.root)


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    monkeypatch.setattr(manifest_source, "LOADED_IN_PROCESS", {})
    starts = tmp_path / "starts"
    starts.touch()
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\necho start >> {shlex.quote(str(starts))}\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    project = write_project(tmp_path / "shop", FILES)
    with dagster_project(tmp_path) as dagster:
        dagster.add_component("shop", {"project": {"path": str(project), "python": str(python)}})
        dagster.add_module("jobs", JOBS)
        yield Shop(project, dagster, starts)


def assets_of_finance_job(definitions: dg.Definitions) -> set[str]:
    selected = definitions.resolve_job_def("finance").asset_layer.selected_asset_keys
    return {key.to_user_string() for key in selected}


FINANCE_ASSETS = {"shop/orders", "shop/revenue"}


def test_definitions_load_without_sqlmesh_if_selections_are_stored(shop: Shop) -> None:
    assert assets_of_finance_job(shop.dagster.refresh()) == FINANCE_ASSETS
    assert shop.starts == 3  # one for the project and one for each of two selections
    for _ in range(2):
        assert assets_of_finance_job(shop.dagster.refresh()) == FINANCE_ASSETS
        assert assets_of_finance_job(shop.load_in_production()) == FINANCE_ASSETS
    assert shop.starts == 0


@pytest.mark.night(
    "test_definitions_load_without_sqlmesh_if_selections_are_stored",
    "engine/test_stored_manifest.py::test_dev_reloads_project_only_if_it_has_changed",
)
def test_manifest_and_selections_are_refreshed_in_one_sqlmesh_start(shop: Shop) -> None:
    shop.dagster.refresh()
    weather = FILES["models/weather.sql"].replace("kind", "tags (finance), kind")
    (shop.project / "models" / "weather.sql").write_text(weather)
    (shop.project / "models" / "costs.sql").write_text(COSTS)
    assert shop.starts == 3
    assert assets_of_finance_job(shop.dagster.refresh()) == {
        *FINANCE_ASSETS,
        "shop/costs",
    }  # `shop.weather` is excluded
    assert shop.starts == 1


@pytest.mark.night(
    "unit/state/test_fingerprint.py::test_selection_that_uses_git_has_no_fingerprint",
    "test_definitions_load_without_sqlmesh_if_selections_are_stored",
)
def test_models_that_differ_from_a_branch_are_selected_again_when_the_branch_moves(shop: Shop) -> None:
    git = ["git", "-c", "user.name=ada", "-c", "user.email=ada@example.com"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "one"], ["branch", "base"]):
        run([*git, *command], cwd=shop.project)
    (shop.project / "models" / "orders.sql").write_text(FILES["models/orders.sql"].replace("1 AS", "2 AS"))
    run([*git, "commit", "-qam", "two"], cwd=shop.project)
    (shop.project / "models" / "weather.sql").write_text(FILES["models/weather.sql"].replace("1 AS", "2 AS"))
    shop.dagster.add_module("jobs", JOBS.replace("tag:finance+", "git:base").replace(', exclude="shop.weather"', ""))
    assert assets_of_finance_job(shop.dagster.refresh()) == {"shop/orders", "shop/weather"}
    run([*git, "branch", "-f", "base", "HEAD"], cwd=shop.project)
    assert assets_of_finance_job(shop.dagster.refresh()) == {"shop/weather"}


@pytest.mark.night(
    "test_definitions_load_without_sqlmesh_if_selections_are_stored",
    "engine/test_stored_manifest.py::test_manifest_is_found_after_project_moves_to_another_folder",
)
def test_refresh_defs_state_refreshes_stored_selections(shop: Shop) -> None:
    shop.dagster.refresh()
    (shop.project / "models" / "costs.sql").write_text(COSTS)
    assert shop.starts == 3
    run([BIN / "dg", "utils", "refresh-defs-state"], cwd=shop.dagster.root, PYTHONPATH=str(shop.dagster.root))
    assert shop.starts == 1
    assert assets_of_finance_job(shop.load_in_production()) == {*FINANCE_ASSETS, "shop/costs"}
    assert shop.starts == 0


@pytest.mark.night(
    "test_wrong_selection_of_a_backfill_is_reported_as_one_of_defs_yaml",
    "engine/test_errors.py::test_selection_without_match_is_quoted_in_error_with_what_exists",
)
def test_stored_selection_that_matches_no_model_any_more_is_an_error(shop: Shop) -> None:
    shop.dagster.refresh()
    for name in ("orders", "revenue"):
        (shop.project / "models" / f"{name}.sql").unlink()
    message = shop.dagster.load_error()
    assert "`select` in get_asset_selection matches no model: 'tag:finance+'" in message
    assert "in defs.yaml" not in message
    assert [selection["select"] for selection in json.loads(shop.state.read_text())["selections"]] == []


def test_wrong_selection_of_a_backfill_is_reported_as_one_of_defs_yaml(shop: Shop) -> None:
    jobs = [{"select": "tag:fiance"}]
    shop.dagster.add_component("shop", {"project": str(shop.project), "restate": {"jobs": jobs}})
    message = shop.dagster.load_error()
    assert "`select` in `restate.jobs` in defs.yaml matches no model: 'tag:fiance'" in message
    assert "get_asset_selection" not in message


@pytest.mark.slow
def test_process_without_manifest_resolves_each_selection_once(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        assert assets_of_finance_job(shop.load_in_production()) == FINANCE_ASSETS
    assert shop.starts == 3
    assert not list(shop.dagster.root.rglob("state"))


@pytest.mark.advice("Run `dg check defs` after `dg utils refresh-defs-state` where the image is built.")
@pytest.mark.slow
def test_selection_that_cannot_be_stored_is_used_and_a_warning_logged(
    shop: Shop, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    run([BIN / "dg", "utils", "refresh-defs-state"], cwd=shop.dagster.root, PYTHONPATH=str(shop.dagster.root))
    assert shop.starts == 1

    # Raised here, because root, which may run the tests, can write to every folder.
    def read_only(*_: object) -> None:
        raise PermissionError(13, "Permission denied", str(shop.state))

    monkeypatch.setattr(manifest_source, "write_manifest", read_only)
    with caplog.at_level(logging.WARNING):
        assert assets_of_finance_job(shop.load_in_production()) == FINANCE_ASSETS
    assert shop.starts == 2
    assert "get_asset_selection started SQLMesh (select=('tag:finance+',), exclude=('shop.weather',))" in caplog.text
    assert "dg check defs" in caplog.text
    monkeypatch.undo()
    for command in (("utils", "refresh-defs-state"), ("check", "defs")):
        run([BIN / "dg", *command], cwd=shop.dagster.root, PYTHONPATH=str(shop.dagster.root))
    _ = shop.starts
    assert assets_of_finance_job(shop.load_in_production()) == FINANCE_ASSETS
    assert shop.starts == 0
