"""What Dagster records of results in their cheaper form: the same as of the results themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.asset_checks import asset_check_result
from dagster._core.execution.context.system import StepExecutionContext

from dg_sqlmesh_component.run.recorder import recorded

Results = Callable[[dg.AssetExecutionContext], Iterator[Any]]

SPECS = [
    dg.AssetSpec("a", code_version="7"),
    dg.AssetSpec("b", deps=["a"], code_version="8"),
    dg.AssetSpec("c"),
    dg.AssetSpec("d"),
]
CHECKS = [
    dg.AssetCheckSpec("fine", asset="a", blocking=True),
    dg.AssetCheckSpec("late", asset="a"),
    dg.AssetCheckSpec("stops", asset="b", blocking=True),
    dg.AssetCheckSpec("warns", asset="c"),
    dg.AssetCheckSpec("never", asset="d"),
]
EVERYTHING = dg.AssetSelection.all() | dg.AssetSelection.all_asset_checks()
A_AND_C = dg.AssetSelection.assets("a", "c")
WITHOUT_CHECKS = A_AND_C.without_checks()


def results(context: dg.AssetExecutionContext) -> Iterator[Any]:
    """Two assets that are materialized now, one that was before, one that never was."""
    yield dg.MaterializeResult(
        asset_key="a",
        metadata={"rows": 3},
        data_version=dg.DataVersion("1"),
        check_results=[dg.AssetCheckResult(passed=True, asset_key="a", check_name="fine", metadata={"failing": 0})],
    )
    yield dg.AssetCheckResult(
        passed=False, asset_key="a", check_name="late", severity=dg.AssetCheckSeverity.WARN, description="2 rows."
    )
    if len(context.selected_asset_keys) > 2:
        failing = dg.AssetCheckResult(passed=False, asset_key="b", check_name="stops")
        yield dg.MaterializeResult(asset_key="b", data_version=dg.DataVersion("1"), check_results=[failing])
        yield dg.AssetCheckResult(passed=True, asset_key="d")  # the only check of that asset
    yield dg.AssetObservation("c", metadata={"why": "nothing to do"})
    yield dg.AssetCheckResult(passed=True, asset_key="c", check_name="warns")


def apart(results: Iterator[Any]) -> Iterator[Any]:
    """Checks behind their materialization, as newer versions of Dagster record them; older ones put them before it."""
    for result in results:
        if isinstance(result, dg.MaterializeResult):
            yield result._replace(check_results=[])
            yield from result.check_results
        else:
            yield result


def without_outputs_of_checks(events: list[Any]) -> list[Any]:
    """But that of a result that does not name its check, which Dagster itself turns into events."""
    outputs = {f"{check.asset_key.to_python_identifier()}_{check.name}" for check in CHECKS} - {"d_never"}
    assert any(output in message for _, message, _ in events for output in outputs)
    return [event for event in events if event[0] != "STEP_OUTPUT" or event[1].split('"')[1] not in outputs]


def told(
    results: Results,
    selection: dg.AssetSelection,
    readers: Sequence[dg.AssetsDefinition] = (),
    lines: list[str] | None = None,
) -> list[Any]:
    """Every event of a step, with what it says beside times and run ids; `lines` is given the other log lines."""

    @dg.multi_asset(specs=SPECS, check_specs=CHECKS, can_subset=True)
    def project(context):  # Dagster looks at the annotation itself, which is postponed here
        if context.run.tags.get("is_first"):
            yield dg.MaterializeResult(asset_key="c")
        else:
            yield from results(context)

    definitions = dg.Definitions([project, *readers], jobs=[dg.define_asset_job("chosen", selection)])
    with dg.DagsterInstance.ephemeral() as instance:
        everything = definitions.resolve_implicit_global_asset_job_def()
        first = everything.execute_in_process(
            instance=instance, asset_selection=[dg.AssetKey("c")], tags={"is_first": "yes"}
        )
        chosen = definitions.resolve_job_def("chosen")
        second = chosen.execute_in_process(instance=instance, raise_on_error=False)
        runs = {first.run_id: "first", second.run_id: "second"}
        materializations = {
            (record.storage_id, record.run_id, record.timestamp): (asset.key.to_user_string(), runs[record.run_id])
            for asset in SPECS
            for record in instance.fetch_materializations(asset.key, limit=9).records
        }
        if lines is not None:
            lines += [entry.user_message for entry in instance.all_logs(second.run_id) if not entry.is_dagster_event]
        return [
            (event.event_type_value, event.message, said_by(event.event_specific_data, materializations))
            for event in second.all_events
            if event.step_key == "project" and event.event_type_value not in ("STEP_SUCCESS", "STEP_FAILURE")
        ]


def said_by(data: Any, materializations: dict[Any, Any]) -> Any:
    if isinstance(data, dg.AssetCheckEvaluation):
        target = data.target_materialization_data
        where = materializations[target.storage_id, target.run_id, target.timestamp] if target else None
        return data.asset_check_key, data.passed, data.metadata, where, data.severity, data.description, data.blocking
    return getattr(data, "materialization", None) or getattr(data, "asset_observation", None)


@pytest.mark.parametrize(
    "selection", [EVERYTHING, A_AND_C, WITHOUT_CHECKS], ids=["everything", "a subset", "without checks"]
)
def test_recorded_events_equal_dagsters_own_without_outputs_of_checks(
    selection: dg.AssetSelection,
) -> None:
    cheaper = told(lambda context: recorded(context, results(context)), selection)
    ordinary = told(lambda context: apart(results(context)), selection)
    assert cheaper == (ordinary if selection is WITHOUT_CHECKS else without_outputs_of_checks(ordinary))
    assert len({kind for kind, _, _ in cheaper}) >= 5


def test_output_of_a_blocking_check_with_a_downstream_step_is_recorded() -> None:
    @dg.asset(deps=["a"])
    def page(): ...

    events = told(lambda context: recorded(context, results(context)), EVERYTHING, [page])
    outputs = [message.split('"')[1] for kind, message, _ in events if kind == "STEP_OUTPUT"]
    assert outputs == ["a", "a_fine", "b", "d_never"]


def test_log_does_not_mention_the_omitted_outputs() -> None:
    def greeting(results: Results) -> Results:
        def greet(context: dg.AssetExecutionContext) -> Iterator[Any]:
            context.log.info("Good morning.")
            yield from results(context)

        return greet

    lines: dict[str, list[str]] = {"all": [], "one is missing": []}
    told(greeting(lambda context: recorded(context, results(context))), EVERYTHING, lines=lines["all"])
    assert lines["all"] == ["Good morning."]
    told(greeting(lambda context: list(results(context))[:-1]), EVERYTHING, lines=lines["one is missing"])
    assert "did not yield or return expected outputs {'c_warns'}" in lines["one is missing"][1]


def test_output_asset_keys_are_computed_once_per_step(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    get_output_asset_keys = StepExecutionContext.get_output_asset_keys

    def counted(self: StepExecutionContext) -> Any:
        made.append(self.step.key)
        return get_output_asset_keys(self)

    def counting(context: dg.AssetExecutionContext) -> Iterator[Any]:
        monkeypatch.setattr(StepExecutionContext, "get_output_asset_keys", counted)
        yield from recorded(context, results(context))

    told(counting, EVERYTHING)
    assert made == ["project"]


def test_earlier_materializations_are_fetched_in_one_query(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    get_asset_records = dg.DagsterInstance.get_asset_records

    def counted(self: dg.DagsterInstance, keys: Any = None) -> Any:
        asked.append(keys)
        return get_asset_records(self, keys)

    def never(*_: Any) -> None:
        raise AssertionError("Dagster looks through all checks of the op")

    monkeypatch.setattr(dg.DagsterInstance, "get_asset_records", counted)

    def unchanged(context: dg.AssetExecutionContext) -> Iterator[Any]:
        monkeypatch.setattr(asset_check_result.AssetCheckResult, "to_asset_check_evaluation", never)
        asked.clear()
        for check in CHECKS:
            yield dg.AssetCheckResult(passed=True, asset_key=check.asset_key, check_name=check.name)

    evaluations = [
        event for event in told(lambda context: recorded(context, unchanged(context)), EVERYTHING) if "EVAL" in event[0]
    ]
    assert len(evaluations) == len(CHECKS)
    assert len(asked) == 1
