"""Find out without SQLMesh whether a project has changed since it was loaded.

The fingerprint covers files by size and time of change, the environment variables that configuration and code name, the
interpreter's packages and the version of this package. If these cannot show every change, there is no fingerprint, and
the project is always reloaded.
"""

from __future__ import annotations

import getpass
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path

from dg_sqlmesh_component.config.project import CONFIG_FILES, SQLMeshProject
from dg_sqlmesh_component.protocol.git import git
from dg_sqlmesh_component.protocol.manifest import Fingerprint
from dg_sqlmesh_component.protocol.redaction import SECRET_NAME

_READ_FOLDERS = (
    "audits", "external_models", "macros", "materializations", "metrics", "models", "seeds", "signals", "tests",
)  # fmt: skip
"""Folders of a project in which SQLMesh reads every file, whatever its name."""

_OUTPUT_FOLDERS = {"logs", "target"}
"""SQLMesh and dbt write these in a project's folder. Deeper folders of these names are ordinary ones."""
_OUTPUT_SUFFIXES = {".db", ".duckdb", ".log", ".pyc", ".sqlite", ".sqlite3", ".wal"}

_CODE_SUFFIXES = {".py", ".yaml", ".yml"}


def fingerprint_of(project: SQLMeshProject, question: Sequence[str]) -> Fingerprint | None:
    """The fingerprint of a project as it is now; None if it cannot show every change.

    A `config.py` may ask programs and servers, as a selection with `git:` does. The `question` is what else the
    manifest depends on, such as the selection.
    """
    has_config_module = any(os.path.exists(folder / "config.py") for folder in project.paths)
    if has_config_module or any("git:" in part for part in question):
        return None
    environment = project.process_environment
    configuration = "\n".join(_text(folder / name) for folder in project.paths for name in (*CONFIG_FILES, ".env"))
    # A missing file counts like one that must not be read: its path depends on the user, and so would the fingerprint.
    files_elsewhere = [path for path in _files_elsewhere(project, environment) if os.path.isfile(path)]
    stamps = {str(path): _stamp(path) for folder in project.paths for path in _files(folder)}
    model_files = {path for folder in project.paths for path in stamps if _is_model_file(path, folder)}
    digest = hashlib.sha256()
    for part in (
        metadata.version("dg-sqlmesh-component"),
        repr(project.open_request),
        *question,
        getpass.getuser() if "user(" in configuration else "",
        *(_commits(project) if "links" in question else ()),
        *_variables(configuration, [*map(Path, stamps), *files_elsewhere], environment),
        *_interpreter(project.python),
        *(f"{path} {_stamp(path)}" for path in files_elsewhere),
        *(f"{path} {stamp}" for path, stamp in stamps.items() if path not in model_files),
    ):
        digest.update(f"{part}\0".encode("utf-8", "surrogateescape"))
    return Fingerprint({path: stamps[path] for path in sorted(model_files)}, digest.hexdigest())


def _is_model_file(path: str, folder: Path) -> bool:
    """True if SQLMesh reads nothing but models from this file, and its name can be stored as JSON."""
    is_unicode = path.encode("utf-8", "replace").decode() == path
    return is_unicode and path.endswith(".sql") and path.startswith(f"{folder / 'models'}{os.sep}")


def _commits(project: SQLMeshProject) -> Iterator[str]:
    """The commits and remotes that links to the files of models contain."""
    for folder in project.paths:
        yield str((git(folder, "rev-parse", "HEAD"), git(folder, "remote", "get-url", "origin")))


def _text(path: Path) -> str:
    """A file's content; empty if there is no such file or it must not be read. SQLMesh reports that if it needs it."""
    try:
        return path.read_text(encoding="utf-8", errors="replace") if os.path.isfile(path) else ""
    except OSError:
        return ""


