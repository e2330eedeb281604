"""A running worker: what it reports, and how it ends.

Theory of operation. The worker is a process of its own that serves one request. stdout carries events, one JSON
object a line; stderr carries what code of the project prints; stdin carries the request, then `cancel` and `cut off`.

States: *serving* until its last event (`ProjectDescribed`, `EvaluationFinished` or `RequestFailed`), then *ending*,
then *gone*. `cancel` and `stop` lead from serving to ending too; the worker may die at any time.

- Two threads drain stdout and stderr into one queue, as fast as they fill: SQLMesh never waits for whoever consumes
  the events. A third one waits for the process's death, after which nothing is waited for longer than
  LAST_EVENTS_SECONDS: a child that left the process group may hold the pipes open.
- Iteration yields what is in the queue, redacted, up to the last event. Before it come all lines that were printed
  before it: the worker marks their end on stderr.
- Ending is a ladder: `cancel` (finish the batches in flight, FINISH_GRACE_SECONDS), `cut off` (cancel their queries,
  CUT_OFF_GRACE_SECONDS), SIGKILL of the process group. `cancel` starts it in a thread; `stop` waits for its end.

Invariants: iteration ends with a last event or raises; no process of the group is left after `stop`.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from typing import IO

from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol import wire
from dg_sqlmesh_component.protocol.errors import SQLMeshComponentError, StoppedError, WorkerError
from dg_sqlmesh_component.protocol.formatting import counted, without_colours
from dg_sqlmesh_component.protocol.redaction import Redactor

FINISH_GRACE_SECONDS = 10.0
"""How long a worker that was asked to stop may take to finish the batches in flight."""

CUT_OFF_GRACE_SECONDS = 5.0
"""How long it may then take to end once their queries were cancelled, before it is killed."""

LAST_EVENTS_SECONDS = 5.0
"""How long what a dead worker has left in its pipe may take to arrive."""

LONGEST_LINE = 10_000
"""How many characters of a line that a worker prints or logs are kept."""

LAST_LINES = 30
"""How many lines of a worker's output are quoted when it dies."""


