"""What models have cost in earlier runs of Dagster, for estimates of restatements and dry runs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import linear_regression, median

import dagster as dg

from dg_sqlmesh_component.definitions.project_assets import ProjectAssets
from dg_sqlmesh_component.history.stored_record import stored_value
from dg_sqlmesh_component.protocol import messages as msg


@dataclass(frozen=True, slots=True)
class RecordedCost:
    """What one interval of a model costs, by its last computations in Dagster.

    A model that is always computed as a whole has one interval. None if the engine does not report it.
    """

    seconds: float
    rows: float | None = None
    bytes: float | None = None
    fixed_seconds: float = 0.0  # what a computation costs in addition, however many intervals it has

    def of(self, intervals: float) -> RecordedCost:
        """What one computation of so many intervals costs."""
        return RecordedCost(
            self.fixed_seconds + self.seconds * intervals,
            None if self.rows is None else self.rows * intervals,
            None if self.bytes is None else self.bytes * intervals,
        )

    @staticmethod
    def total(costs: Sequence[RecordedCost]) -> RecordedCost | None:
        """What all of them cost; None without any. Unknown rows and bytes are left out."""
        if not costs:
            return None
        rows = [cost.rows for cost in costs if cost.rows is not None]
        by = [cost.bytes for cost in costs if cost.bytes is not None]
        return RecordedCost(sum(cost.seconds for cost in costs), sum(rows) if rows else None, sum(by) if by else None)


_MAX_RECORDS = 20
"""How many of a model's last materializations the estimate reads."""


def recorded_costs(
    instance: dg.DagsterInstance, assets: ProjectAssets, models: Iterable[str]
) -> dict[str, RecordedCost]:
    """The recorded cost of each model, by fqn. Models that Dagster has no record of are left out."""
    costs = {fqn: _recorded_cost(instance, assets.key(fqn)) for fqn in models if fqn in assets.specs}
    return {fqn: cost for fqn, cost in costs.items() if cost is not None}


def estimates(
    instance: dg.DagsterInstance, assets: ProjectAssets, computed: Mapping[str, int]
) -> dict[str, RecordedCost]:
    """The estimated cost of computing ranges of these lengths (ms), by fqn. Models without a record are left out."""
    costs = recorded_costs(instance, assets, computed)
    return {fqn: cost.of(assets.models[fqn].interval_count(computed[fqn])) for fqn, cost in costs.items()}


def computed_range(planned: msg.EvaluationPlanned) -> dict[str, int]:
    """The length of what a run computes of each model, in milliseconds, by fqn."""
    return {fqn: sum(end - start for start, end in batches) for fqn, batches in planned.batches.items() if batches}


def _recorded_cost(instance: dg.DagsterInstance, asset: dg.AssetKey) -> RecordedCost | None:
    """The cost by a model's last computations; None if Dagster has no record of one."""
    computations: dict[str, list[tuple[float, float]]] = {"seconds": [], "rows": [], "bytes": []}
    for record in instance.fetch_materializations(asset, limit=_MAX_RECORDS).records:
        assert record.asset_materialization is not None, "the record of a materialization has one"
        metadata = record.asset_materialization.metadata
        intervals = stored_value(metadata, "computed_intervals")
        if not intervals:
            continue  # it was not computed in Dagster
        for name, values in computations.items():
            if (value := stored_value(metadata, name)) is not None:
                values.append((intervals, value))
    if not computations["seconds"]:
        return None
    fixed, seconds = _line(computations["seconds"])
    others = {name: _per_interval(computations[name]) for name in ("rows", "bytes") if computations[name]}
    return RecordedCost(seconds=seconds, fixed_seconds=fixed, **others)


def _line(computations: Collection[tuple[float, float]]) -> tuple[float, float]:
    """The fixed seconds of a computation, and the seconds of each interval: the line through the records.

    Records of equal length give no line. Then, and if the line falls or begins below zero, nothing is fixed.
    """
    intervals, seconds = zip(*computations, strict=True)
    if len(set(intervals)) > 1:
        slope, intercept = linear_regression(intervals, seconds)
        if slope >= 0 and intercept >= 0:
            return intercept, slope
    return 0.0, _per_interval(computations)


def _per_interval(computations: Iterable[tuple[float, float]]) -> float:
    return median(value / intervals for intervals, value in computations)
