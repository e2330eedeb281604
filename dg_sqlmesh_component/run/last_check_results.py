"""What earlier runs have found out about the checks of a step."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import dagster as dg

from dg_sqlmesh_component.definitions.translator import STATUS_CHECK
from dg_sqlmesh_component.history.check_results import last_results
from dg_sqlmesh_component.history.earlier_results import EarlierResult
from dg_sqlmesh_component.protocol.formatting import counted, listed
from dg_sqlmesh_component.report.checks import Checks
from dg_sqlmesh_component.report.outcomes import AuditOnlyOutcome, NodeOutcome

MAX_NAMED_CHECKS = 3
"""How many checks without a result the log names. After a first plan, no check has a result."""


@dataclass(frozen=True)
class LastCheckResults:
    """Reads the last results of checks that a step repeats, or adds to."""

    context: dg.AssetExecutionContext
    checks: Checks

    def of_unchanged(
        self, unchanged: Collection[NodeOutcome | AuditOnlyOutcome]
    ) -> dict[dg.AssetCheckKey, EarlierResult]:
        """The last known results of the selected audits of these nodes. Those that are not repeated are logged."""
        outcome_by_check = {
            check: outcome
            for outcome in unchanged
            for check in self.checks.wording.assets.audit_checks.get(outcome.fqn, ())
            if check in self.context.selected_asset_check_keys and isinstance(outcome, NodeOutcome)
        }
        results = self._last_results(outcome_by_check)
        checks_by_reason: dict[str, list[str]] = {}
        for check, outcome in outcome_by_check.items():
            if why := self.checks.why_not_repeated(outcome, results.get(check)):
                checks_by_reason.setdefault(why, []).append(f"{check.asset_key.to_user_string()}:{check.name}")
        for why, checks in checks_by_reason.items():
            self.context.log.info(
                f"Not evaluated in this run: {counted(len(checks), 'audit')} of models that were not executed. No "
                f"earlier result is repeated, because {why}. To evaluate audits now, execute their checks alone: "
                f"{listed(checks, MAX_NAMED_CHECKS)}."
            )
        return results

    def of_others(
        self, settled: Sequence[NodeOutcome | AuditOnlyOutcome], selected: Collection[dg.AssetCheckKey]
    ) -> dict[dg.AssetCheckKey, EarlierResult]:
        """The last results of audits that were now evaluated on some intervals only, and statuses of audited nodes."""
        wording = self.checks.wording
        wanted: list[dg.AssetCheckKey] = []
        for outcome in settled:
            if isinstance(outcome, AuditOnlyOutcome):
                wanted += [check for check in wording.assets.checks_of(outcome.fqn) if check.name == STATUS_CHECK]
            elif outcome.coverage is not None and outcome.outcome.rule.materializes and wording.is_declared:
                wanted += wording.assets.checks_of_results(outcome.fqn, outcome.audits)
        return self._last_results([check for check in wanted if check in selected])

    def _last_results(self, checks: Collection[dg.AssetCheckKey]) -> dict[dg.AssetCheckKey, EarlierResult]:
        return last_results(self.context.instance, checks, self.checks.wording.environment)
