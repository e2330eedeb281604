"""A partition that is loaded again after an interval of it was computed (`external_models.late`)."""

from collections.abc import Sequence
from typing import Any

import dagster as dg
import pytest
from engine.plan_jobs import APPLY, launch, planned
from harness import EXECUTORS, NewShop, Shop
from waiting import DAILY, LOADER, SourceSensor, day, evaluate_tick, launch_request, load, outcomes, run, waiting_shop

CHECK = "t/days:sqlmesh_no_late_data"


def late_shop(new_shop: NewShop, late: str = "warn", days: Sequence[int] = (3, 2, 1), **options: Any) -> Shop:
    """Return a shop whose source has daily partitions. These days are loaded and computed."""
    shop = waiting_shop(new_shop, DAILY.format(start=day(3)), late=late, **options)
    for ago in days:
        load(shop, ago)
    assert outcomes(run(shop))["days"] == "executed"
    return shop


@pytest.mark.attribute("external_models.late")
@pytest.mark.parametrize("executor", EXECUTORS)
def test_partition_loaded_again_is_a_warning_until_it_is_computed_again(new_shop: NewShop, executor: str) -> None:
    shop = late_shop(new_shop, restate=True)
    first = run(shop, executor)
    assert first.checks[CHECK].passed
    assert first.checks[CHECK].description == "No partition of load/orders was loaded after t.days was computed for it."
    load(shop, 2)
    for config in ({}, {"ignore_sources": True}):
        late = run(shop, executor, **config).succeeded()
        assert not late.checks[CHECK].passed
        assert late.checks[CHECK].description == (
            f"load/orders was loaded after t.days was computed for {day(2)}. To read the new rows, launch a run "
            f"of the model with `restate: {{start: '{day(2)}', end: '{day(2)}'}}` in the run config."
        )
    restated = run(shop, executor, restate={"start": day(2), "end": day(2)})
    assert restated.checks[CHECK].passed, restated.checks[CHECK].description
    assert run(shop, executor).checks[CHECK].passed


def test_late_data_stays_late_if_the_janitor_merges_times_and_a_person_may_compute_it_again(new_shop: NewShop) -> None:
    shop = late_shop(new_shop, days=(3, 2))
    load(shop, 3)
    assert not run(shop).checks[CHECK].passed
    load(shop, 1)
    shop.sqlmesh("run", "--skip-janitor")
    shop.sqlmesh("janitor")  # one range for the three days, with the time of the newest
    merged_ranges = "SELECT count(*) FROM sqlmesh._intervals WHERE is_compacted AND name LIKE '%days%'"
    assert shop.query(merged_ranges) == [(1,)]
    assert run(shop).checks[CHECK].metadata["sqlmesh/late"].value == day(3)
    shop.plan("--restate-model", "t.days", "--start", day(3), "--end", day(3), at=None)
    assert run(shop).checks[CHECK].passed


def test_a_load_that_no_run_has_seen_is_late_also_if_the_janitor_merges_times_afterwards(new_shop: NewShop) -> None:
    shop = late_shop(new_shop, days=(3, 2))
    load(shop, 3)
    load(shop, 1)
    shop.sqlmesh("run", "--skip-janitor")
    shop.sqlmesh("janitor")  # the merged range of the three days is newer than both loads
    assert run(shop).checks[CHECK].metadata["sqlmesh/late"].value == day(3)


def test_new_version_is_computed_from_what_was_late_also_if_the_janitor_has_merged_its_times(new_shop: NewShop) -> None:
    shop = late_shop(new_shop)
    load(shop, 3)
    assert not run(shop).checks[CHECK].passed
    days = shop.project / "models" / "days.sql"
    days.write_text(days.read_text().replace("day, n FROM", "day, n + 1 AS n FROM"))
    shop.plan(at=None)
    shop.sqlmesh("janitor")
    assert run(shop).checks[CHECK].passed


