"""Every private interface of Dagster that this package uses. Each function is named after its purpose.

If the reason is not obvious, the docstring gives it. Each has a test in tests/upstream/test_dagster_internals.py, which
fails if Dagster changes it. No other module imports `dagster._*` (ruff refuses it).
"""

from __future__ import annotations

import multiprocessing
import re
import sys
import warnings
from collections import defaultdict
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cache, lru_cache
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

import dagster as dg
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluationTargetMaterializationData
from dagster._core.definitions.assets.definition.asset_spec import SYSTEM_METADATA_KEY_AUTO_CREATED_STUB_ASSET
from dagster._core.definitions.assets.graph.base_asset_graph import BaseAssetGraph
from dagster._core.definitions.data_version import (
    CODE_VERSION_TAG,
    DATA_VERSION_IS_USER_PROVIDED_TAG,
    DATA_VERSION_TAG,
    DEFAULT_DATA_VERSION,
    NULL_EVENT_POINTER,
    extract_data_version_from_entry,
    get_input_data_version_tag,
    get_input_event_pointer_tag,
)
from dagster._core.definitions.definitions_load_context import DefinitionsLoadContext, DefinitionsLoadType
from dagster._core.errors import DagsterUserCodeProcessError
from dagster._core.events import EngineEventData
from dagster._core.execution.context.data_version_cache import InputAssetVersionInfo
from dagster._core.execution.context.system import StepExecutionContext
from dagster._core.execution.plan.inputs import StepInput
from dagster._core.execution.plan.outputs import StepOutputData, StepOutputHandle
from dagster._core.execution.plan.step import IExecutionStep
from dagster._core.executor.multiprocess import MultiprocessExecutorChildProcessCommand
from dagster._core.storage.asset_check_execution_record import (
    AssetCheckExecutionRecord,
    AssetCheckExecutionRecordStatus,
)
from dagster._core.storage.tags import (
    ASSET_RESUME_RETRY_TAG,
    BACKFILL_ID_TAG,
    DOCKER_IMAGE_TAG,
    GLOBAL_CONCURRENCY_TAG,
    HIDDEN_TAG_PREFIX,
    SYSTEM_TAG_PREFIX,
    USER_EDITABLE_SYSTEM_TAGS,
)
from dagster._utils import interrupts
from dagster._utils.error import SerializableErrorInfo  # type: ignore[attr-defined]
from dagster._utils.schedules import cron_string_iterator, is_valid_cron_string, reverse_cron_string_iterator

from dg_sqlmesh_component.protocol.graph import reachable

if TYPE_CHECKING:
    from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage

_Shared = TypeVar("_Shared")

CheckRecord = AssetCheckExecutionRecord
"""One evaluation of a check as Dagster stores it."""

TargetMaterialization = AssetCheckEvaluationTargetMaterializationData
"""The materialization that a check evaluated: an argument of `AssetCheckEvaluation` without a public name."""

# -- loading definitions --------------------------------------------------------------------------


def is_rebuilding_definitions() -> bool:
    """Whether Dagster builds definitions again that it has built before, for example for a run. They must be equal.

    Dagster has no public way to distinguish a rebuild from a load.
    """
    return DefinitionsLoadContext.get().load_type is DefinitionsLoadType.RECONSTRUCTION


def serves_definitions() -> bool:
    """Whether Dagster has started this process to serve definitions, for example for `dg dev`, and no command has.

    Dagster has no public way to find out why a process was started. Its command is `dagster api grpc`.
    """
    return sys.argv[1:3] == ["api", "grpc"]


def shared_in_code_location(context: dg.ComponentLoadContext, create: Callable[[], _Shared]) -> _Shared:
    """An object that all components of one load of a code location share, created for the first of them.

    Dagster loads components one by one and has no public place for shared objects. Its `state_tracker` exists once
    per load, so the object is kept on it and ends with it.
    """
    attributes = vars(context.component_tree.state_tracker)
    shared: _Shared = attributes.setdefault("dg_sqlmesh_component", create())
    return shared


# -- crons ----------------------------------------------------------------------------------------


def is_accepted_cron(cron: str) -> bool:
    """Whether Dagster accepts a cron: five fields, or an alias such as `@daily`. It has no public way to check one."""
    return bool(is_valid_cron_string(cron))


def cron_ticks(cron: str, timezone: str, start: datetime) -> Iterator[datetime]:
    """The ticks of a cron at or after a time, as Dagster's schedules and automation conditions see them.

    Dagster has no public way to list them.
    """
    return cron_string_iterator(start.timestamp(), cron, timezone)


def last_cron_tick(cron: str, time_zone: str, end: datetime) -> datetime:
    """The last tick of a cron at or before a time, as Dagster's schedules see it. Nothing public computes it.

    It is in UTC, because Python compares two times of another zone by their clocks, and an hour may be repeated.
    """
    return next(reverse_cron_string_iterator(end.timestamp(), cron, time_zone)).astimezone(timezone.utc)


# -- the process of a step ------------------------------------------------------------------------


