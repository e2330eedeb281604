"""Forked processes that do not outlive the worker.

SQLMesh forks processes that parse and render, and models may fork their own. Each inherits the sockets to the database:
when the worker is killed, a fork that stayed behind would keep its sessions open, with their locks, for ever.
"""

from __future__ import annotations

import os
import threading
import time

LOOK_SECONDS = 1.0
"""How often a fork looks whether the process that it came from is still there."""


def end_forks_with_this_process() -> None:
    """From now on, what is forked from this process ends within `LOOK_SECONDS` of it."""
    os.register_at_fork(after_in_child=_watch_parent)


def _watch_parent() -> None:
    parent = os.getppid()
    threading.Thread(target=_end_with, args=(parent,), name="dg-sqlmesh-orphan", daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(LOOK_SECONDS)
    os._exit(1)
