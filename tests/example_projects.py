"""Copies of the projects below examples/, and the assets and checks that their READMEs list."""

import os
import re
import runpy
import shutil
import subprocess
from pathlib import Path

import dagster as dg
from harness import BIN, REPOSITORY

EXAMPLES = REPOSITORY / "examples"
# All hidden files but `.dlt`, which configures dlt.
ARTEFACTS = (".[!d]*", ".dagster_home", "__pycache__", "*.duckdb*", "logs", "target", "dbt_packages", "*.egg-info")
Rows = dict[str, tuple[set[str], ...]]


def copy_example(name: str, folder: Path) -> Path:
    """Copy an example without the files that a run of it creates."""
    return Path(shutil.copytree(EXAMPLES / name, folder / name, ignore=shutil.ignore_patterns(*ARTEFACTS)))


def readme_commands(name: str) -> list[str]:
    """Return the commands in an example's README, without their comments."""
    block = re.search(r"```bash\n(.*?)```", (EXAMPLES / name / "README.md").read_text(), re.DOTALL)
    assert block is not None, name
    return [line.split("   #")[0].rstrip() for line in block[1].splitlines()]


def run_readme_plan(name: str, root: Path, bin_: Path = BIN) -> None:
    """Run the plan command of an example's README in a copy of the example, and answer y."""
    [command] = [command for command in readme_commands(name) if " plan" in command]
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=root,
        input="y\n",
        env={**os.environ, "PATH": f"{bin_}{os.pathsep}{os.defpath}"},
        capture_output=True,
        text=True,
    )
    assert "Physical layer updated" in done.stdout, f"{command}\n{done.stdout}\n{done.stderr}"


def assets_and_checks_in_readme(name: str) -> tuple[Rows, Rows]:
    """Return the assets and the checks that an example's README lists.

    Returns:
        Two dicts by key: the group, dependencies and kinds of each asset, and the asset of each check.
    """
    rows: Rows = {}
    key = ""
    recorded = runpy.run_path(str(EXAMPLES / "list_defs.py"))["recorded"]
    for line in recorded(EXAMPLES / name).splitlines():
        # The cells of the inner tables. Their header lines have other bars.
        cells = [cell.strip() for cell in line.split("│")][3:-2]
        if not cells or "─" in "".join(cells):
            continue
        key = cells[0] or key  # a row of several lines has its key in the first one
        rows[key] = tuple(
            known | ({cell} - {""}) for known, cell in zip(rows.get(key) or [set()] * (len(cells) - 1), cells[1:])
        )
    assets: Rows = {key: cells for key, cells in rows.items() if len(cells) == 3}
    return assets, {key: cells for key, cells in rows.items() if len(cells) == 1}


def assets_and_checks_of(definitions: dg.Definitions) -> tuple[Rows, Rows]:
    """Return the assets and the checks of loaded definitions, in the same form."""
    graph = definitions.resolve_asset_graph()
    specs = {spec.key: spec for spec in definitions.resolve_all_asset_specs()}
    assets: Rows = {
        key.to_user_string(): (
            {spec.group_name or "default"},
            {parent.to_user_string() for parent in graph.get(key).parent_keys},
            set(spec.kinds),
        )
        for key, spec in specs.items()
    }
    return assets, {
        f"{check.asset_key.to_user_string()}:{check.name}": ({check.asset_key.to_user_string()},)
        for check in graph.asset_check_keys
    }


def require_fresh_readme(name: str, definitions: dg.Definitions) -> None:
    """Fail if an example's README lists other assets or checks than its definitions."""
    in_readme, in_dagster = assets_and_checks_in_readme(name), assets_and_checks_of(definitions)
    assert in_readme == in_dagster, f"Stale. Run: python examples/list_defs.py {name}"
