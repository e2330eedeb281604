"""An outcome as Dagster results. Pure: no context, no instance, nothing is yielded here."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import dagster as dg

from dg_sqlmesh_component.definitions.project_assets import ProjectAssets
from dg_sqlmesh_component.definitions.translator import INTERVALS_CHECK, STATUS_CHECK
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.formatting import utc_text
from dg_sqlmesh_component.report.coverage import intervals_result
from dg_sqlmesh_component.report.earlier_results import NOT_EVALUATED, Data, EarlierResult, data_metadata
from dg_sqlmesh_component.report.metadata import (
    audit_metadata,
    outcome_metadata,
    status_metadata,
)
from dg_sqlmesh_component.report.outcomes import AuditOnlyOutcome, AuditResult, NodeOutcome, Outcome
from dg_sqlmesh_component.report.records import record_metadata
from dg_sqlmesh_component.report.wording import Wording


@dataclass(frozen=True)
class Reporter:
    """Turns the outcomes of one step into Dagster results.

    Attributes:
        selected_checks: Checks of this step; no others are reported.
        environment: The environment of the run.
        execution_time: The instant of the run, epoch milliseconds.
        allows_restatement: Whether `restate` in the run config is allowed.
    """

    assets: ProjectAssets
    selected_checks: Set[dg.AssetCheckKey]
    environment: str
    execution_time: int
    allows_restatement: bool = True

    @cached_property
    def wording(self) -> Wording:
        return Wording(self.assets, self.environment)

    # -- models -----------------------------------------------------------------------------------

    def materialization(
        self, outcome: NodeOutcome, recorded: msg.RecordedData | None = None
    ) -> dg.MaterializeResult[None]:
        """An executed model, with a result for each of its selected checks."""
        assert outcome.outcome is Outcome.EXECUTED
        version = outcome.promoted.version if outcome.promoted else "unknown"
        return dg.MaterializeResult(
            asset_key=self.assets.key(outcome.fqn),
            metadata={**outcome_metadata(self.wording, outcome), **record_metadata(self.environment, recorded)},
            data_version=dg.DataVersion(f"{version}@{utc_text(self.execution_time)}"),
            # Dagster would record the local file's version, but the promoted version was executed.
            tags={"dagster/code_version": outcome.promoted.data_hash} if outcome.promoted else None,
            check_results=[
                *self.status_check(outcome),
                *self.intervals_check(outcome),
                *self.audit_checks(outcome.fqn, outcome.audits, outcome.computed_until),
                *self.audits_not_promoted(outcome),
            ],
        )

    def observation(self, outcome: NodeOutcome, recorded: msg.RecordedData | None = None) -> dg.AssetObservation:
        """A model that was not executed, or not in the declared environment, and why. Never a materialization."""
        description = self.wording.sentence(outcome)
        model = self.assets.models.get(outcome.fqn)
        if outcome.outcome is Outcome.UP_TO_DATE and model is not None and model.kind != "SEED":
            allow = "" if self.allows_restatement else "`execution.allow_restate: true` in defs.yaml, and then "
            description += f" To compute a range again, set {allow}`restate` in the run config."
        return dg.AssetObservation(
            asset_key=self.assets.key(outcome.fqn),
            description=description,
            metadata={**outcome_metadata(self.wording, outcome), **record_metadata(self.environment, recorded)},
        )

    def status_check(self, outcome: NodeOutcome) -> list[dg.AssetCheckResult]:
        """The status check of a model, if it is selected."""
        # A model that was cancelled has not failed.
        is_cancelled = outcome.outcome is Outcome.INTERRUPTED and self.wording.running is not None
        unrestated = self.wording.unrestated(outcome.fqn, outcome.unrestated)
        return self._status_check(
            outcome.fqn,
            passed=outcome.outcome in (Outcome.EXECUTED, Outcome.UP_TO_DATE) and not unrestated,
            is_warning=(outcome.outcome is Outcome.WAITING or is_cancelled) and not unrestated,
            # The metadata contains the error, and the step logs it. Dagster logs this text again, in quotes.
            description=" ".join([self.wording.summary(outcome), *unrestated]),
            metadata=status_metadata(self.wording, outcome),
        )

    def _status_check(
        self, fqn: str, *, passed: bool, is_warning: bool, description: str, metadata: Mapping[str, Any] | None = None
    ) -> list[dg.AssetCheckResult]:
        key = self._selected_check(fqn, STATUS_CHECK)
        if key is None:
            return []
        return [
            dg.AssetCheckResult(
                asset_key=key.asset_key,
                check_name=key.name,
                passed=passed,
                severity=dg.AssetCheckSeverity.WARN if is_warning else dg.AssetCheckSeverity.ERROR,
                description=description,
                metadata=metadata,
            )
        ]

    def intervals_check(self, outcome: NodeOutcome | AuditOnlyOutcome) -> list[dg.AssetCheckResult]:
        """The intervals check of a model, if it is selected. Without a coverage, a failed model has no result."""
        key, coverage = self._selected_check(outcome.fqn, INTERVALS_CHECK), outcome.coverage
        if key is None:
            return []
        if coverage is None:
            is_failure = outcome.outcome.is_failure if isinstance(outcome, NodeOutcome) else outcome.error is not None
            return [] if is_failure else [not_evaluated(key, self.wording.why_no_coverage(outcome.fqn))]
        reason = None
        if isinstance(outcome, NodeOutcome) and outcome.outcome is Outcome.WAITING:
            reason = self.wording.sentence(outcome)
        return [intervals_result(key, self.wording, coverage, self.execution_time, reason)]

    def _selected_check(self, fqn: str, name: str) -> dg.AssetCheckKey | None:
        """The check of this name on a model's asset, if it is selected."""
        key = dg.AssetCheckKey(self.assets.key(fqn), name) if fqn in self.assets.specs else None
        return key if key in self.selected_checks else None

    # -- audits -----------------------------------------------------------------------------------

    def audit_checks(self, node: str, audits: Sequence[AuditResult], up_to: int | None) -> list[dg.AssetCheckResult]:
        """The selected checks of audits that SQLMesh evaluated in this run.

        Args:
            up_to: The results are about everything that was computed until then.
        """
        return [
            dg.AssetCheckResult(
                asset_key=key.asset_key,
                check_name=key.name,
                passed=audit.passed,
                severity=self.assets.severity(node, audit.blocking),
                description=self.wording.audit_result(audit),
                metadata={**audit_metadata(audit), **data_metadata(self._data_of(audit, up_to))},
            )
            for key, audit in self.assets.checks_of_results(node, audits).items()
            if key in self.selected_checks and audit.error is None
        ]

    def _data_of(self, audit: AuditResult, up_to: int | None) -> Data | None:
        if audit.audited_data is None or up_to is None:
            return None
        return (self.environment, audit.audited_data, up_to)

    def audited(self, outcome: AuditOnlyOutcome) -> list[dg.AssetCheckResult]:
        """The checks of a node whose audits were evaluated without running it."""
        unrestated = self.wording.unrestated(outcome.fqn, outcome.unrestated)
        return [
            *self.audit_checks(outcome.fqn, outcome.audits, outcome.evaluated_at),
            *(self.audits_not_promoted(outcome) if outcome.error is None else ()),
            *self._status_check(
                outcome.fqn,
                passed=not (outcome.missing or outcome.error or unrestated),
                is_warning=outcome.error is None and not unrestated,
                description=" ".join([self.wording.audit_only_sentence(outcome), *unrestated]),
            ),
            *self.intervals_check(outcome),
        ]

    def audits_not_promoted(self, outcome: NodeOutcome | AuditOnlyOutcome) -> list[dg.AssetCheckResult]:
        """Checks of audits that the promoted version of a model does not have, because local files are ahead."""
        reason = (
            f"the version of {self.assets.name(outcome.fqn)} that environment {self.environment} has promoted does not "
            "have this audit. Apply a plan to promote the local change."
        )
        return self._not_evaluated(outcome.fqn, reason, self.assets.checks_of_results(outcome.fqn, outcome.audits))

    def not_evaluated(self, outcome: NodeOutcome, reported: Set[dg.AssetCheckKey]) -> list[dg.AssetCheckResult]:
        """Checks of a node that have no result. If a run fails, Dagster shows such checks as failed.

        Args:
            reported: The checks that have a result.
        """
        reason, intervals = self.wording.why_not_evaluated(outcome), self._selected_check(outcome.fqn, INTERVALS_CHECK)
        checks = self._not_evaluated(outcome.fqn, reason, reported)
        return checks if intervals is None or intervals in reported else [*checks, not_evaluated(intervals, reason)]

    def _not_evaluated(
        self, node: str, reason: str, reported: Collection[dg.AssetCheckKey]
    ) -> list[dg.AssetCheckResult]:
        return [
            not_evaluated(key, reason)
            for key in self.assets.audit_checks.get(node, ())
            if key in self.selected_checks and key not in reported
        ]

    # -- results of earlier runs ------------------------------------------------------------------

    def still_applies(self, outcome: NodeOutcome, result: EarlierResult) -> bool:
        """Whether an earlier result describes the current data of a node that was not run."""
        if result.audited_data is None or outcome.last_interval_end is None:
            return False
        environment, audited, up_to = result.audited_data
        is_same = (environment, audited) == (self.environment, outcome.audited_data)
        # A restatement alters the data; for a view, so does a new computation of its upstream models.
        return is_same and (outcome.altered_at or 0) <= up_to

    def carried_over(
        self, outcome: NodeOutcome, results: Mapping[dg.AssetCheckKey, EarlierResult]
    ) -> list[dg.AssetCheckResult]:
        """The last known results of a node that was not executed, if they still apply. Their metadata marks them."""
        return [
            dg.AssetCheckResult(
                asset_key=key.asset_key,
                check_name=key.name,
                passed=result.passed,
                severity=result.severity,
                description=f"{result.sentence}. Repeated, because {self.assets.name(outcome.fqn)} was not executed.",
                metadata={**data_metadata(result.audited_data), **result.label},
            )
            for key, result in results.items()
            if self.still_applies(outcome, result)
        ]

    def not_repeated(
        self, outcome: NodeOutcome, results: Mapping[dg.AssetCheckKey, EarlierResult]
    ) -> dict[dg.AssetCheckKey, str]:
        """Why the last results of a node that was not executed are not repeated, as clauses after "because"."""
        return {
            check: self._why_not_repeated(results.get(check))
            for check in self.assets.audit_checks.get(outcome.fqn, ())
            if check in self.selected_checks and not (check in results and self.still_applies(outcome, results[check]))
        }

    def _why_not_repeated(self, result: EarlierResult | None) -> str:
        if result is None:
            return "no run of Dagster has evaluated its audit"
        if result.audited_data is None:
            return (
                f"its audit has read other tables than the one that environment {self.environment} shows for its "
                "model, and their data may have changed since"
            )
        return "its last result is not about the current data and audits"

    def known_failures(self, outcome: NodeOutcome, results: Mapping[dg.AssetCheckKey, EarlierResult]) -> list[str]:
        """The blocking audits of a node that failed earlier and still apply, each as a sentence."""
        return [
            f"{self.assets.name(outcome.fqn)}: the check {key.name} failed when its audit was last evaluated (run "
            f"{result.run_id}), and nothing has been computed since. Execute the check alone to evaluate it again."
            for key, result in sorted(results.items(), key=lambda item: item[0].name)
            if result.is_blocking_failure and self.still_applies(outcome, result)
        ]


def not_evaluated(check: dg.AssetCheckKey, reason: str) -> dg.AssetCheckResult:
    """A warning instead of a result.

    Args:
        reason: Follows "Not evaluated:" in the description.
    """
    return dg.AssetCheckResult(
        asset_key=check.asset_key,
        check_name=check.name,
        passed=False,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"Not evaluated: {reason}",
        metadata={NOT_EVALUATED: True},
    )