def was_started_for_a_step_of(op: str) -> bool:
    """Whether the multiprocess executor has started this process to run the op, or one part of a split op.

    If so, the worker can start while Dagster prepares the step: importing SQLMesh takes seconds. Dagster has no public
    way to find out why a process was started. A wrong False costs only those seconds.
    """
    arguments = getattr(multiprocessing.current_process(), "_args", ())
    commands = [argument for argument in arguments if isinstance(argument, MultiprocessExecutorChildProcessCommand)]
    return any(re.fullmatch(rf"{re.escape(op)}(_\d+)?", command.step_key) for command in commands)


def _alone(text: str, kind: type[BaseException]) -> list[SerializableErrorInfo]:
    """The error that Dagster shows in place of one that carries it, as it does for an error of another process."""
    return [SerializableErrorInfo(f"{text}\n", [], kind.__name__)]


class _FailureAlone(DagsterUserCodeProcessError, dg.Failure):
    def __init__(self, failure: dg.Failure) -> None:
        text = failure.description or ""
        super().__init__(  # type: ignore[no-untyped-call]
            text, failure.metadata, failure.allow_retries, user_code_process_error_infos=_alone(text, dg.Failure)
        )


class _CancelledAlone(DagsterUserCodeProcessError, dg.DagsterExecutionInterruptedError):
    def __init__(self, text: str) -> None:
        infos = _alone(text, dg.DagsterExecutionInterruptedError)  # the multiprocess executor looks at this name
        super().__init__(text, user_code_process_error_infos=infos)  # type: ignore[no-untyped-call]


@contextmanager
def failures_without_traceback(context: dg.OpExecutionContext | dg.AssetExecutionContext) -> Iterator[None]:
    """Let Dagster show only the text of a failure or a cancel. It adds the package's frames, which tell a user nothing.

    With a retry policy they stay: Dagster would take the error for one of its own, and not retry the step.
    """
    try:
        yield
    except (dg.Failure, dg.DagsterExecutionInterruptedError) as error:
        if context.get_step_execution_context().op_retry_policy is not None:
            raise
        raise (_FailureAlone(error) if isinstance(error, dg.Failure) else _CancelledAlone(str(error))) from None


SignalInstaller = Callable[[Any], None]


def signal_installer() -> SignalInstaller:
    """The function with which Dagster installs its handler of SIGINT and SIGTERM, twice for each result of an op."""
    return interrupts._replace_interrupt_signal


def replace_signal_installer(installer: SignalInstaller) -> None:
    """Replace that function.

    Dagster's handler raises an exception at any point of the process, so finished work of SQLMesh would not be
    recorded. Dagster has no public way to prevent this.
    """
    interrupts._replace_interrupt_signal = installer  # type: ignore[assignment]


# -- the plan of the run --------------------------------------------------------------------------


@dataclass(frozen=True)
class PlannedStep:
    """Another step of the run."""

    key: str
    tags: Mapping[str, str]
    assets: frozenset[dg.AssetKey]  # the assets that the step materializes


def step_key(context: dg.AssetExecutionContext) -> str:
    """The key of the step that runs."""
    return _step_context(context).step.key


def is_only_step(context: dg.AssetExecutionContext) -> bool:
    """Whether the run has no other step, so that it ends as this step does."""
    return len(_steps(context)) == 1


def awaited_outputs(context: dg.AssetExecutionContext) -> dict[str, tuple[PlannedStep, ...]]:
    """The outputs of this step for which other steps of the run wait, with those steps."""
    key = step_key(context)
    awaited: dict[str, dict[str, IExecutionStep]] = {}
    for step in _steps(context):
        for step_input in _inputs(step):
            for handle in step_input.get_step_output_handle_dependencies():
                if handle.step_key == key:
                    awaited.setdefault(handle.output_name, {})[step.key] = step
    return {output: tuple(map(_planned_step, steps.values())) for output, steps in awaited.items()}


def with_steps_downstream(context: dg.AssetExecutionContext, keys: Iterable[str]) -> list[PlannedStep]:
    """These steps of the run and all steps downstream of them, in the order of the plan."""
    steps = _steps(context)
    awaiting: defaultdict[str, list[str]] = defaultdict(list)
    for step in steps:
        for step_input in _inputs(step):
            for key in step_input.dependency_keys:
                awaiting[key].append(step.key)
    selected = reachable(keys, awaiting.__getitem__)
    return [_planned_step(step) for step in steps if step.key in selected]


def planned_selection(
    context: dg.AssetExecutionContext, run: dg.DagsterRun
) -> Set[dg.AssetKey | dg.AssetCheckKey] | None:
    """The assets and checks of this step in a run's plan; None if the plan is not stored or lacks the step."""
    snapshot_id = run.execution_plan_snapshot_id
    if snapshot_id is None:
        return None
    plan = context.instance.get_execution_plan_snapshot(snapshot_id)
    key = step_key(context)
    return next((step.entity_keys for step in plan.steps if step.key == key), None)


