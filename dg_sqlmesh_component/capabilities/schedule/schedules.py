"""The Dagster schedules of a component, and the job that they launch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

import dagster as dg

from dg_sqlmesh_component.capabilities.schedule.attributes import Schedule
from dg_sqlmesh_component.capabilities.schedule.source_sensor import build_source_sensor
from dg_sqlmesh_component.capabilities.schedule.tick import UTC, Timetable, evaluate_tick
from dg_sqlmesh_component.dagster_internals.assets import WithAssetsBetween
from dg_sqlmesh_component.definitions.op import refuse_name, refuse_reserved_tags
from dg_sqlmesh_component.definitions.settings import Settings
from dg_sqlmesh_component.definitions.translator import require_five_fields
from dg_sqlmesh_component.protocol.errors import ConfigurationError
from dg_sqlmesh_component.protocol.formatting import block
from dg_sqlmesh_component.protocol.manifest import Model


def build_schedules(configured: Schedule, settings: Settings) -> dg.Definitions:
    """One schedule for each time zone of the models' crons, or one for the configured cron, and their job."""
    refuse_reserved_tags("schedule.tags", configured.tags)
    if configured.name is not None:
        refuse_name(configured.name, "schedule.name")
    if configured.on_sources and settings.attributes.external_models.wait is None:
        raise ConfigurationError(
            "`schedule.on_sources` in defs.yaml needs the sources that the models wait for. Set it as well:"
            + block("external_models:\n  wait: true")
        )
    assets = settings.assets
    if not assets.specs:
        return dg.Definitions()
    name = configured.name or f"{settings.op}_schedule"
    # The job has the executable assets between two models, so that a tick can request them.
    job = dg.define_asset_job(
        f"{configured.name or settings.op}_job",
        selection=WithAssetsBetween(assets.fqn_by_key),
        description=f"Runs SQLMesh for the models of {settings.project.name}, and the assets between them.",
    )
    crons: Mapping[str, list[str]]
    if configured.cron is None:
        crons = crons_by_time_zone(assets.models[fqn] for fqn in assets.specs)
    else:
        crons = {configured.timezone or UTC: [configured.cron]}
    schedules = []
    for time_zone, cron_schedule in crons.items():
        timetable = Timetable(_name(name, time_zone), cron_schedule, time_zone)
        schedules.append(_schedule(configured, timetable, job.name, settings))
    sensors = [build_source_sensor(configured, name, job.name, settings)] if configured.on_sources else []
    return dg.Definitions(schedules=schedules, jobs=[job], sensors=sensors)


def crons_by_time_zone(models: Iterable[Model]) -> dict[str, list[str]]:
    """The different crons of the models, by time zone.

    Raises:
        ConfigurationError: Dagster does not accept the cron of a model.
    """
    crons: dict[str, set[str]] = {}
    for model in models:
        require_five_fields(model, "schedule")
        crons.setdefault(model.cron_tz or UTC, set()).add(model.cron)
    return {time_zone: sorted(crons[time_zone]) for time_zone in sorted(crons)}


def _schedule(configured: Schedule, timetable: Timetable, job: str, settings: Settings) -> dg.ScheduleDefinition:
    def request_pending(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
        yield from evaluate_tick(context, timetable, configured.tags, settings)

    return dg.ScheduleDefinition(
        name=timetable.name,
        job_name=job,
        cron_schedule=timetable.crons,
        execution_timezone=timetable.time_zone,
        execution_fn=request_pending,
        default_status=dg.DefaultScheduleStatus[configured.default_status],
        description=f"Runs the SQLMesh models of {settings.project.name} that have pending intervals.",
    )


def _name(name: str, time_zone: str) -> str:
    """The schedule's name. It does not depend on the other time zones, so it never changes."""
    time_zone_name = time_zone.lower().replace("+", "_plus_")  # `Etc/GMT+1` is not `Etc/GMT-1`
    return name if time_zone == UTC else f"{name}_{re.sub('[^a-z0-9]+', '_', time_zone_name)}"
