"""SQLMesh's own command line, for environments that also contain compiled sqlglot, and for DuckDB files in use."""

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
    from sqlmesh.core.context import Context

    from dg_sqlmesh_component.worker.sqlmesh_internals import require_existing_state

    require_existing_state(Context)
    cli(prog_name="dg_sqlmesh")


if __name__ == "__main__":
    main()
