"""The messages of a tick."""

from __future__ import annotations

from dataclasses import dataclass, field

from dg_sqlmesh_component.protocol.messages import AwaitedTables, HeldBack, Interval, LastEvent, Loads, StateQuestion
from dg_sqlmesh_component.protocol.texts import ErrorText


@dataclass(frozen=True, slots=True)
class PendingRequest(StateQuestion):
    """Find the models that `sqlmesh run` would compute now. A schedule sends it at each tick.

    The worker reads the state, and evaluates signals of pending models.
    """

    SERVED_BY = "capabilities.schedule.worker.pending:find_pending"
    models: frozenset[str]
    now: int
    tables: AwaitedTables
    # Those of the awaited tables that a run may make between two of its models.
    made_between: frozenset[str] = frozenset()
    loads: Loads = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PendingFound(LastEvent):
    """The answer to a `PendingRequest`."""

    # The models with pending intervals that are ready, and when the cron of each has ticked last.
    pending: dict[str, int]
    # The next tick of the requested models' crons, and its model; None if no model is promoted.
    next_due: tuple[int, str] | None
    # The models without a ready interval, and why they wait.
    waiting: dict[str, HeldBack] = field(default_factory=dict)
    # The tables in `made_between` without which a ready model would wait.
    needed: dict[str, tuple[str, ...]] = field(default_factory=dict)
    # The signal that SQLMesh could not evaluate, and why. Then no model waits: a run reports the error.
    signal_error: ErrorText | None = None
    # The pending intervals of each model that are ready; adjoining ones are merged. If none is ready, those that it
    # would read.
    intervals: dict[str, tuple[Interval, ...]] = field(default_factory=dict)
    # By model, the computed ranges whose source was loaded after they were computed.
    late: dict[str, tuple[Interval, ...]] = field(default_factory=dict)
    # By model, those of them before its `start`: no run computes them.
    before_start: dict[str, tuple[Interval, ...]] = field(default_factory=dict)
    # By model, the late ranges that a run can restate, because its sources are loaded.
    restatable: dict[str, tuple[Interval, ...]] = field(default_factory=dict)
