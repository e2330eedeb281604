"""SQLMesh's console as a source of evidence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Set
from threading import Lock
from typing import Any

from sqlmesh.core.snapshot import Snapshot
from sqlmesh.utils.errors import NodeAuditsErrors

from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.errors import EvaluationError, SQLMeshComponentError
from dg_sqlmesh_component.protocol.formatting import bare, listed, plain
from dg_sqlmesh_component.protocol.graph import reachable
from dg_sqlmesh_component.worker.context import PipeConsole, describe_error
from dg_sqlmesh_component.worker.pipe import Pipe
from dg_sqlmesh_component.worker.transient_errors import is_transient

_NAMED = 5
"""How many models a message names."""


class Cancelled(Exception):
    """Raised before a batch, so that it is not executed and everything after it is left out.

    An ordinary exception, which SQLMesh takes for a failing model: a `BaseException` would end the run
    at once, but before SQLMesh 0.236.4 it is lost in a pool thread and the run waits for ever.
    """


class Tracker(PipeConsole):
    """SQLMesh's console as a source of evidence. Called from pool threads; must never raise."""

    def __init__(self, pipe: Pipe) -> None:
        super().__init__(pipe)
        self.planned: dict[str, tuple[msg.Interval, ...]] = {}
        self.unready_signals: dict[str, list[str]] = {}
        self.held_back_by: dict[str, Set[str]] = {}
        self._asked: Snapshot | None = None
        self._failed: set[str] = set()
        self._cut_off: set[str] = set()
        self._blocked: set[str] = set()
        self.was_cancelled = False
        self.is_through = False
        """Whether SQLMesh has said what came of all that it planned; only `after_all` statements come behind that."""
        self.count_rows: Callable[[Snapshot], int | None] | None = None
        self.idle_nodes: Callable[[], Iterable[msg.Event]] = tuple
        """Why nodes that are not among the planned have nothing to do."""
        self._open_batches: Counter[str] = Counter()
        self._in_flight: Counter[str] = Counter()
        self._lock = Lock()

    @property
    def was_cut_off(self) -> bool:
        """Whether a batch in flight was cancelled."""
        return bool(self._cut_off)

    def start_signal_progress(self, snapshot: Snapshot, *_: Any, **__: Any) -> None:
        self._asked = snapshot

    def stop_signal_progress(self) -> None:
        self._asked = None

    def hold_back(self, fqn: str, nearest: Set[str]) -> None:
        """A model is denied intervals that models upstream lack which do not run."""
        self.held_back_by[fqn] = nearest

    def fail_signal(self, error: Exception) -> SQLMeshComponentError:
        """Tell whose signal raised: SQLMesh asks all of them before it computes anything, and ends at an error."""
        if self._asked is None:
            return EvaluationError(f"A signal raised an error: {describe_error(error)}")
        name = self._asked.name
        transient = is_transient(error)
        self.pipe.send(msg.NodeFailed(name, type(error).__name__, describe_error(error), (), is_transient=transient))
        text = f"A signal of {bare(name)} raised an error, and SQLMesh ended the run before it computed anything."
        return EvaluationError(text, is_transient=transient)

    def update_signal_progress(
        self,
        snapshot: Snapshot,
        signal_name: str,
        signal_idx: int,
        total_signals: int,
        ready_intervals: Any,
        check_intervals: Any,
        *_: Any,
        **__: Any,
    ) -> None:
        if list(ready_intervals) != list(check_intervals):
            self.unready_signals.setdefault(snapshot.name, []).append(signal_name)

    def start_evaluation_progress(
        self, batched_intervals: dict[Snapshot, list[msg.Interval]], *_: Any, **__: Any
    ) -> None:
        self.planned = {
            snapshot.name: tuple((start, end) for start, end in batches)
            for snapshot, batches in batched_intervals.items()
        }
        self._open_batches = Counter({fqn: len(batches) for fqn, batches in self.planned.items()})
        if unselected := sorted(set().union(*self.held_back_by.values())):
            named = listed(list(map(bare, unselected)), _NAMED)
            text = f"Not in this run, with pending intervals: {named}. Models downstream are computed up to them."
            self.pipe.send(msg.LogLine("info", text, "dg_sqlmesh"))
        partly = {fqn: tuple(sorted(by)) for fqn, by in self.held_back_by.items() if self.planned.get(fqn)}
        self.pipe.send(msg.EvaluationPlanned(self.planned, partly))
        self.tell_idle_nodes()

    def tell_idle_nodes(self) -> None:
        """As soon as SQLMesh has planned: at the end it would be too late for a process that is killed before."""
        for event in self.idle_nodes():
            self.pipe.send(event)

    def start_over(self) -> None:
        """A plan landed in mid-run: what SQLMesh meant to do before is void."""
        self.planned = {}
        self.is_through = False
        for evidence in (self.unready_signals, self.held_back_by, self._failed, self._blocked):
            evidence.clear()
        self.pipe.send(msg.EvaluationPlanned({}))
        text = "A plan changed the environment during the run: SQLMesh starts over with what is promoted now."
        self.pipe.send(msg.LogLine("warning", text, "dg_sqlmesh"))

    def start_snapshot_evaluation_progress(self, snapshot: Snapshot, *_: Any, **__: Any) -> None:
        if self.pipe.is_cancelled:
            self.was_cancelled = True
            raise Cancelled
        with self._lock:
            self._in_flight[snapshot.name] += 1

    def tell_in_flight(self) -> None:
        """Say what is still running. Safe from any thread."""
        with self._lock:
            nodes = tuple(sorted(+self._in_flight))
        self.pipe.send(msg.BatchesInFlight(nodes))

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
        if duration_ms is not None:
            self._count_behind_last_batch(snapshot)
        elif self.pipe.is_cut_off:
            self.was_cancelled = True
            self._cut_off.add(snapshot.name)
        with self._lock:
            self._in_flight[snapshot.name] -= 1
        if self.pipe.is_cut_off:
            self.tell_in_flight()
        self.pipe.send(
            msg.BatchFinished(
                fqn=snapshot.name,
                batch_index=batch_idx,
                interval=(interval[0], interval[1]),
                duration_ms=duration_ms,
                rows=getattr(execution_stats, "total_rows_processed", None),
                bytes=getattr(execution_stats, "total_bytes_processed", None),
            )
        )

    def _count_behind_last_batch(self, snapshot: Snapshot) -> None:
        with self._lock:  # batches of one model may end in several threads at once
            self._open_batches[snapshot.name] -= 1
            is_last = self._open_batches[snapshot.name] == 0
        if self.count_rows is None or not is_last:
            return
        try:
            rows = self.count_rows(snapshot)
        except Exception as error:  # noqa: BLE001  # any driver's error: a model that was executed does not fail for a count
            text = f"The rows of {bare(snapshot.name)} could not be counted: {describe_error(error)}"
            self.pipe.send(msg.LogLine("warning", text, "dg_sqlmesh"))
        else:
            if rows is not None:
                self.pipe.send(msg.RowsCounted(snapshot.name, rows))

    def log_skipped_models(self, snapshot_names: set[str]) -> None:
        self._blocked = set(snapshot_names)  # told once the failures are known, just below

    def log_failed_models(self, errors: list[Any]) -> None:
        self.is_through = True
        for error in errors:
            if isinstance(error.__cause__, Cancelled):
                continue
            fqn = getattr(error.node, "snapshot_name", None) or error.node.name
            if fqn in self._cut_off:
                continue  # its query was cancelled, which is no failure of its own
            self._failed.add(fqn)
            cause = error.__cause__ or error
            audits = cause.errors if isinstance(cause, NodeAuditsErrors) else []
            self.pipe.send(
                msg.NodeFailed(
                    fqn=fqn,
                    error_type=type(cause).__name__,
                    message="; ".join(plain(audit) for audit in audits) or describe_error(cause),
                    failed_audits=tuple(audit.audit_name for audit in audits),
                    is_transient=not audits and is_transient(cause),
                )
            )

    def blocked_by(self, parents: Callable[[str], Iterable[str]]) -> dict[str, tuple[str, ...]]:
        """The failed nodes upstream of each node that SQLMesh left out."""
        return {fqn: tuple(sorted(ancestors(fqn, parents) & self._failed)) for fqn in sorted(self._blocked)}


def ancestors(fqn: str, parents: Callable[[str], Iterable[str]]) -> set[str]:
    """Everything upstream of a node, itself not included."""
    return reachable(parents(fqn), parents)
