"""Which models are ready, and which data is late: what a tick and the sensor on sources read in SQLMesh's state.

If no pending interval of a model is ready, the model waits, and is not requested. Models that read it through an asset
of another component wait too: the asset and they run when the model is ready.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from datetime import datetime, timezone

import dagster as dg

from dg_sqlmesh_component.capabilities.schedule.messages import PendingFound, PendingRequest
from dg_sqlmesh_component.capabilities.sources.awaited import AwaitedSources
from dg_sqlmesh_component.capabilities.sources.late_loads import LoadComparison
from dg_sqlmesh_component.dagster_internals.assets import assets_between, assets_downstream
from dg_sqlmesh_component.definitions.awaited import Source
from dg_sqlmesh_component.definitions.project_assets import ProjectAssets
from dg_sqlmesh_component.definitions.settings import Settings
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.formatting import listed, ranges, short_hash
from dg_sqlmesh_component.protocol.graph import grouped
from dg_sqlmesh_component.report.causes import CauseWording
from dg_sqlmesh_component.report.wording import Wording, restate_bounds
from dg_sqlmesh_component.worker_client.calls import EARLY_WORKERS, answered


@dataclass(frozen=True)
class Ready:
    """What a tick has found in SQLMesh's state."""

    # The pending models that are ready, each with its last tick (epoch milliseconds) and why it is pending.
    pending: Mapping[str, tuple[int, str]]
    why_none: str  # why none of them is ready
    # The ranges of each model whose source was loaded after they were computed.
    late: Mapping[str, Sequence[msg.Interval]] = field(default_factory=dict)
    # Those of them before the `start` of the model.
    before_start: Mapping[str, Sequence[msg.Interval]] = field(default_factory=dict)
    # Those of them that a run can restate, because their sources are loaded.
    restatable: Mapping[str, Sequence[msg.Interval]] = field(default_factory=dict)


def ready_models(
    context: dg.ScheduleEvaluationContext | dg.SensorEvaluationContext, settings: Settings, now: int, loads: msg.Loads
) -> Ready:
    """The pending models that are ready, and the late data of these loads.

    Raises:
        DatabaseInUseError: Another process has the DuckDB file of the state open.
    """
    assets, project = settings.assets, settings.project
    if settings.attributes.external_models.wait is not None:
        EARLY_WORKERS.start(project)  # it imports SQLMesh while Dagster's events are read
    awaited = AwaitedSources(context.instance, context.repository_def, settings)
    sources = awaited.sources
    # An asset between two models of a run runs in that run, and is complete when its reader begins.
    between = assets_between(context.repository_def, assets.fqn_by_key.keys()) if sources else frozenset()
    request = PendingRequest(
        project.open_request,
        assets.manifest.environment,
        frozenset(assets.specs),
        now,
        tables=awaited.tables,
        made_between=frozenset(fqn for fqn, source in sources.items() if source.asset in between),
        loads=loads,
    )
    found = answered(project, request, PendingFound, awaited.answer)
    if found.signal_error is not None:
        context.log.warning(
            "This tick requests all pending models, even those that wait, because SQLMesh could not evaluate "
            f"{found.signal_error}"
        )
    pending = {fqn: (tick, f"pending: {ranges(found.intervals[fqn])}") for fqn, tick in found.pending.items()}
    why_none = "No model has pending intervals."
    if waiting := _all_waiting(context.repository_def, assets, found, sources):
        named = _by_cause(CauseWording(assets, sources), waiting)
        what = "signals and sources" if sources else "signals"
        pending = {fqn: of for fqn, of in pending.items() if fqn not in waiting}
        if pending:
            context.log.info(f"Not requested, because they wait for {what}: {named}.")
        why_none = f"No pending model is ready. Waiting for {what}: {named}. The next tick looks again."
    elif found.next_due is None:
        why_none += f" No model is promoted in environment {assets.manifest.environment!r}."
    else:
        due, fqn = found.next_due
        at = datetime.fromtimestamp(due / 1000, timezone.utc)
        why_none += f" The next is {assets.name(fqn)}, at {at:%Y-%m-%d %H:%M:%S} UTC."
    return Ready(pending, why_none, found.late, found.before_start, found.restatable)


