"""The job and the schedule of SQLMesh's janitor."""

from __future__ import annotations

from collections.abc import Iterator

import dagster as dg

from dg_sqlmesh_component.clean_up.step import clean_up
from dg_sqlmesh_component.config.scheduling import Janitor
from dg_sqlmesh_component.dagster_internals import failures_without_traceback
from dg_sqlmesh_component.definitions.op import refuse_op_name, refuse_reserved_tags
from dg_sqlmesh_component.definitions.settings import Settings


def build_janitor(configured: Janitor, settings: Settings) -> dg.Definitions:
    """A job with one op, and its schedule. The janitor shares the pool of the component's op, and so its limit."""
    refuse_reserved_tags("janitor.tags", configured.tags)
    if configured.name is not None:
        refuse_op_name(configured.name, "janitor.name")
    name = configured.name or settings.job_name("janitor")
    scope = "everything that has expired"
    if configured.environment:
        scope = f"environment {configured.environment}, if it has expired"
    description = f"Runs SQLMesh's janitor, which deletes {scope}. It waits until no run uses the SQLMesh state."

    def run_janitor(context: dg.OpExecutionContext) -> Iterator[dg.Output[None]]:
        with failures_without_traceback(context):
            yield from clean_up(context, settings, configured)

    # Dagster looks at the annotation itself to decide which kind of context to pass.
    run_janitor.__annotations__ = {"context": dg.OpExecutionContext}
    # Dagster allows no op of the job's own name.
    op = dg.op(name=f"{name}_op", description=description, pool=settings.pool, out=dg.Out(dg.Nothing))(run_janitor)
    job = dg.GraphDefinition(name=name, node_defs=[op], description=description).to_job(tags=configured.tags)
    schedule = dg.ScheduleDefinition(
        job=job,
        cron_schedule=configured.cron,
        execution_timezone=configured.timezone,
        default_status=dg.DefaultScheduleStatus[configured.default_status],
    )
    return dg.Definitions(jobs=[job], schedules=[schedule])
