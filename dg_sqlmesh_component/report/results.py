"""The event by which Dagster knows of data: a materialization or an observation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dagster as dg

from dg_sqlmesh_component.dagster_internals.steps import DataVersions
from dg_sqlmesh_component.definitions.project_assets import ProjectAssets
from dg_sqlmesh_component.history.origins import Origin
from dg_sqlmesh_component.history.records import OutsideData, record_metadata
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.formatting import utc_text
from dg_sqlmesh_component.report.intervals_check import coverage_metadata
from dg_sqlmesh_component.report.metadata import column_metadata, intervals_metadata, outcome_metadata, unapplied_change
from dg_sqlmesh_component.report.outcomes import NodeOutcome
from dg_sqlmesh_component.report.wording import Wording


def materialization(
    wording: Wording, outcome: NodeOutcome, now: int, recorded: msg.RecordedData | None = None
) -> dg.MaterializeResult[None]:
    """An executed model. `now` is the instant of the run (epoch milliseconds), `recorded` what Dagster knows then."""
    assert outcome.outcome.rule.materializes, outcome
    version = outcome.promoted.version if outcome.promoted else "unknown"
    return dg.MaterializeResult(
        asset_key=wording.assets.key(outcome.fqn),
        metadata={
            **outcome_metadata(wording, outcome),
            **column_metadata(wording.assets, outcome.fqn, outcome.promoted, outcome.columns),
            **record_metadata(wording.environment, recorded),
        },
        data_version=dg.DataVersion(f"{version}@{utc_text(now)}"),
        # Dagster would record the local file's version, but the promoted version was executed.
        tags={"dagster/code_version": outcome.promoted.data_hash} if outcome.promoted else None,
    )


def observation(
    wording: Wording, outcome: NodeOutcome, recorded: msg.RecordedData | None = None, *, allows_restatement: bool = True
) -> dg.AssetObservation:
    """A model that was not executed, or not in the declared environment, and why. `recorded`: see `materialization`."""
    description = wording.sentence(outcome)
    model = wording.assets.models.get(outcome.fqn)
    is_idle = outcome.outcome.rule.may_stay_silent
    if is_idle and model is not None and model.kind != "SEED":
        allow = "" if allows_restatement else "`restate: true` in defs.yaml, and then "
        description += f" To compute a range again, set {allow}`restate` in the run config."
    return dg.AssetObservation(
        asset_key=wording.assets.key(outcome.fqn),
        description=description,
        metadata={**outcome_metadata(wording, outcome), **record_metadata(wording.environment, recorded)},
    )


def outside_materialization(
    assets: ProjectAssets,
    data: OutsideData,
    versions: DataVersions,
    of_outcome: Mapping[str, Any],
    origin: Origin | str | None = None,
) -> dg.AssetMaterialization:
    """The materialization of a model whose data no run of SQLMesh in Dagster has computed.

    This is no `MaterializeResult`: Dagster accepts one only for assets of the step, and only one for each. `of_outcome`
    is metadata of the model's outcome in the run that records the data. `origin` has computed or promoted the data;
    None for a plan outside of Dagster that has promoted it again.
    """
    key, promoted, computed_at = assets.key(data.fqn), data.promoted, utc_text(data.computed_at)
    version = f"{promoted.version}@{computed_at}" if data.intervals else versions.current(key)
    if isinstance(origin, Origin):
        origin = origin.text(assets.manifest.environment, data.computed_at)
    else:
        origin = f"{origin or 'promoted outside of Dagster; computed before'}, at {computed_at}"
    change = unapplied_change(assets, data.fqn, promoted)
    return dg.AssetMaterialization(
        asset_key=key,
        metadata={
            **of_outcome,
            "sqlmesh/origin": origin,
            **({} if data.rows is None else {"dagster/row_count": data.rows}),
            **intervals_metadata(assets, data.fqn, data.intervals, data.unmaterialized),
            **coverage_metadata(data.coverage),
            **column_metadata(assets, data.fqn, promoted, data.columns),
            **({"sqlmesh/unapplied_change": change} if change else {}),
            **record_metadata(assets.manifest.environment, data.record),
        },
        tags=versions.tags_of_materialization(key, version, data.computed_by),
    )
