"""What SQLMesh's process prints and logs: joined, and in a step's log up to a limit. And its messages on stderr."""

from __future__ import annotations

import os
import sys
import threading
import time
from dataclasses import dataclass

import dagster as dg

from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol import wire
from dg_sqlmesh_component.protocol.formatting import counted

MAX_EVENTS = 1_000
MAX_CHARACTERS = 1_000_000
"""Once a step's log has so many events or characters of output, it stores no further output of the level info."""

_SHARES: dict[msg.Level, int] = {"info": 1, "warning": 2, "error": 3}
"""Warnings are stored up to twice the limit, errors up to three times: so no error is left out before another line."""

_OWN = "dg_sqlmesh"
"""The source of the worker's own lines. They are few."""


@dataclass
class WorkerOutput:
    """The output of SQLMesh's process in the log of one step. Lines over the limit go to the stderr of the step."""

    log: dg.DagsterLogManager
    _events: int = 0
    _characters: int = 0
    _left_out: int = 0

    def write(self, line: msg.LogLine) -> None:
        share = _SHARES["error" if line.source == _OWN else line.level]
        if self._events >= share * MAX_EVENTS or self._characters >= share * MAX_CHARACTERS:
            self._leave_out(line)
            return
        self._events += 1
        self._characters += len(line.text)
        self.log.log(level=line.level.upper(), msg=f"[{line.source}] {line.text}")

    def close(self) -> None:
        """Log how many lines were left out."""
        if self._left_out:
            self.log.warning(f"This log leaves out {counted(self._left_out, 'line')} that SQLMesh printed or logged.")

    def _leave_out(self, line: msg.LogLine) -> None:
        if not self._left_out:
            self.log.warning(
                f"SQLMesh has printed or logged {self._characters} characters in {counted(self._events, 'event')}. "
                "This log leaves out its further output, warnings and errors last. It is in the step's stderr."
            )
        self._left_out += line.text.count("\n") + 1
        sys.stderr.write(f"[{line.source}] {line.text}\n")


MOMENT_SECONDS = 0.1
"""How long lines are collected, from the first of them."""

MOMENT_CHARACTERS = 10_000
"""After so many characters, the collected lines are not kept back any longer."""


class JoinedLines:
    """Collects the log lines of one moment. Lines of one level and one source become one text. The caller passes time.

    Each line becomes an event of Dagster, and SQLite takes 7 ms to store one, however short it is.
    """

    def __init__(self) -> None:
        self._texts: dict[tuple[msg.Level, str], list[str]] = {}
        self._characters = 0
        self._end = 0.0

    def add(self, line: msg.LogLine, now: float) -> list[msg.LogLine]:
        """Collect a line. Return the joined lines if the moment is over."""
        if not self._texts:
            self._end = now + MOMENT_SECONDS
        self._texts.setdefault((line.level, line.source), []).append(line.text)
        self._characters += len(line.text)
        return self.take() if now >= self._end or self._characters >= MOMENT_CHARACTERS else []

    def seconds_left(self, now: float) -> float | None:
        """How long to wait for further lines; None if no line is collected."""
        return max(self._end - now, 0.0) if self._texts else None

    def take(self) -> list[msg.LogLine]:
        """The joined lines, in the order of their first lines."""
        joined = [msg.LogLine(level, "\n".join(texts), source) for (level, source), texts in self._texts.items()]
        self._texts.clear()
        self._characters = 0
        return joined


DEBUG_VARIABLE = "DG_SQLMESH_DEBUG"
"""Environment variable of Dagster's process. It shows the messages, unless it is empty or 0."""


class WireLog:
    """Shows contributors the messages of one worker, as lines on stderr (contributing/wire.md).

    Safe to use from any thread.

    stderr is the one place that steps, ticks and loads of definitions share. A line has no content of its message,
    because a content may be a secret.
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