def planned_assets(instance: dg.DagsterInstance, runs: Iterable[dg.DagsterRun]) -> list[Set[dg.AssetKey]]:
    """The assets of each run, also of a run that has not started. Nothing public has them.

    A run without a selection is of a whole job, whose assets are in its stored plan. Reading a plan of 100 assets takes
    10 ms, and all runs of a job have the same plan, so each plan is read once.
    """

    @cache
    def of_plan(snapshot_id: str | None) -> Set[dg.AssetKey]:
        steps = instance.get_execution_plan_snapshot(snapshot_id).steps if snapshot_id else ()
        return {key for step in steps for key in step.entity_keys if isinstance(key, dg.AssetKey)}

    def of_run(run: dg.DagsterRun) -> Set[dg.AssetKey]:
        has_selection = run.asset_selection or run.asset_check_selection
        return (run.asset_selection or frozenset()) if has_selection else of_plan(run.execution_plan_snapshot_id)

    return [of_run(run) for run in runs]


class JobOfAssets(dg.AssetExecutionContext):
    """The context of an op without outputs of assets that computes some assets of another op.

    Dagster gives such an op no assets, and accepts no `MaterializeResult` of it. Its results are events of the run.
    """

    def __init__(self, context: dg.OpExecutionContext, assets: dg.AssetsDefinition, keys: Set[dg.AssetKey]) -> None:
        super().__init__(context)
        self._assets, self._keys = assets, keys

    @property
    def assets_def(self) -> dg.AssetsDefinition:
        return self._assets

    @property
    def selected_asset_keys(self) -> Set[dg.AssetKey]:
        return self._keys

    @property
    def selected_asset_check_keys(self) -> Set[dg.AssetCheckKey]:
        return {spec.key for spec in self._assets.check_specs if spec.asset_key in self._keys}

    @property
    def has_partition_key(self) -> bool:
        """The partition is a range to restate. The assets have none."""
        return False


def assets_of_run(context: dg.AssetExecutionContext) -> Set[dg.AssetKey]:
    """The assets that all steps of the run materialize. The public API has only those of the step itself."""
    of_job = isinstance(context, JobOfAssets)
    return context.selected_asset_keys if of_job else context.job_def.asset_layer.selected_asset_keys


def repeats_failed_assets(run: dg.DagsterRun) -> bool:
    """Whether the run retries the failed assets of another run (`FROM_ASSET_FAILURE`)."""
    return ASSET_RESUME_RETRY_TAG in run.tags


def is_part_of_backfill(run: dg.DagsterRun) -> bool:
    """Whether a backfill has launched the run."""
    return BACKFILL_ID_TAG in run.tags


HIDDEN_TAGS = HIDDEN_TAG_PREFIX
"""The start of the name of a tag that Dagster's pages do not show. Nothing public has it."""


def is_reserved_tag(key: str) -> bool:
    """Whether a tag of runs is one that Dagster sets itself. Nothing public lists those that users may set."""
    may_be_set = [*USER_EDITABLE_SYSTEM_TAGS, GLOBAL_CONCURRENCY_TAG, DOCKER_IMAGE_TAG]
    return key.startswith((SYSTEM_TAG_PREFIX, HIDDEN_TAG_PREFIX)) and key not in may_be_set


# -- selections -----------------------------------------------------------------------------------


class AssetsOfOp(dg.AssetsDefinition):
    """The assets of an op. If a run executes only some of them, its step has only the inputs that these assets read.

    Dagster keeps the inputs of all assets. A step waits for everything upstream of an input that is a virtual asset.
    If a part of that waits for the step itself, Dagster creates no run: it raises `CircularDependencyError` (its issue
    33764).
    """

    @staticmethod
    def dagster_internal_init(**attributes: Any) -> dg.AssetsDefinition:
        """Dagster makes each changed copy with this, such as a subset."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", dg.BetaWarning)  # as in the overridden method
            copy = AssetsOfOp(**attributes)
            if not copy.is_subset:
                return copy
            return AssetsOfOp(**{**attributes, "keys_by_input_name": copy.keys_by_input_name})


class WithAssetsBetween(dg.AssetSelection):
    """Some assets, and the assets between two of them that a run without a partition can materialize.

    A selection made of public ones would select partitioned assets too. Dagster refuses a job with two kinds of
    partitions, and a run without a partition of a job with one.
    """

    def __init__(self, keys: Iterable[dg.AssetKey]) -> None:
        self._keys = frozenset(keys)

    def resolve_inner(self, asset_graph: BaseAssetGraph[Any], allow_missing: bool) -> Set[dg.AssetKey]:  # noqa: ARG002
        """Dagster calls this when it builds the job."""
        return self._keys | _between(asset_graph, self._keys)


def assets_between(repository: dg.RepositoryDefinition | None, keys: Collection[dg.AssetKey]) -> Set[dg.AssetKey]:
    """The assets downstream of one of these and upstream of another (`WithAssetsBetween`); none without definitions."""
    return frozenset() if repository is None else _between(repository.asset_graph, keys)


def assets_downstream(repository: dg.RepositoryDefinition | None, keys: Collection[dg.AssetKey]) -> Set[dg.AssetKey]:
    """These assets and all assets downstream of them; none without definitions."""
    selection = dg.AssetSelection.assets(*keys).downstream()
    return frozenset() if repository is None else selection.resolve(repository.asset_graph)


def assets_upstream(repository: dg.RepositoryDefinition | None, keys: Collection[dg.AssetKey]) -> Set[dg.AssetKey]:
    """These assets and all assets upstream of them; none without definitions."""
    selection = dg.AssetSelection.assets(*keys).upstream()
    return frozenset() if repository is None else selection.resolve(repository.asset_graph)


def repository_of(context: dg.OpExecutionContext) -> dg.RepositoryDefinition | None:
    """All definitions of the code location; None in a test that has none, for which the public property raises."""
    return _step_context(context)._execution_data.repository_def


class HasAssets(Protocol):
    """The definitions of a code location, or at least those of a job."""

    @property
    def asset_graph(self) -> BaseAssetGraph[Any]: ...


def assets_of(context: dg.OpExecutionContext) -> HasAssets:
    """All assets of the code location; those of the job if there is none, as in `dagster.materialize`."""
    return repository_of(context) or context.job_def.asset_layer


_ASSETS_PER_QUERY = 100
"""Of so many assets, one query reads a few rows of each."""

_IDS_PER_QUERY = 500
"""How many events or runs one query names."""

_LOADED_ASSETS_PER_QUERY = 20
"""Of so many assets, the last loads are in memory at once. Python's collector of garbage looks at all of them."""

