"""Automation conditions and the longest time between two ticks, by cron."""

import datetime
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dagster as dg
import pytest

from dg_sqlmesh_component.definitions.automation import cron_tick_condition, longest_gap

NEW_YORK, SYDNEY = "America/New_York", "Australia/Sydney"
UTC = datetime.timezone.utc


def gap(**parts: float) -> datetime.timedelta:
    return datetime.timedelta(**parts)


@pytest.mark.parametrize(
    ("cron", "timezone", "longest"),
    [
        ("*/5 * * * *", "UTC", gap(minutes=5)),
        ("*/7 * * * *", "UTC", gap(minutes=7)),
        ("@hourly", "UTC", gap(hours=1)),
        ("0 0,6 * * *", "UTC", gap(hours=18)),
        ("@daily", "UTC", gap(days=1)),
        ("@midnight", "UTC", gap(days=1)),
        ("@weekly", "UTC", gap(days=7)),
        ("@monthly", "UTC", gap(days=31)),
        ("@yearly", "UTC", gap(days=366)),
        ("@annually", "UTC", gap(days=366)),
        ("0 9 * * 1-5", "UTC", gap(days=3)),  # from Friday to Monday
        ("0 9 * * MON-FRI", "UTC", gap(days=3)),
        ("*/5 9-17 * * 1-5", "UTC", gap(days=2, hours=15, minutes=5)),
        ("0 0 31 * *", "UTC", gap(days=61)),  # from 31 October to 31 December
        ("0 0 * * 5#5", "UTC", gap(days=119)),  # the fifth Friday of a month
        ("0 0 29 2 *", "UTC", gap(days=4 * 365 + 1)),
        ("0 * * 1-5 *", "UTC", gap(days=214, hours=1)),  # from 31 May to 1 January
        # An hour is repeated in autumn.
        ("@daily", NEW_YORK, gap(hours=25)),
        ("@daily", SYDNEY, gap(hours=25)),
        ("30 1 * * *", NEW_YORK, gap(hours=25)),
        ("0 */6 * * *", NEW_YORK, gap(hours=7)),
        ("0 9 * * 1-5", NEW_YORK, gap(days=3, hours=1)),
        ("*/5 9-17 * * 1-5", NEW_YORK, gap(days=2, hours=16, minutes=5)),
        ("@weekly", NEW_YORK, gap(days=7, hours=1)),
        ("@hourly", NEW_YORK, gap(hours=1)),
        ("*/30 * * * *", NEW_YORK, gap(minutes=30)),
    ],
)
def test_longest_gap_of_a_cron(cron: str, timezone: str, longest: datetime.timedelta) -> None:
    assert longest_gap(cron, timezone) == longest


class Evaluations:
    """Evaluates the condition of an asset that reads an external table, at minutes after a time."""

    def __init__(self, instance: dg.DagsterInstance, definitions: dg.Definitions, time: datetime.datetime) -> None:
        self._instance, self._definitions, self._time = instance, definitions, time
        self._cursor: Any = None  # Dagster exports no name for its type

    def requested(self, *minutes: float) -> list[int]:
        """Return how many assets each evaluation requests."""
        return [self._requested(self._time + gap(minutes=minute)) for minute in minutes]

    def _requested(self, time: datetime.datetime) -> int:
        result = dg.evaluate_automation_conditions(
            self._definitions, self._instance, evaluation_time=time, cursor=self._cursor
        )
        self._cursor = result.cursor
        return result.total_requested


SUNDAY = datetime.datetime(2026, 3, 1, tzinfo=UTC)
NEW_YEAR = datetime.datetime(2027, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("cron", "timezone", "tick"),
    [
        ("@hourly", "UTC", SUNDAY + gap(hours=3)),
        ("@daily", "UTC", SUNDAY),
        ("@midnight", "UTC", SUNDAY),
        ("@weekly", "UTC", SUNDAY),
        ("0 0 * * SUN", "UTC", SUNDAY),
        ("@monthly", "UTC", SUNDAY),
        ("@yearly", "UTC", NEW_YEAR),
        ("@annually", "UTC", NEW_YEAR),
        ("0 9 * * *", NEW_YORK, SUNDAY + gap(hours=14)),
    ],
)
def test_condition_requests_an_asset_once_after_each_tick(cron: str, timezone: str, tick: datetime.datetime) -> None:
    @dg.asset(automation_condition=cron_tick_condition(cron, timezone), deps=["external"])
    def model() -> None: ...

    with dg.DagsterInstance.ephemeral() as instance:
        evaluations = Evaluations(instance, dg.Definitions([model]), tick)
        assert evaluations.requested(-2, -1, 0.5, 1, 1.5) == [0, 0, 1, 0, 0]


def test_tick_during_a_run_of_the_asset_is_requested_after_that_run() -> None:
    is_running, may_end = threading.Event(), threading.Event()

    @dg.asset(automation_condition=cron_tick_condition("@daily", "UTC"), deps=["external"])
    def model() -> None:
        is_running.set()
        assert may_end.wait(60)

    with dg.instance_for_test() as instance, ThreadPoolExecutor(1) as pool:
        evaluations = Evaluations(instance, dg.Definitions([model]), SUNDAY)
        assert evaluations.requested(-1) == [0]
        run = pool.submit(dg.materialize, [model], instance=instance)
        assert is_running.wait(60)
        assert evaluations.requested(1, 2) == [0, 0]
        may_end.set()
        assert run.result().success
        assert evaluations.requested(3, 4) == [1, 0]
