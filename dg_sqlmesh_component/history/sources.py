"""For which ranges the assets that load external tables are complete, by the events that Dagster has of them.

- With time-window partitions: for the windows of the materialized partitions, and for everything before the first
  window. If there is a second dimension, a window is complete when all keys of that dimension are materialized.
- Without them: up to the start of the run that has materialized it last, because rows that arrived while it loaded may
  be missing. A loader that knows more says so in the metadata `sqlmesh/complete_until`. With other partitions, the one
  counts whose last materialization is the oldest.
- A window that was loaded before it was over (`end_offset`) is complete up to the start of the run that has loaded it.
- For nothing, if a blocking check of its last materialization has failed, or if it was never materialized.
- A partition counts as not materialized if a blocking check of its last materialization has failed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache, cached_property, partial

import dagster as dg

from dg_sqlmesh_component.dagster_internals import (
    CheckRecord,
    HasAssets,
    Loader,
    check_records,
    last_check_records,
    loaders,
    materialized_partitions,
    time_dimension,
)
from dg_sqlmesh_component.definitions.settings import Settings
from dg_sqlmesh_component.history.stored_record import stored_value
from dg_sqlmesh_component.protocol.formatting import counted, listed, utc_text
from dg_sqlmesh_component.protocol.intervals import merged, subtract, without
from dg_sqlmesh_component.protocol.messages import FOREVER, Interval

_MAX_NAMED = 3
"""How many partitions that are not materialized are named."""


_PAGE = 500
"""How many events one query reads."""


@dataclass(frozen=True)
class Source:
    """An external table that is awaited, and the asset that loads it.

    Attributes:
        incomplete: The ranges for which it is not complete, in order. The last one has no end.
        explain: Says why, as a clause after the asset's name. To list missing partitions takes time, and few sources
            make a model wait. Many models may wait for the same one.
    """

    asset: dg.AssetKey
    incomplete: tuple[Interval, ...]
    explain: Callable[[], str] = field(compare=False)

    @cached_property
    def sentence(self) -> str:
        """The asset and why it is not complete, without the full stop."""
        return f"{self.asset.to_user_string()} {self.explain()}"


def awaited_sources(
    instance: dg.DagsterInstance,
    location: HasAssets | None,
    settings: Settings,
    tables: Mapping[str, dg.AssetKey],
) -> dict[str, Source]:
    """Those of the tables that a component waits for, by fqn; none if `external_models.wait` is not set.

    Args:
        location: None in a test that has none.
        tables: The key of each table, by fqn.
    """
    wait = settings.attributes.external_models.wait
    return read_sources(instance, awaited_loaders(location, settings, tables), wait.lag) if wait else {}


@dataclass(frozen=True)
class News:
    """The last materialization of an asset that loads a table, at an instant in epoch milliseconds."""

    asset: dg.AssetKey
    storage_id: int
    at: int


def news_of_sources(instance: dg.DagsterInstance, location: HasAssets | None, settings: Settings) -> dict[str, News]:
    """The last materialization of each awaited table, by fqn, in one query."""
    found = awaited_loaders(location, settings, settings.assets.awaited)
    last = last_materializations(instance, {loader.key for loader in found.values()})
    return {
        fqn: News(loader.key, last[loader.key].storage_id, round(last[loader.key].timestamp * 1000))
        for fqn, loader in found.items()
        if loader.key in last
    }


def awaited_loaders(
    location: HasAssets | None, settings: Settings, tables: Mapping[str, dg.AssetKey]
) -> dict[str, Loader]:
    """The assets that load those of the tables that a component waits for, by fqn.

    Args:
        tables: The key of each table, by fqn.
    """
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


def last_materializations(
    instance: dg.DagsterInstance, keys: Collection[dg.AssetKey]
) -> dict[dg.AssetKey, dg.EventLogRecord]:
    """The last materialization of each asset that has one, in one query."""
    entries = [record.asset_entry for record in instance.get_asset_records(list(keys))] if keys else []
    return {
        entry.asset_key: entry.last_materialization_record
        for entry in entries
        if entry.last_materialization_record is not None
    }


def last_loads(instance: dg.DagsterInstance, key: dg.AssetKey, since: int = 0) -> list[dg.EventLogRecord]:
    """The last materialization of each partition of an asset, if it is newer than one with this storage id."""
    ids = instance.get_latest_storage_id_by_partition(key, dg.DagsterEventType.ASSET_MATERIALIZATION)
    new = sorted(storage_id for storage_id in ids.values() if storage_id > since)
    loads: list[dg.EventLogRecord] = []
    for first in range(0, len(new), _PAGE):
        page = new[first : first + _PAGE]
        only = dg.AssetRecordsFilter(asset_key=key, storage_ids=page)
        loads += instance.fetch_materializations(only, limit=len(page)).records
    return loads


def read_sources(
    instance: dg.DagsterInstance, found: Mapping[str, Loader], lag: timedelta = timedelta(0)
) -> dict[str, Source]:
    """For which ranges tables are not complete, by fqn.

    Args:
        found: The asset that loads each table, by fqn.
        lag: How much earlier than its last run an asset without partitions is complete.
    """
    if not found:
        return {}
    sources = _Sources(instance, lag, list({loader.key: loader for loader in found.values()}.values()))
    by_key = {loader.key: sources.of(loader) for loader in found.values()}
    return {fqn: by_key[loader.key] for fqn, loader in found.items()}


class _Sources:
    """Reads the events of all loaders together."""

    def __init__(self, instance: dg.DagsterInstance, lag: timedelta, found: Sequence[Loader]) -> None:
        self._instance = instance
        self._lag = lag
        self._loaders = found

    def of(self, loader: Loader) -> Source:
        last = self._last.get(loader.key)
        if last is None:
            return _nothing(loader, "was never materialized: materialize it once")
        definition = loader.partitions
        time = time_dimension(definition) if definition else None
        if failed := self._refused(loader, last, is_whole=time is None):
            return _nothing(loader, f"has failed its check {failed}")
        if definition is None:
            return self._up_to(loader, last, "")
        refused = self._refused_partitions(loader)
        if time is None:
            keys = set(definition.get_partition_keys(dynamic_partitions_store=self._instance))
            if still_there := {key: check for key, check in refused.items() if key in keys}:
                return _nothing(loader, _refused_text(still_there))
            return self._other_partitions(loader, keys, self._materialized[loader.key])
        if loader.key in self._materialized:
            others = self._others(definition)
            complete = _complete_keys(definition, others, self._materialized[loader.key])
            early = self._loaded_early(loader, definition) if time.end_offset > 0 else ()
            incomplete = merged([*self._incomplete(time, complete), *early])
            _INCOMPLETE[loader.key] = last, definition, others, incomplete
        incomplete = _INCOMPLETE[loader.key][-1]
        if refused:
            windows = windows_of(definition, list(refused))
            incomplete = merged([*incomplete, *windows.values()])
        return Source(loader.key, incomplete, partial(_incomplete_text, time, incomplete, refused, self._keys))

    def _loaded_early(self, loader: Loader, definition: dg.PartitionsDefinition[str]) -> Iterator[Interval]:
        """The parts of windows that were not over when the run began that has loaded them last (`end_offset`)."""
        loads = last_loads(self._instance, loader.key)
        windows = windows_of(definition, [load.partition_key for load in loads if load.partition_key])
        for load in loads:
            if window := windows.get(load.partition_key or ""):
                began = self._start_of(load.run_id) or round(load.timestamp * 1000)
                if began < window[1]:
                    yield max(began, window[0]), window[1]

    def _up_to(self, loader: Loader, last: dg.EventLogRecord, whose: str) -> Source:
        """Complete up to one instant."""
        stated = _stated(last)
        if stated is not None:
            return _source(loader, stated, f"is complete until {utc_text(stated)}, as its loader says")
        started = self._start_of(last.run_id) or round(last.timestamp * 1000)
        until = started - round(self._lag / timedelta(milliseconds=1))
        lag = f", and its lag is {self._lag}" if self._lag else ""
        return _source(loader, until, f"was loaded last{whose} by a run that began {utc_text(started)}{lag}")

    def _other_partitions(self, loader: Loader, keys: set[str], materialized: Collection[str]) -> Source:
        if not keys:
            return _nothing(loader, "has no partitions")
        if missing := sorted(keys - set(materialized)):
            return _nothing(loader, f"has no materialization of {listed(missing, _MAX_NAMED)}")
        kind = dg.DagsterEventType.ASSET_MATERIALIZATION
        newest = self._instance.get_latest_storage_id_by_partition(loader.key, kind, keys)
        oldest = min(keys, key=newest.__getitem__)
        only = dg.AssetRecordsFilter(asset_key=loader.key, asset_partitions=[oldest])
        [record] = self._instance.fetch_materializations(only, limit=1).records
        return self._up_to(loader, record, f" in partition {oldest}")

    @cached_property
    def _materialized(self) -> Mapping[dg.AssetKey, Set[str]]:
        """The materialized partitions of the assets whose incomplete ranges are not known from before."""
        unknown = [
            loader.key
            for loader in self._loaders
            if loader.partitions is not None
            and (last := self._last.get(loader.key)) is not None
            and _INCOMPLETE.get(loader.key, ())[:3] != (last, loader.partitions, self._others(loader.partitions))
        ]
        return materialized_partitions(self._instance, unknown)

    @cached_property
    def _incomplete(self) -> Callable[[dg.TimeWindowPartitionsDefinition, frozenset[str]], tuple[Interval, ...]]:
        """The ranges without complete partitions. Many assets have the same partitions, and the same are complete."""
        return cache(_incomplete)

    @cached_property
    def _others(self) -> Callable[[dg.PartitionsDefinition[str]], Set[str]]:
        return cache(partial(_keys_of_other_dimension, self._instance))

    @cached_property
    def _keys(self) -> Callable[[dg.TimeWindowPartitionsDefinition], Sequence[str]]:
        """All keys until now. Many assets have the same partitions."""
        return cache(lambda definition: definition.get_partition_keys())

    @cached_property
    def _last(self) -> dict[dg.AssetKey, dg.EventLogRecord]:
        return last_materializations(self._instance, {loader.key for loader in self._loaders})

    @cached_property
    def _started_at(self) -> dict[str, int]:
        """When each run that has materialized a loader's asset began, in epoch milliseconds."""
        ids = sorted({record.run_id for record in self._last.values() if record.run_id})
        runs = self._instance.get_run_records(dg.RunsFilter(run_ids=ids)) if ids else ()
        return {run.dagster_run.run_id: round(run.start_time * 1000) for run in runs if run.start_time}

    def _start_of(self, run_id: str) -> int | None:
        """When a run began; None for an event without a run."""
        if run_id not in self._started_at and (run := self._instance.get_run_record_by_id(run_id)) and run.start_time:
            return round(run.start_time * 1000)
        return self._started_at.get(run_id)

    def _refused(self, loader: Loader, last: dg.EventLogRecord, *, is_whole: bool) -> str | None:
        """The blocking check that has failed on the last materialization; None if none has.

        Args:
            is_whole: Whether it is about the whole asset, and not only about the partition that it has looked at.
        """
        for check in loader.blocking_checks:
            evaluation = _evaluation(self._checks.get(check))
            if evaluation and _has_failed(evaluation):
                target = _materialization_of(evaluation)
                if target is None or (is_whole and target >= last.storage_id):
                    return check.name
        return None

    def _refused_partitions(self, loader: Loader) -> dict[str, str]:
        """The partitions on whose last materialization a blocking check has failed, and the name of the check."""
        failed = {check: self._failed_on(check) for check in loader.blocking_checks}
        if not any(failed.values()):
            return {}
        kind = dg.DagsterEventType.ASSET_MATERIALIZATION
        last = self._instance.get_latest_storage_id_by_partition(loader.key, kind)
        return {
            partition: check.name
            for partition, storage_id in last.items()
            for check, targets in failed.items()
            if storage_id in targets and self._refuses(check, storage_id)
        }

    def _failed_on(self, check: dg.AssetCheckKey) -> set[int | None]:
        """The materializations on which a check has failed, even if it has passed on them since."""
        evaluations = map(_evaluation, check_records(self._instance, check, only_failed=True))
        return {_materialization_of(found) for found in evaluations if found and _has_failed(found)}

    def _refuses(self, check: dg.AssetCheckKey, storage_id: int) -> bool:
        """Whether the last evaluation of a check on a materialization has failed."""
        evaluations = map(_evaluation, check_records(self._instance, check))
        return next(_has_failed(found) for found in evaluations if found and _materialization_of(found) == storage_id)

    @cached_property
    def _checks(self) -> Mapping[dg.AssetCheckKey, CheckRecord]:
        return last_check_records(self._instance, [c for loader in self._loaders for c in loader.blocking_checks])


