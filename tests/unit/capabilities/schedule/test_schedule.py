"""The crons of schedules."""

from dataclasses import replace
from datetime import datetime
from itertools import takewhile
from zoneinfo import ZoneInfo

import pytest
from unit.builders import model

from dg_sqlmesh_component.capabilities.schedule.schedules import crons_by_time_zone
from dg_sqlmesh_component.capabilities.schedule.tick import ticked_models
from dg_sqlmesh_component.dagster_internals.assets import cron_ticks
from dg_sqlmesh_component.protocol.errors import ConfigurationError
from dg_sqlmesh_component.protocol.manifest import Model


def with_cron(cron: str, time_zone: str | None = None) -> Model:
    return replace(model("shop.orders"), cron=cron, cron_tz=time_zone)


def test_schedule_of_each_time_zone_has_the_different_crons_of_its_models() -> None:
    models = [with_cron("@daily"), with_cron("@daily"), with_cron("@hourly"), with_cron("0 6 * * *", "Europe/Berlin")]
    assert crons_by_time_zone(models) == {"UTC": ["@daily", "@hourly"], "Europe/Berlin": ["0 6 * * *"]}


def test_model_with_a_cron_that_dagster_does_not_accept_is_named() -> None:
    with pytest.raises(ConfigurationError) as refusal:
        crons_by_time_zone([with_cron("@daily"), with_cron("0 6 * * * 30")])
    assert str(refusal.value).startswith(
        "Model shop.orders (/shop/models/orders.sql): Dagster does not accept its cron '0 6 * * * 30', which `schedule`"
    )


@pytest.mark.parametrize(
    ("now", "ticked"),
    [
        ("2026-03-01 00:00", {"daily", "hourly", "berlin"}),
        ("2026-03-01 01:00", {"hourly"}),
        ("2026-03-01 01:30", set()),  # between two ticks of the models; only an overriding cron ticks here
    ],
)
def test_models_have_ticked_since_the_previous_tick_of_the_schedule(now: str, ticked: set[str]) -> None:
    models = {
        "daily": with_cron("@daily"),
        "hourly": with_cron("@hourly"),
        "berlin": with_cron("0 1 * * *", "Europe/Berlin"),  # 00:00 UTC in winter
    }
    time = datetime.fromisoformat(now).replace(tzinfo=ZoneInfo("UTC"))
    assert set(ticked_models(models, ["*/15 * * * *"], "UTC", time)) == ticked


@pytest.mark.parametrize("cron", ["30 2 * * *", "@hourly"])
def test_model_has_ticked_at_every_tick_of_its_schedule_when_clocks_change(cron: str) -> None:
    models = {"own": with_cron(cron, "Europe/Berlin")}
    ticks = cron_ticks(cron, "Europe/Berlin", datetime(2026, 3, 1, tzinfo=ZoneInfo("Europe/Berlin")))
    for tick in takewhile(lambda tick: tick.month < 12, ticks):
        assert ticked_models(models, [cron], "Europe/Berlin", tick) == {"own": int(tick.timestamp() * 1000)}
