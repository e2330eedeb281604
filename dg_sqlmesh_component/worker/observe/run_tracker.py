"""SQLMesh's console during a run or a restatement. It reports planned batches, nodes without any, and coverages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

from sqlmesh.core.snapshot import Snapshot

from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.errors import EvaluationError, SQLMeshComponentError
from dg_sqlmesh_component.protocol.formatting import unquoted
from dg_sqlmesh_component.worker.explain import describe_error
from dg_sqlmesh_component.worker.intervals.causes import Waiting, held_back
from dg_sqlmesh_component.worker.intervals.coverage import Coverages
from dg_sqlmesh_component.worker.observe.earlier_rows import EarlierRowsAudits
from dg_sqlmesh_component.worker.observe.tracker import Tracker
from dg_sqlmesh_component.worker.pipe import Pipe
from dg_sqlmesh_component.worker.transient_errors import is_transient


@dataclass(frozen=True)
class Observed:
    """What a context knows about the nodes of one scheduler."""

    # Finds the coverages, and the events that explain why nodes without planned batches have nothing to do. Called when
    # SQLMesh has planned.
    explain_idle: Callable[[], tuple[Coverages | None, Iterable[msg.Event]]] = lambda: (None, ())
    report_table: Callable[[Snapshot], None] = lambda _: None  # reports what a model's table has after its last batch
    earlier_rows: EarlierRowsAudits | None = None


class RunTracker(Tracker):
    """SQLMesh's console during a run or a restatement.

    Attributes:
        planned: The planned batches of each node. An empty tuple: intervals are missing, but none of them is ready.
        waiting: What schedulers have left out.
        up_to_date: The computed nodes that had nothing to do.
    """

    def __init__(self, pipe: Pipe) -> None:
        super().__init__(pipe)
        self.planned: dict[str, tuple[msg.Interval, ...]] = {}
        self.waiting = Waiting()
        self.up_to_date: list[str] = []
        self._observed = Observed()
        self._coverages: Coverages | None = None
        self._idle: list[msg.Event] | None = None
        self._idle_lock = Lock()
        self._forgotten: dict[str, Sequence[msg.Interval]] = {}
        self._signal_owner: Snapshot | None = None
        self._signals_evaluated = 0  # of that model

    def observe(self, observed: Observed) -> None:
        """Watch another scheduler from now on."""
        self._observed = observed

    # -- before the first batch ---------------------------------------------------------------------

    def start_signal_progress(self, snapshot: Snapshot, *_: Any, **__: Any) -> None:
        self._signal_owner, self._signals_evaluated = snapshot, 0

    def stop_signal_progress(self) -> None:
        self._signal_owner = None

    def update_signal_progress(
        self, snapshot: Snapshot, signal_name: str, *_: Any, ready_intervals: Any, check_intervals: Any, **__: Any
    ) -> None:
        self._signals_evaluated += 1
        if list(ready_intervals) != list(check_intervals):
            self.waiting.closed.setdefault(snapshot.name, []).append(signal_name)

    def fail_signal(self, error: Exception) -> SQLMeshComponentError:
        """Report the model whose signal raised. SQLMesh checks all signals before it computes, and ends at an error."""
        if self._signal_owner is None:
            return EvaluationError(f"A signal raised an error: {describe_error(error)}")
        self._fail(self._signal_owner.name, error)
        text = (
            f"SQLMesh ended the run before it computed anything, because {self.evaluated_signal} raised an error. See "
            "the error of that model."
        )
        return EvaluationError(text, is_transient=is_transient(error))

    @property
    def evaluated_signal(self) -> str:
        """The signal that SQLMesh evaluates now, and its model, in words."""
        if self._signal_owner is None:
            return "the signals"
        names = [name for name, _ in self._signal_owner.model.signals if name][self._signals_evaluated :]
        return f"the signal {names[0] if names else ''} of {unquoted(self._signal_owner.name)}"

    def start_evaluation_progress(
        self, batched_intervals: dict[Snapshot, list[msg.Interval]], *_: Any, **__: Any
    ) -> None:
        self.planned = {snapshot.name: tuple(batches) for snapshot, batches in batched_intervals.items()}
        self.progress.plan(self.planned)
        self._start_reports()
        others_wait = {fqn: self.held_back(fqn) for fqn, batches in self.planned.items() if batches}
        audits = self._observed.earlier_rows
        self.pipe.send(
            msg.EvaluationPlanned(
                self.planned,
                {fqn: why for fqn, why in others_wait.items() if why},
                earlier_rows=audits.rows_of(batched_intervals) if audits else {},
            )
        )
        if self.planned:
            answer = self.pipe.receive(msg.GoAhead)
            self.require_locks()  # statements before all models follow
            if audits:
                audits.want(answer.unaudited, self.planned)
        self._idle = self._explain_idle()

    def held_back(self, fqn: str) -> msg.HeldBack:
        """Why intervals of a node wait that are not planned."""
        return held_back(fqn, self.waiting)

    def _explain_idle(self) -> list[msg.Event]:
        self._coverages, events = self._observed.explain_idle()
        return list(events)

    def report_idle_nodes(self) -> None:
        """Report them once: before the first batch, so that these outcomes survive if the process is killed.

        SQLMesh plans, and then executes the statements of `before_all`. If one of them fails, nothing has begun.
        """
        with self._idle_lock:
            events, self._idle = self._explain_idle() if self._idle is None else self._idle, []
            for event in events:
                self.pipe.send(event)
                if isinstance(event, msg.NodeIdle) and not event.waits and event.last_interval_end is not None:
                    self.up_to_date.append(event.fqn)
            for fqn in list(self._forgotten):
                self._report_coverage(fqn)

    def start_over(self) -> None:
        """A plan has landed during the run: what SQLMesh planned before is void."""
        self.planned = {}
        self.is_through = False
        self._idle = None
        self.up_to_date.clear()
        for record in (self.failed, self._blocked, self._forgotten, self._reported, self.waiting.closed):
            record.clear()
        self.pipe.send(msg.EvaluationPlanned({}))
        text = "A plan changed the environment during the run: SQLMesh starts over with the models promoted now."
        self.pipe.log("warning", text)

    # -- batches: called from pool threads ----------------------------------------------------------

    def start_snapshot_evaluation_progress(self, snapshot: Snapshot, *args: Any, **kwargs: Any) -> None:
        # First: if a batch of the node fails, its results must not count as results about all rows either.
        if self._observed.earlier_rows:
            self._observed.earlier_rows.evaluate(snapshot.name)
        super().start_snapshot_evaluation_progress(snapshot, *args, **kwargs)

    def before_batch(self) -> None:
        self.report_idle_nodes()

    def after_last_batch(self, snapshot: Snapshot) -> None:
        self._report_coverage(snapshot.name)
        self._observed.report_table(snapshot)

    def report_forgotten(self, fqn: str, intervals: Sequence[msg.Interval]) -> None:
        """Send the coverage of a node without the computed intervals that are computed again."""
        self._forgotten[fqn] = intervals
        self._report_coverage(fqn)

    def _report_coverage(self, fqn: str) -> None:
        if self._coverages is None:
            return
        if coverage := self._coverages.of(fqn, self.progress.finished(fqn), self._forgotten.get(fqn, ())):
            self.pipe.send(coverage)

    def report_unfinished_coverage(self) -> None:
        """Send the coverage of planned models whose last batch has not finished."""
        for fqn in self.progress.unfinished:
            self._report_coverage(fqn)
