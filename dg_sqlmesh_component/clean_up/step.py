"""One run of SQLMesh's janitor: it sends the request. The op's output has the deleted objects as metadata."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import dagster as dg

from dg_sqlmesh_component.config.attributes import Execution
from dg_sqlmesh_component.config.project import SQLMeshProject
from dg_sqlmesh_component.config.scheduling import Janitor
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.errors import SQLMeshComponentError
from dg_sqlmesh_component.protocol.formatting import counted, listed
from dg_sqlmesh_component.run.active_runs import warn_of_ended_holder
from dg_sqlmesh_component.run.cancellation import Interruption
from dg_sqlmesh_component.run.worker_output import WorkerOutput
from dg_sqlmesh_component.worker_client.calls import serving
from dg_sqlmesh_component.worker_client.worker import CUT_OFF_GRACE_SECONDS, FINISH_GRACE_SECONDS, Worker

MAX_NAMED_OBJECTS = 1000
"""How many dropped objects the metadata names before it counts the others."""


def clean_up(
    context: dg.OpExecutionContext, project: SQLMeshProject, janitor: Janitor, execution: Execution
) -> Iterator[dg.Output[None]]:
    """Run the janitor and yield one output.

    Raises:
        dagster.Failure: The janitor could not run, or could not delete an object. Its metadata has the dropped objects.
        dagster.DagsterExecutionInterruptedError: At the end, if the step was cancelled (SIGINT, SIGTERM).
    """
    request = msg.JanitorRequest(
        project.open_request,
        janitor.environment,
        execution.concurrent_tasks,
        holder=f"janitor run {context.run.run_id}",
        overlap_timeout=execution.overlap_timeout,
    )
    step = JanitorStep(context, project, request)
    yield from step.interruption.guard(step.run())


class JanitorStep:
    """One request that deletes something.

    Attributes:
        end: The last event, if everything was deleted.
    """

    def __init__(
        self,
        context: dg.OpExecutionContext,
        project: SQLMeshProject,
        request: msg.JanitorRequest,
        what: str = "SQLMesh's janitor",
    ) -> None:
        self._context = context
        self._project = project
        self._request = request
        self._worker: Worker | None = None
        self._what = what
        self._dropped: list[str] = []
        self.end: msg.JanitorFinished | None = None
        self._output = WorkerOutput(context.log)
        self.interruption = Interruption(context, self._cancel)

    def run(self) -> Iterator[dg.Output[None]]:
        end = self._serve()
        self._output.close()
        if self.interruption.is_cancelled:
            raise dg.DagsterExecutionInterruptedError(f"The run was cancelled. {self._summary(end)}")
        if not isinstance(end, msg.JanitorFinished):
            raise dg.Failure(
                description=f"{_message(end)}\n\n{self._summary(end)}" if self._dropped else _message(end),
                metadata=dropped_metadata(self._dropped),
            )
        self.end = end
        self._context.log.info(self._summary(end))
        yield dg.Output(None, metadata={**deleted_metadata(end), **dropped_metadata(self._dropped)})

    def _serve(self) -> msg.JanitorFinished | msg.RequestFailed | SQLMeshComponentError:
        """Run the janitor in a worker. Return its last event, or why there is none."""
        try:
            with serving(self._project, self._request) as self._worker:
                if self.interruption.is_cancelled:
                    self._worker.cancel()
                for event in self._worker:
                    if isinstance(event, (msg.JanitorFinished, msg.RequestFailed)):
                        return event
                    if isinstance(event, msg.ObjectDropped):
                        self._dropped.append(event.name)
                    elif isinstance(event, msg.LogLine):
                        self._output.write(event)
                    elif isinstance(event, msg.StateHeld):
                        warn_of_ended_holder(self._context, event)
        except SQLMeshComponentError as error:
            return error  # the worker died or could not be started
        raise AssertionError("a worker that ends without a last event raises")

    def _cancel(self) -> None:
        """Cancel the worker. A thread calls this, at any time."""
        if self._worker is not None:
            self._worker.cancel()
        self._context.log.warning(
            f"The run is being cancelled: {self._what} gets {FINISH_GRACE_SECONDS:.0f} seconds to finish. Then its "
            "queries are cancelled if the driver or the engine has a way. "
            f"After {CUT_OFF_GRACE_SECONDS:.0f} more seconds, its process is killed. The next "
            "run of this job deletes the remaining objects."
        )

    def _summary(self, end: object) -> str:
        dropped = f"{counted(len(self._dropped), 'view, schema or table', 'views, schemas and tables')}"
        if not isinstance(end, msg.JanitorFinished):
            return f"Before that, {self._what} had dropped {dropped}."
        environments = counted(len(end.environments), "environment")
        names = f" ({listed(end.environments)})" if end.environments else ""
        snapshots = counted(_deleted_snapshots(end), "version of a model", "versions of models")
        rows = counted(end.before.interval_rows, "row")
        return (
            f"Deleted: {environments}{names} and {snapshots}; dropped: {dropped}. The table of "
            f"intervals had {rows} before and has {end.after.interval_rows} now."
        )


def _message(end: msg.RequestFailed | SQLMeshComponentError) -> str:
    return end.message if isinstance(end, msg.RequestFailed) else str(end)


def _deleted_snapshots(end: msg.JanitorFinished) -> int:
    # Not below 0: `sqlmesh plan` does not take the lock in PostgreSQL, and may have added some.
    return max(end.before.snapshots - end.after.snapshots, 0)


def deleted_metadata(end: msg.JanitorFinished) -> dict[str, Any]:
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
