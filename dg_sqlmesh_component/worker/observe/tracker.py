"""Turns SQLMesh's calls of its console into events."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from threading import Thread
from typing import Any

from sqlmesh.core.snapshot import Snapshot
from sqlmesh.utils.date import now_timestamp
from sqlmesh.utils.errors import NodeAuditsErrors

from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.errors import LockLostError, WorkerError
from dg_sqlmesh_component.protocol.formatting import plain
from dg_sqlmesh_component.protocol.graph import parents_first
from dg_sqlmesh_component.worker.context import PipeConsole
from dg_sqlmesh_component.worker.explain import describe_error
from dg_sqlmesh_component.worker.forked_processes import end_fork
from dg_sqlmesh_component.worker.intervals.tables import upstream
from dg_sqlmesh_component.worker.observe.progress import Progress
from dg_sqlmesh_component.worker.own_bugs import own_bug
from dg_sqlmesh_component.worker.pipe import Pipe
from dg_sqlmesh_component.worker.project_exits import as_exception
from dg_sqlmesh_component.worker.transient_errors import is_transient


class Cancelled(Exception):
    """Raised before a batch, so that SQLMesh does not execute the batch and leaves out everything after it.

    An ordinary exception, which SQLMesh treats as a failed model. A `BaseException` would end the run
    at once, but before SQLMesh 0.236.4 it is lost in a pool thread and the run waits forever.
    """


class Tracker(PipeConsole):
    """SQLMesh's console while it computes batches: records the calls and sends events. Pool threads call it.

    It must never raise, except `Cancelled` before a batch, `ProjectExit` after one, and `LockLostError` before the
    first one and after a view.

    Attributes:
        was_cancelled: Whether a batch or a plan's stage was not started, or was cancelled, because Dagster cancelled
            the run.
        lost_lock: Why a lock was lost, if SQLMesh was stopped because of it.
        cut_off: Nodes with a batch in flight that was cancelled.
        is_through: Whether SQLMesh has reported the result of everything planned. Only `after_all` statements follow.
    """

    def __init__(self, pipe: Pipe) -> None:
        super().__init__(pipe)
        self.was_cancelled = False
        self.lost_lock: LockLostError | None = None
        self.cut_off: set[str] = set()
        self.is_through = False
        self.failed: set[str] = set()
        self._blocked: set[str] = set()
        self._reported: list[BaseException] = []
        self._gateways: dict[str, str | None] = {}
        self.progress = Progress()
        self._progress_reports = Thread(target=self._report_progress, name="dg-sqlmesh-progress", daemon=True)

    def _start_reports(self) -> None:
        if self._progress_reports.ident is None:
            self._progress_reports.start()

    def report_forgotten(self, fqn: str, intervals: Sequence[msg.Interval]) -> None:
        """Called before the first batch of a node with the computed intervals that it computes again."""

    def before_batch(self) -> None:
        """Called before each batch."""

    def after_last_batch(self, snapshot: Snapshot) -> None:
        """Called when all batches of a node have finished."""

    # -- batches: called from pool threads ----------------------------------------------------------

    def start_snapshot_evaluation_progress(self, snapshot: Snapshot, *_: Any, **__: Any) -> None:
        if self.pipe.is_cancelled:
            self.was_cancelled = True
            raise Cancelled
        try:
            self.require_locks()
        except LockLostError as error:
            raise Cancelled from error
        self.before_batch()
        self._gateways[snapshot.name] = snapshot.model_gateway
        self.progress.start(snapshot.name, time.monotonic())
        self.pipe.send(msg.BatchStarted(snapshot.name))

    def update_promotion_progress(self, *_: Any, **__: Any) -> None:
        """SQLMesh calls this after each view. An error here ends the promotion."""
        self.require_locks()

    def update_cleanup_progress(self, *_: Any, **__: Any) -> None:
        """SQLMesh's janitor calls this after each deleted object, also at the end of a run."""
        self.require_locks()

    def require_locks(self) -> None:
        """As `Pipe.require_locks`, and remember the error: SQLMesh reports another one."""
        try:
            self.pipe.require_locks()
        except LockLostError as error:
            self.lost_lock = error
            raise

    def running(self, default_gateway: str) -> dict[str, str]:
        """The gateway of each node with a batch in flight. Safe from any thread."""
        return {fqn: self._gateways[fqn] or default_gateway for fqn in self.progress.running}

    def _report_progress(self) -> None:
        while True:
            time.sleep(1)
            if (report := self.progress.report(time.monotonic())) is not None:
                self.pipe.send(report)

    def update_snapshot_evaluation_progress(
        self,
        snapshot: Snapshot,
        interval: msg.Interval,
        batch_idx: int,
        duration_ms: int | None,
        *_: Any,
        execution_stats: Any = None,
        **__: Any,
    ) -> None:
        # SQLMesh calls this in a `finally`, so the error of a failed batch is on its way up.
        raised = None if duration_ms is not None else sys.exc_info()[1]
        end_fork(raised)
        error = raised and as_exception(raised)
        if error is not None and self.pipe.is_cut_off:
            self.was_cancelled = True
            self.cut_off.add(snapshot.name)
        elif error is not None:  # sent now, so that it is known if another model ends the process
            self._reported.append(error)
            self._fail(snapshot.name, error)
        if self.progress.end(snapshot.name, interval if duration_ms is not None else None):
            self.after_last_batch(snapshot)
        self.pipe.send(
            msg.BatchFinished(
                fqn=snapshot.name,
                batch_index=batch_idx,
                interval=interval,
                duration_ms=duration_ms,
                rows=getattr(execution_stats, "total_rows_processed", None),
                bytes=getattr(execution_stats, "total_bytes_processed", None),
                at=now_timestamp(),
            )
        )
        if error is not None and error is not raised:
            raise error  # that one would end SQLMesh's run, or let it wait forever before SQLMesh 0.236.4

    # -- after the last batch -----------------------------------------------------------------------

    def log_skipped_models(self, snapshot_names: set[str]) -> None:
        self._blocked = set(snapshot_names)  # reported when the failures are known: SQLMesh calls the next method then

    def log_failed_models(self, errors: list[Any]) -> None:
        self.is_through = True
        for error in errors:
            fqn = getattr(error.node, "snapshot_name", None) or error.node.name
            # A node of this run did not fail if it was not started, or if the worker cancelled its query.
            cause = error.__cause__ or error
            if isinstance(cause, Cancelled) or fqn in self.cut_off or any(cause is one for one in self._reported):
                continue
            self._fail(fqn, cause)

    def _fail(self, fqn: str, cause: BaseException) -> None:
        self.failed.add(fqn)
        audits = cause.errors if isinstance(cause, NodeAuditsErrors) else []
        self.pipe.send(
            msg.NodeFailed(
                fqn=fqn,
                error_type=(WorkerError if own_bug(cause) else type(cause)).__name__,
                message="; ".join(plain(audit) for audit in audits) or describe_error(cause),
                failed_audits=tuple(audit.audit_name for audit in audits),
                is_transient=not audits and is_transient(cause),
            )
        )

    def blocked_by(self, snapshots: Mapping[str, Snapshot]) -> dict[str, tuple[str, ...]]:
        """The failed nodes upstream of each node that SQLMesh left out."""
        graph = upstream(snapshots)
        failed: dict[str, frozenset[str]] = {}  # those upstream of each node
        for fqn in parents_first(self._blocked, lambda fqn: graph.get(fqn, ())):
            parents = graph.get(fqn, ())
            failed[fqn] = frozenset(self.failed.intersection(parents)).union(*map(failed.__getitem__, parents))
        return {fqn: tuple(sorted(failed[fqn])) for fqn in sorted(self._blocked)}
