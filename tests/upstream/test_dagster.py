"""Facts about Dagster that this project needs. If a test fails, Dagster changed, not this project.

Real Dagster runs on real instances. The name of each test is a fact. Its docstring names the decision record in
docs/adr/ that needs the fact: ADR-0001 (one op with explicit outputs), ADR-0003 (checks and carried over
results), ADR-0004 (one Failure per step), ADR-0005 (only what was executed is a materialization), ADR-0007
(code version and data version), ADR-0009 (results are stored when yielded), ADR-0011 (components), ADR-0013
(linking tables by name), ADR-0016 (keys without a definition).

What Dagster makes of our own op is in tests/unit/definitions/test_op.py, and what it accepts as a property of an asset
(ADR-0006) in test_translator.py.
"""

import inspect
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster._cli.api import _execute_step_command_body
from dagster._core.definitions.reconstruct import ReconstructableRepository
from dagster._core.errors import DagsterInvalidSubsetError
from dagster._core.events import DagsterEvent
from dagster._core.storage.defs_state.base import set_defs_state_storage
from dagster._grpc.types import ExecuteStepArgs
from dagster.components.core.component_tree import ComponentTreeException
from dagster.components.core.package_entry import DG_PLUGIN_ENTRY_POINT_GROUP
from dagster.components.testing import create_defs_folder_sandbox

from dg_sqlmesh_component.dagster_internals.event_log import last_check_records
from dg_sqlmesh_component.dagster_internals.steps import released_output

EventType = dg.DagsterEventType
A, B = (dg.AssetKey(["shop", name]) for name in "ab")
Compute = Callable[[dg.AssetExecutionContext], Iterator[Any]]


def op_of(
    compute: Compute, specs: Sequence[dg.AssetSpec], checks: Sequence[dg.AssetCheckSpec] = ()
) -> dg.AssetsDefinition:
    @dg.multi_asset(specs=specs, check_specs=checks, can_subset=True)
    def one_op(context):  # type: ignore[no-untyped-def]  # Dagster looks at the annotation itself
        yield from compute(context)

    return one_op


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

    return materialize(op_of(compute, specs, checks), DOWNSTREAM, instance=instance)


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


def test_output_event_alone_lets_downstream_steps_run_without_a_materialization(instance: dg.DagsterInstance) -> None:
    """ADR-0005: a model that had nothing to do releases its downstream steps in this way."""

    def compute(context: dg.AssetExecutionContext) -> Iterator[Any]:
        yield dg.AssetObservation(A)
        yield dg.AssetCheckResult(asset_key=A, check_name="audit", passed=True)
        yield released_output(context, context.assets_def.get_output_name_for_asset_key(A))

    result = materialize(op_of(compute, [dg.AssetSpec(A)], [BLOCKING]), DOWNSTREAM, instance=instance)
    assert result.success
    assert materialized(result) == [dg.AssetKey("downstream")]
    assert instance.get_latest_materialization_event(A) is None


@pytest.mark.parametrize("results", [(), (dg.AssetObservation(A),)], ids=["nothing", "an observation"])
def test_step_without_an_output_materializes_nothing_and_its_downstream_steps_are_skipped(
    instance: dg.DagsterInstance, results: tuple[dg.AssetObservation, ...]
) -> None:
    """ADR-0005: waiting and blocked models yield no output, and an observation. All others need the output event."""
    result = run_op(instance, *results)
    assert result.success
    assert materialized(result) == []
    assert [event.step_key for event in events(result, EventType.STEP_SKIPPED)] == ["downstream"]
    assert len(instance.fetch_observations(A, limit=5).records) == len(results)


def test_yielded_result_is_stored_despite_a_later_failure(instance: dg.DagsterInstance) -> None:
    """ADR-0001, ADR-0009: a model reported before the failure stays materialized."""
    stored_while_running = []

    def compute(context: dg.AssetExecutionContext) -> Iterator[Any]:
        yield dg.MaterializeResult(asset_key=A)
        stored_while_running.append(context.instance.get_latest_materialization_event(A) is not None)
        raise dg.Failure("b failed")

    result = materialize(op_of(compute, [dg.AssetSpec(A), dg.AssetSpec(B)]), instance=instance)
    assert not result.success
    assert stored_while_running == [True]
    assert instance.get_latest_materialization_event(A) is not None


@pytest.mark.parametrize(
    ("keys", "error"),
    [((B, A), "was yielded before its dependency"), ((A, A), "multiple times")],
    ids=["a downstream asset before its upstream", "an asset twice"],
)
def test_result_is_refused(instance: dg.DagsterInstance, keys: tuple[dg.AssetKey, ...], error: str) -> None:
    """ADR-0001, ADR-0005, ADR-0009: we yield upstream models first, even if known late. No outcome is taken back."""
    results: list[Any] = [dg.MaterializeResult(asset_key=key) for key in keys]
    assert error in failure(run_op(instance, *results, specs=[dg.AssetSpec(A), dg.AssetSpec(B, deps=[A])]))


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


