"""Serve a `ChangesRequest`: what the sensor records."""

from __future__ import annotations

from dg_sqlmesh_component.capabilities.polling_sensor.messages import ChangesFound, ChangesRequest
from dg_sqlmesh_component.worker.environment import has_table, opened_without_lock, promoted_version
from dg_sqlmesh_component.worker.intervals.known import ExternalTables
from dg_sqlmesh_component.worker.intervals.records import compare
from dg_sqlmesh_component.worker.pipe import Pipe


def find_changes(request: ChangesRequest, pipe: Pipe) -> ChangesFound:
    """Find the promoted models, and data of the requested models that Dagster has not recorded.

    Raises:
        EnvironmentNotReadyError: The environment does not exist.
        DatabaseInUseError: Another process has the DuckDB file of the state open.
    """
    with opened_without_lock(request, pipe) as (context, environment):
        if environment.finalized_ts is None:
            return ChangesFound(environment.plan_id, is_finalized=False)
        tables = ExternalTables.of_promoted(request.tables, environment, context, pipe)
        found = compare(request.records, environment, context)
        return ChangesFound(
            environment.plan_id,
            is_finalized=True,
            promoted={info.name: promoted_version(info) for info in environment.snapshots if has_table(info)},
            compared=found.event(coverages=found.coverages(context, request.now, tables)),
        )
