"""The estimate of a restatement, and its refusal."""

import re
from typing import Any

import dagster as dg
import pytest
from unit.builders import days, fqn, manifest, model, project_assets

from dg_sqlmesh_component.capabilities.restatements.attributes import Restate
from dg_sqlmesh_component.capabilities.restatements.step import restatement_refusal
from dg_sqlmesh_component.config.attribute_types import Budget
from dg_sqlmesh_component.history.costs import RecordedCost, recorded_costs
from dg_sqlmesh_component.protocol import messages as msg

PLANNED = msg.RestatementPlanned({"a": (days(1, 2), 2), "b": (days(1, 2), 2)}, (), {}, "from a to b")


ESTIMATES = {
    "in proportion to the intervals": (
        {"a": RecordedCost(1.5, 10, 100), "b": RecordedCost(4.0, 7)},
        RecordedCost(7.0, 27, 200),
    ),
    "models without a record are left out": ({"a": RecordedCost(0.5)}, RecordedCost(1.0)),
    "a fixed part counts once": ({"a": RecordedCost(0.5, fixed_seconds=3.0)}, RecordedCost(4.0)),
    "no record at all": ({}, None),
}


@pytest.mark.parametrize(("costs", "estimate"), ESTIMATES.values(), ids=ESTIMATES)
def test_estimate_is_the_cost_of_all_intervals(costs: dict[str, RecordedCost], estimate: RecordedCost | None) -> None:
    intervals = {"a": 2, "b": 1}
    assert RecordedCost.total([cost.of(intervals[fqn]) for fqn, cost in costs.items()]) == estimate


def test_recorded_cost_is_that_of_one_interval_of_each_model_with_a_record() -> None:
    """The line through the records of `raw.orders` is 0.15 s and 0.095 s for each interval."""

    records: list[tuple[str, dict[str, Any]]] = [
        ("raw/orders", {"seconds": 3.0, "rows": 30, "computed_intervals": 30}),
        ("raw/orders", {"seconds": 0.3, "rows": 3, "computed_intervals": 1}),
        ("raw/orders", {"seconds": 0.2, "computed_intervals": 1}),
        ("raw/orders", {"origin": "outside"}),  # computed outside of Dagster: it has no numbers
        ("raw/hours", {"seconds": 12.0, "computed_intervals": 24}),
        ("marts/total", {"seconds": 0.05, "computed_intervals": 1}),
    ]
    project = manifest(
        model("raw.orders", kind="INCREMENTAL_BY_TIME_RANGE"),
        model("raw.hours", kind="INCREMENTAL_BY_TIME_RANGE", interval_unit="hour", reads=["raw.orders"]),
        model("marts.total", reads=["raw.orders"]),
        model("marts.never_computed", reads=["raw.orders"]),
    )
    with dg.DagsterInstance.ephemeral() as instance:
        for asset, values in records:
            metadata = {f"sqlmesh/{name}": value for name, value in values.items()}
            instance.report_runless_asset_event(dg.AssetMaterialization(asset.split("/"), metadata=metadata))
        planned = {model.fqn: (days(1, 1), 1) for model in project.models}
        costs = recorded_costs(instance, project_assets(project), planned)
    seconds: Any = pytest.approx(2.75 / 29)
    fixed: Any = pytest.approx(0.25 - 2.75 / 29)
    assert costs == {
        fqn("raw.orders"): RecordedCost(seconds, rows=2, fixed_seconds=fixed),
        fqn("raw.hours"): RecordedCost(0.5),
        fqn("marts.total"): RecordedCost(0.05),
    }


@pytest.mark.parametrize(
    ("limits", "error"),
    [
        (
            {"max_intervals": 3},
            "^The restatement from a to b would compute 4 intervals of 2 models; `restate.max_intervals` in .* is 3",
        ),
        ({"budget": Budget(seconds=0.5)}, "1.0 seconds, and `budget.seconds` in defs.yaml is 0.5.*over_budget: true"),
        ({"max_intervals": 4, "budget": Budget(seconds=1.0)}, None),
    ],
)
def test_restatement_beyond_a_limit_is_refused(limits: dict[str, Any], error: str | None) -> None:
    restate, budget = Restate(limits.get("max_intervals")), limits.get("budget", Budget())
    refusal = restatement_refusal(PLANNED, restate, budget, [RecordedCost(0.5), RecordedCost(0.5)])
    assert re.search(error, refusal or "") if error else refusal is None
