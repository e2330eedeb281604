"""What the log of a run says, beyond its materializations, observations and checks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence, Set

import dagster as dg

from dg_sqlmesh_component.dagster_internals import is_part_of_backfill
from dg_sqlmesh_component.definitions.project_assets import ProjectAssets
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.formatting import block, counted, listed
from dg_sqlmesh_component.run.outcomes import AuditOnlyOutcome, NodeOutcome, Outcome
from dg_sqlmesh_component.run.results import unapplied_change
from dg_sqlmesh_component.run.wording import Wording, rows

REFRESH = "dg utils refresh-defs-state"


class RunLog:
    """Writes to the log of one step.

    Args:
        told_checks: The checks that the step reports.
        owned: The models that are assets of any component of the code location, by fqn.
    """

    def __init__(
        self,
        context: dg.AssetExecutionContext,
        assets: ProjectAssets,
        wording: Wording,
        told_checks: Set[dg.AssetCheckKey],
        owned: Set[str],
    ) -> None:
        self._context = context
        self._assets = assets
        self._wording = wording
        self._told_checks = told_checks
        self._owned = owned

    def unrecorded(self, outcomes: Sequence[NodeOutcome]) -> None:
        """What would otherwise be said of each model: how many had nothing to do, and why."""
        reasons = Counter(one.reason for one in outcomes)
        if reasons:
            said = "; ".join(f"{count}: {reason}" for reason, count in reasons.most_common())
            nodes = self._counted([one.fqn for one in outcomes])
            self._context.log.info(f"Nothing to do: {nodes}. {said}.")

    def backfill(self, outcomes: Sequence[NodeOutcome]) -> None:
        """Dagster's backfills know of materializations only, and there is none of what had nothing to do."""
        if not is_part_of_backfill(self._context.run):
            return
        idle = {
            self._assets.name(one.fqn)
            for one in outcomes
            if one.outcome in (Outcome.UP_TO_DATE, Outcome.WAITING) and one.fqn in self._assets.specs
        }
        if idle:
            self._context.log.warning(
                "This run belongs to a backfill, which takes what was not materialized for failed, and starts nothing "
                f"downstream of it in other runs. Not executed here: {listed(sorted(idle))}. Launch what is "
                "downstream by itself."
            )

    def event(self, event: msg.Event) -> None:
        log = self._context.log
        if isinstance(event, msg.LogLine):
            log.log(level=event.level.upper(), msg=f"[{event.source}] {event.text}")
        elif isinstance(event, msg.EvaluationPlanned):
            batches = sum(map(len, event.batches.values()))
            nodes = self._counted([node for node, planned in event.batches.items() if planned])
            if batches:
                log.info(f"SQLMesh computes {counted(batches, 'batch', 'batches')} of {nodes}.")
        elif isinstance(event, msg.EnvironmentOpened):
            self._differences(event)
            self._unowned(event)
            if event.missing:
                log.warning(
                    f"Not promoted in environment {event.environment}: "
                    f"{counted(len(event.missing), 'requested model')}. To promote the project's files:"
                    f"{block(event.plan_command)}\n\n"
                    f"If the plan reports no changes, the manifest is stale. Refresh it:{block(REFRESH)}"
                )

    def _counted(self, nodes: Collection[str]) -> str:
        audits = sum(node in self._assets.standalone_audits for node in nodes)
        models = counted(len(nodes) - audits, "model")
        return f"{models} and {counted(audits, 'standalone audit')}" if audits else models

    def _differences(self, event: msg.EnvironmentOpened) -> None:
        changed = [
            f"{self._assets.name(node)} ({change} changed)"
            for node, promoted in event.promoted.items()
            if (change := unapplied_change(self._assets, node, promoted))
        ]
        if changed:
            self._context.log.warning(
                f"Local files differ from environment {event.environment}. This run executes the promoted version of "
                f"{listed(changed)}. To promote the local files:{block(event.plan_command)}\n\n"
                f"If the plan reports no changes, the manifest is stale. Refresh it:{block(REFRESH)}"
            )

    def _unowned(self, event: msg.EnvironmentOpened) -> None:
        """Once in a run: in the first of the steps that Dagster makes of one op."""
        op = self._context.op_execution_context
        unowned = [fqn.replace('"', "") for fqn in event.others if fqn not in self._owned]
        if unowned and op.op_handle.name == op.op_def.name:
            self._context.log.warning(
                f"Environment {event.environment} has promoted models that are not assets of any component in this "
                f"code location, so no Dagster run executes them: {listed(unowned)}. If their files were deleted, "
                f"promote that:{block(event.plan_command)}\n\nIf not, widen `select` in defs.yaml, add a component for "
                "their project, or run them with `sqlmesh run`."
            )

    def outcome(self, outcome: NodeOutcome) -> None:
        """Failures, and what no materialization or observation says: each line is one more event to record."""
        if outcome.outcome.is_failure:
            self._context.log.error(self._wording.sentence(outcome))
        elif outcome.outcome is Outcome.WAITING or outcome.fqn not in self._assets.specs:
            self._context.log.info(self._wording.sentence(outcome))

    def audits(self, outcome: NodeOutcome | AuditOnlyOutcome) -> None:
        """Results of audits that no check shows: of another environment, or whose check the run does not have."""
        if not self._wording.is_declared:
            for line, audit in zip(self._wording.audit_lines(outcome), outcome.audits):
                self._context.log.log(level="INFO" if audit.passed else "WARNING", msg=line)
        elif isinstance(outcome, NodeOutcome):
            self._unselected(outcome)

    def _unselected(self, outcome: NodeOutcome) -> None:
        """Failed audits whose check the run does not have, such as that of a table on another of its readers."""
        if all(audit.passed for audit in outcome.audits):
            return
        for check, audit in self._assets.check_of(outcome.fqn, outcome.audits).items():
            if not audit.passed and check not in self._told_checks:
                self._context.log.warning(
                    f"{self._assets.name(outcome.fqn)}: audit {audit.name} failed: {rows(audit.failing_rows)}. Its "
                    f"check {check.asset_key.to_user_string()}:{check.name} is not part of this step."
                )
