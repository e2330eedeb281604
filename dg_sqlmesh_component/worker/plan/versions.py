"""The versions of a plan, as they are in the state at one moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from sqlmesh.core.context import Context
from sqlmesh.core.plan import EvaluatablePlan
from sqlmesh.core.snapshot import (
    DeployabilityIndex,
    Snapshot,
    SnapshotTableInfo,
)
from sqlmesh.core.snapshot.definition import Interval

from dg_sqlmesh_component.worker.intervals.tables import computed_intervals, snapshots_now

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
        cls, context: Context, plan: EvaluatablePlan, shown: Shown, index: DeployabilityIndex | None = None
    ) -> Versions:
        """Read them with their intervals.

        Args:
            index: Of SQLMesh's stages, if they are known.
        """
        nodes = snapshots_now(context, plan.environment.snapshots, plan.new_snapshots)
        if index is None and plan.is_dev:
            index = DeployabilityIndex.create(nodes.values(), start=plan.start)
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
