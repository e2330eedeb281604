"""What Dagster's event log holds of checks from earlier runs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeAlias

import dagster as dg

from dg_sqlmesh_component.dagster_internals import CheckRecord, check_records, last_check_records
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.formatting import instant

NOT_EVALUATED = "sqlmesh/not_evaluated"
"""Metadata of a check's result that says only why there is none."""

Data: TypeAlias = tuple[str, msg.Audited, int]
"""What a result is about: an environment, a version and its audits, and computed up to when, in epoch milliseconds."""

_LOOK_BACK = 50
"""How many results of a check are looked through for the last one in the environment that runs."""


@dataclass(frozen=True)
class EarlierResult:
    """The last known result of a check whose model was not executed now.

    Attributes:
        run_id: The run in which the audit was really evaluated.
        evaluated_at: When that was, in epoch seconds.
        of: The data that was audited; None when that is not on record.
        alone: Whether only audits were evaluated, and the model was not run.
    """

    passed: bool
    severity: dg.AssetCheckSeverity
    run_id: str
    evaluated_at: float
    of: Data | None = None
    alone: bool = False

    @property
    def is_blocking_failure(self) -> bool:
        """Whether it would have stopped what is downstream."""
        return not self.passed and self.severity is dg.AssetCheckSeverity.ERROR

    @property
    def label(self) -> dict[str, dg.MetadataValue]:
        """Metadata by which people, and `CheckHistory`, tell a repeated result from a new one."""
        return {
            "sqlmesh/carried_over": dg.MetadataValue.bool(True),
            "sqlmesh/evaluated_in_run": dg.MetadataValue.text(self.run_id),
            "sqlmesh/evaluated_at": dg.MetadataValue.timestamp(self.evaluated_at),
        }

    @property
    def sentence(self) -> str:
        """Which result it is, for people."""
        verdict = "passed" if self.passed else "failed"
        return f"The check {verdict} in run {self.run_id[:8]} at {instant(round(self.evaluated_at * 1000))}"


class CheckHistory:
    """Results of earlier runs in one environment."""

    def __init__(self, instance: dg.DagsterInstance, environment: str) -> None:
        self._instance = instance
        self._environment = environment

    def last_results(self, checks: Collection[dg.AssetCheckKey]) -> dict[dg.AssetCheckKey, EarlierResult]:
        """The last known result of each check in this environment."""
        found = {}
        for check, record in last_check_records(self._instance, checks).items():
            last = self._last_here(check, record)
            if last is not None:
                found[check] = last
        return found

    def _last_here(self, check: dg.AssetCheckKey, record: CheckRecord) -> EarlierResult | None:
        """The last result in this environment; the newest may be of another one, or no evaluation at all."""
        last = _earlier(record)
        if last is not None and (last.of is None or last.of[0] == self._environment):
            return last
        earlier = map(_earlier, islice(check_records(self._instance, check), _LOOK_BACK))
        return next((one for one in earlier if one and one.of and one.of[0] == self._environment), last)


def last_evaluations(
    instance: dg.DagsterInstance, checks: Collection[dg.AssetCheckKey], why: str
) -> dict[dg.AssetCheckKey, dg.AssetCheckEvaluation]:
    """The last evaluation of each check, to be recorded once more by a run that evaluates none of them.

    None of them stops a step, whatever the check: it has stopped one already.

    Args:
        why: Why they are not evaluated, as a clause behind "because".
    """
    found = {}
    for check, record in last_check_records(instance, checks).items():
        evaluation, earlier = _evaluation(record), _earlier(record)
        if evaluation is not None:
            description = f"{earlier.sentence}. Repeated, because {why}." if earlier else evaluation.description
            found[check] = dg.AssetCheckEvaluation(
                asset_key=check.asset_key,
                check_name=check.name,
                passed=evaluation.passed,
                metadata={**evaluation.metadata, **(earlier.label if earlier else {})},
                target_materialization_data=evaluation.target_materialization_data,
                severity=evaluation.severity,
                description=description,
                blocking=False,
            )
    return found


def _evaluation(record: CheckRecord) -> dg.AssetCheckEvaluation | None:
    return record.event.asset_check_evaluation if record.event else None


def _earlier(record: CheckRecord) -> EarlierResult | None:
    """What a record says of an evaluation; one that was itself repeated keeps the run in which it was evaluated."""
    evaluation = _evaluation(record)
    if record.event is None or evaluation is None or NOT_EVALUATED in evaluation.metadata:
        return None
    metadata = evaluation.metadata
    if "sqlmesh/carried_over" in metadata:
        run_id = str(metadata["sqlmesh/evaluated_in_run"].value)
        evaluated_at = float(metadata["sqlmesh/evaluated_at"].value)  # type: ignore[arg-type]
    else:
        # The record's own time is that of its planning.
        run_id, evaluated_at = record.run_id, record.event.timestamp
    alone = "sqlmesh/evaluated_alone" in metadata
    return EarlierResult(evaluation.passed, evaluation.severity, run_id, evaluated_at, data_in(metadata), alone)


def data_metadata(of: Data | None, alone: bool) -> dict[str, Any]:
    """What was audited; read again by `data_in`."""
    if of is None:
        return {}
    environment, audited, computed_up_to = of
    return {
        "sqlmesh/environment": environment,
        "sqlmesh/snapshot_version": audited.version,
        "sqlmesh/audits_version": audited.audits,
        "sqlmesh/computed_up_to": dg.MetadataValue.timestamp(computed_up_to / 1000),
        **({"sqlmesh/evaluated_alone": True} if alone else {}),
    }


def data_in(metadata: Mapping[str, dg.MetadataValue]) -> Data | None:
    """What was audited, as a check's result has it on record."""
    names = ("environment", "snapshot_version", "audits_version", "computed_up_to")
    environment, version, audits, computed_up_to = (metadata.get(f"sqlmesh/{name}") for name in names)
    if environment is None or version is None or audits is None or computed_up_to is None:
        return None
    of = msg.Audited(str(version.value), str(audits.value))
    return str(environment.value), of, round(float(computed_up_to.value) * 1000)  # type: ignore[arg-type]
