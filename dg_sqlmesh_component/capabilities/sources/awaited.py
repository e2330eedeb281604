"""For which ranges the assets that load external tables are complete, by the events that Dagster has, and why not.

The rule is in `complete_sources`, and in docs/wait.md.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache, partial

import dagster as dg

from dg_sqlmesh_component.capabilities.sources.complete_sources import (
    CheckStatus,
    Completeness,
    Load,
    Refusal,
    SourceHistory,
    complete_until,
    completeness,
    has_two_time_dimensions,
    keys_of_other_dimension,
    stated_instant,
)
from dg_sqlmesh_component.capabilities.sources.partition_windows import joined_key, windows_by_key, windows_until
from dg_sqlmesh_component.capabilities.sources.source_events import SourceReader, last_materializations
from dg_sqlmesh_component.dagster_internals.assets import HasAssets, Loader, loaders, time_dimension
from dg_sqlmesh_component.dagster_internals.event_log import CheckRecord, last_check_records
from dg_sqlmesh_component.definitions.awaited import Awaited, Source
from dg_sqlmesh_component.definitions.settings import Settings
from dg_sqlmesh_component.definitions.upstream import external_tables_read
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.formatting import counted, utc_text
from dg_sqlmesh_component.protocol.intervals import common
from dg_sqlmesh_component.protocol.messages import Interval


@dataclass
class AwaitedSources(Awaited):
    """The tables that one request waits for, by `external_models.wait`.

    A run computes promoted versions. If they read tables that no local file reads, SQLMesh's process asks for these.
    """

    def __post_init__(self) -> None:
        self.sources = self._found(self.settings.assets.upstream.awaited)

    @property
    def tables(self) -> msg.AwaitedTables:
        """What the request has of them."""
        if self.settings.attributes.external_models.wait is None:
            return super().tables
        models = self.settings.assets.models
        return msg.AwaitedTables(_incomplete(self.sources), external_tables_read(models.values(), models), False)

    @property
    def without_asset(self) -> list[str]:
        """The tables for which nothing waits, because no asset of the code location loads them."""
        return sorted(self.settings.assets.upstream.awaited.keys() - self.sources.keys() - self.settings.owned)

    def answer(self, found: msg.OtherTablesFound) -> msg.AwaitedTables:
        """What SQLMesh's process asks for."""
        others = self._found(found.tables)
        self.sources |= others
        return msg.AwaitedTables(_incomplete(others))

    def _found(self, tables: Iterable[str]) -> dict[str, Source]:
        wait = self.settings.attributes.external_models.wait
        loaders_of_tables = awaited_loaders(self.location, self.settings, tables) if self.waits else {}
        return read_sources(self.instance, loaders_of_tables, wait.lag) if wait else {}


def _incomplete(sources: Mapping[str, Source]) -> msg.Sources:
    return {fqn: source.incomplete for fqn, source in sources.items()}


@dataclass(frozen=True)
class LatestLoad:
    """The last materialization of an asset that loads a table, and the last result of its blocking checks."""

    asset: dg.AssetKey
    mark: str  # another text after each of them, also if Dagster gives a storage id again
    at: int  # the instant of the last one, in epoch milliseconds


def latest_loads(instance: dg.DagsterInstance, location: HasAssets | None, settings: Settings) -> dict[str, LatestLoad]:
    """The latest load of each awaited table that was loaded, by fqn."""
    found = awaited_loaders(location, settings, settings.assets.upstream.awaited)
    last = last_materializations(instance, {loader.key for loader in found.values()})
    loaded = {fqn: loader for fqn, loader in found.items() if loader.key in last}
    checks = {check for loader in loaded.values() for check in loader.blocking_checks}
    results = last_check_records(instance, checks)
    return {fqn: _latest_load(loader, last[loader.key], results) for fqn, loader in loaded.items()}


