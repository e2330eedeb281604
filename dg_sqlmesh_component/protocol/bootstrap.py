"""How code of ours starts in an interpreter that has SQLMesh and may have nothing of ours installed."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

# The interpreter is given this package by path, and without running its `__init__`, which imports
# Dagster. `-c` puts the working directory on `sys.path`, which the `sqlmesh` command does not: a
# project's folder named like an installed module must not win.
_BOOTSTRAP = """\
import sys
sys.path[:] = [entry for entry in sys.path if entry]
import runpy, types
package = types.ModuleType("dg_sqlmesh_component")
package.__path__ = [sys.argv.pop(1)]
sys.modules["dg_sqlmesh_component"] = package
runpy.run_module("dg_sqlmesh_component." + sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""


def sqlmesh_program() -> str:
    """What to type for SQLMesh's command in this environment: beside `sqlglotc`, `sqlmesh` itself does not start."""
    return "dg_sqlmesh" if _is_installed("sqlglotc") and _is_installed("dg-sqlmesh-component") else "sqlmesh"


def _is_installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def start_command(python: str, module: str, *arguments: str) -> list[str]:
    """The command that runs a module of this package with an interpreter."""
    return [python, "-c", _BOOTSTRAP, str(Path(__file__).resolve().parent.parent), module, *arguments]
