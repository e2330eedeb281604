"""Every private interface of Dagster that this package uses. Each function is named after its purpose.

If the reason is not obvious, the docstring gives it. Each has a test in tests/upstream/test_dagster_internals.py, which
fails if Dagster changes it. No other module imports `dagster._*` (ruff refuses it).
"""

from __future__ import annotations

import multiprocessing
import re
import sys
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cache
from typing import Any, Protocol, TypeVar

import dagster as dg
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluationTargetMaterializationData
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
from dagster._utils.schedules import (
    cron_string_iterator,
    is_valid_cron_string,
    reverse_cron_string_iterator,
)

from dg_sqlmesh_component.protocol.graph import reachable

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


class _FailureAlone(DagsterUserCodeProcessError, dg.Failure):
    """Dagster shows the error that it carries, as it does for an error of another process."""

    def __init__(self, failure: dg.Failure) -> None:
        text = failure.description or ""
        alone = SerializableErrorInfo(f"{text}\n", [], dg.Failure.__name__)
        super().__init__(  # type: ignore[no-untyped-call]
            text, failure.metadata, failure.allow_retries, user_code_process_error_infos=[alone]
        )


@contextmanager
def failures_without_traceback(context: dg.OpExecutionContext | dg.AssetExecutionContext) -> Iterator[None]:
    """Let Dagster show the text of a failure alone. It would add the frames of this package, which tell a user nothing.

    With a retry policy they stay: Dagster would take the failure for an error of its own, and not retry the step.
    """
    try:
        yield
    except dg.Failure as failure:
        if context.get_step_execution_context().op_retry_policy is not None:
            raise
        raise _FailureAlone(failure) from None


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
    """Another step of the run.

    Attributes:
        assets: The assets that the step materializes.
    """

    key: str
    tags: Mapping[str, str]
    assets: frozenset[dg.AssetKey]


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

    def awaiting(key: str) -> list[str]:
        return [step.key for step in steps if any(key in step_input.dependency_keys for step_input in _inputs(step))]

    selected = reachable(keys, awaiting)
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


def assets_of_run(context: dg.AssetExecutionContext) -> Set[dg.AssetKey]:
    """The assets that all steps of the run materialize. The public API has only those of the step itself."""
    return context.job_def.asset_layer.selected_asset_keys


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
    """The assets downstream of one of these assets and upstream of another, as in `WithAssetsBetween`.

    Args:
        repository: The assets of the code location; None in a test that has none.
    """
    return frozenset() if repository is None else _between(repository.asset_graph, keys)


def assets_downstream(repository: dg.RepositoryDefinition | None, keys: Collection[dg.AssetKey]) -> Set[dg.AssetKey]:
    """These assets and all assets downstream of them. The arguments are those of `assets_between`."""
    selection = dg.AssetSelection.assets(*keys).downstream()
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
"""Of so many assets, one query reads the materialized partitions. It limits the size of the answer."""


@dataclass(frozen=True)
class Loader:
    """An asset that loads an external table.

    Attributes:
        partitions: None without any, and for an asset of another code location, whose definition is not known here.
    """

    key: dg.AssetKey
    partitions: dg.PartitionsDefinition[str] | None
    blocking_checks: tuple[dg.AssetCheckKey, ...]


def loaders(
    location: HasAssets, tables: Mapping[str, dg.AssetKey], also_elsewhere: Container[str]
) -> dict[str, Loader]:
    """The asset that loads each table, by fqn: by its key, or by the table name that it declares.

    Args:
        tables: The key of each table, by fqn.
        also_elsewhere: The tables whose assets count although this code location does not materialize them, by fqn.
    """
    graph = location.asset_graph
    by_table = {
        str(node.metadata["dagster/table_name"]): node.key
        for node in graph.asset_nodes
        if "dagster/table_name" in node.metadata and node.is_materializable
    }
    found = {}
    for fqn, key in tables.items():
        own = key if graph.has(key) and graph.get(key).is_materializable else by_table.get(fqn.replace('"', ""))
        if own is not None:
            node = graph.get(own)
            checks = tuple(sorted(check for check in node.check_keys if graph.get(check).blocking))
            found[fqn] = Loader(own, node.partitions_def, checks)
        elif fqn in also_elsewhere:
            # The code location may declare an asset that another system materializes.
            found[fqn] = Loader(key, graph.get(key).partitions_def if graph.has(key) else None, ())
    return found


