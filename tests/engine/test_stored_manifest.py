"""The stored manifest: written when the project has changed, read by all processes, replaced if it is unusable."""

import json
import logging
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.definitions_load_context import DefinitionsLoadContext, DefinitionsLoadType
from harness import (
    BIN,
    CONFIG,
    PYTHON_CONFIG,
    DagsterProject,
    NewShop,
    Shop,
    at_night,
    dagster_project,
    load,
    run,
    write_project,
)

from dg_sqlmesh_component import component
from dg_sqlmesh_component.config.project import SQLMeshProject
from dg_sqlmesh_component.protocol.errors import ConfigurationError
from dg_sqlmesh_component.state import manifest_source

ONE_MODEL = {"models/one.sql": "MODEL (name t.one, kind FULL); SELECT 1 AS id"}
AUDITED_MODEL = "MODEL (name t.one, kind FULL, audits (fine)); SELECT 1 AS id"
SECOND_MODEL = "MODEL (name t.two, kind FULL); SELECT id FROM t.one"


def manifest_file(dagster: DagsterProject) -> Path:
    [file] = dagster.root.rglob("state")
    return file


def assets(definitions: dg.Definitions) -> set[str]:
    return {key.to_user_string() for key in definitions.resolve_asset_graph().materializable_asset_keys}


def load_in_production(dagster: DagsterProject) -> dg.Definitions:
    DefinitionsLoadContext.set(DefinitionsLoadContext(DefinitionsLoadType.INITIALIZATION))
    return load(dagster.root)


def test_dev_reloads_project_only_if_it_has_changed(new_shop: NewShop) -> None:
    shop = new_shop(ONE_MODEL, planned_at=None)
    assert assets(shop.refresh()) == {"t/one"}
    written = manifest_file(shop).stat().st_mtime_ns
    assert assets(shop.refresh()) == {"t/one"}
    assert manifest_file(shop).stat().st_mtime_ns == written
    (shop.project / "models" / "two.sql").write_text(SECOND_MODEL)
    assert assets(shop.refresh()) == {"t/one", "t/two"}
    assert manifest_file(shop).stat().st_mtime_ns > written


@pytest.mark.attribute("refresh_if_dev")
def test_dev_reads_the_stored_manifest_of_a_changed_project_if_it_may_not_refresh_it(new_shop: NewShop) -> None:
    shop = new_shop(ONE_MODEL, planned_at=None)
    assert assets(shop.refresh()) == {"t/one"}
    (shop.project / "models" / "two.sql").write_text(SECOND_MODEL)
    assert assets(shop.configure(refresh_if_dev=False)) == {"t/one"}
    assert assets(shop.configure(refresh_if_dev=True)) == {"t/one", "t/two"}


