"""Shows contributors the messages between Dagster's process and a worker, as lines on stderr (docs/wire.md).

A line has no content of its message, because a content may be a secret.
"""

from __future__ import annotations

import os
import sys
import threading
import time

from dg_sqlmesh_component.protocol import wire

DEBUG_VARIABLE = "DG_SQLMESH_DEBUG"
"""Environment variable of Dagster's process. It shows the messages, unless it is empty or 0."""


class WireLog:
    """The lines of one worker. Safe to use from any thread.

    stderr is the one place that steps, ticks and loads of definitions share.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._lock = threading.Lock()
        self._last = time.monotonic()

    def write(self, direction: str, line: bytes) -> None:
        with self._lock:
            now = time.monotonic()
            milliseconds, self._last = round((now - self._last) * 1000), now
            sys.stderr.write(
                f"[wire {self._pid}] {milliseconds:>6} ms  {direction:<11}  {wire.name_of(line):<23}  "
                f"{len(line):>8} bytes\n"
            )


def wire_log(pid: int) -> WireLog | None:
    """The log of a worker's messages, if somebody asked for it."""
    return WireLog(pid) if os.environ.get(DEBUG_VARIABLE, "0") not in ("", "0") else None