EXTERNAL_TAG = {"sqlmesh/kind": "external"}
"""The tag of the assets that a component makes of external tables. They say nothing about the asset that loads them."""


@dataclass(frozen=True)
class Loader:
    """An asset that loads an external table."""

    key: dg.AssetKey
    partitions: dg.PartitionsDefinition[str] | None  # None without any
    blocking_checks: tuple[dg.AssetCheckKey, ...]
    # Whether the code location defines or declares the asset. Otherwise, its partitions are not known here.
    is_known: bool = True


def loaders(
    location: HasAssets, tables: Mapping[str, dg.AssetKey], also_elsewhere: Container[str]
) -> dict[str, Loader]:
    """The asset that loads each table, by fqn: by its key, or by the table name that it declares.

    The assets of `also_elsewhere`, by fqn, count although this code location does not materialize them.
    """
    graph = location.asset_graph
    by_table, found = _key_by_table(graph), {}
    for fqn, key in tables.items():
        own = key if graph.has(key) and graph.get(key).is_materializable else by_table.get(fqn.replace('"', ""))
        if own is not None or fqn in also_elsewhere:
            found[fqn] = _loader(graph, own or key)
    return found


@lru_cache(maxsize=1)  # a tick asks for the tables of each model
def _key_by_table(graph: BaseAssetGraph[Any]) -> Mapping[str, dg.AssetKey]:
    """The assets that a code location materializes, by the table name that they declare."""
    return {
        str(node.metadata["dagster/table_name"]): node.key
        for node in graph.asset_nodes
        if "dagster/table_name" in node.metadata and node.is_materializable
    }


def _loader(graph: BaseAssetGraph[Any], key: dg.AssetKey) -> Loader:
    """The asset with a key. Dagster makes one for each dependency, and a component for each external table."""
    if not graph.has(key):
        return Loader(key, None, (), is_known=False)
    node = graph.get(key)
    checks = tuple(sorted(check for check in node.check_keys if graph.get(check).blocking))
    is_made_up = (
        SYSTEM_METADATA_KEY_AUTO_CREATED_STUB_ASSET in node.metadata or EXTERNAL_TAG.items() <= node.tags.items()
    )
    return Loader(key, node.partitions_def, checks, is_known=not is_made_up)


LastLoad = tuple[int, str | None, str, float | None]
"""The last materialization of a partition: its storage id, the partition, its run, and its time in seconds.

The partition is None for one without. Without a run, the run is empty; with one, the time is None.
"""


def last_loads_by_partition(
    instance: dg.DagsterInstance, keys: Collection[dg.AssetKey]
) -> Iterator[tuple[dg.AssetKey, Sequence[LastLoad]]]:
    """The last materialization of each partition of assets, and the last one without a partition, asset by asset.

    An asset without any is left out. The public API reads one asset per call, and the text of each event.
    """
    storage = _sql_event_log(instance)
    if storage is None:
        yield from ((key, list(_last_loads_by_public_api(instance, key))) for key in keys)
        return
    import sqlalchemy
    from dagster._core.storage.event_log.schema import SqlEventLogStorageTable

    table = SqlEventLogStorageTable.c
    by_text = {key.to_string(): key for key in keys}
    reported_at = sqlalchemy.case((table.run_id == "", table.timestamp))  # SQLAlchemy takes long for each instant
    columns = (table.asset_key, table.id, table.partition, table.run_id, reported_at)
    for page in _pages(list(keys), _LOADED_ASSETS_PER_QUERY):
        last = _materializations(storage, page, sqlalchemy.func.max(table.id))
        last = last.group_by(table.asset_key, table.partition)
        query = sqlalchemy.select(*columns).where(table.id.in_(last)).order_by(table.asset_key)
        with storage.index_connection() as connection:  # Dagster has a lock: no other query runs meanwhile
            rows = connection.execute(query).all()
        for text, of_asset in groupby(rows, itemgetter(0)):
            yield by_text[text], [(id_, key, run or "", at and _seconds(at)) for _, id_, key, run, at in of_asset]


