"""The sensor of a component, and one tick of it.

A tick compares SQLMesh's state with Dagster's records, and records the difference. It reads the state first, then the
unfinished runs, then the records again. So data of our own runs is recorded by then, or left to an unfinished run.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

import dagster as dg
from pydantic import ValidationError

from dg_sqlmesh_component.capabilities.polling_sensor.attributes import PollingSensor
from dg_sqlmesh_component.capabilities.polling_sensor.messages import ChangesFound, ChangesRequest
from dg_sqlmesh_component.capabilities.polling_sensor.plans import CURSOR, LastPlan, PlanChanges, difference
from dg_sqlmesh_component.dagster_internals.steps import DataVersions
from dg_sqlmesh_component.definitions.project_assets import ProjectAssets
from dg_sqlmesh_component.definitions.settings import Settings
from dg_sqlmesh_component.history.active_runs import active_runs, run_ids
from dg_sqlmesh_component.history.check_results import results_of_same_data, with_named_outdated
from dg_sqlmesh_component.history.origins import Origin, origins
from dg_sqlmesh_component.history.records import OutsideData, materialized_data, outside_data, recorded_data
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.errors import DatabaseInUseError
from dg_sqlmesh_component.protocol.formatting import counted, listed
from dg_sqlmesh_component.protocol.graph import grouped
from dg_sqlmesh_component.report.checks import Checks
from dg_sqlmesh_component.report.results import outside_materialization
from dg_sqlmesh_component.report.wording import Wording
from dg_sqlmesh_component.worker_client.calls import answered


def build_sensor(configured: PollingSensor, settings: Settings) -> dg.Definitions:
    """The sensor that records runs and plans made outside of Dagster."""
    if not settings.assets.specs:
        return dg.Definitions()

    sensor = dg.SensorDefinition(
        name=f"{settings.op}_sensor",
        evaluation_fn=lambda context: evaluate_tick(context, settings),
        minimum_interval_seconds=int(configured.interval.total_seconds()),
        default_status=dg.DefaultSensorStatus[configured.default_status],
        description=f"Records runs, restatements and plans of {settings.project.name} that were made outside of "
        "Dagster.",
    )
    return dg.Definitions(sensors=[sensor])


def evaluate_tick(context: dg.SensorEvaluationContext, settings: Settings) -> dg.SensorResult:
    """Record data and plans that are new since the last record, and that were made outside of Dagster.

    Raises:
        SQLMeshComponentError: The state cannot be read, for example because the environment does not exist. Dagster
            shows the tick as failed. The next tick looks again, and nothing is lost.
    """
    instance, assets, environment = context.instance, settings.assets, settings.environment
    now = int(time.time() * 1000)
    models = assets.with_upstream(assets.specs)
    records = msg.Records(materialized_data(instance, assets, models))
    awaited = settings.ports.awaited(instance, context.repository_def, settings)
    request = ChangesRequest(settings.project.open_request, environment, records, awaited.tables, now)
    try:
        found = answered(settings.project, request, ChangesFound, awaited.answer)
    except DatabaseInUseError as error:
        return dg.SensorResult(skip_reason=f"{error} The next tick looks again.")
    if not found.is_finalized:
        return dg.SensorResult(
            skip_reason=f"Plan {found.plan_id} is updating environment {environment}. The next tick looks again. "
            "If the plan was interrupted, apply it again."
        )
    compared = found.compared.unrecorded
    # Most ticks find nothing, and need no further query.
    active = active_runs(instance, settings) if compared else []
    known = recorded_data(instance, assets, [of.fqn for of in compared]) if compared else {}
    new, left_to_runs = outside_data(compared, with_named_outdated(instance, assets, known, compared), active)
    by_model = origins(instance, settings, new)
    events: list[_Event] = [*_events(context, settings, new, by_model, now)]
    sentences = [
        f"Recorded {counted(len(models_of), 'model')} {what}: {_names(assets, models_of)}."
        for what, models_of in grouped((_what(by_model.get(data.fqn), environment), data.fqn) for data in new).items()
    ]
    if left_to_runs:
        names = _names(assets, left_to_runs)
        sentences.append(f"Will be recorded by run {run_ids(active)}, which has not finished: {names}.")
    differs = difference(assets, found.promoted, environment, settings.owned)
    before, last = _earlier_plan(context), LastPlan.of(environment, found, assets)
    if before is not None and before.environment == environment and before.plan_id != last.plan_id:
        recorded = recorded_data(instance, assets, models)
        plan = PlanChanges.between(before, found, recorded)
        after = {**recorded, **{data.fqn: data.record for data in new}}
        events += plan.observations(assets, found.promoted, after, differs)
        if plan.by_model:  # a restatement is a plan too, and changes no model
            sentences.append(plan.sentence(assets))
    if not sentences:
        sentences.append("Nothing was computed or promoted outside of Dagster.")
    sentences += [differs] if differs else []
    return dg.SensorResult(asset_events=events, skip_reason=" ".join(sentences), cursor=CURSOR.dump_json(last).decode())


_Event: TypeAlias = dg.AssetMaterialization | dg.AssetObservation | dg.AssetCheckEvaluation


def _events(
    context: dg.SensorEvaluationContext,
    settings: Settings,
    new: Iterable[OutsideData],
    by_model: Mapping[str, Origin],
    now: int,
) -> Iterator[_Event]:
    """The materializations of new data, each with its checks."""
    assert context.repository_def is not None, "Dagster evaluates a sensor with its definitions"
    instance, assets, graph = context.instance, settings.assets, context.repository_def.asset_graph
    versions = DataVersions(instance, lambda key: graph.get(key).parent_keys)
    checks = Checks(Wording(assets, settings.environment), now)
    for data in new:
        yield outside_materialization(assets, data, versions, {}, by_model.get(data.fqn))
        yield from results_of_same_data(instance, assets, data)
        yield from checks.evaluations(assets.checks_of(data.fqn), data)


def _what(origin: Origin | None, environment: str) -> str:
    """What was recorded of a model: as in "Recorded 2 models computed outside of Dagster"."""
    if origin is None:
        return "promoted again outside of Dagster"
    again = "again, because Dagster had no record of data " if origin.is_again(environment) else ""
    return f"{again}computed {origin.clause(environment)}"


def _earlier_plan(context: dg.SensorEvaluationContext) -> LastPlan | None:
    """The plan at the previous tick; None at the first one, which has nothing to compare with."""
    if not context.cursor:
        return None
    try:
        return CURSOR.validate_json(context.cursor)
    except ValidationError:
        context.log.warning(
            f"{context.cursor[:60]!r} is no cursor of this sensor. Plans since the previous tick are not reported."
        )
        return None


def _names(assets: ProjectAssets, models: Sequence[str]) -> str:
    return listed([assets.name(fqn) for fqn in models])
