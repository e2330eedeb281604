"""Every private interface of Dagster that this package uses. Each function is named after its purpose.

Each has its reason here, and a test in tests/upstream/test_dagster_internals.py that fails when Dagster changes what
we depend on. No other module imports `dagster._*` (ruff refuses it).
"""

from __future__ import annotations

import multiprocessing
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any

import dagster as dg
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluationTargetMaterializationData
from dagster._core.definitions.definitions_load_context import DefinitionsLoadContext, DefinitionsLoadType
from dagster._core.execution.context.system import StepExecutionContext
from dagster._core.execution.plan.inputs import StepInput
from dagster._core.execution.plan.outputs import StepOutputData, StepOutputHandle
from dagster._core.execution.plan.step import IExecutionStep
from dagster._core.executor.multiprocess import MultiprocessExecutorChildProcessCommand
from dagster._core.storage.asset_check_execution_record import (
    AssetCheckExecutionRecord,
    AssetCheckExecutionRecordStatus,
)
from dagster._core.storage.tags import ASSET_RESUME_RETRY_TAG, BACKFILL_ID_TAG
from dagster._utils import interrupts

from dg_sqlmesh_component.protocol.graph import reachable

CheckRecord = AssetCheckExecutionRecord
"""One evaluation of a check as Dagster stores it."""

TargetMaterialization = AssetCheckEvaluationTargetMaterializationData
"""Which materialization an evaluation is about; `AssetCheckEvaluation` takes it, and has no public name for it."""

# -- loading definitions --------------------------------------------------------------------------


def is_rebuilding_definitions() -> bool:
    """Whether Dagster builds definitions that it has built before, as for a run: they are to be the same.

    Dagster has no public way to tell a rebuild from a load.
    """
    return DefinitionsLoadContext.get().load_type is DefinitionsLoadType.RECONSTRUCTION


def code_location_of(context: dg.ComponentLoadContext) -> object:
    """What all components of one load of a code location share, and no other load does.

    Components are loaded one by one. To find conflicts between two of them, something must hold what each has declared;
    Dagster has no public place for it.
    """
    return context.component_tree.state_tracker


# -- the process of a step ------------------------------------------------------------------------


def was_started_for_a_step_of(op: str) -> bool:
    """Whether the multiprocess executor has started this process to run the op, or a part of it when it is split.

    The step needs SQLMesh's process, which imports SQLMesh for seconds; Dagster can prepare the step meanwhile. It
    does not tell publicly what a process was started for. If this answers no, nothing but those seconds is lost.
    """
    arguments = getattr(multiprocessing.current_process(), "_args", ())
    commands = [argument for argument in arguments if isinstance(argument, MultiprocessExecutorChildProcessCommand)]
    return any(re.fullmatch(rf"{re.escape(op)}(_\d+)?", command.step_key) for command in commands)


SignalInstaller = Callable[[Any], None]


def signal_installer() -> SignalInstaller:
    """The function by which Dagster installs its handler of SIGINT and SIGTERM, at each result of an op twice."""
    return interrupts._replace_interrupt_signal


def replace_signal_installer(installer: SignalInstaller) -> None:
    """Put another function in its place.

    Dagster's handler raises wherever the process happens to be, and what SQLMesh has finished by then would never be
    recorded. It offers no public way to keep it from doing so.
    """
    interrupts._replace_interrupt_signal = installer  # type: ignore[assignment]


# -- the plan of the run --------------------------------------------------------------------------


@dataclass(frozen=True)
class PlannedStep:
    """Another step of the run.

    Attributes:
        assets: The assets that it materializes.
    """

    key: str
    tags: Mapping[str, str]
    assets: frozenset[dg.AssetKey]


def step_key(context: dg.AssetExecutionContext) -> str:
    """The key of the step that runs."""
    return _step_context(context).step.key


def is_only_step(context: dg.AssetExecutionContext) -> bool:
    """Whether the run ends as this step does."""
    return len(_steps(context)) == 1


def awaited_outputs(context: dg.AssetExecutionContext) -> dict[str, tuple[PlannedStep, ...]]:
    """The outputs of this step that other steps of the run wait for, and which steps these are."""
    key = step_key(context)
    awaited: dict[str, dict[str, IExecutionStep]] = {}
    for step in _steps(context):
        for step_input in _inputs(step):
            for handle in step_input.get_step_output_handle_dependencies():
                if handle.step_key == key:
                    awaited.setdefault(handle.output_name, {})[step.key] = step
    return {output: tuple(map(_planned_step, steps.values())) for output, steps in awaited.items()}


