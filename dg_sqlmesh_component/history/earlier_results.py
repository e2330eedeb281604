"""Results of checks from earlier runs, and the metadata in which a result stores its data for later runs. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import dagster as dg

from dg_sqlmesh_component.history.stored_record import StoredRecord, internal, internal_part, stored_record
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.formatting import utc_text
from dg_sqlmesh_component.protocol.intervals import merged

NOT_EVALUATED = "sqlmesh/not_evaluated"
"""Metadata of a check result that only says why the audit was not evaluated. It is never repeated."""

ABOUT_NO_DATA = internal(about_no_data=True)
"""Metadata of a status that only says why the model was not run or audited. The status before it may still apply."""

Data: TypeAlias = tuple[str, msg.AuditedData, int]
"""The data that a result describes: environment, version of data and audits, everything computed until then (ms)."""


@dataclass(frozen=True)
class FailedIntervals:
    """Where rows have failed an audit of an incremental model, and when that was found."""

    intervals: tuple[msg.Interval, ...]
    rows: int  # 0 if only some of the intervals have been computed again
    table: str | None  # its version; None if it is not known
    at: int = 0  # epoch milliseconds; 0 if it is found now

    def with_earlier(self, earlier: FailedIntervals | None) -> FailedIntervals:
        """Both together, for later runs."""
        if earlier is None:
            return self
        rows = self.rows + earlier.rows if earlier.rows else 0
        return FailedIntervals(merged([*earlier.intervals, *self.intervals]), rows, self.table, self.at)

    @property
    def stored(self) -> list[Any]:
        """It stays with the results of the check until the intervals are computed again."""
        return [[list(interval) for interval in self.intervals], self.rows, self.table, self.at]


@dataclass(frozen=True)
class EarlierResult:
    """The last known result of a check whose model was not executed in this run."""

    passed: bool
    severity: dg.AssetCheckSeverity
    run_id: str  # the run in which the audit was evaluated
    evaluated_at: float  # when it was evaluated, in epoch seconds
    audited_data: Data | None = None  # the data that was audited; None if it is not stored
    metadata: Mapping[str, Any] = field(default_factory=dict, compare=False)  # the metadata with which it was reported
    text: str = ""  # the description with which it was reported
    is_rewritten: bool = False  # whether a run has begun to compute the model since, and failed before the audit

    @property
    def failed_in(self) -> FailedIntervals | None:
        """Where rows have failed; None if it is not known."""
        value = internal_part(self.metadata, "failed_in")
        if value is None or len(value) != 4:  # of a development version
            return None
        intervals, rows, table, at = value
        found_at = at or round(self.evaluated_at * 1000)
        return FailedIntervals(tuple((start, end) for start, end in intervals), rows, table, found_at)

    @property
    def is_about_data(self) -> bool:
        """Whether it is about the data. If not, a plan that computes nothing may make it untrue."""
        return not internal_part(self.metadata, "about_no_data")

    @property
    def table(self) -> str | None:
        """The version of the table that was audited; None if it is not known."""
        return self.audited_data[1].version if self.audited_data else None

    @property
    def is_blocking_failure(self) -> bool:
        """Whether the result stops downstream models."""
        return not self.passed and self.severity is dg.AssetCheckSeverity.ERROR

    @property
    def label(self) -> dict[str, dg.MetadataValue]:
        """Metadata that marks a result as repeated."""
        return {
            "sqlmesh/carried_over": dg.MetadataValue.bool(True),
            "sqlmesh/evaluated_in_run": dg.MetadataValue.dagster_run(self.run_id),
            "sqlmesh/evaluated_at": dg.MetadataValue.timestamp(self.evaluated_at),
            "sqlmesh/evaluated_result": dg.MetadataValue.text(self.sentence),
        }

    @property
    def sentence(self) -> str:
        """The description, or at least whether the check passed."""
        return self.text or f"The check {'passed' if self.passed else 'failed'}."


def data_metadata(data: Data | None, failed_in: FailedIntervals | None = None) -> dict[str, Any]:
    """The audited data as a record for later runs, and where rows have failed; `data_in` reads it."""
    parts: dict[str, Any] = {} if failed_in is None else {"failed_in": failed_in.stored}
    if data is not None:
        environment, audited, up_to = data
        parts["record"] = StoredRecord(environment, audited.version, up_to, (audited.audits,)).line
    return internal(**parts) if parts else {}


def data_in(metadata: Mapping[str, dg.MetadataValue]) -> Data | None:
    """The audited data in a check result's metadata; None if there is none."""
    stored = stored_record(metadata)
    if stored is None or len(stored.hashes) != 1:
        return None
    return stored.environment, msg.AuditedData(stored.version, *stored.hashes), stored.up_to


def check_result(
    check: dg.AssetCheckKey, passed: bool, severity: dg.AssetCheckSeverity, text: str, metadata: Mapping[str, Any]
) -> dg.AssetCheckResult:
    """The result of a check of this package, which always names it."""
    key, name = check.asset_key, check.name
    return dg.AssetCheckResult(
        passed=passed, asset_key=key, check_name=name, metadata=metadata, severity=severity, description=text
    )


def repeated(
    check: dg.AssetCheckKey, earlier: EarlierResult, why: str, metadata: Mapping[str, Any]
) -> dg.AssetCheckResult:
    """An earlier result once more, labelled with its run and time, and with why the check was not evaluated."""
    is_command = earlier.sentence.rpartition("\n")[2].startswith("    ")  # which stands alone, to be copied
    evaluated = f"Evaluated {utc_text(round(earlier.evaluated_at * 1000))}. Repeated, because {why}."
    text = earlier.sentence + ("\n\n" if is_command else " ") + evaluated
    return check_result(check, earlier.passed, earlier.severity, text, {**metadata, **earlier.label})


def not_evaluated(check: dg.AssetCheckKey, reason: str, rewritten_in: str | None = None) -> dg.AssetCheckResult:
    """A warning instead of a result. The reason follows "Not evaluated:" in the description.

    Args:
        rewritten_in: The environment whose rows may be others than in earlier results. None: they are not.
    """
    metadata = {NOT_EVALUATED: True, **(internal(rewritten_in=rewritten_in) if rewritten_in else {})}
    return check_result(check, False, dg.AssetCheckSeverity.WARN, f"Not evaluated: {reason}", metadata)


def evaluation_of(
    result: dg.AssetCheckResult, target: Any = None, *, blocking: bool = False
) -> dg.AssetCheckEvaluation:
    """The result as an event about a materialization. `blocking`: whether a failure stops steps downstream."""
    check = key_of(result)
    return dg.AssetCheckEvaluation(
        asset_key=check.asset_key,
        check_name=check.name,
        passed=result.passed,
        metadata=result.metadata,
        target_materialization_data=target,
        severity=result.severity,
        description=result.description,
        blocking=blocking,
    )


def key_of(result: dg.AssetCheckResult) -> dg.AssetCheckKey:
    """The check of a result of this package, which always names it."""
    assert result.asset_key is not None, result
    assert result.check_name is not None, result
    return dg.AssetCheckKey(result.asset_key, result.check_name)
