"""What happens when a step is told to end: it says what is finished, and then it ends.

Dagster raises an interruption wherever its process happens to be, and closes the op's generator when that is
outside of it: what SQLMesh had finished by then would never be recorded. So for as long as the op runs, signals are
taken over: they ask the worker to stop, and the op ends by itself, with `DagsterExecutionInterruptedError`.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from dagster._utils.interrupts import pop_captured_interrupt

LOOK_SECONDS = 0.005
"""How often it is looked whether a signal came while Dagster was recording a result."""


class Interruption:
    """Takes over the signals that end a step; `on_interruption` is called once, from a thread."""

    def __init__(self, on_interruption: Callable[[], None]) -> None:
        self._on_interruption = on_interruption
        self._came = threading.Event()
        self._over = threading.Event()

    @property
    def came(self) -> bool:
        """Whether the step was told to end."""
        return self._came.is_set()

    def wait(self, seconds: float) -> None:
        """Wait, but no longer than until the step is told to end."""
        self._came.wait(seconds)

    def guard(self, results: Iterator[Any]) -> Iterator[Any]:
        """The same results; while they are made and recorded, signals are taken over."""
        watcher = threading.Thread(target=self._watch, name="dg-sqlmesh-interruption", daemon=True)
        watcher.start()
        try:
            self._take_over()
            for result in results:
                yield result
                self._take_over()  # Dagster has put its own handlers back
        finally:
            self._over.set()

    def _take_over(self) -> None:
        """Dagster restores its handlers whenever the op yields, ends or raises."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, self._on_signal)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._came.set()

    def _watch(self) -> None:
        while not self._over.is_set():
            if self._came.wait(LOOK_SECONDS) or pop_captured_interrupt():
                self._came.set()
                self._on_interruption()
                return