def test_what_was_loaded_after_a_preview_is_late_when_its_version_is_promoted(new_shop: NewShop) -> None:
    """A run of the version before has compared a newer load, for its own table."""
    shop = late_shop(new_shop)
    shop.query("CREATE TABLE raw.other AS SELECT * FROM raw.orders")
    days = DAILY.format(start=day(3))
    other = LOADER.format(partitions=days, arguments=", partitions_def=days").replace("orders", "other")
    shop.add_module("other", other)
    loads = [dg.AssetMaterialization(["load", "other"], partition=day(ago)) for ago in (3, 2, 1)]
    for event in loads:
        shop.instance.report_runless_asset_event(event)
    keys = {"raw.orders": "load/orders", "raw.other": "load/other"}
    file = shop.project / "models" / "days.sql"
    before = file.read_text()
    file.write_text(before.replace("FROM raw.orders", "FROM (SELECT * FROM raw.orders UNION ALL FROM raw.other)"))
    shop.plan("dev", at=None)
    shop.configure(external_models={"keys": keys, "wait": True, "late": "warn"})
    shop.instance.report_runless_asset_event(loads[1])
    load(shop, 1)
    assert run(shop).checks[CHECK].metadata["sqlmesh/late"].value == day(1), "prod shows the version before"
    shop.plan(at=None)
    for _ in range(2):
        assert run(shop).checks[CHECK].metadata["sqlmesh/late"].value == f"{day(2)} to {day(1)} (2 days)"


def test_an_hour_makes_the_whole_day_of_a_model_late_also_behind_a_view(new_shop: NewShop) -> None:
    hours = f'days = dg.HourlyPartitionsDefinition(start_date="{day(2)}-00:00")'
    shop = waiting_shop(new_shop, hours, late="warn")
    behind = "MODEL (name t.behind, kind VIEW); SELECT day, n FROM raw.orders"
    (shop.project / "models" / "behind.sql").write_text(behind)
    days = shop.project / "models" / "days.sql"
    days.write_text(days.read_text().replace("raw.orders", "t.behind"))
    shop.plan()
    for ago in (2, 1):
        for hour in range(24):
            load_partition(shop, f"{day(ago)}-{hour:02}:00")
    assert shop.launch(assets=["t/behind", "t/days"]).status_of("t/days") == "executed"
    load_partition(shop, f"{day(2)}-05:00")
    assert shop.launch(assets=["t/days"]).checks[CHECK].metadata["sqlmesh/late"].value == day(2)


PYTHON_MODEL = """
import subprocess
import sys

import pandas as pd
from sqlmesh import model
from sqlmesh.core.model.kind import ModelKindName


@model("t.days", kind=dict(name=ModelKindName.INCREMENTAL_BY_TIME_RANGE, time_column="day"), depends_on=["raw.orders"],
       columns={{"day": "date", "n": "int"}})
def execute(context, start, end, execution_time, **kwargs):
    rows = context.fetchdf("SELECT day, n FROM raw.orders")
    subprocess.run([sys.executable, "-c", {report!r}], check=True)
    return rows
"""


def reading_shop(new_shop: NewShop, ago: int, condition: str = "True", **options: Any) -> Shop:
    """Return a shop whose t.days reports another load of a day whenever it reads the source under a condition."""
    shop = waiting_shop(new_shop, DAILY.format(start=day(3)), late="warn", **options)
    (shop.project / "models" / "days.sql").unlink()
    report = (
        f"import dagster as dg, os; {condition} and dg.DagsterInstance.from_config({shop.instance.root_directory!r})"
        f".report_runless_asset_event(dg.AssetMaterialization(['load', 'orders'], partition={day(ago)!r}))"
    )
    (shop.project / "models" / "days.py").write_text(PYTHON_MODEL.format(report=report))
    shop.plan("--skip-backfill")
    return shop


LOADING = "os.path.exists('loading')"


def test_a_partition_that_is_loaded_while_a_model_reads_it_is_late(new_shop: NewShop) -> None:
    shop = reading_shop(new_shop, 2)
    for ago in (3, 2, 1):
        load(shop, ago)
    for _ in range(2):
        assert run(shop).checks[CHECK].metadata["sqlmesh/late"].value == day(2)


