"""The requests of a step to SQLMesh's process. Every job uses it.

The session sends one request after the other, writes the output of the worker to the step's log, and stops the worker
if the step is cancelled. A worker stays open until the next request, or until Dagster has stored the results of the
step: it holds the lock on the SQLMesh state.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, TypeAlias, TypeVar

import dagster as dg

from dg_sqlmesh_component.config.project import SQLMeshProject
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.errors import ERRORS_BY_NAME, SQLMeshComponentError, WorkerError
from dg_sqlmesh_component.worker_client.calls import serving
from dg_sqlmesh_component.worker_client.interruption import Interruption, has_ended
from dg_sqlmesh_component.worker_client.output import WorkerOutput
from dg_sqlmesh_component.worker_client.worker import CUT_OFF_GRACE_SECONDS, FINISH_GRACE_SECONDS, Worker

_End = TypeVar("_End")

End: TypeAlias = msg.LastEvent | SQLMeshComponentError
"""The last event of a request, or why there is none: the worker died, or could not be started."""


class WorkerSession:
    """The requests of one step.

    Args:
        after_cancel: What a cancelled step leaves, as a sentence.
    """

    def __init__(self, context: dg.OpExecutionContext, project: SQLMeshProject, after_cancel: str = "") -> None:
        self._context = context
        self._project = project
        self._after_cancel = after_cancel
        self._output = WorkerOutput(context.log)
        self._interruption = Interruption(context, self._cancel)
        self._open_worker = ExitStack()
        self._worker: Worker | None = None
        self._end: End | None = None

    @property
    def is_cancelled(self) -> bool:
        """Whether the step was cancelled (SIGINT, SIGTERM), or its run has ended."""
        return self._interruption.is_cancelled

    @property
    def end(self) -> End:
        """How the last request has ended."""
        assert self._end is not None, "a request has ended"
        return self._end

    @property
    def error(self) -> SQLMeshComponentError | None:
        """Why the last request was not served; None if it was."""
        if isinstance(self.end, msg.RequestFailed):
            return ERRORS_BY_NAME.get(self.end.error, WorkerError)(self.end.message)
        return self.end if isinstance(self.end, SQLMeshComponentError) else None

    def drive(self, results: Iterator[Any]) -> Iterator[Any]:
        """The results of a step. While they are computed and recorded, signals are handled here."""
        yield from self._interruption.guard(self._closed_after(results))

    def _closed_after(self, results: Iterator[Any]) -> Iterator[Any]:
        try:
            yield from results
        finally:
            self.close()
            self._output.close()

    def events(self, request: msg.Request) -> Iterator[msg.Event]:
        """Send a request, and yield its events, without its output and its last event."""
        # The worker of the request before holds the lock, for which this one would wait.
        self.close()
        try:
            serves = serving(self._project, request)
            self._worker = worker = self._open_worker.enter_context(serves)
            # The signal may have come before there was a worker to cancel.
            if self.is_cancelled:
                worker.cancel()
            for event in worker:
                if isinstance(event, msg.LastEvent):
                    self._end = event
                elif isinstance(event, msg.LogLine):
                    self._output.write(event)
                elif isinstance(event, msg.StateHeld):
                    self._warn_of_ended_holder(event.run_id)
                else:
                    yield event
        except SQLMeshComponentError as error:
            self._end = error

    def last_event(self, request: msg.Request, of_type: type[_End]) -> _End:
        """Send a request that has no other events, and return its last one. If there is none, end the step."""
        for _ in self.events(request):
            pass
        if self.is_cancelled:
            raise dg.DagsterExecutionInterruptedError("The run was cancelled.")
        if not isinstance(self.end, of_type):
            raise dg.Failure(str(self.error), allow_retries=False)
        return self.end

    def answer(self, answer: msg.Answer) -> None:
        """Answer an event that asks for it."""
        assert self._worker is not None, "it has sent an event"
        self._worker.answer(answer)

    def wait(self, seconds: float) -> None:
        """Wait for some seconds, or until the step is cancelled."""
        self._interruption.wait(seconds)

    def close(self) -> None:
        """Stop the worker. It releases its lock."""
        self._open_worker.close()

    def _cancel(self) -> None:
        """Cancel the worker. A thread calls this, at any time."""
        if self._worker is not None:
            self._worker.cancel()
        self._context.log.warning(
            "The run is being cancelled. SQLMesh is asked to finish what is in flight and to start nothing else. After "
            f"{FINISH_GRACE_SECONDS:.0f} seconds, its queries are cancelled if the driver or the engine supports it. "
            f"After {CUT_OFF_GRACE_SECONDS:.0f} more, its process is killed.{self._after_cancel}"
        )

    def _warn_of_ended_holder(self, run_id: str) -> None:
        """If Dagster has recorded the end of the run that holds the lock, nobody can cancel it any more."""
        if has_ended(self._context.instance, run_id):
            self._context.log.warning(
                f"In Dagster, run {run_id} has ended, but the process of one of its steps holds the SQLMesh state. "
                "Within 30 seconds after the end of its run, a step notices it and stops. If it does not, end that "
                "process on its host. It cannot be cancelled in Dagster."
            )
