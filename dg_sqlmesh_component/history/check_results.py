"""Results of checks from earlier runs, as Dagster's event log stores them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice

import dagster as dg

from dg_sqlmesh_component.dagster_internals.event_log import (
    CheckRecord,
    check_records,
    last_check_records,
    shown_check_records,
    unevaluated_checks,
)
from dg_sqlmesh_component.definitions.project_assets import ProjectAssets
from dg_sqlmesh_component.definitions.translator import INTERVALS_CHECK
from dg_sqlmesh_component.history import repetition
from dg_sqlmesh_component.history.earlier_results import NOT_EVALUATED, EarlierResult, data_in, evaluation_of, repeated
from dg_sqlmesh_component.history.records import OutsideData
from dg_sqlmesh_component.history.stored_record import internal_part, stored_value
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.intervals import merged

_MAX_RECORDS = 50
"""How many results of a check are searched for the last one in the environment of the run."""


def last_results(
    instance: dg.DagsterInstance, checks: Collection[dg.AssetCheckKey], environment: str
) -> dict[dg.AssetCheckKey, EarlierResult]:
    """The last known result of each check in an environment."""
    results = {
        check: _last_in(environment, instance, check, record)
        for check, record in last_check_records(instance, checks).items()
    }
    return {check: result for check, result in results.items() if result is not None}


def _last_in(
    environment: str, instance: dg.DagsterInstance, check: dg.AssetCheckKey, record: CheckRecord
) -> EarlierResult | None:
    """The last result in this environment. The newest record may be of another one, or of no evaluation."""

    def is_of_environment(result: EarlierResult | None) -> bool:
        return result is not None and (result.audited_data is None or result.audited_data[0] == environment)

    last = _result_about_data(record)
    if is_of_environment(last):
        return last
    is_rewritten = False
    for earlier in islice(check_records(instance, check), _MAX_RECORDS):
        is_rewritten |= _rewritten_in(earlier) == environment
        result = _result_about_data(earlier)
        if result is not None and is_of_environment(result):
            return replace(result, is_rewritten=is_rewritten)
    return last


def _rewritten_in(record: CheckRecord) -> str | None:
    """The environment in which a run has begun to compute the model, and has failed before the audit."""
    evaluation = _evaluation(record)
    return internal_part(evaluation.metadata, "rewritten_in") if evaluation else None


def last_outdated(
    instance: dg.DagsterInstance, since: Mapping[dg.AssetCheckKey, int]
) -> dict[dg.AssetCheckKey, list[msg.Interval]]:
    """The outdated ranges that the last result of each check of intervals names.

    A result that is older than its instant (`since`, epoch milliseconds) does not count: the model was computed after
    it. The record's own time is when Dagster planned the check.
    """
    found = {}
    for check, record in last_check_records(instance, [*since]).items():
        evaluation = _evaluation(record)
        if evaluation and record.event and record.event.timestamp * 1000 >= since[check]:
            found[check] = [(start, end) for start, end in internal_part(evaluation.metadata, "outdated") or ()]
    return found


def with_named_outdated(
    instance: dg.DagsterInstance,
    assets: ProjectAssets,
    recorded: Mapping[str, msg.RecordedData | None],
    compared: Sequence[msg.ComputedData],
) -> dict[str, msg.RecordedData | None]:
    """The records, also with what the checks of intervals have named as outdated since, if the state may hide it.

    If the janitor has merged ranges, the state does not tell any more which of them were computed too early.
    """
    known = {data.fqn: recorded.get(data.fqn) for data in compared if data.merged_ranges}
    checks = {fqn: assets.intervals_check(fqn) for fqn in known}
    since = {check: record.up_to for fqn, record in known.items() if record and (check := checks[fqn])}
    named = last_outdated(instance, since) if since else {}
    return {
        fqn: replace(record, outdated=merged([*record.outdated, *more]))
        if record and (check := checks.get(fqn)) and (more := named.get(check))
        else record
        for fqn, record in recorded.items()
    }


def results_of_unreached(
    instance: dg.DagsterInstance,
    checks: Collection[dg.AssetCheckKey],
    why: str,
    repeats: Callable[[EarlierResult], bool],
) -> dict[dg.AssetCheckKey, dg.AssetCheckEvaluation]:
    """The last results that are repeated, to be recorded again by a run that fails before it reaches the model.

    None of them is blocking: a failure has already stopped the step in which it was evaluated.
    """
    records = last_check_records(instance, checks)
    return _again(records, why, lambda _, earlier: earlier is not None and repeats(earlier))


def last_evaluations(
    instance: dg.DagsterInstance, checks: Collection[dg.AssetCheckKey], why: str, run_id: str
) -> dict[dg.AssetCheckKey, dg.AssetCheckEvaluation]:
    """The last evaluation of each check, to be recorded again by a run that knows nothing of the data and fails."""
    return _again(last_check_records(instance, checks), why, _repeats_shown(instance, checks, run_id))


def shown_evaluations(
    instance: dg.DagsterInstance, checks: Collection[dg.AssetCheckKey], why: str, run_id: str
) -> dict[dg.AssetCheckKey, dg.AssetCheckEvaluation]:
    """The same for a run that succeeds. A check that Dagster showed as skipped before this run stays skipped."""
    shown = shown_check_records(instance, checks, except_run=run_id)
    return _again(shown, why, _repeats_shown(instance, shown.keys(), run_id))


def _repeats_shown(
    instance: dg.DagsterInstance, checks: Collection[dg.AssetCheckKey], run_id: str
) -> Callable[[dg.AssetCheckKey, EarlierResult | None], bool]:
    hidden = unevaluated_checks(instance, checks, except_run=run_id)
    return lambda check, earlier: repetition.repeats_shown(earlier, is_hidden=check in hidden)


def results_of_same_data(
    instance: dg.DagsterInstance, assets: ProjectAssets, data: OutsideData
) -> Iterator[dg.AssetCheckEvaluation]:
    """The results that Dagster shows with the last materialization of a model, if its data is promoted once more.

    Dagster would not show them with the next materialization.
    """
    # It has new rows, about which the results say nothing.
    if data.intervals:
        return
    checks = [check for check in assets.checks_of(data.fqn) if check.name != INTERVALS_CHECK]
    last = instance.fetch_materializations(assets.key(data.fqn), limit=1).records[0]
    for check, record in last_check_records(instance, checks).items():
        evaluation, earlier = _evaluation(record), _earlier_result(record)
        target = evaluation.target_materialization_data if evaluation else None
        # Without a target, Dagster shows a result with a materialization of the same run.
        is_shown = target.storage_id == last.storage_id if target else record.run_id == last.run_id != ""
        if evaluation and earlier and repetition.repeats_with_promoted(earlier, is_shown=is_shown):
            why = "a plan has promoted the same data again"
            yield evaluation_of(repeated(check, earlier, why, evaluation.metadata))


def _again(
    records: Mapping[dg.AssetCheckKey, CheckRecord],
    why: str,
    repeats: Callable[[dg.AssetCheckKey, EarlierResult | None], bool],
) -> dict[dg.AssetCheckKey, dg.AssetCheckEvaluation]:
    evaluations = {}
    for check, record in records.items():
        evaluation, earlier = _evaluation(record), _earlier_result(record)
        if evaluation is not None and repeats(check, earlier):
            # The target stays: Dagster shows a result with the materialization that it is about.
            target = evaluation.target_materialization_data
            again = repeated(check, earlier, why, evaluation.metadata) if earlier else None
            evaluations[check] = evaluation_of(again, target) if again else evaluation
    return evaluations


def _evaluation(record: CheckRecord) -> dg.AssetCheckEvaluation | None:
    return record.event.asset_check_evaluation if record.event else None


def _result_about_data(record: CheckRecord) -> EarlierResult | None:
    result = _earlier_result(record)
    return result if result is not None and result.is_about_data else None


def _earlier_result(record: CheckRecord) -> EarlierResult | None:
    """The result in a record. A repeated result keeps the run in which the audit was evaluated."""
    evaluation = _evaluation(record)
    if record.event is None or evaluation is None or NOT_EVALUATED in evaluation.metadata:
        return None
    metadata = evaluation.metadata
    if "sqlmesh/carried_over" in metadata:
        run_id = str(stored_value(metadata, "evaluated_in_run"))
        evaluated_at = float(stored_value(metadata, "evaluated_at"))
    else:
        # The record's own time is when Dagster planned the check.
        run_id, evaluated_at = record.run_id, record.event.timestamp
    text = str(stored_value(metadata, "evaluated_result") or evaluation.description or "")
    return EarlierResult(
        evaluation.passed, evaluation.severity, run_id, evaluated_at, data_in(metadata), metadata, text
    )
