"""The stored manifest: written when the project has changed, read by all processes, replaced if it is unusable."""

from __future__ import annotations

import json
import logging
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.definitions_load_context import DefinitionsLoadContext, DefinitionsLoadType
from harness import BIN, CONFIG, DagsterProject, dagster_project, load, plan, run, write_project

from dg_sqlmesh_component import component
from dg_sqlmesh_component.config.project import SQLMeshProject
from dg_sqlmesh_component.protocol.errors import ConfigurationError
from dg_sqlmesh_component.state import source

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


def test_dev_reloads_project_only_if_it_has_changed(tmp_path: Path) -> None:
    project = write_project(tmp_path / "shop", ONE_MODEL)
    with dagster_project(tmp_path) as dagster:
        dagster.add_component("shop", {"project": str(project)})
        assert assets(dagster.refresh()) == {"t/one"}
        written = manifest_file(dagster).stat().st_mtime_ns
        assert assets(dagster.refresh()) == {"t/one"}
        assert manifest_file(dagster).stat().st_mtime_ns == written
        (project / "models" / "two.sql").write_text(SECOND_MODEL)
        assert assets(dagster.refresh()) == {"t/one", "t/two"}
        assert manifest_file(dagster).stat().st_mtime_ns > written


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
    tmp_path: Path,
    damage: Callable[[bytes], bytes],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(source, "LOADED_IN_PROCESS", {})
    project = write_project(tmp_path / "shop", ONE_MODEL)
    with dagster_project(tmp_path) as dagster, caplog.at_level(logging.WARNING):
        dagster.add_component("shop", {"project": str(project)})
        dagster.refresh()
        file = manifest_file(dagster)
        file.write_bytes(damage(file.read_bytes()))
        assert assets(load_in_production(dagster)) == {"t/one"}
    assert f"The stored manifest of the SQLMesh project, {file}, " in caplog.text
    assert re.search(
        r"dg utils refresh-defs-state$\nSQLMesh loaded the project directly, in ", caplog.text, re.MULTILINE
    )


def test_process_without_stored_manifest_loads_project_once_and_warns(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "LOADED_IN_PROCESS", {})
    project = write_project(tmp_path / "shop", ONE_MODEL)
    with dagster_project(tmp_path) as dagster, caplog.at_level(logging.WARNING):
        dagster.add_component("shop", {"project": str(project)})
        for _ in range(2):
            assert assets(load_in_production(dagster)) == {"t/one"}
        (project / "models" / "two.sql").write_text(SECOND_MODEL)
        assert assets(load_in_production(dagster)) == {"t/one", "t/two"}
    messages = [entry.message for entry in caplog.records if "There is no stored manifest" in entry.message]
    assert len(messages) == 2
    assert "To load it once for all of them: dg utils refresh-defs-state" in messages[0]


@pytest.mark.parametrize("config", ["with project name", "as a module"])
def test_project_is_loaded_once_per_process_if_its_files_do_not_show_every_change(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, config: str
) -> None:
    """Dagster builds the definitions six times for a run."""
    monkeypatch.setattr(source, "LOADED_IN_PROCESS", {})
    project = write_project(
        tmp_path / "shop", ONE_MODEL, CONFIG + ("project: shop\n" if config == "with project name" else "")
    )
    if config == "as a module":
        (project / "config.yaml").unlink()
        (project / "config.py").write_text(CONFIG_MODULE)
    with dagster_project(tmp_path) as dagster, caplog.at_level(logging.WARNING):
        dagster.add_component("shop", {"project": str(project)})
        for load_type in (DefinitionsLoadType.INITIALIZATION, *(DefinitionsLoadType.RECONSTRUCTION,) * 2):
            DefinitionsLoadContext.set(DefinitionsLoadContext(load_type))
            assert assets(load(dagster.root)) == {"t/one"}
        assert caplog.text.count("There is no stored manifest") == 1
        (project / "models" / "two.sql").write_text(SECOND_MODEL)
        assert assets(load_in_production(dagster)) == {"t/one", "t/two"}


CONFIG_MODULE = """
from sqlmesh.core.config import Config, DuckDBConnectionConfig, GatewayConfig, ModelDefaultsConfig

gateway = GatewayConfig(connection=DuckDBConnectionConfig(database="warehouse.duckdb"))
config = Config(gateways={"local": gateway}, model_defaults=ModelDefaultsConfig(dialect="duckdb"))
"""


