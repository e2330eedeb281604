"""Facts about Dagster that this project needs. If a test fails, Dagster changed, not this project.

Real Dagster runs on real instances. The name of each test is a fact. Its docstring names the decision record in
docs/adr/ that needs the fact: ADR-0001 (one op with explicit outputs), ADR-0002 (split steps share one
point in time), ADR-0003 (checks and carried over results), ADR-0004 (one Failure per step), ADR-0005
(only what was executed is a materialization), ADR-0006 (what Dagster accepts as a property), ADR-0007
(code version and data version), ADR-0009 (results are stored when yielded), ADR-0011 and ADR-0014
(components), ADR-0013 (linking tables by name), ADR-0016 (keys without a definition).
"""

import inspect
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster._check import CheckError
from dagster._cli.api import _execute_step_command_body
from dagster._core.definitions.assets.definition.assets_definition import ASSET_SUBSET_INPUT_PREFIX
from dagster._core.definitions.definitions_load_context import DefinitionsLoadContext
from dagster._core.definitions.reconstruct import ReconstructableRepository
from dagster._core.errors import DagsterInvalidSubsetError
from dagster._core.events import DagsterEvent
from dagster._core.execution.plan.outputs import StepOutputData, StepOutputHandle
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus
from dagster._core.storage.defs_state.base import set_defs_state_storage
from dagster._grpc.types import ExecuteStepArgs
from dagster.components.core.component_tree import ComponentTreeException
from dagster.components.core.package_entry import DG_PLUGIN_ENTRY_POINT_GROUP
from dagster.components.testing import create_defs_folder_sandbox
from dagster.components.testing.utils import DefsFolderSandbox

EventType = dg.DagsterEventType
A, B, C, D = (dg.AssetKey(["shop", name]) for name in "abcd")
Compute = Callable[[dg.AssetExecutionContext], Iterator[Any]]


def op_with_own_outputs(
    compute: Compute, specs: Sequence[dg.AssetSpec], checks: Sequence[dg.AssetCheckSpec] = ()
) -> dg.AssetsDefinition:
    """Return a subsettable op with our own output names, as this project builds it."""
    output_by_key = {spec.key: f"out_{number}" for number, spec in enumerate(specs)}
    deps = dict.fromkeys(dep.asset_key for spec in specs for dep in spec.deps)
    key_by_input = {
        f"{ASSET_SUBSET_INPUT_PREFIX}{output_by_key[key]}" if key in output_by_key else f"in_{number}": key
        for number, key in enumerate(deps)
    }
    check_by_output = {f"check_{number}": check for number, check in enumerate(checks)}

    def run(context: Any) -> Iterator[Any]:
        yield from compute(context)

    run.__annotations__ = {"context": dg.AssetExecutionContext}
    op = dg.op(
        name="one_op",
        ins={name: dg.In(dg.Nothing) for name in key_by_input},
        out={
            **{name: dg.Out(dg.Nothing, is_required=False) for name in output_by_key.values()},
            **{name: dg.Out(is_required=False) for name in check_by_output},
        },
    )(run)
    return dg.AssetsDefinition(
        node_def=op,
        keys_by_input_name=key_by_input,
        keys_by_output_name={output: key for key, output in output_by_key.items()},
        check_specs_by_output_name=check_by_output,
        specs=list(specs),
        can_subset=True,
    )


def plain_asset(key: dg.AssetKey, *deps: dg.AssetKey) -> dg.AssetsDefinition:
    @dg.asset(key=key, deps=deps)
    def plain() -> None: ...

    return plain


def materialize(
    *assets: dg.AssetsDefinition, instance: dg.DagsterInstance, **options: Any
) -> dg.ExecuteInProcessResult:
    return dg.materialize(assets, instance=instance, raise_on_error=False, **options)


