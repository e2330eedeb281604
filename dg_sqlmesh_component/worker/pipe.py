"""The worker's end of the pipe.

stdout carries events and nothing else. So file descriptor 1 is pointed at stderr before any project
code runs: whatever a model, a driver or a subprocess prints becomes a log line. stdin carries the request and the
records, and `cancel`, `cut off` and `release`. If stdin ends, the parent is gone.
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
from typing import TypeVar

from dg_sqlmesh_component.protocol import wire
from dg_sqlmesh_component.protocol.errors import EvaluationError, LockLostError, SQLMeshComponentError
from dg_sqlmesh_component.protocol.messages import Event, LastEvent, Level, LogLine, RequestFailed
from dg_sqlmesh_component.worker.forked_processes import is_fork

PARENT_GONE_GRACE_SECONDS = 10.0
"""How long batches in flight may take to finish after the parent is gone."""

_Message = TypeVar("_Message")

CANCELLED_BEFORE = "The run was cancelled before SQLMesh computed anything."


class Pipe:
    """Receives the request and sends events. Knows whether the run was cancelled. Safe to use from any thread.

    Attributes:
        is_cancelled: Whether no further work should start.
        is_cut_off: Whether the queries in flight were cancelled.
        cut_off_queries: Cancels the queries in flight. None before a run.
        locks: For each lock that this process holds, a check that returns why the lock is lost; None if it is held.
    """

    def __init__(self) -> None:
        self._requests = os.fdopen(os.dup(0), "rb")
        self._events = os.fdopen(os.dup(1), "wb")
        with open(os.devnull, "rb") as nothing:
            os.dup2(nothing.fileno(), 0)
        os.dup2(2, 1)
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
        self._lock = threading.Lock()
        self._messages: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._is_released = threading.Event()
        self._beginning = threading.Lock()
        self._has_begun = False
        self.is_cancelled = False
        self.is_cut_off = False
        self.cut_off_queries: Callable[[], None] | None = None
        self.locks: list[Callable[[], str | None]] = []

    def listen(self) -> None:
        """Start to read stdin in a thread. If stdin ends without a request, this process ends."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        threading.Thread(target=self._listen, name="dg-sqlmesh-listen", daemon=True).start()

    def receive(self, expected: type[_Message]) -> _Message:
        """Wait for the request, or for the answer to an event. If it is cancelled before `begin`, this process ends.

        Raises an EvaluationError if it was cancelled later.
        """
        if not (line := self._messages.get()):
            raise EvaluationError(CANCELLED_BEFORE)
        return wire.decode(expected, line)

    def await_release(self) -> None:
        """Wait, after the last event, until the parent has stored everything or is gone."""
        self._is_released.wait()

    def begin(self) -> None:
        """Call this before the work starts. From now on, a cancelled request finishes its batches before it ends.

        Raises an EvaluationError if it is cancelled already.
        """
        with self._beginning:
            self.refuse_if_cancelled()
            self._has_begun = True

    def refuse_if_cancelled(self) -> None:
        """Call this where nothing is lost by an end. Raises an EvaluationError if the run is cancelled."""
        if self.is_cancelled:
            raise EvaluationError(CANCELLED_BEFORE)

    def require_locks(self) -> None:
        """Call this before anything is computed, promoted or deleted. It takes microseconds.

        Raises a LockLostError if another process may hold a lock of this one by now.
        """
        for why_lost in tuple(self.locks):
            if (reason := why_lost()) is not None:
                raise LockLostError(reason, is_transient=True)

    def send(self, event: Event) -> None:
        """Send one event. It is no error here if the parent is gone: the listening thread ends the process.

        A fork prints its log lines, and sends nothing else.
        """
        if is_fork():
            if isinstance(event, LogLine):
                _print_line(event.text)
            return
        line = wire.encode(event)
        if isinstance(event, LastEvent):
            _print_line(wire.PRINTED)
        try:
            with self._lock:
                self._events.write(line)
                self._events.flush()
        except BrokenPipeError:
            self.is_cancelled = True

    @contextmanager
    def loading(self) -> Iterator[None]:
        """While the project's configuration is loaded. Its output is shown only if the load fails."""
        _print_line(wire.LOADING)
        yield
        _print_line(wire.LOADED)

    def log(self, level: Level, text: str, logger: str = "dg_sqlmesh") -> None:
        self.send(LogLine(level, text, logger))

    def fail(self, error: SQLMeshComponentError) -> None:
        """Send the last event of a failed request."""
        self.send(RequestFailed(type(error).__name__, str(error), error.is_transient))

    def _on_signal(self, _signal: int, _frame: FrameType | None) -> None:
        self.is_cancelled = True

    def _listen(self) -> None:
        request = self._requests.readline()
        if not request:
            os._exit(0)
        self._messages.put(request)
        commands = {wire.CANCEL: self._cancel, wire.CUT_OFF: self._cut_off_now, wire.RELEASE: self._is_released.set}
        for line in self._requests:
            if (command := commands.get(line)) is not None:
                command()
            else:
                self._messages.put(line)
        # End of file: the parent closed its end or died. Nobody needs batches that still run after the grace
        # period, so the whole process group is killed, including forked loaders.
        self._is_released.set()
        self._cut_off_now()
        threading.Event().wait(PARENT_GONE_GRACE_SECONDS)
        os.killpg(os.getpgrp(), signal.SIGKILL)

    def _cancel(self) -> None:
        with self._beginning:
            self.is_cancelled = True
            if not self._has_begun:  # SQLMesh is being imported, or the project opened: no work is lost
                self.fail(EvaluationError(CANCELLED_BEFORE))
                os._exit(0)
        self._messages.put(b"")  # ends the wait for an answer

    def _cut_off_now(self) -> None:
        self.is_cancelled = True
        self.is_cut_off = True
        if self.cut_off_queries is not None:
            self.cut_off_queries()


def _print_line(text: str) -> None:
    """Print on a line of its own, after everything printed so far.

    It is no error here if the parent is gone, or if code of the project has closed or replaced its output.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, ValueError):
            stream.flush()
    with suppress(OSError):
        os.write(2, f"\n{text}\n".encode())


class PipeHandler(logging.Handler):
    """Sends warnings and errors of SQLMesh, drivers and models as log lines of the Dagster run."""

    def __init__(self, pipe: Pipe) -> None:
        super().__init__(level=logging.WARNING)
        self._pipe = pipe

    def emit(self, record: logging.LogRecord) -> None:
        """Called by `logging`, from any thread."""
        level: Level = "error" if record.levelno >= logging.ERROR else "warning"
        try:
            text = self.format(record)
        except Exception:  # noqa: BLE001  # wrong arguments, or any error of an object's `__str__`
            self.handleError(record)  # prints it, as each handler of Python does: it must not fail the model
        else:
            self._pipe.log(level, text, record.name)
