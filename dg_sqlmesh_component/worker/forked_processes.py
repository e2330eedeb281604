"""End forked processes together with the worker.

SQLMesh forks processes that parse and render, and models may fork their own. Each fork inherits the sockets to the
database. If the worker is killed and a fork lives on, the fork keeps the database sessions open, with their locks,
forever.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback

LOOK_SECONDS = 1.0
"""How often a fork checks whether its parent still exists."""

_is_fork = False


def end_forks_with_this_process() -> None:
    """From now on, each fork of this process ends at most `LOOK_SECONDS` after it."""
    os.register_at_fork(after_in_child=_watch_parent)


def is_fork() -> bool:
    """Whether this process is a fork of the worker. A fork never speaks for the worker."""
    return _is_fork


def end_fork(error: BaseException | None) -> None:
    """End this process if it is a fork that has left the project's code, as Python would end it.

    It must not go on with the worker's run, or close the worker's sessions. Without an `error`, the code has returned.
    """
    if not _is_fork:
        return
    code = 0 if error is None else error.code if isinstance(error, SystemExit) else 1
    if error is not None and not isinstance(error, SystemExit):
        traceback.print_exception(type(error), error, error.__traceback__)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


def _watch_parent() -> None:
    global _is_fork  # the one fact that a fork does not inherit
    _is_fork = True
    parent = os.getppid()

    def end_with_parent() -> None:
        while os.getppid() == parent:
            time.sleep(LOOK_SECONDS)
        os._exit(1)

    threading.Thread(target=end_with_parent, name="dg-sqlmesh-orphan", daemon=True).start()
