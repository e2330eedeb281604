"""The attributes of `schedule`, `polling_sensor` and `janitor`."""

from datetime import timedelta
from typing import Any

import pytest

from dg_sqlmesh_component.capabilities.janitor.attributes import Janitor
from dg_sqlmesh_component.capabilities.polling_sensor.attributes import PollingSensor
from dg_sqlmesh_component.capabilities.schedule.attributes import Schedule
from dg_sqlmesh_component.config.scheduling import off_in_branch_deployment
from dg_sqlmesh_component.protocol.errors import ConfigurationError


@pytest.mark.parametrize("cron", ["0 6 * * *", "@daily", "*/5 * * * 1-5"])
def test_cron_expressions_and_aliases_are_accepted(cron: str) -> None:
    assert Schedule(cron=cron).cron == cron


@pytest.mark.parametrize(
    ("attributes", "minutes"), [({}, 5), ({"interval": 600}, 10), ({"interval": "10m"}, 10)], ids=str
)
def test_interval_is_five_minutes_or_a_number_of_seconds_or_text(attributes: dict[str, Any], minutes: int) -> None:
    assert PollingSensor(**attributes).interval == timedelta(minutes=minutes)


@pytest.mark.parametrize(
    ("of", "attributes", "error"),
    [
        (Schedule, {"cron": "every day"}, r"`schedule\.cron` in defs\.yaml is 'every day', which Dagster does not acc"),
        (Schedule, {"cron": "0 0 31 2 *"}, r"`schedule\.cron` in defs\.yaml is '0 0 31 2 \*', which Dagster does not"),
        (Schedule, {"cron": "0 0 6 * * *"}, "Write five fields"),
        (Schedule, {"timezone": "Europe/Berlin"}, r"Set `schedule\.cron` too, or remove `schedule\.timezone`"),
        (Schedule, {"cron": "@daily", "timezone": "Berlin"}, r"`schedule\.timezone` .* is 'Berlin', which is no time"),
        (Schedule, {"cron": "@daily", "timezone": "Europe"}, r"`schedule\.timezone` .* is 'Europe', which is no time"),
        (Schedule, {"default_status": "ON"}, r"`schedule\.default_status` in defs\.yaml is 'ON'"),
        (Janitor, {"cron": "at night"}, r"`janitor\.cron` in defs\.yaml is 'at night', which Dagster does not accept"),
        (Janitor, {"timezone": "Mars"}, r"`janitor\.timezone` in defs\.yaml is 'Mars', which is no time zone"),
        (Janitor, {"default_status": "ON"}, r"`janitor\.default_status` in defs\.yaml is 'ON'\."),
        (PollingSensor, {"interval": 5}, "Dagster evaluates sensors every 30 seconds at most. Write a longer interval"),
        (PollingSensor, {"default_status": "ON"}, r"`polling_sensor\.default_status` in defs\.yaml is 'ON'"),
    ],
)
def test_wrong_attribute_is_an_error_that_says_what_to_write(of: type, attributes: dict[str, Any], error: str) -> None:
    with pytest.raises(ConfigurationError, match=error):
        of(**attributes)


def test_only_an_attribute_that_runs_something_is_turned_off_and_only_in_a_branch_deployment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    running = [
        Schedule(default_status="RUNNING", cron="@daily"),
        PollingSensor(default_status="RUNNING"),
        Janitor(default_status="RUNNING"),
    ]
    others = [Schedule(), PollingSensor(), True]
    for value in ("", "0"):
        monkeypatch.setenv("DAGSTER_CLOUD_IS_BRANCH_DEPLOYMENT", value)
        assert all(off_in_branch_deployment(of) is of for of in [*running, *others])
    monkeypatch.setenv("DAGSTER_CLOUD_IS_BRANCH_DEPLOYMENT", "1")
    assert all(off_in_branch_deployment(of) is of for of in others)
    assert [off_in_branch_deployment(of) for of in running] == [Schedule(cron="@daily"), PollingSensor(), Janitor()]
