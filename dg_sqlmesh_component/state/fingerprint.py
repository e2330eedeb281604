"""Find out without SQLMesh whether a project has changed since it was loaded.

The fingerprint covers files by size and time of change, the environment variables that they name, the interpreter's
packages and the version of this package. If these cannot show every change, there is no fingerprint, and the project is
always reloaded.
"""

from __future__ import annotations

import getpass
import hashlib
import os
import re
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path

from dg_sqlmesh_component.config.project import CONFIG_FILES, SQLMeshProject
from dg_sqlmesh_component.protocol.git import git
from dg_sqlmesh_component.protocol.graph import reachable
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
_READS_VARIABLES = re.compile(r"environ|getenv|env_var|expandvars")
_QUOTED_NAME = re.compile(r"""["'](\w+)["']|\$\{?(\w+)""")
_ASKS_ELSEWHERE = re.compile(
    r"\b(subprocess|popen|os\.system|from os import [^\n]*\bsystem"
    r"|git|pygit2|urlopen|urllib|requests|httpx|boto3|socket)\b"
)
"""Code that asks a program or a server. If a configuration contains it, files cannot show each change."""


def fingerprint_of(project: SQLMeshProject, question: Sequence[str]) -> Fingerprint | None:
    """The fingerprint of a project as it is now; None if it cannot show every change.

    Args:
        question: What else the manifest depends on, such as the selection.
    """
    if any("git:" in part for part in question) or any(map(_may_ask_elsewhere, project.paths)):
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
        *_variables(_names_in(configuration, [*map(Path, stamps), *files_elsewhere]), environment),
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


def _may_ask_elsewhere(project_folder: Path) -> bool:
    """True if `config.py`, or a module of the project that it may import, may ask a program or a server.

    A module may be imported if its name occurs anywhere in `config.py`, or in another module that may be imported.
    This finds more modules than Python imports. It is better to reload a project too often than too seldom.
    """

    def named_modules(module: Path) -> Iterator[Path]:
        for word in set(re.findall(r"\w+", _python_code(module))):
            for path in (project_folder / word, project_folder / f"{word}.py"):
                if os.path.exists(path) and not os.path.exists(path / "pyvenv.cfg"):  # a virtual environment
                    yield path

    modules = reachable([project_folder / "config.py"], named_modules)
    return any(_ASKS_ELSEWHERE.search(_python_code(module)) for module in modules)


def _python_code(module: Path) -> str:
    """The code of a module, or of all modules of a package."""
    return "\n".join(_text(path) for path in (module, *_files_below(module)) if path.suffix == ".py")


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


def _names_in(configuration: str, files: Sequence[Path]) -> set[str]:
    """Possible names of environment variables: all words of the configuration, and quoted words in code.

    Quoted words count if any code of the same kind reads variables: one Python file may pass a name to another, and so
    may the files of a dbt project. Models of dbt are code; SQL models of SQLMesh cannot read variables.
    """
    is_dbt = any(path.name == "dbt_project.yml" for path in files)
    texts: dict[object, list[str]] = defaultdict(list)
    for path in files:
        if path.suffix in _CODE_SUFFIXES or (is_dbt and path.suffix == ".sql"):
            group = "Python" if path.suffix == ".py" else "dbt" if is_dbt else path
            texts[group].append(_text(path))
    names = set(re.findall(r"\w+", configuration))
    for text in map("\n".join, texts.values()):
        if _READS_VARIABLES.search(text):
            names.update(*_QUOTED_NAME.findall(text))
    return names - {"_"}  # which a shell sets to the last command


def _variables(names: set[str], environment: Mapping[str, str]) -> Iterator[str]:
    """Variables of these names, and those that override the configuration. Secrets: only whether they are set."""
    for name in sorted(environment):
        if name in names or name.upper().startswith(("SQLMESH", "DBT_")):
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
    """The files in a folder and in the folders below it, in a fixed order.

    Args:
        is_left_out: Whether to leave out a folder.
        is_followed: Whether to follow links to folders, as SQLMesh does. Each folder is read once.
    """
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
