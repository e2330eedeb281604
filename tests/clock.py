"""A clock that differs from the real one, and that several processes share."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone

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


class MovedClock:
    """A clock that a test moves. Between two moves it runs as the real one does."""

    def __init__(self, instant: datetime) -> None:
        self.move_to(instant)

    def move_to(self, instant: datetime) -> None:
        self.offset = instant.timestamp() - time.monotonic()

    @property
    def now(self) -> datetime:
        return datetime.fromtimestamp(time.monotonic() + self.offset, timezone.utc)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show its time to this process and to the processes that it starts."""
        before = os.environ.get(VARIABLE)
        os.environ[VARIABLE] = str(self.offset)
        traveller = start(self.offset)
        try:
            yield
        finally:
            traveller.stop()
            os.environ.pop(VARIABLE)
            if before is not None:
                os.environ[VARIABLE] = before
