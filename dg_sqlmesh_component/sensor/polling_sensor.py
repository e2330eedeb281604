"""The sensor of a component, and one tick of it.

A tick compares SQLMesh's state with what Dagster has recorded, and records the difference. It reads the state first,
then the unfinished runs, then Dagster's records. So what one of our runs had computed when the state was read is
recorded by now, or the run is unfinished and will record it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence, Set

import dagster as dg

from dg_sqlmesh_component.config.polling_sensor import PollingSensor
from dg_sqlmesh_component.config.project import SQLMeshProject
from dg_sqlmesh_component.definitions.project_assets import ProjectAssets
from dg_sqlmesh_component.definitions.translator import INTERVALS_CHECK
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.errors import DatabaseInUseError
from dg_sqlmesh_component.protocol.formatting import counted, listed
from dg_sqlmesh_component.run.coverage import coverage_metadata, intervals_result
from dg_sqlmesh_component.run.metadata import unapplied_change
from dg_sqlmesh_component.run.outside import outside_materialization, outside_metadata, recorded_data, unrecorded
from dg_sqlmesh_component.run.wording import Wording
from dg_sqlmesh_component.schedule.active_runs import ActiveRun, active_runs, run_ids
from dg_sqlmesh_component.sensor.plans import PlanChanges, Promotion, difference
from dg_sqlmesh_component.worker_client.requests import find_changes


def build_sensor(
    configured: PollingSensor, op_name: str, project: SQLMeshProject, assets: ProjectAssets, owned: Set[str]
) -> dg.Definitions:
    """The sensor that records runs and plans made outside of Dagster.

    Args:
        owned: The models of all components of the code location, by fqn. Components are still being added to it.
    """
    if not assets.specs:
        return dg.Definitions()

    def record_changes(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        return evaluate_tick(context, project, assets, owned)

    sensor = dg.SensorDefinition(
        name=f"{op_name}_sensor",
        evaluation_fn=record_changes,
        minimum_interval_seconds=int(configured.interval.total_seconds()),
        default_status=dg.DefaultSensorStatus[configured.default_status],
        description=f"Records runs, restatements and plans of {project.name} that were made outside of Dagster.",
    )
    return dg.Definitions(sensors=[sensor])


def evaluate_tick(
    context: dg.SensorEvaluationContext, project: SQLMeshProject, assets: ProjectAssets, owned: Set[str]
) -> dg.SensorResult:
    """Record data and plans that are new since the last record, and that were made outside of Dagster.

    Args:
        owned: The models of all components of the code location, by fqn.

    Raises:
        SQLMeshComponentError: The state cannot be read, for example because the environment does not exist. Dagster
            shows the tick as failed. The next tick looks again, and nothing is lost.
    """
    environment, now = assets.manifest.environment, int(time.time() * 1000)
    recorded = recorded_data(context.instance, assets.fqn_by_key, environment)
    by_fqn = {fqn: recorded.get(assets.key(fqn)) for fqn in assets.specs}
    try:
        found = find_changes(project, environment, by_fqn, now)
    except DatabaseInUseError as error:
        return dg.SensorResult(skip_reason=f"{error} The next tick looks again.")
    if not found.is_finalized:
        return dg.SensorResult(
            skip_reason=f"Plan {found.plan_id} is updating environment {environment}. The next tick looks again. "
            "If the plan was interrupted, apply it again."
        )
    new, left_to_runs, active = _unrecorded_data(context.instance, assets, found)
    before, after = _earlier_promotion(context), Promotion.of(environment, found)
    events: list[dg.AssetMaterialization | dg.AssetObservation | dg.AssetCheckEvaluation] = []
    for data in new:
        events += [_materialization(assets, found.promoted[data.fqn], data), *_intervals_check(assets, data, now)]
    sentences = []
    if new:
        sentences.append(f"Recorded {counted(len(new), 'model')} computed outside of Dagster: {_names(assets, new)}.")
    if left_to_runs:
        sentences.append(f"Left to run {run_ids(active)}, which has not finished: {_names(assets, left_to_runs)}.")
    differs = difference(assets, found.promoted, environment, owned)
    if before is not None and before.environment == environment and before.plan_id != after.plan_id:
        plan = PlanChanges.between(before, after)
        events += plan.observations(assets, found.promoted, differs)
        sentences += (
            [plan.sentence(assets)] if plan.by_model else []
        )  # a restatement is a plan too, and changes no model
    if not sentences:
        sentences.append("Nothing was computed or promoted outside of Dagster.")
    sentences += [differs] if differs else []
    return dg.SensorResult(
        asset_events=events,
        skip_reason=" ".join(sentences),
        cursor=after.cursor(),
    )


def _unrecorded_data(
    instance: dg.DagsterInstance, assets: ProjectAssets, found: msg.ChangesFound
) -> tuple[list[msg.ComputedData], list[msg.ComputedData], list[ActiveRun]]:
    """The data to record, the data that unfinished runs may have computed and will record, and these runs."""
    if not found.computed:
        return [], [], []
    active = active_runs(instance, assets)
    left_to_runs = {data.fqn for data in found.computed if any(run.may_compute(assets.key(data.fqn)) for run in active)}
    computed = {
        assets.key(data.fqn): (found.promoted[data.fqn].version, data.computed_at)
        for data in found.computed
        if data.fqn not in left_to_runs
    }
    keys = unrecorded(instance, computed, assets.manifest.environment)
    by_fqn = {data.fqn: data for data in found.computed}
    in_order = [by_fqn[fqn] for fqn in assets.parents_first if fqn in by_fqn]
    return (
        [data for data in in_order if assets.key(data.fqn) in keys],
        [data for data in in_order if data.fqn in left_to_runs],
        active,
    )


def _materialization(
    assets: ProjectAssets, promoted: msg.PromotedVersion, data: msg.ComputedData
) -> dg.AssetMaterialization:
    metadata = {
        **outside_metadata(assets.manifest.environment, promoted.version, data.intervals, data.computed_at),
        **coverage_metadata(data.coverage),
    }
    if change := unapplied_change(assets, data.fqn, promoted):
        metadata["sqlmesh/unapplied_change"] = change
    return outside_materialization(assets.key(data.fqn), promoted, data.computed_at, metadata)


def _intervals_check(assets: ProjectAssets, data: msg.ComputedData, now: int) -> Iterator[dg.AssetCheckEvaluation]:
    """The result of the model's intervals check, if it has one."""
    check = dg.AssetCheckKey(assets.key(data.fqn), INTERVALS_CHECK)
    if data.coverage is None or check not in assets.node_by_check:
        return
    result = intervals_result(check, Wording(assets, assets.manifest.environment), data.coverage, now, None)
    yield dg.AssetCheckEvaluation(
        asset_key=check.asset_key,
        check_name=check.name,
        passed=result.passed,
        severity=result.severity,
        description=result.description,
        metadata=result.metadata,
    )


def _earlier_promotion(context: dg.SensorEvaluationContext) -> Promotion | None:
    """The promotion at the previous tick; None at the first one, which has nothing to compare with."""
    if not context.cursor:
        return None
    try:
        return Promotion.from_cursor(context.cursor)
    except ValueError as error:
        context.log.warning(f"{error}. Plans since the previous tick are not reported.")
        return None


def _names(assets: ProjectAssets, data: Sequence[msg.ComputedData]) -> str:
    return listed([assets.name(found.fqn) for found in data])