def run_op(
    instance: dg.DagsterInstance,
    *results: Any,
    specs: Sequence[dg.AssetSpec] = (dg.AssetSpec(A),),
    checks: Sequence[dg.AssetCheckSpec] = (),
) -> dg.ExecuteInProcessResult:
    """Run an op that yields these results and raises the Failure among them, and an asset downstream of A."""

    def compute(_: dg.AssetExecutionContext) -> Iterator[Any]:
        for result in results:
            if isinstance(result, dg.Failure):
                raise result
            yield result

    return materialize(op_with_own_outputs(compute, specs, checks), DOWNSTREAM, instance=instance)


def events(result: dg.ExecuteInProcessResult, kind: dg.DagsterEventType) -> list[DagsterEvent]:
    return [event for event in result.all_events if event.event_type is kind]


def materialized(result: dg.ExecuteInProcessResult) -> list[dg.AssetKey | None]:
    return [event.asset_key for event in events(result, EventType.ASSET_MATERIALIZATION)]


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


# -- materialized, observed, released -------------------------------------------------------------------

BLOCKING = dg.AssetCheckSpec("audit", asset=A, blocking=True)
FAILED_AUDIT = dg.AssetCheckResult(asset_key=A, check_name="audit", passed=False, severity=dg.AssetCheckSeverity.ERROR)
DOWNSTREAM = plain_asset(dg.AssetKey("downstream"), A)


def released_output(context: dg.AssetExecutionContext, key: dg.AssetKey) -> DagsterEvent:
    step_context = context.op_execution_context.get_step_execution_context()
    output = context.assets_def.get_output_name_for_asset_key(key)
    handle = StepOutputHandle(step_key=step_context.step.key, output_name=output)
    return DagsterEvent.step_output_event(step_context, StepOutputData(step_output_handle=handle))


def test_output_event_alone_lets_downstream_steps_run_without_a_materialization(instance: dg.DagsterInstance) -> None:
    """ADR-0005: a model that had nothing to do releases its downstream steps in this way."""

    def compute(context: dg.AssetExecutionContext) -> Iterator[Any]:
        yield dg.AssetObservation(A)
        yield dg.AssetCheckResult(asset_key=A, check_name="audit", passed=True)
        yield released_output(context, A)

    result = materialize(op_with_own_outputs(compute, [dg.AssetSpec(A)], [BLOCKING]), DOWNSTREAM, instance=instance)
    assert result.success
    assert materialized(result) == [dg.AssetKey("downstream")]
    assert instance.get_latest_materialization_event(A) is None


def test_downstream_steps_are_skipped_without_an_output(instance: dg.DagsterInstance) -> None:
    """ADR-0005: waiting and blocked models yield no output. All others need the output event."""
    result = run_op(instance)
    assert result.success
    assert materialized(result) == []
    assert [event.step_key for event in events(result, EventType.STEP_SKIPPED)] == ["downstream"]


def test_observation_neither_materializes_nor_releases_downstream_steps(instance: dg.DagsterInstance) -> None:
    """ADR-0005: a model that was not executed gets an observation."""
    observed = dg.AssetObservation(A, description="not executed", metadata={"sqlmesh/status": "up_to_date"})
    result = run_op(instance, observed)
    assert result.success
    assert materialized(result) == []
    assert events(result, EventType.STEP_SKIPPED)
    (record,) = instance.fetch_observations(A, limit=5).records
    observation = record.asset_observation
    assert observation is not None
    assert observation.description == "not executed"
    assert observation.metadata["sqlmesh/status"].value == "up_to_date"


def test_yielded_result_is_stored_despite_a_later_failure(instance: dg.DagsterInstance) -> None:
    """ADR-0001, ADR-0009: a model reported before the failure stays materialized."""
    stored_while_running = []

    def compute(context: dg.AssetExecutionContext) -> Iterator[Any]:
        yield dg.MaterializeResult(asset_key=A)
        stored_while_running.append(context.instance.get_latest_materialization_event(A) is not None)
        raise dg.Failure("b failed")

    result = materialize(op_with_own_outputs(compute, [dg.AssetSpec(A), dg.AssetSpec(B)]), instance=instance)
    assert not result.success
    assert stored_while_running == [True]
    assert instance.get_latest_materialization_event(A) is not None


