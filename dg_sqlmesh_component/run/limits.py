"""Limits of what SQLMesh computes: `budget` and `restate.max_intervals`. Dagster's process alone decides."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal

import dagster as dg

from dg_sqlmesh_component.config.attribute_types import Budget, Restate
from dg_sqlmesh_component.definitions.project_assets import ProjectAssets
from dg_sqlmesh_component.history.costs import RecordedCost, computed_range, estimates, restatement_costs
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.formatting import counted, decimal_text, listed
from dg_sqlmesh_component.run.run_log import RunLog


@dataclass(frozen=True)
class Limits:
    """What a step may compute."""

    instance: dg.DagsterInstance
    assets: ProjectAssets
    restate: Restate
    budget: Budget

    def refuse_restatement(self, planned: msg.RestatementPlanned, log: RunLog) -> str | None:
        """Log what a restatement computes. Return why it is not computed; None if it is."""
        costs = restatement_costs(self.instance, self.assets, planned)
        log.restatement(planned, costs)
        return restatement_refusal(planned, self.restate, self.budget, costs.values())

    def refuse_run(self, planned: msg.EvaluationPlanned, log: RunLog) -> str | None:
        """Return why the planned batches of a run are not computed; None if they are. Log which are not estimated."""
        if self.budget == Budget():
            return None
        computed = computed_range(planned)
        costs = estimates(self.instance, self.assets, computed)
        models = computed.keys() & self.assets.specs.keys()  # a standalone audit never has a record
        if without := sorted(map(self.assets.name, models - costs.keys())):
            log.context.log.info(not_estimated(without))
        return run_refusal(self.budget, costs.values())


def not_estimated(models: Sequence[str]) -> str:
    """The sentence that names models to which a budget does not apply."""
    return f"Without a record of an earlier computation, so not estimated: {listed(models)}."


def over_budget(budget: Budget, costs: Iterable[RecordedCost]) -> str | None:
    """Why an estimate is over the budget, as a sentence; None if it is not, or if there is none."""
    estimate = RecordedCost.total(list(costs))
    for name in ("seconds", "bytes"):
        limit, value = getattr(budget, name), getattr(estimate, name, None)
        if limit is not None and value is not None and value > limit:
            return (
                f"The estimate from earlier runs is {decimal_text(value, limit)} {name}, and `budget.{name}` in "
                f"defs.yaml is {Decimal(str(limit)):,f}."
            )
    return None


def run_refusal(budget: Budget, costs: Iterable[RecordedCost]) -> str | None:
    """Why the planned batches of a run are not computed; None if they are."""
    excess = over_budget(budget, costs)
    return excess and (
        f"The run is over the budget. {excess} Nothing was computed. Select fewer models, limit the range with "
        "`start` and `end`, or set `over_budget: true` in the run config."
    )


def restatement_refusal(
    planned: msg.RestatementPlanned, limits: Restate, budget: Budget, costs: Iterable[RecordedCost]
) -> str | None:
    """Why a restatement is not computed; None if it is."""
    intervals = sum(number for _, number in planned.ranges.values())
    if limits.max_intervals is not None and intervals > limits.max_intervals:
        return (
            f"The restatement {planned.asked_for} would compute {counted(intervals, 'interval')} of "
            f"{counted(len(planned.ranges), 'model')}; `restate.max_intervals` in defs.yaml is "
            f"{limits.max_intervals}. Nothing was computed. Choose a shorter range or fewer models, or raise the limit "
            "in defs.yaml."
        )
    excess = over_budget(budget, costs)
    return excess and (
        f"The restatement {planned.asked_for} is over the budget. {excess} Nothing was computed. Choose a shorter "
        "range or fewer models, or set `over_budget: true` in the run config."
    )
