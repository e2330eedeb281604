"""The job and the schedule of SQLMesh's janitor."""

from __future__ import annotations

import dagster as dg

from dg_sqlmesh_component.clean_up.step import clean_up
from dg_sqlmesh_component.config.scheduling import Janitor
from dg_sqlmesh_component.definitions.op import graph_of_op, refuse_op_name, refuse_reserved_tags
from dg_sqlmesh_component.definitions.settings import Settings


def build_janitor(configured: Janitor, settings: Settings) -> dg.Definitions:
    """A job with one op, and its schedule. The janitor shares the pool of the component's op, and so its limit."""
    refuse_reserved_tags("janitor.tags", configured.tags)
    if configured.name is not None:
        refuse_op_name(configured.name, "janitor.name")
    name = configured.name or settings.job_name("janitor")
    description = (
        "Runs SQLMesh's janitor, which deletes everything that has expired. It waits until no run uses the SQLMesh "
        "state."
    )
    graph = graph_of_op(name, description, lambda context: clean_up(context, settings), None, settings.pool)
    job = graph.to_job(tags=configured.tags)
    schedule = dg.ScheduleDefinition(
        job=job,
        cron_schedule=configured.cron,
        execution_timezone=configured.timezone,
        default_status=dg.DefaultScheduleStatus[configured.default_status],
    )
    return dg.Definitions(jobs=[job], schedules=[schedule])
