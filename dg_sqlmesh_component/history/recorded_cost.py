"""What a computation costs. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RecordedCost:
    """What one interval of a model costs, by its last computations in Dagster.

    A model that is always computed as a whole has one interval. None if the engine does not report it.
    """

    seconds: float
    rows: float | None = None
    bytes: float | None = None
    fixed_seconds: float = 0.0  # what a computation costs in addition, however many intervals it has

    def of(self, intervals: float) -> RecordedCost:
        """What one computation of so many intervals costs."""
        return RecordedCost(
            self.fixed_seconds + self.seconds * intervals,
            None if self.rows is None else self.rows * intervals,
            None if self.bytes is None else self.bytes * intervals,
        )

    @staticmethod
    def total(costs: Sequence[RecordedCost]) -> RecordedCost | None:
        """What all of them cost; None without any. Unknown rows and bytes are left out."""
        if not costs:
            return None
        rows = [cost.rows for cost in costs if cost.rows is not None]
        by = [cost.bytes for cost in costs if cost.bytes is not None]
        return RecordedCost(sum(cost.seconds for cost in costs), sum(rows) if rows else None, sum(by) if by else None)
