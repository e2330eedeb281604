"""End forked processes together with the worker.

SQLMesh forks processes that parse and render, and models may fork their own. Each fork inherits the sockets to the
database. If the worker is killed and a fork lives on, the fork keeps the database sessions open, with their locks,
forever.
"""

from __future__ import annotations

import os
import threading
import time

LOOK_SECONDS = 1.0
"""How often a fork checks whether its parent still exists."""


def end_forks_with_this_process() -> None:
    """From now on, each fork of this process ends at most `LOOK_SECONDS` after it."""
    os.register_at_fork(after_in_child=_watch_parent)


def _watch_parent() -> None:
    parent = os.getppid()

    def end_with_parent() -> None:
        while os.getppid() == parent:
            time.sleep(LOOK_SECONDS)
        os._exit(1)

    threading.Thread(target=end_with_parent, name="dg-sqlmesh-orphan", daemon=True).start()
