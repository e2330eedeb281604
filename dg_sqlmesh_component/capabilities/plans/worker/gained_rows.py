"""Find the models that lack rows because of a plan: a table that they read gains intervals, and they do not.

SQLMesh computes an interval of a model once. If the plan changes `start`, `end` or `cron` of a table that the model
reads, that table gets intervals which the model has computed already, without these rows. `gained` decides which. This
module makes its picture from SQLMesh's snapshots, and lets the plan compute them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from sqlmesh.core.environment import Environment
from sqlmesh.core.plan import Plan, SnapshotIntervals
from sqlmesh.core.snapshot import Snapshot
from sqlmesh.core.snapshot.definition import Interval

from dg_sqlmesh_component.capabilities.plans.worker.versions import Shown
from dg_sqlmesh_component.protocol.graph import grouped, reachable
from dg_sqlmesh_component.protocol.intervals import ALL_TIME, subtract
from dg_sqlmesh_component.worker.intervals.gained import Again, LackingRows, ReadTable, lacking_rows
from dg_sqlmesh_component.worker.intervals.query_ranges import uses_range
from dg_sqlmesh_component.worker.intervals.tables import (
    is_incremental,
    missing_now,
    tables_read,
    upstream,
    whole_intervals,
)

Intervals = Mapping[str, Sequence[Interval]]
"""Intervals by the name of the model."""


@dataclass(frozen=True)
class GainedRows:
    """What the tables of prod had before a plan, to compare with what they have at a later moment.

    Attributes:
        shown: The versions that prod showed.
        sources: The models whose intervals the plan may change, by name.
        before: The versions of these that prod showed, with their intervals.
        coming: What the next run would have computed of these.
    """

    shown: Shown
    sources: Set[str] = frozenset()
    before: Mapping[str, Snapshot] = field(default_factory=dict)
    coming: Intervals = field(default_factory=dict)

    @classmethod
    def before_plan(cls, plan: Plan, prod: Environment | None) -> GainedRows:
        """Of a plan that is not applied yet. A plan without another `start`, `end` or `cron` costs nothing here."""
        shown = {info.name: info for info in prod.snapshots} if prod is not None else {}
        diff, nodes = plan.context_diff, plan.context_diff.snapshots_by_name
        old = {name: before for name, (_, before) in diff.modified_snapshots.items()}
        changed = [name for name, before in old.items() if _has_other_intervals(nodes[name], before)]
        sources = _downstream(changed, nodes) & old.keys() if changed else set()
        before = {name: old[name] for name in sources}
        graph = _with_upstream({**nodes, **old}, sources)
        coming = missing_now(graph) if _kept_readers(sources, nodes, shown) else {}
        return cls(shown, sources, before, {name: coming.get(name, ()) for name in sources})

    def of_plan(self, plan: Plan, missing: Sequence[SnapshotIntervals]) -> LackingRows:
        """What lacks rows if a plan is applied.

        Args:
            missing: The `missing_intervals` of the plan.
        """
        planned = {found.snapshot_id.name: found.intervals for found in missing}
        return self.lacking(plan.context_diff.snapshots_by_name, planned) if self.sources else LackingRows()

    def lacking(self, nodes: Mapping[str, Snapshot], planned: Intervals, now: Intervals | None = None) -> LackingRows:
        """What lacks rows.

        Args:
            nodes: The versions that the plan shows, with their intervals.
            planned: What the plan still computes.
            now: The intervals that the shown versions have at this moment, if runs have gone on since.
        """
        if not self.sources:
            return LackingRows()
        kept = _kept_readers(self.sources, nodes, self.shown)
        if not kept:
            return LackingRows()
        coming = missing_now(_with_upstream(nodes, self.sources))
        names = _downstream(self.sources, nodes)
        parents, parents_before = upstream(nodes), upstream(self.shown)

        def picture(name: str) -> ReadTable:
            node, before = nodes[name], self.before.get(name)
            reads = tables_read(name, nodes, parents)
            keeps_rows = name in kept
            if keeps_rows:
                reads &= tables_read(name, self.shown, parents_before)
            shown = (now or {}).get(name, (before or node).intervals)
            if before is not None and before.is_embedded:
                shown = [ALL_TIME]  # all rows of its query
            elif before is not None and not is_incremental(before):
                shown = [(0, end) for _, end in shown[-1:]]  # it has all rows before its end
            is_source = name in self.sources
            return ReadTable(
                reads=reads,
                shown=shown if name in self.shown else (),
                coming=self.coming.get(name, ()),
                computed=node.intervals,
                planned=[*planned.get(name, ()), *coming.get(name, ())] if is_source else (),
                keeps_rows=keeps_rows,
                again=_again(node),
                whole=partial(whole_intervals, node),
                depends_on_past=lambda: node.depends_on_past,
            )

        tables = {name for name in names if _is_table(nodes[name])}
        return lacking_rows({name: picture(name) for name in tables if name in self.shown})


@contextmanager
def forgotten_in(plan: Plan, lacking: LackingRows) -> Iterator[None]:
    """Let the plan's snapshots lack the outdated intervals meanwhile, so that the plan computes them.

    The state is not changed: nobody has approved the plan. SQLMesh uses the same snapshots afterwards.
    """
    nodes = plan.context_diff.snapshots_by_name
    before = [(nodes[of], nodes[of].intervals, nodes[of].pending_restatement_intervals) for of in lacking.again]
    for (node, computed, marked), intervals in zip(before, lacking.again.values(), strict=True):
        node.intervals = [*subtract(computed, intervals)]
        node.pending_restatement_intervals = [*marked, *intervals]
    try:
        yield
    finally:
        for node, computed, marked in before:
            node.intervals, node.pending_restatement_intervals = computed, marked


def _has_other_intervals(node: Snapshot, before: Snapshot) -> bool:
    """Whether a model has another table, or may have other intervals in the same table."""
    if node.version != before.version:
        return True
    return any(getattr(node.node, of) != getattr(before.node, of) for of in ("start", "end", "cron", "cron_tz"))


def _kept_readers(sources: Set[str], nodes: Mapping[str, Snapshot], shown: Shown) -> set[str]:
    """The tables downstream of these models that the plan does not build again."""
    return {
        name
        for name in _downstream(sources, nodes)
        if _is_table(nodes[name]) and name in shown and shown[name].version == nodes[name].version
    }


def _again(node: Snapshot) -> Again:
    if is_incremental(node) or node.is_custom:
        if not uses_range(node.model):
            return "at_its_tick"  # each computation reads all rows
        # Nobody knows whether a custom materialization replaces the rows of a range.
        is_left = node.is_custom or node.full_history_restatement_only or node.disable_restatement
        return "never" if is_left else "in_parts"
    return "as_a_whole" if node.is_full and not (node.disable_restatement or node.depends_on_self) else "at_its_tick"


def _is_table(node: Snapshot) -> bool:
    return bool(node.is_model and node.is_materialized and not node.is_seed)


def _downstream(names: Iterable[str], nodes: Mapping[str, Snapshot]) -> set[str]:
    """These models, and all that are downstream of them."""
    children = grouped((parent, name) for name, parents in upstream(nodes).items() for parent in parents)
    return reachable(names, lambda name: children.get(name, ())) & nodes.keys()


def _with_upstream(nodes: Mapping[str, Snapshot], names: Iterable[str]) -> dict[str, Snapshot]:
    """These models, and all that are upstream of them: a model without a start of its own has that of its sources."""
    parents = upstream(nodes)
    return {name: nodes[name] for name in reachable(names, parents.__getitem__)}
