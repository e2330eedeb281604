"""Whether a project is still the one that was described, found out without starting SQLMesh.

What the description was made of, as far as it can be seen from outside: files by their size and time, the
environment variables that they name, the interpreter's packages, this package. Where that is not enough, nothing is
said, and the project is loaded again.
"""

from __future__ import annotations

import getpass
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from modulefinder import ModuleFinder
from pathlib import Path

from dg_sqlmesh_component.config.project import CONFIG_FILES, SQLMeshProject
from dg_sqlmesh_component.protocol.git import git
from dg_sqlmesh_component.protocol.manifest import MANIFEST_VERSION, Sources
from dg_sqlmesh_component.protocol.redaction import SECRET_NAME

_READ_FOLDERS = (
    "audits", "external_models", "macros", "materializations", "metrics", "models", "seeds", "signals", "tests",
)  # fmt: skip
"""Folders of a project of which SQLMesh reads everything, whatever it is called."""

_NEVER_READ = {"__pycache__", "node_modules"}
_OUTPUT_FOLDERS = {"logs", "target"}
"""Of SQLMesh and dbt, in a project's folder; below it they may be anything."""
_OUTPUT_SUFFIXES = {".db", ".duckdb", ".log", ".pyc", ".sqlite", ".sqlite3", ".wal"}

_CODE_SUFFIXES = {".py", ".yaml", ".yml"}
_ASKS_FOR_VARIABLES = re.compile(r"environ|getenv|env_var|expandvars")
_QUOTED_NAME = re.compile(r"""["'](\w+)["']|\$\{?(\w+)""")
_ASKS_ELSEWHERE = re.compile(
    r"\b(subprocess|popen|os\.system|from os import [^\n]*\bsystem"
    r"|git|pygit2|urlopen|urllib|requests|httpx|boto3|socket)\b"
)
"""In a configuration written in Python: what it makes of the project is not to be seen in files."""


