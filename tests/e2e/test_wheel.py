"""The wheel, installed into a fresh environment, scaffolds and loads a project.

The tests use the newest versions that the wheel allows, and the lowest versions that it declares.
"""

import json
import re
import shutil
import sys
import tarfile
from email import message_from_bytes
from pathlib import Path
from zipfile import ZipFile

import pytest
from harness import COMPONENT, REPOSITORY, json_in, run, write_dagster_project
from readme_renderer import markdown

IMPORT_ALL = """
import importlib, json, pkgutil, sys, dg_sqlmesh_component
from importlib.metadata import version
modules = [m.name for m in pkgutil.walk_packages(dg_sqlmesh_component.__path__, "dg_sqlmesh_component.")]
worker = [name for name in modules if ".worker" in name]
for name in worker if sys.argv[1] == "worker" else sorted(set(modules) - set(worker)):
    if not name.endswith("__main__"):
        importlib.import_module(name)
print(json.dumps({name: version(name) for name in ("dagster", "sqlmesh")}))
"""


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sources, and with the wheel that is built from them."""
    folder = tmp_path_factory.mktemp("dist")
    run([sys.executable, "-m", "build", "--installer", "uv", "--outdir", folder, REPOSITORY], cwd=folder)
    return folder


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    [wheel] = dist.glob("*.whl")
    return wheel


def test_wheel_contains_data_files_and_no_tests_or_docs(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for name in ("py.typed", "templates/starter/config.yaml", "templates/starter/.gitignore", "worker/__main__.py"):
        assert f"dg_sqlmesh_component/{name}" in names
    assert not [name for name in names if name.startswith(("tests", "docs")) or "__pycache__" in name]


def test_sources_contain_no_files_of_the_workplace(dist: Path) -> None:
    [sources] = dist.glob("*.tar.gz")
    with tarfile.open(sources) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"README.md", "docs/index.md", "tests/harness.py"} <= names
    assert not [name for name in names if name.startswith((".ci", ".github", ".venv")) or name.endswith(".lock")]


@pytest.mark.slow  # it asks the package index, and depends on pyproject.toml alone
def test_uv_locks_all_groups_for_each_python_that_is_declared(tmp_path: Path) -> None:
    for name in ("pyproject.toml", "README.md", "dg_sqlmesh_component/version.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(REPOSITORY / name, tmp_path / name)
    run(["uv", "lock", "--quiet"], cwd=tmp_path)


def test_links_of_the_long_description_work_on_a_package_index(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith("/METADATA")]
        metadata = message_from_bytes(archive.read(name))
    urls = dict(url.split(", ") for url in metadata.get_all("Project-URL", []))
    page = markdown.render(str(metadata.get_payload()))
    assert page
    links = re.findall(r'(?:href|src)="(.+?)"', page)
    assert len(links) > 20
    for link in [*links, urls["Documentation"], urls["Changelog"]]:
        path = re.fullmatch(rf"{urls['Homepage']}/(?:blob|raw)/main/([^#]+).*", link)
        if path:
            assert (REPOSITORY / path[1]).exists(), link
        else:
            assert link.startswith(("https://", "#")), link


no_wheels = pytest.mark.skipif(sys.version_info >= (3, 13), reason="the lowest duckdb has no wheel for Python 3.13")


@pytest.mark.slow
@pytest.mark.parametrize("resolution", ["highest", pytest.param("lowest-direct", marks=no_wheels)])
def test_wheel_scaffolds_and_loads_starter_in_fresh_environment(wheel: Path, resolution: str, tmp_path: Path) -> None:
    python = tmp_path / "fresh" / "bin" / "python"
    run([sys.executable, "-m", "venv", tmp_path / "fresh", "--without-pip"], cwd=tmp_path)
    install: list[str | Path] = [sys.executable, "-m", "uv", "pip", "install", "--python", python]
    if resolution == "highest":
        run([*install, wheel, "dagster-dg-cli"], cwd=tmp_path)
        run([sys.executable, "-m", "uv", "pip", "check", "--python", python], cwd=tmp_path)
    else:  # uv applies lowest-direct only to requirements named directly, not to those of the wheel
        requirements = ["-r", "pyproject.toml", "--group", "dg", "--resolution", resolution]
        run([*install, wheel, *requirements], cwd=REPOSITORY)
    for side in ("dagster", "worker"):
        versions = json.loads(run([python, "-c", IMPORT_ALL, side], cwd=tmp_path).stdout)
        for name, version in versions.items():
            [floor] = re.findall(rf'^  "{name}>=([\d.]+)"', (REPOSITORY / "pyproject.toml").read_text(), re.MULTILINE)
            assert resolution == "highest" or version == floor

    root = write_dagster_project(tmp_path / "orchestra_of_the_wheel")
    path = f"{python.parent}:/usr/bin:/bin"
    dg = python.parent / "dg"
    installed = run([python, "-c", "import dg_sqlmesh_component as c; print(c.__path__[0])"], cwd=tmp_path).stdout
    run([python, "-m", "compileall", "-q", Path(installed.strip())], cwd=tmp_path)  # as pip does during installation
    run([dg, "scaffold", "defs", COMPONENT, "shop", "--init"], cwd=root, PATH=path)
    assert (root / "sqlmesh_project" / "config.yaml").is_file()
    assert not list((root / "sqlmesh_project").rglob("__pycache__"))
    run([dg, "check", "defs"], cwd=root, PATH=path)
    listed = json_in(run([dg, "list", "defs", "--json"], cwd=root, PATH=path).stdout)
    assert "core/daily_orders" in {asset.get("asset_key") or asset["key"] for asset in listed["assets"]}
