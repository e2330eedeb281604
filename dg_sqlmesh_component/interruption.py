"""What happens when a step is told to end: it says what is finished, and then it ends.

Dagster raises an interruption wherever its process happens to be, and closes the op's generator when that is
outside of it: what SQLMesh had finished by then would never be recorded. So for as long as the op runs, signals are
taken over: they ask the worker to stop, and the op ends by itself, with `DagsterExecutionInterruptedError`.
"""

from __future__ import annotations

import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from dagster._utils import interrupts


class _Captured(dict[str, bool]):
    """In the place where Dagster notes a signal that comes while it records a result, to raise it afterwards."""

    def __init__(self, tell: Callable[[], None]) -> None:
        super().__init__(received=False)
        self._tell = tell

    def __setitem__(self, key: str, value: bool) -> None:
        if value:
            self._tell()


_NUMBERS = (signal.SIGINT, signal.SIGTERM)


def keeping_handlers(results: Iterator[Any]) -> Iterator[Any]:
    """The same results; whoever had taken over signals when one was yielded has them again behind it.

    Dagster puts its own handlers back at each result. It belongs outside of everything that makes several results of
    one: `Interruption.guard` does not get its turn between them.
    """
    for result in results:
        handlers = {number: signal.getsignal(number) for number in _NUMBERS}
        yield result
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():
                if handler is not None:  # not installed from Python
                    signal.signal(number, handler)


class Interruption:
    """Takes over the signals that end a step; `on_interruption` is called once, from a thread."""

    def __init__(self, on_interruption: Callable[[], None]) -> None:
        self._on_interruption = on_interruption
        self._came = False
        self._over = False
        # A signal's handler may run while this very thread holds the lock of an Event; a SimpleQueue allows that.
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()

    @property
    def came(self) -> bool:
        """Whether the step was told to end."""
        return self._came

    def wait(self, seconds: float) -> None:
        """Wait, but no longer than until the step is told to end."""
        until = time.monotonic() + seconds
        while not self._came and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, 0.1))

    def guard(self, results: Iterator[Any]) -> Iterator[Any]:
        """The same results; while they are made and recorded, signals are taken over."""
        watcher = threading.Thread(target=self._watch, name="dg-sqlmesh-interruption", daemon=True)
        watcher.start()
        noted, interrupts._received_interrupt = interrupts._received_interrupt, _Captured(self._tell)
        try:
            self._take_over()
            for result in results:
                yield result
                self._take_over()  # Dagster has put its own handlers back
        finally:
            interrupts._received_interrupt = noted
            self._over = True
            self._wake.put(None)

    def _take_over(self) -> None:
        """Dagster restores its handlers whenever the op yields, ends or raises."""
        if threading.current_thread() is threading.main_thread():
            for number in _NUMBERS:
                signal.signal(number, self._on_signal)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._tell()

    def _tell(self) -> None:
        self._came = True
        self._wake.put(None)

    def _watch(self) -> None:
        self._wake.get()
        if not self._over:
            self._on_interruption()
