"""An outcome as Dagster results. Pure: no context, no instance, nothing is yielded here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any

import dagster as dg

from dg_sqlmesh_component.definitions.project_assets import ProjectAssets
from dg_sqlmesh_component.definitions.translator import STATUS_CHECK, sql_metadata
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.formatting import instant, listed
from dg_sqlmesh_component.run.check_history import NOT_EVALUATED, Data, EarlierResult, data_metadata
from dg_sqlmesh_component.run.outcomes import AuditOnlyOutcome, AuditResult, NodeOutcome, Outcome
from dg_sqlmesh_component.run.wording import Wording, ranges, rows


class Reporter:
    """Turns outcomes of one step into Dagster's words.

    Args:
        assets: The project's assets.
        selected_checks: Checks of this step; no others are reported.
        environment: The environment that runs.
        execution_time: The instant of the run, epoch milliseconds.
    """

    def __init__(
        self,
        assets: ProjectAssets,
        selected_checks: Set[dg.AssetCheckKey],
        environment: str,
        execution_time: int,
    ) -> None:
        self._assets = assets
        self._selected = selected_checks
        self._environment = environment
        self._execution_time = execution_time
        self.wording = Wording(assets, environment)

    @property
    def is_declared(self) -> bool:
        """Whether the declared environment runs. Of another one nothing is materialized, and no check evaluated."""
        return self.wording.is_declared

    # -- models -----------------------------------------------------------------------------------

    def materialization(self, outcome: NodeOutcome) -> dg.MaterializeResult[None]:
        """An executed model, with a result for each of its selected checks."""
        assert outcome.outcome is Outcome.EXECUTED
        metadata = {**self._what_ran(outcome), **self._computed(outcome)}
        version = outcome.promoted.version if outcome.promoted else "unknown"
        return dg.MaterializeResult(
            asset_key=self._assets.key(outcome.fqn),
            metadata=metadata,
            data_version=dg.DataVersion(f"{version}@{instant(self._execution_time)}"),
            # Dagster would record the local file's version; the code that ran is what is promoted.
            tags={"dagster/code_version": outcome.promoted.data_hash} if outcome.promoted else None,
            check_results=[
                *self.status_check(outcome),
                *self.audit_checks(outcome.fqn, outcome.audits),
                *self.audits_that_did_not_run(outcome),
            ],
        )

    def computed_outside(self, outcome: NodeOutcome) -> dg.AssetMaterialization:
        """The data of an up-to-date model that no recorded run of Dagster has computed, with all of its intervals.

        Not a `MaterializeResult`: Dagster refuses one behind those of assets downstream, which may be executed by then.
        """
        assert outcome.outcome is Outcome.UP_TO_DATE
        assert outcome.computed_at is not None
        assert outcome.promoted is not None
        computed_at = instant(outcome.computed_at)
        return dg.AssetMaterialization(
            asset_key=self._assets.key(outcome.fqn),
            metadata={
                **self._what_ran(outcome),
                **self._computed(outcome),
                **_intervals_metadata(outcome.computed),
                "sqlmesh/origin": f"outside of Dagster, at {computed_at}",
                "sqlmesh/computed_at": _timestamp(outcome.computed_at),
            },
            tags={
                "dagster/data_version": f"{outcome.promoted.version}@{computed_at}",
                "dagster/code_version": outcome.promoted.data_hash,
            },
        )

    def has_seen(self, last: dg.AssetMaterialization | None, recorded_at: float, outcome: NodeOutcome) -> bool:
        """Whether the last materialization on record is of the data that an up-to-date model has now.

        Args:
            recorded_at: When it was recorded, in epoch seconds.
        """
        if last is None or outcome.promoted is None or outcome.computed_at is None:
            return False
        is_same = (
            _plain(last.metadata, "environment") == self._environment
            and _plain(last.metadata, "snapshot_version") == outcome.promoted.version
        )
        known_until = _plain(last.metadata, "computed_at")  # of data that was itself computed elsewhere
        seconds = recorded_at if known_until is None else float(known_until)
        return is_same and outcome.computed_at <= round(seconds * 1000)

    def observation(self, outcome: NodeOutcome) -> dg.AssetObservation:
        """A model that was not executed, or not in the declared environment, and why. Never a materialization."""
        return dg.AssetObservation(
            asset_key=self._assets.key(outcome.fqn),
            description=self.wording.sentence(outcome),
            metadata={**self._what_ran(outcome), **self._computed(outcome)},
        )

    def status_check(self, outcome: NodeOutcome) -> list[dg.AssetCheckResult]:
        """The status check of a model, if it is selected."""
        key = dg.AssetCheckKey(self._assets.key(outcome.fqn), STATUS_CHECK)
        if key not in self._selected:
            return []
        fine = outcome.outcome in (Outcome.EXECUTED, Outcome.UP_TO_DATE)
        # What somebody has cancelled has not gone wrong.
        is_warning = outcome.outcome is Outcome.WAITING or (
            outcome.outcome is Outcome.INTERRUPTED and self.wording.running is not None
        )
        return [
            dg.AssetCheckResult(
                asset_key=key.asset_key,
                check_name=key.name,
                passed=fine,
                severity=dg.AssetCheckSeverity.WARN if is_warning else dg.AssetCheckSeverity.ERROR,
                description=self.wording.sentence(outcome),
                metadata={**self._what_ran(outcome), **self._causes(outcome)},
            )
        ]

    # -- checks -----------------------------------------------------------------------------------

    def audit_checks(
        self, node: str, audits: Sequence[AuditResult], *, alone: bool = False
    ) -> list[dg.AssetCheckResult]:
        """Results of audits that SQLMesh evaluated in this run, as far as their checks are selected.

        Args:
            alone: Whether the model was not run.
        """
        return [
            dg.AssetCheckResult(
                asset_key=key.asset_key,
                check_name=key.name,
                passed=audit.passed,
                severity=self._assets.severity(node, audit),
                description=None if audit.passed else f"{rows(audit.failing_rows)} failed.",
                metadata={
                    **_audit_metadata(audit),
                    "sqlmesh/environment": self._environment,
                    **data_metadata(self._data_of(audit), alone),
                },
            )
            for key, audit in self._assets.check_of(node, audits).items()
            if key in self._selected and audit.error is None
        ]

    def _data_of(self, audit: AuditResult) -> Data | None:
        if audit.of is None or not audit.intervals:
            return None
        return (self._environment, audit.of, audit.intervals[-1][1])

    def holds(self, outcome: NodeOutcome, result: EarlierResult) -> bool:
        """Whether a result is of the very data that a node has, which was not run.

        One of a blocking audit that failed in a run of its model is not: the model would not be without anything to do
        if SQLMesh had not computed it since, and so that audit has passed, outside of Dagster.
        """
        if outcome.of is None or outcome.last_interval_end is None:
            return False
        has = (self._environment, outcome.of, outcome.last_interval_end)
        is_older = result.evaluated_at * 1000 < (outcome.altered_at or 0)  # than a restatement, or what a view shows
        return result.of == has and not is_older and (result.alone or not result.is_blocking_failure)

    def carried_over(
        self, outcome: NodeOutcome, results: Mapping[dg.AssetCheckKey, EarlierResult]
    ) -> list[dg.AssetCheckResult]:
        """Last known results of a node that had nothing to do, labelled as such, as far as they still hold."""
        return [
            dg.AssetCheckResult(
                asset_key=key.asset_key,
                check_name=key.name,
                passed=result.passed,
                severity=result.severity,
                description=f"{result.sentence}. Repeated, because {self._assets.name(outcome.fqn)} was not executed.",
                metadata={**data_metadata(result.of, result.alone), **result.label},
            )
            for key, result in results.items()
            if self.holds(outcome, result)
        ]

    def known_failures(self, outcome: NodeOutcome, results: Mapping[dg.AssetCheckKey, EarlierResult]) -> list[str]:
        """Blocking audits of a node that had nothing to do which are known to fail, each in a sentence."""
        return [
            f"{self._assets.name(outcome.fqn)}: the check {key.name} failed when its audit was last evaluated (run "
            f"{result.run_id}), and nothing has been computed since. Execute the check alone to evaluate it again."
            for key, result in sorted(results.items(), key=lambda item: item[0].name)
            if result.is_blocking_failure and self.holds(outcome, result)
        ]

    def audited(self, outcome: AuditOnlyOutcome) -> list[dg.AssetCheckResult]:
        """The checks of a node of which only the audits were asked for."""
        results = self.audit_checks(outcome.fqn, outcome.audits, alone=True)
        if outcome.error is None:
            results += self.audits_that_did_not_run(outcome)
        if outcome.fqn not in self._assets.specs:
            return results
        key = dg.AssetCheckKey(self._assets.key(outcome.fqn), STATUS_CHECK)
        if key in self._selected:
            name = self._assets.name(outcome.fqn)
            said = (
                f"{name}: its audits could not be evaluated: {outcome.error}"
                if outcome.error
                else f"{name} has intervals that are due and not computed: {ranges(outcome.missing)}. "
                "Only checks were selected, so it was not executed."
                if outcome.missing
                else f"{name} has nothing to do. Only checks were selected."
            )
            results.append(
                dg.AssetCheckResult(
                    asset_key=key.asset_key,
                    check_name=key.name,
                    passed=not (outcome.missing or outcome.error),
                    severity=_severity(outcome.error is not None),
                    description=said,
                )
            )
        return results

    def audits_that_did_not_run(self, outcome: NodeOutcome | AuditOnlyOutcome) -> list[dg.AssetCheckResult]:
        """Checks of an audited model whose audit the environment does not have: local files are ahead."""
        ran = self._assets.check_of(outcome.fqn, outcome.audits)
        name = self._assets.name(outcome.fqn)
        reason = (
            f"Not evaluated: what environment {self._environment} has promoted of {name} does not have this audit. "
            "Apply a plan to promote the local change."
        )
        return [
            not_evaluated(key, reason)
            for key in self._assets.audit_checks.get(outcome.fqn, ())
            if key in self._selected and key not in ran
        ]

    def not_evaluated(self, outcome: NodeOutcome, reported: Set[dg.AssetCheckKey]) -> list[dg.AssetCheckResult]:
        """Checks of a node's audits that have no result in a run that fails, where Dagster would show them as failed.

        Args:
            reported: The checks that have a result.
        """
        return [
            not_evaluated(key, f"Not evaluated: {self.wording.why_not_evaluated(outcome)}")
            for key in self._assets.audit_checks.get(outcome.fqn, ())
            if key in self._selected and key not in reported
        ]

    # -- metadata ---------------------------------------------------------------------------------

    def _what_ran(self, outcome: NodeOutcome) -> dict[str, Any]:
        metadata: dict[str, Any] = {
            "sqlmesh/status": outcome.outcome.value,
            "sqlmesh/environment": self._environment,
        }
        if outcome.promoted is not None:
            metadata["sqlmesh/snapshot_version"] = outcome.promoted.version
            if outcome.promoted.table_name and self._environment != self._assets.manifest.environment:
                metadata["dagster/table_name"] = outcome.promoted.table_name
            changed = unapplied_change(self._assets, outcome.fqn, outcome.promoted)
            if changed:
                metadata["sqlmesh/unapplied_change"] = changed
        return metadata

    def _computed(self, outcome: NodeOutcome) -> dict[str, Any]:
        metadata: dict[str, Any] = {}
        if outcome.intervals:
            metadata.update(_intervals_metadata(outcome.intervals))
            metadata["sqlmesh/batches"] = outcome.finished_batches
            metadata["sqlmesh/duration_ms"] = outcome.duration_ms
        if outcome.rows is not None:
            metadata["sqlmesh/rows"] = outcome.rows
        if outcome.row_count is not None:
            metadata["dagster/row_count"] = outcome.row_count
        if outcome.bytes is not None:
            metadata["sqlmesh/bytes"] = outcome.bytes
        if outcome.attempts > 1:
            metadata["sqlmesh/attempts"] = outcome.attempts
        if outcome.reason:
            metadata["sqlmesh/reason"] = outcome.reason
        if outcome.next_due:
            metadata["sqlmesh/next_due"] = _timestamp(outcome.next_due)
        if outcome.last_interval_end:
            metadata["sqlmesh/computed_up_to"] = _timestamp(outcome.last_interval_end)
        return {**metadata, **self._causes(outcome)}

    def _causes(self, outcome: NodeOutcome) -> dict[str, Any]:
        """Why a model is not executed; on a run's page Dagster shows metadata, and no descriptions."""
        metadata: dict[str, Any] = {}
        if outcome.outcome is Outcome.WAITING or (outcome.outcome is Outcome.EXECUTED and outcome.unselected):
            metadata["sqlmesh/waiting_for"] = self.wording.awaited(outcome)
        if outcome.culprits:
            metadata["sqlmesh/blocked_by"] = ", ".join(map(self._assets.name, outcome.culprits))
        if outcome.failed_audits:
            metadata["sqlmesh/failed_audits"] = ", ".join(outcome.failed_audits)
        if outcome.errors:
            metadata["sqlmesh/error"] = "\n".join(outcome.errors)
        return metadata


