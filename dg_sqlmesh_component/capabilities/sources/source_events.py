"""What Dagster knows of the assets that load external tables: their loads, and the results of their blocking checks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import cache, cached_property
from itertools import chain
from operator import attrgetter

import dagster as dg

from dg_sqlmesh_component.capabilities.sources.complete_sources import (
    CheckResult,
    CheckStatus,
    Load,
    SourceHistory,
    Target,
)
from dg_sqlmesh_component.dagster_internals.assets import Loader, time_dimension
from dg_sqlmesh_component.dagster_internals.event_log import (
    CheckRecord,
    LastLoad,
    check_records,
    last_loads_by_partition,
    materializations,
    not_passed_check_records,
    run_starts,
)

_PAGE = 500
"""How many events one query reads."""

_EMPTY = "null"
"""What stands for a value of `sqlmesh/complete_until` that is stated, and empty."""


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
    return materializations(instance, key, (storage_id for storage_id in ids.values() if storage_id > since))


@dataclass(frozen=True)
class SourceReader:
    """Reads the events of all loaders together: few queries for many assets."""

    instance: dg.DagsterInstance
    lag: timedelta
    now: int
    last: Mapping[dg.AssetKey, dg.EventLogRecord]  # the last materialization of each asset that has one
    _starts: dict[str, int] = field(default_factory=dict)

    def histories(self, loaders: Sequence[Loader]) -> Iterator[tuple[dg.AssetKey, SourceHistory]]:
        """The history of each loader, in any order."""
        by_key = {loader.key: loader for loader in loaders}
        partitioned = [of.key for of in loaders if of.partitions is not None and of.key in self.last]
        whole = [of.key for of in loaders if of.partitions is None and of.key in self.last]
        rows_of_whole = [(key, [_row_of(self.last[key])]) for key in whole]
        self._read_starts({run_id for _, [(_, _, run_id, _)] in rows_of_whole})
        for key, rows in chain(rows_of_whole, last_loads_by_partition(self.instance, partitioned)):
            self._read_starts({run_id for _, _, run_id, _ in rows})
            yield key, self._history(by_key.pop(key), self._loads(rows))
        for key, loader in by_key.items():
            yield key, self._history(loader, ())

    def _history(self, loader: Loader, loads: Sequence[Load]) -> SourceHistory:
        if loader.partitions is None or time_dimension(loader.partitions) is None:
            loads = self._with_statements(loader, loads)
        dynamic = self._dynamic_keys(loader.partitions)
        results = [found for check in loader.blocking_checks for found in results_about(self.instance, check, loads)]
        return SourceHistory(loader.partitions, loader.is_known, loads, results, dynamic, self.lag, self.now)

    def _loads(self, rows: Iterable[LastLoad]) -> list[Load]:
        starts = self._starts
        return [
            Load(storage_id, partition, starts.get(run_id) if at is None else round(at * 1000), run_id)
            for storage_id, partition, run_id, at in rows
        ]

    def _read_starts(self, run_ids: set[str]) -> None:
        """Read when runs began, in epoch milliseconds. Many assets may be loaded by the same runs."""
        unknown = run_ids - self._starts.keys() - {""}
        self._starts.update((run_id, round(at * 1000)) for run_id, at in run_starts(self.instance, unknown).items())

    def _with_statements(self, loader: Loader, loads: Sequence[Load]) -> list[Load]:
        """The loads with the instants that the loader states."""
        last = self.last.get(loader.key)
        others = [load.storage_id for load in loads if last is None or load.storage_id != last.storage_id]
        records = [*([last] if last else []), *materializations(self.instance, loader.key, others)]
        stated = {record.storage_id: _stated(record) for record in records}
        return [load._replace(complete_until=stated.get(load.storage_id)) for load in loads]

    def _dynamic_keys(self, definition: dg.PartitionsDefinition[str] | None) -> dict[str, frozenset[str]]:
        """The keys of each dynamic dimension of an asset's partitions, by its name."""
        dimensions = [definition]
        if isinstance(definition, dg.MultiPartitionsDefinition):
            dimensions = [each.partitions_def for each in definition.partitions_defs]
        names = [each.name for each in dimensions if isinstance(each, dg.DynamicPartitionsDefinition) and each.name]
        return {name: self._keys_of(name) for name in names}

    @cached_property
    def _keys_of(self) -> Callable[[str], frozenset[str]]:
        """Many assets may have the same dynamic partitions."""
        return cache(lambda name: frozenset(self.instance.get_dynamic_partitions(name)))


