"""Which folders of the package may import which. The test reads the source, so it covers new files.

tests/engine checks the running processes: `test_worker_never_imports_dagster`, `test_two_components_with_same_...`.
"""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from harness import REPOSITORY, write_project
from night import TESTS, is_left_to_the_night
from rooms import CAPABILITIES, ROOTS

PACKAGE = REPOSITORY / "dg_sqlmesh_component"
NAME = PACKAGE.name
SQLMESH = {"sqlmesh", "sqlglot"}
INTERNALS = "dagster_internals"
ARCHITECTURE = REPOSITORY / "docs" / "contributing" / "architecture.md"
WITH_WORKER = {"protocol", "config", "worker_client", "definitions", INTERNALS}
ALLOWED_IMPORTS = {
    "protocol": {"protocol"},
    INTERNALS: {"protocol", INTERNALS},
    "config": {"protocol", "config"},
    "worker": {"protocol", "worker"},
    "worker_client": {"protocol", "config", "worker_client", INTERNALS},
    "state": {"protocol", "config", "worker_client", "state", INTERNALS},
    "definitions": {"protocol", "config", "definitions", INTERNALS},
    "history": {"protocol", "definitions", "history", INTERNALS},
    "report": {"protocol", "definitions", "history", "report", INTERNALS},
    "run": {*WITH_WORKER, "history", "report", "run"},
    "capabilities": {*WITH_WORKER, "history", "report", "run"},
}
"""The folders and modules that each folder may import. Modules at the top of the package may import everything.

Capabilities have a table of their own. Only roots and capabilities import them."""

WORKER_ROOMS: dict[str, set[str]] = {
    ".": set(),
    "intervals": {"intervals"},
    "observe": {"intervals", "observe"},
    "load": {"load"},
    "evaluate": {"intervals", "observe", "evaluate"},
}
"""The folders of the worker that each of them may import. Its entry may import all."""

DECIDING = (
    "worker/intervals/availability.py",
    "worker/intervals/gained.py",
    "worker/intervals/outdated.py",
    "worker/intervals/read_early.py",
    "worker/intervals/unrecorded.py",
    "worker/intervals/missing.py",
    "capabilities/plans/worker/failed_plan.py",
    "capabilities/plans/worker/lost_rows.py",
    "capabilities/plans/worker/rounds.py",
)
"""Modules of the worker that decide, or find the words, over plain pictures, and import only `protocol`."""

WITHOUT_DAGSTER = (
    "protocol",
    "worker",
    "capabilities/*/worker",
    "capabilities/*/messages.py",
    "report/outcomes.py",
    "capabilities/plans/gate.py",
    "run/ledger.py",
    "run/retry_decision.py",
)
"""Folders and modules that never import Dagster, neither directly nor through modules of the package."""


def modules(place: str) -> list[Path]:
    path = PACKAGE / place
    return sorted(path.rglob("*.py")) if path.is_dir() else [path]


def imports(path: Path) -> set[str]:
    """Return the absolute dotted names that a module imports, at its top or inside functions."""
    package = [NAME, *path.relative_to(PACKAGE).parent.parts]
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (start, node.module) if part)
            names |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return names


def top_level(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


def own_modules(names: set[str]) -> set[Path]:
    """Return the files of the package among imported names."""
    files = set()
    for name in names:
        if name.startswith(f"{NAME}."):
            place = PACKAGE.joinpath(*name.split(".")[1:])
            files |= {file for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file()}
    return files


def folder_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0]


def capability_of(path: Path) -> str | None:
    """Return the capability that a module belongs to; None for the core and the roots."""
    folder, *rest = path.relative_to(PACKAGE).parts
    return rest[0] if folder == "capabilities" and len(rest) > 1 else None


def is_of_worker(path: Path) -> bool:
    folder, *rest = path.relative_to(PACKAGE).parts
    return folder == "worker" or (folder == "capabilities" and rest[1:2] == ["worker"])


def test_every_folder_has_an_import_rule() -> None:
    folders = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}
    assert folders == set(ALLOWED_IMPORTS)
    rooms = {path.name for path in (PACKAGE / "worker").iterdir() if (path / "__init__.py").is_file()}
    assert rooms == WORKER_ROOMS.keys() - {"."}
    assert {path.name for path in (PACKAGE / "capabilities").iterdir() if path.is_dir()} - {"__pycache__"} == set(
        CAPABILITIES
    )


