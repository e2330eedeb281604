"""What a manifest holds only on request: column lineage, and links to the files of models."""

from __future__ import annotations

import re
from pathlib import Path

from sqlglot.errors import SqlglotError
from sqlmesh.core import lineage
from sqlmesh.core.context import Context
from sqlmesh.core.model import Model
from sqlmesh.utils.errors import SQLMeshError

from dg_sqlmesh_component.protocol.git import git

Lineage = dict[str, tuple[tuple[str, str], ...]]


def column_lineage(context: Context, model: Model, limit: int) -> tuple[Lineage | None, int]:
    """The columns upstream that each column is made of, and how many pairs were left out; None for what is no SQL.

    No more pairs of columns than the limit are kept.

    Parsed from the SQL alone: no database is asked. A column that SQLMesh cannot trace is left out.
    """
    if not model.is_sql:
        return None, 0
    found: Lineage = {}
    pairs = left_out = 0
    for column in model.columns_to_types or {}:
        try:
            parents = lineage.column_dependencies(context, model.fqn, column)
        except (SqlglotError, SQLMeshError, ValueError):
            continue  # `SELECT *` of a table that nobody describes, a query that only a database can complete
        made_of = tuple(sorted((parent, name) for parent, names in parents.items() for name in names if name != "*"))
        kept = made_of[: limit - pairs]
        pairs += len(kept)
        left_out += len(made_of) - len(kept)
        if kept:
            found[column] = kept
    lineage.CACHE.clear()  # it would keep every query of the project
    return found, left_out


class SourceUrls:
    """Web pages of files in a git repository that has a remote, at the commit that is checked out."""

    def __init__(self) -> None:
        self._roots: dict[Path, tuple[Path, str] | None] = {}

    def of(self, path: Path) -> str | None:
        """The page of a file; None outside of a repository, or where git or a remote is missing."""
        folder = path.parent
        if folder not in self._roots:
            self._roots[folder] = _repository(folder)
        found = self._roots[folder]
        if found is None:
            return None
        root, url = found
        return f"{url}/{path.resolve().relative_to(root).as_posix()}"


def _repository(folder: Path) -> tuple[Path, str] | None:
    root = git(folder, "rev-parse", "--show-toplevel")
    remote = git(folder, "remote", "get-url", "origin")
    commit = git(folder, "rev-parse", "HEAD")
    if not (root and remote and commit):
        return None
    match = re.fullmatch(r"(?:https?://(?:[^@/]+@)?|ssh://git@|git@)([^:/]+)(?::\d+)?[:/](.+?)(?:\.git)?/?", remote)
    if match is None:
        return None
    host, repository = match.groups()
    page = "-/blob" if "gitlab" in host else "blob"
    return Path(root).resolve(), f"https://{host}/{repository}/{page}/{commit}"
