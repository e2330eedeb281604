"""SQLMesh's own command line, for environments that also contain compiled sqlglot."""

from __future__ import annotations

import sys

from dg_sqlmesh_component.worker.__main__ import installation_problem
from dg_sqlmesh_component.worker.sqlglot_sources import prefer_sqlglot_sources


def main() -> None:
    """Pass the arguments on to SQLMesh."""
    problem = installation_problem()
    if problem:
        sys.exit(problem)
    prefer_sqlglot_sources()
    from sqlmesh.cli.main import cli

    cli(prog_name="dg_sqlmesh")


if __name__ == "__main__":
    main()
