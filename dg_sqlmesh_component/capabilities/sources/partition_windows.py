"""The time windows of partition keys, by a definition alone. Pure.

Dagster finds a window for keys of other partitions too: for a day, the week or month that begins after it. Here a key
has a window only if a window of the definition's schedule begins there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cache, cached_property, lru_cache

import dagster as dg

from dg_sqlmesh_component.dagster_internals.assets import time_dimension
from dg_sqlmesh_component.protocol.intervals import merged, subtract
from dg_sqlmesh_component.protocol.messages import Interval


@dataclass(frozen=True)
class WindowsUntil:
    """The windows that a definition has at an instant."""

    definition: dg.TimeWindowPartitionsDefinition
    now: int  # the instant, in epoch milliseconds

    @cached_property
    def first(self) -> int:
        """When the first window begins, even if it does not exist yet. The definition may start before."""
        window = self.definition.get_next_partition_window(self.definition.start, respect_bounds=False)
        assert window is not None, "without bounds, there is always a next window"
        return _milliseconds(window.start)

    @cached_property
    def last(self) -> int | None:
        """When the last window begins; None if there is none yet."""
        with dg.partition_loading_context(datetime.fromtimestamp(self.now / 1000, timezone.utc)):
            window = self.definition.get_last_partition_window()
        return None if window is None else _milliseconds(window.start)

    @cached_property
    def keys(self) -> Sequence[str]:
        """All partition keys, in order."""
        if self.last is None or self.last < self.first:
            return ()
        return self.definition.get_partition_keys(datetime.fromtimestamp(self.now / 1000, timezone.utc))

    def excludes(self, window: Interval) -> bool:
        """Whether the definition excludes a window of its schedule. Dagster's own test confuses repeated hours."""
        if not self.definition.exclusions:
            return False
        begin = datetime.fromtimestamp(window[0] / 1000, timezone.utc)
        following = self.definition.get_next_partition_window(begin, respect_bounds=False)
        return following is None or _milliseconds(following.start) != window[0]

    @cached_property
    def excluded(self) -> Sequence[Interval]:
        """The ranges from the first window to the next one for which the definition has none.

        So a weekend that it excludes does not wait for Monday's partition.
        """
        if not self.definition.exclusions:
            return ()
        by_key = windows_by_key(self.definition)
        windows = merged(window for key in self.keys if (window := by_key[key]))
        return subtract([(windows[0][0], self._next_after(windows[-1][1]))], windows) if windows else ()

    def _next_after(self, last: int) -> int:
        """When the window after the last one begins, or the definition ends, in epoch milliseconds."""
        end = datetime.fromtimestamp(last / 1000, timezone.utc)
        window = self.definition.get_next_partition_window(end, respect_bounds=False)
        assert window is not None, "without bounds, there is always a next window"
        begins = _milliseconds(window.start)
        return max(last, begins if self.definition.end is None else min(begins, _milliseconds(self.definition.end)))


windows_until = lru_cache(maxsize=100)(WindowsUntil)
"""Many assets have the same partitions."""


def windows_of(definition: dg.PartitionsDefinition[str], keys: Iterable[str]) -> dict[str, Interval]:
    """The window of each partition of an asset that has one time dimension, without keys of earlier partitions."""
    time = time_dimension(definition)
    assert time is not None, "its partitions have time windows"
    windows = windows_by_key(time)
    if not isinstance(definition, dg.MultiPartitionsDefinition):
        return {key: window for key in keys if (window := windows[key])}
    split = {key: parts for key in keys if (parts := split_key(definition, key))}
    return {key: window for key, parts in split.items() if (window := windows[parts[0]])}


def split_key(definition: dg.MultiPartitionsDefinition, key: str) -> tuple[str, str] | None:
    """The keys of both dimensions, that of time first if there is one; None for a key of other partitions."""
    parts = key.split("|")
    if len(parts) != len(definition.partitions_defs):
        return None
    return (parts[1], parts[0]) if _is_time_second(definition) else (parts[0], parts[1])


def joined_key(definition: dg.PartitionsDefinition[str], time: str, other: str) -> str:
    """The key of a partition of two dimensions, as `split_key` splits it."""
    assert isinstance(definition, dg.MultiPartitionsDefinition), "it has two dimensions"
    return f"{other}|{time}" if _is_time_second(definition) else f"{time}|{other}"


def _is_time_second(definition: dg.MultiPartitionsDefinition) -> bool:
    dimensions = [each.partitions_def for each in definition.partitions_defs]
    return [isinstance(each, dg.TimeWindowPartitionsDefinition) for each in dimensions] == [False, True]


class _Windows(dict[str, "Interval | None"]):
    """The windows of a schedule that this process has looked up. Many assets have the same partitions."""

    def __init__(self, definition: dg.TimeWindowPartitionsDefinition) -> None:
        super().__init__()
        self._schedule = _schedule(definition)

    def __missing__(self, key: str) -> Interval | None:
        window = _window(self._schedule, key)
        self[key] = None if window is None else (_milliseconds(window.start), _milliseconds(window.end))
        return self[key]


@cache
def windows_by_key(definition: dg.TimeWindowPartitionsDefinition) -> Mapping[str, Interval | None]:
    """The window of the schedule that a key names: before the start, after the end, and excluded ones too.

    It is None for a key of other partitions.
    """
    return _Windows(definition)


def _window(schedule: dg.TimeWindowPartitionsDefinition, key: str) -> dg.TimeWindow | None:
    try:
        window = schedule.time_window_for_partition_key(key)
    except (ValueError, OverflowError):  # anybody may report any text, and also the year 9999
        return None
    # Dagster's own text takes longer. It also knows the keys of an hour that the clock shows twice.
    if window.start.strftime(schedule.fmt) == key:
        return window
    return window if schedule.get_partition_key_for_timestamp(window.start.timestamp()) == key else None


def _schedule(definition: dg.TimeWindowPartitionsDefinition) -> dg.TimeWindowPartitionsDefinition:
    """The definition without its exclusions, for which Dagster finds the next window."""
    if not definition.exclusions:
        return definition
    return dg.TimeWindowPartitionsDefinition(
        definition.start, definition.fmt, timezone=definition.timezone, cron_schedule=definition.cron_schedule
    )


def _milliseconds(instant: datetime) -> int:
    return round(instant.timestamp() * 1000)
