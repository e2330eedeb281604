"""The results of a blocking check that may refuse loads of an asset, from the events that Dagster has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from operator import attrgetter

import dagster as dg

from dg_sqlmesh_component.dagster_internals import (
    CheckRecord,
    CheckStates,
    check_records,
    check_records_of_loads,
    has_failed_last,
    loads_of_runs,
    not_passed_check_records,
)
from dg_sqlmesh_component.history.complete_sources import CheckResult, CheckStatus, Load, Target


def results_about(
    instance: dg.DagsterInstance, check: dg.AssetCheckKey, states: CheckStates | None, loads: Sequence[Load]
) -> list[CheckResult]:
    """The results of a check that may refuse one of the loads, and the newer ones about the same loads.

    A check may have thousands of results that have passed. They are read only for the runs of loads on which it has
    failed, or has no result yet. `states` are those of `check_states`.
    """
    not_passed = [_result(record) for record in not_passed_check_records(instance, check)]
    refusing = {result.about for result in not_passed if result.status is not CheckStatus.WARNED}
    refused = [load for load in loads if load.about in refusing]
    runs = {load.run_id for load in refused if load.run_id}
    targets = {load.storage_id for load in refused} | loads_of_runs(instance, check.asset_key, runs).keys()
    results = [_result(record) for record in check_records_of_loads(instance, check, targets)]
    planned = [found for found in not_passed if found.status is CheckStatus.PLANNED and found.run_id in runs]
    failed = [found for found in not_passed if found.status in (CheckStatus.FAILED, CheckStatus.WARNED)]
    newest = max(failed, key=attrgetter("order"), default=None)
    if newest is not None and newest.status is CheckStatus.FAILED and _is_newest(instance, check, states, newest):
        results += _without_load(instance, check, newest, loads)
    return [*results, *_ended(instance, planned)]


def _result(record: CheckRecord) -> CheckResult:
    entry, evaluation = record.event, None
    if entry is not None and entry.dagster_event_type is dg.DagsterEventType.ASSET_CHECK_EVALUATION:
        evaluation = entry.asset_check_evaluation
    order = round((entry.timestamp if entry else record.create_timestamp) * 1_000_000)
    partitions = None if record.partition is None else frozenset([record.partition])
    if evaluation is None:
        return CheckResult(record.key.name, record.run_id, order, None, partitions, CheckStatus.PLANNED)
    data = evaluation.target_materialization_data
    target = Target(data.storage_id, data.run_id) if data else None
    is_warning = evaluation.severity is dg.AssetCheckSeverity.WARN
    failed = CheckStatus.WARNED if is_warning else CheckStatus.FAILED
    status = CheckStatus.PASSED if evaluation.passed else failed
    return CheckResult(record.key.name, record.run_id, order, target, partitions, status)


def _is_newest(
    instance: dg.DagsterInstance, check: dg.AssetCheckKey, states: CheckStates | None, failed: CheckResult
) -> bool:
    """Whether no result of a check has passed after the newest one that has failed."""
    if states is not None:
        return has_failed_last(states)
    return _result(next(check_records(instance, check))).order <= failed.order


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
    known = {load.storage_id: load.run_id for load in loads}
    known |= loads_of_runs(instance, check.asset_key, (), [failed.target.storage_id])
    if known.get(failed.target.storage_id) != failed.target.run_id:
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
