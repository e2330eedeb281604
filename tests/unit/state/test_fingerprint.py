"""The fingerprint of a project: which changes make the manifest stale."""

import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dg_sqlmesh_component.config.project import SQLMeshProject
from dg_sqlmesh_component.state.fingerprint import fingerprint_of

CONFIG = """
gateways: {local: {connection: {database: '{{ env_var("WAREHOUSE") }}', password: '{{ env_var("PASSWORD") }}'}}}
"""


@pytest.fixture
def project(tmp_path: Path) -> SQLMeshProject:
    for name, text in {
        "config.yaml": CONFIG,
        "models/orders.sql": "SELECT 1",
        "seeds/rates.csv": "a,b",
        ".env": "A=1",
        ".cache/x": "",
        ".venv/pyvenv.cfg": "",
        "environment/pyvenv.cfg": "",
        "warehouse.duckdb": "",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return SQLMeshProject((tmp_path,))


def writing(name: str, text: str = "changed") -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)

    return change


def fingerprint_without_models(project: SQLMeshProject, requested: Sequence[str] = ()) -> str:
    sources = fingerprint_of(project, requested)
    assert sources
    return sources.rest


def touching(name: str) -> Callable[[Path], None]:
    return lambda folder: os.utime(folder / name, ns=(1, 1))


@pytest.mark.parametrize(
    "change",
    [
        touching("models/orders.sql"),
        lambda folder: (folder / "models/orders.sql").rename(folder / "models/others.sql"),
        writing("macros/deep/er.py"),
        writing(".env"),
        writing("external_models.yaml"),
        writing("läden.sql"),
        writing("models/logs/x.sql"),
        writing("models/target/x.sql"),
        writing("transform/logs/x.sql"),
        writing("seeds/.hidden/x.csv"),
        writing("seeds/x.log"),
        writing("elsewhere/models/x.sql"),
    ],
    ids=["touched", "renamed", "macro", ".env", "external", "letters", "named like logs", "named like output",
         "below another folder", "hidden", "seed like a log", "not a folder of SQLMesh's"],
)  # fmt: skip
def test_changed_file_changes_the_fingerprint(project: SQLMeshProject, change: Callable[[Path], None]) -> None:
    before = fingerprint_of(project, [])
    change(project.paths[0])
    assert before != fingerprint_of(project, [])


