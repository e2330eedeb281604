"""A step that restates: its request, what it logs of the planned ranges, and what refuses them."""

from __future__ import annotations

from collections.abc import Iterable

import dagster as dg

from dg_sqlmesh_component.capabilities.restatements.attributes import Restate
from dg_sqlmesh_component.capabilities.restatements.messages import RestateRequest
from dg_sqlmesh_component.capabilities.restatements.planned import restatement_log, restatement_metadata
from dg_sqlmesh_component.config.attribute_types import Budget
from dg_sqlmesh_component.dagster_internals.steps import log_step_metadata
from dg_sqlmesh_component.definitions.ports import Restating
from dg_sqlmesh_component.definitions.project_assets import ProjectAssets
from dg_sqlmesh_component.definitions.settings import Settings
from dg_sqlmesh_component.history.costs import RecordedCost, recorded_costs
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.formatting import counted
from dg_sqlmesh_component.run.limits import Limits, over_budget
from dg_sqlmesh_component.run.run_log import RunLog


def refuse_restatement(settings: Settings, limits: Limits, planned: msg.RestatementPlanned, log: RunLog) -> str | None:
    """Log what a restatement computes. Return why it is not computed; None if it is."""
    costs = restatement_costs(limits.instance, settings.assets, planned)
    log.context.log.warning(restatement_log(log.wording, planned, costs))
    log_step_metadata(log.context, "Planned restatement", restatement_metadata(log.wording, planned, costs))
    restate = settings.attributes.restate or Restate()
    return restatement_refusal(planned, restate, limits.budget, costs.values())


def restatement_costs(
    instance: dg.DagsterInstance, assets: ProjectAssets, planned: msg.RestatementPlanned
) -> dict[str, RecordedCost]:
    """The estimated cost of restating each model. Models without a record in Dagster are left out.

    It is high for a long range of a model that was always computed one interval at a time: then nothing tells how much
    of its time each computation needs anyway.
    """
    costs = recorded_costs(instance, assets, planned.ranges)
    return {fqn: cost.of(planned.ranges[fqn][1]) for fqn, cost in costs.items()}


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


RESTATING = Restating(RestateRequest, refuse_restatement)
