"""A partition that is loaded again after an interval of it was computed (`external_models.late`)."""

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from engine.plan_jobs import APPLY, launch, planned
from harness import ONE_EXECUTOR, NewShop, RunRecord, Shop
from waiting import (
    DAILY,
    LOADER,
    OP,
    SourceSensor,
    day,
    evaluate_tick,
    launch_request,
    load,
    outcomes,
    run,
    waiting_shop,
)

CHECK = "t/days:sqlmesh_no_late_data"


def late_shop(new_shop: NewShop, late: str = "warn", days: Sequence[int] = (3, 2, 1), **options: Any) -> Shop:
    """Return a shop whose source has daily partitions. These days are loaded and computed."""
    shop = waiting_shop(new_shop, DAILY.format(start=day(3)), late=late, **options)
    for ago in days:
        load(shop, ago)
    assert outcomes(run(shop))["days"] == "executed"
    return shop


def late_in(record: RunRecord) -> str:
    """The late range that the check of t.days names after a run."""
    return str(record.checks[CHECK].metadata["sqlmesh/late"].value)


def load_partition(shop: Shop, partition: str | None, table: str = "orders") -> None:
    shop.instance.report_runless_asset_event(dg.AssetMaterialization(["load", table], partition=partition))


@pytest.mark.advice("To read the new rows, launch a run of the model with")
@pytest.mark.attribute("external_models.late")
@pytest.mark.parametrize("executor", ONE_EXECUTOR)
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


@pytest.mark.night(
    "unit/worker/intervals/test_unrecorded.py::test_a_merged_range_is_evidence_only_if_the_interval_was_not_late_or_the_table_is_newer",
    "model/test_every_late_load.py::test_no_history_of_six_actions_hides_a_late_load_or_names_a_new_row",
)
def test_a_day_stays_late_although_the_janitor_merges_times_until_a_person_computes_it(new_shop: NewShop) -> None:
    """Then the warning ends, also if models without changes are not recorded."""
    shop = late_shop(new_shop, days=(3, 2), execution={"record_unchanged": False})
    load(shop, 3)
    assert late_in(run(shop)) == day(3)
    for ago in (2, 1):  # no run has seen these loads before the janitor
        load(shop, ago)
    shop.sqlmesh("run", "--skip-janitor")
    shop.sqlmesh("janitor")  # one range for the three days, with the time of the newest
    merged_ranges = "SELECT count(*) FROM sqlmesh._intervals WHERE is_compacted AND name LIKE '%days%'"
    assert shop.query(merged_ranges) == [(1,)]
    assert late_in(run(shop)) == f"{day(3)} to {day(2)} (2 days)"
    shop.plan("--restate-model", "t.days", "--start", day(3), "--end", day(2), at=None)
    assert run(shop).checks[CHECK].passed
    assert CHECK not in run(shop).checks


@pytest.mark.night(
    "unit/capabilities/sources/test_late_loads.py::test_what_is_late_stays_late_although_a_plan_has_changed_what_is_read_or_shown",
    "test_partition_loaded_again_is_a_warning_until_it_is_computed_again",
)
def test_a_warning_ends_with_a_new_version_although_models_without_changes_are_not_recorded(new_shop: NewShop) -> None:
    shop = late_shop(new_shop, execution={"record_unchanged": False})
    load(shop, 2)
    assert late_in(run(shop)) == day(2)
    file = shop.project / "models" / "days.sql"
    file.write_text(file.read_text().replace("SELECT day, n", "SELECT day, n + 1 AS n"))
    shop.plan(at=None)
    record = run(shop)
    assert record.checks[CHECK].passed, record.checks
    assert CHECK not in run(shop).checks


@pytest.mark.night(
    "unit/capabilities/sources/test_late_loads.py::test_what_is_late_stays_late_although_a_plan_has_changed_what_is_read_or_shown",
    "unit/worker/intervals/test_unrecorded.py::test_intervals_computed_before_their_source_was_loaded_are_late_as_a_whole",
)
def test_what_was_loaded_after_a_preview_is_late_when_its_version_is_promoted(new_shop: NewShop) -> None:
    """A run of the version before has compared a newer load, for its own table.

    The new version reads another table too, behind a view. One hour of that makes the whole day of the model late.
    """
    shop = late_shop(new_shop)
    shop.query("CREATE TABLE raw.other AS SELECT * FROM raw.orders")
    hours = f'days = dg.HourlyPartitionsDefinition(start_date="{day(3)}-00:00")'
    other = LOADER.format(partitions=hours, arguments=", partitions_def=days").replace("orders", "other")
    shop.add_module("other", other)
    for ago, hour in product((3, 2, 1), range(24)):
        load_partition(shop, f"{day(ago)}-{hour:02}:00", "other")
    keys = {"raw.orders": "load/orders", "raw.other": "load/other"}
    (shop.project / "models" / "behind.sql").write_text("MODEL (name t.behind, kind VIEW); FROM raw.other")
    file = shop.project / "models" / "days.sql"
    file.write_text(file.read_text().replace("FROM raw.orders", "FROM (FROM raw.orders UNION ALL FROM t.behind)"))
    shop.plan("dev", at=None)
    shop.configure(external_models={"keys": keys, "wait": True, "late": "warn"})
    load_partition(shop, f"{day(2)}-05:00", "other")
    load(shop, 1)
    assert late_in(run(shop)) == day(1), "prod shows the version before"
    shop.plan(at=None)
    for _ in range(2):
        assert late_in(run(shop)) == f"{day(2)} to {day(1)} (2 days)"


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