def _evaluation(record: CheckRecord | None) -> dg.AssetCheckEvaluation | None:
    return record.event.asset_check_evaluation if record and record.event else None


def _has_failed(evaluation: dg.AssetCheckEvaluation) -> bool:
    return not evaluation.passed and evaluation.severity is not dg.AssetCheckSeverity.WARN


def _materialization_of(evaluation: dg.AssetCheckEvaluation) -> int | None:
    """The storage id of the materialization that a check has looked at."""
    target = evaluation.target_materialization_data
    return target.storage_id if target else None


def _source(loader: Loader, until: int, reason: str) -> Source:
    """A source that is complete up to an instant."""
    return Source(loader.key, ((until, FOREVER),), lambda: reason)


def _nothing(loader: Loader, reason: str) -> Source:
    return _source(loader, 0, reason)


def _stated(record: dg.EventLogRecord) -> int | None:
    """The instant that the loader states."""
    materialization = record.asset_materialization
    seconds = stored_value(materialization.metadata, "complete_until") if materialization else None
    return None if seconds is None else round(float(seconds) * 1000)


_INCOMPLETE: dict[
    dg.AssetKey, tuple[dg.EventLogRecord, dg.PartitionsDefinition[str], Set[str], tuple[Interval, ...]]
] = {}
"""For which ranges assets with time windows are not complete, and what this is true for: the last materialization, the
partitions, and the keys of their other dimension.

The process of a code location evaluates many ticks, and most sources have no news. Dagster stores each materialization
as the last one of its asset. So if the last one is the same, no partition was added.
"""


