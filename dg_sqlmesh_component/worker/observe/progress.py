"""Which nodes run, and how far they are. Pure: the caller passes the time.

A report is rare, because it becomes an event of Dagster: a run of many hours has about a hundred.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from threading import Lock

from dg_sqlmesh_component.protocol import messages as msg

FIRST_SECONDS = 1.0
"""The first report comes so long after the start of the first batch. Shorter runs have none."""

SHORTEST_PAUSE_SECONDS = 10.0
"""There is at most one report in this time."""

PAUSE_SHARE = 20
"""A pause lasts at least this fraction of the time since the first batch: one twentieth."""


class Progress:
    """Batches of one run that have started and finished. Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._planned: dict[str, Sequence[msg.Interval]] = {}
        self._finished: defaultdict[str, list[msg.Interval]] = defaultdict(list)
        self._in_flight: Counter[str] = Counter()
        self._started: dict[str, float] = {}
        self._has_changed = False
        self._next_report = 0.0

    def plan(self, batches: Mapping[str, Sequence[msg.Interval]]) -> None:
        """Note the batches of each node. Those that have finished belong to an earlier plan."""
        with self._lock:
            self._planned = dict(batches)
            self._finished.clear()

    def add(self, batches: Mapping[str, Sequence[msg.Interval]]) -> None:
        """Note more batches of some nodes."""
        with self._lock:
            for fqn, added in batches.items():
                self._planned[fqn] = (*self._planned.get(fqn, ()), *added)

    def start(self, fqn: str, now: float) -> None:
        with self._lock:
            if not self._started:
                self._next_report = now + FIRST_SECONDS
            self._started.setdefault(fqn, now)
            self._in_flight[fqn] += 1
            self._has_changed = True

    def end(self, fqn: str, finished: msg.Interval | None) -> bool:
        """Note that a batch ends; None if it failed. Return whether it has finished as the last one of its node."""
        with self._lock:
            self._in_flight[fqn] -= 1
            self._has_changed = True
            if finished is None:
                return False
            self._finished[fqn].append(finished)
            return len(self._finished[fqn]) == len(self._planned.get(fqn, ()))

    def finished(self, fqn: str) -> list[msg.Interval]:
        with self._lock:
            return list(self._finished[fqn])

    @property
    def running(self) -> tuple[str, ...]:
        """The nodes with a batch in flight, sorted."""
        with self._lock:
            return tuple(sorted(+self._in_flight))

    @property
    def unfinished(self) -> tuple[str, ...]:
        with self._lock:
            return tuple(fqn for fqn, batches in self._planned.items() if len(self._finished[fqn]) < len(batches))

    def report(self, now: float) -> msg.BatchesRunning | None:
        """What runs now; None if it is too early, nothing runs, or nothing has changed since the last report."""
        with self._lock:
            running = +self._in_flight
            if not running or not self._has_changed or now < self._next_report:
                return None
            began = min(self._started.values())
            self._next_report = now + max(SHORTEST_PAUSE_SECONDS, (now - began) / PAUSE_SHARE)
            self._has_changed = False
            return msg.BatchesRunning(
                running={
                    fqn: (len(self._finished[fqn]), len(self._planned.get(fqn, (None,))), now - self._started[fqn])
                    for fqn in running
                },
                finished=sum(0 < len(batches) == len(self._finished[fqn]) for fqn, batches in self._planned.items()),
                planned=sum(map(bool, self._planned.values())),
            )
