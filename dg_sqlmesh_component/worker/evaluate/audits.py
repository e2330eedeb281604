"""Audits: each result as an event, in a run or alone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Container, Iterable, Mapping
from graphlib import TopologicalSorter
from itertools import count
from typing import Any

from sqlglot import exp
from sqlmesh.core.scheduler import Scheduler
from sqlmesh.core.snapshot import DeployabilityIndex, Snapshot, SnapshotEvaluator, missing_intervals
from sqlmesh.utils.date import now_timestamp, to_timestamp

from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.errors import EvaluationError
from dg_sqlmesh_component.protocol.manifest import cut, pair_uses
from dg_sqlmesh_component.worker.context import describe_error
from dg_sqlmesh_component.worker.describe.project import audit_arguments
from dg_sqlmesh_component.worker.pipe import Pipe
from dg_sqlmesh_component.worker.sqlmesh_internals import replace_audits


def deployability(request: msg.EvaluationRequest, snapshots: Iterable[Snapshot]) -> DeployabilityIndex:
    """Which models of the environment have the tables of production, and which only a preview of their own."""
    if request.environment == "prod":
        return DeployabilityIndex.all_deployable()
    return DeployabilityIndex.create(snapshots, start=request.start)


def computed(snapshot: Snapshot, index: DeployabilityIndex) -> list[msg.Interval]:
    """What is computed of the table that the environment shows of a model."""
    return snapshot.intervals if index.is_representative(snapshot) else snapshot.dev_intervals


def altered_at(snapshot: Snapshot, index: DeployabilityIndex) -> int | None:
    """When that table was last computed, restated or loaded."""
    return snapshot.last_altered_ts if index.is_representative(snapshot) else snapshot.dev_last_altered_ts


def data_altered_at(
    snapshots: Mapping[str, Snapshot], index: DeployabilityIndex, now_altered: Container[str]
) -> dict[str, int]:
    """When the data of each node was last altered; what a view or an audit shows is altered with what it reads.

    A table from outside, which SQLMesh does not load, may have been altered at any time: now.

    Args:
        now_altered: Nodes that were computed in this run, which snapshots that were read before it do not know.
    """
    now = now_timestamp()
    graph = {name: [parent.name for parent in snapshot.parents] for name, snapshot in snapshots.items()}
    found: dict[str, int] = {}
    for name in TopologicalSorter(graph).static_order():
        snapshot = snapshots.get(name)
        if snapshot is not None:
            shows_others = snapshot.is_audit or snapshot.is_view or snapshot.is_symbolic
            behind = [found.get(parent, 0) for parent in graph[name]] if shows_others else []
            is_from_outside = snapshot.is_model and snapshot.model.kind.is_external
            reads_from_outside = shows_others and not snapshot.node.depends_on <= snapshots.keys()
            is_now = name in now_altered or is_from_outside or reads_from_outside
            found[name] = max(now if is_now else altered_at(snapshot, index) or 0, *behind, 0)
    return found


def audited(snapshot: Snapshot, index: DeployabilityIndex) -> msg.Audited:
    """What the environment shows of this node, and how its audits are defined."""
    is_representative = index.is_representative(snapshot)
    return msg.Audited(
        version=snapshot.version_get_or_generate() if is_representative else snapshot.dev_version,
        audits=snapshot.model.audit_metadata_hash() if snapshot.is_model else snapshot.fingerprint.metadata_hash,
    )


def record_audits(evaluator: SnapshotEvaluator, send: Callable[[msg.Event], None], characters: int) -> None:
    """Send every audit's result when it is there: one that raises does not take those before it along."""
    running = threading.local()

    def in_order(audit: Callable[..., Any]) -> Callable[..., Any]:
        def audit_in_order(snapshot: Snapshot, **kwargs: Any) -> list[Any]:
            running.positions = count()
            try:
                return audit(snapshot, **kwargs)
            finally:
                running.positions = None

        return audit_in_order

    def sent(audit: Callable[..., Any]) -> Callable[..., Any]:
        def audit_and_send(**kwargs: Any) -> Any:
            result = audit(**kwargs)
            positions = getattr(running, "positions", None)
            if positions is not None:  # else it is evaluated alone
                send(_evaluated(evaluator, kwargs, next(positions), result, characters))
            return result

        return audit_and_send

    replace_audits(evaluator, in_order, sent)


def _evaluated(
    evaluator: SnapshotEvaluator, given: Mapping[str, Any], position: int, result: Any, characters: int
) -> msg.AuditEvaluated:
    """An audit's result, by what SQLMesh's method that evaluates one was given."""
    snapshot, index = given["snapshot"], given["deployability_index"] or DeployabilityIndex.all_deployable()
    dialect = evaluator.get_adapter(snapshot.model_gateway).dialect
    is_shown = index.is_deployable(snapshot) == index.is_representative(snapshot)
    is_about_it_alone = is_shown and not _reads_others(snapshot, result.query, index, dialect)
    return msg.AuditEvaluated(
        fqn=snapshot.name,
        name=result.audit.name,
        position=position,
        args=_arguments(result.audit_args or {}, dialect),
        blocking=result.blocking,
        failing_rows=None if result.skipped else result.count or 0,
        query=cut(result.query.sql(dialect=dialect, pretty=True), characters) if result.query is not None else None,
        interval=(to_timestamp(given["start"]), to_timestamp(given["end"])),
        of_whole_table=snapshot.is_model and snapshot.model.time_column is None,
        of=audited(snapshot, index) if is_about_it_alone else None,
    )