def _latest_load(
    loader: Loader, last: dg.EventLogRecord, results: Mapping[dg.AssetCheckKey, CheckRecord]
) -> LatestLoad:
    of_checks = [results[check] for check in loader.blocking_checks if check in results]
    evaluated = [result.event.timestamp for result in of_checks if result.event is not None]
    # SQLite gives an id again after the newest run was deleted, or the event log was emptied. An instant never returns.
    ids = [last.storage_id, *(result.id for result in of_checks)]
    mark = " ".join(map(str, [*ids, last.timestamp, *evaluated]))
    return LatestLoad(loader.key, mark, round(max([last.timestamp, *evaluated]) * 1000))


def awaited_loaders(location: HasAssets | None, settings: Settings, tables: Iterable[str]) -> dict[str, Loader]:
    """The assets that load those of the tables that a component waits for, by fqn."""
    configured, upstream = settings.attributes.external_models, settings.assets.upstream
    if configured.wait is None or location is None:
        return {}
    # SQLMesh computes the tables of other components, and knows their intervals.
    awaited = upstream.awaited_of(fqn for fqn in tables if fqn not in settings.owned)
    return loaders(location, awaited, awaited if configured.wait.tables is not None else upstream.configured_keys)


def read_sources(
    instance: dg.DagsterInstance, found: Mapping[str, Loader], lag: timedelta = timedelta(0)
) -> dict[str, Source]:
    """For which ranges tables are not complete, by fqn, with the asset that loads each.

    Without partitions, an asset is complete up to its last run, minus the lag.
    """
    if not found:
        return {}
    of_key = {loader.key: loader for loader in found.values()}  # all are read together
    reader = SourceReader(instance, lag, round(time.time() * 1000), last_materializations(instance, of_key))

    @cache
    def explain(key: dg.AssetKey, awaited: tuple[Interval, ...]) -> str:
        [(_, history)] = reader.histories([of_key[key]])
        return why_incomplete(history, completeness(history), awaited)

    sources = {
        key: Source(key, completeness(history).incomplete, partial(explain, key))
        for key, history in reader.histories(list(of_key.values()))
    }
    return {fqn: sources[loader.key] for fqn, loader in found.items()}


# -- why a source is not complete, as a clause after the name of its asset ------------------------

_MAX_NAMED = 3
"""How many partitions are named."""


def why_incomplete(source: SourceHistory, found: Completeness, awaited: Sequence[Interval] = ()) -> str:
    """Why a source is not complete: for ranges that are awaited, or at all."""
    definition = source.partitions
    if not source.loads:
        return "was never materialized: materialize it once"
    if has_two_time_dimensions(definition):
        return (
            "has two dimensions of time windows, so nothing says for which time it is complete: to wait for the other "
            "tables only, name them in `external_models.wait.tables`"
        )
    if found.has_earlier:
        return "was not materialized since its partitions have changed: materialize it"
    everywhere = next((refusal for refusal in found.refusals.values() if refusal.is_of_all), None)
    if everywhere:
        return f"has failed its check {everywhere.check}, which names no materialization: execute the check"
    if definition is not None and time_dimension(definition) is not None:
        return _of_windows(source, found, definition, awaited)
    return _of_keys(source, found)


def _of_keys(source: SourceHistory, found: Completeness) -> str:
    """Of an asset without time windows."""
    if not found.keys:
        return "has no partitions"
    refused = {key: found.refusals[key] for key in found.keys if key in found.refusals}
    missing = sorted(key for key in found.keys if key is not None and key not in found.loads)
    if refused or missing:
        return ", and ".join([*_refused(refused), *_missing(missing)])
    until = {key: complete_until(found.loads[key], None, source.lag) for key in found.keys}
    key = min(until, key=until.__getitem__)
    load, of_key = found.loads[key], "" if key is None else f" in partition {key}"
    if load.complete_until is not None:
        if stated_instant(load.complete_until) is None:
            return f"has {load.complete_until!r} as `sqlmesh/complete_until`{of_key}, which is no timestamp in seconds"
        return f"is complete until {utc_text(until[key])}{of_key}, as its loader says"
    lag = f", and its lag is {source.lag}" if source.lag else ""
    return f"{_loaded(load, of_key)}{lag}"


