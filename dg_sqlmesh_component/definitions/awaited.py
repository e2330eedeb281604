"""What is not loaded? In a core without `capabilities/sources`, nothing is awaited."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import dagster as dg

from dg_sqlmesh_component.dagster_internals.assets import HasAssets
from dg_sqlmesh_component.definitions.upstream import external_tables_read
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.messages import Interval

if TYPE_CHECKING:
    from dg_sqlmesh_component.definitions.settings import Settings


@dataclass(frozen=True)
class Source:
    """An external table that is awaited, and the asset that loads it."""

    asset: dg.AssetKey
    incomplete: tuple[Interval, ...]  # the ranges for which it is not complete, in order. The last one has no end.
    # Says why, as a clause after the asset's name. To list missing partitions takes time, and few sources make a model
    # wait. Many models may wait for the same one.
    explain: Callable[[tuple[Interval, ...]], str] = field(compare=False)

    def sentence(self, awaited: Sequence[Interval] = ()) -> str:
        """The asset and why it is not complete for awaited ranges, or at all if none is known. It has no full stop."""
        return f"{self.asset.to_user_string()} {self.explain(tuple(awaited))}"


@dataclass
class Awaited:
    """The tables that one request waits for: none."""

    instance: dg.DagsterInstance
    location: HasAssets | None  # None in a test that has none
    settings: Settings
    waits: bool = True  # whether the request waits for tables, if the component is configured so
    # The awaited tables by fqn. Those that SQLMesh's process asks for are added.
    sources: dict[str, Source] = field(init=False, default_factory=dict)

    @property
    def tables(self) -> msg.AwaitedTables:
        """What the request has of them."""
        models = self.settings.assets.models
        views = [model for model in models.values() if model.kind == "VIEW"]
        return msg.AwaitedTables(read=external_tables_read(views, models))

    @property
    def without_asset(self) -> list[str]:
        """The tables for which nothing waits, because no asset of the code location loads them."""
        return []

    def answer(self, found: msg.OtherTablesFound) -> msg.AwaitedTables:
        """What SQLMesh's process asks for. It asks only if tables are awaited, so never here."""
        raise AssertionError(f"SQLMesh's process has asked for {found.tables}, although no table is awaited.")
