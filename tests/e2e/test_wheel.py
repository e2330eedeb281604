"""The wheel that is built here, installed into a fresh environment, scaffolds and loads."""

from __future__ import annotations

import sys
from pathlib import Path
from zipfile import ZipFile

from harness import COMPONENT, REPOSITORY, json_in, run


def test_the_wheel_scaffolds_the_starter_and_loads_it_in_a_fresh_environment(tmp_path: Path) -> None:
    run([sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path / "dist", REPOSITORY], cwd=tmp_path)
    [wheel] = (tmp_path / "dist").glob("*.whl")
    with ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for name in ("py.typed", "templates/starter/config.yaml", "templates/starter/.gitignore", "worker/__main__.py"):
        assert f"dg_sqlmesh_component/{name}" in names
    assert not [name for name in names if name.startswith(("tests", "docs"))]

    python = tmp_path / "fresh" / "bin" / "python"
    run([sys.executable, "-m", "venv", tmp_path / "fresh", "--without-pip"], cwd=tmp_path)
    run([sys.executable, "-m", "uv", "pip", "install", "--python", python, wheel, "dagster-dg-cli"], cwd=tmp_path)

    root = tmp_path / "orchestra_of_the_wheel"
    package = root / root.name
    (package / "defs").mkdir(parents=True)
    (package / "__init__.py").touch()
    (root / "pyproject.toml").write_text(
        f'[tool.dg]\ndirectory_type = "project"\n[tool.dg.project]\nroot_module = "{root.name}"\n'
    )
    (package / "definitions.py").write_text(
        "from pathlib import Path\nimport dagster as dg\n\n@dg.definitions\ndef defs():\n"
        "    return dg.load_from_defs_folder(path_within_project=Path(__file__).parent)\n"
    )
    path = f"{python.parent}:/usr/bin:/bin"
    dg = python.parent / "dg"
    run([dg, "scaffold", "defs", COMPONENT, "shop", "--json-params", '{"init": true}'], cwd=root, PATH=path)
    run([dg, "check", "defs"], cwd=root, PATH=path)
    listed = json_in(run([dg, "list", "defs", "--json"], cwd=root, PATH=path).stdout)
    assert "core/daily_orders" in {asset.get("asset_key") or asset["key"] for asset in listed["assets"]}