def materialized_partitions(
    instance: dg.DagsterInstance, keys: Collection[dg.AssetKey]
) -> Mapping[dg.AssetKey, Set[str]]:
    """The materialized partitions of assets. The public API reads one asset per call, with two queries.

    For 300 assets with 1,000 partitions each, the public calls take 1.2 s of CPU, and these queries 0.4 s.
    """
    # Each load of definitions would take 0.4 seconds longer if this module imported them.
    import sqlalchemy
    from dagster._core.storage.event_log.schema import SqlEventLogStorageTable
    from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage

    storage, table = instance.event_log_storage, SqlEventLogStorageTable.c
    if not isinstance(storage, SqlEventLogStorage):
        return {key: instance.get_materialized_partitions(key) for key in keys}
    found: dict[dg.AssetKey, set[str]] = {key: set() for key in keys}
    by_text = {key.to_string(): key for key in keys}
    for first in range(0, len(by_text), _ASSETS_PER_QUERY):
        texts = list(by_text)[first : first + _ASSETS_PER_QUERY]
        page = [by_text[text] for text in texts]
        query = (
            sqlalchemy.select(table.asset_key, table.partition)
            .where(table.asset_key.in_(texts), table.partition.is_not(None))
            .where(table.dagster_event_type == dg.DagsterEventType.ASSET_MATERIALIZATION.value)
            .distinct()
        )
        query = storage._add_assets_wipe_filter_to_query(query, storage._get_assets_details(page), page)
        with storage.index_connection() as connection:
            for text, partition in connection.execute(query):
                found[by_text[text]].add(partition)
    return found


def time_dimension(definition: dg.PartitionsDefinition[Any]) -> dg.TimeWindowPartitionsDefinition | None:
    """The time windows of an asset's partitions, which may be one of two dimensions; None without any."""
    if isinstance(definition, dg.MultiPartitionsDefinition):
        return definition.time_window_partitions_def if definition.has_time_window_dimension else None
    return definition if isinstance(definition, dg.TimeWindowPartitionsDefinition) else None


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

    For 100 models that read each other, these queries were a tenth of a step.
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

    Args:
        upstream: Returns the assets that an asset depends on.
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
    """Compute the step's asset keys once. Dagster computes them from all outputs again for each output."""
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

_FAILED = {AssetCheckExecutionRecordStatus.FAILED}

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
    from dagster._core.storage.event_log import SqlEventLogStorage  # imports SQLAlchemy

    storage = instance.event_log_storage
    if isinstance(storage, SqlEventLogStorage):
        last = {check: storage.get_asset_check_execution_history(check, limit=1, status=_COMPLETED) for check in checks}
        return {check: records[0] for check, records in last.items() if records}
    summaries = instance.event_log_storage.get_asset_check_summary_records(list(checks)) if checks else {}
    return {
        check: summary.last_completed_check_execution_record
        for check, summary in summaries.items()
        if summary.last_completed_check_execution_record is not None
    }


def check_records(
    instance: dg.DagsterInstance, check: dg.AssetCheckKey, *, also_planned: bool = False, only_failed: bool = False
) -> Iterator[CheckRecord]:
    """The evaluations of a check, the last one first.

    Args:
        also_planned: Include those that a run has planned and not completed.
        only_failed: Leave out those that have passed.
    """
    cursor, status = None, None if also_planned else _FAILED if only_failed else _COMPLETED
    while records := instance.event_log_storage.get_asset_check_execution_history(
        check, limit=_PAGE, cursor=cursor, status=status
    ):
        yield from records
        cursor = records[-1].id


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
        records = (r for r in check_records(instance, check, also_planned=True) if r.run_id != except_run)
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