def _last_loads_by_public_api(instance: dg.DagsterInstance, key: dg.AssetKey) -> Iterator[LastLoad]:
    ids = instance.get_latest_storage_id_by_partition(key, dg.DagsterEventType.ASSET_MATERIALIZATION)
    pages = _pages(sorted(ids.values()), _IDS_PER_QUERY)
    filters = [dg.AssetRecordsFilter(asset_key=key, storage_ids=page) for page in pages]
    last = instance.fetch_materializations(key, limit=1).records
    records = [load for only in filters for load in instance.fetch_materializations(only, limit=_IDS_PER_QUERY).records]
    for load in [*records, *(load for load in last if load.partition_key is None)]:
        yield load.storage_id, load.partition_key, load.run_id, None if load.run_id else load.timestamp


def _seconds(utc: datetime) -> float:
    """An instant of the database, in seconds."""
    return utc.replace(tzinfo=timezone.utc).timestamp()


def materialization_counts(
    instance: dg.DagsterInstance, keys: Collection[dg.AssetKey]
) -> Mapping[dg.AssetKey, int | None]:
    """How many materializations Dagster has of assets; None if it has no cheap way to count them.

    If a run is deleted, so are its materializations, and nothing else shows it: not the last one of the asset.
    """
    storage = _sql_event_log(instance)
    if storage is None:
        return dict.fromkeys(keys)
    import sqlalchemy
    from dagster._core.storage.event_log.schema import SqlEventLogStorageTable

    table = SqlEventLogStorageTable.c
    counts: dict[dg.AssetKey, int | None] = dict.fromkeys(keys, 0)
    by_text = {key.to_string(): key for key in keys}
    for page in _pages(list(keys), _ASSETS_PER_QUERY):
        query = _materializations(storage, page, table.asset_key, sqlalchemy.func.count())
        with storage.index_connection() as connection:
            counts |= {by_text[text]: count for text, count in connection.execute(query.group_by(table.asset_key))}
    return counts


def loads_of_runs(
    instance: dg.DagsterInstance, key: dg.AssetKey, run_ids: Collection[str], storage_ids: Collection[int] = ()
) -> dict[int, str]:
    """The materializations of an asset by some runs, or with some storage ids: the run of each, by storage id.

    Nothing public reads those of a run without the text of each event of the run.
    """
    storage = _sql_event_log(instance)
    if storage is None:
        records = (instance.fetch_materializations(key, limit=1_000)).records
        return {of.storage_id: of.run_id for of in records if of.run_id in run_ids or of.storage_id in storage_ids}
    from dagster._core.storage.event_log.schema import SqlEventLogStorageTable

    table = SqlEventLogStorageTable.c
    chosen = [table.run_id.in_(page) for page in _pages(sorted(run_ids), _IDS_PER_QUERY)]
    chosen += [table.id.in_(page) for page in _pages(sorted(storage_ids), _IDS_PER_QUERY)]
    all_of_asset = _materializations(storage, [key], table.id, table.run_id)
    with storage.index_connection() as connection:
        rows = [row for condition in chosen for row in connection.execute(all_of_asset.where(condition))]
    return {storage_id: run_id or "" for storage_id, run_id in rows}


def _materializations(storage: SqlEventLogStorage, keys: Sequence[dg.AssetKey], *columns: Any) -> Any:
    """A query of the materializations of assets, without those that were wiped."""
    import sqlalchemy
    from dagster._core.storage.event_log.schema import SqlEventLogStorageTable

    table = SqlEventLogStorageTable.c
    query = (
        sqlalchemy.select(*columns)
        .where(table.asset_key.in_([key.to_string() for key in keys]))
        .where(table.dagster_event_type == dg.DagsterEventType.ASSET_MATERIALIZATION.value)
    )
    return storage._add_assets_wipe_filter_to_query(query, storage._get_assets_details(keys), keys)