def test_project_is_loaded_directly_if_manifest_folder_is_unreadable(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    project = write_project(tmp_path / "shop", ONE_MODEL)
    with dagster_project(tmp_path) as dagster, caplog.at_level(logging.WARNING):
        dagster.add_component("shop", {"project": str(project)})
        dagster.refresh()
        folder = manifest_file(dagster).parent
        shutil.rmtree(folder)
        folder.write_text("no folder")
        assert assets(load_in_production(dagster)) == {"t/one"}
        assert assets(dagster.refresh()) == {"t/one"}
        done = run(
            [BIN / "dg", "utils", "refresh-defs-state"], cwd=dagster.root, check=False, PYTHONPATH=str(dagster.root)
        )
    warning = (
        f"The stored manifest of the SQLMesh project 'shop' cannot be looked for in {folder}: File exists. Give the"
    )
    assert warning in caplog.text
    assert done.returncode != 0
    assert "cannot be looked for in" in done.stdout + done.stderr


COMPONENT_IN_PYTHON = """
from pathlib import Path

import dagster as dg
from dg_sqlmesh_component import SQLMeshProjectComponent
from dg_sqlmesh_component.config.project import SQLMeshProject


@dg.component_instance
def load(_: dg.ComponentLoadContext) -> SQLMeshProjectComponent:
    return SQLMeshProjectComponent(project=SQLMeshProject((Path(__file__).parents[4] / "shop",)))
"""


@pytest.mark.parametrize("project_attribute", ["../../../../shop", "{{ project_root }}/../shop", "in Python"])
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
    assert str(root.parent / "shop" / "models" / "one.sql") in [
        reference.file_path for reference in references.code_references
    ]
    [check] = graph.get_check_keys_for_assets({dg.AssetKey(["t", "one"])}) - {
        dg.AssetCheckKey(dg.AssetKey(["t", "one"]), "sqlmesh_execution_status")
    }
    path = (graph.get_check_spec(check).metadata or {})["sqlmesh/path"].value
    assert path == str(root.parent / "shop" / "audits" / "a.sql")


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


def test_unwritable_manifest_folder_is_logged_and_definitions_are_current(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = write_project(tmp_path / "shop", ONE_MODEL)
    with dagster_project(tmp_path) as dagster, caplog.at_level(logging.WARNING):
        dagster.add_component("shop", {"project": str(project)})
        dagster.refresh()
        (project / "models" / "two.sql").write_text(SECOND_MODEL)

        def deny(*_: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(source, "write_manifest", deny)  # root can write to every folder
        assert assets(dagster.refresh()) == {"t/one", "t/two"}
        with pytest.raises(ConfigurationError, match=r"cannot be stored in .*: Permission denied\. Give the user"):
            component.SQLMeshProjectComponent(project=SQLMeshProject((project,))).write_state_to_path(tmp_path / "x")
    assert (
        "Permission denied. Give the user that runs Dagster write permission on that folder. Until then each"
        in caplog.text
    )


def test_current_manifest_in_a_read_only_folder_is_no_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLMesh reads the state for a project with a name, so files do not show each change."""
    project = write_project(tmp_path / "shop", ONE_MODEL, CONFIG + "project: shop\n")
    with dagster_project(tmp_path) as dagster, caplog.at_level(logging.WARNING):
        dagster.add_component("shop", {"project": str(project)})
        dagster.refresh()

        def deny(*_: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(source, "write_manifest", deny)  # root can write to every folder
        assert assets(dagster.refresh()) == {"t/one"}
        assert "cannot be stored" not in caplog.text
        (project / "models" / "two.sql").write_text(SECOND_MODEL)
        assert assets(dagster.refresh()) == {"t/one", "t/two"}
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


def test_two_components_that_differ_only_in_a_secret_are_an_error(tmp_path: Path) -> None:
    """Secrets are not part of the state key, so one component would show the models of the other."""
    project = write_project(tmp_path / "shop", ONE_MODEL)
    with dagster_project(tmp_path) as dagster:
        for shop in ("eu", "us"):
            env = {"SHOP_TOKEN": f"hunter2 of {shop}"}
            dagster.add_component(
                shop, {"project": {"path": str(project), "env": env}, "translation": {"key_prefix": shop}}
            )
        message = dagster.load_error()
        assert re.search(
            r"defs/eu.* and .*defs/us.* would share one stored manifest.* differ only in SHOP_TOKEN of", message
        )
        assert "hunter2" not in message
        for shop in ("eu", "us"):
            env = {"SHOP_TOKEN": f"hunter2 of {shop}", "SHOP": shop}
            dagster.add_component(
                shop, {"project": {"path": str(project), "env": env}, "translation": {"key_prefix": shop}}
            )
        assert assets(dagster.refresh()) == {"eu/t/one", "us/t/one"}


def test_step_does_not_read_model_files(tmp_path: Path) -> None:
    project = write_project(tmp_path / "shop", ONE_MODEL)
    plan(project)
    with dagster_project(tmp_path) as dagster:
        dagster.add_component("shop", {"project": str(project)})
        dagster.refresh()
        (project / "models" / "one.sql").write_text("MODEL (name t.one, kind FULL); SELECT FROM WHERE")
        (project / "models" / "two.py").write_text("raise RuntimeError('read')")
        record = dagster.launch()
    assert record.status == dg.DagsterRunStatus.SUCCESS, record.failures
    assert record.status_of("t/one") == "executed"
