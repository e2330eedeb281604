"""The step that runs: its process, the plan of its run, and what Dagster records of it."""

from __future__ import annotations

import multiprocessing
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import dagster as dg
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
from dagster._core.errors import DagsterUserCodeProcessError
from dagster._core.events import EngineEventData
from dagster._core.execution.context.data_version_cache import InputAssetVersionInfo
from dagster._core.execution.context.system import StepExecutionContext
from dagster._core.execution.plan.inputs import StepInput
from dagster._core.execution.plan.outputs import StepOutputData, StepOutputHandle
from dagster._core.execution.plan.step import IExecutionStep
from dagster._core.executor.multiprocess import MultiprocessExecutorChildProcessCommand
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

from dg_sqlmesh_component.dagster_internals.assets import HasAssets
from dg_sqlmesh_component.protocol.graph import reachable

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


def assets_of_later_steps(context: dg.AssetExecutionContext) -> set[dg.AssetKey]:
    """The assets that steps downstream of this one are to materialize in this run."""
    executed = _step_context(context).execution_plan.step_keys_to_execute
    later = [step for step in with_steps_downstream(context, [step_key(context)]) if step.key != step_key(context)]
    return {key for step in later if step.key in executed for key in step.assets}


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


def repository_of(context: dg.OpExecutionContext) -> dg.RepositoryDefinition | None:
    """All definitions of the code location; None in a test that has none, for which the public property raises."""
    return _step_context(context)._execution_data.repository_def


def assets_of(context: dg.OpExecutionContext) -> HasAssets:
    """All assets of the code location; those of the job if there is none, as in `dagster.materialize`."""
    return repository_of(context) or context.job_def.asset_layer


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
