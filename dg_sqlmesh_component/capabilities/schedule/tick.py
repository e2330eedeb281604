"""One tick of a schedule: it requests a run of the models with pending intervals, or explains why it does not.

A tick requests the models that `sqlmesh run` would compute at that moment, without those that a run in progress is
about to compute. A run computes the intervals that are pending when it starts. So it covers a model that it has
selected, if the model's cron has not ticked since the run started.

While one run is in progress, the next one waits for the lock. A third one would only wait too: the tick is skipped, and
the next tick requests the models that are still pending.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

import dagster as dg

from dg_sqlmesh_component.capabilities.schedule.ready import Ready, ready_models, restatements
from dg_sqlmesh_component.capabilities.sources.late_loads import source_loads
from dg_sqlmesh_component.dagster_internals.assets import (
    assets_between,
    assets_downstream,
    assets_upstream,
    last_cron_tick,
)
from dg_sqlmesh_component.definitions.settings import Settings
from dg_sqlmesh_component.history.active_runs import ActiveRun, active_runs, run_ids
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.errors import DatabaseInUseError
from dg_sqlmesh_component.protocol.formatting import counted, listed, utc_text
from dg_sqlmesh_component.protocol.manifest import Model

UTC = "UTC"

MOST_RUNS = 2
"""Runs of a component that may be unfinished: one that computes, and one that waits for it."""


@dataclass(frozen=True)
class Timetable:
    """A schedule: its name, and the crons at whose ticks it looks for pending models."""

    name: str
    crons: Sequence[str]
    time_zone: str


def evaluate_tick(
    context: dg.ScheduleEvaluationContext, timetable: Timetable, tags: Mapping[str, str], settings: Settings
) -> Sequence[dg.RunRequest | dg.SkipReason]:
    """Request a run of the pending models, or give the reason why none is requested.

    If no run is in progress, also request a run of the oldest range with late data (`external_models.late: restate`).

    Raises:
        SQLMeshComponentError: The state cannot be read, for example because the environment does not exist. Dagster
            shows the tick as failed. The next tick requests the models that are still pending.
    """
    active = active_runs(context.instance, settings)
    if full := too_many(active):
        return [full]
    restates = settings.attributes.external_models.late == "restate" and not active
    source = source_loads(context.instance, context.repository_def, settings) if restates else None
    compared = source.compare(settings.assets.specs) if source else None
    ready = _ready(context, timetable, settings, compared.loads if compared else {})
    late = next(restatements(context.instance, settings, compared, ready), None) if compared else None
    request: dg.RunRequest | dg.SkipReason = dg.SkipReason(ready.why_none)
    if ready.pending:
        chosen = choose_assets(context, settings, active, ready.pending)
        run_key = f"{timetable.name} {context.scheduled_execution_time.isoformat()}"
        if isinstance(chosen, dg.SkipReason):
            request = chosen
        else:
            request = dg.RunRequest(run_key, asset_selection=chosen, tags=dict(tags))
    if late is None:
        return [request]
    return [late, request] if isinstance(request, dg.RunRequest) else [late]


def too_many(active: Sequence[ActiveRun]) -> dg.SkipReason | None:
    """Why no run is requested, if two runs have not finished."""
    runs = [run for run in active if not run.is_change and not run.is_backfill]
    if len(runs) < MOST_RUNS:
        return None
    return dg.SkipReason(
        f"{counted(len(runs), 'run')} of these models have not finished: {run_ids(runs)}. The next tick "
        "requests the models that are still pending. If one of the runs has died, terminate it in Dagster."
    )


def choose_assets(
    context: dg.ScheduleEvaluationContext | dg.SensorEvaluationContext,
    settings: Settings,
    before: Sequence[ActiveRun],
    pending: Mapping[str, tuple[int, str]],
) -> list[dg.AssetKey] | dg.SkipReason:
    """The assets of pending models, and others and views between them, without models that a run in progress computes.

    `pending` says since when each model is pending (epoch milliseconds), and why, by fqn. `before` has the runs in
    progress before SQLMesh read this in the state.
    """
    # Meanwhile, one of those may have computed its models, and another schedule or sensor may have requested a run.
    assets, active = settings.assets, active_runs(context.instance, settings)
    computing = {run.run_id: run for run in (*before, *active)}.values()
    requested = {
        assets.key(fqn): f"{assets.name(fqn)}: {why}"
        for fqn, (ticked_at, why) in pending.items()
        if not any(run.covers(assets.key(fqn), ticked_at) for run in computing)
    }
    if not requested:
        ticks = [(assets.key(fqn), ticked_at) for fqn, (ticked_at, _) in pending.items()]
        covering = [run for run in computing if any(run.covers(*tick) for tick in ticks)]
        return dg.SkipReason(
            f"Run {run_ids(covering)} has not finished, and computes these pending models: "
            f"{listed(sorted(assets.name(fqn) for fqn in pending))}."
        )
    if changes := [run for run in active if run.is_change]:
        context.log.info(f"Run {run_ids(changes)} applies a plan. If the state is on a server, runs go on meanwhile.")
    # Queued runs of a backfill begin after the requested one.
    if runs := [run for run in active if not run.is_change and (run.started_at or not run.is_backfill)]:
        context.log.info(f"Run {run_ids(runs)} has not finished. The requested run waits until it ends.")
    between = assets_between(context.repository_def, requested.keys())
    others = between - assets.fqn_by_key.keys()
    # Dagster creates no run of models around another asset that leaves out a virtual asset between them (ADR-0018).
    # Other views are left out: one that no plan has promoted yet would fail the run.
    repository = context.repository_def
    sides = assets_upstream(repository, others) | assets_downstream(repository, others) if others else frozenset()
    own = {key: assets.specs[assets.fqn_by_key[key]] for key in between & sides - others}
    views = {key for key, spec in own.items() if getattr(spec, "is_virtual", False)}
    context.log.info("\n    ".join([f"Requested: {counted(len(requested), 'model')}.", *requested.values()]))
    return sorted(requested.keys() | others | views)


def _ready(context: dg.ScheduleEvaluationContext, timetable: Timetable, settings: Settings, loads: msg.Loads) -> Ready:
    """What the state has; if it cannot be read, the models whose cron has ticked."""
    assets = settings.assets
    scheduled = context.scheduled_execution_time
    now = max(int(scheduled.timestamp() * 1000), int(time.time() * 1000))  # a missed tick is evaluated later
    try:
        return ready_models(context, settings, now, loads)
    except DatabaseInUseError as error:
        context.log.warning(
            f"The SQLMesh state cannot be read: {error} The tick requests the models whose cron (from the manifest) "
            "has ticked since the previous tick."
        )
        models = {fqn: assets.models[fqn] for fqn in assets.specs}
        ticked = ticked_models(models, timetable.crons, timetable.time_zone, scheduled)
        return Ready(
            {fqn: (tick, f"its cron has ticked at {utc_text(tick)}") for fqn, tick in ticked.items()},
            "The SQLMesh state cannot be read, and no model's cron has ticked since the previous tick. The next tick "
            f"requests all pending models. {error}",
        )


def ticked_models(models: Mapping[str, Model], crons: Sequence[str], time_zone: str, now: datetime) -> dict[str, int]:
    """The models whose cron has ticked since the previous tick of a schedule, and when, in epoch milliseconds."""
    before = now.astimezone(timezone.utc) - timedelta(seconds=1)
    previous = max(last_cron_tick(cron, time_zone, before) for cron in crons)
    ticks = {fqn: last_cron_tick(model.cron, model.cron_tz or UTC, now) for fqn, model in models.items()}
    return {fqn: int(tick.timestamp() * 1000) for fqn, tick in ticks.items() if tick > previous}