def _keys_of_other_dimension(instance: dg.DagsterInstance, definition: dg.PartitionsDefinition[str]) -> Set[str]:
    """The keys of the dimension that is not time; empty if there is none."""
    if not isinstance(definition, dg.MultiPartitionsDefinition):
        return frozenset()
    return {
        key
        for dimension in definition.partitions_defs
        if dimension.name != definition.time_window_dimension.name
        for key in dimension.partitions_def.get_partition_keys(dynamic_partitions_store=instance)
    }


def _complete_keys(
    definition: dg.PartitionsDefinition[str], others: Set[str], materialized: Iterable[str]
) -> frozenset[str]:
    """The time keys that are materialized together with each key of the other dimension, if there is one."""
    if not isinstance(definition, dg.MultiPartitionsDefinition):
        return frozenset(materialized)
    name = definition.time_window_dimension.name
    found: dict[str, set[str]] = defaultdict(set)
    for key in materialized:
        if (by_dimension := _by_dimension(definition, key)) is None:
            continue
        found[by_dimension[name]] |= {value for other, value in by_dimension.items() if other != name}
    return frozenset(key for key, values in found.items() if values >= others)


def _incomplete(definition: dg.TimeWindowPartitionsDefinition, complete: frozenset[str]) -> tuple[Interval, ...]:
    windows = merged([*_windows(definition, complete).values(), *_excluded(definition)])
    return subtract([(_milliseconds(definition.start), FOREVER)], windows)


