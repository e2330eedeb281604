"""Opening a project, and describing errors."""

import os
import tempfile
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from harness import write_project
from sqlmesh.core.config import Config, DuckDBConnectionConfig, GatewayConfig
from sqlmesh.core.context import Context
from sqlmesh.utils.concurrency import NodeExecutionFailedError
from sqlmesh.utils.errors import SQLMeshError

from dg_sqlmesh_component.worker import context as opening
from dg_sqlmesh_component.worker.explain import describe_error


def test_read_only_projects_of_one_name_share_no_model_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLMesh would read the other project's models: paths, times and configuration are the same."""
    projects = [tmp_path / team / "shop" for team in ("east", "west")]
    for project in projects:
        team = project.parent.name
        write_project(project, {"models/one.sql": f"MODEL (name t.one, kind FULL); SELECT 1 AS {team}"})
        for file in (project / "models/one.sql", project / "config.yaml"):
            os.utime(file, (0, 0))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(os, "access", lambda *_: False)
    gateway = GatewayConfig(connection=DuckDBConnectionConfig())
    pipe: Any = SimpleNamespace(log=lambda *_: None)
    columns_by_team = {}
    for project in projects:
        config = Config(model_defaults={"dialect": "duckdb"}, gateways={"here": gateway})
        opening._move_cache_if_read_only({project: config}, pipe)
        context = Context(paths=str(project), config=config, load=True)
        columns_by_team[project.parent.name] = list(context.get_model("t.one", raise_if_missing=True).columns_to_types)
        context.close()
    assert columns_by_team == {"east": ["east"], "west": ["west"]}


def raised_from(*errors: Exception) -> Exception:
    """The first of these errors, each caused by the next."""
    for error, cause in pairwise(errors):
        error.__cause__ = cause
    return errors[0]


def test_error_of_a_node_is_described_by_its_cause() -> None:
    error = raised_from(NodeExecutionFailedError("a version"), ValueError("no such column"))
    assert describe_error(error) == "ValueError: no such column"


def test_error_is_described_with_its_innermost_cause_unless_it_quotes_it() -> None:
    said = raised_from(SQLMeshError("The view failed: disk full"), RuntimeError("retry"), OSError("disk full"))
    silent = raised_from(SQLMeshError("Plan application failed."), RuntimeError("retry"), OSError("disk full"))
    assert describe_error(said) == "The view failed: disk full"
    assert describe_error(silent) == "Plan application failed. It was caused by OSError: disk full"
