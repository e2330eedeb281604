"""Remembers the ranges of a restatement in Dagster, until they are computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import dagster as dg

from dg_sqlmesh_component.definitions.settings import Settings
from dg_sqlmesh_component.history import unfinished_restatements
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.intervals import common, subtract
from dg_sqlmesh_component.report.outcomes import NodeOutcome
from dg_sqlmesh_component.report.wording import Wording


class RestatementMemory:
    """Remembers the ranges of one step's restatement. If the step restates nothing, it does nothing.

    A retry inside the step plans the models again that are not settled. The ranges of the others stay remembered. Of an
    environment that is not the declared one, only ranges of tables that prod may show one day are remembered.
    """

    def __init__(self, context: dg.AssetExecutionContext, settings: Settings, environment: str) -> None:
        self._context, self._is_declared = context, environment == settings.environment
        self._assets, self._state = settings.assets, settings.state_tag
        self._planned: msg.RestatementPlanned | None = None
        self._ranges: dict[str, msg.Interval] = {}  # of all attempts
        self._versions: dict[str, str] = {}

    def plan(self, planned: msg.RestatementPlanned) -> None:
        """Add what SQLMesh has planned for an attempt."""
        self._planned = planned
        self._ranges |= {fqn: interval for fqn, (interval, _) in planned.ranges.items()}

    def begin(self, promoted: Mapping[str, msg.PromotedVersion], settled: Sequence[NodeOutcome]) -> None:
        """Remember the ranges of an attempt, before SQLMesh computes anything, and what earlier attempts have left."""
        if self._planned is None:
            return
        self._versions |= {fqn: version.version for fqn, version in promoted.items()}
        ranges = {fqn: [interval] for fqn, (interval, _) in self._planned.ranges.items() if self._loses_rows(fqn)}
        reported, unreported = self._left(settled)
        message = "Dagster remembers which ranges this run restates, until they are computed."
        self._log(message, {**reported, **unreported, **ranges})
        unfinished_restatements.begin(self._context.instance, self._context.run.run_id, self._state)

    def end(self, outcomes: Sequence[NodeOutcome], wording: Wording) -> list[str]:
        """Remember only the ranges that were not computed. Return texts about those without a coverage."""
        if self._planned is None or not self._versions:
            return []
        reported, unreported = self._left(outcomes)
        left = {fqn: intervals for fqn, intervals in {**reported, **unreported}.items() if intervals}
        nothing = "This restatement has left no range with missing or old rows."
        self._log("Some of these ranges are left: their rows may be missing or old." if left else nothing, left)
        instance, run_id = self._context.instance, self._context.run.run_id
        if not unfinished_restatements.has_left(instance, run_id):  # of no other step of the run either
            unfinished_restatements.finish(instance, [run_id])
        return [sentence for fqn, ranges in unreported.items() for sentence in wording.unrestated(fqn, ranges)]

    def own(self, fqn: str, unrestated: Sequence[msg.Interval]) -> Sequence[msg.Interval]:
        """Those of the ranges that are this restatement's; all of them if the step restates nothing."""
        if self._planned is None:
            return unrestated
        return common(unrestated, [self._ranges[fqn]]) if fqn in self._ranges else ()

    def _left(
        self, outcomes: Sequence[NodeOutcome]
    ) -> tuple[dict[str, Sequence[msg.Interval]], dict[str, Sequence[msg.Interval]]]:
        """The ranges that were not computed, by fqn: first of models whose coverage says so, then of all others."""
        reported: dict[str, Sequence[msg.Interval]] = {
            outcome.fqn: self.own(outcome.fqn, outcome.unrestated) for outcome in outcomes if outcome.coverage
        }
        unreported: dict[str, Sequence[msg.Interval]] = {
            outcome.fqn: subtract([self._ranges[outcome.fqn]], outcome.intervals)
            for outcome in outcomes
            if outcome.outcome.is_failure and outcome.fqn in self._ranges and self._loses_rows(outcome.fqn)
            if outcome.fqn not in reported and not (outcome.is_cancelled and outcome.was_not_started)
        }
        return reported, unreported

    def _loses_rows(self, fqn: str) -> bool:
        return fqn in self._assets.models and self._assets.models[fqn].is_incremental

    def _log(self, message: str, ranges: Mapping[str, Sequence[msg.Interval]]) -> None:
        assert self._planned is not None, "the restatement has begun"
        versions = self._versions
        forgotten = () if self._is_declared else self._planned.not_for_prod
        left = {
            fqn: (versions[fqn], intervals)
            for fqn, intervals in ranges.items()
            if intervals and fqn in versions and fqn not in forgotten
        }
        unfinished_restatements.remember(self._context, message, self._planned.planned_at, left)
