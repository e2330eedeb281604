"""Evaluate the audits of a plan that nobody has evaluated on the rows that its environment is going to show.

A model that only gains an audit keeps its table. SQLMesh evaluates that audit when it first stores the model's version.
An attempt that failed and a preview have stored it too, so SQLMesh alone would promote the version without its audit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sqlmesh.core.plan import EvaluatablePlan
from sqlmesh.core.snapshot import DeployabilityIndex, Snapshot, SnapshotId
from sqlmesh.core.snapshot.definition import Interval
from sqlmesh.utils.errors import PlanError

from dg_sqlmesh_component.capabilities.plans.worker.context import PlanContext
from dg_sqlmesh_component.capabilities.plans.worker.versions import Versions
from dg_sqlmesh_component.protocol.intervals import subtract
from dg_sqlmesh_component.worker.intervals.tables import computed_intervals, shows_others
from dg_sqlmesh_component.worker.observe.audits import audited
from dg_sqlmesh_component.worker.sqlmesh_internals import computed_ranges


def evaluate_new_audits(
    versions: Versions,
    plan: EvaluatablePlan,
    evaluator: Any,
    context: PlanContext,
    breaker: Callable[[], bool] | None,
    *,
    is_unfinished: bool,
) -> None:
    """Evaluate them before the promotion, on all intervals that this plan has not computed: SQLMesh audits the others.

    Args:
        evaluator: SQLMesh's evaluator of plans.
        breaker: SQLMesh's circuit breaker.
        is_unfinished: Whether this finishes a plan. Then prod may show the plan's audits, without a result.

    Raises:
        PlanError: A blocking audit has failed.
    """
    nodes = context.stored.now(_changed(versions, plan, context, is_unfinished=is_unfinished))
    unaudited = {
        node: left
        for node in nodes.values()
        if (left := _not_computed(node, context.tracker.progress.finished(node.name), versions.index))
    }
    if not unaudited:
        return
    scheduler = context.auditing_scheduler({**versions.nodes, **nodes}.values(), evaluator.snapshot_evaluator)
    errors, _ = scheduler.run_merged_intervals(
        merged_intervals=unaudited,
        deployability_index=versions.index,
        environment_naming_info=plan.environment.naming_info,
        execution_time=plan.execution_time,
        circuit_breaker=breaker,
        start=plan.start,
        end=plan.end,
        audit_only=True,
    )
    if errors:
        raise PlanError("Plan application failed.")


def _not_computed(node: Snapshot, finished: Sequence[Interval], index: DeployabilityIndex) -> list[Interval]:
    is_by_time = node.is_model and node.model.time_column is not None
    return [] if finished and not is_by_time else [*subtract(computed_intervals(node, index), finished)]


def _changed(versions: Versions, plan: EvaluatablePlan, context: PlanContext, *, is_unfinished: bool) -> list[Snapshot]:
    """The nodes with audits that neither prod shows, nor those who have computed their rows had.

    Of a plan that is finished, all standalone audits: what an attempt before has found of a model is a result already.
    """
    changed = {
        name: node
        for name, node in versions.nodes.items()
        if node.evaluatable and node.node.audits_with_args
        if (info := versions.shown.get(name)) is None
        or info.snapshot_id != node.snapshot_id
        or (is_unfinished and node.is_audit)
    }
    if not changed:
        return []
    index = DeployabilityIndex.create(versions.nodes.values(), start=plan.environment.start_at)
    rows = computed_ranges(context)

    def is_kept(node: Snapshot) -> bool:
        return (info := versions.shown.get(node.name)) is not None and info.version == node.version

    def before(node: Snapshot) -> list[SnapshotId | None]:
        """The versions whose audits the rows have passed. None is one that nobody knows."""
        if is_kept(node) and not (is_unfinished and node.is_audit):
            return [versions.shown[node.name].snapshot_id]
        if node.is_audit or shows_others(node):  # the rows that it reads may be others since
            return [None]
        computed_by = {row.identifier for row in rows.get(versions.table(node), ())}
        return [id and SnapshotId(name=node.name, identifier=id) for id in computed_by]

    ids = {
        name: before(node)
        for name, node in changed.items()
        # The others are computed after the promotion: columns that their audits read may not exist yet.
        if index.is_representative(node) or (is_kept(node) and node.is_model and not versions.is_dev)
    }
    known = context.state_reader.get_snapshots([id for of_node in ids.values() for id in of_node if id])
    return [
        changed[name] for name, of in ids.items() if not all(_covers(id and known.get(id), changed[name]) for id in of)
    ]


def _covers(old: Snapshot | None, node: Snapshot) -> bool:
    """Whether rows of a version need no audit of another version of its table.

    If more than the audits has changed, it is a forward-only change. SQLMesh audits only what it computes from then on.
    """
    if old is None:
        return False
    index = DeployabilityIndex.all_deployable()
    has_other_code = old.fingerprint.data_hash != node.fingerprint.data_hash
    # SQLMesh's hash is of the query's text, also of its line breaks. Whether the data changes, it asks the model.
    has_other_data = has_other_code and not node.node.is_metadata_only_change(old.node)
    return has_other_data or audited(old, index).audits == audited(node, index).audits
