"""Optional parts of a manifest: column lineage, and links to the files of models."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import quote

from sqlglot.errors import SqlglotError
from sqlmesh.core import lineage
from sqlmesh.core.context import Context
from sqlmesh.core.model import Model
from sqlmesh.utils.errors import SQLMeshError

from dg_sqlmesh_component.protocol.git import git

Lineage = dict[str, tuple[tuple[str, str], ...]]

MAX_LINEAGE_PAIRS = 10_000
"""How many pairs of columns, one of the model and one upstream, are kept. More are left out and counted."""


def column_lineage(context: Context, model: Model) -> tuple[Lineage | None, int]:
    """The upstream columns of each column, as far as SQLMesh can trace them in the SQL. No database is queried.

    Returns:
        Upstream models and columns, by column; None for a model that is not SQL. How many pairs were left out.
    """
    if not model.is_sql:
        return None, 0
    upstream: Lineage = {}
    pairs = left_out = 0
    for column in model.columns_to_types or {}:
        try:
            parents = lineage.column_dependencies(context, model.fqn, column)
        except (SqlglotError, SQLMeshError, ValueError):
            continue  # `SELECT *` of a table with unknown columns, or a query that only a database can complete
        sources = tuple(sorted((parent, name) for parent, names in parents.items() for name in names if name != "*"))
        kept = sources[: MAX_LINEAGE_PAIRS - pairs]
        pairs += len(kept)
        left_out += len(sources) - len(kept)
        if kept:
            upstream[column] = kept
    lineage.CACHE.clear()  # it would keep every query of the project in memory
    return upstream, left_out


class SourceUrls:
    """Web pages of files in a git repository with a remote, at the commit that is checked out."""

    def __init__(self) -> None:
        self._roots: dict[Path, tuple[Path, str] | None] = {}

    def of(self, path: Path) -> str | None:
        """The page of a file; None outside of a repository, or if git or a remote is missing."""
        folder = path.parent
        if folder not in self._roots:
            self._roots[folder] = _repository(folder)
        repository = self._roots[folder]
        if repository is None:
            return None
        root, url = repository
        in_repository = (folder.resolve() / path.name).relative_to(root)  # the file may be a link out of it
        return f"{url}/{quote(in_repository.as_posix())}"


def _repository(folder: Path) -> tuple[Path, str] | None:
    """The root folder of the repository, and the address of its page at this commit."""
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
