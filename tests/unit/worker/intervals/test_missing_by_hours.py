"""Random incremental models: which intervals are missing or wait, compared with one plain rule for each interval.

The rule was written from docs/ and the descriptions of the arguments alone, without a look at the functions.
"""

from collections.abc import Iterable
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from dg_sqlmesh_component.protocol.intervals import merged
from dg_sqlmesh_component.protocol.messages import Interval
from dg_sqlmesh_component.worker.intervals.missing import Expected, coverage, missing

EXAMPLES = 5 * settings().max_examples


class Model:
    """An incremental model, with the state of each interval: "rows", "copied", "forgotten" or "never" computed."""

    def __init__(self, seed: int) -> None:
        self.rng = rng = Random(seed)
        self.unit = rng.choice((1, 3))
        self.period, self.now = self.unit * rng.choice((1, 1, 2, 5)), rng.randint(1, 12 * self.unit)
        over = [(at, at + self.unit) for at in range(0, self.now - self.unit + 1, self.unit)]
        self.state = {interval: rng.choice(("rows", "rows", "copied", "forgotten", "never")) for interval in over}
        by_lookback, self.late = self.some(self.having("rows", "copied")), self.some(self.having("rows"))
        pending = sorted(self.having("forgotten", "never") | by_lookback)
        self.awaited, self.unready = self.some(pending), self.some(pending)
        self.until = self.now // self.period * self.period
        self.node = Expected(
            until=self.until,
            pending=pending,
            waits_for_tables=lambda: self.awaited,
            due_at=self.due_at,
            computed=merged(self.having("rows", "copied")),
            forgotten=merged(self.having("forgotten")),
            copied=merged(self.having("copied")),
            late=merged(self.late),
            unready=self.unready,
        )

    def some(self, intervals: Iterable[Interval]) -> set[Interval]:
        return {interval for interval in sorted(intervals) if self.rng.random() < 0.4}

    def having(self, *states: str) -> set[Interval]:
        return {interval for interval, state in self.state.items() if state in states}

    def due_at(self, at: int) -> int:
        return -(-at // self.period) * self.period

    def goes_on(self) -> None:
        """A batch forgets intervals that have been computed, and computes some of the pending ones."""
        pending = set(self.node.pending)
        forgotten, done = self.some(self.having("rows", "copied") & pending), self.some(pending)
        self.state |= dict.fromkeys(forgotten, "forgotten") | dict.fromkeys(done, "rows")
        self.late -= forgotten | done
        self.node = self.node.after(merged(done), merged(forgotten))

    def rule(self, interval: Interval) -> str:
        # "If a `lookback` will compute it again, it is not missing." The same holds for intervals that were copied.
        if self.state[interval] in ("rows", "copied"):
            return "neither"
        # "Their rows may be gone, old or bad", so the cron and what it waits for do not count.
        if self.state[interval] == "forgotten":
            return "missing"
        # "If the cron has not ticked for it, it is not missing."
        if interval[1] > self.until:
            return "neither"
        # "The coverage names the waiting range. It is a gap only if it was computed before."
        return "waits" if interval in self.awaited | self.unready else "missing"


@settings(max_examples=EXAMPLES)
@given(st.integers(0, 2**32))
def test_each_interval_is_missing_or_waits_as_the_docs_say(seed: int) -> None:
    model = Model(seed)
    for _ in range(4):
        by_rule = [[of for of in sorted(model.state) if model.rule(of) == kind] for kind in ("missing", "waits")]
        assert list(missing(model.node)) == by_rule
        assert merged(model.node.filled) == merged(model.having("rows"))
        model.goes_on()


@settings(max_examples=EXAMPLES)
@given(st.integers(0, 2**32))
def test_the_coverage_counts_what_is_filled_missing_and_waiting(seed: int) -> None:
    model = Model(seed)
    for _ in range(4):
        found, filled = coverage("m", model.node, model.now), sorted(model.having("rows"))
        gaps, waits = ([of for of in model.state if model.rule(of) == kind] for kind in ("missing", "waits"))
        first, last = (filled[0][0], filled[-1][1]) if filled else (0, 0)
        assert found.computed == ((first, last) if filled else None)
        assert found.lacking == last - first - model.unit * len(filled)
        assert (found.gaps, found.gap_count, found.missing_intervals) == (merged(gaps), len(merged(gaps)), len(gaps))
        assert (found.waiting, found.late) == (merged(waits), merged(model.late))
        # "... from the first tick of the model's cron at or after the end of the interval. If that tick is in the
        # future, the time counts from the end of the interval."
        since = [model.due_at(end) if model.due_at(end) <= model.now else end for _, end in gaps]
        assert found.missing_since == (since[0] if since else None)
        model.goes_on()