def test_only_roots_and_named_capabilities_import_a_capability() -> None:
    for path in modules("."):
        importing = capability_of(path)
        allowed = {importing, *CAPABILITIES.get(importing or "", ())}
        if str(path.relative_to(PACKAGE)) not in ROOTS:
            imported = {capability_of(file) for file in own_modules(imports(path)) if capability_of(file)}
            assert imported <= allowed, path


def test_only_the_worker_imports_its_half_of_a_capability() -> None:
    for path in modules("capabilities"):
        imported = own_modules(imports(path))
        if is_of_worker(path):
            assert {folder_of(file) for file in imported} <= {"protocol", "worker", "capabilities"}, path
        else:
            assert not [file for file in imported if is_of_worker(file)], path


def test_page_of_the_architecture_has_the_floors_in_the_order_of_imports() -> None:
    rows = re.findall(r"^\| (\d) \| (.+?) \|", ARCHITECTURE.read_text(), re.MULTILINE)
    floors = {name.strip("/"): int(floor) for floor, names in rows for name in re.findall("`(.+?)`", names)}
    allowed = {**ALLOWED_IMPORTS, "component.py": ALLOWED_IMPORTS.keys() - {"worker"}}
    assert floors.keys() == allowed.keys() - {"worker"}
    for name, floor in floors.items():
        assert all(floors[other] <= floor for other in allowed[name]), name


def test_page_of_the_architecture_names_modules_that_exist() -> None:
    """A module of a capability is named by its place in the folder that the same line, or its section, begins with."""
    missing = []
    for section in ARCHITECTURE.read_text().split("\n## "):
        of_section = re.findall(r"^Modules are those in `([\w/]+)/`", section, re.MULTILINE)
        for line in section.splitlines():
            folders = [PACKAGE, REPOSITORY, *(PACKAGE / folder for folder in of_section)]
            folders += [PACKAGE / folder for folder in re.findall(r"^\| `(capabilities/\w+)/`", line)]
            names = re.findall(r"`([\w/]+(?:\.py|/))`", line)
            missing += [name for name in names if not any((folder / name).exists() for folder in folders)]
    assert sorted(set(missing)) == []


@pytest.mark.parametrize("folder", ALLOWED_IMPORTS)
def test_folder_imports_only_allowed_folders(folder: str) -> None:
    for path in modules(folder):
        if not is_of_worker(path) or folder == "worker":
            imported_folders = {folder_of(file) for file in own_modules(imports(path)) if not capability_of(file)}
            assert imported_folders <= ALLOWED_IMPORTS[folder], path


def test_only_the_worker_imports_sqlmesh() -> None:
    for path in modules("."):
        if not is_of_worker(path):
            assert not top_level(imports(path)) & SQLMESH, path


@pytest.mark.parametrize("module", DECIDING)
def test_a_module_that_decides_what_is_computed_knows_neither_sqlmesh_nor_the_worker(module: str) -> None:
    names = imports(PACKAGE / module)
    assert not top_level(names) & SQLMESH
    assert {folder_of(file) for file in own_modules(names) if file.name != "messages.py"} <= {"protocol"}


@pytest.mark.parametrize("room", WORKER_ROOMS)
def test_room_of_the_worker_imports_only_allowed_rooms(room: str) -> None:
    for path in (PACKAGE / "worker" / room).glob("*.py"):
        imported = {file.parent.name for file in own_modules(imports(path)) if file.parent.parent.name == "worker"}
        assert path.name == "__main__.py" or imported <= WORKER_ROOMS[room], path


SNAPSHOT = {"intervals", "dev_intervals", "pending_restatement_intervals", "node"}
CONFIG = {"always_recreate_environment", "cache_dir", "run"}
"""Fields of SQLMesh's objects that modules of the worker write. SQLMesh refuses to set one that it does not have."""


def test_no_other_module_of_the_worker_replaces_what_sqlmesh_calls() -> None:
    """Any other attribute that they write is one of an object of their own, or `console`, which SQLMesh lets be set."""
    trees = {path: ast.parse(path.read_text()) for path in modules(".") if is_of_worker(path)}
    del trees[PACKAGE / "worker" / "sqlmesh_internals.py"]
    own = {"console", "__cause__", "positions"}
    written = []
    for path, tree in trees.items():
        for node in ast.walk(tree):
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            for target in [part for each in targets for part in getattr(each, "elts", [each])]:
                if isinstance(target, ast.Name) and isinstance(node, ast.AnnAssign):
                    own.add(target.id)
                if isinstance(target, ast.Attribute):
                    is_own = isinstance(target.value, ast.Name) and target.value.id == "self"
                    own |= {target.attr} if is_own else set()
                    written += [] if is_own else [(target.attr, f"{path.name}:{target.lineno}")]
    assert [place for attribute, place in written if attribute not in own | SNAPSHOT | CONFIG] == []
    assert {attribute for attribute, _ in written} >= SNAPSHOT | CONFIG


