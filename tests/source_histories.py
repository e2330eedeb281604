"""Random histories of an external table's loads, and an oracle: for which instants is the table complete?

The oracle follows the page "When a source is complete" sentence by sentence. It was written without a look at the code
that implements the page. It is slow on purpose, and computes windows with its own arithmetic, not with Dagster's.

- `histories()` draws a `History`.
- `is_complete(history, instant)` is the verdict of the page on one instant, `instants(history)` are those to ask for.
- `dagster_definition(definition)` and `dynamic_keys(definition)` build what the implementation under test needs.

Where the page says nothing:

- An instant that is equal to a bound is not complete: "up to" excludes it.
- The last load, the newest result and "older" are by the order of events, not by the start of runs.
- A check that failed on a reported load refuses this load only: reported loads have no run.
- A check planned for some partitions refuses all loads of the run. A result frees those that it is about.
- Text, booleans, NaN, infinity and numbers beyond the year 9999 (milliseconds) are no timestamps in seconds.
- An asset with windows and a dynamic dimension without keys is complete before its first window, and where windows are
  excluded. An asset with a dynamic dimension without keys and without windows is complete for nothing.

What Dagster 1.13 does when the clock changes (found by experiment):

- A schedule that ticks in every hour ticks at each instant whose local time matches: twice in an hour that is shown
  twice, never in an hour that is skipped. The key of the second of two equal local times ends with its UTC offset
  (`2025-11-02-01:00-0500`).
- Every other schedule ticks once a local time. If that time is shown twice: at the second one. If it is skipped: at
  the first instant after the change (03:00 instead of 02:30), once also if several ticks move there. The key is the
  local time of that instant.
- With one tick an hour, the zone Australia/Lord_Howe (a change by 30 minutes) has no definite windows: Dagster adds
  whole hours to the instant at which it begins to iterate, and the offset of the day on which the process runs decides
  whether the minute is one of UTC or a local one. Such definitions are not drawn. Ticks at :00 and :30 are.
- The beginning, the end and the excluded datetimes of a definition mean the first of two equal local times. Dagster
  thus does not exclude a daily window that begins at the second one.
"""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta, timezone
from functools import cache, lru_cache
from itertools import islice, product, takewhile
from random import Random
from typing import Any, Literal, TypeAlias, TypeVar
from zoneinfo import ZoneInfo

import dagster as dg
from hypothesis import strategies as st

from dg_sqlmesh_component.capabilities.sources.complete_sources import (
    CheckResult,
    CheckStatus,
    Load,
    SourceHistory,
    Target,
)

T = TypeVar("T")

MINUTE = 60_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR
WITHOUT_RESULT = (CheckStatus.PLANNED, CheckStatus.UNEVALUATED)
FUTURE = 155 * DAY  # more than the longest windows that `end_offset` adds

# The plain data -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Schedule:
    """Local times at which windows begin. `None` is "every". Weekdays count from Sunday = 0, as in cron."""

    minutes: tuple[int, ...] = (0,)
    hours: tuple[int, ...] | None = (0,)
    days: tuple[int, ...] | None = None
    weekdays: tuple[int, ...] | None = None

    @property
    def cron(self) -> str:
        fields = (self.minutes, self.hours, self.days, None, self.weekdays)
        return " ".join("*" if values is None else ",".join(map(str, values)) for values in fields)


Kind: TypeAlias = Literal["hourly", "daily", "weekly", "monthly", "cron"]


@dataclass(frozen=True)
class Windows:
    """A time dimension. `start`, `end` and excluded datetimes are local times without a zone."""

    kind: Kind
    schedule: Schedule
    zone: str
    start: datetime
    end: datetime | None
    end_offset: int
    exclusions: tuple[datetime | Schedule, ...]
    fmt: str


@dataclass(frozen=True)
class Keys:
    """A static dimension, or a dynamic one with its keys of today."""

    keys: tuple[str, ...]
    dynamic: bool


Dimension: TypeAlias = Windows | Keys


@dataclass(frozen=True)
class Definition:
    """No dimension: no partitions. Two: Dagster sorts them by name, in keys too. The name of a single one is unused."""

    dimensions: tuple[tuple[str, Dimension], ...] = ()

    @property
    def in_order(self) -> tuple[Dimension, ...]:
        return tuple(dimension for _, dimension in sorted(self.dimensions, key=lambda pair: pair[0]))


@dataclass(frozen=True)
class History:
    definition: Definition
    loads: tuple[Load, ...]
    results: tuple[CheckResult, ...]
    lag: int  # ms
    known_here: bool
    now: int  # ms: "today" of the page; a window has a partition only after its end (plus `end_offset`)


# For the implementation under test: what Dagster has -----------------------------------------------------------------


def as_source(history: History) -> SourceHistory:
    """The same history, as the rule takes it."""
    stated = [
        until.value if isinstance(until := load.complete_until, dg.MetadataValue) else until for load in history.loads
    ]
    return SourceHistory(
        dagster_definition(history.definition) if history.known_here else None,
        history.known_here,
        [load._replace(complete_until=until) for load, until in zip(history.loads, stated)],
        history.results,
        dynamic_keys(history.definition),
        timedelta(milliseconds=history.lag),
        history.now,
    )


