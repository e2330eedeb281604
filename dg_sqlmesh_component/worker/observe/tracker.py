"""Turns SQLMesh's calls of its console into events."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from threading import Lock, Thread
from typing import Any

from sqlmesh.core.snapshot import Snapshot
from sqlmesh.utils.date import now_timestamp
from sqlmesh.utils.errors import NodeAuditsErrors

from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.errors import (
    EvaluationError,
    LockLostError,
    SQLMeshComponentError,
    WorkerError,
)
from dg_sqlmesh_component.protocol.formatting import listed, plain, unquoted
from dg_sqlmesh_component.protocol.graph import reachable
from dg_sqlmesh_component.protocol.intervals import subtract
from dg_sqlmesh_component.worker.context import PipeConsole
from dg_sqlmesh_component.worker.explain import describe_error
from dg_sqlmesh_component.worker.forked_processes import end_fork
from dg_sqlmesh_component.worker.intervals.coverage import Coverages
from dg_sqlmesh_component.worker.intervals.tables import upstream
from dg_sqlmesh_component.worker.observe.progress import Progress
from dg_sqlmesh_component.worker.own_bugs import own_bug
from dg_sqlmesh_component.worker.pipe import Pipe
from dg_sqlmesh_component.worker.project_exits import as_exception
from dg_sqlmesh_component.worker.transient_errors import is_transient

_MAX_NAMED = 5
"""How many models a message names."""


class Cancelled(Exception):
    """Raised before a batch, so that SQLMesh does not execute the batch and leaves out everything after it.

    An ordinary exception, which SQLMesh treats as a failed model. A `BaseException` would end the run
    at once, but before SQLMesh 0.236.4 it is lost in a pool thread and the run waits forever.
    """


@dataclass(frozen=True)
class Replaced:
    """The models that may lose rows if a restatement ends before their last batch.

    Attributes:
        tables: The models whose first batch replaces the whole table.
        rows: The models whose engine has no transactions: SQLMesh deletes rows, then inserts the new ones.
    """

    tables: Set[str]
    rows: Set[str]

    def may_have_changed(self, fqn: str, finished: Collection[msg.Interval]) -> bool:
        """Whether a model that has started may now lack rows of its unfinished intervals."""
        return fqn in self.rows or (fqn in self.tables and bool(finished))


class Tracker(PipeConsole):
    """SQLMesh's console during a run: records the calls and sends events. Pool threads call it.

    It must never raise, except `Cancelled` before a batch, `ProjectExit` after one, and `LockLostError` before the
    first one and after a view.

    Attributes:
        planned: The planned batches of each node. An empty tuple: intervals are missing, but none of them is ready.
        unready_signals: By node, its signals that held back an interval.
        held_back_by: By model with held-back intervals, the nearest upstream models that lack them and do not run, and
            the awaited tables that are not complete. A model that depends on its past may be held back by itself.
        sources: The awaited tables.
        was_cancelled: Whether a batch was not started, or was cancelled, because Dagster cancelled the run.
        lost_lock: Why a lock was lost, if SQLMesh was stopped because of it.
        cut_off: Nodes with a batch in flight that was cancelled.
        is_through: Whether SQLMesh has reported the result of everything planned. Only `after_all` statements follow.
        await_go_ahead: Waits until the planned batches may be computed.
        count_rows: Reports the rows of a model's table after its last batch.
        idle_nodes: Finds the events that explain why nodes without planned batches have nothing to do.
        coverages: The coverages when SQLMesh planned; None before that.
        replaced: What a restatement replaces; None in a run.
    """

    def __init__(self, pipe: Pipe) -> None:
        super().__init__(pipe)
        self.planned: dict[str, tuple[msg.Interval, ...]] = {}
        self.unready_signals: dict[str, list[str]] = {}
        self.held_back_by: dict[str, Set[str]] = {}
        self.sources: Set[str] = frozenset()
        self.was_cancelled = False
        self.lost_lock: LockLostError | None = None
        self.cut_off: set[str] = set()
        self.is_through = False
        self.await_go_ahead: Callable[[], None] = lambda: None
        self.count_rows: Callable[[Snapshot], None] = lambda _: None
        self.idle_nodes: Callable[[], Iterable[msg.Event]] = tuple
        self.coverages: Coverages | None = None
        self.replaced: Replaced | None = None
        self._idle: list[msg.Event] | None = None
        self._idle_lock = Lock()
        self._forgotten: dict[str, Sequence[msg.Interval]] = {}
        self._signal_owner: Snapshot | None = None
        self._failed: set[str] = set()
        self._blocked: set[str] = set()
        self._failed_audits: set[str] = set()
        self._reported: list[BaseException] = []
        self._gateways: dict[str, str | None] = {}
        self._progress = Progress()
        self._progress_reports = Thread(target=self._report_progress, name="dg-sqlmesh-progress", daemon=True)

    # -- before the first batch ---------------------------------------------------------------------

    def start_signal_progress(self, snapshot: Snapshot, *_: Any, **__: Any) -> None:
        self._signal_owner = snapshot

    def stop_signal_progress(self) -> None:
        self._signal_owner = None

    def update_signal_progress(
        self, snapshot: Snapshot, signal_name: str, *_: Any, ready_intervals: Any, check_intervals: Any, **__: Any
    ) -> None:
        if list(ready_intervals) != list(check_intervals):
            self.unready_signals.setdefault(snapshot.name, []).append(signal_name)

    def fail_signal(self, error: Exception) -> SQLMeshComponentError:
        """Report the model whose signal raised. SQLMesh checks all signals before it computes, and ends at an error."""
        if self._signal_owner is None:
            return EvaluationError(f"A signal raised an error: {describe_error(error)}")
        fqn = self._signal_owner.name
        self._fail(fqn, error)
        text = f"A signal of {unquoted(fqn)} raised an error, and SQLMesh ended the run before it computed anything."
        return EvaluationError(text, is_transient=is_transient(error))

    def start_evaluation_progress(
        self, batched_intervals: dict[Snapshot, list[msg.Interval]], *_: Any, **__: Any
    ) -> None:
        self.planned = {snapshot.name: tuple(batches) for snapshot, batches in batched_intervals.items()}
        self._progress.plan(self.planned)
        self._start_reports()
        upstream = (by - {fqn} for fqn, by in self.held_back_by.items())
        if unselected := sorted(set().union(*upstream) - self.sources):
            named = listed(list(map(unquoted, unselected)), _MAX_NAMED)
            text = f"Not in this run, with pending intervals: {named}. Models downstream are computed up to them."
            self.pipe.log("info", text)
        partly = {fqn: tuple(sorted(by)) for fqn, by in self.held_back_by.items() if self.planned.get(fqn)}
        self.pipe.send(msg.EvaluationPlanned(self.planned, partly))
        if self.planned:
            self.await_go_ahead()
            self.require_locks()  # statements before all models follow
        self._idle = list(self.idle_nodes())

    def plan_more(self, batches: Mapping[str, tuple[msg.Interval, ...]]) -> None:
        """Note and send the batches of the next stage of a plan."""
        self.planned = {**self.planned, **batches}
        self._progress.plan(self.planned, keeps_finished=True)
        self._start_reports()
        self.pipe.send(msg.EvaluationPlanned(dict(batches), continues=True))

    def finished(self, fqn: str) -> Sequence[msg.Interval]:
        """The intervals of the finished batches of a node, in all stages of a plan."""
        return self._progress.finished(fqn)

    @property
    def failed(self) -> Set[str]:
        """The nodes that have failed."""
        return self._failed

    def _start_reports(self) -> None:
        if self._progress_reports.ident is None:
            self._progress_reports.start()

    def report_idle_nodes(self) -> None:
        """Report them once: before the first batch, so that these outcomes survive if the process is killed.

        SQLMesh plans, and then executes the statements of `before_all`. If one of them fails, nothing has begun.
        """
        with self._idle_lock:
            events, self._idle = self.idle_nodes() if self._idle is None else self._idle, []
            for event in events:
                self.pipe.send(event)

    def start_over(self) -> None:
        """A plan has landed during the run: what SQLMesh planned before is void."""
        self.planned = {}
        self.is_through = False
        self._idle = None
        for record in (
            self.unready_signals,
            self.held_back_by,
            self._failed,
            self._blocked,
            self._forgotten,
            self._reported,
        ):
            record.clear()
        self.pipe.send(msg.EvaluationPlanned({}))
        text = "A plan changed the environment during the run: SQLMesh starts over with the models promoted now."
        self.pipe.log("warning", text)

    # -- batches: called from pool threads ----------------------------------------------------------

    def start_snapshot_evaluation_progress(self, snapshot: Snapshot, *_: Any, **__: Any) -> None:
        if self.pipe.is_cancelled:
            self.was_cancelled = True
            raise Cancelled
        try:
            self.require_locks()
        except LockLostError as error:
            raise Cancelled from error
        self.report_idle_nodes()
        self._gateways[snapshot.name] = snapshot.model_gateway
        self._progress.start(snapshot.name, time.monotonic())
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

    def report_forgotten(self, fqn: str, intervals: Sequence[msg.Interval]) -> None:
        """Send the coverage of a node without the computed intervals that it begins to compute again."""
        self._forgotten[fqn] = intervals
        self._report_coverage(fqn)

    def running(self, default_gateway: str) -> dict[str, str]:
        """The gateway of each node with a batch in flight. Safe from any thread."""
        return {fqn: self._gateways[fqn] or default_gateway for fqn in self._progress.running}

    def _report_progress(self) -> None:
        while True:
            time.sleep(1)
            if (report := self._progress.report(time.monotonic())) is not None:
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
        if self._progress.end(snapshot.name, interval if duration_ms is not None else None):
            self._report_coverage(snapshot.name)
            self.count_rows(snapshot)
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

    def _report_coverage(self, fqn: str) -> None:
        if self.coverages is None:
            return
        finished = self._progress.finished(fqn)
        is_replaced = self.replaced is not None and (
            fqn in self._failed_audits or self.replaced.may_have_changed(fqn, finished)
        )
        undone = subtract(self.planned[fqn], finished) if is_replaced and self._progress.has_started(fqn) else ()
        if coverage := self.coverages.of(fqn, finished, undone, self._forgotten.get(fqn, ())):
            self.pipe.send(coverage)

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

    def report_unfinished_coverage(self) -> None:
        """Send the coverage of planned models whose last batch has not finished."""
        for fqn in self._progress.unfinished:
            self._report_coverage(fqn)

    def _fail(self, fqn: str, cause: BaseException) -> None:
        self._failed.add(fqn)
        audits = cause.errors if isinstance(cause, NodeAuditsErrors) else []
        if audits:
            self._failed_audits.add(fqn)
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
        return {
            fqn: tuple(sorted(reachable(graph.get(fqn, ()), graph.__getitem__) & self._failed))
            for fqn in sorted(self._blocked)
        }
