"""Dagster's records of data agree with the SQLMesh state, and nothing that is in sync is shown as unsynced."""

import json
import re
import time
from pathlib import Path

import dagster as dg
import pytest
from computed_hours import State
from dagster._serdes import deserialize_value
from engine.recorded_models import LOST, MODELS, OP, broken, day, health, restate, tick, unsynced
from harness import NewShop, RunRecord, Shop, at_night

DOWNSTREAM = {"t/days", "t/shown", "t/total"}
EVERYTHING = {*DOWNSTREAM, "t/alone"}


def restate_in_a_shell(shop: Shop, start: str, end: str) -> None:
    shop.plan("--restate-model", "t.days", "--start", start, "--end", end, at=None)


def outside(run: RunRecord) -> dict[str, str]:
    """The intervals that a run has recorded as computed outside of Dagster."""
    materializations = {**run.computed_outside, **run.reported_outside}
    return {key: str(event.metadata["sqlmesh/intervals"].value) for key, event in materializations.items()}


# -- outside data -------------------------------------------------------------------------------------


def test_outside_restatement_is_recorded_although_a_run_computes_the_newest_day_first(new_recorded: NewShop) -> None:
    shop = new_recorded(planned_at=f"{day(1)} 12:00:00")
    assert outside(shop.launch(ops={OP: {"end": day(2)}}))["t/days"] == f"{day(8)} to {day(2)} (7 days)"
    restate_in_a_shell(shop, day(6), day(5))
    run = shop.launch()
    assert outside(run)["t/days"] == f"{day(6)} to {day(5)} (2 days)"
    assert run.materializations["t/days"].metadata["sqlmesh/intervals"].value == day(1)
    assert not outside(shop.launch())


def test_batches_of_a_failed_run_are_never_outside_data_however_many_observations_follow(new_recorded: NewShop) -> None:
    shop = new_recorded()
    shop.launch(assets=["t/alone"])
    broken(shop, day(1))
    failed = shop.launch()
    assert failed.status_of("t/days") == "partly_executed"
    for _ in range(60):
        shop.instance.report_runless_asset_event(dg.AssetObservation(dg.AssetKey(["t", "days"])))
    again = shop.launch()
    assert again.status_of("t/days") == "failed"
    assert not outside(again)
    broken(shop)
    shop.sqlmesh("run")
    assert outside(shop.launch())["t/days"] == day(1), "only what the shell has computed"


@pytest.mark.parametrize("finished_by", ["dagster", *at_night("shell")])
def test_next_materialization_also_says_what_failed_runs_have_computed(new_recorded: NewShop, finished_by: str) -> None:
    shop = new_recorded(planned_at=f"{day(6)} 12:00:00")
    for broken_day, kept in ((day(2), f"{day(6)} to {day(3)} (4 days)"), (day(1), day(2))):
        broken(shop, broken_day)
        failed = shop.launch()
        assert failed.observations["t/days"].metadata["sqlmesh/intervals"].value == kept
    broken(shop)
    if finished_by == "shell":
        shop.sqlmesh("run")
    run = shop.launch()
    materialized = {**run.computed_outside, **run.materializations}["t/days"].metadata
    assert materialized["sqlmesh/intervals"].value == day(1)
    assert materialized["sqlmesh/earlier_intervals"].value == f"{day(6)} to {day(2)} (5 days)"
    if finished_by == "dagster":
        assert run.description_of("t/days:sqlmesh_execution_status") == (
            f"t.days was executed for {day(1)}. Before that, runs that failed or were cancelled had computed {day(6)} "
            f"to {day(2)} (5 days)."
        )
    again = shop.launch(ops=restate(day(1), day(1)), assets=["t/days"]).materializations["t/days"]
    assert "sqlmesh/earlier_intervals" not in again.metadata, "it was said once"


def test_run_of_a_subset_records_outside_data_of_upstream_models_first(new_recorded: NewShop) -> None:
    shop = new_recorded()
    run = shop.launch(assets=["t/total"])
    assert set(outside(run)) == DOWNSTREAM
    assert set(run.computed_outside) <= {"t/total"}, "other assets were not materialized by the run"


