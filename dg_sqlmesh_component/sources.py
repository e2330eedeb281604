"""Whether a project is still the one that was described, found out without starting SQLMesh.

What the description was made of, as far as it can be seen from outside: files by their size and time, the
configuration's environment variables, the interpreter's packages, this package. Where that is not enough, nothing is
said, and the project is described anew.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path

from .manifest import MANIFEST_VERSION, Sources
from .project import CONFIG_FILES, SQLMeshProject
from .redaction import SECRET_NAME

_OUTPUT_FOLDERS = {"__pycache__", "logs", "node_modules", "target"}
_OUTPUT_SUFFIXES = {".db", ".duckdb", ".log", ".pyc", ".sqlite", ".sqlite3", ".wal"}
_IN_HOME = (".sqlmesh/config.yaml", ".sqlmesh/config.yml", ".dbt/profiles.yml")

_READS_STATE = re.compile(r"^\s*project\s*[:=]", re.MULTILINE)
"""A configuration with a project's name: SQLMesh adds the models of the other projects in its state."""


def sources_of(project: SQLMeshProject, question: Sequence[str]) -> Sources | None:
    """What a description of the project would be made of now; None when that cannot be told from outside.

    Args:
        question: What else the description depends on, such as the selection.
    """
    configuration = "\n".join(_configurations(project))
    if _READS_STATE.search(configuration) or any("git:" in part for part in question):
        return None
    files = {str(path): _stamp(path) for folder in project.paths for path in _files(folder)}
    model_files = {path for folder in project.paths for path in files if _is_model_file(path, folder)}
    digest = hashlib.sha256()
    for part in (
        _versions(),
        repr(project.opening),
        *question,
        *_variables(configuration, {**os.environ, **project.env}),
        *_interpreter(project.python),
        *(f"{name} {_stamp(Path.home() / name)}" for name in _IN_HOME),
        *(f"{path} {stamp}" for path, stamp in files.items() if path not in model_files),
    ):
        digest.update(f"{part}\0".encode("utf-8", "surrogateescape"))
    return Sources({path: files[path] for path in sorted(model_files)}, digest.hexdigest())


def _is_model_file(path: str, folder: Path) -> bool:
    """Whether SQLMesh reads it for the models in it and for nothing else, and its name can be stored."""
    is_unicode = path.encode("utf-8", "replace").decode() == path
    return is_unicode and path.endswith(".sql") and path.startswith(f"{folder / 'models'}{os.sep}")


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
            yield f"{packages} {_stamp(packages)}"


def _files(folder: Path) -> Iterator[Path]:
    for path, folders, files in os.walk(folder):
        here = Path(path)
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and name not in _OUTPUT_FOLDERS and not (here / name / "pyvenv.cfg").exists()
        )
        for name in sorted(files):
            if Path(name).suffix not in _OUTPUT_SUFFIXES:
                yield here / name


def _stamp(path: Path) -> str:
    """A file's or folder's size and time of change."""
    try:
        found = path.stat()
    except OSError as error:
        return str(error.strerror)
    return f"{found.st_size} {found.st_mtime_ns}"
