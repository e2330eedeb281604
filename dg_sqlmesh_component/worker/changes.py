"""Find data that Dagster has not recorded, and the promoted models. Reads the state only.

The state has a row for each range that SQLMesh has computed, with the time. A restatement adds rows too, so it is
found although the model has no new interval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlmesh.core import constants as c
from sqlmesh.core.environment import Environment
from sqlmesh.core.snapshot import DeployabilityIndex, Snapshot, SnapshotTableInfo, missing_intervals
from sqlmesh.core.snapshot.definition import merge_intervals

from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.worker.context import ExistingStateContext
from dg_sqlmesh_component.worker.coverage import Coverages, computed_intervals
from dg_sqlmesh_component.worker.pipe import Pipe
from dg_sqlmesh_component.worker.sqlmesh_internals import ComputedRange, computed_ranges
from dg_sqlmesh_component.worker.state import environment_in_state, promoted_version


def find_changes(request: msg.ChangesRequest, pipe: Pipe) -> msg.ChangesFound:
    """Find the promoted models, and data of the requested models that Dagster has not recorded.

    Raises:
        EnvironmentNotReadyError: The environment does not exist.
        DatabaseInUseError: Another process has the DuckDB file of the state open.
    """
    with environment_in_state(request, pipe) as (context, environment):
        if environment.finalized_ts is None:
            return msg.ChangesFound(environment.plan_id, is_finalized=False)
        return msg.ChangesFound(
            environment.plan_id,
            is_finalized=True,
            promoted={
                info.name: promoted_version(info)
                for info in environment.snapshots
                if info.is_model and not info.is_symbolic
            },
            computed=tuple(_computed(request, environment, context)),
        )


def computed_since(
    recorded: msg.RecordedData | None, version: str, ranges: Sequence[ComputedRange], computed: Sequence[msg.Interval]
) -> tuple[msg.Interval, ...]:
    """The intervals of a model that were computed and that Dagster has not recorded.

    Args:
        version: The promoted version.
        ranges: The computed ranges of its table, with times. SQLMesh's janitor merges ranges: then more intervals than
            the new ones are returned, but never fewer.
        computed: All computed intervals of its table.
    """
    if recorded is None or recorded.version != version:
        return tuple(computed)
    return tuple(
        merge_intervals([computed_range.interval for computed_range in ranges if computed_range.at > recorded.up_to])
    )


def _computed(
    request: msg.ChangesRequest, environment: Environment, context: ExistingStateContext
) -> list[msg.ComputedData]:
    ranges = computed_ranges(context)
    infos = {info.name: info for info in environment.snapshots if info.name in request.recorded}
    if request.environment == c.PROD:
        index = DeployabilityIndex.all_deployable()
        # Most models have not changed, so only the others are read. This takes most of the time of a large project.
        changed = [
            info for info in infos.values() if _is_new(info, ranges.get((info.name, info.version, False)), request)
        ]
        snapshots = _read(context, changed)
    else:  # which table a model shows depends on all models upstream of it
        snapshots = _read(context, environment.snapshots)
        index = DeployabilityIndex.create(snapshots.values())
    missing = missing_intervals(
        [snapshots[name] for name in infos if name in snapshots],
        execution_time=request.now,
        deployability_index=index,
    )
    coverages = Coverages(snapshots, index, request.now, missing)
    unrecorded = []
    for name, snapshot in snapshots.items():
        of_table = ranges.get(table_of(snapshot, index))
        if name not in infos or of_table is None or not _is_new(infos[name], of_table, request):
            continue
        computed = computed_intervals(snapshot, index)
        if intervals := computed_since(request.recorded[name], infos[name].version, of_table, computed):
            unrecorded.append(msg.ComputedData(name, intervals, _last_computed_at(of_table), coverages.of(name)))
    return unrecorded


def table_of(snapshot: Snapshot, index: DeployabilityIndex) -> tuple[str, str, bool]:
    """The key in `computed_ranges` of the table that the environment shows."""
    is_representative = index.is_representative(snapshot)
    version = snapshot.version_get_or_generate() if is_representative else snapshot.dev_version
    return snapshot.name, version, not is_representative


def _read(context: ExistingStateContext, infos: Sequence[SnapshotTableInfo]) -> Mapping[str, Snapshot]:
    return {snapshot.name: snapshot for snapshot in context.state_reader.get_snapshots(infos).values()}


def _is_new(info: SnapshotTableInfo, ranges: Sequence[ComputedRange] | None, request: msg.ChangesRequest) -> bool:
    """Whether a table has data that Dagster has not recorded."""
    recorded = request.recorded[info.name]
    if not ranges:
        return False
    return recorded is None or recorded.version != info.version or _last_computed_at(ranges) > recorded.up_to


def _last_computed_at(ranges: Sequence[ComputedRange]) -> int:
    return max(computed_range.at for computed_range in ranges)
