"""`project.python`: SQLMesh in its own environment, without this package and with compiled sqlglot."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import dagster as dg
import pytest
from engine.plan_jobs import failure_of, launch
from engine.preview_lab import PREVIEW
from harness import NewShop, dagster_project, needs_previews, plan, run, write_project

from dg_sqlmesh_component import SQLMeshResource
from dg_sqlmesh_component.config.project import SQLMeshProject
from dg_sqlmesh_component.protocol.errors import InstallationError
from dg_sqlmesh_component.protocol.messages import LoadRequest
from dg_sqlmesh_component.worker_client.calls import load_project

FILES = {
    "models/one.sql": "MODEL (name t.one, kind FULL); SELECT 1 AS id",
    "models/two.sql": "MODEL (name t.two, kind FULL, audits (not_null(columns := (id)))); SELECT id FROM t.one",
}


# More than ten seconds: it installs SQLMesh, and no process of it is forked from one that has imported SQLMesh.
def test_sqlmesh_runs_in_environment_without_this_package_and_with_compiled_sqlglot(tmp_path: Path) -> None:
    """As with dagster-dbt, which installs `sqlglotc`. There `import sqlmesh` raises a TypeError."""
    environment = tmp_path / "environment"
    python = environment / "bin" / "python"
    run([sys.executable, "-m", "venv", "--without-pip", environment], cwd=tmp_path)
    packages = [f"sqlmesh=={version('sqlmesh')}", f"sqlglot[c]=={version('sqlglot')}", f"duckdb=={version('duckdb')}"]
    run([sys.executable, "-m", "uv", "pip", "install", "--python", python, *packages], cwd=tmp_path)
    plain = subprocess.run([python, "-c", "import sqlmesh"], capture_output=True, text=True)
    assert "interpreted classes cannot inherit from compiled" in plain.stderr
    imported = subprocess.run([python, "-c", "import dg_sqlmesh_component"], capture_output=True, text=True)
    assert "ModuleNotFoundError" in imported.stderr

    project = write_project(tmp_path / "shop", FILES)
    plan(project)
    with dagster_project(tmp_path) as dagster:
        dagster.add_component("shop", {"project": {"path": str(project), "python": str(python)}})
        dagster.refresh()
        record = dagster.launch("in_process")
    assert record.status == dg.DagsterRunStatus.SUCCESS, record.failures
    assert set(record.materializations) == {"t/one", "t/two"}


def old_pythons() -> Iterator[str]:
    """Interpreters that are too old for SQLMesh's process. A shim of pyenv may have none."""
    folders = [*os.environ["PATH"].split(os.pathsep), *map(str, Path.home().glob(".pyenv/versions/3.[89].*/bin"))]
    for name in ("python3.9", "python3.8"):
        for python in filter(None, (shutil.which(name, path=folder) for folder in folders)):
            if subprocess.run([python, "-c", "import venv"], capture_output=True).returncode == 0:
                yield python


def install(python: Path, *words: str) -> None:
    run([sys.executable, "-m", "uv", *words[:2], "--python", python, *words[2:]], cwd=python.parent)


# More than ten seconds: it installs SQLMesh.
@pytest.mark.night(
    "engine/test_errors.py::test_interpreter_without_sqlmesh_is_named_with_install_command",
    "engine/test_errors.py::test_too_old_sqlmesh_is_reported_with_both_versions",
)
@pytest.mark.advice(
    "is Python {}; at least {} is needed. Upgrade it, {}",
    "Install it there (pip install 'sqlmesh>={}'), {}",
    "or set `project.python` in defs.yaml, or `python` of the SQLMeshResource, to one that has it.",
)
def test_interpreter_is_upgraded_and_gets_sqlmesh_or_is_replaced_by_one_that_has_it(tmp_path: Path) -> None:
    old = next(old_pythons(), None)
    if old is None:
        pytest.skip("NO PYTHON BEFORE 3.10 IS INSTALLED, so nothing was tested with one")
    folder, python = write_project(tmp_path / "shop", FILES), tmp_path / "environment" / "bin" / "python"
    project = SQLMeshProject((folder,), python=str(python))

    def loaded(project: SQLMeshProject) -> int:
        return len(load_project(project, LoadRequest(project.open_request)).manifest.models)

    run([old, "-m", "venv", "--without-pip", python.parents[1]], cwd=tmp_path)
    for refusal in (r"is Python 3\.[89].*; at least 3\.10 is needed\. Upgrade it, or", "SQLMesh is not installed for"):
        with pytest.raises(InstallationError, match=refusal) as refused:
            loaded(project)
        assert loaded(SQLMeshProject((folder,), python=sys.executable)) == 2
        with pytest.raises(InstallationError, match=refusal):
            SQLMeshResource(project=str(folder), python=str(python)).fetchdf("SELECT 1 AS id")
        assert len(SQLMeshResource(project=str(folder), python=sys.executable).fetchdf("SELECT 1 AS id")) == 1
        run([sys.executable, "-m", "venv", "--without-pip", "--clear", python.parents[1]], cwd=tmp_path)
    [command] = re.findall(r"Install it there \((pip install .*?)\)", str(refused.value))
    install(python, *shlex.split(command))
    install(python, "pip", "install", "duckdb")
    assert loaded(project) == 2


@pytest.mark.slow
@needs_previews
@pytest.mark.advice("Previews need SQLMesh 0.236.0 or later, and {} is installed. Upgrade it, or remove `preview`")
def test_previews_work_after_sqlmesh_was_upgraded_and_definitions_load_without_them(
    new_shop: NewShop, tmp_path: Path
) -> None:
    python = tmp_path / "environment" / "bin" / "python"
    run([sys.executable, "-m", "venv", "--without-pip", python.parents[1]], cwd=tmp_path)
    install(python, "pip", "install", "sqlmesh==0.235.2", f"duckdb=={version('duckdb')}")
    shop = new_shop(FILES, planned_at=None)
    project = {"path": str(shop.project), "python": str(python)}
    shop.configure(project=project, preview={"environment": "pr_1"})
    refused = failure_of(launch(shop, PREVIEW))
    assert "Previews need SQLMesh 0.236.0 or later, and 0.235.2 is installed. Upgrade it, or remove" in refused
    assert len(list(shop.configure(project=project).resolve_all_asset_keys())) == 2

    install(python, "pip", "install", "--upgrade", f"sqlmesh=={version('sqlmesh')}")
    (shop.project / "warehouse.duckdb").unlink()  # a state of the older SQLMesh
    shop.plan(at=None)
    (shop.project / "models" / "one.sql").write_text("MODEL (name t.one, kind FULL); SELECT 2 AS id")
    shop.configure(project=project, preview={"environment": "pr_1"})
    launch(shop, PREVIEW).succeeded()
    assert shop.query("SELECT id FROM t__pr_1.one") == [(2,)]