def _files_elsewhere(project: SQLMeshProject, environment: Mapping[str, str]) -> Iterator[Path]:
    """The files that SQLMesh and dbt read outside of the project if they exist."""
    home = Path(environment.get("HOME") or Path.home())
    personal = Path(environment.get("SQLMESH_HOME") or home / ".sqlmesh")
    yield from (personal / name for name in CONFIG_FILES if not name.endswith(".py"))
    profiles = environment.get("DBT_PROFILES_DIR")
    yield from (folder / profiles / "profiles.yml" for folder in project.paths if profiles)
    yield home / ".dbt" / "profiles.yml"
    dotenv = environment.get("SQLMESH_DOTENV_PATH")
    if dotenv:
        yield (project.working_directory or project.paths[0]) / dotenv


def _variables(configuration: str, files: Sequence[Path], environment: Mapping[str, str]) -> Iterator[str]:
    """The variables that override the configuration, and those whose names are words in the configuration or in code.

    SQL files can read variables in a dbt project only. Of secrets, only whether they are set.
    """
    suffixes = {*_CODE_SUFFIXES, ".sql"} if any(path.name == "dbt_project.yml" for path in files) else _CODE_SUFFIXES
    code = (_text(path) for path in files if path.suffix in suffixes)
    words = {word for text in (configuration, *code) for word in re.findall(r"\w+", text)}
    for name in sorted(environment.keys() - {"_"}):  # a shell sets `_` to the last command
        if name in words or name.upper().startswith(("SQLMESH", "DBT_")):
            yield f"{name}={'' if SECRET_NAME.search(name) else environment[name]}"


def _interpreter(python: str | None) -> Iterator[str]:
    if python is None:
        for package in ("sqlmesh", "sqlglot"):
            try:
                yield f"{package} {metadata.version(package)}"
            except metadata.PackageNotFoundError:
                yield f"no {package}"
        return
    command = shutil.which(python)
    yield f"{python} {command}"
    if command is not None:
        for packages in sorted(Path(command).parent.parent.glob("lib/python*/site-packages")):
            yield f"{packages} {_stamp(packages)}"


def _files(project_folder: Path) -> Iterator[Path]:
    """The files that SQLMesh may read in a project's folder."""
    read_folders = [project_folder / name for name in _READ_FOLDERS]
    for folder in read_folders:
        yield from (path for path in _files_below(folder) if path.suffix != ".pyc")
    for path in _files_below(
        project_folder, lambda path: path in read_folders or _is_not_read(path), is_followed=False
    ):
        if path.suffix not in _OUTPUT_SUFFIXES:
            yield path


def _is_not_read(folder: Path) -> bool:
    """True for a folder that a run writes or that is no part of the project."""
    # `os.path` here and elsewhere: `Path.exists` raises if a folder must not be searched.
    if folder.name.startswith(".") or folder.name == "node_modules" or os.path.exists(folder / "pyvenv.cfg"):
        return True
    return folder.name in _OUTPUT_FOLDERS and any(
        os.path.isfile(folder.parent / name) for name in (*CONFIG_FILES, "dbt_project.yml")
    )


def _files_below(
    folder: Path, is_left_out: Callable[[Path], bool] = lambda _: False, *, is_followed: bool = True
) -> Iterator[Path]:
    """The files in a folder and below it, in a fixed order. Links are followed as SQLMesh does: each folder once."""
    seen: set[str] = set()
    for path, folders, files in os.walk(folder, followlinks=is_followed):
        here = Path(path)
        if is_followed:
            seen.add(os.path.realpath(here))
            folders[:] = (name for name in folders if os.path.realpath(here / name) not in seen)
        folders[:] = sorted(name for name in folders if name != "__pycache__" and not is_left_out(here / name))
        yield from (here / name for name in sorted(files))


def _stamp(path: Path) -> str:
    """A file's or folder's size and time of change."""
    try:
        status = path.stat()
    except OSError as error:
        return str(error.strerror)
    return f"{status.st_size} {status.st_mtime_ns}"
