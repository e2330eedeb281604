"""Decide which data of a table Dagster has not recorded, and which of it is older than its source."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dg_sqlmesh_component.protocol.intervals import ComputedRange, common, subtract
from dg_sqlmesh_component.protocol.messages import Interval, RecordedData, SourceLoad


@dataclass(frozen=True)
class ShownTable:
    """The table or view by which an environment shows a model.

    Attributes:
        version: Of the table.
        rows: What SQLMesh has computed into it.
        computed: The intervals whose rows are in it.
        promoted_at: When the last plan of the environment finished, epoch milliseconds.
        is_shown_again: Whether it is a view that a plan may have created again since its record.
        created_at: When the promoted version was created, if the table is new with it. None for an older table.
        whole: The range of the model's own intervals that a range overlaps.
    """

    version: str | None
    rows: Sequence[ComputedRange]
    computed: Sequence[Interval]
    promoted_at: int
    is_shown_again: bool
    created_at: int | None
    whole: Callable[[Interval], Interval]


def unrecorded(table: ShownTable, recorded: RecordedData | None) -> tuple[tuple[Interval, int], ...]:
    """The ranges of a table that Dagster has not recorded, with times.

    SQLMesh's janitor merges ranges: then more than the new ones are returned, but never less.
    """
    if not table.rows:
        return ()
    if recorded is None or recorded.version != table.version:
        # Each with its own time: until a plan has ended, runs may have recorded some of them.
        timed = [(interval, row.at) for row in table.rows for interval in common([row.interval], table.computed)]
        others, newest = subtract(table.computed, [of for of, _ in timed]), max(row.at for row in table.rows)
        return *timed, *((interval, newest) for interval in others)
    new = tuple((row.interval, row.at) for row in table.rows if row.at > recorded.up_to)
    if not new and table.is_shown_again:
        return tuple((interval, table.promoted_at) for interval in table.computed)
    return new


def late(table: ShownTable, loads: Sequence[SourceLoad]) -> tuple[Interval, ...]:
    """The whole intervals that a model had computed before its source was loaded.

    A merged range is no evidence that a range known as late was computed again, unless the table is newer.
    """
    found: list[Interval] = []
    for load in loads:
        is_evidence = not load.is_late or (table.created_at is not None and table.created_at > load.at)
        since = [row.interval for row in table.rows if row.at > load.at and (is_evidence or not row.is_merged)]
        found += subtract([load.interval], since)
    return common(map(table.whole, common(found, table.computed)), table.computed)
