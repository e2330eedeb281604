"""A clock that differs from the real one, and that several processes share."""

from __future__ import annotations

import os
import time

import time_machine

VARIABLE = "TEST_CLOCK_OFFSET"
"""The environment variable from which a process learns its offset, in seconds from the monotonic clock."""


def start(offset: float) -> time_machine.travel:
    """Show another time in this process, from now on."""
    while True:
        traveller = time_machine.travel(time.monotonic() + offset)
        traveller.start()
        # The process may have been interrupted in between. Clocks that differ would reverse the order of events.
        if abs(time.time() - time.monotonic() - offset) < 0.001:
            return traveller
        traveller.stop()


def follow() -> None:
    """Show the time that the environment of this process asks for, if any."""
    if VARIABLE in os.environ:
        start(float(os.environ[VARIABLE]))