def windows_of(definition: dg.PartitionsDefinition[str], keys: Sequence[str]) -> dict[str, Interval]:
    """The time window of each partition of an asset that has time windows.

    Keys of earlier partitions are left out: Dagster keeps the materializations if an asset's partitions change.
    """
    time = time_dimension(definition)
    assert time is not None, "its partitions have time windows"
    times = dict(zip(keys, keys))
    if isinstance(definition, dg.MultiPartitionsDefinition):
        name = definition.time_window_dimension.name
        times = {key: of[name] for key in keys if (of := _by_dimension(definition, key)) is not None}
    windows = _windows(time, times.values())
    return {key: windows[of] for key, of in times.items() if of in windows}


def _by_dimension(definition: dg.MultiPartitionsDefinition, key: str) -> Mapping[str, str] | None:
    """The keys of both dimensions; None for a key of earlier partitions."""
    if key.count("|") != 1:
        return None
    return definition.get_partition_key_from_str(key).keys_by_dimension


def _windows(definition: dg.TimeWindowPartitionsDefinition, keys: Iterable[str]) -> dict[str, Interval]:
    """The windows of partitions in epoch milliseconds, without keys that are none of the definition.

    Dagster finds a window for a key of other partitions too: for a day, the month that begins after it.
    """
    known, found = _known_windows(definition), {}
    for key in keys:
        if key not in known and (window := _window(definition, key)) is not None:
            known[key] = (_milliseconds(window.start), _milliseconds(window.end))
        if key in known:
            found[key] = known[key]
    return found


