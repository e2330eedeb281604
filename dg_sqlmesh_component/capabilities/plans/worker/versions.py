"""The versions of a plan at one moment, and which intervals the new ones compute because of runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

from sqlmesh.core.engine_adapter import EngineAdapter
from sqlmesh.core.plan import EvaluatablePlan
from sqlmesh.core.snapshot import DeployabilityIndex, Snapshot, SnapshotTableInfo
from sqlmesh.core.snapshot.definition import Interval

from dg_sqlmesh_component.capabilities.plans.worker.stored_snapshots import StoredSnapshots
from dg_sqlmesh_component.protocol.graph import reachable
from dg_sqlmesh_component.protocol.intervals import ComputedRange
from dg_sqlmesh_component.worker.intervals.outdated import Table, Version, outdated
from dg_sqlmesh_component.worker.intervals.tables import computed_intervals, is_incremental, upstream, whole_intervals

Rows = Mapping[Any, Sequence[ComputedRange]]
"""Rows of the state, by table."""

Shown = Mapping[str, SnapshotTableInfo]
"""The versions that prod shows, by name."""


@dataclass(frozen=True)
class Versions:
    """The snapshots of a plan, by name, and which of their tables its environment shows.

    Attributes:
        is_dev: Whether the environment is not prod.
    """

    nodes: Mapping[str, Snapshot]
    index: DeployabilityIndex
    shown: Shown
    is_dev: bool

    @classmethod
    def read(
        cls, stored: StoredSnapshots, plan: EvaluatablePlan, shown: Shown, index: DeployabilityIndex | None = None
    ) -> Versions:
        """Read them with their intervals.

        Args:
            index: Of SQLMesh's stages, if they are known.
        """
        nodes = stored.now(plan.environment.snapshots, plan.new_snapshots)
        if index is None and plan.is_dev:
            index = DeployabilityIndex.create(nodes.values(), start=plan.environment.start_at)
        return cls(nodes, index or DeployabilityIndex.all_deployable(), shown, plan.is_dev)

    @cached_property
    def new(self) -> dict[str, Snapshot]:
        """Those whose tables prod does not show."""
        return {
            name: node
            for name, node in self.nodes.items()
            if (info := self.shown.get(name)) is None
            or info.version != node.version
            or (self.is_dev and self.is_dev_table(node))
        }

    @cached_property
    def others(self) -> dict[str, Snapshot]:
        """All but the new ones."""
        return {name: node for name, node in self.nodes.items() if name not in self.new}

    @cached_property
    def computed(self) -> dict[str, tuple[Interval, ...]]:
        """The computed intervals of the new ones that have some."""
        computed = {name: tuple(computed_intervals(node, self.index)) for name, node in self.new.items()}
        return {name: intervals for name, intervals in computed.items() if intervals}

    def is_dev_table(self, node: Snapshot) -> bool:
        return not self.index.is_representative(node)

    def table(self, node: Snapshot) -> Any:
        """The key of a table's rows in the state."""
        is_dev = self.is_dev_table(node)
        return node.name, node.dev_version if is_dev else node.version, is_dev


def tables_of(
    shown: Shown,
    rows: Rows,
    seen: Rows = MappingProxyType({}),
    lost: Mapping[str, Sequence[Interval]] = MappingProxyType({}),
    torn: Set[str] = frozenset(),
) -> dict[str, Table]:
    """The tables that prod shows, by name.

    Args:
        rows: The computed ranges of the state.
        seen: Those that were there before.
        lost: By name, intervals that they had before, and do not have.
        torn: The names of those that have no rows while they are replaced.
    """
    keys = {name: (name, info.version, False) for name, info in shown.items()}
    return {
        name: Table(rows.get(key, ()), seen.get(key, ()), lost.get(name, ()), name in torn)
        for name, key in keys.items()
    }


def find_outdated(
    versions: Versions,
    find_altered: Callable[[str, int, bool], Iterable[Interval]],
    since: Callable[[str], int] = lambda _: 0,
    *,
    lost: Mapping[str, Sequence[Interval]] = MappingProxyType({}),
    gaps: Mapping[str, Sequence[Interval]] = MappingProxyType({}),
) -> dict[str, tuple[Interval, ...]]:
    """By name, the intervals of new versions that have to be computed again.

    Args:
        find_altered: Finds the intervals of a table of prod, by its name, that were altered since an instant in epoch
            milliseconds; of a table that is read as a whole, only those that were rewritten.
        since: From when on rows count, by the name of the new version that may have read them.
        lost: By name, intervals that new versions had before, and do not have.
        gaps: By name, what they lack before computed intervals that depend on it, in addition.
    """
    parents = upstream(versions.nodes)
    tables = {name: node for name, node in versions.new.items() if _is_table(node)}

    def picture(node: Snapshot) -> Version:
        read = reachable(parents[node.name], lambda of: () if _is_table(versions.nodes[of]) else parents[of])
        at, is_by_interval = since(node.name), is_incremental(node)
        altered = [find_altered(of, at, not is_by_interval) for of in read & versions.others.keys()]
        if node.name in versions.shown:  # if its old version is computed again, a table outside of the project changed
            altered.append(find_altered(node.name, at, False))
        return Version(
            reads=read & tables.keys(),
            computed=versions.computed.get(node.name, ()),
            lost=lost.get(node.name, ()),
            gaps=gaps.get(node.name, ()),
            altered=[interval for of in altered for interval in of],
            whole=lambda interval: whole_intervals(node, interval),
            depends_on_past=lambda: node.depends_on_past,
            is_by_interval=is_by_interval,
            # One missing interval lets SQLMesh compute a whole table of kind FULL. It inserts into other whole tables
            # unless it has forgotten everything.
            is_in_parts=node.is_full or (is_by_interval and not node.full_history_restatement_only),
        )

    return outdated({name: picture(node) for name, node in tables.items()})


def _is_table(snapshot: Snapshot) -> bool:
    # Unlike in `shows_others`, a materialized view counts: the engine keeps the rows that it has read.
    return bool(snapshot.is_model and (snapshot.is_materialized or snapshot.is_materialized_view))


def is_torn(snapshot: Snapshot, adapter: EngineAdapter) -> bool:
    """Whether the table of a snapshot is without rows while a run replaces it."""
    if not _is_table(snapshot) or (is_incremental(snapshot) and not snapshot.full_history_restatement_only):
        return False
    in_steps = adapter.INSERT_OVERWRITE_STRATEGY.name in ("DELETE_INSERT", "INTO_IS_OVERWRITE")
    return in_steps and not (adapter.SUPPORTS_TRANSACTIONS or adapter.SUPPORTS_REPLACE_TABLE)


def computed_in(times: Sequence[Interval], rows: Sequence[ComputedRange]) -> list[int]:
    """The begins of those times in which a table was computed, as far as its rows tell."""
    return sorted(
        begin for begin, end in times if any(row.at >= begin and (row.at < end or row.is_merged) for row in rows)
    )
