"""Run a function in a fork of the test process, which has imported Dagster already."""

import os
import signal
import subprocess
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias


class ForkedProcess:
    """The part of `subprocess.Popen[str]` that tests use. What the function returns is the process's output."""

    def __init__(self, run: Callable[[], str], log: Path | None = None) -> None:
        """Start the process.

        Args:
            log: The file to which its output is appended; None to drop it.
        """
        self.returncode: int | None = None
        self._result, write = os.pipe()
        self.pid = os.fork()
        if self.pid:
            os.close(write)
            return
        status = 1
        try:
            os.setsid()
            output = os.open(log or os.devnull, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            for stream in (1, 2):
                os.dup2(output, stream)
            os.write(write, run().encode())
            status = 0
        except BaseException:  # noqa: BLE001  # the process ends here
            traceback.print_exc()
        finally:
            os._exit(status)

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        deadline = time.monotonic() + (timeout if timeout is not None else 600)
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("fork", timeout or 0)
            time.sleep(0.01)
        return code

    def communicate(self, timeout: float | None = None) -> tuple[str, None]:
        self.wait(timeout)
        with os.fdopen(self._result) as result:
            return result.read(), None

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


AnyProcess: TypeAlias = "subprocess.Popen[str] | ForkedProcess"
