"""Automation conditions and freshness windows that follow a cron."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from functools import cache
from itertools import islice, pairwise, takewhile
from zoneinfo import ZoneInfo

import dagster as dg

from dg_sqlmesh_component.dagster_internals import cron_fields, cron_ticks

_FIRST_YEAR = 2024
"""The search starts here, whatever today is. So every process gets the same result."""

_YEARS = 28
"""The search ends here. From then on, the same dates have the same weekdays again."""

_MOST_DAYS = 1_500
"""The search ends after so many days with ticks. If every day has ticks, this is more than four years."""


@cache
def cron_tick_condition(cron: str, timezone: str) -> dg.AutomationCondition[dg.AssetKey]:
    """Request an asset once after each tick. If a run is computing it at the tick, request it after that run.

    Without `since`, a tick during such a run would be lost: `cron_tick_passed` is true in one evaluation only.
    """
    tick_passed = dg.AutomationCondition.cron_tick_passed(cron, timezone)
    is_pending = tick_passed.since(dg.AutomationCondition.newly_requested())
    return is_pending & ~dg.AutomationCondition.in_progress()


@cache
def longest_gap(cron: str, timezone: str) -> timedelta:
    """The longest time between two ticks: over a weekend, in a month of 31 days, on the day of 25 hours.

    Every day with ticks has its ticks at the same times of day. So the gap is within one day, or between the last tick
    of a day and the first tick of the next day with ticks.
    """
    minute, hour, *days = cron_fields(cron) or ()
    zone = ZoneInfo(timezone)
    midnight = _longest_day(zone)
    times = list(_ticks_between(f"{minute} {hour} * * *", midnight, midnight + timedelta(days=1)))
    start, end = datetime(_FIRST_YEAR, 1, 1, tzinfo=zone), datetime(_FIRST_YEAR + _YEARS, 1, 1, tzinfo=zone)
    first_ticks, last_ticks = (
        list(islice(_ticks_between(" ".join((f"{time.minute} {time.hour}", *days)), start, end), _MOST_DAYS))
        for time in (times[0], times[-1])
    )
    gaps = [*pairwise(times), *zip(last_ticks, first_ticks[1:])]
    return timedelta(seconds=max(after.timestamp() - before.timestamp() for before, after in gaps))


def _longest_day(zone: ZoneInfo) -> datetime:
    """The midnight at which the longest day of a year begins: the day on which clocks are set back, if there is one."""
    new_year = datetime(_FIRST_YEAR, 1, 1, tzinfo=zone)
    midnights = [new_year + timedelta(days=number) for number in range(367)]
    return max(pairwise(midnights), key=lambda day: day[1].timestamp() - day[0].timestamp())[0]


def _ticks_between(cron: str, start: datetime, end: datetime) -> Iterator[datetime]:
    ticks = cron_ticks(cron, str(start.tzinfo), start)
    return takewhile(lambda tick: tick.timestamp() < end.timestamp(), ticks)
