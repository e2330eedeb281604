"""The rows that a plan loses, in words. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from dg_sqlmesh_component.capabilities.plans import messages as msg
from dg_sqlmesh_component.protocol.formatting import instant_text, ranges, unquoted
from dg_sqlmesh_component.protocol.intervals import ALL_TIME, merged, subtract


def refused(lost: msg.LostRows) -> msg.LostRows:
    """Those that neither the next run nor the load of a source brings back. The run config must accept them."""
    intervals = subtract(lost.intervals, [*lost.not_loaded, *lost.until_run])
    return replace(lost, intervals=intervals, not_loaded=(), until_run=())


@dataclass(frozen=True)
class LostPart:
    """Rows that are lost for the same time.

    Attributes:
        rows: Which ones, in words.
        until: Until when, as a clause after them; None: for good.
        means: What brings them back, in sentences, if the clause does not say it.
        refusal: The kind of refusal that names them; None if a plan is not refused for them.
    """

    rows: str
    until: str | None = None
    means: str = ""
    refusal: str | None = "lost_intervals"

    @property
    def text(self) -> str:
        return f"{self.rows} {self.until}" if self.until else self.rows


def lost_parts(lost: msg.LostRows, waits_for: Sequence[str] = ()) -> Iterator[LostPart]:
    """All of these rows, by how long they are lost. `waits_for`: the tables that are not loaded, if they are known."""
    later = lost.until_later_runs
    gone = subtract(lost.intervals, [*lost.not_loaded, *lost.until_run, *later])
    if gone or lost.without_time:
        yield LostPart(rows_text(gone, without_time=lost.without_time))
    if lost.of_past:
        yield LostPart("rows that the source does not have any more")
    if later:
        yield LostPart(
            rows_text(later), "until later runs compute them", "a run computes each after the end of its interval."
        )
    if lost.not_loaded:
        tables = ", ".join(map(unquoted, waits_for)) or "their source"
        means = "a run computes them then."
        yield LostPart(rows_text(lost.not_loaded), f"until {tables} is loaded", means, "not_loaded")
    if lost.until_run:
        yield LostPart(rows_text(lost.until_run), "until the next run", refusal=None)


def lost_text(lost: msg.LostRows, waits_for: Sequence[str] = ()) -> str:
    """All of these rows and how long they are lost: `rows before 2026-11-25, rows of ... until later runs`."""
    return ", ".join(part.text for part in lost_parts(lost, waits_for))


def rows_text(intervals: Sequence[msg.Interval], *, without_time: bool = False) -> str:
    """Rows by their time: `rows of 2026-11-26, rows before 2026-11-20, rows without a time`."""
    first, last = ALL_TIME
    if tuple(intervals) == (ALL_TIME,):
        return "all rows"
    parts = [f"rows before {instant_text(end)}" for start, end in intervals if start == first]
    bounded = [(start, end) for start, end in intervals if start != first and end != last]
    parts += [f"rows of {ranges(bounded, None)}"] if bounded else []
    parts += [f"rows from {instant_text(start)} on" for start, end in intervals if end == last]
    parts += ["rows without a time"] if without_time else []
    return ", ".join(parts)


def all_lost(rows: msg.PlannedRows) -> msg.LostRows:
    """What a model loses by its own change, and by those of models that it shows or reads."""
    own, read = rows.loses, rows.reads_lost
    return msg.LostRows(
        merged([*own.intervals, *read.intervals]),
        merged([*own.not_loaded, *read.not_loaded]),
        merged([*own.until_run, *read.until_run]),
        merged([*own.until_later_runs, *read.until_later_runs]),
        own.without_time or read.without_time,
        own.of_past or read.of_past,
    )
