"""Where a SQLMesh project lives, and the process in which SQLMesh works on it.

`SQLMeshProject.request` starts a worker, hands it one request and yields its events. The worker's
pipe is drained by threads as fast as it fills, so SQLMesh never waits for whoever consumes the events.
"""

from __future__ import annotations

import os
import queue
import shlex
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol import wire
from dg_sqlmesh_component.protocol.bootstrap import sqlmesh_program, start_command
from dg_sqlmesh_component.protocol.errors import (
    ERRORS_BY_NAME,
    DeclarationError,
    InstallationError,
    SQLMeshComponentError,
    StoppedError,
    WorkerError,
)
from dg_sqlmesh_component.protocol.formatting import counted, without_colours
from dg_sqlmesh_component.protocol.manifest import DEFAULT_LIMITS, AnsweredSelection, Limits, Manifest
from dg_sqlmesh_component.protocol.redaction import Redactor

CONFIG_FILES = ("config.py", "config.yml", "config.yaml", "sqlmesh.yml", "sqlmesh.yaml")
"""What makes a folder a SQLMesh project: SQLMesh reads its configuration from one of these."""

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


def is_project_folder(path: Path) -> bool:
    """Whether SQLMesh would find a configuration in this folder."""
    return any((path / name).is_file() for name in CONFIG_FILES)


def missing_project(path: Path, remedy: str) -> str:
    """What a folder lacks to be a SQLMesh project, a remedy, and as the last line the command that creates one."""
    lacks = f"{path} is not a SQLMesh project: it has none of {', '.join(CONFIG_FILES)}."
    is_dbt = (path / "dbt_project.yml").is_file()
    create = "It is a dbt project. To add what SQLMesh needs:" if is_dbt else "To create a project there:"
    command = shlex.join([sqlmesh_program(), "init", *(["-t", "dbt"] if is_dbt else [])])
    return f"{lacks} {remedy} {create}\n    cd {shlex.quote(str(path))} && {command}"


@dataclass(frozen=True)
class SQLMeshProject:
    """A SQLMesh project and how to open it.

    Attributes:
        paths: Absolute folders; more than one for a multi-repository project.
        gateway, environment, config: As on SQLMesh's command line; None for the project's own defaults.
        working_directory: Where SQLMesh runs; None: the first folder, as if you had typed `sqlmesh` there.
        python: Interpreter that has SQLMesh; None: the one that runs Dagster.
        env: Environment variables for SQLMesh's process only.
        written_env: How these stand in YAML, where that is not their value: the same wherever it is deployed.
    """

    paths: tuple[Path, ...]
    gateway: str | None = None
    environment: str | None = None
    config: str | None = None
    working_directory: Path | None = None
    python: str | None = None
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    written_env: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)

    @property
    def name(self) -> str:
        """The first folder's name: what people call the project."""
        return self.paths[0].name

    @property
    def opening(self) -> msg.OpenProject:
        """How the worker shall open it."""
        return msg.OpenProject(
            paths=tuple(str(path) for path in self.paths),
            gateway=self.gateway,
            environment=self.environment,
            config=self.config,
            working_directory=str(self.working_directory) if self.working_directory else None,
        )

    def require(self) -> None:
        """Check what can be checked without SQLMesh.

        Raises:
            DeclarationError: A folder is not there, or is no SQLMesh project.
        """
        for path in self.paths:
            if not path.is_dir():
                raise DeclarationError(
                    f"There is no folder {path}. `project` in defs.yaml names the SQLMesh project's "
                    "folder, relative to that file."
                )
            if not is_project_folder(path):
                raise DeclarationError(missing_project(path, "Correct `project` in defs.yaml."))
        if self.working_directory is not None and not self.working_directory.is_dir():
            raise DeclarationError(
                f"There is no folder {self.working_directory}. Correct `project.working_directory` in defs.yaml."
            )

    def describe(
        self,
        select: Sequence[str] = (),
        exclude: Sequence[str] = (),
        include: Sequence[msg.Addition] = (),
        limits: Limits = DEFAULT_LIMITS,
        before: Manifest | None = None,
        files: frozenset[str] = frozenset(),
        selections: Sequence[AnsweredSelection] = (),
        asked_by: str = "defs.yaml",
    ) -> Manifest:
        """Load the project in a worker and return its manifest, with the additions that are asked for, within limits.

        Args:
            before: What it was when nothing differed but these files: then SQLMesh loads no more than it must.
            files: SQL files of models.
            selections: Selections to answer again; one that matches no model any more is left out.
            asked_by: Where `select` and `exclude` are written, for error messages.

        Raises:
            SQLMeshComponentError: Of the class that says who must act.
        """
        models = before.models_changed_by(files) if before else frozenset()
        request = msg.DescribeRequest(
            self.opening,
            tuple(select),
            tuple(exclude),
            tuple(include),
            limits,
            files if models else frozenset(),
            models,
            tuple(selections),
            asked_by,
        )
        with self.request(request) as events:
            for event in events:
                if isinstance(event, msg.ProjectDescribed):
                    return event.manifest if event.is_whole or before is None else before.with_models_of(event.manifest)
                if isinstance(event, msg.RequestFailed):
                    raise ERRORS_BY_NAME.get(event.error, WorkerError)(event.message)
        raise WorkerError("The worker ended without describing the project.")

    @contextmanager
    def request(self, request: msg.Request) -> Iterator[Worker]:
        """Serve one request in a process of its own. Leaving the context early stops that process.

        Yields:
            The worker, to be iterated: its events in order, and what it prints as `LogLine`s. The last one is
            `ProjectDescribed`, `EvaluationFinished` or `RequestFailed`.

        Raises:
            DeclarationError, InstallationError: The worker cannot be started.
            WorkerError: While iterating: the worker died or broke the protocol.
            StoppedError: While iterating: it did not end when it was cancelled, and was killed.
        """
        self.require()
        worker = Worker(self._started(), request, Redactor(self._environment))
        try:
            yield worker
        finally:
            worker.stop()

    @property
    def _environment(self) -> dict[str, str]:
        return {**os.environ, **self.env}

    def start_early(self) -> None:
        """Start the worker of this process's next request now: SQLMesh is imported meanwhile.

        Without a request it ends with this process.
        """
        if self._place not in _EARLY:
            try:
                _EARLY[self._place] = self._start()
            except InstallationError:
                pass  # the request says so

    @property
    def _place(self) -> tuple[object, ...]:
        """What a worker that has no request yet depends on."""
        return (self.python, self.working_directory or self.paths[0], *sorted(self._environment.items()))

    def _started(self) -> subprocess.Popen[bytes]:
        early = _EARLY.pop(self._place, None)
        return early if early is not None and early.poll() is None else self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        python = self.python or sys.executable
        try:
            return subprocess.Popen(
                start_command(python, "worker"),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=self.working_directory or self.paths[0],
                env=self._environment,
                start_new_session=True,  # signals of the terminal reach the parent, which decides
            )
        except OSError as error:
            raise InstallationError(
                f"The interpreter {python} cannot be started: {error.strerror}. Correct `project.python` in defs.yaml."
            ) from error


_EARLY: dict[tuple[object, ...], subprocess.Popen[bytes]] = {}
"""Workers that wait for a request, by what they depend on."""


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
