"""The jobs for backfills in Dagster's UI: each run restates one range of time of some models.

The assets have no partitions (ADR-0033), and Dagster accepts a partition of the run of a job of assets only if they
have them. So these are jobs of ops, which compute the assets as the component's own op does (ADR-0061).
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import Any

import dagster as dg

from dg_sqlmesh_component.capabilities.restatements.attributes import RestateJob
from dg_sqlmesh_component.config.attribute_types import selectors
from dg_sqlmesh_component.config.external_tables import matching_tables
from dg_sqlmesh_component.dagster_internals.assets import last_cron_tick
from dg_sqlmesh_component.dagster_internals.steps import JobOfAssets
from dg_sqlmesh_component.definitions.op import Compute, graph_of_op, refuse_op_name, refuse_reserved_tags
from dg_sqlmesh_component.definitions.project_assets import ProjectAssets, selected_models
from dg_sqlmesh_component.definitions.settings import Settings
from dg_sqlmesh_component.history.active_runs import RESTATES_TAG
from dg_sqlmesh_component.protocol.errors import ConfigurationError
from dg_sqlmesh_component.protocol.formatting import block
from dg_sqlmesh_component.protocol.graph import reachable
from dg_sqlmesh_component.protocol.manifest import Model
from dg_sqlmesh_component.report.wording import restate_bounds

_PARTITIONS: dict[str, Callable[..., dg.TimeWindowPartitionsDefinition]] = {
    "hour": dg.HourlyPartitionsDefinition,
    "day": dg.DailyPartitionsDefinition,
    "week": partial(dg.WeeklyPartitionsDefinition, day_offset=1),
    "month": dg.MonthlyPartitionsDefinition,
}

_HOURS = {"hour": 1, "day": 24, "week": 7 * 24, "month": 30 * 24}
"""The length of each partition, about."""

_SHORTEST_MONTH = 28 * 24 * 3_600_000
"""The length of a month for SQLMesh, in milliseconds."""

_TAGS = {"dagster/priority": "-1"}
"""A run of a schedule begins before the queued runs of a backfill."""


def build_backfill_jobs(
    settings: Settings, op: dg.AssetsDefinition, compute: Compute, with_answer: Callable[..., ProjectAssets]
) -> dg.Definitions:
    """The jobs of `restate.jobs`. `with_answer` returns the assets with SQLMesh's answer to a selection."""
    restate, jobs = settings.attributes.restate, []
    for configured in restate.jobs if restate and settings.assets.specs else ():
        select = selectors(configured.select)
        models = selected_models(with_answer(select, asked_by="`restate.jobs` in defs.yaml"), select)
        jobs.append(build_backfill_job(configured, models, settings, op, compute))
    names = [job.name for job in jobs]
    if taken := [name for name in names if names.count(name) > 1]:
        raise ConfigurationError(
            f"`restate.jobs` in defs.yaml has two jobs of the name {taken[0]}. Set another `name` for one of them."
        )
    return dg.Definitions(jobs=jobs)


