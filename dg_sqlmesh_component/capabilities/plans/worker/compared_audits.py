"""Evaluate the audits of a preview's models on its tables, and on those of prod."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sqlglot import exp
from sqlmesh.core.context import Context
from sqlmesh.core.environment import Environment
from sqlmesh.core.plan import Plan
from sqlmesh.core.snapshot import DeployabilityIndex, Snapshot
from sqlmesh.utils.date import now_timestamp

from dg_sqlmesh_component.capabilities.plans import messages as msg
from dg_sqlmesh_component.worker.context import display_name
from dg_sqlmesh_component.worker.environment import has_table
from dg_sqlmesh_component.worker.intervals.tables import filled_intervals, knows_filled
from dg_sqlmesh_component.worker.observe.audits import evaluate_one
from dg_sqlmesh_component.worker.own_bugs import own_bug
from dg_sqlmesh_component.worker.sql_text import audit_arguments, is_blocking
from dg_sqlmesh_component.worker.sqlmesh_internals import ComputedRanges, computed_ranges


def compare_audits(plan: Plan, prod: Environment, context: Context) -> Iterator[msg.AuditsCompared]:
    """Evaluate the preview's audits of each model that it shows in another version than prod.

    Both tables are audited over what the preview has computed. A result says nothing about other intervals. If that is
    not known exactly, only the preview's table is audited.
    """
    snapshots = plan.context_diff.snapshots_by_name
    context.state_sync.refresh_snapshot_intervals(snapshots.values())
    ids = {snapshot.snapshot_id for snapshot in snapshots.values()}
    same = {info.name: snapshots[info.name] for info in prod.snapshots if info.snapshot_id in ids}
    others = context.state_reader.get_snapshots(info for info in prod.snapshots if info.name not in same)
    promoted = {**same, **{snapshot.name: snapshot for snapshot in others.values()}}
    ranges = computed_ranges(context)
    for name, snapshot in snapshots.items():
        if not has_table(snapshot) or name in same:
            continue
        compared = _Audits(snapshot, plan.deployability_index, snapshots, promoted, ranges, context)
        if audits := tuple(compared):
            yield msg.AuditsCompared(name, display_name(snapshot.node, context), audits)


class _Audits:
    """The audits of one model."""

    def __init__(
        self,
        snapshot: Snapshot,
        index: DeployabilityIndex,
        snapshots: Mapping[str, Snapshot],
        promoted: Mapping[str, Snapshot],
        ranges: ComputedRanges,
        context: Context,
    ) -> None:
        self._snapshot = snapshot
        self._evaluator = context.snapshot_evaluator
        self._dialect = self._evaluator.get_adapter(snapshot.model_gateway).dialect
        computed = filled_intervals(snapshot, index, ranges)
        shared = (
            {"start": computed[0][0], "end": computed[-1][1], "execution_time": now_timestamp()} if computed else {}
        )
        is_own = index.is_representative(snapshot)
        self._given = {
            **shared,
            "snapshots": snapshots,
            "deployability_index": index.with_deployable(snapshot) if is_own else index,
        }
        old, shown = promoted.get(snapshot.name), snapshot.table_name(is_own)
        prods = old.table_name() if old and has_table(old) else None
        self._is_computed, self._is_prods_table = bool(computed), prods == shown
        self._audits_prod = prods is not None and knows_filled(snapshot, index, ranges)
        self._given_prod = {
            **shared,
            "snapshots": promoted,
            "deployability_index": DeployabilityIndex.all_deployable(),
            "table_mapping": {snapshot.name: prods},
            "this_model": exp.to_table(prods, dialect=self._dialect) if prods else None,
        }

    def __iter__(self) -> Iterator[msg.ComparedAudit]:
        for position, (audit, args) in enumerate(self._snapshot.node.audits_with_args):
            if audit.skip or not self._is_computed:
                continue
            rows, error = self._failing_rows(position, self._given)
            rows_prod = rows
            if not self._is_prods_table:  # an audit of a column that only the preview has fails in prod
                rows_prod = self._failing_rows(position, self._given_prod)[0] if self._audits_prod else None
            texts = audit_arguments(args, self._dialect)
            yield msg.ComparedAudit(audit.name, texts, is_blocking(audit, args), rows, rows_prod, error)

    def _failing_rows(self, position: int, given: Mapping[str, Any]) -> tuple[int | None, str | None]:
        """The number of failing rows, and the error if there is none."""
        try:
            return evaluate_one(self._evaluator, self._snapshot, position, given).count or 0, None
        except Exception as error:  # any driver's: the result of this audit has the error
            if own_bug(error):
                raise
            return None, type(error).__name__  # its message may contain values
