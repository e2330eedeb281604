"""The internals of Dagster that `dagster_internals/` uses: one test for each function.

Most functions are called inside a step of a real run: a multi-asset with a check, an asset between two parts of it,
and a downstream asset. So Dagster splits the op.
"""

import asyncio
import signal
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from itertools import islice
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver
from dagster._core.definitions.definitions_load_context import DefinitionsLoadContext, DefinitionsLoadType
from dagster._core.execution.api import create_execution_plan
from dagster._core.loader import LoadingContextForTest
from dagster._utils.schedules import schedule_execution_time_iterator
from harness import dagster_project, empty_instance, load, rows_at_night
from sqlalchemy import event
from sqlalchemy.engine import Engine

from dg_sqlmesh_component.dagster_internals import assets, event_log, steps

A, B, MIDDLE, LAST = (dg.AssetKey(name) for name in ("a", "b", "middle", "last"))
FINE = dg.AssetCheckKey(A, "fine")

Hook = Callable[[dg.AssetExecutionContext], Any]


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with empty_instance(tmp_path, has_default_storage=True) as instance:
        yield instance


def job(hook: Hook, results_by_step: dict[str, Any], selection: dg.AssetSelection | None = None) -> dg.JobDefinition:
    """Return a job with `a` (with a check), `middle`, `b` and `last`. Each depends on the one before.

    `a` and `b` are assets of one op.
    """

    @dg.multi_asset(
        specs=[dg.AssetSpec("a", skippable=True), dg.AssetSpec("b", deps=["middle"], skippable=True)],
        check_specs=[dg.AssetCheckSpec("fine", asset="a")],
        can_subset=True,
        op_tags={"mine": "yes"},
        name="models",
    )
    def models(context):  # type: ignore[no-untyped-def]  # Dagster looks at the annotation itself
        results_by_step[steps.step_key(context)] = hook(context)
        for key in context.selected_asset_keys:
            yield dg.MaterializeResult(asset_key=key)
        for check in context.selected_asset_check_keys:
            yield dg.AssetCheckResult(asset_key=check.asset_key, check_name=check.name, passed=True)

    models_op = models

    @dg.asset(deps=["a"])
    def middle() -> None: ...

    @dg.asset(deps=["b"])
    def last() -> None: ...

    everything = dg.AssetSelection.all() | dg.AssetSelection.all_asset_checks()
    defined = dg.define_asset_job("all_of_it", selection=selection or everything)
    return dg.Definitions(assets=[models_op, middle, last], jobs=[defined]).resolve_job_def("all_of_it")


def hook_results(hook: Hook, instance: dg.DagsterInstance, **options: Any) -> dict[str, Any]:
    """Return the result of a hook in each part of the op, by step."""
    results_by_step: dict[str, Any] = {}
    assert job(hook, results_by_step, **options).execute_in_process(instance=instance).success
    return results_by_step


def test_step_knows_whether_it_is_the_only_one(instance: dg.DagsterInstance) -> None:
    assert hook_results(steps.is_only_step, instance) == {"models": False, "models_2": False}
    alone = hook_results(steps.is_only_step, instance, selection=dg.AssetSelection.assets("a"))
    assert list(alone.values()) == [True]


def test_execution_plan_has_the_steps_that_wait_for_an_output(instance: dg.DagsterInstance) -> None:
    outputs_by_step = hook_results(steps.awaited_outputs, instance)
    [[step]] = outputs_by_step["models"].values()
    assert (step.key, step.assets) == ("middle", {MIDDLE})
    [[step]] = outputs_by_step["models_2"].values()
    assert (step.key, step.assets) == ("last", {LAST})


def test_execution_plan_has_downstream_steps_with_tags_and_assets(instance: dg.DagsterInstance) -> None:
    downstream_steps = hook_results(lambda context: steps.with_steps_downstream(context, ["middle"]), instance)
    downstream = [(step.key, step.assets) for step in downstream_steps["models"]]
    assert downstream == [("middle", {MIDDLE}), ("models_2", {B}), ("last", {LAST})]
    assert [step.tags.get("mine") for step in downstream_steps["models"]] == [None, "yes", None]