def _by_cause(wording: CauseWording, waiting: Mapping[str, msg.HeldBack]) -> str:
    """The waiting models, grouped by their cause."""
    models = sorted(waiting, key=wording.assets.name)
    by_cause = grouped((wording.text(fqn, waiting[fqn]) or "upstream", wording.assets.name(fqn)) for fqn in models)
    return listed([f"{listed(models)} ({why})" for why, models in by_cause.items()])


def _all_waiting(
    repository: dg.RepositoryDefinition | None,
    assets: ProjectAssets,
    found: PendingFound,
    sources: Mapping[str, Source],
) -> Mapping[str, msg.HeldBack]:
    """The models that would wait in a run of the other pending models, and why."""
    waiting = {**found.waiting}
    while ready := found.pending.keys() - waiting.keys():
        made = assets_between(repository, {assets.key(fqn) for fqn in ready}) if found.needed else frozenset()
        missing = {fqn: [of for of in found.needed.get(fqn, ()) if sources[of].asset not in made] for fqn in ready}
        more = {
            fqn: msg.HeldBack(tuple(msg.Cause("source", table) for table in tables), found.intervals.get(fqn, ()))
            for fqn, tables in missing.items()
            if tables
        }
        if not more and waiting:
            more = dict.fromkeys(_downstream_of_others(repository, assets, waiting.keys(), ready), msg.HeldBack())
        if not more:
            break
        waiting |= more
    return waiting


def _downstream_of_others(
    repository: dg.RepositoryDefinition | None, assets: ProjectAssets, waits: Set[str], pending: Set[str]
) -> set[str]:
    """The ready models downstream of other components' assets that are downstream of a waiting model."""
    waiting, ready = ({assets.key(fqn) for fqn in models} for models in (waits, pending))
    between = assets_between(repository, waiting | ready) & assets_downstream(repository, waiting)
    held_back = assets_downstream(repository, between - assets.fqn_by_key.keys()) & ready
    return {assets.fqn_by_key[key] for key in held_back}


# -- late data (`external_models.late`) --------------------------------------------------------------

_RUN_KEY_TAG = "dagster/run_key"
"""Dagster's tag of a requested run."""


def restatements(
    instance: dg.DagsterInstance, settings: Settings, compared: LoadComparison, ready: Ready
) -> Iterator[dg.RunRequest]:
    """Request a run for each late range without a request, the oldest first.

    Schedule and sensor give the same run key, so a restatement that failed is not requested again before the range is
    loaded again.
    """
    schedule, component = settings.attributes.schedule, [settings.op, settings.state_tag]
    if settings.attributes.external_models.late != "restate" or schedule is None:
        return
    models_by_range = grouped((interval, fqn) for fqn, intervals in ready.restatable.items() for interval in intervals)
    newest = compared.newest_loads(models_by_range)
    for (start, end), models in sorted(models_by_range.items()):
        run_key = f"late data {short_hash([*component, *sorted(models), f'{start} {end} {newest[start, end]}'])}"
        if instance.get_runs(dg.RunsFilter(tags={_RUN_KEY_TAG: run_key}), limit=1):
            continue
        first, last = restate_bounds(start, end)
        yield dg.RunRequest(
            run_key=run_key,
            asset_selection=sorted(settings.assets.key(fqn) for fqn in models),
            run_config={"ops": {settings.op: {"config": {"restate": {"start": first, "end": last}}}}},
            tags=dict(schedule.tags),
        )


def late_results(settings: Settings, compared: LoadComparison, ready: Ready) -> Iterator[dg.AssetCheckResult]:
    """The results of the checks of the models with late data that their last results do not name."""
    wording = Wording(settings.assets, settings.environment)
    for fqn, late in ready.late.items():
        check = settings.assets.late_data_check(fqn)
        if check is not None and not compared.is_reported(fqn, late):
            yield compared.result(wording, check, late, before_start=ready.before_start.get(fqn, ()))
