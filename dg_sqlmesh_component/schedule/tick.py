"""One tick of a schedule: it requests a run of the models with pending intervals, or explains why it does not.

A tick requests the models that `sqlmesh run` would compute at that moment, without those that a run in progress is
about to compute. A run computes the intervals that are pending when it starts. So it covers a model that it has
selected, if the model's cron has not ticked since the run started.

If no pending interval of a model is ready, the model waits, and a tick does not request it. Models that read it through
an asset of another component wait too: the asset and they run when the model is ready.

While one run is in progress, the next one waits for the lock. A third one would only wait too: the tick is skipped, and
the next tick requests the models that are still pending.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

import dagster as dg

from dg_sqlmesh_component.dagster_internals import assets_between, assets_downstream, last_cron_tick
from dg_sqlmesh_component.definitions.project_assets import ProjectAssets
from dg_sqlmesh_component.definitions.settings import Settings
from dg_sqlmesh_component.history.active_runs import ActiveRun, active_runs, run_ids
from dg_sqlmesh_component.history.sources import Source, awaited_sources
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.errors import DatabaseInUseError
from dg_sqlmesh_component.protocol.formatting import MAX_LISTED, counted, listed, utc_text
from dg_sqlmesh_component.protocol.manifest import Model
from dg_sqlmesh_component.protocol.messages import PendingFound
from dg_sqlmesh_component.report.wording import MAX_CAUSES, ranges
from dg_sqlmesh_component.worker_client.calls import find_pending
from dg_sqlmesh_component.worker_client.start import EARLY_WORKERS

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
) -> dg.RunRequest | dg.SkipReason:
    """Request a run of the pending models, or give the reason why none is requested.

    Raises:
        SQLMeshComponentError: The state cannot be read, for example because the environment does not exist. Dagster
            shows the tick as failed. The next tick requests the models that are still pending.
    """
    active = active_runs(context.instance, settings.assets)
    if full := too_many(active):
        return full
    pending, why_none = _pending(context, timetable, settings)
    if not pending:
        return dg.SkipReason(why_none)
    run_key = f"{timetable.name} {context.scheduled_execution_time.isoformat()}"
    return request_run(context, settings.assets, active, pending, run_key, tags)


def too_many(active: Sequence[ActiveRun]) -> dg.SkipReason | None:
    """Why no run is requested, if two runs have not finished."""
    if len(active) < MOST_RUNS:
        return None
    return dg.SkipReason(
        f"{counted(len(active), 'run')} of these models have not finished: {run_ids(active)}. The next tick "
        "requests the models that are still pending. If one of the runs has died, terminate it in Dagster."
    )


def request_run(
    context: dg.ScheduleEvaluationContext | dg.SensorEvaluationContext,
    assets: ProjectAssets,
    active: Sequence[ActiveRun],
    pending: Mapping[str, tuple[int, str]],
    run_key: str,
    tags: Mapping[str, str],
) -> dg.RunRequest | dg.SkipReason:
    """Request a run of pending models, and of the assets between them, without those that a run in progress computes.

    Args:
        pending: Since when each model is pending (epoch milliseconds), and why, by fqn.
    """
    requested = {
        assets.key(fqn): f"{assets.name(fqn)}: {why}"
        for fqn, (ticked_at, why) in pending.items()
        if not any(run.covers(assets.key(fqn), ticked_at) for run in active)
    }
    if not requested:
        return dg.SkipReason(
            f"Run {run_ids(active)} has not finished, and computes these pending models: "
            f"{listed(sorted(assets.name(fqn) for fqn in pending))}."
        )
    if active:
        context.log.info(f"Run {run_ids(active)} has not finished. The requested run waits until it ends.")
    between = assets_between(context.repository_def, requested.keys()) - assets.fqn_by_key.keys()
    context.log.info("\n    ".join([f"Requested: {counted(len(requested), 'model')}.", *requested.values()]))
    return dg.RunRequest(
        run_key=run_key,
        asset_selection=sorted(requested.keys() | between),
        tags=dict(tags),
    )


def _pending(
    context: dg.ScheduleEvaluationContext, timetable: Timetable, settings: Settings
) -> tuple[dict[str, tuple[int, str]], str]:
    """The ready pending models, each with its last tick and why it is pending, and the reason if there are none."""
    assets = settings.assets
    scheduled = context.scheduled_execution_time
    now = max(int(scheduled.timestamp() * 1000), int(time.time() * 1000))  # a missed tick is evaluated later
    try:
        return ready_models(context, settings, now)
    except DatabaseInUseError as error:
        context.log.warning(
            f"The SQLMesh state cannot be read: {error} The tick requests the models whose cron (from the manifest) "
            "has ticked since the previous tick."
        )
        models = {fqn: assets.models[fqn] for fqn in assets.specs}
        ticked = ticked_models(models, timetable.crons, timetable.time_zone, scheduled)
        return {fqn: (tick, f"its cron has ticked at {utc_text(tick)}") for fqn, tick in ticked.items()}, (
            "The SQLMesh state cannot be read, and no model's cron has ticked since the previous tick. The next tick "
            f"requests all pending models. {error}"
        )


def ready_models(
    context: dg.ScheduleEvaluationContext | dg.SensorEvaluationContext, settings: Settings, now: int
) -> tuple[dict[str, tuple[int, str]], str]:
    """The pending models that are ready, each with its last tick and why it is pending, and why there are none.

    Raises:
        DatabaseInUseError: Another process has the DuckDB file of the state open.
    """
    assets = settings.assets
    if settings.attributes.external_models.wait is not None:
        EARLY_WORKERS.start(settings.project)  # it imports SQLMesh while Dagster's events are read
    sources = awaited_sources(context.instance, context.repository_def, settings)
    # An asset between two models runs in the same run, and is complete when its reader begins.
    between = assets_between(context.repository_def, assets.fqn_by_key.keys()) if sources else frozenset()
    incomplete = {fqn: source.incomplete for fqn, source in sources.items() if source.asset not in between}
    request = msg.PendingRequest(
        settings.project.open_request,
        assets.manifest.environment,
        frozenset(assets.specs),
        now,
        sources=incomplete,
        tables_read=_tables_read(assets, incomplete),
    )
    found = find_pending(settings.project, request)
    if found.signal_error is not None:
        context.log.warning(
            "SQLMesh could not evaluate the signals, so this tick requests all pending models, even those that wait: "
            f"{found.signal_error}"
        )
    pending = {fqn: (tick, f"pending: {ranges(found.intervals[fqn])}") for fqn, tick in found.pending.items()}
    if found.waiting:
        waiting = {**found.waiting, **dict.fromkeys(_downstream_of_others(context.repository_def, assets, found), ())}
        names = sorted(waiting, key=assets.name)
        shown = [f"{assets.name(fqn)} ({_causes(waiting[fqn], sources)})" for fqn in names[:MAX_LISTED]]
        named = listed([*shown, *names[MAX_LISTED:]])
        what = "signals and sources" if sources else "signals"
        if ready := {fqn: of for fqn, of in pending.items() if fqn not in waiting}:
            context.log.info(f"Not requested, because they wait for {what}: {named}.")
        return ready, f"No pending model is ready. Waiting for {what}: {named}. The next tick looks again."
    none = "No model has pending intervals."
    if found.next_due is None:
        return pending, f"{none} No model is promoted in environment {assets.manifest.environment!r}."
    due, fqn = found.next_due
    at = datetime.fromtimestamp(due / 1000, timezone.utc)
    return pending, f"{none} The next is {assets.name(fqn)}, at {at:%Y-%m-%d %H:%M:%S} UTC."


def _tables_read(assets: ProjectAssets, sources: msg.Sources) -> dict[str, msg.TablesRead]:
    """Which awaited tables each model reads, as far as the manifest knows."""
    return {
        fqn: msg.TablesRead(model.data_hash, tuple(sorted(sources.keys() & model.depends_on)))
        for fqn, model in assets.models.items()
        if sources
    }


def _causes(names: Sequence[str], sources: Mapping[str, Source]) -> str:
    """The first signals that are not ready, or assets that are not complete."""
    shown = [sources[name].sentence if name in sources else name for name in names[:MAX_CAUSES]]
    return listed([*shown, *names[MAX_CAUSES:]], MAX_CAUSES) or "upstream"


def ticked_models(models: Mapping[str, Model], crons: Sequence[str], time_zone: str, now: datetime) -> dict[str, int]:
    """The models whose cron has ticked since the previous tick of a schedule, and when, in epoch milliseconds."""
    before = now.astimezone(timezone.utc) - timedelta(seconds=1)
    previous = max(last_cron_tick(cron, time_zone, before) for cron in crons)
    ticks = {fqn: last_cron_tick(model.cron, model.cron_tz or UTC, now) for fqn, model in models.items()}
    return {fqn: int(tick.timestamp() * 1000) for fqn, tick in ticks.items() if tick > previous}


def _downstream_of_others(
    repository: dg.RepositoryDefinition | None, assets: ProjectAssets, found: PendingFound
) -> set[str]:
    """The ready models downstream of other components' assets that are downstream of a waiting model."""
    waiting, ready = ({assets.key(fqn) for fqn in models} for models in (found.waiting, found.pending))
    between = assets_between(repository, waiting | ready) & assets_downstream(repository, waiting)
    held_back = assets_downstream(repository, between - assets.fqn_by_key.keys()) & ready
    return {assets.fqn_by_key[key] for key in held_back}
