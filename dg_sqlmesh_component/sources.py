"""Whether a project is still the one that was described, found out without starting SQLMesh.

A fingerprint of everything that the description was made of, as far as it can be seen from outside: files by their size
and time, the configuration's environment variables, the interpreter's packages, this package. Where that is not enough,
there is no fingerprint, and the project is described anew.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path

from .manifest import MANIFEST_VERSION
from .project import CONFIG_FILES, SQLMeshProject
from .redaction import SECRET_NAME

_OUTPUT_FOLDERS = {"__pycache__", "logs", "node_modules", "target"}
_OUTPUT_SUFFIXES = {".db", ".duckdb", ".log", ".pyc", ".sqlite", ".sqlite3", ".wal"}
_IN_HOME = (".sqlmesh/config.yaml", ".sqlmesh/config.yml", ".dbt/profiles.yml")

_READS_STATE = re.compile(r"^\s*project\s*[:=]", re.MULTILINE)
"""A configuration with a project's name: SQLMesh adds the models of the other projects in its state."""


def fingerprint(project: SQLMeshProject, question: Sequence[str]) -> str | None:
    """What the project is now; None when that cannot be told from outside.

    Args:
        question: What else the description depends on, such as the selection.
    """
    configuration = "\n".join(_configurations(project))
    if _READS_STATE.search(configuration) or any("git:" in part for part in question):
        return None
    digest = hashlib.sha256()
    for part in (
        _versions(),
        repr(project.opening),
        *question,
        *_variables(configuration, {**os.environ, **project.env}),
        *_interpreter(project.python),
        *(_stamp(Path.home() / name) for name in _IN_HOME),
        *(line for path in project.paths for line in _files(path)),
    ):
        digest.update(f"{part}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _versions() -> str:
    return f"{MANIFEST_VERSION} {metadata.version('dg-sqlmesh-component')}"


def _configurations(project: SQLMeshProject) -> Iterator[str]:
    for path in project.paths:
        for name in CONFIG_FILES:
            if (path / name).is_file():
                yield (path / name).read_text(encoding="utf-8", errors="replace")


def _variables(configuration: str, environment: Mapping[str, str]) -> Iterator[str]:
    """Environment variables that the configuration names or that override it. Secrets only by whether they are set."""
    named = set(re.findall(r"\w+", configuration))
    for name in sorted(environment):
        if name in named or name.upper().startswith("SQLMESH"):
            yield f"{name}={'' if SECRET_NAME.search(name) else environment[name]}"


def _interpreter(python: str | None) -> Iterator[str]:
    if python is None:
        for package in ("sqlmesh", "sqlglot"):
            try:
                yield f"{package} {metadata.version(package)}"
            except metadata.PackageNotFoundError:
                yield f"no {package}"
        return
    found = shutil.which(python)
    yield f"{python} {found}"
    if found is not None:
        for packages in sorted(Path(found).parent.parent.glob("lib/python*/site-packages")):
            yield _stamp(packages)


def _files(folder: Path) -> Iterator[str]:
    for path, folders, files in os.walk(folder):
        here = Path(path)
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and name not in _OUTPUT_FOLDERS and not (here / name / "pyvenv.cfg").exists()
        )
        for name in sorted(files):
            if Path(name).suffix not in _OUTPUT_SUFFIXES:
                yield _stamp(here / name)


def _stamp(path: Path) -> str:
    """A file's or folder's size and time of change."""
    try:
        found = path.stat()
    except OSError as error:
        return f"{path} {error.strerror}"
    return f"{path} {found.st_size} {found.st_mtime_ns}"
