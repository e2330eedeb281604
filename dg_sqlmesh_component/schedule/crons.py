"""When the crons of models tick."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from zoneinfo import ZoneInfo

from croniter import croniter

from dg_sqlmesh_component.protocol.manifest import Model

UTC = "UTC"


def crons_by_time_zone(models: Iterable[Model]) -> dict[str, list[str]]:
    """The different crons of the models, by time zone."""
    crons: dict[str, set[str]] = {}
    for model in models:
        crons.setdefault(model.cron_tz or UTC, set()).add(model.cron)
    return {time_zone: sorted(crons[time_zone]) for time_zone in sorted(crons)}


def ticked_models(models: Mapping[str, Model], crons: Sequence[str], now: datetime) -> dict[str, int]:
    """The models whose cron has ticked since the previous tick of a schedule, and when, in epoch milliseconds.

    Args:
        models: By fqn.
        crons: The crons of the schedule.
        now: The time of the tick, in the schedule's time zone.
    """
    previous = max(croniter(cron, now).get_prev(datetime) for cron in crons)
    ticks = {fqn: _last_tick(model, now) for fqn, model in models.items()}
    return {fqn: int(tick.timestamp() * 1000) for fqn, tick in ticks.items() if tick > previous}


def _last_tick(model: Model, now: datetime) -> datetime:
    """The last tick of a model's cron, which may be `now` itself."""
    local = now.astimezone(ZoneInfo(model.cron_tz) if model.cron_tz else timezone.utc)
    tick: datetime = croniter(model.cron, local + timedelta(seconds=1)).get_prev(datetime)
    return tick
