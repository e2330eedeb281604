"""Releases step outputs, so that steps downstream may run.

Dagster runs a step when all outputs that it waits for exist. A materialization and a check result bring their outputs.
A model that had nothing to do has neither, and its downstream steps must run nevertheless.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field
from functools import cached_property

import dagster as dg

from dg_sqlmesh_component.dagster_internals import PlannedStep, awaited_outputs, released_output, with_steps_downstream
from dg_sqlmesh_component.definitions.op import PROJECT_TAG
from dg_sqlmesh_component.definitions.project_assets import ProjectAssets
from dg_sqlmesh_component.protocol.formatting import listed
from dg_sqlmesh_component.report.outcomes import NodeOutcome, Released


@dataclass
class DownstreamRelease:
    """Releases the outputs of one step for which there is no result."""

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
