"""Signals stay with whoever took them over, while Dagster puts its own handlers back at each result."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from types import FrameType

from dg_sqlmesh_component.interruption import keeping_handlers


def _ours(_number: int, _frame: FrameType | None) -> None:
    pass


def _of_dagster(_number: int, _frame: FrameType | None) -> None:
    pass


def test_whoever_took_over_signals_has_them_between_two_results_of_one() -> None:
    seen = []

    def results() -> Iterator[int]:
        signal.signal(signal.SIGTERM, _ours)
        for result in range(3):
            yield result
            seen.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    try:
        for _ in keeping_handlers(results()):
            signal.signal(signal.SIGTERM, _of_dagster)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == [_ours] * 3
