"""Start modules of this package in an interpreter that has SQLMesh and may not have this package."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

# The interpreter gets the path of this package and does not run its `__init__`, which imports Dagster.
# `-c` puts the working directory on `sys.path`, which the `sqlmesh` command does not do. It is removed:
# a folder of a project must not hide an installed module of the same name.
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
    """The name of SQLMesh's command in this environment. `sqlmesh` does not start if `sqlglotc` is installed."""
    try:
        for distribution in ("sqlglotc", "dg-sqlmesh-component"):
            metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "sqlmesh"
    return "dg_sqlmesh"


def start_command(python: str, module: str, *arguments: str) -> list[str]:
    """The command that runs a module of this package with an interpreter."""
    return [python, "-c", _BOOTSTRAP, str(Path(__file__).resolve().parent.parent), module, *arguments]
