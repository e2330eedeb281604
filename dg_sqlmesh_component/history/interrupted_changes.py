"""Since when the tables of new versions may contain what an interrupted plan or preview has read half.

An apply or a preview looks for intervals that runs have rewritten meanwhile before it ends. One that has failed, was
cancelled or was killed may not have looked. The next one has to look as far back as that one began.
"""

from __future__ import annotations

import dagster as dg

from dg_sqlmesh_component.definitions.settings import Settings

_ENDED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
_MAX_RUNS = 200


def interrupted_since(instance: dg.DagsterInstance, settings: Settings) -> int | None:
    """When the first apply or preview began that was interrupted since the last apply, epoch milliseconds."""
    jobs = [settings.apply_job, settings.job_name("preview")]
    records = [
        record
        for job in jobs
        for record in instance.get_run_records(dg.RunsFilter(job_name=job, statuses=_ENDED), limit=_MAX_RUNS)
        if record.start_time is not None
    ]
    applied = [
        record.start_time or 0
        for record in records
        if record.dagster_run.is_success and record.dagster_run.job_name == settings.apply_job
    ]
    since = max(applied, default=0)
    starts = [
        start for record in records if not record.dagster_run.is_success and (start := record.start_time or 0) > since
    ]
    return round(min(starts) * 1000) if starts else None