class Worker:
    """A running worker: two threads drain its pipes into one queue."""

    def __init__(self, process: subprocess.Popen[bytes], request: msg.Request, redactor: Redactor) -> None:
        self._process = process
        self._redactor = redactor
        self._queue: queue.SimpleQueue[bytes | msg.LogLine | None] = queue.SimpleQueue()
        self._last_lines: deque[str] = deque(maxlen=LAST_LINES)
        self._configuration_printed: deque[str] | None = None
        """While the configuration is loaded: what it has printed."""
        self._has_printed_all = threading.Event()
        self._events_drain = threading.Thread(target=self._drain_events, name="dg-sqlmesh-events", daemon=True)
        self._output_drain = threading.Thread(target=self._drain_output, name="dg-sqlmesh-output", daemon=True)
        self._output_drain.start()  # first: the other one waits for it, and the worker may be dead by now
        self._events_drain.start()
        threading.Thread(target=self._await_death, name="dg-sqlmesh-death", daemon=True).start()
        self._ending = threading.Thread(target=self._end, name="dg-sqlmesh-end", daemon=True)
        self._ending_lock = threading.Lock()
        self._did_not_end = False
        self._tell(wire.encode(wire.REQUEST, request))

    def __iter__(self) -> Iterator[msg.Event]:
        """Its events; they go on while it ends.

        Raises:
            WorkerError: The worker died or broke the protocol.
            StoppedError: It did not end when it was cancelled, and was killed.
        """
        while (item := self._queue.get()) is not None:
            event = item if isinstance(item, msg.LogLine) else wire.decode(wire.EVENT, item)
            if isinstance(event, msg.SecretsKnown):
                self._redactor.add(event.values)
                continue
            if isinstance(event, msg.LogLine):
                yield self._readable_line(event)
                continue
            event = self._redactor.event(event)
            if not isinstance(event, msg.LAST_EVENTS):
                yield event
                continue
            self._has_printed_all.wait(LAST_EVENTS_SECONDS)
            yield from self._lines_after_the_last_event()
            if isinstance(event, msg.RequestFailed):
                event = replace(event, message=f"{event.message}{self._printed_before_it_failed()}")
            yield event
            return
        raise self._epitaph()

    def _lines_after_the_last_event(self) -> Iterator[msg.LogLine]:
        """What was printed before it: output has a pipe of its own, which may be slower."""
        while not self._queue.empty():
            item = self._queue.get()
            if isinstance(item, msg.LogLine):
                yield self._readable_line(item)

    def cancel(self) -> None:
        """Make it end: ask, then cancel the queries in flight, then kill. Returns at once; safe from any thread."""
        with self._ending_lock:
            if self._ending.ident is None:
                self._ending.start()

    def stop(self) -> None:
        """Make it end and wait for that: no worker outlives its request."""
        try:
            self.cancel()
            self._ending.join()
        finally:
            self._kill_group()
            self._process.wait()
            _close(self._process.stdin)
            for drain, pipe in (
                (self._events_drain, self._process.stdout),
                (self._output_drain, self._process.stderr),
            ):
                drain.join(timeout=1.0)
                if not drain.is_alive():  # else somebody who left the group holds the other end: closing would wait
                    _close(pipe)

    def _end(self) -> None:
        for demand, grace in ((b"cancel\n", FINISH_GRACE_SECONDS), (b"cut off\n", CUT_OFF_GRACE_SECONDS)):
            self._tell(demand)
            try:
                self._process.wait(grace)
            except subprocess.TimeoutExpired:
                continue
            return
        self._did_not_end = True
        self._kill_group()

    def _tell(self, line: bytes) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line)
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it is gone already; its exit status tells the story

    def _drain_events(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._queue.put(line)
        self._output_drain.join(timeout=1.0)  # its last words first, unless a child of it holds on to stderr
        self._queue.put(None)

    def _await_death(self) -> None:
        """A child of the worker that left its process group may hold on to the pipes for as long as it likes."""
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
                else:  # the same in every run, so that only a failure shows it
                    self._configuration_printed.append(text)
        self._has_printed_all.set()

    def _printed_before_it_failed(self) -> str:
        """What a configuration that did not load has printed, to be added to the error; else nothing."""
        if self._ending.ident is not None:
            return ""  # it was cancelled, perhaps while it loaded
        printed = "\n".join(map(self._readable, self._configuration_printed or ()))
        return f"\nWhat the configuration printed before:\n{printed}" if printed else ""

    def _epitaph(self) -> SQLMeshComponentError:
        if self._did_not_end:
            return StoppedError("SQLMesh's process did not end when it was asked to, and was killed.")
        try:
            status = self._process.wait(timeout=5.0)
        except subprocess.TimeoutExpired:
            status = None
        said = "\n".join(map(self._readable, self._last_lines))
        last_words = f" Its last lines:\n{said}" if said else " It printed nothing."
        return WorkerError(
            f"SQLMesh's process {_cause_of_death(status)}.{last_words}",
            is_transient=status in (-signal.SIGKILL, -signal.SIGTERM),  # not a crash of its own
        )

    def _readable_line(self, line: msg.LogLine) -> msg.LogLine:
        return replace(line, text=self._readable(line.text))

    def _readable(self, text: str) -> str:
        """A line without secrets, cut after that: half of one would not be found. Of endless ones the start is read."""
        start = self._redactor.text(text[: 2 * LONGEST_LINE])[:LONGEST_LINE]
        cut = len(text) - LONGEST_LINE
        return f"{start} [{counted(cut, 'more character')}]" if cut > 0 else start

    def _kill_group(self) -> None:
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass  # nobody of the group is left


def _cause_of_death(status: int | None) -> str:
    if status is None:
        return "closed its pipe and hung"
    if status >= 0:
        return f"ended in mid-request with exit status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = "an unknown signal"
    hint = " (out of memory?)" if -status == signal.SIGKILL else ""
    return f"was killed by signal {-status} ({name}){hint}"


def _close(pipe: IO[bytes] | None) -> None:
    if pipe is not None:
        try:
            pipe.close()
        except BrokenPipeError:
            pass  # unsent bytes for a process that is gone
