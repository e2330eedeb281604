"""The part of a request that restates, with the recorded costs of the models."""

from __future__ import annotations

from collections.abc import Collection
from statistics import median

import dagster as dg

from dg_sqlmesh_component.config.attributes import Restate
from dg_sqlmesh_component.config.run_config import RestateConfig
from dg_sqlmesh_component.definitions.project_assets import ProjectAssets
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.manifest import Model
from dg_sqlmesh_component.report.earlier_results import stored_value
from dg_sqlmesh_component.report.wording import length_of

_MAX_RECORDS = 20
"""How many of a model's last materializations the estimate reads."""

_UNIT_DAYS = {
    "year": 365,
    "month": 30,
    "day": 1,
    "hour": 1 / 24,
    "half_hour": 1 / 48,
    "quarter_hour": 1 / 96,
    "five_minute": 1 / 288,
}


def build_restatement(
    config: RestateConfig, limits: Restate, assets: ProjectAssets, models: Collection[str], instance: dg.DagsterInstance
) -> msg.Restatement:
    """The restatement of these models, with the recorded costs of all models that it may compute.

    Args:
        models: The requested models, by fqn.
    """
    affected = (set(models) | assets.downstream_of(models)) & assets.specs.keys()
    costs = {fqn: _recorded_cost(instance, assets.key(fqn), assets.models[fqn]) for fqn in affected}
    recorded = {fqn: cost for fqn, cost in costs.items() if cost is not None}
    return msg.Restatement(config.start, config.end, limits.max_intervals, limits.max_seconds, recorded)


def _recorded_cost(instance: dg.DagsterInstance, asset: dg.AssetKey, model: Model) -> msg.RecordedCost | None:
    """The medians of a model's last computations; None if Dagster has no record of one."""
    interval_ms = _UNIT_DAYS[model.interval_unit] * 24 * 60 * 60 * 1000
    per_interval: dict[str, list[float]] = {"seconds": [], "rows": [], "bytes": []}
    for record in instance.fetch_materializations(asset, limit=_MAX_RECORDS).records:
        assert record.asset_materialization is not None, "the record of a materialization has one"
        metadata = record.asset_materialization.metadata
        computed_ms = length_of(str(stored_value(metadata, "intervals")))
        if stored_value(metadata, "seconds") is None or not computed_ms:
            continue  # it was not computed in Dagster, or its range is not fully known
        intervals = computed_ms / interval_ms if model.is_incremental else 1
        for name, values in per_interval.items():
            if (value := stored_value(metadata, name)) is not None:
                values.append(value / intervals)
    if not per_interval["seconds"]:
        return None
    return msg.RecordedCost(**{name: median(values) for name, values in per_interval.items() if values})