def test_data_that_an_earlier_release_has_recorded_is_not_outside_data(new_recorded: NewShop) -> None:
    shop = new_recorded(planned_at="now", polling_sensor=True)
    _, event = json.loads((Path(__file__).parents[1] / "unit/stored/records.json").read_text())["computed"]
    for model, version in State.of(shop.project).versions.items():
        text = json.dumps(event).replace("481739773", version).replace('"days"', f'"{model}"')
        now = str(time.time_ns() // 1_000_000)
        text = re.sub(r"\b17956\d{8}\b", now, text)
        shop.instance.report_runless_asset_event(deserialize_value(text, dg.AssetMaterialization))
    cursor_of_another_version = '{"plan_id": "c0ffee", "models": "eJyr"}'
    assert "Nothing was computed or promoted outside of Dagster." in tick(shop, cursor_of_another_version)
    assert not outside(shop.launch())


# -- audits -------------------------------------------------------------------------------------------


@pytest.mark.night("engine/test_carried_over.py::test_result_is_carried_over_until_data_or_audit_changes")
def test_audit_results_of_a_restatement_are_repeated_by_the_next_run(new_recorded: NewShop) -> None:
    shop = new_recorded()
    shop.launch()
    assert shop.launch(ops=restate(day(5), day(4)), assets=["t/days"]).checks["t/days:soft"].passed
    idle = shop.launch()
    assert idle.status_of("t/days") == "up_to_date"
    assert idle.checks["t/days:soft"].passed
    assert "sqlmesh/carried_over" in idle.checks["t/days:soft"].metadata


# -- restatements that fail ---------------------------------------------------------------------------


HEALTHY = {"execution": True, "intervals": True}


@pytest.mark.parametrize("healed_by", ["dagster", *at_night("restatement", "shell")])
def test_failed_restatement_fails_checks_until_range_is_computed_again(new_recorded: NewShop, healed_by: str) -> None:
    shop = new_recorded()
    shop.launch()
    broken(shop, day(5))
    failed = shop.launch(ops=restate(day(6), day(5)), assets=["t/days"])
    assert shop.query("SELECT count(*) FROM t.days") == [(7,)], "SQLMesh has deleted the rows of a day"
    assert health(failed) == LOST
    later = shop.launch().failed()
    assert health(later) == LOST
    assert shop.launch(assets=["t/total"]).succeeded().status_of("t/total") == "waiting"

    broken(shop)
    if healed_by == "restatement":
        assert health(shop.launch(ops=restate(day(5), day(5)), assets=["t/days"])) == HEALTHY
    elif healed_by == "shell":
        shop.sqlmesh("run")
    healthy = shop.launch().succeeded()
    assert shop.query("SELECT count(*) FROM t.days") == [(8,)]
    assert shop.query("SELECT n FROM t.total") == [(8,)]
    assert health(healthy) == HEALTHY


@pytest.mark.night(
    "unit/worker/intervals/test_coverage.py::test_days_that_sqlmesh_will_restate_automatically_are_missing_as_far_as_they_are_due",
    "test_failed_restatement_fails_checks_until_range_is_computed_again",
)
def test_failed_automatic_restatement_is_pending_for_everybody(new_recorded: NewShop) -> None:
    automatic = MODELS["models/days.sql"].replace(
        "batch_size 1", "auto_restatement_cron '@daily', auto_restatement_intervals 3, batch_size 1"
    )
    shop = new_recorded({"models/days.sql": automatic}, planned_at=f"{day(1)} 12:00:00")
    shop.sqlmesh("run", "--ignore-cron")
    shop.query("UPDATE sqlmesh._auto_restatements SET next_auto_restatement_ts = 1")
    broken(shop, day(2))
    failed = shop.launch().failed()
    assert health(failed) == LOST
    lacks = f"t.days lacks 2 intervals: {day(2)} to {day(1)} (2 days)."
    assert failed.description_of("t/days:sqlmesh_intervals_complete").startswith(lacks)
    broken(shop)
    assert health(shop.launch()) == HEALTHY


# -- in sync ------------------------------------------------------------------------------------------


def test_nothing_is_unsynced_after_a_plan_a_run_a_restatement_and_outside_data(new_recorded: NewShop) -> None:
    shop = new_recorded(planned_at="now")
    adopted = shop.launch()
    assert set(outside(adopted)) == EVERYTHING
    assert not unsynced(shop)
    assert set(shop.launch(ops=restate(day(3), day(2)), assets=["t/days"]).materializations) == DOWNSTREAM
    assert not unsynced(shop)
    restate_in_a_shell(shop, day(4), day(3))
    assert set(outside(shop.launch(assets=["t/total"]))) == DOWNSTREAM
    assert not unsynced(shop)


# -- the sensor ---------------------------------------------------------------------------------------


def last_result(shop: Shop, check: str) -> bool:
    key = dg.AssetCheckKey(dg.AssetKey(["t", "days"]), check)
    (record,) = shop.instance.event_log_storage.get_asset_check_execution_history(key, limit=1)
    assert record.event is not None
    assert record.event.asset_check_evaluation is not None
    return record.event.asset_check_evaluation.passed


@pytest.mark.night(
    "engine/test_polling_sensor.py::test_everything_that_is_typed_in_a_shell_is_recorded_once",
    "engine/test_polling_sensor.py::test_intervals_check_is_evaluated_with_the_recorded_data",
)
def test_sensor_leaves_nothing_unsynced_and_no_lost_rows_in_good_health(new_recorded: NewShop) -> None:
    shop = new_recorded(polling_sensor=True)
    tick(shop)
    assert not unsynced(shop)
    broken(shop, day(5))
    shop.launch(ops=restate(day(6), day(5)), assets=["t/days"])
    tick(shop)
    assert not last_result(shop, "sqlmesh_intervals_complete")
    assert not last_result(shop, "sqlmesh_execution_status")
    broken(shop)
    shop.sqlmesh("run")
    tick(shop)
    assert last_result(shop, "sqlmesh_intervals_complete")
    assert shop.launch().status == dg.DagsterRunStatus.SUCCESS
    assert not unsynced(shop)


def test_failed_model_is_in_sync_with_upstream_models_that_the_run_does_not_select(new_recorded: NewShop) -> None:
    fails = "CASE WHEN EXISTS (SELECT day FROM ctl.broken) THEN error('broken') END"
    broken_total = MODELS["models/total.sql"].replace("sum(n)", fails)
    shop = new_recorded({"models/total.sql": broken_total}, planned_at="now")
    broken(shop, "2000-01-01")
    failed = shop.launch(ops=restate(day(3), day(2)), assets=["t/total"])
    assert failed.status_of("t/total") == "failed"
    assert set(failed.reported_outside) == DOWNSTREAM
    assert not unsynced(shop)
