"""When the crons of models tick."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta, timezone

from dg_sqlmesh_component.dagster_internals import last_cron_tick
from dg_sqlmesh_component.protocol.manifest import Model

UTC = "UTC"


def crons_by_time_zone(models: Iterable[Model]) -> dict[str, list[str]]:
    """The different crons of the models, by time zone."""
    crons: dict[str, set[str]] = {}
    for model in models:
        crons.setdefault(model.cron_tz or UTC, set()).add(model.cron)
    return {time_zone: sorted(crons[time_zone]) for time_zone in sorted(crons)}


def ticked_models(models: Mapping[str, Model], crons: Sequence[str], time_zone: str, now: datetime) -> dict[str, int]:
    """The models whose cron has ticked since the previous tick of a schedule, and when, in epoch milliseconds.

    Args:
        models: By fqn.
        crons: The crons of the schedule.
        time_zone: The time zone of the schedule.
        now: The time of the tick.
    """
    before = now.astimezone(timezone.utc) - timedelta(seconds=1)
    previous = max(last_cron_tick(cron, time_zone, before) for cron in crons)
    ticks = {fqn: last_cron_tick(model.cron, model.cron_tz or UTC, now) for fqn, model in models.items()}
    return {fqn: int(tick.timestamp() * 1000) for fqn, tick in ticks.items() if tick > previous}
