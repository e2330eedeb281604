"""A script that runs or loads a project without Dagster: `python sqlmesh_alone.py run|load <project>`."""

from __future__ import annotations

import json
import sys
import time

if __name__ == "__main__":
    since = time.perf_counter()
    from sqlmesh.core.console import NoopConsole, set_console
    from sqlmesh.core.context import Context

    imported = time.perf_counter() - since
    set_console(NoopConsole())
    context = Context(paths=[sys.argv[2]], load=sys.argv[1] == "load")
    status = context.run("prod", skip_janitor=True).name if sys.argv[1] == "run" else "loaded"
    context.close()
    print(json.dumps({"status": status, "import_seconds": imported, "seconds": time.perf_counter() - since}))