@pytest.mark.slow
def test_computed_partition_loaded_while_another_is_computed_is_late_whatever_janitor_merges(new_shop: NewShop) -> None:
    shop = reading_shop(new_shop, 3, LOADING)
    for ago in (3, 2):
        load(shop, ago)
    assert run(shop).checks[CHECK].passed
    load(shop, 1)
    (shop.project / "loading").touch()
    run(shop)
    (shop.project / "loading").unlink()
    shop.sqlmesh("janitor")
    assert run(shop).checks[CHECK].metadata["sqlmesh/late"].value == day(3)


def test_a_partition_that_is_loaded_while_an_apply_reads_it_is_late(new_shop: NewShop) -> None:
    shop = reading_shop(new_shop, 3, LOADING, deploy=True)
    file = shop.project / "models" / "days.py"
    for ago in (3, 2, 1):
        load(shop, ago)
    assert run(shop).checks[CHECK].passed
    file.write_text(file.read_text().replace("SELECT day, n", "SELECT day, n + 1 AS n"))
    (shop.project / "loading").touch()
    applied = launch(shop, APPLY, digest=planned(shop)["digest"])
    (shop.project / "loading").unlink()
    for record in (applied, run(shop)):
        assert record.checks[CHECK].metadata["sqlmesh/late"].value == day(3)


def load_partition(shop: Shop, partition: str | None) -> None:
    shop.instance.report_runless_asset_event(dg.AssetMaterialization(["load", "orders"], partition=partition))


def test_a_source_without_partitions_is_not_compared_and_the_check_says_so(new_shop: NewShop) -> None:
    shop = waiting_shop(new_shop, late="warn")
    load_partition(shop, None)
    run(shop)
    load_partition(shop, None)
    check = run(shop).checks[CHECK]
    assert check.passed
    assert check.description == (
        "No asset with time-window partitions loads what t.days reads. "
        "Not compared, because it has no time-window partitions: load/orders."
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"wait": False, "late": "warn"}, "It compares the tables that the models wait for"),
        ({"late": "restate", "schedule": True}, "A tick of the schedule requests the restatements"),
    ],
)
def test_late_needs_what_it_compares_and_requests(new_shop: NewShop, options: dict[str, Any], message: str) -> None:
    shop = waiting_shop(new_shop, **options)
    assert message in shop.load_error()


def test_a_tick_requests_the_restatement_of_the_oldest_late_range_once(new_shop: NewShop) -> None:
    shop = late_shop(new_shop, "restate", restate=True, schedule={"cron": "@daily"})
    load(shop, 3)
    load(shop, 1)

    [request] = late_requests(shop)
    assert request.asset_selection == [dg.AssetKey(["t", "days"])]
    restated = launch_request(shop, request).succeeded()
    assert {restated.status_of(f"t/{name}") for name in ("days", "shown", "total")} == {"executed"}
    assert restated.checks[CHECK].metadata["sqlmesh/late"].value == day(1)
    [request] = late_requests(shop)
    assert launch_request(shop, request).checks[CHECK].passed
    assert late_requests(shop) == []


def test_a_restatement_that_was_refused_is_requested_again_only_after_another_load(new_shop: NewShop) -> None:
    shop = late_shop(new_shop, "restate", restate={"max_intervals": 1}, schedule={"cron": "@daily"})
    for ago in (3, 2):
        load(shop, ago)
    [request] = late_requests(shop)
    assert "max_intervals" in str(launch_request(shop, request).failures)
    assert late_requests(shop) == []
    load(shop, 3)
    assert len(late_requests(shop)) == 1


def test_each_component_with_the_same_models_and_sources_requests_its_own_restatement(new_shop: NewShop) -> None:
    """Such as two of one project, for prod and for staging."""
    options: dict[str, Any] = {"restate": {"max_intervals": 1}, "schedule": {"cron": "@daily"}}
    shop = late_shop(new_shop, "restate", **options)
    load(shop, 3)
    [request] = late_requests(shop)
    assert "max_intervals" in str(launch_request(shop, request).failures)
    external = {"keys": {"raw.orders": "load/orders"}, "wait": True, "late": "restate"}
    for more in ({"op": {"name": "other"}}, {"project": {"path": str(shop.project), "env": {"TARGET": "staging"}}}):
        shop.configure(external_models=external, **options)
        assert late_requests(shop) == []
        shop.configure(**{**options, "external_models": external, **more})
        assert len(late_requests(shop)) == 1


