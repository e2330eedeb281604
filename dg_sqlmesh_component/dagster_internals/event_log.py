"""Loads, results of checks and runs in Dagster's storage.

The public API reads one asset or check per call, and the whole text of each event or run. So SQL storages are queried
directly. For 30 assets with 1,000 partitions, the last loads take 0.5 s of CPU and not 7.6 s; the starts of 500 runs of
300 assets, 0.02 s and not 1.7 s. Other storages, such as that of Dagster+, are asked by the public API.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence, Set
from datetime import datetime, timezone
from functools import cache
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, TypeVar

import dagster as dg
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluationTargetMaterializationData
from dagster._core.storage.asset_check_execution_record import (
    AssetCheckExecutionRecord,
    AssetCheckExecutionRecordStatus,
)

if TYPE_CHECKING:
    from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage


CheckRecord = AssetCheckExecutionRecord
"""One evaluation of a check as Dagster stores it."""

TargetMaterialization = AssetCheckEvaluationTargetMaterializationData
"""The materialization that a check evaluated: an argument of `AssetCheckEvaluation` without a public name."""


_IDS_PER_QUERY = 500
"""How many events or runs one query names."""

_LOADED_ASSETS_PER_QUERY = 20
"""Of so many assets, the last loads are in memory at once. Python's collector of garbage looks at all of them."""


LastLoad = tuple[int, str | None, str, float | None]
"""The last materialization of a partition: its storage id, the partition, its run, and its time in seconds.

The partition is None for one without. Without a run, the run is empty; with one, the time is None.
"""


def last_loads_by_partition(
    instance: dg.DagsterInstance, keys: Collection[dg.AssetKey]
) -> Iterator[tuple[dg.AssetKey, Sequence[LastLoad]]]:
    """The last materialization of each partition of assets, and the last one without a partition, asset by asset.

    An asset without any is left out. The public API reads one asset per call, and the text of each event.
    """
    storage = _sql_event_log(instance)
    if storage is None:
        yield from ((key, list(_last_loads_by_public_api(instance, key))) for key in keys)
        return
    import sqlalchemy
    from dagster._core.storage.event_log.schema import SqlEventLogStorageTable

    table = SqlEventLogStorageTable.c
    by_text = {key.to_string(): key for key in keys}
    reported_at = sqlalchemy.case((table.run_id == "", table.timestamp))  # SQLAlchemy takes long for each instant
    columns = (table.asset_key, table.id, table.partition, table.run_id, reported_at)
    for page in _pages(list(keys), _LOADED_ASSETS_PER_QUERY):
        last = (
            sqlalchemy.select(sqlalchemy.func.max(table.id))
            .where(table.asset_key.in_([key.to_string() for key in page]))
            .where(table.dagster_event_type == dg.DagsterEventType.ASSET_MATERIALIZATION.value)
            .group_by(table.asset_key, table.partition)
        )
        last = storage._add_assets_wipe_filter_to_query(last, storage._get_assets_details(page), page)
        query = sqlalchemy.select(*columns).where(table.id.in_(last)).order_by(table.asset_key)
        with storage.index_connection() as connection:  # Dagster has a lock: no other query runs meanwhile
            rows = connection.execute(query).all()
        for text, of_asset in groupby(rows, itemgetter(0)):
            yield by_text[text], [(id_, key, run or "", at and _seconds(at)) for _, id_, key, run, at in of_asset]


def _last_loads_by_public_api(instance: dg.DagsterInstance, key: dg.AssetKey) -> Iterator[LastLoad]:
    ids = instance.get_latest_storage_id_by_partition(key, dg.DagsterEventType.ASSET_MATERIALIZATION)
    last = instance.fetch_materializations(key, limit=1).records
    without_partition = (load for load in last if load.partition_key is None)
    for load in [*materializations(instance, key, ids.values()), *without_partition]:
        yield load.storage_id, load.partition_key, load.run_id, None if load.run_id else load.timestamp


def materializations(
    instance: dg.DagsterInstance, key: dg.AssetKey, storage_ids: Iterable[int]
) -> list[dg.EventLogRecord]:
    """The materializations of an asset with these storage ids."""
    filters = [dg.AssetRecordsFilter(key, storage_ids=page) for page in _pages(sorted(storage_ids), _IDS_PER_QUERY)]
    return [load for only in filters for load in instance.fetch_materializations(only, limit=_IDS_PER_QUERY).records]


def asset_events_of_run(
    instance: dg.DagsterInstance, run_id: str
) -> Iterator[dg.AssetMaterialization | dg.AssetObservation]:
    """The materializations and observations of a run, in any order, also those of wiped assets.

    The public API reads the events of one asset, without those that were wiped.
    """
    kinds = {dg.DagsterEventType.ASSET_MATERIALIZATION, dg.DagsterEventType.ASSET_OBSERVATION}
    page = instance.get_records_for_run(run_id, of_type=kinds, limit=_IDS_PER_QUERY)
    while True:
        for record in page.records:
            if (event := record.asset_materialization or record.asset_observation) is not None:
                yield event
        if not page.has_more:
            return
        page = instance.get_records_for_run(run_id, page.cursor, kinds, _IDS_PER_QUERY)


def wiped_at(instance: dg.DagsterInstance, keys: Sequence[dg.AssetKey]) -> dict[dg.AssetKey, float]:
    """When assets were wiped last, in seconds, without those that never were.

    The public API has no answer as long as nothing happens to the asset after that.
    """
    storage = _sql_event_log(instance)
    if storage is not None:
        details = dict(zip(keys, storage._get_assets_details(keys), strict=True))
    else:
        entries = [record.asset_entry for record in instance.get_asset_records(keys)] if keys else []
        details = {entry.asset_key: entry.asset_details for entry in entries}
    return {key: of.last_wipe_timestamp for key, of in details.items() if of and of.last_wipe_timestamp}