def run_starts(instance: dg.DagsterInstance, run_ids: Collection[str]) -> dict[str, float]:
    """When runs began, in seconds, without those that were deleted. The public API reads all of each run."""
    from dagster._core.storage.runs.sql_run_storage import SqlRunStorage

    storage, found = instance.run_storage, dict[str, float]()
    for page in _pages(sorted(run_ids), _IDS_PER_QUERY):
        if not isinstance(storage, SqlRunStorage):
            records = instance.get_run_records(dg.RunsFilter(run_ids=page))
            found |= {of.dagster_run.run_id: of.start_time or of.create_timestamp.timestamp() for of in records}
            continue
        import sqlalchemy
        from dagster._core.storage.runs.schema import RunsTable

        table = RunsTable.c
        query = sqlalchemy.select(table.run_id, table.start_time, table.create_timestamp).where(table.run_id.in_(page))
        with storage.connect() as connection:
            for run_id, start, created in connection.execute(query):
                found[run_id] = start or _seconds(created)
    return found


def _sql_event_log(instance: dg.DagsterInstance) -> SqlEventLogStorage | None:
    """The event log, if it is a database that Dagster queries with SQLAlchemy. That of Dagster+ is none."""
    # Each load of definitions would take 0.4 seconds longer if this module imported SQLAlchemy.
    from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage

    storage = instance.event_log_storage
    return storage if isinstance(storage, SqlEventLogStorage) else None


_Item = TypeVar("_Item")


def _pages(items: Sequence[_Item], size: int) -> Iterator[Sequence[_Item]]:
    return (items[first : first + size] for first in range(0, len(items), size))


def time_dimension(definition: dg.PartitionsDefinition[Any]) -> dg.TimeWindowPartitionsDefinition | None:
    """The time windows of an asset's partitions, which may be one of two dimensions; None if there are none, or two."""
    dimensions = [definition]
    if isinstance(definition, dg.MultiPartitionsDefinition):
        dimensions = [dimension.partitions_def for dimension in definition.partitions_defs]
    found = [dimension for dimension in dimensions if isinstance(dimension, dg.TimeWindowPartitionsDefinition)]
    return found[0] if len(found) == 1 else None


def _between(asset_graph: BaseAssetGraph[Any], keys: Collection[dg.AssetKey]) -> Set[dg.AssetKey]:
    assets = dg.AssetSelection.assets(*keys)
    path = (assets.downstream() & assets.upstream()).resolve(asset_graph)
    nodes = {key: asset_graph.get(key) for key in path - set(keys)}
    return {key for key, node in nodes.items() if node.is_materializable and not node.is_partitioned}


# -- recording ------------------------------------------------------------------------------------


def released_output(context: dg.AssetExecutionContext, output: str) -> dg.DagsterEvent:
    """A step output without a materialization or check result. It lets the steps downstream run.

    Dagster has no public way to create it. Without it, Dagster would skip healthy assets downstream of a model that had
    nothing to do, and a retried run would succeed without ever refreshing them.
    """
    step_context = _step_context(context)
    handle = StepOutputHandle(step_key=step_context.step.key, output_name=output)
    return dg.DagsterEvent.step_output_event(
        step_context=step_context, step_output_data=StepOutputData(step_output_handle=handle)
    )


def log_step_metadata(
    context: dg.AssetExecutionContext | dg.OpExecutionContext, message: str, metadata: Mapping[str, dg.MetadataValue]
) -> None:
    """Add an event with metadata to the step. Nothing public attaches metadata to a step before its results."""
    dg.DagsterEvent.engine_event(_step_context(context), message, EngineEventData(metadata=metadata))


def step_metadata(
    instance: dg.DagsterInstance, run_id: str
) -> Iterator[tuple[str | None, Mapping[str, dg.MetadataValue]]]:
    """The step and the metadata of each event that `log_step_metadata` has added to a run, in order."""
    for entry in instance.all_logs(run_id, of_type=dg.DagsterEventType.ENGINE_EVENT):
        if entry.dagster_event is not None:
            yield entry.step_key, entry.dagster_event.engine_event_data.metadata


def forget_data_version(context: dg.AssetExecutionContext, key: dg.AssetKey) -> None:
    """Let Dagster read the data version of an asset again. It does not notice an `AssetMaterialization` of the step."""
    _step_context(context).wipe_input_asset_version_info(key)


def remember_data_version(context: dg.AssetExecutionContext, key: dg.AssetKey, last: dg.EventLogRecord) -> None:
    """Let Dagster know the last materialization of an asset. It would query it for the first asset that reads this one.

    For 300 models that each read three others, a step that only records takes 29 % longer without this.
    """
    event = last.event_log_entry.dagster_event
    assert event is not None, "a materialization is an event"
    _step_context(context)._data_version_cache.input_asset_version_info[key] = InputAssetVersionInfo(
        last.storage_id,
        event.event_type,
        extract_data_version_from_entry(last.event_log_entry),
        last.run_id,
        last.timestamp,
    )


