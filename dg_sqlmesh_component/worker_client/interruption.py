"""Lets a cancelled step report all finished models before it ends.

Theory of operation. Dagster's handler of SIGINT and SIGTERM raises an exception wherever the process happens to be. If
that is outside of the op's generator, Dagster closes the generator, and batches that SQLMesh has finished are never
recorded. So this module handles both signals while the op yields results and Dagster records them.

States: *running*; *cancelled* (`is_cancelled` is true) after the first signal; *over* after the generator has ended.

- The signal handler sets `is_cancelled` and wakes a thread, which calls `on_interruption` once: `WorkerSession` then
  stops the worker in three stages (`Worker.cancel`). The handler does nothing else, because the thread that it
  interrupts may hold a lock.
- The same thread asks every `RUN_CHECK_SECONDS` whether the step still belongs to a run. If the process of the run was
  killed, the processes of its steps live on, and nobody sends them a signal (ADR-0022). Some executors send none if a
  run is cancelled, such as Celery's.
- The op yields results until the worker has ended, and then raises `DagsterExecutionInterruptedError` itself.
- Dagster installs and removes its handlers around every result. `_SignalTakeover` replaces the function that does this.
  It only remembers which handler Dagster wants. If it let Dagster install the handler and then installed ours again,
  Dagster's handler could raise in between.

Invariants:

- While the op runs, no handler of Dagster's is installed. Afterwards, the handler that Dagster has requested is.
- `on_interruption` is called at most once.
- Python allows handlers in the main thread only. In another thread, there is no takeover and no signal to handle.
"""

from __future__ import annotations

import logging
import multiprocessing
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import dagster as dg

from dg_sqlmesh_component.dagster_internals.steps import replace_signal_installer, signal_installer

_NUMBERS = (signal.SIGINT, signal.SIGTERM)

_ENDED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]

RUN_CHECK_SECONDS = 15.0
"""How often a step asks whether its run has ended."""


def has_ended(instance: dg.DagsterInstance, run_id: str) -> bool:
    """Whether Dagster has recorded the end of a run. Its processes may still be there."""
    return instance.get_runs_count(dg.RunsFilter(run_ids=[run_id], statuses=_ENDED)) > 0


class _SignalTakeover:
    """Installs our handler, and replaces the function by which Dagster installs its own, until `hand_back`."""

    def __init__(self, handler: Callable[[int, FrameType | None], None]) -> None:
        self._handler = handler
        self._install = signal_installer()
        self._handler_before_op: Any = None
        self._requested = signal.getsignal(signal.SIGINT)
        for number in _NUMBERS:
            signal.signal(number, handler)
        # This comes last, because Dagster's handler may raise until here.
        replace_signal_installer(self._remember)

    def hand_back(self) -> None:
        """Install the handler that Dagster has requested last."""
        replace_signal_installer(self._install)
        if self._handler_before_op is not None and self._requested is not self._handler_before_op:
            replace_signal_installer(self._install_once)
        self._install(self._requested)

    def _remember(self, handler: Any) -> None:
        if self._handler_before_op is None:  # Dagster's first request restores the handler from before the op
            self._handler_before_op = handler
        self._requested = self._handler_before_op if handler == self._handler else handler

    def _install_once(self, handler: Any) -> None:
        """When the op ends, Dagster restores the handler that was installed when it last resumed the op: ours."""
        if handler == self._handler:
            replace_signal_installer(self._install)
            handler = self._handler_before_op
        self._install(handler)


class Interruption:
    """Handles the signals that cancel a step, and the end of its run without a signal.

    Args:
        context: The step's.
        on_interruption: Called once, in a thread.
    """

    def __init__(self, context: dg.OpExecutionContext, on_interruption: Callable[[], None]) -> None:
        self._context = context
        self._on_interruption = on_interruption
        self.is_cancelled = False
        """Whether the step was cancelled."""
        self._over = False
        # Not an Event: a signal handler may interrupt the thread that holds the Event's lock. A SimpleQueue is safe.
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()

    def wait(self, seconds: float) -> None:
        """Wait for some seconds, or until the step is cancelled."""
        until = time.monotonic() + seconds
        while not self.is_cancelled and (remaining := until - time.monotonic()) > 0:
            time.sleep(min(remaining, 0.1))

    def guard(self, results: Iterator[Any]) -> Iterator[Any]:
        """The same results. Signals are handled here while they are computed and recorded."""
        watcher = threading.Thread(target=self._watch, name="dg-sqlmesh-interruption", daemon=True)
        watcher.start()
        is_main = threading.current_thread() is threading.main_thread()
        takeover = _SignalTakeover(self._on_signal) if is_main else None
        try:
            yield from results
        finally:
            self._over = True
            self._wake.put(None)
            if takeover is not None:
                takeover.hand_back()

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self.is_cancelled = True
        self._wake.put(None)

    def _watch(self) -> None:
        while not self.is_cancelled and not self._over:
            try:
                self._wake.get(timeout=RUN_CHECK_SECONDS)
            except queue.Empty:
                self._stop_without_run()
        if not self._over:
            self._on_interruption()

    def _stop_without_run(self) -> None:
        """Cancel the step if it belongs to no run any more."""
        try:
            why = self._why_without_run()
        except Exception:  # of any storage, which may be back at the next question
            logging.getLogger(__name__).warning(
                "Dagster's storage did not answer whether the run goes on", exc_info=True
            )
            return
        if why is not None and not self._over:
            self.is_cancelled = True
            self._context.log.warning(f"{why}. The step stops, as if the run was cancelled.")

    def _why_without_run(self) -> str | None:
        run = self._context.instance.get_run_by_id(self._context.run.run_id)
        if run is not None and run.is_finished:
            return "In Dagster, this run has ended, but the process of this step has not"
        if run is not None and run.status is dg.DagsterRunStatus.CANCELING:
            return "Somebody cancels this run, and no signal has reached this step"
        parent = multiprocessing.parent_process()
        if parent is not None and not parent.is_alive():
            return f"The process that started this step (PID {parent.pid}) is gone"
        return None