def test_run_stores_the_planned_assets_and_checks_of_each_step(instance: dg.DagsterInstance) -> None:
    selection_by_step = hook_results(lambda context: steps.planned_selection(context, context.run), instance)
    assert selection_by_step == {"models": {A, FINE}, "models_2": {B}}


def test_step_sees_the_assets_of_the_whole_run(instance: dg.DagsterInstance) -> None:
    assert hook_results(steps.assets_of_run, instance)["models_2"] == {A, B, MIDDLE, LAST}


def test_output_asset_keys_of_the_step_can_be_cached(instance: dg.DagsterInstance) -> None:
    def hook(context: dg.AssetExecutionContext) -> tuple[Any, bool]:
        steps.cache_output_keys(context)
        step_context = context.op_execution_context.get_step_execution_context()
        return (
            step_context.get_output_asset_keys(),
            step_context.get_output_asset_keys() is step_context.get_output_asset_keys(),
        )

    assert hook_results(hook, instance)["models"] == ({A}, True)


@pytest.mark.parametrize("is_quiet", [False, True])
def test_log_line_about_missing_outputs_can_be_suppressed(instance: dg.DagsterInstance, is_quiet: bool) -> None:
    @dg.multi_asset(
        specs=[dg.AssetSpec("x", skippable=True)], check_specs=[dg.AssetCheckSpec("unseen", asset="x")], can_subset=True
    )
    def silent(context):  # type: ignore[no-untyped-def]  # Dagster looks at the annotation itself
        if is_quiet:
            steps.drop_missing_outputs_log(context)
        yield from ()

    result = dg.materialize([silent], instance=instance, raise_on_error=False)
    messages = [entry.user_message for entry in instance.all_logs(result.run_id)]
    assert any("did not yield or return expected outputs" in message for message in messages) is not is_quiet


def test_dagster_tags_runs_of_backfills_and_asset_retries() -> None:
    run = dg.DagsterRun("job", run_id="1" * 36, tags={"dagster/backfill": "b"})
    assert steps.is_part_of_backfill(run)
    assert not steps.repeats_failed_assets(run)
    assert steps.repeats_failed_assets(
        dg.DagsterRun("job", run_id="1" * 36, tags={"dagster/is_asset_resume_retry": "true"})
    )


def test_tags_that_dagster_sets_are_reserved_and_tags_that_control_runs_are_not() -> None:
    reserved = ["dagster/schedule_name", "dagster/backfill", "dagster/run_key", ".dagster/repository"]
    free = ["dagster/priority", "dagster/max_retries", "dagster/concurrency_key", "dagster/image", "team"]
    assert [key for key in [*reserved, *free] if steps.is_reserved_tag(key)] == reserved


def test_last_check_evaluations_take_one_query_and_earlier_ones_are_paged(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_log, "_PAGE", 1)
    for _ in range(3):
        hook_results(lambda _: None, instance)
    last = event_log.last_check_records(instance, [FINE, dg.AssetCheckKey(A, "never")])
    assert last.keys() == {FINE}
    records = list(event_log.check_records(instance, FINE))
    assert [record.run_id for record in records] == [run.run_id for run in instance.get_runs()]
    assert records[0].run_id == last[FINE].run_id
    entry = last[FINE].event
    assert entry is not None
    evaluation = entry.asset_check_evaluation
    assert evaluation is not None
    assert isinstance(evaluation.target_materialization_data, event_log.TargetMaterialization)


