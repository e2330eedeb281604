"""What the servers of tests have in common: free ports, users, processes, their start and end."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, Generic, TypeVar

T = TypeVar("T")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def as_user(user: str, group: str) -> dict[str, Any]:
    """Options of a process that refuses to run as root: it is started as another user if the tests are root's."""
    return {"user": user, "group": group, "extra_groups": []} if os.geteuid() == 0 else {}


def parent_of(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    except OSError:
        return None


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z" if Path("/proc").exists() else True


@contextmanager
def folder_of(name: str, options: dict[str, Any]) -> Iterator[Path]:
    """A temporary folder of a server, which its user can reach."""
    folder = Path(tempfile.mkdtemp(prefix=f"dg_sqlmesh_{name}_"))
    if options:
        shutil.chown(folder, options["user"])
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def running(
    command: Sequence[str | Path], folder: Path, is_ready: Callable[[], bool], stop: int, **options: Any
) -> Iterator[None]:
    """Run a server until the block ends, and stop it with a signal. The block begins when the server is ready."""
    options |= {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, cwd=folder, **options)
    try:
        deadline = time.monotonic() + 120
        while not is_ready():
            assert process.poll() is None, f"{command[0]} did not start"
            assert time.monotonic() < deadline, f"{command[0]} did not answer within two minutes"
            time.sleep(0.1)
        yield
    finally:
        process.send_signal(stop)
        process.wait(60)


class SharedServer(Generic[T]):
    """A server that the tests of a process share. The first of them starts it."""

    def __init__(self, start: Callable[[], AbstractContextManager[T]]) -> None:
        self.start, self.stack = start, ExitStack()
        self.server: T | None = None

    def get(self) -> T:
        if self.server is None:
            self.server = self.stack.enter_context(self.start())
        return self.server

    def stop(self) -> None:
        """End the server, if any."""
        self.stack.close()
        self.server = None
