"""From settled outcomes to what the step yields: which result, in which order, with what is known from earlier runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from functools import cached_property
from typing import Any

import dagster as dg

from dg_sqlmesh_component.dagster_internals import is_only_step
from dg_sqlmesh_component.definitions.project_assets import ProjectAssets
from dg_sqlmesh_component.protocol.formatting import counted, listed
from dg_sqlmesh_component.run.check_history import CheckHistory, EarlierResult
from dg_sqlmesh_component.run.downstream_release import DownstreamRelease
from dg_sqlmesh_component.run.outcomes import AuditOnlyOutcome, NodeOutcome, Outcome
from dg_sqlmesh_component.run.results import Reporter
from dg_sqlmesh_component.run.run_log import RunLog

NAMED_CHECKS = 3
"""How many of the checks without a result a line of the log names: after a first plan it is all of them."""


class StepResults:
    """Yields the results of one step, and remembers which outcomes and checks it has reported.

    Args:
        history: Results of earlier runs in the environment that runs.
        record_unchanged: Whether each model that had nothing to do is observed; if not, its checks are left out too
            where the run has no other step.
    """

    def __init__(
        self,
        context: dg.AssetExecutionContext,
        assets: ProjectAssets,
        reporter: Reporter,
        log: RunLog,
        history: CheckHistory,
        *,
        record_unchanged: bool,
    ) -> None:
        self._context = context
        self._assets = assets
        self._reporter = reporter
        self._log = log
        self._history = history
        self._record_unchanged = record_unchanged
        self._release = DownstreamRelease(context, assets)
        self._reported: set[dg.AssetCheckKey] = set()
        self.outcomes: list[NodeOutcome] = []
        self.audited: list[AuditOnlyOutcome] = []
        self.unobserved: list[NodeOutcome] = []
        """Outcomes of models that had nothing to do and are not recorded one by one."""
        self.known_failures: list[str] = []
        """Blocking audits of models that had nothing to do which are known to fail, each in a sentence."""

    def report(self, settled: Sequence[NodeOutcome | AuditOnlyOutcome]) -> Iterator[Any]:
        """The results of outcomes that are certain, parents before children."""
        yield from self._noted(self._results(settled))

    def fill_in(self) -> Iterator[Any]:
        """A result for each check that has none, in a step that fails: Dagster would show it as failed."""
        yield from self._noted(self._checks_left_out())
        yield from self._noted(self._checks_not_evaluated())

    def release_checks(self) -> Iterator[Any]:
        """Let what waits for a blocking check without a result go on, where its asset is as it should be."""
        yield from self._release.checks_without_a_result(self._reported)

    def _noted(self, results: Iterator[Any]) -> Iterator[Any]:
        for result in results:
            checks = [result] if isinstance(result, dg.AssetCheckResult) else []
            if isinstance(result, dg.MaterializeResult):
                assert result.asset_key is not None, "ours always have one"
                self._release.materialized(result.asset_key)
                checks = list(result.check_results or ())
            for check in checks:
                assert check.asset_key is not None, "ours always have one"
                assert check.check_name is not None, "ours always have one"
                self._reported.add(dg.AssetCheckKey(check.asset_key, check.check_name))
            yield result

    def _results(self, settled: Sequence[NodeOutcome | AuditOnlyOutcome]) -> Iterator[Any]:
        outcomes = [outcome for outcome in settled if isinstance(outcome, NodeOutcome)]
        earlier = self._earlier_results([outcome for outcome in outcomes if self._keeps_results(outcome)])
        unseen = self._computed_outside(outcomes)
        for outcome in settled:
            self._log.audits(outcome)
            if isinstance(outcome, AuditOnlyOutcome):
                self.audited.append(outcome)
                yield from self._reporter.audited(outcome)
            else:
                self.outcomes.append(outcome)
                self._log.outcome(outcome)
                yield from self._results_of(outcome, earlier.get(outcome.fqn, {}), is_unseen=outcome.fqn in unseen)

    def _results_of(
        self, outcome: NodeOutcome, earlier: dict[dg.AssetCheckKey, EarlierResult], *, is_unseen: bool
    ) -> Iterator[Any]:
        if outcome.again:
            return  # its output of the first pass stands; a failure of the second is in the Failure
        is_asset = outcome.fqn in self._assets.specs  # else a standalone audit or an external model
        if is_asset and not self._reporter.is_declared:
            yield self._reporter.observation(outcome)
        elif is_asset and outcome.outcome is Outcome.EXECUTED:
            yield self._reporter.materialization(outcome)
            return
        elif self._reporter.is_declared:
            yield from self._not_executed(outcome, earlier, is_unseen=is_unseen)
        if is_asset:
            yield from self._release.asset(outcome)

    def _not_executed(
        self, outcome: NodeOutcome, earlier: dict[dg.AssetCheckKey, EarlierResult], *, is_unseen: bool
    ) -> Iterator[Any]:
        """Of a node of the declared environment that this run did not execute, or that is no asset."""
        is_observed = self._record_unchanged or outcome.outcome is not Outcome.UP_TO_DATE
        if is_unseen:
            yield self._reporter.computed_outside(outcome)
        elif outcome.fqn in self._assets.specs and is_observed:
            yield self._reporter.observation(outcome)
        if not is_observed:
            self.unobserved.append(outcome)
        if is_observed or not self._is_only_step:
            yield from self._check_results(outcome, earlier)

    def _check_results(self, outcome: NodeOutcome, earlier: dict[dg.AssetCheckKey, EarlierResult]) -> Iterator[Any]:
        """Of a node that is not materialized."""
        if outcome.fqn in self._assets.specs:
            yield from self._reporter.status_check(outcome)
        yield from self._reporter.audit_checks(outcome.fqn, outcome.audits)
        if outcome.outcome is Outcome.EXECUTED:
            yield from self._reporter.audits_that_did_not_run(outcome)
        yield from self._reporter.carried_over(outcome, earlier)
        self.known_failures += self._reporter.known_failures(outcome, earlier)

    def _computed_outside(self, outcomes: Sequence[NodeOutcome]) -> Set[str]:
        """The models that have nothing to do, and data that no materialization on record is about."""
        found = {
            self._assets.key(outcome.fqn): outcome
            for outcome in outcomes
            if outcome.outcome is Outcome.UP_TO_DATE
            and outcome.computed
            and outcome.computed_at is not None
            and outcome.fqn in self._assets.specs
        }
        if not found or not self._reporter.is_declared:
            return set()
        unseen = {outcome.fqn for outcome in found.values()}
        for record in self._context.instance.get_asset_records(list(found)):
            last, outcome = record.asset_entry.last_materialization_record, found[record.asset_entry.asset_key]
            if last is not None and self._reporter.has_seen(last.asset_materialization, last.timestamp, outcome):
                unseen.discard(outcome.fqn)
        return unseen

    # -- checks without a result of this run ------------------------------------------------------

    @cached_property
    def _is_only_step(self) -> bool:
        """Whether the run ends as this step does. A failure elsewhere makes checks without a result look failed."""
        return is_only_step(self._context)

    def _checks_not_evaluated(self) -> Iterator[Any]:
        """A warning for each audit without a result; a run that was refused has none of them."""
        for outcome in self.outcomes:
            yield from self._reporter.not_evaluated(outcome, self._reported)

    def _checks_left_out(self) -> Iterator[Any]:
        """The checks that `record_unchanged: false` has left out."""
        left_out = self.unobserved if self._is_only_step else []
        earlier = self._earlier_results(left_out)
        for outcome in left_out:
            yield from self._check_results(outcome, earlier.get(outcome.fqn, {}))

    def _keeps_results(self, outcome: NodeOutcome) -> bool:
        """Whether the data is what it was before the run, so that the last results of its audits are repeated."""
        if not self._reporter.is_declared:
            return False
        if outcome.outcome is Outcome.UP_TO_DATE:
            return self._record_unchanged or not self._is_only_step
        return outcome.outcome is Outcome.WAITING

    def _earlier_results(self, unchanged: Sequence[NodeOutcome]) -> dict[str, dict[dg.AssetCheckKey, EarlierResult]]:
        """The last known results of the selected audits of nodes that were not executed, by node."""
        outcome_by_check = {
            check: outcome
            for outcome in unchanged
            for check in self._assets.audit_checks.get(outcome.fqn, ())
            if check in self._context.selected_asset_check_keys
        }
        if not outcome_by_check:
            return {}
        last = self._history.last_results(outcome_by_check)
        found: dict[str, dict[dg.AssetCheckKey, EarlierResult]] = {}
        for check, result in last.items():
            found.setdefault(outcome_by_check[check].fqn, {})[check] = result
        unknown = [
            f"{check.asset_key.to_user_string()}:{check.name}"
            for check, outcome in outcome_by_check.items()
            if check not in last or not self._reporter.holds(outcome, last[check])
        ]
        if unknown:
            self._context.log.info(
                f"Without a result in this run: {counted(len(unknown), 'audit')} of models that were not executed. "
                "None is on record, or the data may have changed since. To evaluate audits now, execute their checks "
                f"alone: {listed(unknown, NAMED_CHECKS)}."
            )
        return found