def dagster_definition(definition: Definition) -> dg.PartitionsDefinition[str] | None:
    built = {name: _dagster_dimension(name, dimension) for name, dimension in definition.dimensions}
    if not built:
        return None
    if len(built) == 1:
        return next(iter(built.values()))
    return dg.MultiPartitionsDefinition(built)


def dynamic_keys(definition: Definition) -> dict[str, list[str]]:
    """The keys of each dynamic dimension by the name of its definition, as `DagsterInstance` has them today."""
    return {
        _dynamic_name(name): list(dimension.keys)
        for name, dimension in definition.dimensions
        if isinstance(dimension, Keys) and dimension.dynamic
    }


def _dynamic_name(dimension: str) -> str:
    return f"keys_of_{dimension}"


CALENDARS: dict[Kind, Callable[..., dg.PartitionsDefinition[str]]] = {
    "hourly": dg.HourlyPartitionsDefinition,
    "daily": dg.DailyPartitionsDefinition,
    "weekly": dg.WeeklyPartitionsDefinition,
    "monthly": dg.MonthlyPartitionsDefinition,
}


def _dagster_dimension(name: str, dimension: Dimension) -> dg.PartitionsDefinition[str]:
    if isinstance(dimension, Keys):
        if dimension.dynamic:
            return dg.DynamicPartitionsDefinition(name=_dynamic_name(name))
        return dg.StaticPartitionsDefinition(list(dimension.keys))
    schedule = dimension.schedule
    options: dict[str, Any] = {
        "timezone": dimension.zone,
        "fmt": dimension.fmt,
        "end_offset": dimension.end_offset,
        "exclusions": [item.cron if isinstance(item, Schedule) else item for item in dimension.exclusions] or None,
    }
    if dimension.kind == "cron":
        return dg.TimeWindowPartitionsDefinition(
            start=dimension.start, end=dimension.end, cron_schedule=schedule.cron, **options
        )
    offsets = {"hour_offset": schedule.hours, "day_offset": schedule.days or schedule.weekdays}
    options |= {name: values[0] for name, values in offsets.items() if values}
    return CALENDARS[dimension.kind](
        start_date=dimension.start, end_date=dimension.end, minute_offset=schedule.minutes[0], **options
    )


# The arithmetic of windows --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Window:
    begin: int
    end: int  # its first instant that is no longer in it
    excluded: bool


@cache
def _zone(name: str) -> ZoneInfo:
    return ZoneInfo(name)


def _local(instant: int, zone: str) -> datetime:
    return datetime.fromtimestamp(instant / 1000, tz=_zone(zone))


def _instant(local: datetime, zone: str) -> int:
    """The first instant at which the clock shows a local time. If it skips it: as if it had not changed."""
    return round(local.replace(tzinfo=_zone(zone), fold=0).timestamp() * 1000)


def _tick(local: datetime, zone: str) -> int:
    """The instant of the tick that a schedule without "every hour" has at a local time."""
    first, second = (local.replace(tzinfo=_zone(zone), fold=fold) for fold in (0, 1))
    shown = [moment for moment in (first, second) if _local(_stamp(moment), zone).replace(tzinfo=None, fold=0) == local]
    if shown:
        return max(_stamp(moment) for moment in shown)
    # The clock skips this time. Go on minute by minute until it shows one again.
    return _tick(local + timedelta(minutes=1), zone)


