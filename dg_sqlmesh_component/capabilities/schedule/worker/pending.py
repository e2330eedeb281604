"""Find the models with pending intervals that are ready, as a run would plan them. The state is only read."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from sqlmesh.core.scheduler import SnapshotToIntervals
from sqlmesh.core.snapshot import Snapshot, start_date
from sqlmesh.utils.date import to_datetime, to_timestamp

from dg_sqlmesh_component.capabilities.schedule.messages import PendingFound, PendingRequest
from dg_sqlmesh_component.capabilities.schedule.worker.kept_snapshots import read_code, read_snapshots
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.formatting import plain
from dg_sqlmesh_component.protocol.graph import reachable
from dg_sqlmesh_component.protocol.intervals import common, merged, subtract
from dg_sqlmesh_component.worker.environment import opened_without_lock, refuse_lost_versions
from dg_sqlmesh_component.worker.intervals.availability import Left
from dg_sqlmesh_component.worker.intervals.held_back import forget_and_hold_back, has_signals, held_back_from
from dg_sqlmesh_component.worker.intervals.known import ExternalTables
from dg_sqlmesh_component.worker.intervals.records import compare
from dg_sqlmesh_component.worker.intervals.tables import find_missing, upstream
from dg_sqlmesh_component.worker.observe.run_tracker import RunTracker
from dg_sqlmesh_component.worker.pipe import Pipe
from dg_sqlmesh_component.worker.sqlmesh_internals import stored_names

MAX_SIGNAL_SECONDS = 20
"""How long a tick evaluates signals. Dagster ends a tick after 60 seconds."""


def find_pending(request: PendingRequest, pipe: Pipe) -> PendingFound:
    """Find the requested models for which a run would plan batches.

    Raises:
        EnvironmentNotReadyError: The environment does not exist.
        DatabaseInUseError: Another process has the DuckDB file of the state open.
    """
    with opened_without_lock(request, pipe) as (context, environment):
        # A tick before may have kept their contents, and the state have lost them since.
        refuse_lost_versions(environment, stored_names(context, environment.snapshots))
        snapshots = read_snapshots(context, environment, request.now)
        context.console = tracker = RunTracker(pipe)
        scheduler = context.create_scheduler(snapshots, context.snapshot_evaluator)
        tables = ExternalTables.of_promoted(request.tables, environment, context, pipe)
        # A run may load these itself between two models, so a tick does not wait for them.
        waited_for = tables.without(request.made_between)
        find_ready = forget_and_hold_back(
            scheduler, waited_for, tracker.report_forgotten, tracker.waiting, now=request.now, environment=environment
        )
        intervals, index = find_missing(scheduler, request.environment, request.now)
        nodes, ready = scheduler.snapshots_by_name, _Ready(intervals)
        hold_back = partial(held_back_from, nodes=nodes, index=index, tables=tables, now=request.now)
        loads = {node.name: request.loads[node.name] for node in snapshots if _is_restatable(node, request)}
        late = compare(msg.Records(loads=loads), environment, context).late if loads else {}
        if tables.awaited or any(map(has_signals, intervals)):
            looked_at = _looked_at(intervals, late, nodes, tables)
            read_code(context, [*intervals, *map(nodes.__getitem__, {*looked_at, *late})])
            # To batch intervals, SQLMesh renders the query of each model.
            find_batches = partial(scheduler.batch_intervals, intervals, index, environment.naming_info)
            find = find_batches if any(map(has_signals, intervals)) else partial(find_ready, intervals, index)
            ready = _found_ready(find, ready, tracker, hold_back, request.made_between)
        before_start = {
            fqn: early
            for fqn, found in late.items()
            if (early := common(found, [(0, to_timestamp(start_date(nodes[fqn], nodes.values())))]))
        }
        computable = {fqn: subtract(found, before_start.get(fqn, ())) for fqn, found in late.items()}
        restatable = _loaded(computable, hold_back({nodes[fqn]: list(found) for fqn, found in computable.items()}))
    crons = _Crons.of([of for of in snapshots if of.name in request.models and not of.is_symbolic], request.now)
    pending = {snapshot.name for snapshot in intervals} - ready.waiting.keys()
    would_read = {name: by.intervals for name, by in tracker.waiting.by.items()}
    return PendingFound(
        pending={name: crons.last[cron] for name, cron in crons.by_model.items() if name in pending},
        next_due=min(((crons.due[cron], name) for name, cron in crons.by_model.items()), default=None),
        waiting={name: why for name, why in ready.waiting.items() if name in crons.by_model},
        needed={name: made for name, made in ready.needed.items() if name in crons.by_model},
        signal_error=ready.signal_error,
        intervals={
            node.name: merged(found) or would_read.get(node.name, ())
            for node, found in ready.intervals.items()
            if node.name in crons.by_model
        },
        late={fqn: tuple(found) for fqn, found in late.items()},
        before_start=before_start,
        restatable=restatable,
    )


@dataclass(frozen=True)
class _Ready:
    """The missing intervals that are ready. Attributes: as in `PendingFound`, of all models."""

    intervals: SnapshotToIntervals
    waiting: Mapping[str, msg.HeldBack] = field(default_factory=dict)
    needed: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    signal_error: str | None = None


def _found_ready(
    find: Callable[[], SnapshotToIntervals],
    missing: _Ready,
    tracker: RunTracker,
    hold_back: Callable[[SnapshotToIntervals], Mapping[str, Left]],
    made_between: Set[str],
) -> _Ready:
    """What `find` finds to be ready; all that is `missing`, with the reason, if it fails."""
    try:
        with _at_most(MAX_SIGNAL_SECONDS):
            ready = find()
    except Exception as error:  # noqa: BLE001  # a project's signals and its engine's driver raise anything
        return replace(missing, signal_error=f"{tracker.evaluated_signal}: {type(error).__name__}: {plain(error)}")
    waiting = {node.name: tracker.held_back(node.name) for node, found in ready.items() if not found}
    held_back = hold_back({node: found for node, found in ready.items() if found})
    return _Ready(ready, waiting, _needed(held_back, made_between))


def _looked_at(
    intervals: Iterable[Snapshot], late: Iterable[str], nodes: Mapping[str, Snapshot], tables: ExternalTables
) -> set[str]:
    """The models upstream whose code has to be read, by name."""
    parents = upstream(nodes).__getitem__
    # A signal may look at any model upstream.
    looked_at = reachable((node.name for node in intervals if has_signals(node)), parents)
    if tables.awaited:  # the request has not the tables of a promoted model without a file: its query has them
        read = reachable({*(node.name for node in intervals), *late}, parents)
        looked_at |= {name for name in read if not tables.knows(nodes[name])}
    return looked_at


_Cron = tuple[str, Any]
"""The cron of a model, and its time zone."""


@dataclass(frozen=True)
class _Crons:
    """The crons of models. Many have the same one, and SQLMesh needs 0.2 ms to evaluate one.

    Attributes:
        by_model: By name.
        last: When each has ticked last, epoch milliseconds.
        due: When each ticks next.
    """

    by_model: Mapping[str, _Cron]
    last: Mapping[_Cron, int]
    due: Mapping[_Cron, int]

    @classmethod
    def of(cls, models: Sequence[Snapshot], at: int) -> _Crons:
        by_model = {model.name: (model.node.cron, model.node.cron_tz) for model in models}
        node_by_cron = {(model.node.cron, model.node.cron_tz): model.node for model in models}
        now = to_datetime(at)
        return cls(
            by_model,
            {cron: to_timestamp(node.cron_floor(now)) for cron, node in node_by_cron.items()},
            {cron: to_timestamp(node.cron_next(now)) for cron, node in node_by_cron.items()},
        )


def _is_restatable(snapshot: Snapshot, request: PendingRequest) -> bool:
    """Whether the loads of a model are compared, and SQLMesh can restate one range of it.

    SQLMesh refuses a restatement if one model has `disable_restatement`, and rebuilds some kinds from the beginning.
    """
    return snapshot.name in request.loads and not (
        snapshot.disable_restatement or snapshot.full_history_restatement_only
    )


def _needed(held_back: Mapping[str, Left], made_between: Set[str]) -> dict[str, tuple[str, ...]]:
    """The tables of `made_between` without which no interval of a model is ready, although it is with them.

    It may lack other tables too, for other intervals.
    """
    found = {fqn: by.tables for fqn, (left, by) in held_back.items() if not left}
    return {fqn: tuple(table for table in tables if table in made_between) for fqn, tables in found.items()}


def _loaded(
    late: Mapping[str, Sequence[msg.Interval]], held_back: Mapping[str, Left]
) -> dict[str, tuple[msg.Interval, ...]]:
    """The late ranges that a restatement would not hold back."""
    left = {fqn: merged(held_back[fqn][0]) if fqn in held_back else tuple(found) for fqn, found in late.items()}
    return {fqn: found for fqn, found in left.items() if found}


@contextmanager
def _at_most(seconds: int) -> Iterator[None]:
    """Raise a TimeoutError after so many seconds."""
    signal.signal(signal.SIGALRM, _expire)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def _expire(*_: Any) -> None:
    """End the evaluation of signals. Code in C, such as a driver's, may return later."""
    raise TimeoutError(f"The signals were not evaluated in {MAX_SIGNAL_SECONDS} seconds.")