def test_a_sensor_warns_about_late_data_and_requests_each_range(new_shop: NewShop) -> None:
    shop = late_shop(new_shop, "restate", restate=True, schedule={"on_sources": True})
    sensor = SourceSensor(shop)
    sensor.tick()
    load(shop, 3)
    load(shop, 1)
    for expected in (day(3), day(1)):
        result = sensor.evaluate()
        for event in result.asset_events:
            assert isinstance(event, dg.AssetCheckEvaluation)
            assert expected in str(event.description)
            shop.instance.report_runless_asset_event(event)
        assert len(result.asset_events) == (1 if expected == day(3) else 0), "the first run has reported the rest"
        [request] = result.run_requests
        assert launch_request(shop, request).status is dg.DagsterRunStatus.SUCCESS
    assert sensor.evaluate().run_requests in ([], None)
    load(shop, 2)
    active = shop.instance.create_run_for_job(sensor.job)
    waiting = sensor.evaluate()
    [event] = waiting.asset_events
    shop.instance.report_runless_asset_event(event)
    assert sensor.evaluate().asset_events == [], "the check has it already"
    shop.instance.report_run_canceled(active)
    [request] = sensor.evaluate().run_requests
    assert launch_request(shop, request).status is dg.DagsterRunStatus.SUCCESS
    assert sensor.evaluate().run_requests in ([], None)
    assert sensor.tick() == "No source was loaded or checked since the last tick."


def test_a_tick_requests_late_data_together_with_pending_models(new_shop: NewShop) -> None:
    shop = late_shop(new_shop, "restate", days=(3, 2), restate=True, schedule={"cron": "@daily"})
    load(shop, 3)
    load(shop, 1)
    late, pending = evaluate_tick(shop).run_requests
    assert late.run_config["ops"]["sqlmesh_shop"]["config"]["restate"] == {"start": day(3), "end": day(3)}
    assert pending.run_config == {}
    assert dg.AssetKey(["t", "days"]) in pending.asset_selection


def test_a_range_is_not_requested_again_because_another_one_was_loaded(new_shop: NewShop) -> None:
    shop = late_shop(new_shop, "restate", restate={"max_intervals": 1}, schedule={"cron": "@daily"})
    load(shop, 3)
    load(shop, 1)
    for _ in range(2):
        [request] = late_requests(shop)
        assert "max_intervals" in str(launch_request(shop, request).failures)
    run(shop)
    assert late_requests(shop) == []
    load(shop, 1)
    [request] = late_requests(shop)
    assert day(1) in str(request.run_config)


def test_a_request_leaves_out_models_that_cannot_be_restated_for_a_range(new_shop: NewShop) -> None:
    shop = waiting_shop(new_shop, DAILY.format(start=day(3)), late="restate", restate=True, schedule={"cron": "@daily"})
    for name, kind in (("kept", "INCREMENTAL_UNMANAGED"), ("keyed", "INCREMENTAL_BY_UNIQUE_KEY (unique_key day)")):
        query = "SELECT day, n FROM raw.orders WHERE day BETWEEN @start_ds AND @end_ds"
        (shop.project / "models" / f"{name}.sql").write_text(f"MODEL (name t.{name}, kind {kind}); {query}")
    shop.plan()
    for ago in (3, 2, 1):
        load(shop, ago)
    shop.launch(assets=["t/days", "t/kept", "t/keyed"])
    load(shop, 3)
    [request] = late_requests(shop)
    assert request.asset_selection == [dg.AssetKey(["t", "days"])]
    assert launch_request(shop, request).checks[CHECK].passed
    assert late_requests(shop) == []
    late = shop.launch(assets=["t/kept", "t/keyed"])
    assert not late.checks["t/kept:sqlmesh_no_late_data"].passed
    assert not late.checks["t/keyed:sqlmesh_no_late_data"].passed


