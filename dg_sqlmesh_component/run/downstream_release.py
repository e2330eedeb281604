"""Which steps downstream of this one may run.

Dagster runs a step when the outputs that it waits for are there. A materialization and a check's result bring theirs;
a model that had nothing to do has neither, and what is downstream of it is to run all the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from functools import cached_property

import dagster as dg

from dg_sqlmesh_component.dagster_internals import PlannedStep, awaited_outputs, released_output, with_steps_downstream
from dg_sqlmesh_component.definitions.op import PROJECT_TAG
from dg_sqlmesh_component.definitions.project_assets import ProjectAssets
from dg_sqlmesh_component.protocol.formatting import listed
from dg_sqlmesh_component.run.outcomes import NodeOutcome, Outcome


class DownstreamRelease:
    """The outputs of one step that stand without a result."""

    def __init__(self, context: dg.AssetExecutionContext, assets: ProjectAssets) -> None:
        self._context = context
        self._assets = assets
        self._fine: set[dg.AssetKey] = set()

    def materialized(self, key: dg.AssetKey) -> None:
        """Take note of an asset whose materialization releases what is downstream."""
        self._fine.add(key)

    def checks_without_a_result(self, reported: Set[dg.AssetCheckKey]) -> Iterator[dg.DagsterEvent]:
        """Let what waits for a blocking check without a result go on, where its asset is as it should be.

        What is downstream waits for the outputs of blocking checks too. An audit that was last evaluated outside of
        Dagster has no result to carry over: without this, Dagster would skip what is downstream, or with
        `require_upstream_step_success: false` end with an error of its own.

        Args:
            reported: The checks that have a result.
        """
        if not self._awaited:
            return
        for check in self._context.selected_asset_check_keys - reported:
            if check.asset_key in self._fine and self._assets.checks[check].blocking:
                yield from self._release(self._output_by_check[check])

    @cached_property
    def _output_by_check(self) -> dict[dg.AssetCheckKey, str]:
        return {spec.key: output for output, spec in self._context.assets_def.check_specs_by_output_name.items()}

    def _release(self, output: str) -> Iterator[dg.DagsterEvent]:
        if output in self._awaited:
            yield released_output(self._context, output)

    def _held_back_by(self, waiting: NodeOutcome, output: str) -> bool:
        """Whether a waiting model holds back the steps that wait for it, which is logged: the run stays green.

        Steps of the same SQLMesh project go on: SQLMesh itself keeps back there what has to wait. But one output serves
        all that wait for it, or none.
        """
        own = self._context.op_execution_context.op_def.tags[PROJECT_TAG]
        awaiting = self._awaited.get(output, ())
        if all(step.tags.get(PROJECT_TAG) == own for step in awaiting):
            return False
        skipped = with_steps_downstream(self._context, [step.key for step in awaiting])
        assets = sorted({key.to_user_string() for step in skipped for key in step.assets})
        self._context.log.warning(
            f"{self._assets.name(waiting.fqn)} is waiting, so Dagster skips the steps that wait for it: "
            f"{listed([step.key for step in skipped])}. Not run because of that: {listed(assets)}."
        )
        return True

    @cached_property
    def _awaited(self) -> Mapping[str, tuple[PlannedStep, ...]]:
        """The outputs of this step that other steps of the run wait for, and which steps these are."""
        return awaited_outputs(self._context)

    def asset(self, outcome: NodeOutcome) -> Iterator[dg.DagsterEvent]:
        """Let what is downstream run, of a model that is as it should be and was not materialized in this run."""
        if outcome.outcome not in (Outcome.EXECUTED, Outcome.UP_TO_DATE, Outcome.WAITING):
            return
        key = self._assets.key(outcome.fqn)
        output = self._context.assets_def.get_output_name_for_asset_key(key)
        if outcome.outcome is Outcome.WAITING and self._held_back_by(outcome, output):
            return
        self._fine.add(key)
        yield from self._release(output)
