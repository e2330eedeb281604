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

    `planned` is the restatement; None until SQLMesh has planned it.
    """

    def __init__(self, context: dg.AssetExecutionContext, settings: Settings) -> None:
        self._context = context
        self._assets, self._state = settings.assets, settings.state_tag
        self.planned: msg.RestatementPlanned | None = None
        self._versions: dict[str, str] = {}

    def begin(self, promoted: Mapping[str, msg.PromotedVersion]) -> None:
        """Remember all ranges, before SQLMesh computes anything."""
        if self.planned is None or not self.planned.ranges:
            return
        self._versions |= {fqn: version.version for fqn, version in promoted.items()}
        incremental = {fqn: [interval] for fqn, (interval, _) in self.planned.ranges.items() if self._loses_rows(fqn)}
        self._log("Dagster remembers which ranges this run restates, until they are computed.", incremental)
        unfinished_restatements.begin(self._context.instance, self._context.run.run_id, self._state)

    def end(self, outcomes: Sequence[NodeOutcome], wording: Wording) -> list[str]:
        """Remember only the ranges that were not computed. Return texts about those without a coverage."""
        if self.planned is None or not self._versions:
            return []
        reported = {outcome.fqn: self.own(outcome.fqn, outcome.unrestated) for outcome in outcomes if outcome.coverage}
        unreported = {
            outcome.fqn: subtract([self.planned.ranges[outcome.fqn][0]], outcome.intervals)
            for outcome in outcomes
            if outcome.outcome.is_failure and outcome.fqn in self.planned.ranges and self._loses_rows(outcome.fqn)
            if outcome.fqn not in reported and not (outcome.is_cancelled and outcome.was_not_started)
        }
        left = {fqn: intervals for fqn, intervals in {**reported, **unreported}.items() if intervals}
        nothing = "This restatement has left no range with missing or old rows."
        self._log("Some of these ranges are left: their rows may be missing or old." if left else nothing, left)
        instance, run_id = self._context.instance, self._context.run.run_id
        if not unfinished_restatements.has_left(instance, run_id):  # of no other step of the run either
            unfinished_restatements.finish(instance, [run_id])
        return [sentence for fqn, ranges in unreported.items() for sentence in wording.unrestated(fqn, ranges)]

    def own(self, fqn: str, unrestated: Sequence[msg.Interval]) -> Sequence[msg.Interval]:
        """Those of the ranges that are this restatement's; all of them if the step restates nothing."""
        if self.planned is None:
            return unrestated
        return common(unrestated, [self.planned.ranges[fqn][0]]) if fqn in self.planned.ranges else ()

    def _loses_rows(self, fqn: str) -> bool:
        return fqn in self._assets.models and self._assets.models[fqn].is_incremental

    def _log(self, message: str, ranges: Mapping[str, Sequence[msg.Interval]]) -> None:
        assert self.planned is not None, "the restatement has begun"
        versions = self._versions
        left = {fqn: (versions[fqn], intervals) for fqn, intervals in ranges.items() if fqn in versions}
        unfinished_restatements.remember(self._context, message, self.planned.planned_at, left)