@pytest.mark.parametrize("link", ["models", "macros", "seeds", "signals", "models/shared", "seeds/shared"])
def test_file_in_a_linked_folder_changes_the_fingerprint_even_if_links_are_circular(
    project: SQLMeshProject, link: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    [folder] = project.paths
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    writing("x.sql")(elsewhere)
    (elsewhere / "above").symlink_to(folder)
    if (folder / link).exists():
        shutil.rmtree(folder / link)
    (folder / link).symlink_to(elsewhere)
    before = fingerprint_of(project, [])
    touching("x.sql")(elsewhere)
    assert before != fingerprint_of(project, [])


@pytest.mark.parametrize(
    "name",
    [".cache/y", "logs/sqlmesh.log", "models/__pycache__/x.pyc", "warehouse.duckdb", "warehouse.duckdb.wal", "state.db",
     ".git/HEAD", ".venv/lib/x.py", "environment/lib/x.py", "target/manifest.json", "x.log"],
)  # fmt: skip
def test_files_that_a_run_writes_do_not_change_the_fingerprint(project: SQLMeshProject, name: str) -> None:
    before = fingerprint_of(project, [])
    writing(name)(project.paths[0])
    assert fingerprint_of(project, []) == before is not None


@pytest.mark.parametrize(
    "change",
    [
        {"gateway": "other"},
        {"environment": "dev"},
        {"config": "other"},
        {"working_directory": Path("/")},
        {"python": "/nowhere/python"},
        {"env": {"WAREHOUSE": "b"}},
        {"env": {"SQLMESH__DEFAULT_GATEWAY": "b"}},
        {"env": {"DBT_PROFILES_DIR": "b"}},
        {"env": {"PASSWORD": "b"}},
    ],
    ids=str,
)
def test_project_options_change_the_fingerprint(project: SQLMeshProject, change: dict[str, Any]) -> None:
    assert fingerprint_of(project, []) != fingerprint_of(replace(project, **change), [])


@pytest.mark.parametrize(
    ("variable", "files", "is_noticed"),
    [
        ("EXTRA", {}, False),
        ("EXTRA", {"macros/m.py": "extra = os.environ.get('EXTRA', '2 AS two')"}, True),
        ("EXTRA", {"macros/m.py": "extra = os.path.expandvars('$EXTRA/two')"}, True),
        ("EXTRA", {"macros/m.py": "extra = os.path.expandvars('${EXTRA}/two')"}, True),
        ("EXTRA", {"macros/m.py": "extra = setting('EXTRA')"}, True),
        ("EXTRA", {"models/m.py": "extra = os.environ['EXTRA']"}, True),
        ("EXTRA", {"helpers/m.py": "extra = environ['EXTRA']"}, True),
        ("EXTRA", {"profiles.yml": "schema: \"{{ env_var('EXTRA') }}\""}, True),
        ("EXTRA", {".env": "WAREHOUSE=${EXTRA}/shop"}, True),
        ("EXTRA", {"models/m.sql": "SELECT '{{ env_var(\"EXTRA\") }}'"}, False),
        ("EXTRA", {"models/m.sql": "SELECT '{{ setting(\"EXTRA\") }}'", "dbt_project.yml": ""}, True),
        ("PASSWORD", {}, False),  # its value is not compared
        ("_", {"macros/m.py": "_ = 1"}, False),
    ],
    ids=str,
)
def test_variable_changes_the_fingerprint_if_code_or_configuration_names_it(
    project: SQLMeshProject, variable: str, files: dict[str, str], is_noticed: bool
) -> None:
    for name, text in files.items():
        writing(name, text)(project.paths[0])
    with_a, with_b = (replace(project, env={variable: value}) for value in "ab")
    assert (fingerprint_of(with_a, []) != fingerprint_of(with_b, [])) is is_noticed


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="no file that not even the superuser can read")
@pytest.mark.parametrize("name", ["config.yaml", "elsewhere/notes.yml", "macros/m.py"])
def test_unreadable_file_does_not_raise(project: SQLMeshProject, name: str) -> None:
    file = project.paths[0] / name
    writing(name)(project.paths[0])
    file.unlink()
    file.symlink_to("/proc/self/mem")
    assert fingerprint_of(project, []) is not None


