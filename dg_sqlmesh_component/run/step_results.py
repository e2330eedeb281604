"""The results that a step yields: which ones, in which order, and which results of earlier runs are repeated."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import dagster as dg

from dg_sqlmesh_component.dagster_internals import DataVersions, forget_data_version, is_only_step
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.formatting import counted, listed
from dg_sqlmesh_component.report.earlier_results import EarlierResult
from dg_sqlmesh_component.report.metadata import outcome_metadata
from dg_sqlmesh_component.report.outcomes import AuditOnlyOutcome, NodeOutcome, Outcome
from dg_sqlmesh_component.report.records import OutsideData, outside_materialization, record_of
from dg_sqlmesh_component.report.results import Reporter
from dg_sqlmesh_component.run.active_runs import active_runs, run_ids
from dg_sqlmesh_component.run.check_history import last_results
from dg_sqlmesh_component.run.downstream_release import DownstreamRelease
from dg_sqlmesh_component.run.records import materialized_data, outside_data, recorded_data
from dg_sqlmesh_component.run.run_log import RunLog

MAX_NAMED_CHECKS = 3
"""How many checks without a result the log names. After a first plan, no check has a result."""


@dataclass
class StepResults:
    """Yields the results of one step, and remembers which outcomes and checks it has reported.

    Attributes:
        record_unchanged: Whether each model that had nothing to do is observed. If not, and the run has no other step,
            its checks are not reported either.
        unobserved: Outcomes of models that had nothing to do and are not observed.
        known_failures: What earlier runs have left in a bad state, each as a sentence.
    """

    context: dg.AssetExecutionContext
    reporter: Reporter
    log: RunLog
    record_unchanged: bool
    outcomes: list[NodeOutcome] = field(default_factory=list)
    audited: list[AuditOnlyOutcome] = field(default_factory=list)
    unobserved: list[NodeOutcome] = field(default_factory=list)
    known_failures: list[str] = field(default_factory=list)
    _recorded: dict[str, msg.RecordedData | None] = field(default_factory=dict)
    _outside: dict[str, OutsideData] = field(default_factory=dict)
    _materialized_outside: set[str] = field(default_factory=set)
    _reported: set[dg.AssetCheckKey] = field(default_factory=set)

    def report(self, settled: Sequence[NodeOutcome | AuditOnlyOutcome]) -> Iterator[Any]:
        """The results of settled nodes, parents before children."""
        yield from self._remembered(self._results(settled))

    # -- records ----------------------------------------------------------------------------------

    def read_records(self, models: Sequence[str]) -> dict[str, msg.RecordedData | None]:
        """Dagster's records of the models, by fqn. No other run of ours changes them until this step has ended."""
        self._recorded |= materialized_data(self.context.instance, self.reporter.assets, models)
        return {fqn: self._recorded[fqn] for fqn in models}

    def note_outside_data(self, compared: Sequence[msg.ComputedData], computing_since: int | None) -> None:
        """Find the data that was computed outside of Dagster. Each model's is recorded before its own outcome.

        Args:
            computing_since: When this step has taken the lock, epoch milliseconds. Another step of the run may have
                computed before.
        """
        if not compared:
            return
        assets, instance, own = self.reporter.assets, self.context.instance, self.context.run.run_id
        active = [
            replace(run, computing_since=computing_since) if run.run_id == own else run
            for run in active_runs(instance, assets)
        ]
        self._recorded |= recorded_data(instance, assets, [data.fqn for data in compared])
        outside, left_to_runs = outside_data(compared, self._recorded, active)
        self._outside |= {data.fqn: data for data in outside}
        self._recorded |= {data.fqn: data.record for data in outside}
        if left_to_runs:
            names = listed([assets.name(fqn) for fqn in left_to_runs])
            self.context.log.info(f"Left to run {run_ids(active)}, which has not finished: {names}.")

    def record_remaining_outside_data(self) -> Iterator[dg.AssetMaterialization]:
        """The outside data of models that this step does not select, or that have no outcome."""
        yield from self._outside_data_of(list(self._outside))

    def _outside_data_before(self, outcome: NodeOutcome) -> Iterator[dg.AssetMaterialization]:
        """The outside data of a model, after that of the models upstream, which it has read."""
        if not self._outside:
            return
        for fqn in self.reporter.assets.with_upstream([outcome.fqn])[:-1]:
            is_idle = self._is_selected(fqn) and not outcome.outcome.is_failure
            yield from self._outside_data_of([fqn], in_run={} if is_idle else None)
        in_run = outcome_metadata(self.reporter.wording, outcome) if outcome.outcome is Outcome.UP_TO_DATE else None
        yield from self._outside_data_of([outcome.fqn], in_run=in_run)

    def _outside_data_of(
        self, models: Iterable[str], in_run: Mapping[str, Any] | None = None
    ) -> Iterator[dg.AssetMaterialization]:
        """Record the data of these models that was computed outside of Dagster.

        Args:
            in_run: Further metadata, if the materializations are events of this run. To Dagster, the run has then
                materialized the assets. This is right only for models that had nothing to do.
        """
        assets = self.reporter.assets
        for data in [self._outside.pop(fqn) for fqn in models if fqn in self._outside]:
            materialization = outside_materialization(assets, data, self._data_versions, in_run or {})
            if in_run is None:
                self.context.instance.report_runless_asset_event(materialization)
            else:
                self._materialized_outside.add(data.fqn)
                yield materialization
            forget_data_version(self.context, assets.key(data.fqn))

    def _record(self, outcome: NodeOutcome) -> msg.RecordedData | None:
        """What Dagster knows of the model's data after this outcome."""
        if outcome.promoted is None or not self._is_declared:
            return None
        known = self._recorded.get(outcome.fqn)
        instants = [known.up_to] if known and known.version == outcome.promoted.version else []
        instants += [] if outcome.computed_until is None else [outcome.computed_until]
        return record_of(outcome.promoted, max(instants)) if instants else None

    @cached_property
    def _data_versions(self) -> DataVersions:
        upstream = self.context.assets_def.asset_deps
        return DataVersions(self.context.instance, lambda key: upstream[key])

    # -- results ----------------------------------------------------------------------------------

    def fill_in(self) -> Iterator[Any]:
        """A result for each check that has none. If a step fails, Dagster would show these checks as failed."""
        yield from self._remembered(self._checks_left_out())
        yield from self._remembered(
            result for outcome in self.outcomes for result in self.reporter.not_evaluated(outcome, self._reported)
        )

    def release_checks(self) -> Iterator[Any]:
        """Release steps that wait for a blocking check without a result, if the check's asset is up to date."""
        yield from self._release.checks_without_a_result(self._reported)

    @cached_property
    def _release(self) -> DownstreamRelease:
        return DownstreamRelease(self.context, self.reporter.assets)

    def _remembered(self, results: Iterator[Any]) -> Iterator[Any]:
        for result in results:
            checks = [result] if isinstance(result, dg.AssetCheckResult) else []
            if isinstance(result, dg.MaterializeResult):
                assert result.asset_key is not None, "our results always have a key"
                assert result.data_version is not None, "our results always have a data version"
                self._release.healthy.add(result.asset_key)
                self._data_versions.materialized(result.asset_key, result.data_version.value)
                checks = list(result.check_results or ())
            for check in checks:
                assert check.asset_key is not None, "our results always have a key"
                assert check.check_name is not None, "our results always have a key"
                self._reported.add(dg.AssetCheckKey(check.asset_key, check.check_name))
            yield result

    def _results(self, settled: Sequence[NodeOutcome | AuditOnlyOutcome]) -> Iterator[Any]:
        outcomes = [outcome for outcome in settled if isinstance(outcome, NodeOutcome)]
        earlier = self._earlier_results([outcome for outcome in outcomes if self._repeats_results(outcome)])
        for outcome in settled:
            self.known_failures += self.reporter.wording.unrestated(outcome.fqn, outcome.unrestated)
            self.log.audits(outcome)
            if isinstance(outcome, AuditOnlyOutcome):
                self.audited.append(outcome)
                yield from self.reporter.audited(outcome)
            else:
                self.outcomes.append(outcome)
                self.log.outcome(outcome)
                yield from self._outside_data_before(outcome)
                yield from self._results_of(outcome, earlier.get(outcome.fqn, {}))

    def _results_of(self, outcome: NodeOutcome, earlier: Mapping[dg.AssetCheckKey, EarlierResult]) -> Iterator[Any]:
        if outcome.is_second_outcome:
            return  # the first outcome was reported; if the second one is a failure, it is in the Failure
        is_asset = outcome.fqn in self.reporter.assets.specs  # else a standalone audit or an external model
        if is_asset and not self._is_declared:
            yield self.reporter.observation(outcome)
        elif is_asset and outcome.outcome is Outcome.EXECUTED:
            yield from self._materialization(outcome)
            return
        elif self._is_declared:
            yield from self._not_executed(outcome, earlier)
        if is_asset and self._is_selected(outcome.fqn):
            yield from self._release.asset(outcome)

    def _materialization(self, outcome: NodeOutcome) -> Iterator[Any]:
        result = self.reporter.materialization(outcome, self._record(outcome))
        if self._is_selected(outcome.fqn):
            yield result
            return
        # Dagster accepts a `MaterializeResult` of a selected asset only.
        assert result.asset_key is not None, "our results always have a key"
        assert result.data_version is not None, "our results always have a data version"
        code_version = outcome.promoted.data_hash if outcome.promoted else None
        tags = self._data_versions.tags_of_materialization(result.asset_key, result.data_version.value, code_version)
        yield dg.AssetMaterialization(asset_key=result.asset_key, metadata=result.metadata, tags=tags)
        forget_data_version(self.context, result.asset_key)
        yield from result.check_results or ()

    def _is_selected(self, fqn: str) -> bool:
        """Whether the model's asset is an output of this step. A restatement computes other models too."""
        return self.reporter.assets.key(fqn) in self.context.selected_asset_keys

    def _not_executed(self, outcome: NodeOutcome, earlier: Mapping[dg.AssetCheckKey, EarlierResult]) -> Iterator[Any]:
        """The results of a node that was not executed, or that is no asset."""
        is_observed = self.record_unchanged or outcome.outcome is not Outcome.UP_TO_DATE
        is_materialized = outcome.outcome is Outcome.UP_TO_DATE and outcome.fqn in self._materialized_outside
        if outcome.fqn in self.reporter.assets.specs and is_observed and not is_materialized:
            yield self.reporter.observation(outcome, self._record(outcome))
        if not is_observed:
            self.unobserved.append(outcome)
        if is_observed or not self._is_only_step:
            yield from self._check_results(outcome, earlier)

    def _check_results(self, outcome: NodeOutcome, earlier: Mapping[dg.AssetCheckKey, EarlierResult]) -> Iterator[Any]:
        """The check results of a node that is not materialized."""
        yield from self.reporter.status_check(outcome)
        yield from self.reporter.intervals_check(outcome)
        yield from self.reporter.audit_checks(outcome.fqn, outcome.audits, outcome.computed_until)
        if outcome.outcome is Outcome.EXECUTED:
            yield from self.reporter.audits_not_promoted(outcome)
        yield from self.reporter.carried_over(outcome, earlier)
        self.known_failures += self.reporter.known_failures(outcome, earlier)

    @property
    def _is_declared(self) -> bool:
        return self.reporter.wording.is_declared

    @cached_property
    def _is_only_step(self) -> bool:
        """Whether the run has no other step. If another step fails, Dagster shows checks without a result as failed."""
        return is_only_step(self.context)

    # -- earlier runs -----------------------------------------------------------------------------

    def _checks_left_out(self) -> Iterator[Any]:
        """The checks that were not reported because of `record_unchanged: false`."""
        left_out = self.unobserved if self._is_only_step else []
        earlier = self._earlier_results(left_out)
        for outcome in left_out:
            yield from self._check_results(outcome, earlier.get(outcome.fqn, {}))

    def _repeats_results(self, outcome: NodeOutcome) -> bool:
        """Whether the run did not change the model's data, so that its last audit results are repeated."""
        if not self._is_declared:
            return False
        if outcome.outcome is Outcome.UP_TO_DATE:
            return self.record_unchanged or not self._is_only_step
        return outcome.outcome is Outcome.WAITING

    def _earlier_results(self, unchanged: Sequence[NodeOutcome]) -> dict[str, dict[dg.AssetCheckKey, EarlierResult]]:
        """The last known results of the selected audits of nodes that were not executed, by node."""
        outcome_by_check = {
            check: outcome
            for outcome in unchanged
            for check in self.reporter.assets.audit_checks.get(outcome.fqn, ())
            if check in self.context.selected_asset_check_keys
        }
        if not outcome_by_check:
            return {}
        last = last_results(self.context.instance, outcome_by_check, self.reporter.environment)
        results: dict[str, dict[dg.AssetCheckKey, EarlierResult]] = {}
        for check, result in last.items():
            results.setdefault(outcome_by_check[check].fqn, {})[check] = result
        checks_by_reason: dict[str, list[str]] = {}
        for outcome in unchanged:
            for check, why in self.reporter.not_repeated(outcome, results.get(outcome.fqn, {})).items():
                checks_by_reason.setdefault(why, []).append(f"{check.asset_key.to_user_string()}:{check.name}")
        for why, checks in checks_by_reason.items():
            self.context.log.info(
                f"Not evaluated in this run: {counted(len(checks), 'audit')} of models that were not executed. No "
                f"earlier result is repeated, because {why}. To evaluate audits now, execute their checks alone: "
                f"{listed(checks, MAX_NAMED_CHECKS)}."
            )
        return results