def _stamp(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


@cache
def _begins_on(schedule: Schedule, zone: str, day: date) -> tuple[int, ...]:
    """The instants of a local day at which windows begin."""
    if schedule.days is not None and day.day not in schedule.days:
        return ()
    if schedule.weekdays is not None and day.isoweekday() % 7 not in schedule.weekdays:
        return ()
    if schedule.hours is not None:
        times = (datetime(day.year, day.month, day.day, *time) for time in product(schedule.hours, schedule.minutes))
        return tuple(sorted({_tick(time, zone) for time in times}))
    # Every hour: walk through more than the day, quarter by quarter, and look at the clock on the wall.
    assert all(minute % 15 == 0 for minute in schedule.minutes)
    noon = _stamp(datetime(day.year, day.month, day.day, 12, tzinfo=timezone.utc))
    found = []
    for instant in range(noon - 36 * HOUR, noon + 36 * HOUR, 15 * MINUTE):
        clock = _local(instant, zone)
        if clock.date() == day and clock.minute in schedule.minutes:
            found.append(instant)
    return tuple(found)


def _begins_from(schedule: Schedule, zone: str, day: date) -> Iterator[int]:
    for number in range(1000):
        yield from _begins_on(schedule, zone, day + timedelta(days=number))


def _is_excluded(windows: Windows, begin: int) -> bool:
    for exclusion in windows.exclusions:
        if isinstance(exclusion, Schedule):
            if begin in _begins_on(exclusion, windows.zone, _local(begin, windows.zone).date()):
                return True
        elif _instant(exclusion, windows.zone) == begin:
            return True
    return False


def _windows_from(windows: Windows, day: date) -> Iterator[Window]:
    """All windows of the schedule that begin on a local day or later, without a look at `start`, `end` or today."""
    begin = None
    for end in _begins_from(windows.schedule, windows.zone, day):
        if begin is not None:
            yield Window(begin, end, _is_excluded(windows, begin))
        begin = end


@lru_cache(maxsize=5_000)
def _scheduled(windows: Windows, until: int) -> tuple[Window, ...]:
    """The windows of the schedule from `start` on. The last one begins after `until`."""
    start = _instant(windows.start, windows.zone)
    found = []
    for window in _windows_from(windows, windows.start.date() - timedelta(days=1)):
        if window.begin >= start:
            found.append(window)
            if window.begin > until:
                break
    return tuple(found)


@lru_cache(maxsize=5_000)
def _windows_today(windows: Windows, now: int) -> tuple[Window, ...]:
    """The windows for which the asset has partitions today."""
    candidates = [window for window in _scheduled(windows, now + FUTURE) if not window.excluded]
    over = [window for window in candidates if window.end <= now]
    today = over[: windows.end_offset] if windows.end_offset < 0 else candidates[: len(over) + windows.end_offset]
    if windows.end is not None:
        end = _instant(windows.end, windows.zone)
        today = [window for window in today if window.end <= end]
    return tuple(today)


def _key(windows: Windows, window: Window) -> str:
    clock = _local(window.begin, windows.zone)
    second_time = clock.fold == 1 and windows.schedule.hours is None
    return clock.strftime(windows.fmt + ("%z" if second_time else ""))


@lru_cache(maxsize=50_000)
def _window_of(windows: Windows, key: str) -> Window | None:
    """The window of the schedule that has this key. It need not have a partition today."""
    match = re.match(r"(\d{4})-(\d\d)(?:-(\d\d))?", key)
    if not match:
        return None
    try:
        first = date(int(match[1]), int(match[2]), int(match[3] or 1))
    except ValueError:
        return None
    for window in _windows_from(windows, first):
        if (_local(window.begin, windows.zone).date() - first).days > 31:
            return None
        if _key(windows, window) == key:
            return window
    return None


# The oracle ----------------------------------------------------------------------------------------------------------


def is_complete(history: History, instant: int) -> bool:
    """Whether the source is complete at one instant, that is: whether all its rows of that instant are there."""
    if not history.loads:  # "no load yet: for nothing"
        return False
    # "Dagster does not know the partitions of an asset of another code location here, so the rule without partitions
    # holds for it".
    definition = history.definition if history.known_here else Definition()
    dimensions = definition.in_order
    times = [dimension for dimension in dimensions if isinstance(dimension, Windows)]
    if len(times) == 2:  # "two time dimensions: for nothing"
        return False
    if times:
        return _windows_are_complete(history, times[0], instant)
    # "up to the partition that is complete for the shortest time; each partition as an asset without partitions".
    partitions: list[str | None] = [None]
    if dimensions:
        lists = [dimension.keys for dimension in dimensions if isinstance(dimension, Keys)]
        partitions = ["|".join(keys) for keys in product(*lists)]
    if not partitions:  # A dynamic dimension without keys: nothing has been loaded.
        return False
    return all(_partition_is_complete(history, partition, instant) for partition in partitions)


def _partition_is_complete(history: History, partition: str | None, instant: int) -> bool:
    """The rule "no partitions", also for one partition of several."""
    load = _last_load(history, partition)
    if load is None or _is_refused(history, load):
        return False
    if load.complete_until is not None:
        # "states another instant up to which an asset without time windows is complete. `lag` does not count then."
        seconds = timestamp(load.complete_until)
        return seconds is not None and instant < seconds * 1000
    return instant < _begin(load) - history.lag


def _windows_are_complete(history: History, windows: Windows, instant: int) -> bool:
    today = _windows_today(windows, history.now)
    scheduled = _scheduled(windows, max(history.now + FUTURE, instant))
    first = next((window.begin for window in (*today, *scheduled) if not window.excluded), None)
    if first is None or instant < first:  # "complete for everything before its first window"
        return first is not None
    window = next(window for window in scheduled if window.begin <= instant < window.end)
    if not today or instant >= today[-1].end:  # "not complete after its last window", but up to the next one
        return bool(today) and window.excluded and _is_before_next(windows, scheduled, today[-1], instant)
    if window.excluded:  # "and for windows that its definition excludes"
        return True
    # "for what all keys of the other dimension are complete for"
    partitions = _partitions_of(history.definition, windows, window)
    return bool(partitions) and all(
        _window_is_complete(history, partition, window, instant) for partition in partitions
    )


def _is_before_next(windows: Windows, scheduled: Sequence[Window], last: Window, instant: int) -> bool:
    """Whether an instant after the last window is before the next one, and before the end of the definition."""
    ends = [window.begin for window in scheduled if window.begin >= last.end and not window.excluded]
    ends += [_instant(windows.end, windows.zone)] if windows.end is not None else []
    return instant < min(ends)


def _partitions_of(definition: Definition, windows: Windows, window: Window) -> list[str]:
    key = _key(windows, window)
    lists = [dimension.keys if isinstance(dimension, Keys) else (key,) for dimension in definition.in_order]
    return ["|".join(keys) for keys in product(*lists)]


def _window_is_complete(history: History, partition: str, window: Window, instant: int) -> bool:
    load = _last_load(history, partition)
    if load is None or _is_refused(history, load):
        return False
    # "If the last load of a window has an instant before its end, the window is complete up to that instant."
    return instant < _begin(load) or _begin(load) >= window.end


def _begin(load: Load) -> int:
    assert load.instant is not None  # no run was deleted
    return load.instant


def timestamp(value: object) -> float | None:
    """The seconds of a metadata value. None: it is no timestamp in seconds."""
    if isinstance(value, dg.TimestampMetadataValue):
        value = value.value
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    try:  # Milliseconds are no seconds: they are of a year that has more than four digits.
        datetime.fromtimestamp(value, tz=timezone.utc)
    except (OverflowError, OSError, ValueError):
        return None
    return float(value)


# "Which load counts"


def _last_load(history: History, partition: str | None) -> Load | None:
    """ "Of a partition: its last one, also if the one before it was complete for more." """
    counting = counting_loads(history)
    if history.known_here:
        counting = [load for load in counting if load.partition == partition]
    return max(counting, key=lambda load: load.storage_id, default=None)


def counting_loads(history: History) -> list[Load]:
    if not history.known_here:  # "and loads of its partitions count too"
        return list(history.loads)
    # "No load that is older than the newest one whose partition does not fit today's definition"
    of_earlier = [load.storage_id for load in history.loads if not _fits(history.definition, load.partition)]
    oldest = max(of_earlier, default=-1)
    return [
        load
        for load in history.loads
        if load.storage_id >= oldest and _has_partition_today(history.definition, load.partition, history.now)
    ]


def _has_partition_today(definition: Definition, partition: str | None, now: int) -> bool:
    dimensions = definition.in_order
    if not dimensions or partition is None:
        return not dimensions and partition is None
    keys = partition.split("|")
    if len(keys) != len(dimensions):
        return False
    for key, dimension in zip(keys, dimensions):
        if isinstance(dimension, Keys):
            if key not in dimension.keys:
                return False
        elif _window_of(dimension, key) not in _windows_today(dimension, now):
            return False
    return True


def _fits(definition: Definition, partition: str | None) -> bool:
    dimensions = definition.in_order
    if partition is None:
        return True  # it says nothing about partitions
    if len(dimensions) == 1 and isinstance(dimensions[0], Keys):
        return True  # any text may have been a key
    keys = partition.split("|")
    if len(keys) != len(dimensions):
        return False
    for key, dimension in zip(keys, dimensions):
        if isinstance(dimension, Keys):
            continue  # to remove a key does not change what the others mean
        if _window_of(dimension, key) is None:
            # "A key fits a time window if a window of the definition's schedule begins there, also before its start,
            # after its end, or if it is excluded."
            return False
    return True


# "A blocking check ... refuses"


def _is_refused(history: History, load: Load) -> bool:
    return any(
        _refuses([result for result in history.results if result.check == check], history, load)
        for check in {result.check for result in history.results}
    )


def _refuses(records: Sequence[CheckResult], history: History, load: Load) -> bool:
    """Whether one check refuses a load."""
    records = sorted(records, key=lambda record: record.order)
    results = [record for record in records if record.status not in WITHOUT_RESULT]
    # "has failed, and its result names no materialization: every load, until its next result"
    if results and results[-1].target is None and results[-1].status is CheckStatus.FAILED:
        return True
    newest = next((record for record in reversed(records) if _concerns(record, history, load)), None)
    return newest is not None and newest.status in (CheckStatus.FAILED, *WITHOUT_RESULT)


def _concerns(record: CheckResult, history: History, load: Load) -> bool:
    """Whether a record of a check is about a load: that of its target's run, and of its partitions if it has some."""
    if record.status in WITHOUT_RESULT:  # "all loads of that run"
        return load.run_id != "" and load.run_id == record.run_id
    if record.target is None:
        return False
    target = next(candidate for candidate in history.loads if candidate.storage_id == record.target.storage_id)
    # Loads that somebody has reported have no run, so the check is about the one that it has looked at.
    same_run = load == target or (load.run_id != "" and load.run_id == target.run_id)
    return same_run and (record.partitions is None or load.partition in record.partitions)


# The instants worth asking -------------------------------------------------------------------------------------------


def instants(history: History) -> list[int]:
    edges = {history.now}
    for load in history.loads:
        edges |= {_begin(load), _begin(load) - history.lag}
        seconds = None if load.complete_until is None else timestamp(load.complete_until)
        if seconds is not None:
            edges.add(round(seconds * 1000))
    for _, dimension in history.definition.dimensions:
        if isinstance(dimension, Windows):
            edges.add(_instant(dimension.start, dimension.zone))
            if dimension.end is not None:
                edges.add(_instant(dimension.end, dimension.zone))
            scheduled = _scheduled(dimension, history.now)
            edges |= {edge for window in scheduled for edge in (window.begin, (window.begin + window.end) // 2)}
            edges |= {scheduled[0].begin - 3 * DAY, scheduled[-1].end, scheduled[-1].end + 40 * DAY}
    found = {edge + shift for edge in edges for shift in (-MINUTE, -1, 0, MINUTE)}
    found |= {min(edges) - 400 * DAY, (min(edges) + max(edges)) // 2}
    return sorted(found)


# The generator -------------------------------------------------------------------------------------------------------

# The two days of 2025 on which the clock of a zone changes: forward, back.
CHANGES = {
    "America/New_York": (date(2025, 3, 9), date(2025, 11, 2)),
    "Europe/Berlin": (date(2025, 3, 30), date(2025, 10, 26)),
    "Australia/Lord_Howe": (date(2025, 10, 5), date(2025, 4, 6)),
    "UTC": (date(2025, 3, 1), date(2025, 12, 31)),
    "Asia/Kolkata": (date(2025, 3, 1), date(2025, 12, 31)),
}


WITH_TIME = "%Y-%m-%d-%H:%M"
DAILY = "%Y-%m-%d"
TIME_KINDS: tuple[Kind, ...] = ("hourly", "daily", "weekly", "monthly", "cron")
SHAPES = (
    *("none", "static", "dynamic", "hourly", "daily", "weekly", "monthly", "cron", "cron"),
    *("static x static", "static x dynamic", "time x time"),
    *("time x static", "time x static", "time x dynamic", "time x dynamic"),
)
CHANGES_OF_DEFINITIONS = (
    *(("daily", after) for after in ("weekly", "monthly", "none", "none")),
    *((before, "daily") for before in ("none", "static")),
    *(("one of two", after) for after in ("daily x static", "time x dynamic", "static x static")),
    *(("two with it", after) for after in ("daily", "time", "static")),
    *(("other", after) for after in ("static", "dynamic", "time x dynamic", "time", "time x static")),
    ("time x static", "none"),
)
BAD_VALUES: tuple[object, ...] = (
    "yesterday",
    "1741500000",
    float("nan"),
    float("inf"),
    1741500000000,  # milliseconds
    True,
    {"at": 1741500000},
)


class _Dice(Random):
    number, one = Random.randint, Random.choice

    def chance(self, percent: int) -> bool:
        return self.number(0, 99) < percent

    def some(self, items: Sequence[T], most: int) -> list[T]:
        """One to `most` different items, in a random order."""
        rest = list(items)
        count = self.number(1, max(1, min(most, len(rest))))
        return [rest.pop(self.number(0, len(rest) - 1)) for _ in range(count)]


def _schedule(dice: _Dice, kind: Kind, zone: str, day: date) -> tuple[Schedule, str]:
    """A schedule and a format for its keys."""
    minutes, hours = (0,), (0,)
    if dice.chance(70):  # an offset, often in the hours that the clock skips or shows twice
        minutes, hours = (dice.one((0, 15, 30, 45)),), (dice.one((1, 2, 2, 2, 7)),)
    if kind == "hourly":
        return Schedule(minutes, None), WITH_TIME
    if kind == "daily":
        return Schedule(minutes, hours), dice.one((DAILY, DAILY, "%Y-%m-%dT%H"))
    if kind == "weekly":
        return Schedule(minutes, hours, weekdays=(dice.one((0, 0, 1, day.isoweekday() % 7, 6)),)), DAILY
    if kind == "monthly":
        days = (dice.one((1, 1, min(day.day, 28), 15)),)
        return Schedule(minutes, hours, days), dice.one((DAILY, DAILY, "%Y-%m"))
    ticks = [
        Schedule((0, 30), None),
        Schedule(minutes, (0, 6, 12, 18)),
        Schedule(minutes, (2, 14)),
        Schedule((30,), (1, 2)),
        Schedule(minutes, hours, days=tuple(range(1, 32, 3))),
        Schedule(minutes, hours, weekdays=(1, 4)),
        Schedule(minutes, hours, weekdays=(0, 2, 5)),
    ]
    return dice.one(ticks), WITH_TIME


def _time_dimension(dice: _Dice, zone: str, day: date, kind: Kind) -> Windows:
    if kind == "hourly" and zone == "Australia/Lord_Howe":
        kind = "cron"  # see the top of this file
    schedule, fmt = _schedule(dice, kind, zone, day)
    midnight = datetime(day.year, day.month, day.day)
    if schedule.hours is None:
        start = midnight + timedelta(hours=dice.number(-1, 2))
    elif kind == "monthly":
        start = midnight - timedelta(days=dice.number(5, 40))
    elif kind == "weekly":
        start = midnight - timedelta(days=dice.number(1, 12))
    else:
        start = midnight - timedelta(days=dice.number(0, 2))
    if dice.chance(30):  # not the begin of a window
        start += timedelta(minutes=dice.one((5, 20, 50)))
    windows = Windows(kind, schedule, zone, start, None, 0, (), fmt)
    first = _first(windows, 6)
    if dice.chance(40):
        exclusions: tuple[datetime | Schedule, ...]
        if kind == "monthly" or dice.chance(50):
            exclusions = tuple(_naive(window.begin, zone) for window in dice.some(first[:5], 2))
        elif schedule.hours is None:
            exclusions = (Schedule(schedule.minutes, (dice.one((1, 2, 3)),)),)
        elif len(schedule.hours) > 1:
            exclusions = (Schedule(schedule.minutes, schedule.hours[-1:]),)
        elif kind == "weekly":
            exclusions = (Schedule(schedule.minutes, schedule.hours, days=tuple(range(1, 8))),)
        else:
            exclusions = (Schedule(schedule.minutes, schedule.hours, weekdays=(0, 6)),)
        windows = replace(windows, exclusions=exclusions)
        if sum(not window.excluded for window in _first(windows, 6)[:4]) < 2:
            windows = replace(windows, exclusions=())
    if dice.chance(25):
        index = dice.number(0, 3)
        regular = [window for window in _first(windows, 6) if not window.excluded]
        end = _naive(regular[min(index, len(regular) - 1)].end, zone) + timedelta(minutes=dice.one((0, 0, 10)))
        # Dagster has a partition that ends after `end` if `end` lies in the first window.
        if _instant(end, zone) >= regular[0].end:
            windows = replace(windows, end=end)
    return replace(windows, end_offset=dice.one((0, 0, 0, 0, 0, 1, 2, -1)))


def _naive(instant: int, zone: str) -> datetime:
    return _local(instant, zone).replace(tzinfo=None, fold=0)


def _first(windows: Windows, count: int) -> list[Window]:
    """The first windows of the schedule from `start` on."""
    start = _instant(windows.start, windows.zone)
    of_schedule = _windows_from(windows, windows.start.date() - timedelta(days=1))
    return list(islice((window for window in of_schedule if window.begin >= start), count))


def _before_start(windows: Windows) -> list[Window]:
    """The last two windows of the schedule before `start`."""
    start = _instant(windows.start, windows.zone)
    early = _windows_from(windows, windows.start.date() - timedelta(days=70))
    return list(takewhile(lambda window: window.begin < start, early))[-2:]


def _keys(dice: _Dice, dynamic: bool) -> Keys:
    pool = ("acme", "bolt", "corp") if dynamic else ("de", "fr", "us")
    return Keys(pool[: dice.number(1, 3)][::-1], dynamic)


def _definition(dice: _Dice, zone: str, day: date, shape: str) -> Definition:
    """A definition of a shape such as `daily`, `time x static`."""
    dimensions: list[tuple[str, Dimension]] = []
    # Dagster sorts dimensions by their names: the one of time is the first in a key, or the second.
    names = ("date", dice.one(("country", "region")))
    for name, kind in zip(names, shape.split(" x ")):
        if kind == "static":
            dimensions.append((name, _keys(dice, False)))
        elif kind == "dynamic":
            dimensions.append((name, Keys((), True) if dice.chance(15) else _keys(dice, True)))
        elif kind == "time":
            dimensions.append((name, _time_dimension(dice, zone, day, dice.one((*TIME_KINDS, "cron")))))
        elif kind != "none":
            time_kind = next(known for known in TIME_KINDS if known == kind)
            dimensions.append((name, _time_dimension(dice, zone, day, time_kind)))
    return Definition(tuple(dimensions))


def _definitions(dice: _Dice, zone: str, day: date) -> tuple[Definition, Definition | None]:
    """The definition of today, and often an earlier one."""
    change = dice.number(-len(CHANGES_OF_DEFINITIONS), len(CHANGES_OF_DEFINITIONS) - 1)
    if change >= 0:
        before, after = CHANGES_OF_DEFINITIONS[change]
        today = _definition(dice, zone, day, after)
        if before == "one of two":  # one dimension became two
            return today, Definition((dice.one(today.dimensions),))
        if before == "two with it":  # two became one
            return today, Definition((("date", today.dimensions[0][1]), ("region", _keys(dice, False))))
        if before == "other":  # a dimension had other keys, or windows of another length
            return today, Definition(tuple((name, _other(dice, zone, day, item)) for name, item in today.dimensions))
        return today, _definition(dice, zone, day, before)
    return _definition(dice, zone, day, dice.one(SHAPES)), None


def _other(dice: _Dice, zone: str, day: date, dimension: Dimension) -> Dimension:
    if isinstance(dimension, Keys):
        return Keys((*dimension.keys, "gone"), dimension.dynamic)
    kinds = [kind for kind in TIME_KINDS if kind != dimension.kind]
    return _time_dimension(dice, zone, day, dice.one(kinds))


def _now(dice: _Dice, definition: Definition, day: date, zone: str) -> int:
    times = [dimension for _, dimension in definition.dimensions if isinstance(dimension, Windows)]
    if not times:
        return _instant(datetime(day.year, day.month, day.day) + timedelta(hours=72), zone)
    regular = [window for window in _first(times[0], 6) if not window.excluded]
    if dice.chance(5) and all(time.end_offset == 0 for time in times):
        return regular[0].end - MINUTE  # no window is over yet
    window = regular[min(dice.number(0, 3), len(regular) - 1)]
    now = window.end + dice.one((0, MINUTE, (window.end - window.begin) // 2))
    # If today is before the end of the first window, Dagster has partitions of the future with an `end_offset`.
    return max([now, *(_regular_end(time) for time in times if time.end_offset)])


def _regular_end(windows: Windows) -> int:
    """The end of the second window that is not excluded."""
    return [window for window in _first(windows, 10) if not window.excluded][1].end


def _partitions(definition: Definition, keys: dict[str, list[str]]) -> list[str | None]:
    """The partitions of a definition, with the given keys of its time dimensions."""
    lists = [
        dimension.keys if isinstance(dimension, Keys) else keys[name]
        for name, dimension in sorted(definition.dimensions)
    ]
    return ["|".join(parts) for parts in product(*lists)] if lists else [None]


def _partitions_today(definition: Definition, now: int) -> list[str | None]:
    times = [(name, item) for name, item in definition.dimensions if isinstance(item, Windows)]
    return _partitions(definition, {name: [_key(it, w) for w in _windows_today(it, now)] for name, it in times})


def _partitions_of_the_schedule(definition: Definition) -> list[str | None]:
    """Partitions around `start`, also if the asset does not have them today."""
    keys = {}
    for name, dimension in definition.dimensions:
        if isinstance(dimension, Windows):
            keys[name] = [_key(dimension, window) for window in [*_before_start(dimension), *_first(dimension, 6)]]
    return _partitions(definition, keys)


class _Story:
    """Events in the order in which Dagster stores them."""

    def __init__(self, dice: _Dice, definition: Definition, moments: Sequence[int], now: int) -> None:
        self.dice = dice
        self.has_windows = any(isinstance(dimension, Windows) for _, dimension in definition.dimensions)
        self.moments = moments
        self.now = now
        self.clock = moments[0]
        self.events = 0
        self.runs = 0
        self.open: list[tuple[str, int]] = []
        self.loads: list[Load] = []
        self.results: list[CheckResult] = []

    def event(self) -> int:
        self.events += self.dice.one((1, 1, 2))
        return self.events

    def moment(self, first: int = 0) -> int:
        later = [moment for moment in self.moments if first <= moment <= self.now]
        return self.dice.one(later or [self.now])

    def complete_until(self, instant: int) -> object | None:
        if not self.dice.chance(8 if self.has_windows else 40):
            return None
        if self.dice.chance(45):
            return self.dice.one(BAD_VALUES)
        seconds = (instant + self.dice.one((-30 * HOUR, -HOUR, 0, HOUR))) / 1000
        return self.dice.one((seconds, int(seconds), dg.MetadataValue.timestamp(seconds)))

    def load(self, partition: str | None, instant: int, run_id: str) -> Load:
        loaded = Load(self.event(), partition, instant, run_id, self.complete_until(instant))
        self.loads.append(loaded)
        self.clock = max(self.clock, instant)
        return loaded

    def report(self, partition: str | None) -> None:
        self.load(partition, self.moment(self.clock), "")

    def run(self, partitions: Sequence[str | None], instant: int, percent_checked: int) -> None:
        self.runs += 1
        run_id = f"run{self.runs}"
        planned = {check: self.event() for check in ("whole", "of partitions") if self.dice.chance(percent_checked)}
        self.open.append((run_id, instant))
        loads = [self.load(partition, instant, run_id) for partition in partitions]
        for check, planned_as in planned.items():
            fate = self.dice.number(0, 9)
            if fate < 3:
                status = self.dice.one(WITHOUT_RESULT)
                keys = frozenset(partition for partition in partitions if partition is not None)
                of = keys if check == "of partitions" and keys else None
                self.results.append(CheckResult(check, run_id, planned_as, None, of, status))
            else:
                self.result(check, run_id, loads)

    def go_on(self, partitions: Sequence[str | None]) -> None:
        """A run that has already loaded something loads more: its loads are the newest, but their instant is older."""
        run_id, instant = self.dice.one(self.open)
        for partition in partitions:
            self.load(partition, instant, run_id)

    def result(self, check: str, run_id: str, loads: Sequence[Load]) -> None:
        """A result of a check about one of these loads."""
        status = self.dice.one([CheckStatus.PASSED] * 3 + [CheckStatus.FAILED] * 2 + [CheckStatus.WARNED])
        if self.dice.chance(12):
            self.results.append(CheckResult(check, run_id, self.event(), None, None, status))
            return
        target = self.dice.one(loads)
        of: frozenset[str] | None = None
        if check == "of partitions" and target.partition is not None:
            same_run = [load.partition for load in loads if load.run_id == target.run_id and load.run_id]
            others = self.dice.some(same_run, 2) if same_run and self.dice.chance(50) else []
            of = frozenset(partition for partition in [target.partition, *others] if partition is not None)
        about = Target(target.storage_id, target.run_id)
        self.results.append(CheckResult(check, run_id, self.event(), about, of, status))

    def execute_check(self) -> None:
        """Somebody executes a check: often one that refuses loads, of the newest load or of another one."""
        self.runs += 1
        check = self.dice.one(("whole", "of partitions"))
        loads = list(self.loads)
        bad = [result for result in self.results if result.status is not CheckStatus.PASSED]
        waiting = [result for result in bad if result.status in WITHOUT_RESULT]
        if bad and self.dice.chance(85):
            result = self.dice.one(waiting if waiting and self.dice.chance(75) else bad[-2:])
            check = result.check
            target = [load for load in loads if result.target and load.storage_id == result.target.storage_id]
            run_id = target[0].run_id if target else result.run_id
            # The newest loads of that run are more often the last ones of their partitions.
            loads = ([load for load in loads if run_id and load.run_id == run_id] or target or loads)[-3:]
        self.result(check, f"run{self.runs}", loads[-6:])


@st.composite
def histories(draw: st.DrawFn) -> History:
    """A short history of loads of an external table, and of the results of its checks.

    All choices come from one seed: if Hypothesis made each of them, its examples would be too much alike to reach all
    rules. Hypothesis shrinks a history by leaving out loads and results.
    """
    drawn = draw(st.binary(min_size=40, max_size=40))
    history = history_of(int.from_bytes(drawn[:8], "big"))
    kept = iter(drawn[8:])  # Hypothesis shrinks bytes to 0
    loads = tuple(load for load in history.loads if next(kept, 255) > 5)
    ids = {None, *(load.storage_id for load in loads)}
    results = tuple(r for r in history.results if (r.target and r.target.storage_id) in ids and next(kept, 255) > 5)
    return replace(history, loads=loads, results=results, lag=history.lag if next(kept, 255) > 5 else 0)


def history_of(seed: int) -> History:
    dice = _Dice(seed)
    zone = dice.one(tuple(CHANGES))
    day = dice.one(CHANGES[zone])
    definition, earlier = _definitions(dice, zone, day)
    now = _now(dice, definition, day, zone)
    today = _partitions_today(definition, now)
    of_schedule = _partitions_of_the_schedule(definition)
    story = _Story(dice, definition, _moments(definition, now), now)
    checked = dice.one((10, 30, 75))  # percent of the runs that execute a check
    of_earlier = [] if earlier is None else _partitions_of_the_schedule(earlier)
    for _ in range(dice.number(1, 2)):
        if of_earlier:
            story.run(dice.some(of_earlier, 2), story.moment(), checked // 3)
    # What usually happens: all partitions are loaded, in one run or one after the other.
    usual = today[-8:]
    start = dice.number(0, 5)
    if usual and start <= 1:
        story.run(usual, dice.one((now, story.moment(story.clock))), checked)
    elif usual and start <= 3:
        for partition in usual:
            story.run([partition], dice.one((now, story.moment(story.clock), story.moment())), checked // 2)
    elif start == 4:
        for partition in usual:
            story.report(partition)
    misfits = [partition for partition in of_earlier if not _fits(definition, partition)]
    if misfits and dice.chance(50):
        story.run([dice.one(misfits)], story.moment(), 0)
    if any(isinstance(item, Windows) and item.end for _, item in definition.dimensions) and dice.chance(50):
        story.run(of_schedule[-4:], now, 0)  # also windows after the end
    # Somebody looks at the checks.
    for _ in range(dice.number(0, 2) if checked > 30 or start == 4 else 0):
        if story.loads:
            story.execute_check()
    # And what happens in addition.
    for _ in range(dice.number(1, 5)):
        action = dice.number(0, 9)
        if len(story.loads) >= 14 or (action >= 6 and story.loads):
            for _ in range(dice.number(1, 2)):
                if story.loads and len(story.results) < 8:
                    story.execute_check()
        elif action <= 2 and today:
            story.run(dice.some(today, 3), story.moment(), checked)
        elif action == 3 and today:
            story.report(dice.one(today))
        elif action == 4 and story.open and today and dice.chance(50):
            story.go_on(dice.some(today, 2))
        elif action == 4 and of_schedule:
            story.run(dice.some(of_schedule, 2), story.moment(), checked)
        elif dice.chance(25):
            stray = None if definition.dimensions else "2025-03-08"
            story.run([stray], story.moment(), checked)
        elif of_earlier and dice.chance(30):
            story.run([dice.one(of_earlier)], story.moment(), checked)
    return History(
        definition=definition,
        loads=tuple(story.loads),
        results=tuple(story.results),
        lag=dice.one((0, 0, 10 * MINUTE, HOUR, 30 * HOUR)),
        known_here=not dice.chance(10),
        now=now,
    )


def _moments(definition: Definition, now: int) -> list[int]:
    """When loads start: at the edges of windows, one minute before and after, and in between."""
    moments = {now - hours * HOUR for hours in (0, 1, 5, 24, 40)}
    for _, dimension in definition.dimensions:
        if isinstance(dimension, Windows):
            for window in _first(dimension, 6):
                middle = (window.begin + window.end) // 2
                moments |= {window.begin, middle, window.end - MINUTE, window.end, window.end + MINUTE}
    return sorted(moment for moment in moments if moment <= now)
