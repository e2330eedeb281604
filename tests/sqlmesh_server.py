"""Run the `sqlmesh` command, or one of our scripts, in forks of a process that has imported SQLMesh.

Importing SQLMesh takes seconds, and the tests run its command often. A request is a line of JSON:
{"arguments": [...], "folder": ..., "environment": {...}, "output": <file>}. The answer is the exit status.
"""

import gc
import inspect
import json
import os
import runpy
import sys
from functools import cache
from typing import Any

import clock


def serve_in_fork(request: dict[str, Any]) -> None:
    output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    empty_input = os.open(os.devnull, os.O_RDONLY)
    for descriptor, target in ((empty_input, 0), (output, 1), (output, 2)):
        os.dup2(descriptor, target)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    clock.follow()
    first, *rest = request["arguments"]
    sys.argv = [first, *rest]
    if first == "sqlmesh":
        from sqlmesh.cli.main import cli

        cli()
    else:
        runpy.run_path(first, run_name="__main__")


def import_sqlmesh() -> None:
    """Import, once for all forks, the modules that SQLMesh imports at its start and when it runs."""
    import duckdb  # noqa: F401
    import pandas  # noqa: F401
    import sqlmesh.cli.main
    import sqlmesh.magics  # noqa: F401
    from sqlmesh.core import context_diff
    from sqlmesh.utils.date import to_datetime

    # SQLMesh inspects the stack in each command, and dateparser compiles its expressions. Both cache the result.
    inspect.stack()
    to_datetime("6 days ago")

    # Each plan looks up the installed packages. That takes a third of the time of a small plan.
    metadata = context_diff.metadata  # the standard library's, or a backport
    metadata.packages_distributions = cache(metadata.packages_distributions)
    metadata.packages_distributions()


def main() -> None:
    import_sqlmesh()
    gc.freeze()
    gc.disable()  # a command ends before its garbage matters
    print("ready", flush=True)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            status = 0
            try:
                serve_in_fork(json.loads(line))
            except SystemExit as exit_request:
                code = exit_request.code
                status = code if isinstance(code, int) else int(code is not None)
            except BaseException:  # noqa: BLE001  # the process ends here
                sys.excepthook(*sys.exc_info())
                status = 1
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


main()
