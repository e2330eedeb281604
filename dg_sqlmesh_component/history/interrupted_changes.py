"""When plans and previews computed new versions that were interrupted.

An apply or a preview looks for intervals that runs have rewritten meanwhile before it ends. One that has failed, was
cancelled or was killed may not have looked. The next one has to look as far back as that one began.
"""

from __future__ import annotations

from itertools import pairwise

import dagster as dg

from dg_sqlmesh_component.definitions.settings import Settings
from dg_sqlmesh_component.history.active_runs import computing_since
from dg_sqlmesh_component.protocol import messages as msg

_MAX_RUNS = 200


def interrupted_changes(instance: dg.DagsterInstance, settings: Settings, now: int) -> tuple[msg.Interval, ...]:
    """The times of applies and previews that have computed and not succeeded, epoch milliseconds, the oldest first.

    One that Dagster still shows as running has ended too: there is one at a time. It has ended when the next one began.

    Args:
        now: When the own run began to compute.
    """
    began: list[tuple[int, bool]] = [(now, True)]
    for job in (settings.apply_job, settings.job_name("preview")):
        for record in instance.get_run_records(dg.RunsFilter(job_name=job), limit=_MAX_RUNS):
            since = computing_since(record)
            if since is not None and since < now:
                began.append((since, record.dagster_run.is_success))
    return tuple((begin, end) for (begin, is_success), (end, _) in pairwise(sorted(began)) if not is_success)
