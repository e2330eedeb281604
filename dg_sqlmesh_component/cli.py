"""SQLMesh's own command where `sqlglotc` keeps it from starting: `dg_sqlmesh plan` is `sqlmesh plan`.

`dagster-dbt` brings `sqlglotc` along, beside which `import sqlmesh` fails; this goes in through the
door that the worker uses.
"""

import os
import sys
from typing import NoReturn

from dg_sqlmesh_component.protocol.bootstrap import start_command


def main() -> NoReturn:
    """Become SQLMesh's command, with the arguments of this one."""
    os.execv(sys.executable, start_command(sys.executable, "worker.command_line", *sys.argv[1:]))


if __name__ == "__main__":
    main()