def test_check_record_has_the_time_of_planning_and_its_event_that_of_evaluation(instance: dg.DagsterInstance) -> None:
    """ADR-0003: a carried over result contains the time of its evaluation."""
    evaluated_after = []

    def compute(_: dg.AssetExecutionContext) -> Iterator[Any]:
        time.sleep(1.1)  # SQLite stores times in seconds
        evaluated_after.append(time.time())
        yield dg.AssetCheckResult(asset_key=A, check_name="audit", passed=True)

    assert materialize(op_of(compute, [dg.AssetSpec(A)], [BLOCKING]), instance=instance).success
    record = last_check_records(instance, [BLOCKING.key])[BLOCKING.key]
    assert record.event is not None
    assert record.create_timestamp < evaluated_after[0] <= record.event.timestamp


# -- one op ---------------------------------------------------------------------------------------------

AWKWARD = {
    "a space": [dg.AssetKey(["shop", "daily totals"])],
    "no letter of English": [dg.AssetKey(["shop", "tägliche/“summen”"])],
    "the same but for a dash": [dg.AssetKey(["a", "b-c"]), dg.AssetKey(["a", "b_c"])],
    "the same but for where it is split": [dg.AssetKey(["a__b", "c"]), dg.AssetKey(["a", "b", "c"])],
}


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


def test_multi_asset_decorator_refuses_checks_with_equal_joined_names() -> None:
    """ADR-0001, ADR-0003: checks have the names of audits, which follow no rule of Dagster."""
    specs = [dg.AssetSpec(spec.asset_key) for spec in CLASHING]
    with pytest.raises(dg.DagsterInvalidDefinitionError, match="Duplicate check specs"):

        @dg.multi_asset(specs=specs, check_specs=CLASHING, can_subset=True)
        def _assets() -> None: ...


# -- versions and properties ----------------------------------------------------------------------------


def test_code_version_in_result_tags_wins_over_the_spec(instance: dg.DagsterInstance) -> None:
    """ADR-0007: we record the version that ran, not that of the file."""
    tags = {"dagster/code_version": "promoted"}
    promoted: dg.MaterializeResult[None] = dg.MaterializeResult(
        asset_key=A, data_version=dg.DataVersion("data 1"), tags=tags
    )
    specs = [dg.AssetSpec(A, code_version="local"), dg.AssetSpec(B, code_version="local")]
    result = run_op(instance, promoted, dg.MaterializeResult(asset_key=B), specs=specs)
    recorded = {of.asset_key: of.materialization.tags or {} for of in result.get_asset_materialization_events()}
    assert recorded[A]["dagster/code_version"] == "promoted"
    assert recorded[A]["dagster/data_version"] == "data 1"
    assert recorded[B]["dagster/code_version"] == "local"


@pytest.mark.parametrize("value", ['{"a":1}', "x" * 64], ids=["JSON", "64 characters"])
def test_tags_of_a_materialization_cannot_have_the_record_of_its_data(value: str) -> None:
    """ADR 0036: so the record is in metadata."""
    with pytest.raises(dg.DagsterInvalidDefinitionError, match="Invalid tag value"):
        dg.AssetMaterialization(A, tags={"sqlmesh/internal": value})
    assert "tags" not in inspect.signature(dg.AssetCheckResult).parameters


def _graph_of(*assets: dg.AssetSpec | dg.AssetsDefinition) -> Any:
    """Return the asset graph. Each asset is in its own definitions, like the assets of components."""
    definitions = dg.Definitions.merge(*(dg.Definitions([asset]) for asset in assets))
    dg.Definitions.validate_loadable(definitions)
    return definitions.resolve_asset_graph()


def test_external_asset_conflicts_with_another_asset_of_its_key_or_table() -> None:
    """Why `external_models.assets` is off by default (ADR-0016). A dependency finds its table by name (ADR-0013)."""
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


# -- components -----------------------------------------------------------------------------------------

LIBRARY = """
from dataclasses import dataclass

import dagster as dg


@dataclass
class One(dg.Component, dg.Resolvable):
    asset: str
    note: str | None = None

    def build_defs(self, context):
        return dg.Definitions([dg.AssetSpec(self.asset)])
"""


def assets_of_folder(*files: str, library: str = LIBRARY) -> list[str]:
    """Load a folder in which these files declare components. Each has an asset with the name of its file."""
    # After many instances in this process, Dagster may have the storage of an earlier one.
    with set_defs_state_storage(None), create_defs_folder_sandbox() as sandbox:
        (sandbox.defs_folder_path.parent / "library.py").write_text(library)
        (sandbox.defs_folder_path / "shop").mkdir()
        for file in files:
            declared = {"type": f"{sandbox.project_name}.library.One", "attributes": {"asset": file.split(".")[0]}}
            (sandbox.defs_folder_path / "shop" / file).write_text(yaml.safe_dump(declared))
        with sandbox.build_all_defs() as definitions:
            return [key.to_user_string() for key in definitions.resolve_all_asset_keys()]


def test_defs_yaml_wins_over_component_yaml() -> None:
    """ADR-0011: if both exist, Dagster reads only defs.yaml, without a warning."""
    assert assets_of_folder("component.yaml", "defs.yaml") == ["defs"]


def test_postponed_annotations_of_a_resolvable_dataclass_cannot_be_resolved() -> None:
    """ADR-0011: so our component.py does not postpone them."""
    with pytest.raises(ComponentTreeException):
        assets_of_folder("defs.yaml", library=f"from __future__ import annotations\n{LIBRARY}")


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
