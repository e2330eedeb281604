"""A step that is told to end: it reports what is finished, and then it ends by itself.

Theory of operation. Dagster's handler of SIGINT and SIGTERM raises wherever the process happens to be, and Dagster
closes the op's generator if that is outside of it: what SQLMesh has finished by then would never be recorded. So while
the op's results are made and recorded, the signals are ours.

States: *running*; *told to end* (`came` is true), after the first signal; *over*, when the generator has ended.

- A signal sets `came` and wakes a thread, which calls `on_interruption` once: the worker is asked to stop. The handler
  itself does nothing else, since it may run while this very thread holds a lock.
- The op goes on yielding until the worker has ended, and raises `DagsterExecutionInterruptedError` itself.
- Dagster installs and removes its handlers around every result. `_TakenOver` stands in for the function that does so:
  it remembers what Dagster wants and installs nothing. To put ours back after Dagster's would leave a moment in which
  Dagster's handler raises.

Invariants: while the op runs, no handler of Dagster's is installed; afterwards exactly the one is that Dagster
believes to be; `on_interruption` is called at most once. Outside of the main thread nobody can install handlers, and
only the watching thread remains.
"""

from __future__ import annotations

import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from dg_sqlmesh_component.dagster_internals import replace_signal_installer, signal_installer

_NUMBERS = (signal.SIGINT, signal.SIGTERM)


class _TakenOver:
    """Stands in for the function by which Dagster installs its handlers, at each result twice: only takes note of them.

    Putting our own handlers back behind Dagster would leave a moment in which its handler raises.
    """

    def __init__(self, ours: Callable[[int, FrameType | None], None]) -> None:
        self._ours = ours
        self._install = signal_installer()
        self._outside: Any = None
        self._wanted = signal.getsignal(signal.SIGINT)
        for number in _NUMBERS:
            signal.signal(number, ours)
        # Last, since until here Dagster's handler may raise.
        replace_signal_installer(self._take_note)

    def hand_back(self) -> None:
        """Install what Dagster believes to be installed."""
        replace_signal_installer(self._install)
        if self._outside is not None and self._wanted is not self._outside:
            replace_signal_installer(self._install_once)
        self._install(self._wanted)

    def _take_note(self, handler: Any) -> None:
        if self._outside is None:  # the first that Dagster puts back: the one from before the op
            self._outside = handler
        self._wanted = self._outside if handler == self._ours else handler

    def _install_once(self, handler: Any) -> None:
        """When the op ends, Dagster puts back what it found when the op went on last: ours."""
        if handler == self._ours:
            replace_signal_installer(self._install)
            handler = self._outside
        self._install(handler)


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
        # Elsewhere nobody can install handlers, Dagster neither.
        is_main = threading.current_thread() is threading.main_thread()
        taken_over = _TakenOver(self._on_signal) if is_main else None
        try:
            yield from results
        finally:
            self._over = True
            self._wake.put(None)
            if taken_over is not None:
                taken_over.hand_back()

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._came = True
        self._wake.put(None)

    def _watch(self) -> None:
        self._wake.get()
        if not self._over:
            self._on_interruption()