class DataVersions:
    """The tags with which Dagster decides whether an asset is in sync with the assets upstream of it.

    Dagster adds them to a `MaterializeResult`, and has no public way to add them to an `AssetMaterialization`.
    """

    def __init__(
        self, instance: dg.DagsterInstance, upstream: Callable[[dg.AssetKey], Collection[dg.AssetKey]]
    ) -> None:
        self._instance = instance
        self._upstream = upstream
        self._versions: dict[dg.AssetKey, str] = {}

    def materialized(self, key: dg.AssetKey, version: str) -> None:
        """Note a materialization. Dagster may store it later."""
        self._versions[key] = version

    def tags_of_materialization(self, key: dg.AssetKey, version: str, code_version: str | None) -> dict[str, str]:
        """The tags of a materialization that is made now, which is noted."""
        tags = {DATA_VERSION_TAG: version, DATA_VERSION_IS_USER_PROVIDED_TAG: "true"}
        tags |= {} if code_version is None else {CODE_VERSION_TAG: code_version}
        for parent in self._upstream(key):
            tags[get_input_data_version_tag(parent)] = self.current(parent)
            tags[get_input_event_pointer_tag(parent)] = NULL_EVENT_POINTER  # Dagster uses it for partitions only
        self.materialized(key, version)
        return tags

    def current(self, key: dg.AssetKey) -> str:
        """The data version of the last materialization."""
        if key not in self._versions:
            record = self._instance.get_latest_data_version_record(key)
            found = extract_data_version_from_entry(record.event_log_entry) if record else None
            self._versions[key] = (found or DEFAULT_DATA_VERSION).value
        return self._versions[key]


def cache_output_keys(context: dg.AssetExecutionContext) -> None:
    """Compute the step's asset keys once. Dagster computes them from all outputs again for each output.

    Without this, a step that only records takes 11 to 16 % longer for 300 models with two checks each. For 10,000
    models, Dagster takes 19 s for each output.
    """
    step_context = _step_context(context)
    keys = step_context.get_output_asset_keys()
    step_context.get_output_asset_keys = lambda: keys  # type: ignore[method-assign]


def drop_missing_outputs_log(context: dg.AssetExecutionContext) -> None:
    """Drop the log line in which Dagster lists the missing outputs of checks: 82 kB for 1,000 models."""
    _step_context(context).log.addFilter(
        lambda record: "did not yield or return expected outputs" not in str(record.msg)
    )


# -- checks on record -----------------------------------------------------------------------------

_COMPLETED = {AssetCheckExecutionRecordStatus.SUCCEEDED, AssetCheckExecutionRecordStatus.FAILED}

_PASSED = {AssetCheckExecutionRecordStatus.SUCCEEDED}

_PAGE = 5
"""Evaluations of a check that one query reads.

If runs alternate between two environments, the second evaluation is the wanted one. Reading 50 takes 5.5 ms longer.
"""


def last_check_records(
    instance: dg.DagsterInstance, checks: Collection[dg.AssetCheckKey]
) -> dict[dg.AssetCheckKey, CheckRecord]:
    """The last completed evaluation of each check. The public API reads the last one, which this run may have planned.

    Dagster+ answers for all checks at once. Dagster's SQL storages would query each check twice.
    """
    if (storage := _sql_event_log(instance)) is not None:
        last = {check: storage.get_asset_check_execution_history(check, limit=1, status=_COMPLETED) for check in checks}
        return {check: records[0] for check, records in last.items() if records}
    summaries = instance.event_log_storage.get_asset_check_summary_records(list(checks)) if checks else {}
    return {
        check: summary.last_completed_check_execution_record
        for check, summary in summaries.items()
        if summary.last_completed_check_execution_record is not None
    }


def check_records(
    instance: dg.DagsterInstance,
    check: dg.AssetCheckKey,
    status: Set[AssetCheckExecutionRecordStatus] | None = _COMPLETED,
    page: int = _PAGE,
) -> Iterator[CheckRecord]:
    """The evaluations of a check with these statuses, the last one first; None for all: also those without a result."""
    cursor = None
    while records := instance.event_log_storage.get_asset_check_execution_history(
        check, limit=page, cursor=cursor, status=status
    ):
        yield from records
        cursor = records[-1].id


class CheckState(NamedTuple):
    """The evaluations of a check with one status, in short: it changes if one of them does."""

    number: int
    # The newest one: when it was evaluated or planned in seconds, and the storage id of its event.
    last: tuple[float, int]


CheckStates = Mapping[AssetCheckExecutionRecordStatus, CheckState]


def check_states(
    instance: dg.DagsterInstance, checks: Collection[dg.AssetCheckKey]
) -> Mapping[dg.AssetCheckKey, CheckStates] | None:
    """What Dagster has of each check by status; None if it has no cheap way to tell. Nothing public counts them."""
    storage = _sql_event_log(instance)
    if storage is None:
        return None
    import sqlalchemy
    from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable

    table, max_of = AssetCheckExecutionsTable.c, sqlalchemy.func.max
    keys = {(check.asset_key.to_string(), check.name): check for check in checks}
    found: dict[dg.AssetCheckKey, dict[AssetCheckExecutionRecordStatus, CheckState]] = {check: {} for check in checks}
    group = (table.asset_key, table.check_name, table.execution_status)
    newest = (max_of(table.evaluation_event_timestamp), max_of(table.evaluation_event_storage_id))
    for page in _pages(sorted({text for text, _ in keys}), _ASSETS_PER_QUERY):
        query = sqlalchemy.select(*group, sqlalchemy.func.count(), *newest).where(table.asset_key.in_(page))
        with storage.index_connection() as connection:
            for text, name, status, count, at, event in connection.execute(query.group_by(*group)):
                if (text, name) in keys:
                    last = (_seconds(at) if at else 0.0, event or 0)
                    found[keys[text, name]][AssetCheckExecutionRecordStatus(status)] = CheckState(count, last)
    return found


