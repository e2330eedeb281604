"""Results of checks from earlier runs, as Dagster's event log stores them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeAlias

import dagster as dg

from dg_sqlmesh_component.dagster_internals import CheckRecord, check_records, last_check_records
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.formatting import utc_text

NOT_EVALUATED = "sqlmesh/not_evaluated"
"""Metadata of a check result that only says why the audit was not evaluated."""

Data: TypeAlias = tuple[str, msg.AuditedData, int]
"""The data that a result describes: environment, version of data and audits, everything computed until then (ms)."""

_AUDITED_DATA = "sqlmesh/audited_data"

_MAX_RECORDS = 50
"""How many results of a check are searched for the last one in the environment of the run."""


@dataclass(frozen=True)
class EarlierResult:
    """The last known result of a check whose model was not executed in this run.

    Attributes:
        run_id: The run in which the audit was evaluated.
        evaluated_at: When it was evaluated, in epoch seconds.
        audited_data: The data that was audited; None if it is not stored.
    """

    passed: bool
    severity: dg.AssetCheckSeverity
    run_id: str
    evaluated_at: float
    audited_data: Data | None = None

    @property
    def is_blocking_failure(self) -> bool:
        """Whether the result stops downstream models."""
        return not self.passed and self.severity is dg.AssetCheckSeverity.ERROR

    @property
    def label(self) -> dict[str, dg.MetadataValue]:
        """Metadata that marks a result as repeated."""
        return {
            "sqlmesh/carried_over": dg.MetadataValue.bool(True),
            "sqlmesh/evaluated_in_run": dg.MetadataValue.text(self.run_id),
            "sqlmesh/evaluated_at": dg.MetadataValue.timestamp(self.evaluated_at),
        }

    @property
    def sentence(self) -> str:
        """The result, its run and its time, without a full stop."""
        verdict = "passed" if self.passed else "failed"
        return f"The check {verdict} in run {self.run_id[:8]} at {utc_text(round(self.evaluated_at * 1000))}"


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
    last = _earlier_result(record)
    if last is not None and (last.audited_data is None or last.audited_data[0] == environment):
        return last
    results = map(_earlier_result, islice(check_records(instance, check), _MAX_RECORDS))
    return next(
        (result for result in results if result and result.audited_data and result.audited_data[0] == environment), last
    )


def last_evaluations(
    instance: dg.DagsterInstance, checks: Collection[dg.AssetCheckKey], why: str
) -> dict[dg.AssetCheckKey, dg.AssetCheckEvaluation]:
    """The last evaluation of each check, to be recorded again by a run that evaluates none of them.

    None of them is blocking: a failure has already stopped the step in which it was evaluated.

    Args:
        why: Why the run evaluates none, as a clause after "because".
    """
    repeated = {}
    for check, record in last_check_records(instance, checks).items():
        evaluation, earlier = _evaluation(record), _earlier_result(record)
        if evaluation is not None:
            description = f"{earlier.sentence}. Repeated, because {why}." if earlier else evaluation.description
            repeated[check] = dg.AssetCheckEvaluation(
                asset_key=check.asset_key,
                check_name=check.name,
                passed=evaluation.passed,
                metadata={**evaluation.metadata, **(earlier.label if earlier else {})},
                target_materialization_data=evaluation.target_materialization_data,
                severity=evaluation.severity,
                description=description,
                blocking=False,
            )
    return repeated


def _evaluation(record: CheckRecord) -> dg.AssetCheckEvaluation | None:
    return record.event.asset_check_evaluation if record.event else None


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
    return EarlierResult(evaluation.passed, evaluation.severity, run_id, evaluated_at, data_in(metadata))


def data_metadata(data: Data | None) -> dict[str, Any]:
    """The audited data as one entry for later runs; `data_in` reads it."""
    if data is None:
        return {}
    environment, audited, up_to = data
    entry = {"environment": environment, "version": audited.version, "audits": audited.audits, "up_to": up_to}
    return {"sqlmesh/record": dg.MetadataValue.json(entry)}


def data_in(metadata: Mapping[str, dg.MetadataValue]) -> Data | None:
    """The audited data in a check result's metadata; None if there is none."""
    entry = stored_value(metadata, "record")
    if entry is None:
        return None
    return entry["environment"], msg.AuditedData(entry["version"], entry["audits"]), entry["up_to"]


def stored_value(metadata: Mapping[str, dg.MetadataValue], name: str) -> Any:
    """The value of `sqlmesh/<name>` in stored metadata; None if there is none."""
    value = metadata.get(f"sqlmesh/{name}")
    return None if value is None else value.value
