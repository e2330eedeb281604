"""Partial loads: if only some models' files have changed, the manifest is the same as after a full load."""

import json
import os
import shutil
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
from harness import NewShop, write_project

from dg_sqlmesh_component.config.project import SQLMeshProject
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.errors import ProjectLoadError
from dg_sqlmesh_component.worker.context import HAS_INDEX
from dg_sqlmesh_component.worker.load.project import load_project

FILES = {
    "seeds/rates.csv": "id,rate\n1,2\n",
    "models/rates.sql": "MODEL (name t.rates, kind SEED (path '../seeds/rates.csv'))",
    "models/base.sql": "MODEL (name t.base, kind FULL); SELECT id, rate FROM t.rates",
    "models/star.sql": "MODEL (name t.star, kind FULL); SELECT * FROM t.base",
    "models/deep.sql": "MODEL (name t.deep, kind FULL); SELECT *, @twice(2) AS four FROM t.star",
    "models/inside.sql": "MODEL (name t.inside, kind EMBEDDED); SELECT * FROM t.base",
    "models/reader.sql": "MODEL (name t.reader, kind VIEW); SELECT * FROM t.inside",
    "models/apart.sql": "MODEL (name t.apart, kind FULL); SELECT 1 AS id",
    "models/outside.sql": "MODEL (name t.outside, kind FULL); SELECT o.id FROM raw.orders AS o",
    "models/blue.sql": "MODEL (name t.@color, kind FULL, blueprints ((color := red), (color := green))); "
    "SELECT 1 AS id",
    "models/python.py": (
        "import pandas as pd\nfrom sqlmesh import model\n\n\n"
        "@model('t.python', columns={'id': 'int'}, depends_on=['t.apart'])\n"
        "def execute(context, **_):\n    return pd.DataFrame([{'id': 1}])\n"
    ),
    "macros/__init__.py": "",
    "macros/twice.py": "from sqlmesh import macro\n\n\n@macro()\ndef twice(evaluator, n):\n    return n * 2\n",
    "audits/some.sql": "AUDIT (name some_rows, standalone true); SELECT 1 FROM t.base WHERE false",
}


class IgnoredPipe:
    """Ignores the worker's messages."""

    def send(self, event: msg.Event) -> None:
        pass

    def loading(self) -> AbstractContextManager[None]:
        return nullcontext()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)  # a worker runs in the project's folder
    # A fork of a process that has already loaded projects may crash in DuckDB. A real worker loads only one project.
    monkeypatch.setattr("sqlmesh.core.constants.MAX_FORK_WORKERS", 1)
    return write_project(tmp_path, FILES)


def load_result(project: Path, **changes: Any) -> msg.ProjectLoaded:
    request = msg.LoadRequest(SQLMeshProject((project,)).open_request, (), (), ("sql", "column_lineage"), **changes)
    pipe: Any = IgnoredPipe()
    return load_project(request, pipe)


def change(project: Path, name: str, old: str, new: str) -> frozenset[str]:
    file = project / "models" / f"{name}.sql"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    return frozenset([str(file)])


@pytest.mark.parametrize(
    ("name", "old", "new", "models"),
    [
        ("base", "SELECT id,", "SELECT id, 'x' AS more,", {"base", "star", "deep", "inside", "reader"}),
        ("base", "FULL)", "VIEW)", {"base", "star", "deep", "inside", "reader"}),
        ("inside", "*", "rate", {"inside", "reader"}),
        ("deep", "FULL)", "FULL, description 'deep', audits (not_null(columns := (id))))", {"deep"}),
        ("deep", "FROM t.star", "FROM t.base", {"deep"}),
        ("apart", "SELECT 1 AS id", "SELECT * FROM t.reader", {"apart", "python"}),
        ("star", "SELECT * FROM t.base", "SELECT 7 AS seven", {"star", "deep"}),
        ("outside", "raw.orders", "raw.lines", {"outside"}),
        ("blue", "SELECT 1", "SELECT 2", {"red", "green"}),
    ],
    ids=[
        "new column",
        "other kind",
        "embedded model",
        "metadata",
        "other upstream model",
        "one more upstream model",
        "no upstream model",
        "external model",
        "blueprints",
    ],
)
def test_partial_load_equals_full_load(project: Path, name: str, old: str, new: str, models: set[str]) -> None:
    before = load_result(project).manifest
    files = change(project, name, old, new)
    partial = load_result(project, files=files, models=before.models_changed_by(files))
    assert not partial.is_whole
    assert {model.table for model in partial.manifest.models} == models
    assert before.with_models_of(partial.manifest) == load_result(project).manifest != before


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("apart", "t.apart", "t.others"),
        ("apart", "t.apart", "raw.orders"),
        ("blue", "(color := green)", "(color := green), (color := white)"),
        ("blue", ", (color := green)", ""),
        ("outside", FILES["models/outside.sql"], ""),
    ],
    ids=["renamed", "renamed to an upstream table", "one more blueprint", "one less blueprint", "empty file"],
)
def test_file_with_other_models_than_before_causes_full_load(project: Path, name: str, old: str, new: str) -> None:
    before = load_result(project).manifest
    files = change(project, name, old, new)
    assert load_result(project, files=files, models=before.models_changed_by(files)) == load_result(project)


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("base", "SELECT id, rate FROM t.rates", "SELECT id, rate FROM t.deep", "cycle"),
        ("apart", "t.apart", "t.deep", "Duplicate key"),
        ("apart", "t.apart", "t.python", "Duplicate model name"),
        ("apart", "SELECT 1 AS id", "SELECT FROM WHERE", "apart.sql"),
        ("apart", "kind FULL", "kind NONE_OF_THEM", "apart.sql"),
    ],
    ids=["cycle", "name of a SQL model", "name of a Python model", "invalid SQL", "invalid kind"],
)
def test_partial_load_reports_error_of_full_load(project: Path, name: str, old: str, new: str, message: str) -> None:
    before = load_result(project).manifest
    files = change(project, name, old, new)
    with pytest.raises(ProjectLoadError) as partial:
        load_result(project, files=files, models=before.models_changed_by(files))
    with pytest.raises(ProjectLoadError) as full:
        load_result(project)
    assert str(partial.value) == str(full.value)
    assert message in str(partial.value)


@pytest.mark.skipif(not HAS_INDEX, reason="This SQLMesh version has no index of a project and always loads all of it.")
def test_dev_reload_of_changed_model_does_not_load_unrelated_models(new_shop: NewShop) -> None:
    shop = new_shop(FILES, planned_at=None)
    shop.refresh()
    change(shop.project, "star", "SELECT *", "SELECT id")
    # SQLMesh cannot parse this file, but its size and time say that it has not changed.
    untouched = shop.project / "models" / "apart.sql"
    seen = untouched.stat()
    untouched.write_text("?" * seen.st_size)
    os.utime(untouched, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    shutil.rmtree(shop.project / ".cache" / "model_definition")
    shop.refresh()
    [state] = shop.root.rglob("state")
    columns = {model["table"]: model["columns"] for model in json.loads(state.read_text())["models"]}
    assert [column["name"] for column in columns["deep"]] == ["id", "four"]
    assert [column["name"] for column in columns["apart"]] == ["id"]
    (shop.project / "macros" / "more.py").write_text("")
    assert "apart.sql" in shop.load_error()
