"""The stored manifest of a project: written when it has changed, read by all, replaced when it is bad."""

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

ONE = {"models/one.sql": "MODEL (name t.one, kind FULL); SELECT 1 AS id"}
AUDITED = "MODEL (name t.one, kind FULL, audits (fine)); SELECT 1 AS id"
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
        lambda content: json.dumps({**json.loads(content), "paths": ["/a", "/b"], "state_key": "another"}).encode(),
        lambda content: json.dumps({**json.loads(content), "selected": [], "state_key": None}).encode(),
    ],
    ids=["cut", "of a newer version", "of another declaration", "of nobody knows what"],
)
def test_a_stored_description_that_cannot_be_read_is_replaced_by_a_fresh_one(
    tmp_path: Path,
    damage: Callable[[bytes], bytes],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(source, "LOADED_IN_PROCESS", {})
    project = write_project(tmp_path / "shop", ONE)
    with dagster_project(tmp_path) as dagster, caplog.at_level(logging.WARNING):
        dagster.declare("shop", {"project": str(project)})
        dagster.refresh()
        file = stored(dagster)
        file.write_bytes(damage(file.read_bytes()))
        assert assets(load_in_production(dagster)) == {"t/one"}
    assert f"The stored manifest of the SQLMesh project, {file}, " in caplog.text
    assert "dg utils refresh-defs-state" in caplog.text


def test_without_a_stored_description_each_process_loads_the_project_once_and_says_how_to_make_it_fast(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "LOADED_IN_PROCESS", {})
    project = write_project(tmp_path / "shop", ONE)
    with dagster_project(tmp_path) as dagster, caplog.at_level(logging.WARNING):
        dagster.declare("shop", {"project": str(project)})
        for _ in range(2):
            assert assets(load_in_production(dagster)) == {"t/one"}
        (project / "models" / "two.sql").write_text(TWO)
        assert assets(load_in_production(dagster)) == {"t/one", "t/two"}
    said = [record.message for record in caplog.records if "There is no stored manifest" in record.message]
    assert len(said) == 2
    assert "To load it once for all of them: dg utils refresh-defs-state" in said[0]


@pytest.mark.parametrize("named", ["in the state", "by a program"])
def test_what_files_do_not_tell_is_described_once_for_all_that_a_process_rebuilds(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    """Dagster builds definitions six times for a run, the first time to begin with."""
    monkeypatch.setattr(source, "LOADED_IN_PROCESS", {})
    project = write_project(tmp_path / "shop", ONE, CONFIG + ("project: shop\n" if named == "in the state" else ""))
    if named == "by a program":
        (project / "config.yaml").unlink()
        (project / "config.py").write_text(ASKING)
    with dagster_project(tmp_path) as dagster, caplog.at_level(logging.WARNING):
        dagster.declare("shop", {"project": str(project)})
        for load_type in (DefinitionsLoadType.INITIALIZATION, *(DefinitionsLoadType.RECONSTRUCTION,) * 2):
            DefinitionsLoadContext.set(DefinitionsLoadContext(load_type))
            assert assets(load(dagster.root)) == {"t/one"}
        assert caplog.text.count("There is no stored manifest") == 1
        (project / "models" / "two.sql").write_text(TWO)
        assert assets(load_in_production(dagster)) == {"t/one", "t/two"}


ASKING = """
import subprocess
from sqlmesh.core.config import Config, DuckDBConnectionConfig, GatewayConfig, ModelDefaultsConfig

gateway = GatewayConfig(connection=DuckDBConnectionConfig(database="warehouse.duckdb"))
config = Config(gateways={"local": gateway}, model_defaults=ModelDefaultsConfig(dialect="duckdb"))
"""


def test_where_the_state_cannot_be_looked_for_the_project_is_loaded_directly(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    project = write_project(tmp_path / "shop", ONE)
    with dagster_project(tmp_path) as dagster, caplog.at_level(logging.WARNING):
        dagster.declare("shop", {"project": str(project)})
        dagster.refresh()
        place = stored(dagster).parent
        shutil.rmtree(place)
        place.write_text("no folder")
        assert assets(load_in_production(dagster)) == {"t/one"}
        assert assets(dagster.refresh()) == {"t/one"}
        done = run(
            [BIN / "dg", "utils", "refresh-defs-state"], cwd=dagster.root, check=False, PYTHONPATH=str(dagster.root)
        )
    said = f"The stored manifest of the SQLMesh project 'shop' cannot be looked for in {place}: File exists. Let the"
    assert said in caplog.text
    assert done.returncode != 0
    assert "cannot be looked for in" in done.stdout + done.stderr


IN_PYTHON = """
from pathlib import Path

import dagster as dg
from dg_sqlmesh_component import SQLMeshProjectComponent
from dg_sqlmesh_component.config.project import SQLMeshProject


@dg.component_instance
def load(_: dg.ComponentLoadContext) -> SQLMeshProjectComponent:
    return SQLMeshProjectComponent(project=SQLMeshProject((Path(__file__).parents[4] / "shop",)))
"""


@pytest.mark.parametrize("declared", ["../../../../shop", "{{ project_root }}/../shop", "in Python"])
def test_what_is_stored_in_one_folder_is_found_in_another(
    tmp_path: Path, declared: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state is written where an image is built, and read where it runs, with no SQLMesh to load the project."""
    audits = {"audits/a.sql": "AUDIT (name fine); SELECT 1 FROM @this_model WHERE FALSE"}
    write_project(tmp_path / "built" / "shop", {"models/one.sql": AUDITED, **audits})
    with dagster_project(tmp_path / "built") as dagster:
        if declared == "in Python":
            folder = dagster.root / dagster.root.name / "defs" / "shop"
            folder.mkdir()
            (folder / "component.py").write_text(IN_PYTHON)
        else:
            dagster.declare("shop", {"project": declared})
        root, name = tmp_path / "runs here" / dagster.root.name, dagster.root.name
        # As a person does it: each of dg's commands says that it is in development, but describes for production.
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
    assert str(root.parent / "shop" / "models" / "one.sql") in [one.file_path for one in references.code_references]
    [check] = graph.get_check_keys_for_assets({dg.AssetKey(["t", "one"])}) - {
        dg.AssetCheckKey(dg.AssetKey(["t", "one"]), "sqlmesh_execution_status")
    }
    path = (graph.get_check_spec(check).metadata or {})["sqlmesh/path"].value
    assert path == str(root.parent / "shop" / "audits" / "a.sql")


def test_a_refresh_that_is_asked_for_describes_the_whole_project_whatever_is_stored(tmp_path: Path) -> None:
    write_project(tmp_path / "shop", ONE)
    with dagster_project(tmp_path) as dagster:
        dagster.declare("shop", {"project": "../../../../shop"})
        command = [BIN / "dg", "utils", "refresh-defs-state"]
        written = []
        for _ in range(2):
            run(command, cwd=dagster.root, PYTHONPATH=str(dagster.root))
            written.append(stored(dagster).stat().st_mtime_ns)
    assert written[0] < written[1]


def test_a_folder_that_cannot_be_written_to_is_said_and_nothing_stale_is_shown(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = write_project(tmp_path / "shop", ONE)
    with dagster_project(tmp_path) as dagster, caplog.at_level(logging.WARNING):
        dagster.declare("shop", {"project": str(project)})
        dagster.refresh()
        (project / "models" / "two.sql").write_text(TWO)

        def refused(*_: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(source, "write_manifest", refused)  # as root, nothing else is refused
        assert assets(dagster.refresh()) == {"t/one", "t/two"}
        with pytest.raises(ConfigurationError, match=r"cannot be stored in .*: Permission denied\. Let the user"):
            component.SQLMeshProjectComponent(project=SQLMeshProject((project,))).write_state_to_path(tmp_path / "x")
    assert "Permission denied. Let the user who runs this write to that folder. Until then each" in caplog.text


def test_two_declarations_that_write_the_same_path_have_each_their_state(tmp_path: Path) -> None:
    with dagster_project(tmp_path) as dagster:
        for name in ("one", "two"):
            dagster.declare(name, {"project": "sqlmesh"})
            folder = dagster.root / dagster.root.name / "defs" / name / "sqlmesh"
            write_project(folder, {f"models/{name}.sql": f"MODEL (name t.{name}, kind FULL); SELECT 1 AS id"})
        assert assets(dagster.refresh()) == {"t/one", "t/two"}
        assert len([*dagster.root.rglob("state")]) == 2
        assert assets(load_in_production(dagster)) == {"t/one", "t/two"}


def test_two_declarations_that_write_a_variable_otherwise_have_each_their_state(tmp_path: Path) -> None:
    model = "MODEL (name @IF(@region = 'eu', t.eu_vat, t.us_tax), kind FULL); SELECT 1 AS id"
    config = CONFIG + "variables: {region: \"{{ env_var('REGION') }}\"}\n"
    project = write_project(tmp_path / "shop", {"models/tax.sql": model}, config)
    with dagster_project(tmp_path) as dagster:
        for region in ("eu", "us"):
            dagster.declare(region, {"project": {"path": str(project), "env": {"REGION": region}}})
        dagster.refresh()
        assert assets(load_in_production(dagster)) == {"t/eu_vat", "t/us_tax"}


def test_two_declarations_that_only_a_secret_tells_apart_are_refused(tmp_path: Path) -> None:
    """The secret is in no key, so that one of them would show the models of the other."""
    project = write_project(tmp_path / "shop", ONE)
    with dagster_project(tmp_path) as dagster:
        for shop in ("eu", "us"):
            env = {"SHOP_TOKEN": f"hunter2 of {shop}"}
            dagster.declare(shop, {"project": {"path": str(project), "env": env}, "translation": {"key_prefix": shop}})
        said = dagster.refusal()
        assert re.search(
            r"defs/eu.* and .*defs/us.* would share one stored manifest.* differ only in SHOP_TOKEN of", said
        )
        assert "hunter2" not in said
        for shop in ("eu", "us"):
            env = {"SHOP_TOKEN": f"hunter2 of {shop}", "SHOP": shop}
            dagster.declare(shop, {"project": {"path": str(project), "env": env}, "translation": {"key_prefix": shop}})
        assert assets(dagster.refresh()) == {"eu/t/one", "us/t/one"}


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
