"""When a plan has caught up with the runs that go on beside it. Pure.

Each round computes what the new versions of the plan lack, and then the plan looks again, with the lock of runs held.
The rounds end with the first of three:

1. The new versions lack nothing.
2. They lack what the round before has tried to compute, and no run has changed anything since: it waits for signals.
   What waits for another model is tried once more with the lock, because that model may be one that a run computes.
3. There were `FREE_ROUNDS` without the lock of runs and `LOCKED_ROUNDS` with it: signals have released more in each.
   The rest is pending, and the next run computes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set

from dg_sqlmesh_component.protocol.messages import Interval

FREE_ROUNDS = 3
"""How often a plan computes without the lock, so that runs wait shortly for the last time.

Without these rounds, runs wait as long as catching up takes (ADR-0048).
"""
LOCKED_ROUNDS = 3
"""How often a plan then computes with the lock, while runs wait."""

Lacking = Mapping[str, Sequence[Interval]]
"""Intervals by the model's name."""


class Rounds:
    """The rounds of one plan.

    Attributes:
        number: How many rounds have begun.
        keeps_lock: Whether the plan keeps the lock of runs during the round that `next` has begun.
        has_reached_bound: Whether the rounds have ended although the last one computed something.
    """

    def __init__(self, *, keeps_lock: bool) -> None:
        self.number = 0
        self.keeps_lock = keeps_lock
        self.has_reached_bound = False
        self._locked = 0
        self._tried: tuple[Lacking, int] | None = None

    def next(self, lacking: Lacking, times_forgotten: int, waits_for_models: Set[str]) -> Lacking:
        """What the next round computes; nothing if the rounds have ended.

        Args:
            lacking: What the new versions lack now.
            times_forgotten: How often they had to forget intervals because of runs, which counts up.
            waits_for_models: The models that the round before held back because of other models.
        """
        is_tried, self._tried = self._tried == (lacking, times_forgotten), (lacking, times_forgotten)
        if is_tried:
            lacking = {} if self.keeps_lock else {name: lacking[name] for name in lacking if name in waits_for_models}
        self.keeps_lock = self.keeps_lock or is_tried or self.number >= FREE_ROUNDS
        self.has_reached_bound = bool(lacking) and self._locked >= LOCKED_ROUNDS
        if not lacking or self.has_reached_bound:
            return {}
        self.number += 1
        self._locked += self.keeps_lock
        return lacking