def test_result_of_a_downstream_asset_before_its_upstream_is_refused(instance: dg.DagsterInstance) -> None:
    """ADR-0001, ADR-0005: so we yield results of upstream models first, even if they are known late."""
    results: list[Any] = [dg.MaterializeResult(asset_key=key) for key in (B, A)]
    result = run_op(instance, *results, specs=[dg.AssetSpec(A), dg.AssetSpec(B, deps=[A])])
    assert "was yielded before its dependency" in failure(result)


def test_yielding_an_output_twice_is_refused(instance: dg.DagsterInstance) -> None:
    """ADR-0009: an outcome cannot be taken back; a second pass of SQLMesh reports nothing new."""
    result = run_op(instance, dg.MaterializeResult(asset_key=A), dg.MaterializeResult(asset_key=A))
    assert "multiple times" in failure(result)


def failure(result: dg.ExecuteInProcessResult) -> str:
    """Return the error of the step as Dagster shows it."""
    (event,) = events(result, EventType.STEP_FAILURE)
    data = event.step_failure_data
    if data.user_failure_data:
        return str(data.user_failure_data.description)
    assert data.error is not None
    return data.error.to_string()


# -- checks ---------------------------------------------------------------------------------------------


def test_raised_failure_is_the_step_error_despite_a_failed_blocking_check(instance: dg.DagsterInstance) -> None:
    """ADR-0003, ADR-0004: `audit_failed` is a check that failed with ERROR, no materialization, and one Failure."""
    error = dg.Failure("a failed its audit", metadata={"sqlmesh/audit_failed": "a"})
    result = run_op(instance, FAILED_AUDIT, error, checks=[BLOCKING])
    assert failure(result) == "a failed its audit"
    (evaluation,) = result.get_asset_check_evaluations()
    assert (evaluation.passed, evaluation.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert materialized(result) == []


def test_failed_blocking_check_alone_fails_the_step_with_dagsters_message(instance: dg.DagsterInstance) -> None:
    """ADR-0004: so we raise our own Failure. Dagster names the check but not the reason."""
    result = run_op(instance, FAILED_AUDIT, checks=[BLOCKING])
    assert "1 blocking asset check failed with ERROR severity" in failure(result)


def test_check_failed_with_warn_does_not_fail_the_run(instance: dg.DagsterInstance) -> None:
    """ADR-0003: a non-blocking audit that failed."""
    warning = FAILED_AUDIT._replace(severity=dg.AssetCheckSeverity.WARN)
    result = run_op(instance, dg.MaterializeResult(asset_key=A, check_results=[warning]), checks=[BLOCKING])
    assert result.success
    assert materialized(result) == [A, dg.AssetKey("downstream")]


def test_check_can_be_selected_without_its_asset(instance: dg.DagsterInstance) -> None:
    """ADR-0003: such a selection evaluates an audit and runs no model."""
    selected = []

    def compute(context: dg.AssetExecutionContext) -> Iterator[Any]:
        selected.append((set(context.selected_asset_keys), set(context.selected_asset_check_keys)))
        yield dg.AssetCheckResult(asset_key=A, check_name="audit", passed=True)

    assets = op_with_own_outputs(compute, [dg.AssetSpec(A), dg.AssetSpec(B)], [BLOCKING])
    result = materialize(assets, instance=instance, selection=dg.AssetSelection.checks(BLOCKING.key))
    assert result.success
    assert selected == [(set(), {BLOCKING.key})]
    assert materialized(result) == []


def test_last_completed_check_result_is_found_while_the_current_run_plans_a_check(instance: dg.DagsterInstance) -> None:
    """ADR-0003: results that are carried over come from here."""
    records = []

    def compute(context: dg.AssetExecutionContext) -> Iterator[Any]:
        summary = summary_of_check(context.instance)
        records.append((summary.last_check_execution_record, summary.last_completed_check_execution_record))
        if len(records) == 1:
            metadata = {"sqlmesh/failing_rows": 0}
            yield dg.AssetCheckResult(asset_key=A, check_name="audit", passed=True, metadata=metadata)

    assets = op_with_own_outputs(compute, [dg.AssetSpec(A)], [BLOCKING])
    first = materialize(assets, instance=instance)
    second = materialize(assets, instance=instance)
    third = materialize(assets, instance=instance)
    assert all(run.success for run in (first, second, third))
    for run, (latest, completed) in zip((second, third), records[1:]):
        assert (latest.run_id, latest.status) == (run.run_id, AssetCheckExecutionRecordStatus.PLANNED)
        assert (completed.run_id, completed.status) == (first.run_id, AssetCheckExecutionRecordStatus.SUCCEEDED)
        assert completed.event.asset_check_evaluation.metadata["sqlmesh/failing_rows"].value == 0


def test_check_record_has_the_time_of_planning_and_its_event_that_of_evaluation(instance: dg.DagsterInstance) -> None:
    """ADR-0003: a carried over result contains the time of its evaluation."""
    evaluated_after = []

    def compute(_: dg.AssetExecutionContext) -> Iterator[Any]:
        time.sleep(1.1)  # SQLite stores times in seconds
        evaluated_after.append(time.time())
        yield dg.AssetCheckResult(asset_key=A, check_name="audit", passed=True)

    assert materialize(op_with_own_outputs(compute, [dg.AssetSpec(A)], [BLOCKING]), instance=instance).success
    record = summary_of_check(instance).last_completed_check_execution_record
    assert record.create_timestamp < evaluated_after[0] <= record.event.timestamp


def summary_of_check(instance: dg.DagsterInstance) -> Any:
    return instance.event_log_storage.get_asset_check_summary_records([BLOCKING.key])[BLOCKING.key]


# -- one op ---------------------------------------------------------------------------------------------

AWKWARD = {
    "a space": [dg.AssetKey(["shop", "daily totals"])],
    "no letter of English": [dg.AssetKey(["shop", "tägliche/“summen”"])],
    "the same but for a dash": [dg.AssetKey(["a", "b-c"]), dg.AssetKey(["a", "b_c"])],
    "the same but for where it is split": [dg.AssetKey(["a__b", "c"]), dg.AssetKey(["a", "b", "c"])],
}


@pytest.mark.parametrize("keys", AWKWARD.values(), ids=AWKWARD)
def test_op_with_own_output_names_has_assets_of_any_name(instance: dg.DagsterInstance, keys: list[dg.AssetKey]) -> None:
    """ADR-0001: every name that SQLMesh accepts can be loaded."""

    def compute(context: dg.AssetExecutionContext) -> Iterator[Any]:
        assert context.selected_asset_keys == set(keys)
        for key in keys:
            yield dg.MaterializeResult(asset_key=key)

    result = materialize(op_with_own_outputs(compute, [dg.AssetSpec(key) for key in keys]), instance=instance)
    assert result.success
    assert materialized(result) == keys


@pytest.mark.parametrize("keys", AWKWARD.values(), ids=AWKWARD)
def test_multi_asset_decorator_refuses_such_names(keys: list[dg.AssetKey]) -> None:
    """ADR-0001: so we do not use it. If this test fails, our own op may no longer be needed."""
    with pytest.raises((dg.DagsterInvalidDefinitionError, KeyError)):

        @dg.multi_asset(specs=[dg.AssetSpec(key) for key in keys], can_subset=True)
        def _assets() -> None: ...


CLASHING = [
    dg.AssetCheckSpec("items_not_null", asset=["db", "orders"]),
    dg.AssetCheckSpec("not_null", asset=["db", "orders_items"]),
]


def test_op_with_own_output_names_can_have_checks_with_equal_joined_names(instance: dg.DagsterInstance) -> None:
    """ADR-0001, ADR-0003: checks have the names of audits, which follow no rule of Dagster."""

    def compute(_: dg.AssetExecutionContext) -> Iterator[Any]:
        for spec in CLASHING:
            check = dg.AssetCheckResult(asset_key=spec.asset_key, check_name=spec.name, passed=True)
            yield dg.MaterializeResult(asset_key=spec.asset_key, check_results=[check])

    specs = [dg.AssetSpec(spec.asset_key) for spec in CLASHING]
    result = materialize(op_with_own_outputs(compute, specs, CLASHING), instance=instance)
    assert [evaluation.asset_check_key for evaluation in result.get_asset_check_evaluations()] == [
        spec.key for spec in CLASHING
    ]
    with pytest.raises(dg.DagsterInvalidDefinitionError, match="Duplicate check specs"):

        @dg.multi_asset(specs=specs, check_specs=CLASHING, can_subset=True)
        def _assets() -> None: ...


def test_subset_is_passed_to_the_op_as_selected_keys(instance: dg.DagsterInstance) -> None:
    """ADR-0002: the op gets the whole selection of the step here."""
    selected = []

    def compute(context: dg.AssetExecutionContext) -> Iterator[Any]:
        selected.append(context.selected_asset_keys)
        yield dg.MaterializeResult(asset_key=A)
        yield dg.MaterializeResult(asset_key=C)

    specs = [dg.AssetSpec(A), dg.AssetSpec(B, deps=[A]), dg.AssetSpec(C, deps=[B])]
    assert materialize(op_with_own_outputs(compute, specs), instance=instance, selection=[A, C]).success
    assert selected == [{A, C}]


def test_input_name_prefix_makes_an_op_splittable() -> None:
    """ADR-0002: by this prefix Dagster recognizes inputs that are assets of the same op."""
    assert ASSET_SUBSET_INPUT_PREFIX == "__subset_input__"


def sandwich() -> dg.JobDefinition:
    """Return a job in which a plain asset is between the assets a and c of one op."""

    def compute(context: dg.AssetExecutionContext) -> Iterator[Any]:
        record = context.instance.get_run_record_by_id(context.run.run_id)
        for key in (A, B, C, D):
            if key in context.selected_asset_keys:
                facts = {"run_started_at": record.start_time, "process": os.getpid()}
                yield dg.MaterializeResult(asset_key=key, metadata=facts)

    specs = [dg.AssetSpec(A), dg.AssetSpec(B, deps=[A]), dg.AssetSpec(C, deps=[A, "plain"]), dg.AssetSpec(D, deps=[C])]
    assets = [op_with_own_outputs(compute, specs), plain_asset(dg.AssetKey("plain"), A)]
    return dg.Definitions(assets, jobs=[dg.define_asset_job("sandwich")]).resolve_job_def("sandwich")


def test_asset_between_two_assets_of_an_op_splits_it_into_steps_with_one_run_start() -> None:
    """ADR-0002: one Dagster run is one point in time, in all of its steps and processes."""
    with dg.DagsterInstance.local_temp() as instance:
        result = dg.execute_job(
            dg.reconstructable(sandwich),
            instance=instance,
            run_config={"execution": {"config": {"multiprocess": {"start_method": {"forkserver": {}}}}}},
        )
        assert result.success
        steps: dict[str | None, set[dg.AssetKey | None]] = {}
        started, processes = set(), set()
        for event in result.filter_events(lambda event: event.event_type is EventType.ASSET_MATERIALIZATION):
            steps.setdefault(event.step_key, set()).add(event.asset_key)
            if event.asset_key != dg.AssetKey("plain"):
                started.add(event.materialization.metadata["run_started_at"].value)
                processes.add(event.materialization.metadata["process"].value)
        assert steps == {"one_op": {A, B}, "plain": {dg.AssetKey("plain")}, "one_op_2": {C, D}}
        assert len(processes) == 2
        record = instance.get_run_record_by_id(result.run_id)
        assert record is not None
        assert started == {record.start_time}


# -- versions and properties ----------------------------------------------------------------------------


def tags_of_latest_materialization(instance: dg.DagsterInstance, key: dg.AssetKey) -> Mapping[str, str]:
    record = instance.get_latest_materialization_event(key)
    assert record is not None
    assert record.asset_materialization is not None
    return record.asset_materialization.tags or {}


def test_code_version_in_result_tags_wins_over_the_spec(instance: dg.DagsterInstance) -> None:
    """ADR-0007: we record the version that ran, not that of the file."""
    tags = {"dagster/code_version": "promoted"}
    promoted: dg.MaterializeResult[None] = dg.MaterializeResult(
        asset_key=A, data_version=dg.DataVersion("data 1"), tags=tags
    )
    specs = [dg.AssetSpec(A, code_version="local"), dg.AssetSpec(B, code_version="local")]
    assert run_op(instance, promoted, dg.MaterializeResult(asset_key=B), specs=specs).success
    recorded = {key: tags_of_latest_materialization(instance, key) for key in (A, B)}
    assert recorded[A]["dagster/code_version"] == "promoted"
    assert recorded[A]["dagster/data_version"] == "data 1"
    assert recorded[B]["dagster/code_version"] == "local"


@pytest.mark.parametrize("value", ['{"a":1}', "x" * 64], ids=["JSON", "64 characters"])
def test_tags_of_a_materialization_cannot_have_the_record_of_its_data(value: str) -> None:
    """ADR 0036: so the record is in metadata."""
    with pytest.raises(dg.DagsterInvalidDefinitionError, match="Invalid tag value"):
        dg.AssetMaterialization(A, tags={"sqlmesh/internal": value})
    assert "tags" not in inspect.signature(dg.AssetCheckResult).parameters


@pytest.mark.parametrize(
    ("property_", "accepted", "refused"),
    [
        ("owners", ["bob@example.com"], ["bob"]),
        ("owners", ["team:bob"], ["team:"]),
        ("tags", {"layer": "gold"}, {"layer": "a:b"}),
        ("tags", {"namespace/layer": ""}, {"a b": ""}),
        ("group_name", "finance", "finance-eu"),
    ],
)
def test_definition_with_one_spec_validates_its_properties(property_: str, accepted: Any, refused: Any) -> None:
    """ADR-0006: we validate tags of the convention with it, so the errors are Dagster's."""
    dg.AssetsDefinition(specs=[dg.AssetSpec("probe", **{property_: accepted})])
    with pytest.raises((dg.DagsterInvalidDefinitionError, CheckError)):
        dg.AssetsDefinition(specs=[dg.AssetSpec("probe", **{property_: refused})])


def _graph_of(*assets: dg.AssetSpec | dg.AssetsDefinition) -> Any:
    """Return the asset graph. Each asset is in its own definitions, like the assets of components."""
    definitions = dg.Definitions.merge(*(dg.Definitions([asset]) for asset in assets))
    dg.Definitions.validate_loadable(definitions)
    return definitions.resolve_asset_graph()


def test_external_asset_conflicts_with_another_asset_of_its_key_or_table() -> None:
    """Why `external_models.assets` is off by default (ADR-0016)."""
    raw, table = dg.AssetKey(["raw", "orders"]), {"dagster/table_name": "db.raw.orders"}
    reader = dg.AssetSpec("reader", deps=[dg.AssetDep(raw, metadata=table)])
    landed = dg.AssetSpec(["dlt", "orders"], metadata=table)
    external = dg.AssetSpec(raw, metadata=table, group_name="raw", kinds={"table"})

    @dg.asset(key=raw)
    def producer() -> None: ...

    stub = _graph_of(reader).get(raw)
    assert (stub.group_name, stub.tags, stub.metadata["dagster/table_name"]) == ("default", {}, "db.raw.orders")
    with pytest.raises(dg.DagsterInvalidDefinitionError, match="Conflicting metadata found on AssetDeps"):
        _graph_of(reader, dg.AssetSpec("other", deps=[dg.AssetDep(raw, metadata={**table, "more": 1})]))
    for assets in ([reader, external, producer], [producer, external, reader]):
        with pytest.raises(dg.DagsterInvalidDefinitionError, match="Duplicate asset key"):
            _graph_of(*assets)
    with pytest.raises(dg.DagsterInvalidDefinitionError, match="conflicting AssetSpecs with the same key"):
        _graph_of(external, external.replace_attributes(description="Another."))
    assert _graph_of(reader, landed).get(reader.key).parent_keys == {landed.key}
    assert _graph_of(reader, landed, external).get(reader.key).parent_keys == {raw}


def test_dependency_is_linked_to_the_asset_with_its_table_name() -> None:
    """ADR-0013: another component may produce the table under any key."""
    producer = dg.AssetSpec(["ingest", "orders"], metadata={"dagster/table_name": "db.raw.orders"})
    dep = dg.AssetDep(["raw", "orders"], metadata={"dagster/table_name": "db.raw.orders"})
    graph = dg.Definitions([producer, dg.AssetSpec(A, deps=[dep])]).resolve_asset_graph()
    assert graph.get(A).parent_keys == {dg.AssetKey(["ingest", "orders"])}


# -- components -----------------------------------------------------------------------------------------

LIBRARY = """
from dataclasses import dataclass

import dagster as dg
from dagster.components.component.state_backed_component import StateBackedComponent
from dagster.components.utils.defs_state import DefsStateConfig
from dagster_shared.serdes.objects.models.defs_state_info import DefsStateManagementType


@dataclass
class One(dg.Component, dg.Resolvable):
    asset: str
    note: str | None = None

    def build_defs(self, context):
        return dg.Definitions([dg.AssetSpec(self.asset)])


@dataclass
class Stateful(StateBackedComponent, dg.Resolvable):
    @property
    def defs_state_config(self):
        return DefsStateConfig(
            key="Stateful", management_type=DefsStateManagementType.LOCAL_FILESYSTEM, refresh_if_dev=True
        )

    def write_state_to_path(self, state_path):
        state_path.write_text("from_state")

    def build_defs_from_state(self, context, state_path):
        return dg.Definitions([dg.AssetSpec(state_path.read_text() if state_path else "without_state")])
"""


@dataclass
class Folder:
    """A folder of definitions next to a module with two component types."""

    sandbox: DefsFolderSandbox

    def declare(self, file: str, type_: str = "One", **attributes: str) -> None:
        path = self.sandbox.defs_folder_path / "shop" / file
        path.parent.mkdir(exist_ok=True)
        path.write_text(
            yaml.safe_dump({"type": f"{self.sandbox.project_name}.library.{type_}", "attributes": attributes})
        )

    def assets(self) -> list[str]:
        with self.sandbox.build_all_defs() as defs:
            return [key.to_user_string() for key in defs.resolve_all_asset_keys()]


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Folder]:
    monkeypatch.setattr(DefinitionsLoadContext, "_instance", None)  # as in a process that has loaded no definitions
    # After many instances in this process, Dagster may have the storage of an earlier one.
    with set_defs_state_storage(None), create_defs_folder_sandbox() as sandbox:
        (sandbox.defs_folder_path.parent / "library.py").write_text(LIBRARY)
        yield Folder(sandbox)


