"""Audit rows that a run does not compute, of models that it computes: SQLMesh audits only what a run computes.

Without this, a check would be green although nobody of Dagster has audited what a shell or a plan has computed before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from sqlmesh.core.scheduler import Scheduler
from sqlmesh.core.snapshot import DeployabilityIndex, Snapshot

from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.intervals import merged, subtract
from dg_sqlmesh_component.worker.intervals.tables import (
    altered_at,
    computed_intervals,
    forgotten_intervals,
    ranges_of_table,
    upstream,
    with_shown,
)
from dg_sqlmesh_component.worker.observe.audits import audit_earlier_rows, audited, has_audits
from dg_sqlmesh_component.worker.pipe import Pipe
from dg_sqlmesh_component.worker.sqlmesh_internals import ComputedRanges


@dataclass(frozen=True)
class EarlierRowsAudits:
    """The audits of such rows, for the models of one scheduler.

    Attributes:
        read_ranges: Reads what the state has as computed.
    """

    request: msg.EvaluationRequest
    scheduler: Scheduler
    index: DeployabilityIndex
    pipe: Pipe
    read_ranges: Callable[[], ComputedRanges]
    _wanted: dict[str, tuple[tuple[msg.AuditUse, ...], Sequence[msg.Interval]]] = field(default_factory=dict)

    def rows_of(self, planned: Mapping[Snapshot, Sequence[msg.Interval]]) -> dict[str, msg.EarlierRows]:
        """As in `EvaluationPlanned`, of its batches."""
        nodes = self.scheduler.snapshots_by_name
        # A run without pending intervals must not pay for it.
        parents = upstream(nodes) if planned else {}
        return {
            node.name: self._rows_of(node, [nodes[name] for name in with_shown(node.name, nodes, parents)])
            for node, batches in planned.items()
            if batches and has_audits(node)
        }

    def _rows_of(self, node: Snapshot, shown: Sequence[Snapshot]) -> msg.EarlierRows:
        """An audit of a model without a time column looks at all rows, so the run audits them."""
        at = altered_at(node, self.index)
        return msg.EarlierRows(
            audited(node, self.index),
            max(altered_at(of, self.index) or 0 for of in shown),
            is_unaccepted=any(forgotten_intervals(of, self.index) for of in shown),
            stay_unaudited=bool(
                node.is_model and node.model.time_column and computed_intervals(node, self.index) and at
            ),
        )

    def want(self, unaudited: Mapping[str, msg.UnauditedRows], planned: Mapping[str, Sequence[msg.Interval]]) -> None:
        """Find the intervals in which the rows are. The state is read if there are any."""
        ranges = self.read_ranges() if unaudited else {}
        for fqn, rows in unaudited.items():
            of_table = ranges_of_table(self.scheduler.snapshots_by_name[fqn], self.index, ranges)
            new = merged(row.interval for row in of_table if row.at > rows.since)
            self._wanted[fqn] = rows.audits, subtract(new, [*planned[fqn], *rows.audited])

    def evaluate(self, fqn: str) -> None:
        """Send the results of a node's wanted audits, once. Safe from any thread."""
        uses, intervals = self._wanted.pop(fqn, ((), ()))
        for interval in intervals:
            audit_earlier_rows(fqn, uses, interval, self.request, self.scheduler, self.index, self.pipe)
