"""The unfinished runs of a component's models, for ticks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import dagster as dg

from dg_sqlmesh_component.dagster_internals import planned_assets
from dg_sqlmesh_component.definitions.op import RESTATE_TAG
from dg_sqlmesh_component.definitions.project_assets import ProjectAssets
from dg_sqlmesh_component.protocol.formatting import listed

_UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


@dataclass(frozen=True)
class ActiveRun:
    """An unfinished run of some of the component's assets.

    Attributes:
        assets: All assets of the run.
        started_at: Epoch milliseconds; None if it has not started.
        computes_all: Whether it computes all intervals that are pending when it starts.
        is_restatement: Whether it computes a range again. It may compute more models than those of its assets.
    """

    run_id: str
    assets: frozenset[dg.AssetKey]
    started_at: int | None
    computes_all: bool
    is_restatement: bool

    def covers(self, asset: dg.AssetKey, ticked_at: int) -> bool:
        """Whether it computes the pending intervals of a model whose cron ticked last at an instant."""
        is_in_time = self.started_at is None or ticked_at <= self.started_at
        return self.computes_all and asset in self.assets and is_in_time

    def may_compute(self, asset: dg.AssetKey) -> bool:
        """Whether it may compute a model, so that it will record the model itself."""
        return self.is_restatement or asset in self.assets


def active_runs(instance: dg.DagsterInstance, assets: ProjectAssets) -> list[ActiveRun]:
    active = []
    records = instance.get_run_records(dg.RunsFilter(statuses=_UNFINISHED))
    runs = [record.dagster_run for record in records]
    for record, run, planned in zip(records, runs, planned_assets(instance, runs)):
        if planned & assets.fqn_by_key.keys():
            active.append(
                ActiveRun(
                    run.run_id,
                    frozenset(planned),
                    None if record.start_time is None else int(record.start_time * 1000),
                    # A run config may limit the intervals or name another environment.
                    computes_all=run.status is not dg.DagsterRunStatus.CANCELING and not run.run_config.get("ops"),
                    is_restatement=RESTATE_TAG in run.tags,
                )
            )
    return active


def run_ids(runs: Sequence[ActiveRun]) -> str:
    return listed([run.run_id for run in runs])
