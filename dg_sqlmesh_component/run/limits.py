"""The limit of what SQLMesh computes: `budget`. Dagster's process alone decides."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal

import dagster as dg

from dg_sqlmesh_component.config.attribute_types import Budget
from dg_sqlmesh_component.definitions.project_assets import ProjectAssets
from dg_sqlmesh_component.history.costs import RecordedCost, computed_range, estimates
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.formatting import decimal_text, listed
from dg_sqlmesh_component.run.run_log import RunLog


@dataclass(frozen=True)
class Limits:
    """What a step may compute."""

    instance: dg.DagsterInstance
    assets: ProjectAssets
    budget: Budget

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