def build_backfill_job(
    configured: RestateJob, models: list[str], settings: Settings, op: dg.AssetsDefinition, compute: Compute
) -> dg.JobDefinition:
    """A job with one run for each range of time of these models, by fqn. `compute` is what the component's op does.

    Raises:
        ConfigurationError: None of the models is incremental, none has a start, or all have intervals that are longer
            than the job's partitions. Or the component's run config has no `restate`, or a required field.
    """
    refuse_reserved_tags("restate.jobs.tags", configured.tags)
    if configured.name is not None:
        refuse_op_name(configured.name, "restate.jobs.name")
    name = configured.name or settings.job_name(f"restate_{configured.by}")
    assets = settings.assets
    tables = matching_tables(configured.tables or (), assets.upstream.external_tables, "restate.jobs.tables")
    readers = [fqn for fqn in models if not set(tables).isdisjoint(assets.upstream.of(assets.models[fqn]))]
    restated = [fqn for fqn in (readers if tables else models) if assets.models[fqn].is_incremental]
    # The run restates those that read the tables as promoted, also if they are computed as a whole.
    keys = frozenset(assets.key(fqn) for fqn in (models if tables else restated))
    by, start = _PARTITIONS[configured.by], _first_restatable(name, restated, settings)
    _refuse_longer_intervals(name, configured.by, [assets.models[fqn] for fqn in restated])
    # Dagster's first partition begins at or after an instant. Ours contains it.
    partitions = by(start_date=last_cron_tick(by(start_date=start).cron_schedule, "UTC", start))

    def restate_partition(context: dg.OpExecutionContext) -> Iterator[Any]:
        if "restate" not in context.op_config:
            example = json.dumps(first_config)  # `dg launch` takes no YAML on its line
            raise dg.Failure(
                "The run config has no range to restate, so nothing was computed. `dg launch` ignores `--partition` "
                "for a job. Launch a backfill on the job's page in Dagster, or write the range:"
                + block(f"dg launch --job {name} --config-json {shlex.quote(example)}"),
                allow_retries=False,
            )
        yield from compute(JobOfAssets(context, op, keys))
        yield dg.Output(None)

    def config_of(partition: str) -> dict[str, Any]:
        window = partitions.time_window_for_partition_key(partition)
        start, end = restate_bounds(*(int(bound.timestamp() * 1000) for bound in (window.start, window.end)))
        of_tables = {"tables": configured.tables} if configured.tables else {}
        return {"ops": {name: {"config": {"restate": {"start": start, "end": end, **of_tables}}}}}

    graph = graph_of_op(
        name,
        f"Each run restates one {configured.by} (UTC) of SQLMesh's models, with all models downstream. A bar is the "
        "last run of this job for a partition. Missing means that none was launched or it was cancelled, not that data "
        "is missing: each asset's events show its computed intervals.",
        restate_partition,
        op.op.config_schema,
        settings.pool,
    )
    job = graph.to_job(
        config=dg.PartitionedConfig(partitions_def=partitions, run_config_for_partition_key_fn=config_of),
        tags={**_TAGS, **configured.tags, RESTATES_TAG: settings.state_tag},
    )
    # The first partition, a month at most, has ended by then.
    first_config = config_of(partitions.get_partition_keys(start + timedelta(days=62))[0])
    _refuse_invalid_config(job, first_config)
    return job


def _first_restatable(job: str, models: list[str], settings: Settings) -> datetime:
    """An instant in the first range that can be restated.

    A model without a start has the earliest start of those that it reads. If it starts inside an interval, SQLMesh does
    not restate this interval alone: its rest is shorter than an interval.
    """
    known = settings.assets.models
    if not models:
        raise ConfigurationError(
            f"The job {job} of `restate.jobs` in defs.yaml selects no incremental model, so no range of one can be "
            "restated. Choose another `select` or other `tables`."
        )

    def inherited_from(fqn: str) -> Sequence[str]:
        return known[fqn].depends_on if fqn in known and known[fqn].starts_at is None else ()

    firsts = []
    for model in models:
        found = (known[fqn].starts_at for fqn in reachable([model], inherited_from) if fqn in known)
        if starts := [start for start in found if start is not None]:
            firsts.append(min(starts) + min(known[model].interval_milliseconds, _SHORTEST_MONTH) - 1)
    if not firsts:
        raise ConfigurationError(
            f"The job {job} of `restate.jobs` in defs.yaml needs a first partition, and none of its models has a "
            "start. Set one in SQLMesh's configuration:" + block("model_defaults:\n  start: '2026-01-01'")
        )
    return datetime.fromtimestamp(min(firsts) / 1000, timezone.utc)


def _refuse_longer_intervals(job: str, by: str, models: list[Model]) -> None:
    """Refuse partitions that are shorter than each model's interval: SQLMesh restates the whole interval in each."""
    shortest = min(models, key=lambda model: model.interval_milliseconds)
    hours = shortest.interval_milliseconds / 3_600_000
    if hours <= _HOURS[by]:
        return
    longer = next((f"Set `by: {name}`." for name, length in _HOURS.items() if length >= hours), None)
    raise ConfigurationError(
        f"The job {job} of `restate.jobs` in defs.yaml has `by: {by}`, and the shortest interval of its models is a "
        f"{shortest.interval_unit} ({shortest.display_name}). SQLMesh restates whole intervals, so several runs would "
        f"restate the same. {longer or 'Remove the job, and use `restate` in the run config.'}"
    )


def _refuse_invalid_config(job: dg.JobDefinition, config: dict[str, Any]) -> None:
    """Refuse a job whose runs Dagster would refuse: nobody can add config to the runs of a backfill."""
    try:
        dg.validate_run_config(job, config)
    except dg.DagsterInvalidConfigError as error:
        raise ConfigurationError(
            f"The job {job.name} of `restate.jobs` in defs.yaml cannot run. `op_config_schema` of its component must "
            f"return a subclass of SQLMeshRunConfig with a default for each field. {error}"
        ) from None