def _loaded(load: Load, of_key: str) -> str:
    if load.instant is None:
        return f"was loaded last{of_key} by a run that was deleted: materialize it again"
    if not load.run_id:
        return f"was loaded last{of_key} at {utc_text(load.instant)}"
    return f"was loaded last{of_key} by a run that began {utc_text(load.instant)}"


@dataclass
class _Causes:
    """Why windows are not complete: the partitions without a load, those with an early one, and the refused ones."""

    missing: list[str] = field(default_factory=list)
    early: dict[str, Load] = field(default_factory=dict)
    refused: dict[str | None, Refusal] = field(default_factory=dict)


def _of_windows(
    source: SourceHistory, found: Completeness, definition: dg.PartitionsDefinition[str], awaited: Sequence[Interval]
) -> str:
    time = time_dimension(definition)
    assert time is not None, "its partitions have time windows"
    windows, by_key = windows_until(time, source.now), windows_by_key(time)
    ranges = common(found.incomplete, awaited) or found.incomplete
    others = keys_of_other_dimension(source)
    causes = _Causes()
    for key, window in _overlapping(((key, by_key[key]) for key in windows.keys), ranges):
        partitions = [key] if others is None else [joined_key(definition, key, other) for other in others]
        _add_causes(causes, found, key, window, partitions)
    texts = [*_refused(causes.refused), *_early(causes.early), *_missing(causes.missing)]
    until = found.incomplete[-1][0]
    return ", and ".join(texts) or (f"is complete until {utc_text(until)}" if windows.keys else "has no partition yet")


def _overlapping(
    windows: Iterable[tuple[str, Interval | None]], ranges: Collection[Interval]
) -> Iterator[tuple[str, Interval]]:
    """The windows that overlap with one of the ranges. Both are in order."""
    left = iter(ranges)
    current = next(left, None)
    for key, window in windows:
        while current is not None and window is not None and current[1] <= window[0]:
            current = next(left, None)
        if current is not None and window is not None and current[0] < window[1]:
            yield key, window


def _add_causes(causes: _Causes, found: Completeness, key: str, window: Interval, partitions: Collection[str]) -> None:
    """Add why one window is not complete."""
    missing = [partition for partition in partitions if partition not in found.loads]
    causes.missing += [key] if len(missing) == len(partitions) else missing
    for partition in partitions:
        load = found.loads.get(partition)
        if partition in found.refusals:
            causes.refused[partition] = found.refusals[partition]
        elif load is not None and (load.instant is None or load.instant < window[1]):
            causes.early[partition] = load


def _refused(refusals: Mapping[str | None, Refusal]) -> Iterator[str]:
    """The refused partitions, by check."""
    by_refusal: dict[Refusal, list[str]] = defaultdict(list)
    for key, refusal in refusals.items():
        by_refusal[refusal] += [] if key is None else [key]
    for refusal, keys in sorted(by_refusal.items(), key=lambda item: item[0].check):
        where = f" in partition {_named(keys)}" if keys else ""
        if refusal.status is CheckStatus.FAILED:
            yield f"has failed its check {refusal.check}{where}"
        elif refusal.status is CheckStatus.PLANNED:
            yield f"has no result of its check {refusal.check} yet{where}"
        else:
            ended = "because the run has ended without one: execute the check"
            yield f"has no result of its check {refusal.check}{where}, {ended}"


def _early(loads: Mapping[str, Load]) -> Iterator[str]:
    if loads:
        instant = [load.instant for load in loads.values()][-1]
        at = "by a run that was deleted" if instant is None else f"at {utc_text(instant)}, before its window was over"
        yield f"was loaded {at}, in partition {_named(list(loads))}"


def _missing(keys: list[str]) -> Iterator[str]:
    if keys:
        yield f"has no materialization of {_named(keys)}"


def _named(keys: list[str]) -> str:
    """The last partitions, and the number of those before them."""
    earlier = len(keys) - _MAX_NAMED
    return ", ".join(keys[-_MAX_NAMED:]) + (f" and {counted(earlier, 'earlier one')}" if earlier > 0 else "")
