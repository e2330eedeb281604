"""Serve an `EvaluationRequest` (`run`): exactly one `Context.run` of the requested nodes.

The worker replaces the scheduler's `run`, to select the nodes, and its two methods that find pending intervals.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from contextlib import ExitStack
from typing import Any

from sqlmesh.core.environment import EnvironmentSummary
from sqlmesh.core.scheduler import Scheduler, SnapshotToIntervals
from sqlmesh.core.snapshot import Snapshot
from sqlmesh.core.state_sync import StateReader
from sqlmesh.utils import CompletionStatus

from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.errors import DatabaseInUseError
from dg_sqlmesh_component.protocol.formatting import unquoted
from dg_sqlmesh_component.protocol.graph import parents_first, reachable
from dg_sqlmesh_component.worker.evaluate.evaluation import EvaluationContext
from dg_sqlmesh_component.worker.intervals.forgotten import forget_restated_automatically
from dg_sqlmesh_component.worker.intervals.held_back import forget_and_hold_back
from dg_sqlmesh_component.worker.intervals.tables import upstream
from dg_sqlmesh_component.worker.observe.run_tracker import RunTracker
from dg_sqlmesh_component.worker.sqlmesh_internals import (
    plan_only_what_is_computed,
    read_nodes_from_cache,
    read_snapshots_without_cache,
    replace_intervals,
    replace_run,
)
from dg_sqlmesh_component.worker.state_lock import CHANGES, LockWait, StateLock

_STATUS: dict[CompletionStatus, msg.Status] = {
    CompletionStatus.SUCCESS: "success",
    CompletionStatus.FAILURE: "failure",
    CompletionStatus.NOTHING_TO_DO: "nothing_to_do",
}


class RunContext(EvaluationContext):
    """A context that computes the pending intervals of the requested nodes."""

    def __init__(self, request: msg.EvaluationRequest, tracker: RunTracker, **options: Any) -> None:
        super().__init__(request, tracker, **options)
        waiting = tracker.waiting
        waiting.selected, waiting.elsewhere = {*request.models}, request.elsewhere
        waiting.is_bounded = bool(request.start or request.end or request.restate)
        read_snapshots_without_cache()

    def compute(self) -> msg.Status:
        with ExitStack() as stack:
            status: CompletionStatus = self.run(
                self.request.environment,
                **self.bounds,
                execution_time=self.request.execution_time,
                ignore_cron=self.request.ignore_cron,
                skip_janitor=self.request.skip_janitor or self._is_changing(stack),
            )  # `watch` selects exactly the requested nodes
        return _STATUS[status]

    def _is_changing(self, stack: ExitStack) -> bool:
        """Whether a plan is running. If none is, none begins before the stack is closed.

        The janitor must not work during a plan: it merges the intervals in which the plan finds what runs rewrote.
        """
        pipe = self.tracker.pipe
        try:
            stack.enter_context(StateLock(self, self.request, LockWait(pipe, 0), CHANGES))
        except DatabaseInUseError as error:
            pipe.log("info", f"This run leaves out SQLMesh's janitor. {error.__cause__}")  # without the wait
            return True
        return False

    def watch(self, scheduler: Scheduler) -> None:
        run_all, tracker, now = scheduler.run, self.tracker, self.request.execution_time

        def run_requested(*args: Any, **kwargs: Any) -> CompletionStatus:
            if self.current_scheduler is not None:  # a plan has landed: other versions and nodes may be promoted now
                tracker.start_over()
                self.open_environment()
            self.current_scheduler = scheduler
            if kwargs["auto_restatement_enabled"] and self.may_restate_automatically(scheduler):
                forget_restated_automatically(scheduler, now, tracker.report_forgotten)
            # SQLMesh's selection language cannot select these nodes: it has no quoting for names
            # with spaces or dashes, cannot name standalone audits, ignores what it does not find, and
            # its parser recurses once per name (about a thousand overflow Python's stack).
            kwargs.update(
                selected_snapshots=set(self.requested),
                circuit_breaker=cached_circuit_breaker(
                    kwargs["circuit_breaker"], self.state_reader, self.environment.name
                ),
                auto_restatement_enabled=False,  # it is done
            )
            return run_all(*args, **kwargs)

        replace_run(scheduler, run_requested)
        forget_and_hold_back(
            scheduler,
            self.known.tables,
            tracker.report_forgotten,
            tracker.waiting,
            now=now,
            environment=self.environment,
        )
        self._read_queries_of_pending_models(scheduler)
        plan_only_what_is_computed(scheduler)

    def _read_queries_of_pending_models(self, scheduler: Scheduler) -> None:
        """Read the cache of queries for the models that SQLMesh has found to be pending, and for no others."""
        batch = scheduler.batch_intervals

        def batch_intervals(requested: SnapshotToIntervals, *args: Any, **kwargs: Any) -> dict[Snapshot, Any]:
            read_nodes_from_cache(self, requested)
            return batch(requested, *args, **kwargs)

        replace_intervals(scheduler, scheduler.merged_missing_intervals, batch_intervals)

    def may_restate_automatically(self, scheduler: Scheduler) -> bool:
        model = restated_before_its_source(scheduler.snapshots_by_name, self.requested, self.request.execution_time)
        if model is not None:
            text = (
                f"This run does no automatic restatements: it would restate {unquoted(model)} before models "
                "upstream of it that are not in this run. A run of all of them restates them."
            )
            self.tracker.pipe.log("info", text)
        return model is None


def restated_before_its_source(snapshots: Mapping[str, Snapshot], requested: Set[str], now: int) -> str | None:
    """A requested model that would be restated now, although a restated model that it reads is not requested.

    If an `auto_restatement_cron` is due, SQLMesh removes the intervals of that model and of all its downstream models,
    whatever runs. A downstream model that runs alone would read data that is about to be replaced, and would never be
    computed again.

    Args:
        snapshots: The environment's, by name.
        now: The instant of the run, epoch milliseconds.
    """
    graph = upstream(snapshots)
    restated: set[str] = set()
    for name in parents_first(graph, graph.__getitem__):
        snapshot = snapshots[name]
        if not snapshot.is_model or snapshot.model.disable_restatement:
            continue
        if snapshot.get_next_auto_restatement_interval(now) or not restated.isdisjoint(graph[name]):
            restated.add(name)

    def restated_parents_of_embedded(name: str) -> Set[str]:
        """An embedded model runs within the models that read it."""
        return restated.intersection(graph[name]) if snapshots[name].is_symbolic else set()

    for name in sorted(restated & requested):
        sources = reachable(restated.intersection(graph[name]), restated_parents_of_embedded)
        if any(not snapshots[source].is_symbolic and source not in requested for source in sources):
            return name
    return None


def cached_circuit_breaker(has_changed: Callable[[], bool], state: StateReader, environment: str) -> Callable[[], bool]:
    """Call SQLMesh's own circuit breaker only if the environment's summary has changed since the last call.

    SQLMesh reads and parses every snapshot of the environment to compare two fields. The summary has both; at 3,000
    models, SQLMesh's comparison took more than half of the run. An unchanged summary proves that nothing has changed.
    If it differs, SQLMesh decides. Safe to call from any thread.

    Args:
        has_changed: SQLMesh's circuit breaker.
    """
    unchanged: list[EnvironmentSummary] = []

    def breaker() -> bool:
        # Read before SQLMesh is asked: a plan that lands between the two makes the next summary differ.
        summaries = [summary for summary in state.get_environments_summary() if summary.name == environment]
        if summaries and summaries == unchanged:
            return False
        if has_changed():
            return True
        unchanged[:] = summaries
        return False

    return breaker