def shop_that_loads_while_it_reads(new_shop: NewShop) -> tuple[Shop, Path, Path]:
    """Return a shop, the file of t.days, and a file. While it exists, t.days reports another load when it reads."""
    shop = waiting_shop(new_shop, DAILY.format(start=day(3)), late="warn", deploy=True)
    model, loading = shop.project / "models" / "days.py", shop.project / "loading"
    report = (
        "import dagster as dg, os; os.path.exists('loading') and "
        f"dg.DagsterInstance.from_config({shop.instance.root_directory!r})"
        f".report_runless_asset_event(dg.AssetMaterialization(['load', 'orders'], partition={day(3)!r}))"
    )
    model.with_suffix(".sql").unlink()
    model.write_text(PYTHON_MODEL.format(report=report))
    shop.plan("--skip-backfill")
    for ago in (3, 2, 1):
        load(shop, ago)
    return shop, model, loading


def test_a_partition_that_is_loaded_while_a_run_reads_it_is_late(new_shop: NewShop) -> None:
    shop, _, loading = shop_that_loads_while_it_reads(new_shop)
    loading.touch()
    computed = run(shop)
    loading.unlink()
    for record in (computed, run(shop)):
        assert late_in(record) == day(3)


@pytest.mark.night(
    "test_a_partition_that_is_loaded_while_a_run_reads_it_is_late",
    "unit/capabilities/sources/test_late_loads_by_days.py",
)
def test_a_partition_that_is_loaded_while_an_apply_reads_it_is_late(new_shop: NewShop) -> None:
    shop, model, loading = shop_that_loads_while_it_reads(new_shop)
    run(shop).succeeded()
    model.write_text(model.read_text().replace("SELECT day, n", "SELECT day, n + 1 AS n"))
    launch(shop, APPLY, digest=planned(shop)["digest"]).succeeded()
    shop.sqlmesh("janitor")
    assert run(shop).checks[CHECK].passed, "computed after the load, although its times are merged"
    model.write_text(model.read_text().replace("n + 1", "n + 2"))
    loading.touch()
    applied = launch(shop, APPLY, digest=planned(shop)["digest"])
    loading.unlink()
    for record in (applied, run(shop)):
        assert late_in(record) == day(3)


def test_late_days_before_the_start_are_named_and_not_requested(new_shop: NewShop) -> None:
    """A plan has moved the `start` of the model."""
    shop = late_shop(new_shop, "restate", restate=True, schedule={"cron": "@daily"})
    file = shop.project / "models" / "days.sql"
    file.write_text(file.read_text().replace("name t.days,", f"name t.days, start '{day(1)}',"))
    shop.plan(at=None)
    load(shop, 2)
    left = (
        f" Before the `start` of t.days, so computed by no run: {day(2)}. To have these rows, set an earlier `start` "
        "and apply a plan first."
    )

    assert late_requests(shop) == []
    assert (
        run(shop).checks[CHECK].description == f"load/orders was loaded after t.days was computed for {day(2)}.{left}"
    )
    load(shop, 1)
    [request] = late_requests(shop)
    assert request.run_config["ops"][OP]["config"]["restate"] == {"start": day(1), "end": day(1)}
    text = str(run(shop).checks[CHECK].description)
    assert f"with `restate: {{start: '{day(1)}', end: '{day(1)}'}}`" in text
    assert text.endswith(left)


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


def test_a_tick_requests_pending_models_and_the_restatement_of_late_ranges(new_shop: NewShop) -> None:
    """It leaves out late models that SQLMesh cannot restate for a range."""
    shop = waiting_shop(new_shop, DAILY.format(start=day(3)), late="restate", restate=True, schedule={"cron": "@daily"})
    for name, kind in (("kept", "INCREMENTAL_UNMANAGED"), ("keyed", "INCREMENTAL_BY_UNIQUE_KEY (unique_key day)")):
        query = "SELECT day, n FROM raw.orders WHERE day BETWEEN @start_ds AND @end_ds"
        (shop.project / "models" / f"{name}.sql").write_text(f"MODEL (name t.{name}, kind {kind}); {query}")
    shop.plan()
    for ago in (3, 2):
        load(shop, ago)
    shop.launch(assets=[f"t/{name}" for name in ("days", "shown", "total", "kept", "keyed")]).succeeded()
    load(shop, 3)
    load(shop, 1)

    late, pending = evaluate_tick(shop).run_requests
    assert late.asset_selection == [dg.AssetKey(["t", "days"])]
    assert late.run_config["ops"]["sqlmesh_shop"]["config"]["restate"] == {"start": day(3), "end": day(3)}
    restated = launch_request(shop, late).succeeded()
    assert {restated.status_of(f"t/{name}") for name in ("days", "shown", "total")} == {"executed"}
    assert restated.checks[CHECK].passed
    assert pending.run_config == {}
    computed = launch_request(shop, pending).succeeded()
    assert {name: computed.checks[f"t/{name}:sqlmesh_no_late_data"].passed for name in ("days", "kept", "keyed")} == {
        "days": True,
        "kept": False,
        "keyed": False,
    }
    assert late_requests(shop) == []


@pytest.mark.night(
    "unit/capabilities/schedule/test_ready_by_runs.py::test_each_late_range_is_requested_once_oldest_first_and_again_only_after_another_load",
    "test_a_tick_requests_pending_models_and_the_restatement_of_late_ranges",
)
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


def late_requests(shop: Shop) -> list[dg.RunRequest]:
    """The restatements that a tick of the schedule requests now."""
    return [request for request in evaluate_tick(shop).run_requests or () if "restate" in str(request.run_config)]
