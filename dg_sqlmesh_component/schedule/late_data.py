"""Requests to compute again what a model has computed before its source was loaded (`external_models.late`)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import dagster as dg

from dg_sqlmesh_component.definitions.settings import Settings
from dg_sqlmesh_component.history.late_loads import LoadComparison
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.formatting import short_hash
from dg_sqlmesh_component.report.checks import late_data_result
from dg_sqlmesh_component.report.wording import Wording, restate_bounds
from dg_sqlmesh_component.schedule.ready import Ready

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
    models_by_range: defaultdict[msg.Interval, list[str]] = defaultdict(list)
    for fqn, intervals in ready.restatable.items():
        for interval in intervals:
            models_by_range[interval].append(fqn)
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
            yield late_data_result(wording, check, compared.compared(fqn, late), compared.names_of(fqn))