@pytest.mark.parametrize("place", WITHOUT_DAGSTER)
def test_modules_without_dagster_never_import_it_indirectly(place: str) -> None:
    to_visit, seen = [path for found in PACKAGE.glob(place) for path in modules(str(found))], set()
    while to_visit:
        path = to_visit.pop()
        if path not in seen:
            seen.add(path)
            names = imports(path)
            assert not {top for top in top_level(names) if top.startswith("dagster")}, path
            to_visit += own_modules(names)


def test_protocol_and_messages_import_only_standard_library_and_pydantic() -> None:
    for path in [*modules("protocol"), *PACKAGE.glob("capabilities/*/messages.py")]:
        third_party = top_level(imports(path)) - set(sys.stdlib_module_names) - {NAME, "__future__"}
        assert third_party <= {"pydantic", "pydantic_core"}, path


def test_loading_definitions_does_not_import_sqlmesh(tmp_path: Path) -> None:
    project = write_project(tmp_path, {"models/one.sql": "MODEL (name t.one, kind FULL); SELECT 1 AS id"})
    script = (
        "import json, sys, dg_sqlmesh_component\nfrom pathlib import Path\n"
        "from dg_sqlmesh_component import SQLMeshProject\n"
        "from dg_sqlmesh_component.protocol.messages import LoadRequest\n"
        "from dg_sqlmesh_component.worker_client.calls import load_project\n"
        f"project = SQLMeshProject((Path({str(project)!r}),))\n"
        "models = load_project(project, LoadRequest(project.open_request)).manifest.models\n"
        "theirs = sorted(name for name in sys.modules if name.split('.')[0] in ('sqlmesh', 'sqlglot'))\n"
        "print(json.dumps([len(models), theirs]))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [1, []]


def test_the_worker_imports_pandas_only_for_rows() -> None:
    """SQLMesh does so too. The import takes a fifth of the CPU of a tick or of a run without work."""
    names = [".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in modules(".")]
    served = [name for name in names if ".worker." in name and not name.endswith(("__main__", "__init__"))]
    script = f"import sys, {', '.join(served)}\nprint('pandas' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_importing_the_package_imports_no_database_library() -> None:
    """They take 0.4 seconds, and each load of definitions imports the package."""
    script = "import sys, dg_sqlmesh_component; print({'alembic', 'sqlalchemy'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_no_test_module_imports_another_one() -> None:
    for path in (REPOSITORY / "tests").rglob("*.py"):
        tree = ast.parse(path.read_text())
        modules = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
        files = {REPOSITORY.joinpath("tests", *module.split(".")).with_suffix(".py") for module in modules}
        assert not {file for file in files if file.is_file() and file.name.startswith("test_")}, path


def named_by_day(argument: str, path: Path, by_day: dict[Path, set[str]]) -> set[str]:
    """The tests that an argument of the mark names: `unit/run/test_ledger.py`, `engine/test_steps.py::test_...`.

    Args:
        path: The module of the mark. A test without a file is one of it.
        by_day: The tests of CI by module.
    """
    if argument.endswith(".py"):
        return by_day.get(TESTS / argument, set())
    file, _, test = argument.rpartition("::")
    begin = test.removesuffix("...")
    of_file = by_day.get(TESTS / file if file else path, set())
    return {name for name in of_file if name == test or (begin != test and name.startswith(begin))}


def test_a_test_of_the_night_names_tests_of_ci_that_show_the_same() -> None:
    modules = {path: ast.parse(path.read_text()) for path in TESTS.rglob("test_*.py")}
    by_day = {
        path: {
            node.name
            for node in ast.walk(module)
            if isinstance(node, ast.FunctionDef) and not is_left_to_the_night(node, module)
        }
        for path, module in modules.items()
    }
    marks = [
        (path, call)
        for path, module in modules.items()
        for call in ast.walk(module)
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "pytest.mark.night"
    ]
    assert marks
    for path, call in marks:
        names = [str(ast.literal_eval(argument)) for argument in call.args]
        unknown = [name for name in names if not named_by_day(name, path, by_day)]
        assert names, f"{path}:{call.lineno} names no test"
        assert not unknown, f"{path}:{call.lineno} names tests that CI does not have"
