"""The tables that one request to SQLMesh waits for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import dagster as dg

from dg_sqlmesh_component.dagster_internals import HasAssets
from dg_sqlmesh_component.definitions.settings import Settings
from dg_sqlmesh_component.definitions.upstream import external_tables_read
from dg_sqlmesh_component.history.sources import Source, awaited_sources
from dg_sqlmesh_component.protocol import messages as msg


@dataclass
class Awaited:
    """The tables that one request waits for.

    A run computes promoted versions. If they read tables that no local file reads, SQLMesh's process asks for these.
    """

    instance: dg.DagsterInstance
    location: HasAssets | None  # None in a test that has none
    settings: Settings
    waits: bool = True  # whether the request waits for tables. None are awaited if `external_models.wait` is not set.
    # The awaited tables by fqn. Those that SQLMesh's process asks for are added.
    sources: dict[str, Source] = field(init=False)

    def __post_init__(self) -> None:
        self.sources = self._found(self.settings.assets.awaited)

    @property
    def tables(self) -> msg.AwaitedTables:
        """What the request has of them."""
        models, is_configured = self.settings.assets.models, self.settings.attributes.external_models.wait is not None
        needed = [model for model in models.values() if is_configured or model.kind == "VIEW"]
        return msg.AwaitedTables(_incomplete(self.sources), external_tables_read(needed, models), not is_configured)

    def answer(self, found: msg.OtherTablesFound) -> msg.AwaitedTables:
        """What SQLMesh's process asks for."""
        others = self._found(self.settings.awaited(found.tables))
        self.sources |= others
        return msg.AwaitedTables(_incomplete(others))

    def _found(self, tables: Mapping[str, dg.AssetKey]) -> dict[str, Source]:
        return awaited_sources(self.instance, self.location, self.settings, tables) if self.waits else {}


def _incomplete(sources: Mapping[str, Source]) -> msg.Sources:
    return {fqn: source.incomplete for fqn, source in sources.items()}