def _row_of(record: dg.EventLogRecord) -> LastLoad:
    return record.storage_id, record.partition_key, record.run_id, None if record.run_id else record.timestamp


def _stated(record: dg.EventLogRecord) -> object | None:
    """The instant that the loader states, as it is."""
    materialization = record.asset_materialization
    value = materialization.metadata.get("sqlmesh/complete_until") if materialization else None
    return None if value is None else _EMPTY if value.value is None else value.value


# -- results of blocking checks -------------------------------------------------------------------


def results_about(instance: dg.DagsterInstance, check: dg.AssetCheckKey, loads: Sequence[Load]) -> list[CheckResult]:
    """The results of a check that may refuse one of the loads, and the newer ones about the same loads.

    A check may have thousands of results that have passed. They are read only if it has failed on one of the loads, or
    has no result yet.
    """
    not_passed = [_result(record) for record in not_passed_check_records(instance, check)]
    if not not_passed:
        return []
    refusing = {result.about for result in not_passed if result.status is not CheckStatus.WARNED}
    refused = {load.about for load in loads if load.about in refusing}
    evaluated = map(_result, check_records(instance, check, page=_PAGE)) if refused else ()
    results = [result for result in evaluated if result.about in refused]
    planned = [found for found in not_passed if found.status is CheckStatus.PLANNED and found.run_id in refused]
    failed = [found for found in not_passed if found.status in (CheckStatus.FAILED, CheckStatus.WARNED)]
    newest = max(failed, key=attrgetter("order"), default=None)
    if newest is not None and newest.status is CheckStatus.FAILED:
        last = _result(next(check_records(instance, check)))
        if last.order <= newest.order:  # none has passed after it
            results += _without_load(instance, check, newest, loads)
    return [*results, *_ended(instance, planned)]


def _result(record: CheckRecord) -> CheckResult:
    entry, evaluation = record.event, None
    if entry is not None and entry.dagster_event_type is dg.DagsterEventType.ASSET_CHECK_EVALUATION:
        evaluation = entry.asset_check_evaluation
    order = round((entry.timestamp if entry else record.create_timestamp) * 1_000_000)
    partition = getattr(record, "partition", None)  # older versions of Dagster have no checks of partitions
    partitions = None if partition is None else frozenset([partition])
    if evaluation is None:
        return CheckResult(record.key.name, record.run_id, order, None, partitions, CheckStatus.PLANNED)
    data = evaluation.target_materialization_data
    target = Target(data.storage_id, data.run_id) if data else None
    is_warning = evaluation.severity is dg.AssetCheckSeverity.WARN
    failed = CheckStatus.WARNED if is_warning else CheckStatus.FAILED
    status = CheckStatus.PASSED if evaluation.passed else failed
    return CheckResult(record.key.name, record.run_id, order, target, partitions, status)


def _without_load(
    instance: dg.DagsterInstance, check: dg.AssetCheckKey, failed: CheckResult, loads: Iterable[Load]
) -> Iterator[CheckResult]:
    """The newest result of a check, if it has failed on no load, or on one that Dagster has deleted with its run.

    Without the deleted load, the one before it is the last one of its partition again. Nothing says which partition
    that was, so all older loads are refused.
    """
    if failed.target is None:
        yield failed
        return
    records = materializations(instance, check.asset_key, [failed.target.storage_id])
    if [record.run_id for record in records] != [failed.target.run_id]:
        for load in loads:
            if load.storage_id < failed.target.storage_id:
                yield replace(failed, target=Target(load.storage_id, load.run_id))


def _ended(instance: dg.DagsterInstance, planned: Iterable[CheckResult]) -> list[CheckResult]:
    """The planned results. Those of a run that has ended, or was deleted, were not evaluated."""
    planned = list(planned)
    ids = sorted({result.run_id for result in planned})
    runs = instance.get_runs(dg.RunsFilter(run_ids=ids)) if ids else ()
    unfinished = {run.run_id for run in runs if not run.is_finished}
    return [
        result if result.run_id in unfinished else replace(result, status=CheckStatus.UNEVALUATED) for result in planned
    ]