def with_steps_downstream(context: dg.AssetExecutionContext, keys: Iterable[str]) -> list[PlannedStep]:
    """These steps of the run and all that wait for any of them, in the order of the plan."""
    steps = _steps(context)

    def awaiting(key: str) -> list[str]:
        return [step.key for step in steps if any(key in given.dependency_keys for given in _inputs(step))]

    found = reachable(keys, awaiting)
    return [_planned_step(step) for step in steps if step.key in found]


def planned_selection(
    context: dg.AssetExecutionContext, run: dg.DagsterRun
) -> Set[dg.AssetKey | dg.AssetCheckKey] | None:
    """The assets and checks of this step in a run's plan; None where the plan, or the step in it, is not on record."""
    snapshot_id = run.execution_plan_snapshot_id
    if snapshot_id is None:
        return None
    plan = context.instance.get_execution_plan_snapshot(snapshot_id)
    key = step_key(context)
    return next((step.entity_keys for step in plan.steps if step.key == key), None)


def assets_of_run(context: dg.AssetExecutionContext) -> Set[dg.AssetKey]:
    """The assets that all steps of the run materialize; publicly, a step knows its own only."""
    return context.job_def.asset_layer.selected_asset_keys


def repeats_failed_assets(run: dg.DagsterRun) -> bool:
    """Whether Dagster has chosen the run's assets by what failed in another run (`FROM_ASSET_FAILURE`)."""
    return ASSET_RESUME_RETRY_TAG in run.tags


def is_part_of_backfill(run: dg.DagsterRun) -> bool:
    """Whether a backfill has launched the run."""
    return BACKFILL_ID_TAG in run.tags


# -- recording ------------------------------------------------------------------------------------


def released_output(context: dg.AssetExecutionContext, output: str) -> dg.DagsterEvent:
    """A step output without a materialization or a check's result. It lets the steps downstream run.

    Dagster has no public way to release it. Without it, healthy assets downstream of a model that had nothing to do
    would be skipped, and a retried run would end green without ever refreshing them.
    """
    step_context = _step_context(context)
    handle = StepOutputHandle(step_key=step_context.step.key, output_name=output)
    return dg.DagsterEvent.step_output_event(
        step_context=step_context, step_output_data=StepOutputData(step_output_handle=handle)
    )


def remember_output_keys(context: dg.AssetExecutionContext) -> None:
    """Compute the set of the step's asset keys once. Dagster does so for each output, from all outputs."""
    step_context = _step_context(context)
    keys = step_context.get_output_asset_keys()
    step_context.get_output_asset_keys = lambda: keys  # type: ignore[method-assign]


def keep_quiet_about_outputs(context: dg.AssetExecutionContext) -> None:
    """Drop the line in which Dagster lists the outputs of checks that it has not seen: 82 kB for 1,000 models."""
    _step_context(context).log.addFilter(
        lambda record: "did not yield or return expected outputs" not in str(record.msg)
    )


# -- checks on record -----------------------------------------------------------------------------

_COMPLETED = {AssetCheckExecutionRecordStatus.SUCCEEDED, AssetCheckExecutionRecordStatus.FAILED}

_PAGE = 5
"""Evaluations of a check that are read at a time: of two environments in turn the second is it; reading 50 takes 5.5 ms
more."""


def last_check_records(
    instance: dg.DagsterInstance, checks: Collection[dg.AssetCheckKey]
) -> dict[dg.AssetCheckKey, CheckRecord]:
    """The last completed evaluation of each check, all in one query; the public API has one check a call."""
    summaries = instance.event_log_storage.get_asset_check_summary_records(list(checks)) if checks else {}
    return {
        check: summary.last_completed_check_execution_record
        for check, summary in summaries.items()
        if summary.last_completed_check_execution_record is not None
    }


def check_records(instance: dg.DagsterInstance, check: dg.AssetCheckKey) -> Iterator[CheckRecord]:
    """The completed evaluations of a check, the last one first."""
    cursor = None
    while records := instance.event_log_storage.get_asset_check_execution_history(
        check, limit=_PAGE, cursor=cursor, status=_COMPLETED
    ):
        yield from records
        cursor = records[-1].id


def _step_context(context: dg.AssetExecutionContext) -> StepExecutionContext:
    return context.op_execution_context.get_step_execution_context()


def _steps(context: dg.AssetExecutionContext) -> list[IExecutionStep]:
    return list(_step_context(context).execution_plan.steps)


def _inputs(step: IExecutionStep) -> list[StepInput]:
    """Inputs that wait for whole steps; others wait for dynamic outputs, which ours are not."""
    return [step_input for step_input in step.step_inputs if isinstance(step_input, StepInput)]


def _planned_step(step: IExecutionStep) -> PlannedStep:
    keys = (output.properties.asset_key for output in step.step_outputs if output.properties is not None)
    return PlannedStep(step.key, dict(step.tags or {}), frozenset(key for key in keys if key is not None))