def test_the_last_evaluation_is_read_in_one_query_although_a_run_has_planned_the_next(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook_results(lambda _: None, instance)
    [evaluated] = instance.get_runs()
    instance.create_run_for_job(job(lambda _: None, {}), status=dg.DagsterRunStatus.STARTED)
    queries: list[str] = []

    def collect(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if "FROM asset_check_executions" in statement:
            queries.append(statement)

    event.listen(Engine, "before_cursor_execute", collect)
    last = event_log.last_check_records(instance, [FINE])
    assert (last[FINE].run_id, len(queries)) == (evaluated.run_id, 1)
    monkeypatch.setattr(
        "dagster._core.storage.event_log.sql_event_log.SqlEventLogStorage", Path
    )  # as if it was that of Dagster+
    assert event_log.last_check_records(instance, [FINE]) == last
    assert len(queries) == 3, "Dagster asks twice"
    event.remove(Engine, "before_cursor_execute", collect)


@pytest.mark.parametrize(
    ("status", "shown_as"),
    [("SUCCESS", "SKIPPED"), ("CANCELED", "SKIPPED"), ("FAILURE", "EXECUTION_FAILED"), ("STARTED", "IN_PROGRESS")],
)
def test_skipped_check_has_no_shown_evaluation(instance: dg.DagsterInstance, status: str, shown_as: str) -> None:
    hook_results(lambda _: None, instance)
    [evaluated] = instance.get_runs()
    planning = job(lambda _: None, {})
    instance.create_run_for_job(planning, status=dg.DagsterRunStatus[status])
    [planned, _] = instance.event_log_storage.get_asset_check_execution_history(FINE, limit=2)
    assert asyncio.run(planned.resolve_status(LoadingContextForTest(instance))).value == shown_as
    own = instance.create_run_for_job(planning, status=dg.DagsterRunStatus.STARTED)
    shown = event_log.shown_check_records(instance, [FINE, dg.AssetCheckKey(A, "never")], except_run=own.run_id)
    expected = {} if shown_as == "SKIPPED" else {FINE: evaluated.run_id}
    assert {check: record.run_id for check, record in shown.items()} == expected


def test_function_that_installs_signal_handlers_can_be_replaced() -> None:
    from dagster._utils.interrupts import capture_interrupts

    original, wanted = steps.signal_installer(), list[Any]()
    before = signal.getsignal(signal.SIGINT)
    steps.replace_signal_installer(wanted.append)
    try:
        with capture_interrupts():
            assert signal.getsignal(signal.SIGINT) is before
    finally:
        steps.replace_signal_installer(original)
    assert len(wanted) == 2  # Dagster's own handler, and then the earlier handler


STEP_PROCESS = """
import dagster as dg
from pathlib import Path
from dg_sqlmesh_component.dagster_internals.steps import was_started_for_a_step_of

results = Path({results!r})

@dg.asset
def models():
    with results.open("a") as file:
        file.write(f"{{was_started_for_a_step_of('models')}} {{was_started_for_a_step_of('model')}}\\n")
"""


@pytest.mark.parametrize(
    ("executor", "expected"), [("in_process", "False False"), *rows_at_night(("multiprocess", "True False"))]
)
def test_process_of_a_step_knows_its_step(tmp_path: Path, executor: str, expected: str) -> None:
    with dagster_project(tmp_path) as dagster:
        dagster.add_module("models", STEP_PROCESS.format(results=str(tmp_path / "results")))
        assert dagster.launch(executor, spawns_steps=True, assets=["models"]).status == dg.DagsterRunStatus.SUCCESS
    assert (tmp_path / "results").read_text().splitlines() == [expected]


SHARED = """
import dagster as dg
from dg_sqlmesh_component.dagster_internals.assets import shared_in_code_location

@dg.definitions
def defs(context: dg.ComponentLoadContext):
    shared = shared_in_code_location(context, object)
    return dg.Definitions(assets=[dg.AssetSpec("{name}", metadata={{"location": id(shared)}})])
"""


def test_components_share_a_code_location_only_within_one_load(tmp_path: Path) -> None:
    with dagster_project(tmp_path) as dagster:
        for name in ("one", "two"):
            dagster.add_module(name, SHARED.format(name=name))
        loads, locations_by_load = [], []
        for _ in range(2):
            definitions = load(dagster.root)
            loads.append(definitions)
            locations_by_load.append({spec.metadata["location"] for spec in definitions.resolve_all_asset_specs()})
    (first,), (second,) = locations_by_load
    assert first != second


@pytest.mark.parametrize("load_type", DefinitionsLoadType)
def test_dagster_distinguishes_rebuild_from_load_of_definitions(load_type: DefinitionsLoadType) -> None:
    before = DefinitionsLoadContext.get()
    DefinitionsLoadContext.set(DefinitionsLoadContext(load_type))
    try:
        assert assets.is_rebuilding_definitions() is (load_type is DefinitionsLoadType.RECONSTRUCTION)
    finally:
        DefinitionsLoadContext.set(before)


ALIASES = ("@hourly", "@daily", "@midnight", "@weekly", "@monthly", "@yearly", "@annually")


@pytest.mark.parametrize("cron", ["0 9 * * 1-5", *ALIASES, "0 6 * * * 30", "sometimes"])
def test_only_a_cron_of_five_fields_or_an_alias_is_accepted(cron: str) -> None:
    assert assets.is_accepted_cron(cron) is (cron not in ("0 6 * * * 30", "sometimes"))


def test_ticks_of_a_cron_start_at_a_time_and_follow_the_time_zone() -> None:
    start = datetime(2026, 10, 31, 13, tzinfo=timezone.utc)  # 9 o'clock in New York; in the night, an hour is repeated
    ticks = assets.cron_ticks("0 9 * * *", "America/New_York", start)
    assert [tick.astimezone(timezone.utc) for tick in islice(ticks, 2)] == [start, start + timedelta(hours=25)]


def test_last_tick_of_a_cron_may_be_the_time_itself_and_follows_the_time_zone() -> None:
    tick = datetime(2026, 11, 1, 14, tzinfo=timezone.utc)  # 9 o'clock in New York, after a night of 25 hours
    for end, expected in ((tick, tick), (tick - timedelta(seconds=1), tick - timedelta(hours=25))):
        assert assets.last_cron_tick("0 9 * * *", "America/New_York", end) == expected


def assets_around_partitioned_ones() -> list[dg.AssetsDefinition]:
    """`a` and `b`, between them `middle` and two assets with different partitions, and assets outside."""
    daily, hourly = dg.DailyPartitionsDefinition("2026-01-01"), dg.HourlyPartitionsDefinition("2026-01-01-00:00")

    def asset(name: str, upstream: list[str], partitions: dg.PartitionsDefinition | None = None) -> Any:
        @dg.asset(name=name, deps=upstream, partitions_def=partitions)
        def compute() -> None: ...

        return compute

    return [
        asset("before", []),
        asset("a", ["before"]),
        asset("middle", ["a"]),
        asset("by_day", ["a"], daily),
        asset("by_hour", ["a"], hourly),
        asset("b", ["middle", "by_day", "by_hour"]),
        asset("after", ["b"]),
    ]


def test_job_has_the_assets_between_and_no_partitioned_ones() -> None:
    selected = dg.define_asset_job("between", selection=assets.WithAssetsBetween([A, B]))
    definitions = dg.Definitions(assets=assets_around_partitioned_ones(), jobs=[selected])
    built = definitions.resolve_job_def("between")
    assert built.asset_layer.selected_asset_keys == {A, MIDDLE, B}
    assert built.partitions_def is None


def test_assets_between_are_those_of_the_requested_ones_only() -> None:
    repository = dg.Definitions(assets=assets_around_partitioned_ones()).get_repository_def()
    assert assets.assets_between(repository, [A, B]) == {MIDDLE}
    assert assets.assets_between(repository, [A]) == set()
    assert assets.assets_downstream(repository, [MIDDLE]) == {MIDDLE, B, dg.AssetKey("after")}
    assert assets.assets_upstream(repository, [MIDDLE]) == {dg.AssetKey("before"), A, MIDDLE}


def test_assets_of_runs_that_have_not_started_are_the_selected_ones_or_those_of_the_plan(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(assets: set[dg.AssetKey] | None = None, checks: set[dg.AssetCheckKey] | None = None) -> dg.DagsterRun:
        queued = job(lambda _: None, {}).get_subset(asset_selection=assets, asset_check_selection=checks)
        plan = create_execution_plan(queued)
        created = instance.create_run_for_job(queued, plan)._replace(
            asset_selection=assets, asset_check_selection=checks
        )
        planned = instance.get_execution_plan_snapshot(created.execution_plan_snapshot_id or "").steps
        in_plan = {key for step in planned for key in step.entity_keys if isinstance(key, dg.AssetKey)}
        assert steps.planned_assets(instance, [created]) == [in_plan]
        return created

    runs = [run(), run({A}), run({A, LAST}, {FINE}), run(set(), {FINE}), run(None, {FINE}), run(set()), run()]
    read, stored_plan = list[str](), instance.get_execution_plan_snapshot

    def counted(snapshot_id: str) -> Any:
        read.append(snapshot_id)
        return stored_plan(snapshot_id)

    monkeypatch.setattr(instance, "get_execution_plan_snapshot", counted)
    whole = {A, MIDDLE, B, LAST}
    assert steps.planned_assets(instance, runs) == [whole, {A}, {A, LAST}, set(), set(), whole, whole]
    assert read == [runs[0].execution_plan_snapshot_id]


def test_crons_that_tick_at_the_same_time_are_one_tick() -> None:
    ticks = schedule_execution_time_iterator(0, ["@hourly", "0 * * * *", "@daily"], "UTC", ascending=True)
    assert [next(ticks).timestamp() for _ in range(3)] == [0, 3600, 7200]


def test_metadata_is_logged_as_an_event_of_the_step_and_can_be_read_from_the_run(instance: dg.DagsterInstance) -> None:
    def hook(context: dg.AssetExecutionContext) -> None:
        steps.log_step_metadata(context, "Planned", {"table": dg.MetadataValue.int(3)})

    run_id = job(hook, {}).execute_in_process(instance=instance).run_id
    events = [entry.dagster_event for entry in instance.all_logs(run_id, of_type=dg.DagsterEventType.ENGINE_EVENT)]
    planned = [event for event in events if event is not None and event.message == "Planned"]
    assert [event.step_key for event in planned] == ["models", "models_2"]
    found = steps.step_metadata(instance, run_id)
    logged = [(step, metadata["table"].value) for step, metadata in found if "table" in metadata]
    assert logged == [("models", 3), ("models_2", 3)]


@pytest.mark.parametrize("retry_policy", [None, dg.RetryPolicy(max_retries=1)], ids=["no retries", "a retry"])
def test_failure_has_no_traceback_and_obeys_a_retry_policy(
    instance: dg.DagsterInstance, retry_policy: dg.RetryPolicy | None
) -> None:
    @dg.op(retry_policy=retry_policy)
    def failing(context):  # type: ignore[no-untyped-def]  # Dagster looks at the annotation itself
        with steps.failures_without_traceback(context):
            raise dg.Failure("2 models failed.", metadata={"models": 2})

    result = (
        dg.GraphDefinition("all_of_it", node_defs=[failing])
        .to_job()
        .execute_in_process(instance=instance, raise_on_error=False)
    )

    [failed] = [event for event in result.all_events if event.event_type is dg.DagsterEventType.STEP_FAILURE]
    data = failed.step_failure_data
    assert data.user_failure_data is not None
    assert (data.user_failure_data.description, data.user_failure_data.metadata["models"].value) == (
        "2 models failed.", 2,
    )  # fmt: skip
    retries = [event for event in result.all_events if event.event_type is dg.DagsterEventType.STEP_UP_FOR_RETRY]
    assert len(retries) == (1 if retry_policy else 0)
    assert data.error is not None
    if retry_policy is None:
        assert (data.error.message, data.error.stack, data.error.cause) == ("2 models failed.\n", [], None)


def test_cancelled_step_has_no_traceback_and_cancels_its_run(instance: dg.DagsterInstance) -> None:
    @dg.op
    def cancelled(context):  # type: ignore[no-untyped-def]  # Dagster looks at the annotation itself
        with steps.failures_without_traceback(context):
            instance.report_run_canceling(context.run)
            raise dg.DagsterExecutionInterruptedError("The run was cancelled. 1 executed.")

    job = dg.GraphDefinition("all_of_it", node_defs=[cancelled]).to_job()
    result = job.execute_in_process(instance=instance, raise_on_error=False)
    run = instance.get_run_by_id(result.run_id)
    assert run is not None
    assert run.status is dg.DagsterRunStatus.CANCELED
    events = {event.event_type: event for event in result.all_events}
    of_step = events[dg.DagsterEventType.STEP_FAILURE].step_failure_data.error
    of_run = events[dg.DagsterEventType.RUN_CANCELED].job_canceled_data.error
    for error in (of_step, of_run):
        assert error is not None
        assert (error.message, error.stack, error.cause) == ("The run was cancelled. 1 executed.\n", [], None)
        assert error.cls_name == "DagsterExecutionInterruptedError", "the multiprocess executor looks at this name"


def stale_causes(instance: dg.DagsterInstance, *specs: dg.AssetSpec) -> dict[str, list[str]]:
    @dg.multi_asset(specs=specs, can_subset=True)
    def assets():  # type: ignore[no-untyped-def]  # Dagster looks at the annotation itself
        ...

    graph = dg.Definitions(assets=[assets]).get_repository_def().asset_graph
    resolver = CachingStaleStatusResolver(instance, graph, LoadingContextForTest(instance))
    causes = {spec.key.to_user_string(): resolver.get_stale_causes(spec.key) for spec in specs}
    return {key: [cause.reason for cause in of_asset] for key, of_asset in causes.items()}


def test_materialization_with_version_tags_is_in_sync_with_its_upstream_assets(instance: dg.DagsterInstance) -> None:
    upstream, table = dg.AssetSpec("upstream", code_version="1"), dg.AssetKey("table")
    downstream = dg.AssetSpec("downstream", deps=["upstream", table], code_version="1")
    deps = {upstream.key: [], downstream.key: [upstream.key, table]}
    for tagged in (False, True):
        versions = steps.DataVersions(instance, deps.__getitem__)
        for spec in (upstream, downstream):
            tags = versions.tags_of_materialization(spec.key, "v1", "1")
            own = {name: value for name, value in tags.items() if "/input_" not in name}
            event = dg.AssetMaterialization(spec.key, tags=tags if tagged else own)
            instance.report_runless_asset_event(event)
        reasons = [] if tagged else ["has a new dependency on table", "has a new dependency on upstream"]
        assert stale_causes(instance, upstream, downstream) == {"upstream": [], "downstream": reasons}
    assert (
        steps.DataVersions(instance, deps.__getitem__).tags_of_materialization(downstream.key, "v2", None)[
            "dagster/input_data_version/upstream"
        ]
        == "v1"
    )


def test_data_version_of_an_asset_materialized_in_the_step_can_be_forgotten(instance: dg.DagsterInstance) -> None:
    instance.report_runless_asset_event(dg.AssetMaterialization("middle", tags={"dagster/data_version": "old"}))

    @dg.multi_asset(specs=[dg.AssetSpec("b", deps=["middle"])])
    def models(context):  # type: ignore[no-untyped-def]  # Dagster looks at the annotation itself
        yield dg.AssetMaterialization("middle", tags={"dagster/data_version": "new"})
        steps.forget_data_version(context, MIDDLE)
        yield dg.MaterializeResult("b")

    assert dg.materialize([models], instance=instance).success
    record = instance.fetch_materializations(B, limit=1).records[0]
    assert record.asset_materialization is not None
    assert (record.asset_materialization.tags or {})["dagster/input_data_version/middle"] == "new"


def test_last_loads_equal_public_api(instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    """The assets of one query are an odd number, and one asset of each query was wiped."""
    monkeypatch.setattr(event_log, "_LOADED_ASSETS_PER_QUERY", 3)
    keys = [dg.AssetKey(["load", f"{number}"]) for number in range(8)]
    for key in keys[:7]:
        for partition in ("x", "y", "x", None):
            instance.report_runless_asset_event(dg.AssetMaterialization(key, partition=partition))
        instance.report_runless_asset_event(dg.AssetObservation(key, partition="observed"))
    instance.wipe_assets([keys[1], keys[3]])
    instance.report_runless_asset_event(dg.AssetMaterialization(keys[3], partition="y"))
    found = {key: sorted(loads) for key, loads in event_log.last_loads_by_partition(instance, keys)}
    assert [[load[1] for load in found.get(key, ())] for key in keys] == [
        *(["y", "x", None], [], ["y", "x", None], ["y"]), *[["y", "x", None]] * 3, [],
    ]  # fmt: skip
    monkeypatch.setattr("dagster._core.storage.event_log.sql_event_log.SqlEventLogStorage", Path)  # as in Dagster+
    by_public_api = {key: sorted(loads) for key, loads in event_log.last_loads_by_partition(instance, keys)}
    assert by_public_api.keys() >= found.keys()
    for key, loads in by_public_api.items():
        assert [load[:3] for load in loads] == [load[:3] for load in found.get(key, ())]
        assert [load[3] for load in loads] == pytest.approx([load[3] for load in found.get(key, ())])
    assert list(event_log.last_loads_by_partition(instance, [])) == []


@pytest.mark.parametrize("page", [1, 500])
def test_events_of_a_run_outlive_a_wiped_asset_and_its_wipe_is_known(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    monkeypatch.setattr(event_log, "_IDS_PER_QUERY", page)

    @dg.asset(key=A)
    def a(context: dg.AssetExecutionContext) -> None:
        context.log_event(dg.AssetObservation(A))

    run_id = dg.materialize([a], instance=instance).run_id
    assert event_log.wiped_at(instance, [A, B]) == {}
    before = time.time()
    instance.wipe_assets([A])
    assert instance.fetch_materializations(A, limit=1).records == []
    kinds = sorted(type(event).__name__ for event in event_log.asset_events_of_run(instance, run_id))
    assert kinds == ["AssetMaterialization", "AssetObservation"]
    assert before <= event_log.wiped_at(instance, [A, B])[A] <= time.time()
    instance.report_runless_asset_event(dg.AssetMaterialization(A))
    wiped = event_log.wiped_at(instance, [A, B])
    monkeypatch.setattr("dagster._core.storage.event_log.sql_event_log.SqlEventLogStorage", Path)  # as in Dagster+
    assert event_log.wiped_at(instance, [A, B]) == wiped
    assert event_log.wiped_at(instance, []) == {}


def test_starts_are_known_until_runs_are_deleted(instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    hook_results(lambda _: None, instance)
    [record] = instance.get_run_records()
    run_id = record.dagster_run.run_id
    assert event_log.run_starts(instance, [run_id, "none"]) == {run_id: record.start_time}
    with monkeypatch.context() as patch:
        patch.setattr("dagster._core.storage.runs.sql_run_storage.SqlRunStorage", Path)  # as in Dagster+
        assert event_log.run_starts(instance, [run_id, "none"]) == {run_id: record.start_time}
    instance.delete_run(run_id)
    assert event_log.run_starts(instance, [run_id]) == {}


def test_checks_without_a_result_count_as_not_passed(instance: dg.DagsterInstance) -> None:
    hook_results(lambda _: None, instance)
    assert list(event_log.not_passed_check_records(instance, FINE)) == []
    instance.create_run_for_job(job(lambda _: None, {}), status=dg.DagsterRunStatus.STARTED)
    assert [planned.event is not None for planned in event_log.not_passed_check_records(instance, FINE)] == [True]
