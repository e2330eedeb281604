"""Automation conditions and the longest time between two ticks, by cron."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from typing import Any

import dagster as dg
import pytest

from dg_sqlmesh_component.definitions.automation import cron_tick_condition, longest_gap

NEW_YORK, SYDNEY = "America/New_York", "Australia/Sydney"
UTC = timezone.utc


@pytest.mark.parametrize(
    ("cron", "time_zone", "longest"),
    [
        ("*/5 * * * *", "UTC", timedelta(minutes=5)),
        ("*/7 * * * *", "UTC", timedelta(minutes=7)),
        ("@hourly", "UTC", timedelta(hours=1)),
        ("0 0,6 * * *", "UTC", timedelta(hours=18)),
        ("@daily", "UTC", timedelta(days=1)),
        ("@midnight", "UTC", timedelta(days=1)),
        ("@weekly", "UTC", timedelta(days=7)),
        ("@monthly", "UTC", timedelta(days=31)),
        ("@yearly", "UTC", timedelta(days=366)),
        ("@annually", "UTC", timedelta(days=366)),
        ("0 9 * * 1-5", "UTC", timedelta(days=3)),  # from Friday to Monday
        ("0 9 * * MON-FRI", "UTC", timedelta(days=3)),
        ("*/5 9-17 * * 1-5", "UTC", timedelta(days=2, hours=15, minutes=5)),
        ("0 0 31 * *", "UTC", timedelta(days=61)),  # from 31 October to 31 December
        ("0 0 * * 5#5", "UTC", timedelta(days=119)),  # the fifth Friday of a month
        ("0 0 29 2 *", "UTC", timedelta(days=4 * 365 + 1)),
        ("0 * * 1-5 *", "UTC", timedelta(days=214, hours=1)),  # from 31 May to 1 January
        # An hour is repeated in autumn.
        ("@daily", NEW_YORK, timedelta(hours=25)),
        ("@daily", SYDNEY, timedelta(hours=25)),
        ("30 1 * * *", NEW_YORK, timedelta(hours=25)),
        ("0 */6 * * *", NEW_YORK, timedelta(hours=7)),
        ("0 9 * * 1-5", NEW_YORK, timedelta(days=3, hours=1)),
        ("*/5 9-17 * * 1-5", NEW_YORK, timedelta(days=2, hours=16, minutes=5)),
        ("@weekly", NEW_YORK, timedelta(days=7, hours=1)),
        ("@hourly", NEW_YORK, timedelta(hours=1)),
        ("*/30 * * * *", NEW_YORK, timedelta(minutes=30)),
    ],
)
def test_longest_gap_of_a_cron(cron: str, time_zone: str, longest: timedelta) -> None:
    assert longest_gap(cron, time_zone) == longest


class Evaluations:
    """Evaluates the condition of an asset that reads an external table, at minutes after a time."""

    def __init__(self, instance: dg.DagsterInstance, definitions: dg.Definitions, time: datetime) -> None:
        self._instance, self._definitions, self._time = instance, definitions, time
        self._cursor: Any = None  # Dagster exports no name for its type

    def requested(self, *minutes: float) -> list[int]:
        """Return how many assets each evaluation requests."""
        requested = []
        for minute in minutes:
            time = self._time + timedelta(minutes=minute)
            result = dg.evaluate_automation_conditions(
                self._definitions, self._instance, evaluation_time=time, cursor=self._cursor
            )
            self._cursor = result.cursor
            requested.append(result.total_requested)
        return requested


SUNDAY = datetime(2026, 3, 1, tzinfo=UTC)
NEW_YEAR = datetime(2027, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("cron", "time_zone", "tick"),
    [
        ("@hourly", "UTC", SUNDAY + timedelta(hours=3)),
        ("@daily", "UTC", SUNDAY),
        ("@midnight", "UTC", SUNDAY),
        ("@weekly", "UTC", SUNDAY),
        ("0 0 * * SUN", "UTC", SUNDAY),
        ("@monthly", "UTC", SUNDAY),
        ("@yearly", "UTC", NEW_YEAR),
        ("@annually", "UTC", NEW_YEAR),
        ("0 9 * * *", NEW_YORK, SUNDAY + timedelta(hours=14)),
    ],
)
def test_condition_requests_an_asset_once_after_each_tick(cron: str, time_zone: str, tick: datetime) -> None:
    @dg.asset(automation_condition=cron_tick_condition(cron, time_zone), deps=["external"])
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
