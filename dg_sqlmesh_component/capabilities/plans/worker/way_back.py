"""Show again what an environment showed before a plan that has begun to change it and has not finished (ADR-0068).

The state has what the environment showed: the versions in its row, and its statements, which are replaced when a plan
is finished. First the views are restored and the rows of new definitions are forgotten. Then the state is written at
once. So whoever is interrupted before that leaves the environment between two plans, as it was.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from functools import cached_property, partial

from sqlmesh.core.context import Context
from sqlmesh.core.environment import Environment
from sqlmesh.core.plan.common import is_breaking_kind_change
from sqlmesh.core.snapshot import Snapshot, SnapshotId, SnapshotTableInfo, start_date
from sqlmesh.core.snapshot.definition import to_view_mapping
from sqlmesh.utils import random_id
from sqlmesh.utils.date import now_timestamp

from dg_sqlmesh_component.capabilities.plans import messages as msg
from dg_sqlmesh_component.capabilities.plans.worker.data_objects import data_objects
from dg_sqlmesh_component.capabilities.plans.worker.migrations import ExistingTable, existing_tables
from dg_sqlmesh_component.protocol.errors import EnvironmentNotReadyError, EvaluationError
from dg_sqlmesh_component.protocol.formatting import block, listed
from dg_sqlmesh_component.protocol.intervals import merged
from dg_sqlmesh_component.worker.commands import sqlmesh_command
from dg_sqlmesh_component.worker.context import PipeConsole, closed_on_error, display_name, open_context
from dg_sqlmesh_component.worker.environment import has_one_table, has_table, stored_environment
from dg_sqlmesh_component.worker.explain import describe_error
from dg_sqlmesh_component.worker.intervals.tables import deployability
from dg_sqlmesh_component.worker.pipe import Pipe
from dg_sqlmesh_component.worker.running_queries import watch_queries
from dg_sqlmesh_component.worker.sqlmesh_internals import (
    Forgotten,
    computed_ranges,
    forget_intervals,
    load_materializations,
    show_again,
)
from dg_sqlmesh_component.worker.state_lock import locked_context
from dg_sqlmesh_component.worker.transient_errors import is_transient


def take_back(request: msg.TakeBackRequest, pipe: Pipe) -> None:
    """Wait for the locks, and take back the plan that has not finished.

    Raises:
        EnvironmentNotReadyError: There is none, or it cannot be taken back.
        EvaluationError: Something could not be restored.
    """
    with locked_context(request, partial(_open, request, pipe), pipe) as context:
        pipe.begin()
        watch_queries(pipe, context.engine_adapters)
        now = stored_environment(request.project, request.environment, context)
        way_back = _possible(now, request, context)
        try:
            added = "; ".join(way_back.added_columns())
            way_back.take(request.interrupted, has_replaced_views=True)
        except Exception as error:  # any driver's
            raise EvaluationError(
                f"Plan {now.plan_id} could not be taken back: {describe_error(error).rstrip('.')}. Correct the cause, "
                "and launch this job again.",
                is_transient=is_transient(error),
            ) from error
        pipe.log(
            "info",
            f"Taken back: environment {now.name} shows what it showed before plan {now.plan_id}."
            + (f" Columns left behind: {added}." if added else ""),
        )
        pipe.send(msg.EvaluationFinished("success"))


def _open(request: msg.TakeBackRequest, pipe: Pipe) -> Context:
    console, tasks = PipeConsole(pipe), request.job.concurrent_tasks
    context: Context = open_context(request.project, console, concurrent_tasks=tasks)
    with closed_on_error(context, request.project):
        context.state_reader.get_environments_summary()  # opens the state
        load_materializations(context)
    return context


def _possible(now: Environment, request: msg.TakeBackRequest, context: Context) -> WayBack:
    """The way back from an unfinished plan. Raises an EnvironmentNotReadyError if there is none."""
    if now.finalized_ts is not None:
        raise EnvironmentNotReadyError(f"Environment {now.name} shows a finished plan. There is nothing to take back.")
    refused = f"Plan {now.plan_id} of environment {now.name} cannot be taken back: "
    if now.plan_id not in request.plans:
        command = block(sqlmesh_command(request.project, "plan", now.name))
        raise EnvironmentNotReadyError(
            f"{refused}no job of this Dagster instance has applied it. Apply it again:{command}"
        )
    if reasons := "; ".join(obstacles(now, context)):
        raise EnvironmentNotReadyError(f"{refused}{reasons}. Finish it: launch this job with the digest of that plan.")
    before = shown_before(now)
    assert before is not None, "there is no obstacle"
    return WayBack(now, before, context)


def obstacles(now: Environment, context: Context) -> tuple[str, ...]:
    """Why an unfinished plan of a job cannot be taken back, in words; empty if it can."""
    before = shown_before(now)
    if before is None:
        return ("it creates the environment",)
    way_back = WayBack(now, before, context)
    return tuple(way_back.obstacles(way_back.models))


def shown_before(now: Environment) -> Environment | None:
    """What an environment showed before an unfinished plan; None if that plan creates it."""
    before = now.previous_finalized_snapshots
    if before is None:
        return None
    hidden = {info.snapshot_id for info in now.snapshots} - {info.snapshot_id for info in now.promoted_snapshots}
    of_before = {
        "snapshots_": before,
        # Which of its other versions the environment showed is not known, so it shows all.
        "promoted_snapshot_ids_": [i.snapshot_id for i in before if i.snapshot_id not in hidden] if hidden else None,
        "plan_id": random_id(),
        "previous_plan_id": now.plan_id,
        "finalized_ts": now_timestamp(),
    }
    return now.copy(update=of_before)


class WayBack:
    """The way from an unfinished plan (`now`) to what the environment showed `before`."""

    def __init__(self, now: Environment, before: Environment, context: Context) -> None:
        self._now = now
        self._before = before
        self._context = context
        stored = context.state_reader.get_snapshots([*before.snapshots, *now.snapshots])
        self._old = {info.name: stored[info.snapshot_id] for info in before.snapshots}
        self._new = {info.name: stored[info.snapshot_id] for info in now.snapshots}
        both = [(old, self._new[name]) for name, old in self._old.items() if name in self._new]
        self.models = self._new.keys()
        # The versions before and now of models that have kept their table or view.
        self._shared = [] if now.is_dev else [pair for pair in both if _share_a_table(*pair)]

    @cached_property
    def _tables(self) -> dict[str, ExistingTable]:
        """The existing tables of the old versions, by name of the model."""
        found = existing_tables([old for old, _ in self._shared], self._context)
        return {table.snapshot.name: table for table in found}

    def obstacles(self, computed: Container[str]) -> Iterator[str]:
        """What cannot be taken back, in words.

        Args:
            computed: The models, by name, of which the plan may have written rows after it had begun to promote.
        """
        if self._now.naming_info != self._before.naming_info:
            yield "its views have other names"
        for old, new in self._shared:
            name, table = display_name(old.node, self._context), self._tables.get(old.name)
            is_moved = has_one_table(old, is_dev=False) != has_one_table(new, is_dev=False)
            if is_moved or (table is None) != old.is_view:
                yield f"the table or view of {name} is replaced"
            elif table and (lost := table.lost(new)):
                yield f"{name} has lost values of {listed(lost)}"
            elif table and (new.name in computed or new.is_seed) and self._keeps_rows(old, new):
                yield f"{name} may have rows of its new definition"

    def _keeps_rows(self, old: Snapshot, new: Snapshot) -> bool:
        """Whether rows of the new version may stay if a run computes the intervals again by the old one."""
        starts = [start_date(node, nodes.values()) for node, nodes in ((old, self._old), (new, self._new))]
        is_replaced = (old.is_full and not old.depends_on_self) or old.is_incremental_by_time_range
        is_other = is_breaking_kind_change(old, new) or old.version != new.version
        return (not is_replaced or is_other or starts[0] > starts[1]) and _is_other_data(old, new)

    def added_columns(self) -> Iterator[str]:
        """The columns that tables keep, in words."""
        for old, new in self._shared:
            if (table := self._tables.get(old.name)) and (added := table.added(new)):
                yield f"{listed(added)} of {display_name(old.node, self._context)}"

    def take(self, times: Sequence[msg.Interval], *, has_replaced_views: bool) -> None:
        """Restore what the environment showed. SQLMesh and drivers raise anything.

        Args:
            times: When the unfinished plan was applied, epoch milliseconds.
            has_replaced_views: Whether it may have replaced some.
        """
        if has_replaced_views:
            self._restore_views()
        rows, forgotten = computed_ranges(self._context), list[Forgotten]()
        for old, new in self._shared:
            computed = [
                row.interval
                for row in rows.get((new.name, new.version, False), ())
                if row.identifier == new.identifier and any(begin <= row.at <= end for begin, end in times)
            ]
            if computed and _is_other_data(old, new):
                forgotten.append(Forgotten(old, merged(computed), is_dev=False))
        forget_intervals(self._context.state_sync, forgotten)
        show_again(self._context, self._now, self._before)

    def _restore_views(self) -> None:
        evaluator, naming = self._context.snapshot_evaluator, self._before.naming_info
        snapshots: dict[SnapshotId, Snapshot] = {old.snapshot_id: old for old in self._old.values()}
        mapping = to_view_mapping(
            snapshots.values(), naming, default_catalog=self._context.default_catalog, dialect=evaluator.adapter.dialect
        )
        index = deployability(self._before.name, snapshots.values(), start=self._before.start_at)
        changed = set(self._before.snapshots) - set(self._now.snapshots)
        evaluator.migrate([old for old, _ in self._shared if old.is_view], snapshots, deployability_index=index)
        # PostgreSQL drops views that read a view which SQLMesh replaces.
        views = [snapshots[info.snapshot_id] for info in changed if has_table(info) and info.is_view]
        evaluator.create(views, snapshots, deployability_index=index)
        promoted = [snapshots[info.snapshot_id] for info in self._views(self._before) if info in changed]
        start, now = self._before.start_at, now_timestamp()
        evaluator.promote(promoted, naming, index, start, now, now, snapshots, mapping)
        kept = {info.name for info in self._views(self._before)}
        removed = [info for info in self._views(self._now) if info.name not in kept and self._is_view(info)]
        evaluator.demote([self._new[info.name] for info in removed], naming, mapping, index)

    def _is_view(self, info: SnapshotTableInfo) -> bool:
        """Whether the engine has a view of the model. If not, its name may be that of something else."""
        naming = self._before.naming_info
        gateway = info.model_gateway if naming.gateway_managed else None
        dialect = self._context.snapshot_evaluator.get_adapter(gateway).dialect
        view = gateway, info.qualified_view_name.table_for_environment(naming, dialect=dialect)
        return any(found.type.is_view for _, found in data_objects([view], self._context))

    def _views(self, environment: Environment) -> list[SnapshotTableInfo]:
        """The models that have a view in the environment."""
        return [
            info
            for info in environment.promoted_snapshots
            if has_table(info) and not has_one_table(info, is_dev=environment.is_dev)
        ]


def _share_a_table(old: Snapshot, new: Snapshot) -> bool:
    if old.snapshot_id == new.snapshot_id or not (has_table(old) and has_table(new)):
        return False
    return old.version == new.version or has_one_table(old, is_dev=False) or has_one_table(new, is_dev=False)


def _is_other_data(old: Snapshot, new: Snapshot) -> bool:
    before, now = old.fingerprint, new.fingerprint
    return (before.data_hash, before.parent_data_hash) != (now.data_hash, now.parent_data_hash)
