"""A running worker: its events, and how it is stopped.

Theory of operation. The worker is a process that serves one request. It writes events to stdout, one on each line.
Output of the project's code goes to stderr. It reads the request from stdin, then answers, and `cancel`, `cut off` and
`release`.

States: *serving* until its last event (`messages.LastEvent`), then *ending*, then *gone*. `cancel` and `stop` lead from
serving to ending too. The worker may die at any time. A worker that holds the lock on the SQLMesh state keeps it until
`stop`.

- Two threads read stdout and stderr into one queue at once, so SQLMesh never waits for the consumer of the events. A
  third thread waits for the process to end. After that, nothing waits longer than LAST_EVENTS_SECONDS, because a child
  process that left the process group may keep the pipes open.
- Events and output have separate pipes. All lines that were printed before the last event come before it: the worker
  marks their end on stderr. Log lines of one moment are joined. No line moves past another event.
- The worker is stopped in three stages: `cancel` (it finishes the batches in flight, FINISH_GRACE_SECONDS), `cut off`
  (it cancels their queries, CUT_OFF_GRACE_SECONDS), SIGKILL of the process group. `cancel` starts this in a thread;
  `stop` waits until it is done.

Invariants: iteration ends with a last event or raises. After `stop`, no process of the group is left.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import IO

from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol import wire
from dg_sqlmesh_component.protocol.errors import SQLMeshComponentError, StoppedError, WorkerError
from dg_sqlmesh_component.protocol.formatting import counted, without_colours
from dg_sqlmesh_component.protocol.redaction import Redactor
from dg_sqlmesh_component.worker_client.output import JoinedLines, wire_log

FINISH_GRACE_SECONDS = 5.0
"""How long a cancelled worker may take to finish the batches in flight.

