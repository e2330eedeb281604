"""The sensor that requests models when an asset that loads their source is materialized (`schedule.on_sources`).

It looks again when a blocking check of the asset has a result: the check may run after the load, and refuse it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping

import dagster as dg

from dg_sqlmesh_component.capabilities.schedule.attributes import Schedule
from dg_sqlmesh_component.capabilities.schedule.ready import late_results, ready_models, restatements
from dg_sqlmesh_component.capabilities.schedule.tick import choose_assets, too_many
from dg_sqlmesh_component.capabilities.sources.awaited import LatestLoad, latest_loads
from dg_sqlmesh_component.capabilities.sources.late_loads import source_loads
from dg_sqlmesh_component.config.scheduling import SHORTEST_INTERVAL
from dg_sqlmesh_component.dagster_internals.assets import assets_downstream, assets_upstream
from dg_sqlmesh_component.definitions.settings import Settings
from dg_sqlmesh_component.history.active_runs import active_runs
from dg_sqlmesh_component.history.earlier_results import evaluation_of
from dg_sqlmesh_component.protocol.errors import DatabaseInUseError
from dg_sqlmesh_component.protocol.formatting import listed, short_hash


def build_source_sensor(configured: Schedule, name: str, job: str, settings: Settings) -> dg.SensorDefinition:
    """The sensor of a component, named after its schedule."""

    return dg.SensorDefinition(
        name=f"{name}_on_sources",
        job_name=job,
        evaluation_fn=lambda context: evaluate_tick(context, name, configured.tags, settings),
        minimum_interval_seconds=SHORTEST_INTERVAL.seconds,
        default_status=dg.DefaultSensorStatus[configured.default_status],
        description=f"Runs the SQLMesh models of {settings.project.name} that are ready after an asset has loaded one "
        "of their sources.",
    )


def evaluate_tick(
    context: dg.SensorEvaluationContext, name: str, tags: Mapping[str, str], settings: Settings
) -> dg.SensorResult | dg.SkipReason:
    """Request a run of the models that are ready and read a source with a new load, and of pending models upstream.

    SQLMesh is started only if a source has a new load. The cursor has the newest events of each source. It moves on
    when a run is requested, or when no run is needed, so a backfill of many partitions makes few runs.

    Late data is compared too (`external_models.late`): the checks of models with late data warn, and a run of the
    oldest late range is requested if no run is in progress. Until each range was requested, the cursor stays.

    Raises:
        SQLMeshComponentError: The state cannot be read. The next tick looks again.
    """
    seen: dict[str, str] = json.loads(context.cursor) if context.cursor else {}
    events = latest_loads(context.instance, context.repository_def, settings)
    new_loads = {fqn: event for fqn, event in events.items() if seen.get(fqn) != event.mark}
    if not new_loads:
        return dg.SkipReason("No source was loaded or checked since the last tick.")
    assets, active = settings.assets, active_runs(context.instance, settings)
    if full := too_many(active):
        return full
    source = source_loads(context.instance, context.repository_def, settings)
    compared = source.compare(assets.downstream_of(new_loads)) if source else None
    try:
        ready = ready_models(context, settings, int(time.time() * 1000), compared.loads if compared else {})
    except DatabaseInUseError as error:
        return dg.SkipReason(f"{error} The next tick looks again.")
    cursor = json.dumps({fqn: event.mark for fqn, event in events.items()}, sort_keys=True)
    named = listed(sorted({event.asset.to_user_string() for event in new_loads.values()}))
    requests, reason = [], f"Loaded or checked: {named}. It makes no model ready."
    if made_ready := _made_ready(context, ready.pending, new_loads, settings):
        chosen = choose_assets(context, settings, active, made_ready)
        if isinstance(chosen, dg.SkipReason):
            reason = chosen.skip_message or reason
        else:
            requests.append(dg.RunRequest(f"{name} {short_hash([cursor])}", asset_selection=chosen, tags=dict(tags)))
    late = list(restatements(context.instance, settings, compared, ready)) if compared else []
    now = late[:1] if not active else []
    return dg.SensorResult(
        run_requests=[*now, *requests],
        skip_reason=None if requests or now else reason,
        cursor=cursor if now == late else (context.cursor or "{}"),
        asset_events=[evaluation_of(result) for result in late_results(settings, compared, ready)] if compared else [],
    )


def _made_ready(
    context: dg.SensorEvaluationContext,
    pending: Mapping[str, tuple[int, str]],
    new_loads: Mapping[str, LatestLoad],
    settings: Settings,
) -> dict[str, tuple[int, str]]:
    """The ready models downstream of sources with a new load. A run that began before it does not compute them.

    The run would compute nothing without the ready models upstream of these, also through other assets.
    """
    newest: dict[str, int] = {}
    for fqn, event in new_loads.items():
        for model in settings.assets.downstream_of([fqn]) & pending.keys():
            newest[model] = max(newest.get(model, 0), event.at)
    if not newest:
        return {}
    made_ready = {settings.assets.key(fqn) for fqn in newest}
    keys = made_ready | assets_upstream(context.repository_def, assets_downstream(context.repository_def, made_ready))
    return {
        fqn: (max(tick, newest.get(fqn, 0)), why)
        for fqn, (tick, why) in pending.items()
        if settings.assets.key(fqn) in keys
    }