def sources_of(project: SQLMeshProject, question: Sequence[str]) -> Sources | None:
    """What a description of the project would be made of now; None when that cannot be told from outside.

    Args:
        question: What else the description depends on, such as the selection.
    """
    configuration = "\n".join(_configurations(project))
    if any("git:" in part for part in question) or any(map(_asks_elsewhere, project.paths)):
        return None
    environment = {**os.environ, **project.env}
    user = [getpass.getuser()] if "user(" in configuration else []
    elsewhere = list(_files_elsewhere(project, environment))
    files = {str(path): _stamp(path) for folder in project.paths for path in _files(folder)}
    model_files = {path for folder in project.paths for path in files if _is_model_file(path, folder)}
    digest = hashlib.sha256()
    for part in (
        _versions(),
        repr(project.opening),
        *question,
        *user,
        *(_commits(project) if "links" in question else ()),
        *_variables(_names_in(configuration, [*map(Path, files), *elsewhere]), environment),
        *_interpreter(project.python),
        *(f"{path} {_stamp(path)}" for path in elsewhere),
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


def _commits(project: SQLMeshProject) -> Iterator[str]:
    """What links to the files of models are made of beside the files."""
    for path in project.paths:
        yield str((git(path, "rev-parse", "HEAD"), git(path, "remote", "get-url", "origin")))


def _configurations(project: SQLMeshProject) -> Iterator[str]:
    for path in project.paths:
        for name in (*CONFIG_FILES, ".env"):
            if os.path.isfile(path / name):
                yield _text(path / name)


def _text(path: Path) -> str:
    """What a file says; nothing where it must not be read, of which SQLMesh complains where it needs it."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _asks_elsewhere(path: Path) -> bool:
    """Whether a configuration in Python, or code of the project that it imports, asks a program or a server what it is.

    Where that cannot be told, because the code is broken, it may.
    """
    for name in CONFIG_FILES:
        if name.endswith(".py") and os.path.isfile(path / name):
            finder = ModuleFinder([str(path)])
            try:
                finder.run_script(str(path / name))
            except (SyntaxError, ValueError, OSError):
                return True
            files = (getattr(module, "__file__", None) for module in finder.modules.values())
            if any(_ASKS_ELSEWHERE.search(_text(Path(file))) for file in files if file):
                return True
    return False


def _files_elsewhere(project: SQLMeshProject, environment: Mapping[str, str]) -> Iterator[Path]:
    """What SQLMesh and dbt read outside of the project, whether it is there or not."""
    home = Path(environment.get("HOME") or Path.home())
    personal = Path(environment.get("SQLMESH_HOME") or home / ".sqlmesh")
    yield from (personal / name for name in CONFIG_FILES if not name.endswith(".py"))
    profiles = environment.get("DBT_PROFILES_DIR")
    yield from (path / profiles / "profiles.yml" for path in project.paths if profiles)
    yield home / ".dbt" / "profiles.yml"
    dotenv = environment.get("SQLMESH_DOTENV_PATH")
    if dotenv:
        yield (project.working_directory or project.paths[0]) / dotenv


def _names_in(configuration: str, files: Sequence[Path]) -> set[str]:
    """What may be names of environment variables: any word of the configuration, and quotes in code that asks for them.

    One file may ask for what another one names: in Python, and in a project of dbt. Models of dbt are code, those of
    SQLMesh are not: they have no way to ask.
    """
    is_dbt = any(path.name == "dbt_project.yml" for path in files)
    python: list[str] = []
    others: list[str] = []
    for path in files:
        if path.suffix in _CODE_SUFFIXES | ({".sql"} if is_dbt else set()) and os.path.isfile(path):
            text = _text(path)
            (python if path.suffix == ".py" else others).append(text)
    named = set(re.findall(r"\w+", configuration))
    for text in ("\n".join(python), *(["\n".join(others)] if is_dbt else others)):
        if _ASKS_FOR_VARIABLES.search(text):
            named.update(*_QUOTED_NAME.findall(text))
    return named - {"_"}  # which a shell sets to the last command


def _variables(named: set[str], environment: Mapping[str, str]) -> Iterator[str]:
    """Variables that are named, or that override the configuration. Secrets only by whether they are set."""
    for name in sorted(environment):
        if name in named or name.upper().startswith(("SQLMESH", "DBT_")):
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
    read = [folder / name for name in _READ_FOLDERS]
    for one in read:  # it, or what is in it, may be a link to a folder elsewhere, which SQLMesh follows
        for path in _files_below(one, lambda path: path.name == "__pycache__", is_followed=True):
            if path.suffix != ".pyc":
                yield path
    for path in _files_below(folder, lambda path: path in read or _is_other(path), is_followed=False):
        if path.suffix not in _OUTPUT_SUFFIXES:
            yield path


def _is_other(path: Path) -> bool:
    """Whether a folder outside of those holds what a run writes, or is no part of the project."""
    # Here and elsewhere by `os.path`: of what is in a folder that must not be searched, `Path.exists` raises.
    if path.name.startswith(".") or path.name in _NEVER_READ or os.path.exists(path / "pyvenv.cfg"):
        return True
    return path.name in _OUTPUT_FOLDERS and any(
        os.path.isfile(path.parent / name) for name in (*CONFIG_FILES, "dbt_project.yml")
    )


def _files_below(folder: Path, is_left_out: Callable[[Path], bool], *, is_followed: bool) -> Iterator[Path]:
    """The files in and below a folder.

    Args:
        is_followed: Whether to look behind links to folders, once in each.
    """
    seen: set[str] = set()
    for path, folders, files in os.walk(folder, followlinks=is_followed):
        here = Path(path)
        if is_followed:
            seen.add(os.path.realpath(here))
            folders[:] = (name for name in folders if os.path.realpath(here / name) not in seen)
        folders[:] = sorted(name for name in folders if not is_left_out(here / name))
        yield from (here / name for name in sorted(files))


def _stamp(path: Path) -> str:
    """A file's or folder's size and time of change."""
    try:
        found = path.stat()
    except OSError as error:
        return str(error.strerror)
    return f"{found.st_size} {found.st_mtime_ns}"
