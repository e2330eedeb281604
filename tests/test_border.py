"""Only worker/ imports SQLMesh, and it never imports Dagster: in the source. The running processes are looked at
where they run: `test_the_worker_never_imports_dagster` and `test_two_instances_...` in tests/engine."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
from harness import REPOSITORY, write_project

PACKAGE = REPOSITORY / "dg_sqlmesh_component"
SQLMESH = {"sqlmesh", "sqlglot"}
SHARED = {"errors.py", "manifest.py", "events.py", "outcomes.py", "redaction.py", "wire.py"}
SOURCES = sorted(PACKAGE.rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Top-level packages that a module imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_sqlmesh_and_dagster_are_imported_on_their_own_sides_only(path: Path) -> None:
    names = imported(path)
    if path.parent.name == "worker":
        assert not {name for name in names if name.startswith("dagster")}
    else:
        assert not names & SQLMESH


@pytest.mark.parametrize("name", sorted(SHARED))
def test_what_both_sides_read_needs_neither(name: str) -> None:
    third_party = imported(PACKAGE / name) - set(sys.stdlib_module_names) - {"dg_sqlmesh_component"}
    assert third_party <= {"pydantic", "pydantic_core"}


def test_loading_definitions_imports_no_sqlmesh(tmp_path: Path) -> None:
    project = write_project(tmp_path, {"models/one.sql": "MODEL (name t.one, kind FULL); SELECT 1 AS id"})
    script = (
        "import json, sys, dg_sqlmesh_component\nfrom pathlib import Path\n"
        "from dg_sqlmesh_component.config.project import SQLMeshProject\n"
        f"models = SQLMeshProject((Path({str(project)!r}),)).describe().models\n"
        "theirs = sorted(name for name in sys.modules if name.split('.')[0] in ('sqlmesh', 'sqlglot'))\n"
        "print(json.dumps([len(models), theirs]))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [1, []]
