"""The results that a step yields: which ones, in which order, and which results of earlier runs are repeated."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import dagster as dg

from dg_sqlmesh_component.config.component_attributes import ComponentAttributes
from dg_sqlmesh_component.dagster_internals.steps import (
    PlannedStep,
    awaited_outputs,
    forget_data_version,
    is_only_step,
    released_output,
    with_steps_downstream,
)
from dg_sqlmesh_component.definitions.op import PROJECT_TAG
from dg_sqlmesh_component.definitions.project_assets import ProjectAssets
from dg_sqlmesh_component.definitions.translator import STATUS_CHECK
from dg_sqlmesh_component.history import repetition
from dg_sqlmesh_component.history.check_results import last_evaluations, last_results, results_of_unreached
from dg_sqlmesh_component.history.earlier_results import EarlierResult, key_of
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.formatting import listed
from dg_sqlmesh_component.protocol.intervals import subtract
from dg_sqlmesh_component.report.checks import Checks
from dg_sqlmesh_component.report.outcomes import AuditOnlyOutcome, NodeOutcome, Released
from dg_sqlmesh_component.report.results import materialization, observation
from dg_sqlmesh_component.run.request import audit_uses
from dg_sqlmesh_component.run.run_log import RunLog
from dg_sqlmesh_component.run.step_records import StepRecords


@dataclass
class StepResults:
    """Yields the results of one step, and remembers which outcomes and checks it has reported."""

    context: dg.AssetExecutionContext
    attributes: ComponentAttributes
    checks: Checks
    records: StepRecords
    log: RunLog
    # The checks that the step reports. A restatement adds the checks of downstream models.
    selected: set[dg.AssetCheckKey]
    outcomes: list[NodeOutcome] = field(default_factory=list)
    audited: list[AuditOnlyOutcome] = field(default_factory=list)
    # Outcomes of models that had nothing to do and are not observed.
    unobserved: list[NodeOutcome] = field(default_factory=list)
    # What earlier runs have left in a bad state, each as a sentence.
    known_failures: list[str] = field(default_factory=list)
    reported: set[dg.AssetCheckKey] = field(default_factory=set)  # the checks that have a result

    def __post_init__(self) -> None:
        self._wording = self.checks.wording
        self._assets = self._wording.assets
        self._earlier = LastCheckResults(self.context, self.checks)

    def select_checks_of(self, models: Collection[str]) -> None:
        """Also report the checks of these models. In an environment without assets, no check is reported."""
        if self._wording.is_declared:
            keys = {self._assets.key(fqn) for fqn in models if fqn in self._assets.specs}
            self.selected |= {check for check in self._assets.checks if check.asset_key in keys}

    def report(self, settled: Sequence[NodeOutcome | AuditOnlyOutcome]) -> Iterator[Any]:
        """The results of settled nodes, parents before children."""
        earlier = self._earlier.of_unchanged([outcome for outcome in settled if self._reports_unchanged(outcome)])
        earlier |= self._earlier.of_others(settled, self.selected)
        for outcome in settled:
            self.log.audits(outcome)
            if isinstance(outcome, AuditOnlyOutcome):
                self.audited.append(outcome)
                yield from self._check_results(outcome, earlier)
                continue
            outcome = self.records.with_hidden_outdated(self.records.with_earlier_intervals(outcome))
            self.outcomes.append(outcome)
            self.log.outcome(outcome)
            yield from self.records.outside_data_before(outcome)
            yield from self._results_of(outcome, earlier)

    def audits_to_evaluate(self, idle: Sequence[msg.NodeIdle]) -> dict[str, tuple[msg.AuditUse, ...]]:
        """The audits of nodes that had nothing to do, as in `AuditsWanted`. No check stays without a result."""
        if not self._wording.is_declared or (self._is_only_step and not self.attributes.execution.record_unchanged):
            return {}
        wanted = self._earlier.without_a_result(idle)
        nodes = {self._assets.node_by_check[check] for check in wanted}
        return {node: audit_uses(self._assets, node, wanted) for node in sorted(nodes)}

    def unaudited(
        self, rows: Mapping[str, msg.EarlierRows], computed: Callable[[str], tuple[msg.Interval, ...]]
    ) -> dict[str, msg.UnauditedRows]:
        """Of nodes that are about to be computed, the rows that some of their checks know nothing about.

        `computed` has what earlier attempts of this run have computed of a node.
        """
        if not self._wording.is_declared:
            return {}
        unaudited = {}
        for node, since in self._earlier.audited_until(rows, self.selected).items():
            uses = audit_uses(self._assets, node, since.keys())
            unaudited[node] = msg.UnauditedRows(uses, min(since.values()), computed(node))
        return unaudited

    def fill_in(self) -> Iterator[Any]:
        """A result for each check that has none. If a step fails, Dagster would show these checks as failed."""
        left_out = self.unobserved if self._is_only_step else []
        earlier = self._earlier.of_unchanged(left_out)
        for outcome in left_out:
            yield from self._check_results(outcome, earlier)
        for node in self.audited:
            if node.error:
                missing = self._without_a_result(node)
                why, run_id = "this run could not evaluate it", self.context.run.run_id
                repeated = last_evaluations(self.context.instance, missing, why, run_id)
                yield from (repeated.get(of) or self.checks.not_evaluated(of, node, node.error) for of in missing)
        started = {outcome.fqn for outcome in self.outcomes if outcome.was_started}
        for outcome in self.outcomes:
            missing, why = self._without_a_result(outcome), self._wording.why_not_evaluated(outcome)
            repeated = self._of_unreached(outcome, missing, started)
            yield from (repeated.get(of) or self.checks.not_evaluated(of, outcome, why) for of in missing)

    def _without_a_result(self, node: NodeOutcome | AuditOnlyOutcome) -> list[dg.AssetCheckKey]:
        """The checks of a node that have none, its status aside. They get one now."""
        checks = (check for check in self._selected_of(node.fqn) if check.name != STATUS_CHECK)
        missing = [check for check in checks if check not in self.reported]
        self.reported.update(missing)
        return missing

    def _of_unreached(
        self, outcome: NodeOutcome, checks: Collection[dg.AssetCheckKey], started: Set[str]
    ) -> dict[dg.AssetCheckKey, dg.AssetCheckEvaluation]:
        """The last results of a model that the run has not reached, as far as they are about the rows that it has."""
        shown = self._assets.shown_tables(outcome.fqn)
        if not repetition.is_as_before(is_untouched=outcome.is_untouched, shown_tables=shown, started=started):
            return {}
        promoted = outcome.promoted.version if outcome.promoted else None
        repeats = partial(repetition.repeats_unreached, promoted=promoted, before=outcome.rows_before)
        why = f"{self._assets.name(outcome.fqn)} was not executed"
        return results_of_unreached(self.context.instance, checks, why, repeats)

    @cached_property
    def release(self) -> DownstreamRelease:
        return DownstreamRelease(self.context, self._assets)

    # -- models -----------------------------------------------------------------------------------

    def _results_of(self, outcome: NodeOutcome, earlier: Mapping[dg.AssetCheckKey, EarlierResult]) -> Iterator[Any]:
        materializes = outcome.outcome.rule.materializes
        is_asset = outcome.fqn in self._assets.specs  # else a standalone audit or an external model
        if is_asset and not self._wording.is_declared:
            yield observation(self._wording, outcome, self.records.after(outcome))
        elif is_asset and materializes:
            yield from self._materialization(outcome)
        elif not self._is_observed(outcome):
            self.unobserved.append(outcome)
        elif is_asset and outcome.fqn not in self.records.materialized_outside:
            recorded = self.records.after(outcome)
            allows_restatement = self.attributes.allows_restatements
            yield observation(self._wording, outcome, recorded, allows_restatement=allows_restatement)
        if self._is_observed(outcome) or not self._is_only_step:
            yield from self._check_results(outcome, earlier)
        elif self._may_change_late_data(outcome):
            yield from self._late_data(outcome)
        is_materialized = materializes and self._wording.is_declared
        if is_asset and self.records.is_selected(outcome.fqn) and not is_materialized:
            yield from self.release.asset(outcome)

    def _materialization(self, outcome: NodeOutcome) -> Iterator[Any]:
        result = materialization(self._wording, outcome, self.checks.now, self.records.after(outcome))
        assert result.data_version is not None, "our results always have a data version"
        key, versions, version = self._assets.key(outcome.fqn), self.records.data_versions, result.data_version.value
        # Dagster accepts a `MaterializeResult` of a selected asset only, and one for each. After a plan has landed, a
        # model may be computed again.
        if self.records.is_selected(outcome.fqn) and key not in self.release.healthy:
            self.release.healthy.add(key)
            versions.materialized(key, version)
            yield result
            return
        code_version = outcome.promoted.data_hash if outcome.promoted else None
        tags = versions.tags_of_materialization(key, version, code_version)
        yield dg.AssetMaterialization(asset_key=key, metadata=result.metadata, tags=tags)
        forget_data_version(self.context, key)

    def _is_observed(self, outcome: NodeOutcome) -> bool:
        return self.attributes.execution.record_unchanged or not outcome.outcome.rule.may_stay_silent

    @cached_property
    def _is_only_step(self) -> bool:
        """Whether the run has no other step. If another step fails, Dagster shows checks without a result as failed."""
        return is_only_step(self.context)

    # -- checks -----------------------------------------------------------------------------------

    def _check_results(
        self, outcome: NodeOutcome | AuditOnlyOutcome, earlier: Mapping[dg.AssetCheckKey, EarlierResult]
    ) -> Iterator[dg.AssetCheckResult]:
        yield from self._late_data(outcome)
        may_block = outcome.fqn not in self._assets.standalone_audits  # although dbt may call its failure an error
        for check in self._selected_of(outcome.fqn):
            result = self.checks.result(check, outcome, earlier.get(check))
            if result is not None:
                yield self._noted(result)
                if may_block and "sqlmesh/carried_over" in result.metadata and earlier[check].is_blocking_failure:
                    self.known_failures.append(self._wording.known_failure(outcome.fqn, check.name, earlier[check]))

    def _may_change_late_data(self, outcome: NodeOutcome) -> bool:
        """Whether the last result of the check for late data may say something else than the next one."""
        is_late = outcome.coverage is not None and bool(outcome.coverage.late)
        was_late = self.records.compared is not None and self.records.compared.was_late(outcome.fqn)
        # A version that somebody else has computed was never compared: the last result is of the version before.
        return is_late or was_late or outcome.fqn in self.records.materialized_outside

    def _late_data(self, outcome: NodeOutcome | AuditOnlyOutcome) -> Iterator[dg.AssetCheckResult]:
        """The check for late data, if the intervals of the model were compared with the loads of its sources."""
        check, coverage, loads = self._assets.late_data_check(outcome.fqn), outcome.coverage, self.records.compared
        if loads is None or coverage is None or check not in self.selected or check in self.reported:
            return
        computed = by_run = outcome.intervals if isinstance(outcome, NodeOutcome) else ()
        if coverage.computed and len(coverage.gaps) == coverage.gap_count:
            # The janitor merges intervals: then older ones get the times of this run.
            computed = subtract([coverage.computed], [*coverage.gaps, *coverage.waiting])
        yield self._noted(
            loads.result(
                self._wording, check, coverage.late, computed, is_new=bool(by_run), before_start=coverage.before_start
            )
        )

    def _selected_of(self, node: str) -> list[dg.AssetCheckKey]:
        """The selected checks of a node, its own before those of its audits."""
        return [check for check in self._assets.checks_of(node) if check in self.selected]

    def _noted(self, result: dg.AssetCheckResult) -> dg.AssetCheckResult:
        self.reported.add(key_of(result))
        return result

    def _reports_unchanged(self, outcome: NodeOutcome | AuditOnlyOutcome) -> bool:
        """Whether the checks of a node whose data is unchanged are reported now."""
        if isinstance(outcome, AuditOnlyOutcome) or not outcome.outcome.rule.repeats:
            return False
        return self._wording.is_declared and (self._is_observed(outcome) or not self._is_only_step)


@dataclass(frozen=True)
class LastCheckResults:
    """Reads the last results of checks that a step repeats, or adds to."""

    context: dg.AssetExecutionContext
    checks: Checks
    # Those of models that are being computed. Until one of them is reported, no other run changes them.
    _of_computed: dict[dg.AssetCheckKey, EarlierResult] = field(default_factory=dict)

    def of_unchanged(
        self, unchanged: Collection[NodeOutcome | AuditOnlyOutcome]
    ) -> dict[dg.AssetCheckKey, EarlierResult]:
        """The last known results of the selected audits of these nodes."""
        outcome_by_check = {
            check: outcome
            for outcome in unchanged
            for check in self.checks.wording.assets.audit_checks.get(outcome.fqn, ())
            if check in self.context.selected_asset_check_keys and isinstance(outcome, NodeOutcome)
            if check not in self.checks.wording.assets.checks_of_results(outcome.fqn, outcome.audits)
        }
        return self._last_results(outcome_by_check)

    def without_a_result(self, idle: Iterable[msg.NodeIdle]) -> set[dg.AssetCheckKey]:
        """The selected audits of nodes that had nothing to do, about whose data there is no result."""
        by_check = {
            check: node
            for node in idle
            for check in self.checks.wording.assets.audit_checks.get(node.fqn, ())
            if check in self.context.selected_asset_check_keys
        }
        last = self._last_results(by_check)
        environment = self.checks.wording.environment
        return {
            check for check, node in by_check.items() if repetition.why_not_repeated(node, last.get(check), environment)
        }

    def audited_until(
        self, rows: Mapping[str, msg.EarlierRows], selected: Collection[dg.AssetCheckKey]
    ) -> dict[str, dict[dg.AssetCheckKey, int]]:
        """By node, the selected audits whose last result is not about all of these rows, with when it was found."""
        rows = {node: of for node, of in rows.items() if of.stay_unaudited}
        of_node = {
            node: [check for check in self.checks.wording.assets.audit_checks.get(node, ()) if check in selected]
            for node in rows
        }
        wanted = [check for checks in of_node.values() for check in checks]
        last, environment = self._last_results(wanted), self.checks.wording.environment
        self._of_computed.update(last)
        found: dict[str, dict[dg.AssetCheckKey, int]] = {}
        for node, checks in of_node.items():
            for check in checks:
                until = repetition.audited_until(rows[node].audited_data, last.get(check), environment)
                if until < rows[node].altered_at:
                    found.setdefault(node, {})[check] = until
        return found

    def of_others(
        self, settled: Sequence[NodeOutcome | AuditOnlyOutcome], selected: Collection[dg.AssetCheckKey]
    ) -> dict[dg.AssetCheckKey, EarlierResult]:
        """The last results of audits that were now evaluated on some intervals only, and statuses of audited nodes."""
        wording = self.checks.wording
        wanted: list[dg.AssetCheckKey] = []
        for outcome in settled:
            if isinstance(outcome, AuditOnlyOutcome):
                wanted += [check for check in wording.assets.checks_of(outcome.fqn) if check.name == STATUS_CHECK]
            elif wording.is_declared and outcome.fqn not in wording.assets.standalone_audits:
                audits = wording.assets.checks_of_results(outcome.fqn, outcome.audits)
                wanted += [check for check, audit in audits.items() if not audit.of_whole_table]
        known = {check: self._of_computed.pop(check) for check in wanted if check in self._of_computed}
        return known | self._last_results([check for check in wanted if check in selected and check not in known])

    def _last_results(self, checks: Collection[dg.AssetCheckKey]) -> dict[dg.AssetCheckKey, EarlierResult]:
        return last_results(self.context.instance, checks, self.checks.wording.environment)


@dataclass
class DownstreamRelease:
    """Releases the outputs of one step for which there is no result, so that steps downstream may run.

    Dagster runs a step when all outputs that it waits for exist. A materialization and a check result bring their
    outputs. A model that had nothing to do has neither, and its downstream steps must run nevertheless.
    """

    context: dg.AssetExecutionContext
    assets: ProjectAssets
    # The assets that were materialized or whose output was released.
    healthy: set[dg.AssetKey] = field(default_factory=set)

    def asset(self, outcome: NodeOutcome) -> Iterator[dg.DagsterEvent]:
        """Release the output of a model that has not failed and was not materialized in this run."""
        releases, key = outcome.outcome.rule.releases, self.assets.key(outcome.fqn)
        if releases is Released.NONE or key in self.healthy:
            return
        output = self.context.assets_def.get_output_name_for_asset_key(key)
        if releases is Released.OWN_PROJECT and self._holds_back(outcome, output):
            return
        self.healthy.add(key)
        yield from self._release(output)

    def left_out(self, models: Iterable[str]) -> Iterator[dg.DagsterEvent]:
        """Release the outputs of models that a restatement leaves out. Their data is as it was."""
        keys = {self.assets.key(fqn) for fqn in models if fqn in self.assets.specs} & self.context.selected_asset_keys
        for key in sorted(keys - self.healthy):
            self.healthy.add(key)
            yield from self._release(self.context.assets_def.get_output_name_for_asset_key(key))

    def checks_without_a_result(self, reported: Set[dg.AssetCheckKey]) -> Iterator[dg.DagsterEvent]:
        """Release the outputs of blocking checks without a result, if their assets have not failed.

        Downstream steps wait for the outputs of blocking checks too. An audit that was last evaluated outside of
        Dagster has no earlier result to repeat. Without its output, Dagster would skip the steps downstream. With
        `require_upstream_step_success: false` it would fail with an error of its own.
        """
        if not self._awaited:
            return
        for check in self.context.selected_asset_check_keys - reported:
            if check.asset_key in self.healthy and self.assets.checks[check].blocking:
                yield from self._release(self._output_by_check[check])

    def _holds_back(self, waiting: NodeOutcome, output: str) -> bool:
        """Whether a waiting model holds back the steps that wait for it. This is logged, because the run succeeds.

        Steps of the same SQLMesh project are not held back: SQLMesh decides there which models wait. An output is
        released for all steps that wait for it, or for none.
        """
        own = self.context.op_execution_context.op_def.tags[PROJECT_TAG]
        awaiting = self._awaited.get(output, ())
        if all(step.tags.get(PROJECT_TAG) == own for step in awaiting):
            return False
        skipped = with_steps_downstream(self.context, [step.key for step in awaiting])
        assets = sorted({key.to_user_string() for step in skipped for key in step.assets})
        self.context.log.warning(
            f"{self.assets.name(waiting.fqn)} is waiting, so Dagster skips the steps that wait for it: "
            f"{listed([step.key for step in skipped])}. Not run because of that: {listed(assets)}."
        )
        return True

    def _release(self, output: str) -> Iterator[dg.DagsterEvent]:
        if output in self._awaited:
            yield released_output(self.context, output)

    @cached_property
    def _awaited(self) -> Mapping[str, tuple[PlannedStep, ...]]:
        """The outputs of this step that other steps of the run wait for, with these steps."""
        return awaited_outputs(self.context)

    @cached_property
    def _output_by_check(self) -> dict[dg.AssetCheckKey, str]:
        return {spec.key: output for output, spec in self.context.assets_def.check_specs_by_output_name.items()}
