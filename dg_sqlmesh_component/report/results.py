"""The event by which Dagster knows of an outcome: a materialization or an observation. Pure."""

from __future__ import annotations

import dagster as dg

from dg_sqlmesh_component.history.records import record_metadata
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.formatting import utc_text
from dg_sqlmesh_component.report.metadata import column_metadata, outcome_metadata
from dg_sqlmesh_component.report.outcomes import NodeOutcome
from dg_sqlmesh_component.report.wording import Wording


def materialization(
    wording: Wording, outcome: NodeOutcome, now: int, recorded: msg.RecordedData | None = None
) -> dg.MaterializeResult[None]:
    """An executed model.

    Args:
        now: The instant of the run, epoch milliseconds.
        recorded: What Dagster knows of the model's data after this outcome.
    """
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
    wording: Wording,
    outcome: NodeOutcome,
    recorded: msg.RecordedData | None = None,
    *,
    allows_restatement: bool = True,
) -> dg.AssetObservation:
    """A model that was not executed, or not in the declared environment, and why.

    Args:
        recorded: As in `materialization`.
        allows_restatement: Whether `restate` in the run config is allowed.
    """
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