def _reads_others(snapshot: Snapshot, query: exp.Expr | None, index: DeployabilityIndex, dialect: str) -> bool:
    """Whether an audit of a model reads tables besides the model's own, with which its result may change."""
    if query is None or not snapshot.is_model:
        return False
    own = exp.to_table(snapshot.table_name(index.is_deployable(snapshot)), dialect=dialect)
    within = {cte.alias for cte in query.find_all(exp.CTE)}
    read = {(table.db, table.name) for table in query.find_all(exp.Table) if table.db or table.name not in within}
    return not read <= {(own.db, own.name)}


def _arguments(args: dict[str, Any], dialect: str) -> dict[str, str]:
    return audit_arguments({name: value for name, value in args.items() if name != "blocking"}, dialect)


def audit_alone(request: msg.EvaluationRequest, scheduler: Scheduler, pipe: Pipe) -> None:
    """Evaluate audits over everything that was computed, as `sqlmesh audit` does, and no others of their models."""
    snapshots = scheduler.snapshots_by_name
    index = deployability(request, snapshots.values())
    due = missing_intervals(snapshots.values(), execution_time=request.execution_time, deployability_index=index)
    missing = {snapshot.name: tuple((start, end) for start, end in intervals) for snapshot, intervals in due.items()}
    for fqn, uses in request.audit_only.items():
        if fqn not in snapshots:
            continue  # a plan has taken it out since the environment was opened
        snapshot, error = snapshots[fqn], None
        if not computed(snapshot, index):
            error = "Nothing has been computed yet, so there is nothing to audit."
        else:
            for position in _positions(snapshot, uses, scheduler.snapshot_evaluator):
                if pipe.is_cancelled:
                    raise EvaluationError("The evaluation of audits was cancelled.")
                pipe.send(_one_alone(request, scheduler, snapshot, position, index))
        pipe.send(msg.NodeAudited(fqn, missing.get(fqn, ()), error))


def _positions(snapshot: Snapshot, uses: tuple[msg.AuditUse, ...], evaluator: SnapshotEvaluator) -> list[int]:
    """Where the requested audits stand among those that are promoted."""
    dialect = evaluator.get_adapter(snapshot.model_gateway).dialect
    promoted = [
        msg.AuditUse(audit.name, _arguments(args, dialect), position)
        for position, (audit, args) in enumerate(snapshot.node.audits_with_args)
    ]
    return sorted(found.position for use, found in pair_uses(uses, promoted) if use.is_requested)


def _one_alone(
    request: msg.EvaluationRequest, scheduler: Scheduler, snapshot: Snapshot, position: int, index: DeployabilityIndex
) -> msg.AuditEvaluated:
    """One audit's result; an error is its own, whatever becomes of the others."""
    evaluator = scheduler.snapshot_evaluator
    intervals = computed(snapshot, index)
    interval = (intervals[0][0], intervals[-1][1])
    audit, args = snapshot.node.audits_with_args[position]
    given = {
        "snapshots": scheduler.snapshots_by_name,
        "start": interval[0],
        "end": interval[1],
        "execution_time": request.execution_time,
        # Of the table that the environment shows, where a run would look at the one that it has computed.
        "deployability_index": index.with_deployable(snapshot) if index.is_representative(snapshot) else index,
    }
    try:
        # Not through the instance, where `record_audits` would take it for the first of its model.
        (result,) = SnapshotEvaluator.audit(evaluator, _with_one_audit(snapshot, position), **given)
    except Exception as cause:  # noqa: BLE001  # any driver's error
        return msg.AuditEvaluated(
            fqn=snapshot.name,
            name=audit.name,
            position=position,
            args=_arguments(args, evaluator.get_adapter(snapshot.model_gateway).dialect),
            blocking=audit.blocking,
            failing_rows=None,
            query=None,
            interval=interval,
            error=describe_error(cause),
        )
    return _evaluated(evaluator, {**given, "snapshot": snapshot}, position, result, request.query_characters)


def _with_one_audit(snapshot: Snapshot, position: int) -> Snapshot:
    """The same model with one of its audits, since SQLMesh evaluates all that a model has or none."""
    if not snapshot.is_model:
        return snapshot
    model = snapshot.model
    audit, args = model.audits_with_args[position]
    name = model.audits[position][0] if position < len(model.audits) else audit.name
    definitions = {key: value for key, value in model.audit_definitions.items() if key == name}
    one = model.copy(update={"audits": [(name, args)], "audit_definitions": definitions})
    return snapshot.copy(update={"node": one})