def test_a_late_day_is_not_requested_before_both_of_its_halves_are_loaded(new_shop: NewShop) -> None:
    halves = f'start="{day(2)}-00", fmt="%Y-%m-%d-%H", cron_schedule="0 0,12 * * *"'
    partitions = f"days = dg.TimeWindowPartitionsDefinition({halves})"
    shop = waiting_shop(new_shop, partitions, late="restate", restate=True, schedule={"cron": "@daily"})
    for ago in (2, 1):
        load_partition(shop, f"{day(ago)}-00")
        load_partition(shop, f"{day(ago)}-12")
    assert run(shop).status_of("t/days") == "executed"
    shop.instance.wipe_assets([dg.AssetKey(["load", "orders"])])
    for half in (f"{day(2)}-00", f"{day(1)}-00", f"{day(1)}-12"):
        load_partition(shop, half)
    [request] = late_requests(shop)
    assert request.run_config["ops"]["sqlmesh_shop"]["config"]["restate"] == {"start": day(1), "end": day(1)}


def test_the_warning_ends_also_if_models_without_changes_are_not_recorded(new_shop: NewShop) -> None:
    shop = late_shop(new_shop, execution={"record_unchanged": False})
    load(shop, 2)
    assert not run(shop).checks[CHECK].passed
    restated = ("--restate-model", "t.days", "--start", day(2), "--end", day(2))
    shop.sqlmesh("plan", *restated, "--no-prompts", "--auto-apply")
    assert run(shop).checks[CHECK].passed
    assert CHECK not in run(shop).checks


def test_a_late_range_is_restated_although_a_model_downstream_waits_for_the_rest_of_its_day(new_shop: NewShop) -> None:
    """SQLMesh adds the daily model with whole days, and the source ends at 02:00 of the last one."""
    hours = f'days = dg.HourlyPartitionsDefinition(start_date="{day(2)}-22:00")'
    shop = waiting_shop(new_shop, hours, late="restate", restate=True, schedule={"cron": "@daily"})
    shop.query("DROP TABLE raw.orders")
    shop.query("CREATE TABLE raw.orders AS SELECT NULL::TIMESTAMP AS day, 1 AS n LIMIT 0")
    by_hour = "MODEL (name t.days, kind INCREMENTAL_BY_TIME_RANGE (time_column day), cron '@hourly', start '{}'); "
    (shop.project / "models" / "days.sql").write_text(
        by_hour.format(f"{day(2)} 22:00:00") + "SELECT day, n FROM raw.orders WHERE day BETWEEN @start_ts AND @end_ts"
    )
    (shop.project / "models" / "shown.sql").write_text(
        "MODEL (name t.shown, kind INCREMENTAL_BY_TIME_RANGE (time_column day)); "
        "SELECT day::DATE AS day, sum(n) AS n FROM t.days WHERE day BETWEEN @start_ts AND @end_ts GROUP BY ALL"
    )
    shop.plan("--skip-backfill", at=None)
    loaded = [f"{day(2)}-22:00", f"{day(2)}-23:00", f"{day(1)}-00:00", f"{day(1)}-01:00"]
    for hour in loaded:
        shop.query(f"INSERT INTO raw.orders VALUES ('{hour[:10]} {hour[11:]}', 1)")
        load_partition(shop, hour)
    run(shop)
    shop.query("UPDATE raw.orders SET n = 7")
    for hour in loaded[1:]:
        load_partition(shop, hour)
    [request] = late_requests(shop)
    restated = launch_request(shop, request).succeeded()
    assert restated.checks[CHECK].passed
    assert f"executed for {day(2)}. Its other intervals are waiting" in restated.description_of(
        "t/shown:sqlmesh_execution_status"
    )
    assert shop.query("SELECT n FROM t.days ORDER BY day") == [(1,), (7,), (7,), (7,)]
    assert shop.query("SELECT n FROM t.shown ORDER BY day") == [(8,)]
    assert late_requests(shop) == []


def late_requests(shop: Shop) -> list[dg.RunRequest]:
    """The restatements that a tick of the schedule requests now."""
    return [request for request in evaluate_tick(shop).run_requests or () if "restate" in str(request.run_config)]
