"""Start workers as forks of a process that has imported SQLMesh.

Importing SQLMesh takes most of the time of a test that starts a worker. A fork is otherwise like a real worker: it has
its own process, session, pipes, folder and environment, and runs the same code. Workers of other processes (the
multiprocess executor, `dg`, `dagster`) and of other interpreters are real workers.
"""

from __future__ import annotations

import fcntl
import inspect
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import types
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import IO, Any

import clock

PACKAGE = Path(__file__).resolve().parent.parent / "dg_sqlmesh_component"
READ_WHEN_IMPORTED = ("HOME", "PYTHON", "SQLMESH", "MAX_FORK_WORKERS")
"""Prefixes of environment variables that Python or SQLMesh read during import, before a fork can set them."""


class ForkedWorker:
    """The part of `subprocess.Popen` that the component uses of a worker."""

    def __init__(self, pid: int, stdin: IO[bytes], stdout: IO[bytes], stderr: IO[bytes], status: IO[bytes]) -> None:
        self.pid, self.stdin, self.stdout, self.stderr = pid, stdin, stdout, stderr
        self.returncode: int | None = None
        self._ended = threading.Event()
        threading.Thread(target=self._await_end, args=(status,), daemon=True).start()

    def _await_end(self, status: IO[bytes]) -> None:
        line = status.readline()
        status.close()
        self.returncode = int(line) if line else -signal.SIGKILL
        self._ended.set()

    def poll(self) -> int | None:
        return self.returncode if self._ended.is_set() else None

    def wait(self, timeout: float | None = None) -> int:
        if not self._ended.wait(timeout):
            raise subprocess.TimeoutExpired("worker", timeout or 0.0)
        assert self.returncode is not None
        return self.returncode


def can_fork(environment: dict[str, str]) -> bool:
    """Return whether every variable that SQLMesh reads during import has the zygote's value."""
    names = {name for name in {*environment, *os.environ} if name.startswith(READ_WHEN_IMPORTED)}
    return all(environment.get(name) == _environment().get(name) for name in names)


def start(folder: Path, environment: dict[str, str]) -> ForkedWorker:
    """Start a worker. It waits for its request."""
    ends = [os.pipe() for _ in range(4)]
    (stdin_read, stdin), (stdout, stdout_write), (stderr, stderr_write), (status, status_write) = ends
    worker_ends = [stdin_read, stdout_write, stderr_write, status_write]
    request = json.dumps({"folder": str(folder), "environment": environment}).encode()
    connection = _zygote()
    with _alone():
        socket.send_fds(connection, [len(request).to_bytes(8, "big")], worker_ends)
        connection.sendall(request)
    for descriptor in worker_ends:
        os.close(descriptor)
    reader = os.fdopen(status, "rb")
    pid = int(reader.readline())
    return ForkedWorker(pid, os.fdopen(stdin, "wb"), os.fdopen(stdout, "rb"), os.fdopen(stderr, "rb"), reader)


@contextmanager
def _alone() -> Iterator[None]:
    """Threads and forks of this process have the same connection. The lock is of an open file, and ends with it."""
    with open(__file__) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def forked_workers() -> Iterator[None]:
    """Let this process start its workers as forks during the block."""
    import pytest

    from dg_sqlmesh_component.config.project import SQLMeshProject
    from dg_sqlmesh_component.worker_client import calls

    start_process = calls.start_worker

    def fork_or_start(project: SQLMeshProject) -> subprocess.Popen[bytes] | ForkedWorker:
        environment = project.process_environment
        if project.python is None and can_fork(environment):
            return start(project.working_directory or project.paths[0], environment)
        return start_process(project)

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(calls, "start_worker", fork_or_start)
        yield


@cache
def _environment() -> dict[str, str]:
    """The environment of the zygote. SQLMesh reads this one during import, and the component sets it for workers."""
    return {"SQLMESH__DISABLE_ANONYMIZED_ANALYTICS": "true", **os.environ}


