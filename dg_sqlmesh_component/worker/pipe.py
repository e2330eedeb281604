"""The worker's end of the pipe.

stdout carries events and nothing else, so file descriptor 1 is pointed at stderr before any project
code runs: what a model, a driver or a subprocess of theirs prints becomes a log line. stdin carries
the request, then `cancel`, and when it ends the parent is gone.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from types import FrameType

from dg_sqlmesh_component import wire
from dg_sqlmesh_component.errors import SQLMeshComponentError
from dg_sqlmesh_component.events import Event, Level, LogLine, Request, RequestFailed

PARENT_GONE_GRACE_SECONDS = 10.0
"""How long batches in flight may take to finish once nobody is listening any more."""


class Pipe:
    """Sends events; knows whether the parent still wants them. Safe to use from any thread."""

    def __init__(self) -> None:
        self._requests = os.fdopen(os.dup(0), "rb")
        self._events = os.fdopen(os.dup(1), "wb")
        with open(os.devnull, "rb") as nothing:
            os.dup2(nothing.fileno(), 0)
        os.dup2(2, 1)
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
        self._lock = threading.Lock()
        self._cancelled = threading.Event()

    @property
    def is_cancelled(self) -> bool:
        """Whether no further work should be started."""
        return self._cancelled.is_set()

    def receive(self) -> Request | None:
        """Wait for the request; None when the parent left without one. Afterwards listen for `cancel`."""
        line = self._requests.readline()
        if not line:
            return None
        signal.signal(signal.SIGTERM, self._on_sigterm)
        threading.Thread(target=self._listen, name="dg-sqlmesh-listen", daemon=True).start()
        return wire.decode(wire.REQUEST, line)

    def send(self, event: Event) -> None:
        """Send one event. A parent that is gone is not an error here: the listener sees to it."""
        line = wire.encode(wire.EVENT, event)
        try:
            with self._lock:
                self._events.write(line)
                self._events.flush()
        except BrokenPipeError:
            self._cancelled.set()

    def fail(self, error: SQLMeshComponentError) -> None:
        """Send the last event of a request that could not be served."""
        self.send(RequestFailed(type(error).__name__, str(error), error.is_transient))

    def _on_sigterm(self, _signal: int, _frame: FrameType | None) -> None:
        self._cancelled.set()

    def _listen(self) -> None:
        for line in self._requests:
            if line.strip() == b"cancel":
                self._cancelled.set()
        # End of file: the parent closed its end or died. Whatever is still running after the grace
        # would run for nobody, so the whole process group goes, forked loaders included.
        self._cancelled.set()
        threading.Event().wait(PARENT_GONE_GRACE_SECONDS)
        os.killpg(os.getpgrp(), signal.SIGKILL)


class PipeHandler(logging.Handler):
    """Warnings and errors that SQLMesh, drivers and models log become log lines of the Dagster run."""

    def __init__(self, pipe: Pipe) -> None:
        super().__init__(level=logging.WARNING)
        self._pipe = pipe

    def emit(self, record: logging.LogRecord) -> None:
        """Called by `logging`, from any thread."""
        level: Level = "error" if record.levelno >= logging.ERROR else "warning"
        self._pipe.send(LogLine(level, self.format(record), record.name))