def unapplied_change(assets: ProjectAssets, node: str, promoted: msg.PromotedNode) -> str | None:
    """How the local file of a model differs from what is promoted: `data`, `metadata` or None.

    Its own definition only: a change upstream shows on the model upstream.
    """
    model = assets.models.get(node)
    if model is None or model.data_hash == promoted.data_hash:
        same = model is None or model.metadata_hash == promoted.metadata_hash
        return None if same else "metadata"
    return "data"


def _intervals_metadata(intervals: Sequence[msg.Interval]) -> dict[str, Any]:
    shown = [ranges([interval]) for interval in intervals]
    return {
        "sqlmesh/intervals": listed(shown),
        "sqlmesh/interval_start": _timestamp(intervals[0][0]),
        "sqlmesh/interval_end": _timestamp(intervals[-1][1]),
    }


def not_evaluated(check: dg.AssetCheckKey, reason: str) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        asset_key=check.asset_key,
        check_name=check.name,
        passed=False,
        severity=dg.AssetCheckSeverity.WARN,
        description=reason,
        metadata={NOT_EVALUATED: True},
    )


def _plain(metadata: Mapping[str, dg.MetadataValue], name: str) -> Any:
    """A value of our own in metadata on record; None where it is not there."""
    value = metadata.get(f"sqlmesh/{name}")
    return None if value is None else value.value


def _timestamp(milliseconds: int) -> dg.TimestampMetadataValue:
    return dg.MetadataValue.timestamp(milliseconds / 1000)


def _severity(blocking: bool) -> dg.AssetCheckSeverity:
    return dg.AssetCheckSeverity.ERROR if blocking else dg.AssetCheckSeverity.WARN


def _audit_metadata(audit: AuditResult) -> dict[str, Any]:
    metadata: dict[str, Any] = {
        "sqlmesh/audit": audit.name,
        "sqlmesh/failing_rows": audit.failing_rows,
        "sqlmesh/blocking": audit.blocking,
        "sqlmesh/intervals": ranges(audit.intervals),
    }
    if audit.args:
        metadata["sqlmesh/arguments"] = dg.MetadataValue.json(audit.args)
    if audit.query:
        metadata["sqlmesh/query"] = sql_metadata(audit.query)
    return metadata