@cache
def _zygote() -> socket.socket:
    """Start the process that forks, and return the connection to it. It ends with this process."""
    our_end, zygote_end = socket.socketpair()
    process = subprocess.Popen(
        [sys.executable, __file__, str(zygote_end.fileno())],
        pass_fds=[zygote_end.fileno()],
        env=_environment(),
        cwd=PACKAGE.parent,
    )
    zygote_end.close()
    assert our_end.recv(5) == b"ready", process
    return our_end


def _serve(connection: socket.socket) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel removes monitors that have ended
    connection.sendall(b"ready")
    while True:
        header, descriptors, *_ = socket.recv_fds(connection, 8, 4)
        if not header:
            return
        # What follows is the next request.
        request = connection.recv(int.from_bytes(header, "big"), socket.MSG_WAITALL)
        if os.fork() == 0:
            connection.close()
            _monitor(json.loads(request), descriptors)
            return  # only in the worker, which then ends like any process
        for descriptor in descriptors:
            os.close(descriptor)


def _monitor(request: dict[str, Any], descriptors: list[int]) -> None:
    """Fork the worker. Send its process id, and its exit status when it ends."""
    *_, status = descriptors
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    pid = os.fork()
    if pid == 0:
        _work(request, descriptors)
        return
    for descriptor in descriptors[:3]:
        os.close(descriptor)
    os.write(status, f"{pid}\n".encode())
    _, ended = os.waitpid(pid, 0)
    try:
        os.write(status, f"{os.waitstatus_to_exitcode(ended)}\n".encode())
    finally:
        os._exit(0)


def _work(request: dict[str, Any], descriptors: list[int]) -> None:
    os.setsid()
    for descriptor, target in zip(descriptors, (0, 1, 2)):
        os.dup2(descriptor, target)
    for descriptor in descriptors:
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    clock.follow()
    sys.argv = ["worker"]
    from dg_sqlmesh_component.worker.__main__ import main

    main()


def _import_worker_modules() -> None:
    """Import as the worker's bootstrap does: this package by its path, and nothing from the working directory."""
    sys.path[:] = [entry for entry in sys.path if entry and Path(entry) != Path(__file__).parent]
    package = types.ModuleType("dg_sqlmesh_component")
    package.__path__ = [str(PACKAGE)]
    sys.modules["dg_sqlmesh_component"] = package
    from dg_sqlmesh_component.worker.sqlglot_sources import prefer_sqlglot_sources

    prefer_sqlglot_sources()
    import duckdb  # SQLMesh imports these when it opens and runs a project
    import pandas  # noqa: F401
    import sqlmesh.magics  # noqa: F401
    from sqlmesh.utils.date import to_datetime

    # A fork has no threads of its parent. With DuckDB's default connection, it might wait for such a thread at its end:
    # on Python 3.13, most forks waited until they were cut off.
    duckdb.close()

    # SQLMesh inspects the stack in each run, and dateparser compiles its expressions. Both cache the result.
    inspect.stack()
    to_datetime("6 days ago")

    import dg_sqlmesh_component.worker.__main__ as worker
    from dg_sqlmesh_component.protocol import messages as msg
    from dg_sqlmesh_component.protocol import wire

    modules = [msg, *(import_module(f"{package.__name__}.capabilities.{name}.messages") for name in _capabilities())]
    for value in {value for module in modules for value in vars(module).values() if isinstance(value, type)}:
        if issubclass(value, (msg.Request, msg.Event, msg.Answer)):
            wire._adapter(wire._name(value))
            if hasattr(value, "SERVED_BY"):
                worker._function(value.SERVED_BY)


def _capabilities() -> list[str]:
    return [path.parent.name for path in (PACKAGE / "capabilities").glob("*/messages.py")]


if __name__ == "__main__":
    _import_worker_modules()
    _serve(socket.socket(fileno=int(sys.argv[1])))
