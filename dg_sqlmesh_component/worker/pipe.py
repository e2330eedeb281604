"""The worker's end of the pipe.

stdout carries events and nothing else, so file descriptor 1 is pointed at stderr before any project
code runs: what a model, a driver or a subprocess of theirs prints becomes a log line. stdin carries
the request, then `cancel` and `cut off`, and when it ends the parent is gone.
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from dg_sqlmesh_component.protocol import wire
from dg_sqlmesh_component.protocol.errors import EvaluationError, SQLMeshComponentError
from dg_sqlmesh_component.protocol.messages import LAST_EVENTS, Event, Level, LogLine, Request, RequestFailed

PARENT_GONE_GRACE_SECONDS = 10.0
"""How long batches in flight may take to finish once nobody is listening any more."""


CANCELLED_BEFORE = "The run was cancelled before SQLMesh computed anything."


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
        self._request: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._cancelled = threading.Event()
        self._cut_off = threading.Event()
        self._beginning = threading.Lock()
        self._has_begun = False
        self.cut_off_queries: Callable[[], None] | None = None
        """What cancels the queries in flight."""

    @property
    def is_cancelled(self) -> bool:
        """Whether no further work should be started."""
        return self._cancelled.is_set()

    @property
    def is_cut_off(self) -> bool:
        """Whether the queries in flight were cancelled."""
        return self._cut_off.is_set()

    def listen(self) -> None:
        """Read what the parent says from now on. A parent that leaves without a request ends this process."""
        signal.signal(signal.SIGTERM, self._on_sigterm)
        threading.Thread(target=self._listen, name="dg-sqlmesh-listen", daemon=True).start()

    def receive(self) -> Request:
        """Wait for the request."""
        return wire.decode(wire.REQUEST, self._request.get())

    def begin(self) -> None:
        """From now on there is something to finish when the parent cancels.

        Raises:
            EvaluationError: The parent has cancelled already.
        """
        with self._beginning:
            if self.is_cancelled:
                raise EvaluationError(CANCELLED_BEFORE)
            self._has_begun = True

    def send(self, event: Event) -> None:
        """Send one event. A parent that is gone is not an error here: the listener sees to it."""
        line = wire.encode(wire.EVENT, event)
        if isinstance(event, LAST_EVENTS):
            with suppress(OSError, ValueError):  # code of the project has closed its output
                _print_line(wire.PRINTED)
        try:
            with self._lock:
                self._events.write(line)
                self._events.flush()
        except BrokenPipeError:
            self._cancelled.set()

    @contextmanager
    def loading(self) -> Iterator[None]:
        """While the project's configuration is loaded: what it prints is shown if that fails, and else to nobody."""
        _print_line(wire.LOADING)
        yield
        _print_line(wire.LOADED)

    def fail(self, error: SQLMeshComponentError) -> None:
        """Send the last event of a request that could not be served."""
        self.send(RequestFailed(type(error).__name__, str(error), error.is_transient))

    def _on_sigterm(self, _signal: int, _frame: FrameType | None) -> None:
        self._cancelled.set()

    def _listen(self) -> None:
        request = self._requests.readline()
        if not request:
            os._exit(0)
        self._request.put(request)
        for line in self._requests:
            if line.strip() == b"cancel":
                self._cancel()
            elif line.strip() == b"cut off":
                self._cut_off_now()
        # End of file: the parent closed its end or died. Whatever is still running after the grace
        # would run for nobody, so the whole process group goes, forked loaders included.
        self._cut_off_now()
        threading.Event().wait(PARENT_GONE_GRACE_SECONDS)
        os.killpg(os.getpgrp(), signal.SIGKILL)

    def _cancel(self) -> None:
        with self._beginning:
            self._cancelled.set()
            if not self._has_begun:  # SQLMesh is being imported, or the project opened: nobody needs to wait for that
                self.fail(EvaluationError(CANCELLED_BEFORE))
                os._exit(0)

    def _cut_off_now(self) -> None:
        self._cancelled.set()
        self._cut_off.set()
        if self.cut_off_queries is not None:
            self.cut_off_queries()


def _print_line(text: str) -> None:
    """On a line of its own, behind what was printed so far. A parent that is gone is not an error here."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    try:
        os.write(2, f"\n{text}\n".encode())
    except BrokenPipeError:
        pass


class PipeHandler(logging.Handler):
    """Warnings and errors that SQLMesh, drivers and models log become log lines of the Dagster run."""

    def __init__(self, pipe: Pipe) -> None:
        super().__init__(level=logging.WARNING)
        self._pipe = pipe

    def emit(self, record: logging.LogRecord) -> None:
        """Called by `logging`, from any thread."""
        level: Level = "error" if record.levelno >= logging.ERROR else "warning"
        self._pipe.send(LogLine(level, self.format(record), record.name))