@pytest.mark.advice(
    "belongs to another component. {}. Replace it",
    "it is damaged or was written by another version of dg_sqlmesh_component. Replace it",
    "has version {}; {}. Replace it",
)
@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:100],
        lambda content: json.dumps({**json.loads(content), "version": 999}).encode(),
        lambda content: json.dumps({**json.loads(content), "paths": ["/a", "/b"], "state_key": "another"}).encode(),
        lambda content: json.dumps({**json.loads(content), "selected": [], "state_key": None}).encode(),
    ],
    ids=["truncated", "of a newer version", "of another component", "without state key"],
)
def test_unusable_stored_manifest_is_replaced_by_a_fresh_load(
    new_shop: NewShop,
    damage: Callable[[bytes], bytes],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(manifest_source, "LOADED_IN_PROCESS", {})
    shop = new_shop(ONE_MODEL, planned_at=None)
    shop.refresh()
    file = manifest_file(shop)
    file.write_bytes(damage(file.read_bytes()))
    assert assets(load_in_production(shop)) == {"t/one"}
    assert f"The stored manifest of the SQLMesh project, {file}, " in caplog.text
    assert re.search(
        r"dg utils refresh-defs-state$\nSQLMesh loaded the project directly, in ", caplog.text, re.MULTILINE
    )
    caplog.clear()
    shop.refresh()  # it stores the manifest, as `dg utils refresh-defs-state` does
    assert assets(load_in_production(shop)) == {"t/one"}
    assert "The stored manifest of the SQLMesh project" not in caplog.text


def test_process_without_stored_manifest_loads_project_once_and_warns(
    new_shop: NewShop, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifest_source, "LOADED_IN_PROCESS", {})
    shop = new_shop(ONE_MODEL, planned_at=None)
    for _ in range(2):
        assert assets(load_in_production(shop)) == {"t/one"}
    (shop.project / "models" / "two.sql").write_text(SECOND_MODEL)
    assert assets(load_in_production(shop)) == {"t/one", "t/two"}
    messages = [entry.message for entry in caplog.records if "There is no stored manifest" in entry.message]
    assert len(messages) == 2
    assert "To load it once for all of them: dg utils refresh-defs-state" in messages[0]


@pytest.mark.parametrize(
    "config",
    [{"config": CONFIG + "project: shop\n"}, {"files": {**ONE_MODEL, "config.py": PYTHON_CONFIG}}],
    ids=["with project name", "as a module"],
)
def test_project_is_loaded_once_per_process_if_its_files_do_not_show_every_change(
    new_shop: NewShop, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, config: dict[str, Any]
) -> None:
    """Dagster builds the definitions six times for a run."""
    monkeypatch.setattr(manifest_source, "LOADED_IN_PROCESS", {})
    shop = new_shop(**{"files": ONE_MODEL, "planned_at": None, **config})
    for load_type in (DefinitionsLoadType.INITIALIZATION, *(DefinitionsLoadType.RECONSTRUCTION,) * 2):
        DefinitionsLoadContext.set(DefinitionsLoadContext(load_type))
        assert assets(load(shop.root)) == {"t/one"}
    assert caplog.text.count("There is no stored manifest") == 1
    (shop.project / "models" / "two.sql").write_text(SECOND_MODEL)
    assert assets(load_in_production(shop)) == {"t/one", "t/two"}


def shop_without_folder(new_shop: NewShop) -> tuple[Shop, Path, str]:
    """Return a shop, a file in place of the folder of its stored manifest, and what a load of it logs."""
    shop = new_shop(ONE_MODEL, planned_at=None)
    shop.refresh()
    folder = manifest_file(shop).parent
    shutil.rmtree(folder)
    folder.write_text("no folder")
    warning = (
        f"The stored manifest of the SQLMesh project 'shop' cannot be looked for in {folder}: File exists. Give the"
    )
    return shop, folder, warning


def test_project_loads_directly_if_folder_is_unreadable(new_shop: NewShop, caplog: pytest.LogCaptureFixture) -> None:
    shop, _, warning = shop_without_folder(new_shop)
    assert assets(load_in_production(shop)) == {"t/one"}
    assert assets(shop.refresh()) == {"t/one"}
    assert warning in caplog.text


@pytest.mark.advice("Give the user that runs Dagster search permission on that folder,")
@pytest.mark.night("test_project_loads_directly_if_folder_is_unreadable")
def test_refresh_defs_state_fails_until_the_folder_is_readable(
    new_shop: NewShop, caplog: pytest.LogCaptureFixture
) -> None:
    shop, folder, warning = shop_without_folder(new_shop)
    done = run([BIN / "dg", "utils", "refresh-defs-state"], cwd=shop.root, check=False, PYTHONPATH=str(shop.root))
    assert done.returncode != 0
    assert "cannot be looked for in" in done.stdout + done.stderr
    folder.unlink()
    caplog.clear()
    run([BIN / "dg", "utils", "refresh-defs-state"], cwd=shop.root, PYTHONPATH=str(shop.root))
    assert assets(load_in_production(shop)) == {"t/one"}
    assert warning not in caplog.text


COMPONENT_IN_PYTHON = """
from pathlib import Path
from typing import Any

import dagster as dg
from dg_sqlmesh_component import SQLMeshProjectComponent
from dg_sqlmesh_component.config.project import SQLMeshProject


@dg.component_instance
def load(_: dg.ComponentLoadContext) -> SQLMeshProjectComponent:
    return SQLMeshProjectComponent(project=SQLMeshProject((Path(__file__).parents[4] / "shop",)))
"""


@pytest.mark.parametrize(
    "project_attribute", ["../../../../shop", *at_night("{{ project_root }}/../shop", "in Python")]
)
def test_manifest_is_found_after_project_moves_to_another_folder(
    tmp_path: Path, project_attribute: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manifest is written where an image is built. It is read where the image runs, without loading the project."""
    audits = {"audits/a.sql": "AUDIT (name fine); SELECT 1 FROM @this_model WHERE FALSE"}
    write_project(tmp_path / "built" / "shop", {"models/one.sql": AUDITED_MODEL, **audits})
    with dagster_project(tmp_path / "built") as dagster:
        if project_attribute == "in Python":
            folder = dagster.root / dagster.root.name / "defs" / "shop"
            folder.mkdir()
            (folder / "component.py").write_text(COMPONENT_IN_PYTHON)
        else:
            dagster.add_component("shop", {"project": project_attribute})
        root, name = tmp_path / "runs here" / dagster.root.name, dagster.root.name
        # As a user does it: each `dg` command says that it is in development, but this one stores for production.
        run([BIN / "dg", "utils", "refresh-defs-state"], cwd=dagster.root, PYTHONPATH=str(dagster.root))
        shutil.copytree(tmp_path / "built", root.parent)
    shutil.rmtree(tmp_path / "built")
    DefinitionsLoadContext.set(DefinitionsLoadContext(DefinitionsLoadType.INITIALIZATION))
    monkeypatch.syspath_prepend(str(root))
    with caplog.at_level(logging.WARNING):
        graph = load(root).resolve_asset_graph()
    assert name in sys.modules
    assert "There is no stored manifest" not in caplog.text
    references = graph.get(dg.AssetKey(["t", "one"])).metadata["dagster/code_references"]
    assert str(root.parent / "shop" / "models" / "one.sql") in [ref.file_path for ref in references.code_references]
    [check] = graph.get_check_keys_for_assets({dg.AssetKey(["t", "one"])}) - {
        dg.AssetCheckKey(dg.AssetKey(["t", "one"]), "sqlmesh_execution_status")
    }
    path = (graph.get_check_spec(check).metadata or {})["sqlmesh/path"].value
    assert path == str(root.parent / "shop" / "audits" / "a.sql")


@pytest.mark.slow
def test_refresh_defs_state_always_loads_the_whole_project(tmp_path: Path) -> None:
    write_project(tmp_path / "shop", ONE_MODEL)
    with dagster_project(tmp_path) as dagster:
        dagster.add_component("shop", {"project": "../../../../shop"})
        command: list[str | Path] = [BIN / "dg", "utils", "refresh-defs-state"]
        written = []
        for _ in range(2):
            run(command, cwd=dagster.root, PYTHONPATH=str(dagster.root))
            written.append(manifest_file(dagster).stat().st_mtime_ns)
    assert written[0] < written[1]


def deny(*_: object) -> None:
    raise PermissionError(13, "Permission denied")


@pytest.mark.advice("Give the user that runs Dagster write permission on that folder.")
def test_unwritable_manifest_folder_is_logged_and_definitions_are_current(
    tmp_path: Path, new_shop: NewShop, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = new_shop(ONE_MODEL, planned_at=None)
    shop.refresh()
    (shop.project / "models" / "two.sql").write_text(SECOND_MODEL)
    monkeypatch.setattr(manifest_source, "write_manifest", deny)  # root can write to every folder
    assert assets(shop.refresh()) == {"t/one", "t/two"}
    with pytest.raises(ConfigurationError, match=r"cannot be stored in .*: Permission denied\. Give the user"):
        component.SQLMeshProjectComponent(project=SQLMeshProject((shop.project,))).write_state_to_path(tmp_path / "x")
    assert (
        "Permission denied. Give the user that runs Dagster write permission on that folder. Until then each"
        in caplog.text
    )
    monkeypatch.undo()
    caplog.clear()
    assert assets(shop.refresh()) == {"t/one", "t/two"}
    assert "cannot be stored" not in caplog.text
    assert assets(load_in_production(shop)) == {"t/one", "t/two"}


def test_current_manifest_in_a_read_only_folder_is_no_warning(
    new_shop: NewShop, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLMesh reads the state for a project with a name, so files do not show each change."""
    shop = new_shop(ONE_MODEL, CONFIG + "project: shop\n", planned_at=None)
    shop.refresh()
    monkeypatch.setattr(manifest_source, "write_manifest", deny)  # root can write to every folder
    assert assets(shop.refresh()) == {"t/one"}
    assert "cannot be stored" not in caplog.text
    (shop.project / "models" / "two.sql").write_text(SECOND_MODEL)
    assert assets(shop.refresh()) == {"t/one", "t/two"}
    assert "cannot be stored" in caplog.text


def test_two_components_with_same_relative_path_have_separate_manifests(tmp_path: Path) -> None:
    with dagster_project(tmp_path) as dagster:
        for name in ("one", "two"):
            dagster.add_component(name, {"project": "sqlmesh"})
            folder = dagster.root / dagster.root.name / "defs" / name / "sqlmesh"
            write_project(folder, {f"models/{name}.sql": f"MODEL (name t.{name}, kind FULL); SELECT 1 AS id"})
        assert assets(dagster.refresh()) == {"t/one", "t/two"}
        assert len([*dagster.root.rglob("state")]) == 2
        assert assets(load_in_production(dagster)) == {"t/one", "t/two"}


def test_two_components_with_different_variables_have_separate_manifests(tmp_path: Path) -> None:
    model = "MODEL (name @IF(@region = 'eu', t.eu_vat, t.us_tax), kind FULL); SELECT 1 AS id"
    config = CONFIG + "variables: {region: \"{{ env_var('REGION') }}\"}\n"
    project = write_project(tmp_path / "shop", {"models/tax.sql": model}, config)
    with dagster_project(tmp_path) as dagster:
        for region in ("eu", "us"):
            dagster.add_component(region, {"project": {"path": str(project), "env": {"REGION": region}}})
        dagster.refresh()
        assert assets(load_in_production(dagster)) == {"t/eu_vat", "t/us_tax"}


@pytest.mark.advice("Set another variable, the gateway or the environment differently too.")
def test_two_components_that_differ_only_in_a_secret_are_an_error(tmp_path: Path) -> None:
    """Secrets are not part of the state key, so one component would show the models of the other."""
    gateways = "".join(
        f"  {shop}:\n    connection: {{type: duckdb, database: warehouse.duckdb}}\n" for shop in ("eu", "us")
    )
    config = CONFIG.replace("default_gateway", f"{gateways}default_gateway")
    project = write_project(tmp_path / "shop", ONE_MODEL, config)
    with dagster_project(tmp_path) as dagster:

        def add_components(differs: str = "", **env: str) -> None:
            for shop in ("eu", "us"):
                env_of_shop = {name: value.format(shop) for name, value in env.items()}
                attributes = {"path": str(project), "env": env_of_shop, **({differs: shop} if differs else {})}
                dagster.add_component(shop, {"project": attributes, "translation": {"key_prefix": shop}})

        add_components(SHOP_TOKEN="hunter2 of {}")
        message = dagster.load_error()
        shared = r"defs/eu.* and .*defs/us.* would share one stored manifest.* differ only in SHOP_TOKEN of"
        assert re.search(shared, message)
        assert "hunter2" not in message
        add_components(SHOP_TOKEN="hunter2 of {}", SHOP="{}")
        assert assets(dagster.refresh()) == {"eu/t/one", "us/t/one"}
        for differs in ("gateway", "environment"):
            add_components(differs, SHOP_TOKEN="hunter2 of {}")
            assert assets(dagster.refresh()) == {"eu/t/one", "us/t/one"}


def test_step_does_not_read_model_files(new_shop: NewShop) -> None:
    shop = new_shop(ONE_MODEL)
    shop.refresh()
    (shop.project / "models" / "one.sql").write_text("MODEL (name t.one, kind FULL); SELECT FROM WHERE")
    (shop.project / "models" / "two.py").write_text("raise RuntimeError('read')")
    record = shop.launch().succeeded()
    assert record.status_of("t/one") == "executed"
