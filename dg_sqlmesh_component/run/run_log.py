"""Lines of a run's log, in addition to its materializations, observations and checks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence, Set
from dataclasses import dataclass

import dagster as dg

from dg_sqlmesh_component.dagster_internals.steps import JobOfAssets, is_part_of_backfill, log_step_metadata
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.formatting import block, counted, listed, plan_block, unquoted
from dg_sqlmesh_component.report.metadata import unapplied_change
from dg_sqlmesh_component.report.outcomes import AuditOnlyOutcome, NodeOutcome, last_outcomes
from dg_sqlmesh_component.report.summary import summary_counts, summary_line, summary_metadata
from dg_sqlmesh_component.report.wording import Wording, not_cancelled, progress

_IF_STALE = "\n\nIf the plan reports no changes, the manifest is stale. Refresh it:" + block(
    "dg utils refresh-defs-state"
)


RESULT_TAG = "sqlmesh/result"
"""Tag of a run that has ended: how many models have each outcome. Dagster's list of runs shows it."""


@dataclass(frozen=True)
class RunLog:
    """Writes to the log of one step."""

    context: dg.AssetExecutionContext | dg.OpExecutionContext
    wording: Wording
    reported_checks: Set[dg.AssetCheckKey]  # the checks that the step reports
    owned: Set[str]  # the models that are assets of any component of the code location, by fqn

    def event(self, event: msg.Event) -> None:
        log = self.context.log
        if isinstance(event, msg.EvaluationPlanned):
            batches = sum(map(len, event.batches.values()))
            nodes = self._counted([node for node, planned in event.batches.items() if planned])
            if batches:
                log.info(f"SQLMesh computes {counted(batches, 'batch', 'batches')} of {nodes}.")
            causes = (cause for held_back in event.others_wait.values() for cause in held_back.causes)
            if unselected := {cause.of for cause in causes if cause.kind == "unselected"}:
                named = listed(sorted(map(self.wording.assets.name, unselected)))
                log.info(
                    f"Not in this run, with pending intervals: {named}. Models downstream are computed up to them."
                )
        elif isinstance(event, msg.QueriesNotCancelled):
            log.warning(not_cancelled(self.wording.assets, event))
        elif isinstance(event, msg.BatchesRunning):
            log.info(progress(self.wording.assets, event))
        elif isinstance(event, msg.EnvironmentOpened):
            self._warn_of_differences(event)
            self._name_unowned(event)
            if event.missing:
                log.warning(
                    f"Not promoted in environment {event.environment}: "
                    f"{counted(len(event.missing), 'requested model')}. To promote the project's files:"
                    f"{plan_block(event.plan_command)}{_IF_STALE}"
                )

    def _warn_of_differences(self, event: msg.EnvironmentOpened) -> None:
        changed = [
            f"{self.wording.assets.name(node)} ({change} changed)"
            for node, promoted in event.promoted.items()
            if (change := unapplied_change(self.wording.assets, node, promoted))
        ]
        if changed:
            self.context.log.warning(
                f"The manifest differs from environment {event.environment}. This run executes the promoted version of "
                f"{listed(changed)}. If the local files are newer, promote them:{plan_block(event.plan_command)}"
                f"{_IF_STALE}"
            )

    def _name_unowned(self, event: msg.EnvironmentOpened) -> None:
        """If Dagster splits the op into several steps, only the first step does it."""
        op = self.context.op_execution_context
        if op.op_handle.name != op.op_def.name:
            return
        unowned, models = [fqn for fqn in event.others if fqn not in self.owned], self.wording.assets.models
        known = [models[fqn] for fqn in unowned if fqn in models]
        unknown = [unquoted(fqn) for fqn in unowned if fqn not in models]
        for kind, names in (
            ("that `select` and `exclude` leave out", [unquoted(model.fqn) for model in known if model.path]),
            ("of other projects with this SQLMesh state", [unquoted(model.fqn) for model in known if not model.path]),
        ):
            if names:
                self.context.log.info(
                    f"Promoted models {kind}, and that are not assets of another component in this code location: "
                    f"{listed(names)}. If no other code location has them, no Dagster run executes them."
                )
        if unknown:
            self.context.log.warning(
                f"Environment {event.environment} has promoted models that no component in this code location knows: "
                f"{listed(unknown)}. If their files were deleted, promote the deletion:{plan_block(event.plan_command)}"
                "\n\nIf no other code location has them, no Dagster run executes them: add a component for their "
                "project, or run them with `sqlmesh run`."
            )

    def outcome(self, outcome: NodeOutcome) -> None:
        """Log failures, and outcomes that no materialization or observation shows. Each line is one more event."""
        if outcome.outcome.is_failure:
            self.context.log.error(self.wording.sentence(outcome))
        elif outcome.outcome.rule.waits or outcome.fqn not in self.wording.assets.specs:
            self.context.log.info(self.wording.sentence(outcome))

    def audits(self, outcome: NodeOutcome | AuditOnlyOutcome) -> None:
        """Log audit results that no check of this run shows."""
        if not self.wording.is_declared:
            for audit in outcome.audits:
                level = "INFO" if audit.passed else "WARNING"
                self.context.log.log(level=level, msg=self.wording.audit_sentence(outcome.fqn, audit))
        elif isinstance(outcome, NodeOutcome) and not all(audit.passed for audit in outcome.audits):
            results = self.wording.assets.checks_of_results(outcome.fqn, outcome.audits)
            # The check of an external table's audit, for example, may belong to another of its downstream models.
            for check, audit in results.items():
                if not audit.passed and check not in self.reported_checks:
                    self.context.log.warning(
                        f"{self.wording.audit_sentence(outcome.fqn, audit)} Its check "
                        f"{check.asset_key.to_user_string()}:{check.name} is not part of this step."
                    )
            for audit in outcome.audits:
                # The error of the model names its failed blocking audits.
                if not audit.passed and audit not in results.values() and audit.name not in outcome.failed_audits:
                    self.context.log.warning(
                        f"{self.wording.audit_sentence(outcome.fqn, audit)} It has no check in Dagster."
                    )

    def nothing_to_do(self, outcomes: Sequence[NodeOutcome]) -> None:
        """Log in one line how many models had nothing to do, and why."""
        reasons = Counter(outcome.idle.reason for outcome in outcomes)
        if reasons:
            counts = "; ".join(f"{count}: {reason}" for reason, count in reasons.most_common())
            nodes = self._counted([outcome.fqn for outcome in outcomes])
            self.context.log.info(f"Nothing to do: {nodes}. {counts}.")

    def backfill(self, outcomes: Sequence[NodeOutcome]) -> None:
        """Warn that a backfill of assets counts models without a materialization as failed."""
        if isinstance(self.context, JobOfAssets) or not is_part_of_backfill(self.context.run):
            return
        idle = {
            self.wording.assets.name(outcome.fqn)
            for outcome in outcomes
            if outcome.outcome.rule.repeats and outcome.fqn in self.wording.assets.specs
        }
        if idle:
            self.context.log.warning(
                "This run belongs to a backfill. A backfill counts assets that were not materialized as failed, and "
                f"starts no runs of assets downstream of them. Not executed in this run: {listed(sorted(idle))}. "
                "Launch a run of their downstream assets."
            )

    def end(self, outcomes: Sequence[NodeOutcome]) -> None:
        """Log the summary of the step."""
        if last := last_outcomes(outcomes):
            self._tag_run(summary_counts(last))
            log_step_metadata(self.context, summary_line(self.wording, last), summary_metadata(self.wording, last))

    def _tag_run(self, result: str) -> None:
        """If Dagster splits the op into several steps, each has a tag of its own."""
        op = self.context if isinstance(self.context, dg.OpExecutionContext) else self.context.op_execution_context
        name, later = op.op_handle.name, op.op_handle.name.removeprefix(op.op_def.name)
        is_part = name != later and later.startswith("_") and later[1:].isdigit()
        self.context.instance.add_run_tags(self.context.run.run_id, {RESULT_TAG + (later if is_part else ""): result})

    def _counted(self, nodes: Collection[str]) -> str:
        audits = sum(node in self.wording.assets.standalone_audits for node in nodes)
        models = counted(len(nodes) - audits, "model")
        return f"{models} and {counted(audits, 'standalone audit')}" if audits else models
