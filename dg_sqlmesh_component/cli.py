"""`dg_sqlmesh`: SQLMesh's command line for environments in which `sqlmesh` itself does not start.

`import sqlmesh` fails if `sqlglotc` is installed, which `dagster-dbt` requires. `dg_sqlmesh plan` runs `sqlmesh plan`
through the worker's imports, which work in that case too.
"""

import os
import sys
from typing import NoReturn

from dg_sqlmesh_component.protocol.bootstrap import start_command


def main() -> NoReturn:
    """Replace this process by SQLMesh's command, with the same arguments."""
    os.execv(sys.executable, start_command(sys.executable, "worker.command_line", *sys.argv[1:]))


if __name__ == "__main__":
    main()
