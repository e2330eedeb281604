"""Automation conditions and freshness windows that follow a cron."""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import cache
from itertools import islice, pairwise, takewhile
from zoneinfo import ZoneInfo

import dagster as dg

from dg_sqlmesh_component.dagster_internals.assets import cron_ticks

_MOST_TICKS = 10_000
"""An hourly cron has as many in more than a year. Listing them takes less than half a second."""


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

    It is that of five years, or of the first 10,000 ticks. They begin in the same autumn whatever today is, so every
    process gets the same result, which contains the hour that most time zones repeat then.
    """
    start = datetime(2023, 10, 1, tzinfo=ZoneInfo(timezone))
    end = start + timedelta(days=5 * 366)
    ticks = islice(takewhile(lambda tick: tick < end, cron_ticks(cron, timezone, start)), _MOST_TICKS)
    return timedelta(seconds=max(after.timestamp() - before.timestamp() for before, after in pairwise(ticks)))