A container is killed 10 seconds after SIGTERM, unless somebody has configured more. The engine goes on with queries
that were not cancelled by then.
"""

CUT_OFF_GRACE_SECONDS = 3.0
"""How long it may then take to cancel their queries and to end, before it is killed."""

LAST_EVENTS_SECONDS = 5.0
"""How long to wait for the last events and lines of a worker that has ended."""

LONGEST_LINE = 10_000
"""How many characters of a printed or logged line are kept."""

LAST_LINES = 30
"""How many lines of its output an error quotes if the worker dies."""


class Worker:
    """A process that serves one request."""

    def __init__(self, process: subprocess.Popen[bytes], request: msg.Request, redactor: Redactor) -> None:
        self._process = process
        self._redactor = redactor
        self._wire_log = wire_log(process.pid)
        self._queue: queue.SimpleQueue[bytes | msg.LogLine | None] = queue.SimpleQueue()
        self._last_lines: deque[str] = deque(maxlen=LAST_LINES)
        self._configuration_printed: deque[str] | None = None
        """The lines that the configuration prints while the worker loads it; None before and after."""
        self._has_printed_all = threading.Event()
        self._events_drain = threading.Thread(target=self._drain_events, name="dg-sqlmesh-events", daemon=True)
        self._output_drain = threading.Thread(target=self._drain_output, name="dg-sqlmesh-output", daemon=True)
        self._output_drain.start()  # first: the other thread joins it, and the worker may already have died
        self._events_drain.start()
        threading.Thread(target=self._await_death, name="dg-sqlmesh-death", daemon=True).start()
        self._ending = threading.Thread(target=self._end, name="dg-sqlmesh-end", daemon=True)
        self._ending_lock = threading.Lock()
        self._did_not_end = False
        self._has_answered = False
        # Last: what the worker prints meanwhile is read already, so neither waits for the other.
        self._send(wire.encode(request))

    def __iter__(self) -> Iterator[msg.Event]:
        """Yield its events with secrets hidden, even while it is being stopped.

        Raises:
            WorkerError: The worker died or broke the protocol.
            StoppedError: The worker was cancelled, did not end, and was killed.
        """
        lines = JoinedLines()
        for event in self._received(lines):
            if isinstance(event, msg.LogLine):
                readable = replace(event, text=self._readable(event.text))
                yield from lines.add(readable, time.monotonic())
                continue
            yield from lines.take()
            if isinstance(event, msg.RequestFailed):
                yield replace(event, message=f"{event.message}{self._configuration_output()}")
            elif event is not None:
                yield event
            if isinstance(event, msg.LastEvent):
                return
        yield from lines.take()
        raise self._error()

    def _received(self, lines: JoinedLines) -> Iterator[msg.Event | None]:
        """The queue's content up to the last event. None: no further lines arrived within the moment of `lines`."""
        while True:
            try:
                item = self._queue.get(timeout=lines.seconds_left(time.monotonic()))
            except queue.Empty:
                yield None
                continue
            # Two threads put it: whichever notices the end first.
            if item is None:
                return
            if isinstance(item, msg.LogLine):
                yield item
                continue
            try:
                event = wire.decode(msg.Event, item, self._redactor)
            except WorkerError:
                # Collected lines come before the error.
                yield None
                raise
            self._has_answered = True
            # It is no event for anybody else: what follows is shown without these values.
            if isinstance(event, msg.SecretsKnown):
                self._redactor.add(event.values)
                continue
            if isinstance(event, msg.LastEvent):
                yield from self._late_lines()
            yield event

    def _late_lines(self) -> Iterator[msg.LogLine]:
        """Lines that were printed before the last event and arrive after it."""
        self._has_printed_all.wait(LAST_EVENTS_SECONDS)
        while not self._queue.empty():
            item = self._queue.get()
            if isinstance(item, msg.LogLine):
                yield item

    def cancel(self) -> None:
        """Start to stop the worker, in the three stages. Returns at once; safe from any thread."""
        with self._ending_lock:
            if self._ending.ident is None:
                self._ending.start()

    def answer(self, answer: msg.Answer) -> None:
        """Send what the worker waits for, after an event that asks for it: a plan, or what Dagster knows."""
        self._send(wire.encode(answer))

    def stop(self) -> None:
        """Stop the worker and wait until it has ended: no worker outlives its request. It releases its lock."""
        try:
            self._send(wire.RELEASE)
            self.cancel()
            self._ending.join()
        finally:
            # Also if it has ended by itself: a process that the project has started may be left.
            self._kill_group()
            self._process.wait()
            _close(self._process.stdin)
            for drain, pipe in ((self._events_drain, self._process.stdout), (self._output_drain, self._process.stderr)):
                drain.join(timeout=1.0)
                if not drain.is_alive():  # else a process that left the group keeps it open, and closing would block
                    _close(pipe)

    def _end(self) -> None:
        for command, grace in ((wire.CANCEL, FINISH_GRACE_SECONDS), (wire.CUT_OFF, CUT_OFF_GRACE_SECONDS)):
            self._send(command)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(grace)
                return
        self._did_not_end = True
        self._kill_group()

    def _send(self, line: bytes) -> None:
        assert self._process.stdin is not None
        if self._wire_log is not None:
            self._wire_log.write("to worker", line)  # first: the worker may answer at once
        with suppress(BrokenPipeError):  # the worker has ended; its exit status becomes the error
            self._process.stdin.write(line)
            self._process.stdin.flush()

    def _drain_events(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if self._wire_log is not None:
                self._wire_log.write("from worker", line)
            self._queue.put(line)
        self._output_drain.join(timeout=1.0)  # its last lines first, unless a child process keeps stderr open
        self._queue.put(None)

    def _await_death(self) -> None:
        """End the iteration after the worker has died, even if a child process keeps the pipes open."""
        self._process.wait()
        self._events_drain.join(timeout=LAST_EVENTS_SECONDS)
        self._queue.put(None)

    def _drain_output(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            text = without_colours(line.decode("utf-8", errors="replace")).rstrip()
            if text == wire.PRINTED:
                self._has_printed_all.set()
            elif text == wire.LOADING:
                self._configuration_printed = deque(maxlen=LAST_LINES)
            elif text == wire.LOADED:
                self._configuration_printed = None
            elif text:
                self._last_lines.append(text)
                if self._configuration_printed is None:
                    self._queue.put(msg.LogLine("info", text, "output"))
                else:  # the same in every run, so it is shown only if loading fails
                    self._configuration_printed.append(text)
        self._has_printed_all.set()

    def _configuration_output(self) -> str:
        """The output of a configuration that did not load, to add to the error."""
        if self._ending.ident is not None:
            return ""  # it was cancelled, perhaps while it loaded
        printed = "\n".join(map(self._readable, self._configuration_printed or ()))
        return f"\nThe configuration printed before the error:\n{printed}" if printed else ""

    def _error(self) -> SQLMeshComponentError:
        """The error for a worker that ended without a last event."""
        if self._did_not_end:
            return StoppedError("SQLMesh's process did not end when it was asked to, and was killed.")
        status: int | None = None
        with suppress(subprocess.TimeoutExpired):
            status = self._process.wait(timeout=5.0)
        lines = "\n".join(map(self._readable, self._last_lines))
        interpreter = ""
        # It ended before its first event, so perhaps the interpreter is the wrong one.
        if status is not None and status >= 0 and not self._has_answered:
            command = self._process.args[0] if isinstance(self._process.args, list) else self._process.args
            interpreter = (
                f" It was started with {command!s}: `project.python` in defs.yaml, or `python` of the SQLMeshResource, "
                "sets the interpreter."
            )
        output = f" Its last lines:\n{lines}" if lines else " It printed nothing."
        return WorkerError(
            f"SQLMesh's process {_cause_of_death(status)}.{_advice_after_death(status)}{interpreter}{output}",
            is_transient=status in (-signal.SIGKILL, -signal.SIGTERM),  # it did not crash
        )

    def _readable(self, text: str) -> str:
        """The line without secrets, shortened. Only the start of a very long line is searched for secrets.

        Secrets are hidden before the line is cut, because half a secret would not be recognized.
        """
        start = self._redactor.text(text[: 2 * LONGEST_LINE])[:LONGEST_LINE]
        cut = len(text) - LONGEST_LINE
        return f"{start} [{counted(cut, 'more character')}]" if cut > 0 else start

    def _kill_group(self) -> None:
        with suppress(ProcessLookupError, PermissionError):  # no process of the group is left
            os.killpg(self._process.pid, signal.SIGKILL)


def _cause_of_death(status: int | None) -> str:
    if status is None:
        return "closed its pipe and did not end"
    if status >= 0:
        return f"ended during the request with exit status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = "an unknown signal"
    hint = " (out of memory?)" if -status == signal.SIGKILL else ""
    return f"was killed by signal {-status} ({name}){hint}"


_ADVICE: dict[int, str] = {
    signal.SIGKILL: "If memory ran out, `dmesg` or the container's status (`OOMKilled`) shows it. Then give it more "
    "memory, or set a lower `execution.concurrent_tasks` in defs.yaml. If not, find out what killed it.",
    **dict.fromkeys(
        (signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV),
        "A native library, such as the driver of a database, has crashed. Upgrade that library, or report the crash.",
    ),
}


def _advice_after_death(status: int | None) -> str:
    """What to do, as sentences; empty if only the last lines can tell."""
    if status is None or status >= 0:
        return ""
    asked = "Something terminated it, for example a host restart. Launch it again."
    return f" {_ADVICE.get(-status, asked)}"


def _close(pipe: IO[bytes] | None) -> None:
    if pipe is not None:
        with suppress(BrokenPipeError):  # bytes that the ended process did not read
            pipe.close()