def test_defs_yaml_wins_over_component_yaml(folder: Folder) -> None:
    """ADR-0011: if both exist, Dagster reads only defs.yaml, without a warning."""
    folder.declare("component.yaml", asset="from_component_yaml")
    folder.declare("defs.yaml", asset="from_defs_yaml")
    assert folder.assets() == ["from_defs_yaml"]


def test_postponed_annotations_of_a_resolvable_dataclass_cannot_be_resolved(folder: Folder) -> None:
    """ADR-0011: so our component.py does not postpone them."""
    library = folder.sandbox.defs_folder_path.parent / "library.py"
    library.write_text(f"from __future__ import annotations\n{LIBRARY}")
    folder.declare("defs.yaml", asset="declared")
    with pytest.raises(ComponentTreeException):
        folder.assets()


def test_state_backed_component_without_stored_state_gets_none(folder: Folder) -> None:
    """ADR-0014: our component then loads the project directly."""
    folder.declare("defs.yaml", "Stateful")
    assert folder.assets() == ["without_state"]


def test_component_writes_and_reads_its_state_in_development(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """ADR-0014: the cost of loading a project is paid once."""
    monkeypatch.setenv("DAGSTER_IS_DEV_CLI", "1")
    folder.declare("defs.yaml", "Stateful")
    assert folder.assets() == ["from_state"]


def test_components_are_registered_by_the_entry_point_group() -> None:
    """ADR-0011: our pyproject.toml uses this group."""
    assert DG_PLUGIN_ENTRY_POINT_GROUP == "dagster_dg_cli.registry_modules"


@pytest.mark.parametrize("is_asset_job", [True, False])
def test_only_the_job_of_all_assets_ignores_the_config_of_an_op_that_it_does_not_have(is_asset_job: bool) -> None:
    """`dg launch --assets` and the UI launch the job of all assets, so a step refuses such a config itself."""

    @dg.asset
    def one() -> None: ...

    @dg.job
    def plain() -> None:
        dg.op(name="two")(lambda: None)()

    job = dg.Definitions(assets=[one]).resolve_implicit_global_asset_job_def() if is_asset_job else plain
    config: dict[str, Any] = {"ops": {"three": {"config": {}}}}
    if is_asset_job:
        assert job.execute_in_process(run_config=config).success
    else:
        with pytest.raises(dg.DagsterInvalidConfigError, match="three"):
            job.execute_in_process(run_config=config)


def test_step_whose_process_lacks_a_launched_asset_never_begins_and_the_log_of_its_run_names_the_asset(
    tmp_path: Path,
) -> None:
    """docs/troubleshooting.md. The executor has only the exit status of the process."""
    code = "import dagster as dg\n\n@dg.multi_asset(specs=list(map(dg.AssetSpec, {})), can_subset=True)\ndef op(): ..."
    jobs = []
    for version, keys in (("newer", ["first", "added"]), ("older", ["first"])):
        file = tmp_path / f"{version}.py"
        file.write_text(f"{code.format(keys)}\n\ndefs = dg.Definitions(assets=[op])\n")
        jobs.append(ReconstructableRepository.for_file(str(file), "defs").get_reconstructable_job("__ASSET_JOB"))
    newer, older = jobs
    with dg.instance_for_test() as instance:
        run = instance.create_run_for_job(
            newer.get_definition(),
            asset_selection=frozenset(map(dg.AssetKey, ("first", "added"))),
            job_code_origin=older.get_python_origin(),
        )
        args = ExecuteStepArgs(older.get_python_origin(), run.run_id, ["op"], instance.get_ref())
        with pytest.raises(DagsterInvalidSubsetError):
            list(_execute_step_command_body(args, instance, run))
        events = [entry.dagster_event for entry in instance.all_logs(run.run_id) if entry.dagster_event]
    assert EventType.STEP_START not in [event.event_type for event in events]
    [error] = [event.engine_event_data.error for event in events if event.event_type is EventType.ENGINE_EVENT]
    assert error is not None
    assert (error.cls_name, "added" in error.message) == ("DagsterInvalidSubsetError", True)
