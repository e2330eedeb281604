"""The recorder stores the same events as Dagster's own handling of results, with less work."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.asset_checks import asset_check_result
from dagster._core.execution.context.system import StepExecutionContext

from dg_sqlmesh_component.run.recorder import recorded

Results = Callable[[dg.AssetExecutionContext], Iterable[Any]]

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
    """Yield results for two assets materialized now, one materialized earlier and one never materialized."""
    yield dg.MaterializeResult(asset_key="a", metadata={"rows": 3}, data_version=dg.DataVersion("1"))
    yield dg.AssetCheckResult(passed=True, asset_key="a", check_name="fine", metadata={"failing": 0})
    yield dg.AssetCheckResult(
        passed=False, asset_key="a", check_name="late", severity=dg.AssetCheckSeverity.WARN, description="2 rows."
    )
    if len(context.selected_asset_keys) > 2:
        yield dg.MaterializeResult(asset_key="b", data_version=dg.DataVersion("1"))
        yield dg.AssetCheckResult(passed=False, asset_key="b", check_name="stops")
        yield dg.AssetCheckResult(passed=True, asset_key="d")  # this asset has only one check
    yield dg.AssetObservation("c", metadata={"why": "nothing to do"})
    yield dg.AssetCheckResult(passed=True, asset_key="c", check_name="warns")


def without_outputs_of_checks(events: list[Any]) -> list[Any]:
    """Remove outputs of checks, except one: Dagster itself handles a result that does not name its check."""
    outputs = {f"{check.asset_key.to_python_identifier()}_{check.name}" for check in CHECKS} - {"d_never"}
    assert any(output in message for _, message, _ in events for output in outputs)
    return [event for event in events if event[0] != "STEP_OUTPUT" or event[1].split('"')[1] not in outputs]


def events_of(
    results: Results,
    selection: dg.AssetSelection,
    downstream_assets: Sequence[dg.AssetsDefinition] = (),
    lines: list[str] | None = None,
) -> list[Any]:
    """Return type, message and content of every event of a step, without times and run ids.

    Args:
        lines: Receives the log lines that are no events.
    """

    @dg.multi_asset(specs=SPECS, check_specs=CHECKS, can_subset=True)
    # Dagster looks at the annotation of `context`, and annotations are postponed here.
    def project(context):  # type: ignore[no-untyped-def]
        if context.run.tags.get("is_first"):
            yield dg.MaterializeResult(asset_key="c")
        else:
            yield from results(context)

    definitions = dg.Definitions([project, *downstream_assets], jobs=[dg.define_asset_job("chosen", selection)])
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
            (event.event_type_value, event.message, content_of(event.event_specific_data, materializations))
            for event in second.all_events
            if event.step_key == "project" and event.event_type_value not in ("STEP_SUCCESS", "STEP_FAILURE")
        ]


def content_of(data: Any, materializations: dict[Any, Any]) -> Any:
    if isinstance(data, dg.AssetCheckEvaluation):
        target = data.target_materialization_data
        where = materializations[target.storage_id, target.run_id, target.timestamp] if target else None
        return data.asset_check_key, data.passed, data.metadata, where, data.severity, data.description, data.blocking
    return getattr(data, "materialization", None) or getattr(data, "asset_observation", None)


@pytest.mark.parametrize("selection", [EVERYTHING, A_AND_C, WITHOUT_CHECKS], ids=["everything", "subset", "no checks"])
def test_recorded_events_equal_dagsters_own_without_outputs_of_checks(selection: dg.AssetSelection) -> None:
    cheaper = events_of(lambda context: recorded(context, results(context)), selection)
    ordinary = events_of(results, selection)
    assert cheaper == (ordinary if selection is WITHOUT_CHECKS else without_outputs_of_checks(ordinary))
    assert len({kind for kind, _, _ in cheaper}) >= 5


def test_output_of_a_blocking_check_with_a_downstream_step_is_recorded_once_for_several_results() -> None:
    @dg.asset(deps=["a"])
    def page() -> None: ...

    def twice(context: dg.AssetExecutionContext) -> Iterator[Any]:
        yield from results(context)
        yield dg.AssetCheckResult(passed=True, asset_key="a", check_name="fine", description="again")

    events = events_of(lambda context: recorded(context, twice(context)), EVERYTHING, [page])
    outputs = [message.split('"')[1] for kind, message, _ in events if kind == "STEP_OUTPUT"]
    assert outputs == ["a", "a_fine", "b", "d_never"]
    evaluations = [content for kind, _, content in events if kind == "ASSET_CHECK_EVALUATION"]
    assert "again" in evaluations[-1]


def test_log_does_not_mention_the_omitted_outputs() -> None:
    lines: dict[str, list[str]] = {"all": [], "one is missing": []}
    events_of(lambda context: recorded(context, results(context)), EVERYTHING, lines=lines["all"])
    assert lines["all"] == []
    events_of(lambda context: list(results(context))[:-1], EVERYTHING, lines=lines["one is missing"])
    assert "did not yield or return expected outputs {'c_warns'}" in lines["one is missing"][0]


def test_output_asset_keys_are_computed_once_per_step(monkeypatch: pytest.MonkeyPatch) -> None:
    computing_steps = []
    get_output_asset_keys = StepExecutionContext.get_output_asset_keys

    def counted(self: StepExecutionContext) -> Any:
        computing_steps.append(self.step.key)
        return get_output_asset_keys(self)

    def counting(context: dg.AssetExecutionContext) -> Iterator[Any]:
        monkeypatch.setattr(StepExecutionContext, "get_output_asset_keys", counted)
        yield from recorded(context, results(context))

    events_of(counting, EVERYTHING)
    assert computing_steps == ["project"]


def test_earlier_materializations_are_fetched_in_one_query(monkeypatch: pytest.MonkeyPatch) -> None:
    queries = []
    get_asset_records = dg.DagsterInstance.get_asset_records

    def counted(self: dg.DagsterInstance, keys: Any = None) -> Any:
        queries.append(keys)
        return get_asset_records(self, keys)

    def never(*_: Any) -> None:
        raise AssertionError("Dagster looks through all checks of the op")

    monkeypatch.setattr(dg.DagsterInstance, "get_asset_records", counted)

    def unchanged(context: dg.AssetExecutionContext) -> Iterator[Any]:
        monkeypatch.setattr(asset_check_result.AssetCheckResult, "to_asset_check_evaluation", never)
        queries.clear()
        for check in CHECKS:
            yield dg.AssetCheckResult(passed=True, asset_key=check.asset_key, check_name=check.name)

    events = events_of(lambda context: recorded(context, unchanged(context)), EVERYTHING)
    evaluations = [event for event in events if "EVAL" in event[0]]
    assert len(evaluations) == len(CHECKS)
    assert len(queries) == 1
