"""For which ranges the assets that load external tables are complete, by the events that Dagster has of them.

The rule is in `complete_sources`, and in docs/source-rules.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property, partial

import dagster as dg

from dg_sqlmesh_component.dagster_internals import HasAssets, Loader, check_states, last_results, loaders
from dg_sqlmesh_component.definitions.settings import Settings
from dg_sqlmesh_component.definitions.upstream import external_tables_read
from dg_sqlmesh_component.history.complete_sources import completeness
from dg_sqlmesh_component.history.source_events import SourceReader, last_materializations
from dg_sqlmesh_component.history.source_sentences import why_incomplete
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.messages import Interval


@dataclass(frozen=True)
class Source:
    """An external table that is awaited, and the asset that loads it."""

    asset: dg.AssetKey
    incomplete: tuple[Interval, ...]  # the ranges for which it is not complete, in order. The last one has no end.
    # Says why, as a clause after the asset's name. To list missing partitions takes time, and few sources make a model
    # wait. Many models may wait for the same one.
    explain: Callable[[Sequence[Interval]], str] = field(compare=False)
    _sentences: dict[Sequence[Interval], str] = field(default_factory=dict, compare=False, repr=False)

    def sentence(self, awaited: Sequence[Interval] = ()) -> str:
        """The asset and why it is not complete for awaited ranges, or at all if none is known. It has no full stop."""
        ranges = tuple(awaited)
        if ranges not in self._sentences:
            self._sentences[ranges] = f"{self.asset.to_user_string()} {self.explain(ranges)}"
        return self._sentences[ranges]


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
        wait = self.settings.attributes.external_models.wait
        loaders_of_tables = awaited_loaders(self.location, self.settings, tables) if self.waits else {}
        return read_sources(self.instance, loaders_of_tables, wait.lag) if wait else {}


def _incomplete(sources: Mapping[str, Source]) -> msg.Sources:
    return {fqn: source.incomplete for fqn, source in sources.items()}


@dataclass(frozen=True)
class LatestLoad:
    """The last materialization of an asset that loads a table, and the last result of its blocking checks."""

    asset: dg.AssetKey
    mark: str  # another text after each of them
    at: int  # the instant of the last one, in epoch milliseconds


def latest_loads(instance: dg.DagsterInstance, location: HasAssets | None, settings: Settings) -> dict[str, LatestLoad]:
    """The latest load of each awaited table that was loaded, by fqn: one query for loads, and one for checks."""
    found = awaited_loaders(location, settings, settings.assets.awaited)
    last = last_materializations(instance, {loader.key for loader in found.values()})
    loaded = {fqn: loader for fqn, loader in found.items() if loader.key in last}
    results = last_results(instance, [check for loader in loaded.values() for check in loader.blocking_checks])
    return {fqn: _latest_load(loader, last[loader.key], results) for fqn, loader in loaded.items()}


def _latest_load(
    loader: Loader, last: dg.EventLogRecord, results: Mapping[dg.AssetCheckKey, tuple[float, int]]
) -> LatestLoad:
    of_checks = [results[check] for check in loader.blocking_checks if check in results]
    mark = " ".join(map(str, [last.storage_id, *(storage_id for _, storage_id in of_checks)]))
    return LatestLoad(loader.key, mark, round(max([last.timestamp, *(at for at, _ in of_checks)]) * 1000))


def awaited_loaders(
    location: HasAssets | None, settings: Settings, tables: Mapping[str, dg.AssetKey]
) -> dict[str, Loader]:
    """The assets that load those of the tables (keys by fqn) that a component waits for, by fqn."""
    wait = settings.attributes.external_models.wait
    if wait is None or location is None:
        return {}
    # SQLMesh computes the tables of other components, and knows their intervals.
    tables = {fqn: key for fqn, key in tables.items() if fqn not in settings.owned}
    named = tables if wait.tables is not None else settings.attributes.external_models.mapped(settings.assets.awaited)
    return loaders(location, tables, named)


def not_awaited(location: HasAssets | None, settings: Settings) -> list[str]:
    """The external tables for which a component does not wait, because no asset of the code location loads them."""
    awaited = settings.assets.awaited
    return sorted(awaited.keys() - awaited_loaders(location, settings, awaited).keys() - settings.owned)


def read_sources(
    instance: dg.DagsterInstance, found: Mapping[str, Loader], lag: timedelta = timedelta(0)
) -> dict[str, Source]:
    """For which ranges tables are not complete, by fqn, with the asset that loads each.

    Without partitions, an asset is complete up to its last run, minus the lag.
    """
    if not found:
        return {}
    sources = _Sources(instance, lag, list({loader.key: loader for loader in found.values()}.values()))
    by_key = {loader.key: sources.of(loader) for loader in found.values()}
    return {fqn: by_key[loader.key] for fqn, loader in found.items()}


class _Sources:
    """Reads all loaders together. Those without news are not read."""

    def __init__(self, instance: dg.DagsterInstance, lag: timedelta, found: Sequence[Loader]) -> None:
        now = round(time.time() * 1000)
        checks = [check for loader in found for check in loader.blocking_checks]
        self._loaders = found
        self._reader = SourceReader(
            instance,
            lag,
            now,
            last_materializations(instance, {loader.key for loader in found}),
            check_states(instance, checks) if checks else {},
        )

    def of(self, loader: Loader) -> Source:
        return Source(loader.key, self._incomplete[loader.key], partial(self._explain, loader))

    def _explain(self, loader: Loader, awaited: Sequence[Interval]) -> str:
        [(_, history)] = self._reader.histories([loader])
        return why_incomplete(history, completeness(history), awaited)

    @cached_property
    def _incomplete(self) -> dict[dg.AssetKey, tuple[Interval, ...]]:
        """The ranges of each asset."""
        lag, marks = self._reader.lag, self._reader.marks(self._loaders)
        known = {key: _INCOMPLETE[key, lag] for key in marks if (key, lag) in _INCOMPLETE}
        found = {key: ranges for key, (mark, ranges) in known.items() if mark == marks[key]}
        for key, history in self._reader.histories([of for of in self._loaders if of.key not in found]):
            found[key] = completeness(history).incomplete
            if marks[key] is not None:
                _INCOMPLETE[key, lag] = marks[key], found[key]
        return found


_INCOMPLETE: dict[tuple[dg.AssetKey, timedelta], tuple[object, tuple[Interval, ...]]] = {}
"""For which ranges assets are not complete, by their lag too, and what this is true for: see `SourceReader.marks`.

The process of a code location evaluates many ticks, and most sources have no news.
"""