def _seconds(utc: datetime) -> float:
    """An instant of the database, in seconds."""
    return utc.replace(tzinfo=timezone.utc).timestamp()


def run_starts(instance: dg.DagsterInstance, run_ids: Collection[str]) -> dict[str, float]:
    """When runs began, in seconds, without those that were deleted. The public API reads all of each run."""
    from dagster._core.storage.runs.sql_run_storage import SqlRunStorage

    storage, found = instance.run_storage, dict[str, float]()
    for page in _pages(sorted(run_ids), _IDS_PER_QUERY):
        if not isinstance(storage, SqlRunStorage):
            records = instance.get_run_records(dg.RunsFilter(run_ids=page))
            found |= {of.dagster_run.run_id: of.start_time or of.create_timestamp.timestamp() for of in records}
            continue
        import sqlalchemy
        from dagster._core.storage.runs.schema import RunsTable

        table = RunsTable.c
        query = sqlalchemy.select(table.run_id, table.start_time, table.create_timestamp).where(table.run_id.in_(page))
        with storage.connect() as connection:
            for run_id, start, created in connection.execute(query):
                found[run_id] = start or _seconds(created)
    return found


def _sql_event_log(instance: dg.DagsterInstance) -> SqlEventLogStorage | None:
    """The event log, if it is a database that Dagster queries with SQLAlchemy. That of Dagster+ is none."""
    # Each load of definitions would take 0.4 seconds longer if this module imported SQLAlchemy.
    from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage

    storage = instance.event_log_storage
    return storage if isinstance(storage, SqlEventLogStorage) else None


_Item = TypeVar("_Item")


def _pages(items: Sequence[_Item], size: int) -> Iterator[Sequence[_Item]]:
    return (items[first : first + size] for first in range(0, len(items), size))


# -- checks on record -----------------------------------------------------------------------------

_COMPLETED = {AssetCheckExecutionRecordStatus.SUCCEEDED, AssetCheckExecutionRecordStatus.FAILED}

_PASSED = {AssetCheckExecutionRecordStatus.SUCCEEDED}

_PAGE = 5
"""Evaluations of a check that one query reads.

If runs alternate between two environments, the second evaluation is the wanted one. Reading 50 takes 5.5 ms longer.
"""


def last_check_records(
    instance: dg.DagsterInstance, checks: Collection[dg.AssetCheckKey]
) -> dict[dg.AssetCheckKey, CheckRecord]:
    """The last completed evaluation of each check. The public API reads the last one, which this run may have planned.

    Dagster+ answers for all checks at once. Dagster's SQL storages would query each check twice.
    """
    if (storage := _sql_event_log(instance)) is not None:
        last = {check: storage.get_asset_check_execution_history(check, limit=1, status=_COMPLETED) for check in checks}
        return {check: records[0] for check, records in last.items() if records}
    summaries = instance.event_log_storage.get_asset_check_summary_records(list(checks)) if checks else {}
    return {
        check: summary.last_completed_check_execution_record
        for check, summary in summaries.items()
        if summary.last_completed_check_execution_record is not None
    }


def check_records(
    instance: dg.DagsterInstance,
    check: dg.AssetCheckKey,
    status: Set[AssetCheckExecutionRecordStatus] | None = _COMPLETED,
    page: int = _PAGE,
) -> Iterator[CheckRecord]:
    """The evaluations of a check with these statuses, the last one first; None for all: also those without a result."""
    cursor = None
    while records := instance.event_log_storage.get_asset_check_execution_history(
        check, limit=page, cursor=cursor, status=status
    ):
        yield from records
        cursor = records[-1].id


def not_passed_check_records(instance: dg.DagsterInstance, check: dg.AssetCheckKey) -> Iterator[CheckRecord]:
    """The evaluations of a check that have failed, or were planned and have no result."""
    return check_records(instance, check, set(AssetCheckExecutionRecordStatus) - _PASSED, _IDS_PER_QUERY)


def unevaluated_checks(
    instance: dg.DagsterInstance, checks: Collection[dg.AssetCheckKey], except_run: str
) -> set[dg.AssetCheckKey]:
    """The checks that a run was to evaluate last, apart from one run, and has not evaluated."""
    newest = {
        check: next((r for r in check_records(instance, check, status=None, page=2) if r.run_id != except_run), None)
        for check in checks
    }
    return {check for check, record in newest.items() if record is not None and record.status not in _COMPLETED}


def shown_check_records(
    instance: dg.DagsterInstance, checks: Collection[dg.AssetCheckKey], except_run: str
) -> dict[dg.AssetCheckKey, CheckRecord]:
    """The evaluation that Dagster showed of each check before a run. A skipped check has none.

    Dagster shows a check as skipped if the run that planned it last has ended without evaluating it, and has not failed
    (`AssetCheckExecutionRecord.resolve_status`). Other planned evaluations hide no result.
    """

    @cache
    def skips(run_id: str) -> bool:
        run = instance.get_run_by_id(run_id)
        return run is None or (run.is_finished and not run.is_failure)

    shown = {}
    for check in checks:
        records = (r for r in check_records(instance, check, status=None) if r.run_id != except_run)
        last = next((r for r in records if r.status in _COMPLETED or skips(r.run_id)), None)
        if last is not None and last.status in _COMPLETED:
            shown[check] = last
    return shown