@pytest.mark.parametrize("text", ["", "import ("])
def test_project_with_a_configuration_module_has_no_fingerprint(
    project: SQLMeshProject, tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    second = tmp_path_factory.mktemp("second")
    both = replace(project, paths=(*project.paths, second))
    assert fingerprint_of(both, []) is not None
    writing("config.py", text)(second)
    assert fingerprint_of(both, []) is None


@pytest.mark.parametrize(
    ("variable", "file"),
    [
        ("HOME", ".sqlmesh/config.yml"),
        ("HOME", ".sqlmesh/sqlmesh.yaml"),
        ("HOME", ".dbt/profiles.yml"),
        ("SQLMESH_HOME", "config.yaml"),
        ("DBT_PROFILES_DIR", "profiles.yml"),
        ("SQLMESH_DOTENV_PATH", "production.env"),
    ],
)
def test_changed_file_in_a_folder_named_by_a_variable_changes_the_fingerprint(
    project: SQLMeshProject, tmp_path_factory: pytest.TempPathFactory, variable: str, file: str
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    points_to = elsewhere / file if variable == "SQLMESH_DOTENV_PATH" else elsewhere
    moved = replace(project, env={variable: str(points_to)})
    before = fingerprint_without_models(moved)
    writing(file)(elsewhere)
    assert fingerprint_without_models(moved) != before


def test_home_folder_of_another_user_does_not_change_the_fingerprint(
    project: SQLMeshProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manifest is stored where an image is built, and read by the user that runs Dagster."""
    fingerprints = set()
    (tmp_path / "file").touch()
    for home in (tmp_path, tmp_path / "nobody" / "lives" / "here", tmp_path / "file"):
        monkeypatch.setenv("HOME", str(home))
        fingerprints.add(fingerprint_without_models(project))
    assert len(fingerprints) == 1


@pytest.mark.parametrize(("text", "counts"), [("default_target_environment: dev_{{ user() }}", True), ("", False)])
def test_user_name_counts_only_if_the_configuration_reads_it(
    project: SQLMeshProject, monkeypatch: pytest.MonkeyPatch, text: str, counts: bool
) -> None:
    writing("config.yaml", text)(project.paths[0])
    fingerprints = []
    for name in ("ada", "grace"):
        monkeypatch.setenv("LOGNAME", name)
        fingerprints.append(fingerprint_of(project, []))
    assert (fingerprints[0] != fingerprints[1]) is counts


def test_fingerprint_depends_on_the_requested_content(project: SQLMeshProject) -> None:
    requests: tuple[list[str], ...] = [], ["a"], ["a", "b"], ["ab"], ["", "ab"]
    assert len({fingerprint_without_models(project, requested) for requested in requests}) == len(requests)


def test_commit_counts_only_if_links_are_requested(project: SQLMeshProject) -> None:
    def commit(message: str) -> None:
        who = ("-c", "user.name=ada", "-c", "user.email=ada@example.com")
        subprocess.run(["git", *who, "commit", "--allow-empty", "-qm", message], cwd=project.paths[0], check=True)

    subprocess.run(["git", "init", "-q"], cwd=project.paths[0], check=True)
    commit("one")
    with_links, without = fingerprint_of(project, ["links"]), fingerprint_of(project, [])
    commit("two")
    assert fingerprint_of(project, ["links"]) != with_links
    assert fingerprint_of(project, []) == without


def test_selection_that_uses_git_has_no_fingerprint(project: SQLMeshProject) -> None:
    assert fingerprint_of(project, ["+git:main"]) is None


@pytest.mark.parametrize("changed", [[], ["models/orders.sql"], ["models/deep/er.sql", "models/orders.sql"]])
def test_changed_sql_files_of_models_are_listed(project: SQLMeshProject, changed: list[str]) -> None:
    [folder] = project.paths
    writing("models/deep/er.sql", "SELECT 2")(folder)
    before = fingerprint_of(project, [])
    for name in changed:
        writing(name)(folder)
    now = fingerprint_of(project, [])
    assert before
    assert now
    assert now.rest == before.rest
    assert now.files_changed_since(before) == frozenset(str(folder / name) for name in changed)


@pytest.mark.parametrize(
    "change",
    [
        writing("models/new.sql"),
        lambda folder: (folder / "models/orders.sql").unlink(),
        writing("models/orders.py"),
        writing("models/schema.yaml"),
        writing("models_of_another_kind/orders.sql"),
        writing("audits/orders.sql"),
        writing("macros/models/orders.sql"),
        writing("config.yaml", CONFIG + "\n"),
        writing("seeds/rates.csv"),
    ],
    ids=["new", "gone", "Python", "YAML", "like models", "audit", "models elsewhere", "config", "seed"],
)
def test_any_other_change_requires_a_full_reload(project: SQLMeshProject, change: Callable[[Path], None]) -> None:
    before = fingerprint_of(project, [])
    change(project.paths[0])
    now = fingerprint_of(project, [])
    assert before
    assert now
    assert now.files_changed_since(before) is None


def test_model_file_with_an_invalid_unicode_name_requires_a_full_reload(project: SQLMeshProject) -> None:
    [folder] = project.paths
    before = fingerprint_without_models(project)
    (folder / "models" / os.fsdecode(b"\xff.sql")).write_text("SELECT 1")
    assert fingerprint_without_models(project) != before