def _window(definition: dg.TimeWindowPartitionsDefinition, key: str) -> dg.TimeWindow | None:
    try:
        window = definition.time_window_for_partition_key(key)
    except ValueError:
        return None
    # Dagster's own test takes four times as long. It also knows the keys of an hour that the clock shows twice.
    is_start = window.start.strftime(definition.fmt) == key
    return window if is_start or definition.has_partition_key(key) else None


def _excluded(definition: dg.TimeWindowPartitionsDefinition) -> Sequence[Interval]:
    """The ranges between partitions for which the definition has none."""
    if not definition.exclusions:
        return ()
    windows = merged(_windows(definition, definition.get_partition_keys()).values())
    return subtract([(windows[0][0], windows[-1][1])], windows) if windows else ()


@cache
def _known_windows(definition: dg.TimeWindowPartitionsDefinition) -> dict[str, Interval]:  # noqa: ARG001
    """The windows that this process has looked up. Many assets have the same partitions, and each tick asks again."""
    return {}


def _milliseconds(instant: datetime) -> int:
    return round(instant.timestamp() * 1000)


def _refused_text(refused: Mapping[str, str]) -> str:
    checks = listed(sorted(set(refused.values())))
    return f"has failed its check {checks} in partition {listed(sorted(refused), _MAX_NAMED)}"


def _incomplete_text(
    definition: dg.TimeWindowPartitionsDefinition,
    incomplete: Sequence[Interval],
    refused: Mapping[str, str],
    keys_of: Callable[[dg.TimeWindowPartitionsDefinition], Sequence[str]],
) -> str:
    windows = _windows(definition, keys_of(definition))
    loaded = set(without(windows.values(), incomplete, uninterrupted=False))
    dimensions = {part for key in refused for part in key.split("|")}
    missing = [key for key, window in windows.items() if window not in loaded and key not in dimensions]
    texts = [_refused_text(refused)] if refused else []
    if missing:
        named = ", ".join(missing[-_MAX_NAMED:])
        earlier = len(missing) - _MAX_NAMED
        more = f" and {counted(earlier, 'earlier one')}" if earlier > 0 else ""
        texts.append(f"has no materialization of {named}{more}")
    until = max((end for _, end in windows.values()), default=None)
    return ", and ".join(texts) or (f"is complete until {utc_text(until)}" if until else "has no partition yet")
