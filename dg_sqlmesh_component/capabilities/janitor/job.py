"""The job and the schedule of SQLMesh's janitor, and its step. The op's output has the deleted objects as metadata."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import dagster as dg

from dg_sqlmesh_component.capabilities.janitor.attributes import Janitor
from dg_sqlmesh_component.capabilities.janitor.messages import JanitorFinished, JanitorRequest, ObjectDropped
from dg_sqlmesh_component.config.project import SQLMeshProject
from dg_sqlmesh_component.definitions.op import graph_of_op, refuse_op_name, refuse_reserved_tags
from dg_sqlmesh_component.definitions.settings import Settings
from dg_sqlmesh_component.protocol.formatting import counted, listed
from dg_sqlmesh_component.worker_client.session import WorkerSession

_AFTER_CANCEL = " The next run of this job deletes the remaining objects."

MAX_NAMED_OBJECTS = 1000
"""How many dropped objects the metadata names before it counts the others."""


def clean_up(context: dg.OpExecutionContext, settings: Settings) -> Iterator[dg.Output[None]]:
    """Run the janitor and yield one output.

    Raises:
        dagster.Failure: The janitor could not run, or could not delete an object. Its metadata has the dropped objects.
        dagster.DagsterExecutionInterruptedError: At the end, if the step was cancelled (SIGINT, SIGTERM).
    """
    request = JanitorRequest(settings.project.open_request, job=settings.job(context.run.run_id))
    step = JanitorStep(context, settings.project, request)
    yield from step.session.drive(step.run())


class JanitorStep:
    """One request that deletes something.

    Attributes:
        end: The last event, if everything was deleted.
    """

    def __init__(
        self,
        context: dg.OpExecutionContext,
        project: SQLMeshProject,
        request: JanitorRequest,
        what: str = "SQLMesh's janitor",
    ) -> None:
        self._context = context
        self._request = request
        self._what = what
        self._dropped: list[str] = []
        self.end: JanitorFinished | None = None
        self.session = WorkerSession(context, project, after_cancel=_AFTER_CANCEL)

    def run(self) -> Iterator[dg.Output[None]]:
        for event in self.session.events(self._request):
            if isinstance(event, ObjectDropped):
                self._dropped.append(event.name)
        end = self.session.end
        if self.session.is_cancelled:
            raise dg.DagsterExecutionInterruptedError(f"The run was cancelled. {self._summary(end)}")
        if not isinstance(end, JanitorFinished):
            raise dg.Failure(
                description="\n\n".join([str(self.session.error), *([self._summary(end)] if self._dropped else [])]),
                metadata=dropped_metadata(self._dropped),
            )
        self.end = end
        self._context.log.info(self._summary(end))
        yield dg.Output(None, metadata={**deleted_metadata(end), **dropped_metadata(self._dropped)})

    def _summary(self, end: object) -> str:
        dropped = f"{counted(len(self._dropped), 'view, schema or table', 'views, schemas and tables')}"
        if not isinstance(end, JanitorFinished):
            return f"Before that, {self._what} had dropped {dropped}."
        environments = counted(len(end.environments), "environment")
        names = f" ({listed(end.environments)})" if end.environments else ""
        snapshots = counted(_deleted_snapshots(end), "version of a model", "versions of models")
        before, after = end.before.interval_rows, end.after.interval_rows
        merged = f" Merged {counted(before, 'row')} of the state's table of intervals into {after}."
        deleted = f"Deleted: {environments}{names} and {snapshots}; dropped: {dropped}."
        return deleted + (merged if after < before else "")


def _deleted_snapshots(end: JanitorFinished) -> int:
    # Not below 0: `sqlmesh plan` takes no lock on a server, and may have added some.
    return max(end.before.snapshots - end.after.snapshots, 0)


def deleted_metadata(end: JanitorFinished) -> dict[str, Any]:
    return {
        "sqlmesh/deleted_environments": dg.MetadataValue.json(list(end.environments)),
        "sqlmesh/deleted_snapshots": _deleted_snapshots(end),
        "sqlmesh/interval_rows_before": end.before.interval_rows,
        "sqlmesh/interval_rows_after": end.after.interval_rows,
    }


def dropped_metadata(dropped: list[str]) -> dict[str, Any]:
    return {
        "sqlmesh/dropped_objects": len(dropped),
        "sqlmesh/dropped_object_names": dg.MetadataValue.json(dropped[:MAX_NAMED_OBJECTS]),
    }


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