def last_result_of(states: CheckStates) -> tuple[float, int]:
    """The newest evaluation of a check with a result, as in `CheckState`; zeros without one."""
    return max((states[status].last for status in _COMPLETED if status in states), default=(0.0, 0))


def last_results(
    instance: dg.DagsterInstance, checks: Collection[dg.AssetCheckKey]
) -> dict[dg.AssetCheckKey, tuple[float, int]]:
    """When each check that has a result was evaluated last, in seconds, and an id of this result."""
    states = check_states(instance, checks) if checks else {}
    if states is None:
        records = last_check_records(instance, checks)
        return {check: (record.create_timestamp, record.id) for check, record in records.items()}
    last = {check: last_result_of(of_check) for check, of_check in states.items()}
    return {check: of_check for check, of_check in last.items() if of_check[1]}


def has_failed_last(states: CheckStates) -> bool:
    """Whether the newest evaluation of a check with a result has failed, or warned."""
    failed, passed = (states.get(status) for status in (AssetCheckExecutionRecordStatus.FAILED, *_PASSED))
    return failed is not None and (passed is None or failed.last > passed.last)


def has_only_passed(states: CheckStates) -> bool:
    """Whether no evaluation of a check has failed or was planned and has no result."""
    return states.keys() <= _PASSED


def not_passed_check_records(instance: dg.DagsterInstance, check: dg.AssetCheckKey) -> Iterator[CheckRecord]:
    """The evaluations of a check that have failed, or were planned and have no result."""
    return check_records(instance, check, set(AssetCheckExecutionRecordStatus) - _PASSED, _IDS_PER_QUERY)


def check_records_of_loads(
    instance: dg.DagsterInstance, check: dg.AssetCheckKey, storage_ids: Collection[int]
) -> list[CheckRecord]:
    """The results of a check on some materializations. The public API reads all results."""
    storage = _sql_event_log(instance)
    if storage is None:
        records = ((record, record.evaluation) for record in check_records(instance, check))
        targets = ((record, found.target_materialization_data) for record, found in records if found)
        return [record for record, target in targets if target and target.storage_id in storage_ids]
    import sqlalchemy
    from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable

    table, found = AssetCheckExecutionsTable.c, []
    for page in _pages(sorted(storage_ids), _IDS_PER_QUERY):
        query = (
            sqlalchemy.select(AssetCheckExecutionsTable)
            .where(table.asset_key == check.asset_key.to_string(), table.check_name == check.name)
            .where(table.materialization_event_storage_id.in_(page))
        )
        with storage.index_connection() as connection:
            found += [CheckRecord.from_db_row(row, check) for row in connection.execute(query).mappings()]
    return found


def shown_check_records(
    instance: dg.DagsterInstance, checks: Collection[dg.AssetCheckKey], except_run: str
) -> dict[dg.AssetCheckKey, CheckRecord]:
    """The evaluation that Dagster showed of each check before a run. A skipped check has none.

    Dagster shows a check as skipped if the run that planned it last has ended without evaluating it, and has not failed
    (`AssetCheckExecutionRecord.resolve_status`). Other planned evaluations hide no result.
    """

    @cache
    def skips(run_id: str) -> bool:
        run = instance.get_run_by_id(run_id)
        return run is None or (run.is_finished and not run.is_failure)

    shown = {}
    for check in checks:
        records = (r for r in check_records(instance, check, status=None) if r.run_id != except_run)
        last = next((r for r in records if r.status in _COMPLETED or skips(r.run_id)), None)
        if last is not None and last.status in _COMPLETED:
            shown[check] = last
    return shown


def _step_context(context: dg.AssetExecutionContext | dg.OpExecutionContext) -> StepExecutionContext:
    of_op = context.op_execution_context if isinstance(context, dg.AssetExecutionContext) else context
    return of_op.get_step_execution_context()


def _steps(context: dg.AssetExecutionContext) -> list[IExecutionStep]:
    return list(_step_context(context).execution_plan.steps)


def _inputs(step: IExecutionStep) -> list[StepInput]:
    """Inputs that wait for whole steps. Others wait for dynamic outputs, which our op does not have."""
    return [step_input for step_input in step.step_inputs if isinstance(step_input, StepInput)]


def _planned_step(step: IExecutionStep) -> PlannedStep:
    keys = (output.properties.asset_key for output in step.step_outputs if output.properties is not None)
    return PlannedStep(step.key, dict(step.tags or {}), frozenset(key for key in keys if key is not None))
