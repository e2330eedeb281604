"""No interval is computed before the asset that loads its source is complete for it (`external_models.wait`)."""

from datetime import datetime, timezone
from typing import Any

import dagster as dg
import pytest
from harness import ONE_EXECUTOR, YEARLY_CRON, NewShop, Shop, rows_at_night, write_project
from waiting import DAILY, EMPTY, LOADER, MODELS, OP, SourceSensor, day, load, outcomes, rows, run, tick, waiting_shop

from dg_sqlmesh_component.dagster_internals.event_log import TargetMaterialization

STATUS = "t/days:sqlmesh_execution_status"


@pytest.mark.parametrize(
    ("wait", "config"), [*rows_at_night((False, {})), (True, {"ignore_sources": True})], ids=["no wait", "ignored"]
)
def test_a_day_that_is_loaded_late_is_lost_and_everything_is_green_if_no_source_is_awaited(
    new_shop: NewShop, wait: bool, config: dict[str, Any]
) -> None:
    shop = waiting_shop(new_shop, DAILY.format(start=day(6)), wait=wait)
    early = run(shop, **config).succeeded()
    load(shop, 1)
    late = run(shop, **config).succeeded()
    assert (early.status_of("t/days"), late.status_of("t/days"), rows(shop)) == ("executed", "up_to_date", [])
    stored = shop.instance.get_run_by_id(early.run_id)
    assert stored is not None
    assert stored.tags.get("sqlmesh/ignore_sources") == ("true" if config else None)


@pytest.mark.advice("and defs.yaml has no `external_models.wait`. Leave it out.")
def test_sources_that_no_run_awaits_cannot_be_ignored(new_shop: NewShop) -> None:
    shop = waiting_shop(new_shop, wait=False)
    [failure] = run(shop, ignore_sources=True).failures
    assert "sets ignore_sources, and defs.yaml has no `external_models.wait`" in failure
    run(shop).succeeded()


@pytest.mark.advice("was never materialized: materialize it once")
@pytest.mark.parametrize("executor", ONE_EXECUTOR)
def test_days_wait_until_their_partitions_are_materialized(new_shop: NewShop, executor: str) -> None:
    shop = waiting_shop(new_shop, DAILY.format(start=day(3)))

    nothing = run(shop, executor).succeeded()
    assert outcomes(nothing) == {"days": "waiting", "shown": "waiting", "total": "waiting", "alone": "executed"}
    assert nothing.checks[STATUS].description == (
        "t.days is waiting: load/orders was never materialized: materialize it once. "
        "The first run after its sources are loaded computes it."
    )
    load(shop, 3)
    load(shop, 2)
    some = run(shop, executor)
    assert outcomes(some)["days"] == "executed"
    assert f"load/orders has no materialization of {day(1)}" in str(some.checks[STATUS].description)
    assert rows(shop) == [day(3), day(2)]
    assert outcomes(run(shop, executor))["days"] == "waiting"
    load(shop, 1)
    assert outcomes(run(shop, executor)) == dict.fromkeys(("days", "shown", "total"), "executed") | {
        "alone": "up_to_date"
    }
    assert rows(shop) == [day(3), day(2), day(1)]
    assert shop.query("SELECT n FROM t.total") == [(3,)]


def test_intervals_that_wait_are_no_gaps(new_shop: NewShop) -> None:
    shop = waiting_shop(new_shop, DAILY.format(start=day(3)), intervals_check=True)
    load(shop, 3)
    record = run(shop)
    check = record.checks["t/days:sqlmesh_intervals_complete"]
    assert check.passed
    assert str(check.description).endswith(f"Waiting: {day(2)} to {day(1)} (2 days).")
    table: Any = record.materializations["t/days"].metadata["sqlmesh/not_computed"]
    [row] = table.records
    assert row.data == {"range": f"{day(2)} to {day(1)} (2 days)", "why": "waits for a source or a signal"}
    alone = shop.launch(checks=["t/days:sqlmesh_intervals_complete"])
    assert alone.checks["t/days:sqlmesh_intervals_complete"].passed


@pytest.mark.night(
    "test_intervals_that_wait_are_no_gaps",
    "engine/test_polling_sensor.py::test_intervals_check_is_evaluated_with_the_recorded_data",
)
def test_intervals_that_wait_are_no_gaps_for_the_polling_sensor(new_shop: NewShop) -> None:
    shop = waiting_shop(new_shop, DAILY.format(start=day(3)), intervals_check=True, polling_sensor=True)
    behind = "MODEL (name t.behind, kind INCREMENTAL_BY_TIME_RANGE (time_column day)); "
    query = "SELECT day, n FROM t.days WHERE day BETWEEN @start_ds AND @end_ds"
    (shop.project / "models" / "behind.sql").write_text(behind + query)
    shop.plan()
    load(shop, 3)
    shop.launch(assets=["t/days", "t/behind"])
    shop.plan("--restate-model", "t.behind", "--start", day(3), "--end", day(3), at=None)
    repository = shop.refresh().get_repository_def()
    context = dg.build_sensor_context(shop.instance, repository_def=repository)
    events = repository.get_sensor_def("sqlmesh_shop_sensor").evaluate_tick(context).asset_events
    [check] = [event for event in events if isinstance(event, dg.AssetCheckEvaluation)]
    assert (check.asset_key, check.check_name) == (dg.AssetKey(["t", "behind"]), "sqlmesh_intervals_complete")
    assert check.passed, check.description


@pytest.mark.attribute("external_models.wait")
def test_a_dry_run_and_a_tick_wait_for_the_same_sources_as_a_run(
    new_shop: NewShop, capfd: pytest.CaptureFixture[str]
) -> None:
    shop = waiting_shop(new_shop, DAILY.format(start=day(3)), schedule={"cron": "@daily"})
    load(shop, 3)
    tick(shop)
    log = capfd.readouterr().err
    assert f"t.days: pending: {day(3)}\n" in log, log
    load(shop, 2)
    run(shop)

    predicted = shop.launch(ops={OP: {"dry_run": True}}, assets=["t/days", "t/shown", "t/total"])
    rows_ = {row["model"]: row for row in predicted.logged["sqlmesh/dry_run_json"]}
    cause = f"load/orders has no materialization of {day(1)}"
    assert {row["outcome"] for row in rows_.values()} == {"waiting"}
    assert all(cause in row["why"] for row in rows_.values())
    assert f"sources: t.days, t.shown, t.total ({cause}). The next tick" in tick(shop), "it names a cause once"
    load(shop, 1)
    assert tick(shop) == {"t/days", "t/shown", "t/total"}


@pytest.mark.night(
    "unit/capabilities/sources/test_complete_sources.py::test_a_sentence_about_an_awaited_range_names_what_is_missing_in_it",
    "test_a_dry_run_and_a_tick_wait_for_the_same_sources_as_a_run",
)
def test_run_and_tick_name_only_partitions_that_a_pending_interval_needs(new_shop: NewShop) -> None:
    shop = waiting_shop(new_shop, DAILY.format(start=day(3)), schedule={"cron": "@daily"})
    ended = f"MODEL (name t.days, kind FULL, end '{day(2)}'); SELECT day, n FROM raw.orders"
    (shop.project / "models" / "days.sql").write_text(ended)
    shop.plan(at="5 days ago")
    load(shop, 2)
    run(shop)
    cause = f"load/orders has no materialization of {day(3)}"
    assert f"t.days is waiting: {cause}." in run(shop).description_of(STATUS)
    assert f"({cause})" in tick(shop)


COMPLETE = """
import dagster as dg


@dg.asset_check(asset=["load", "orders"], blocking=True)
def complete():
    return dg.AssetCheckResult(passed=True)
"""


def evaluate_complete(shop: Shop, ago: int, *, passed: bool) -> None:
    """Evaluate the blocking check of the source on a day that is loaded."""
    key = dg.AssetKey(["load", "orders"])
    (last,) = shop.instance.fetch_materializations(
        dg.AssetRecordsFilter(key, asset_partitions=[day(ago)]), limit=1
    ).records
    target = TargetMaterialization(storage_id=last.storage_id, run_id=last.run_id, timestamp=last.timestamp)
    shop.instance.report_runless_asset_event(
        dg.AssetCheckEvaluation(key, "complete", passed, {}, target, dg.AssetCheckSeverity.ERROR, blocking=True)
    )


@pytest.mark.attribute("schedule.on_sources")
def test_a_sensor_requests_the_models_that_a_load_or_its_check_makes_ready_in_one_run(new_shop: NewShop) -> None:
    """And the pending models upstream of them, without which the run computes nothing: the load is not seen again."""
    shop = waiting_shop(new_shop, DAILY.format(start=day(3)), schedule={"on_sources": True, "cron": "0 6 * * *"})
    shop.add_module("complete", COMPLETE)
    days = shop.project / "models" / "days.sql"
    days.write_text(days.read_text().replace("day, n FROM raw.orders", "day, o.n FROM t.alone, raw.orders AS o"))
    (shop.project / "models" / "apart.sql").write_text("MODEL (name t.apart, kind FULL); SELECT 1 AS n")
    shop.plan()
    sensor = SourceSensor(shop)
    assert sensor.tick() == "No source was loaded or checked since the last tick."
    load(shop, 1)
    evaluate_complete(shop, 1, passed=False)
    load(shop, 3)
    load(shop, 2)
    assert sensor.tick() == {"t/days", "t/shown", "t/total", "t/alone"}
    assert sensor.tick() == "No source was loaded or checked since the last tick."
    refused = run(shop)
    assert rows(shop) == [day(3), day(2)]
    assert f"load/orders has failed its check complete in partition {day(1)}" in refused.description_of(STATUS)
    evaluate_complete(shop, 1, passed=True)
    assert sensor.tick() == {"t/days", "t/shown", "t/total"}
    run(shop)
    assert rows(shop) == [day(3), day(2), day(1)]
    load(shop, 1)
    assert sensor.tick() == "Loaded or checked: load/orders. It makes no model ready."

    queued = [shop.instance.create_run_for_job(sensor.job) for _ in range(2)]
    load(shop, 1)
    assert "2 runs of these models have not finished" in sensor.tick()
    for waiting in queued:
        shop.instance.report_run_canceled(waiting)
    assert sensor.tick() == "Loaded or checked: load/orders. It makes no model ready.", "it was not forgotten"


LOOKBACK = "MODEL (name t.{name}, kind INCREMENTAL_BY_TIME_RANGE (time_column day, lookback 1){more}); SELECT {query}"
NOT_YESTERDAY = """
from sqlmesh import signal


@signal()
def not_yesterday(batch):
    return [interval for interval in batch if str(interval[0].date()) != "{yesterday}"]
"""


@pytest.mark.night(
    "unit/worker/intervals/test_availability.py::test_days_of_a_lookback_are_computed_again_only_with_a_new_one",
    "test_days_wait_until_their_partitions_are_materialized",
)
def test_days_of_a_lookback_are_not_computed_again_while_the_newest_day_waits(new_shop: NewShop) -> None:
    """One model waits for its source, the other one for its signal."""
    shop = waiting_shop(new_shop, DAILY.format(start=day(3)), schedule={"cron": "@daily"})
    source = "day, n FROM raw.orders WHERE day BETWEEN @start_ds AND @end_ds"
    gated = LOOKBACK.format(name="alone", more=", signals [not_yesterday()]", query="@start_ds::DATE AS day, 1 AS n")
    write_project(
        shop.project,
        {
            "models/days.sql": LOOKBACK.format(name="days", more="", query=source),
            "models/alone.sql": gated,
            "signals/__init__.py": NOT_YESTERDAY.format(yesterday=day(1)),
        },
    )
    shop.plan()
    load(shop, 3)
    load(shop, 2)
    first, second = outcomes(run(shop)), run(shop)
    assert (first["days"], first["alone"]) == ("executed", "executed")
    assert outcomes(second) == dict.fromkeys(first, "waiting")
    assert f"no materialization of {day(1)}" in second.description_of(STATUS)
    assert "its signal not_yesterday has no interval ready" in second.description_of("t/alone:sqlmesh_execution_status")
    assert f"(load/orders has no materialization of {day(1)})" in tick(shop)
    load(shop, 1)
    assert tick(shop) == {"t/days", "t/shown", "t/total"}
    assert outcomes(run(shop))["days"] == "executed"
    assert rows(shop) == [day(3), day(2), day(1)]


@pytest.mark.night(
    "unit/worker/intervals/test_availability.py::test_what_is_not_loaded_is_left_out",
    "test_a_sensor_requests_the_models_that_a_load_or_its_check_makes_ready_in_one_run",
)
def test_a_restatement_does_not_read_rows_that_a_check_has_refused_and_the_next_run_does(new_shop: NewShop) -> None:
    """The whole table has computed that day before. It waits, and it is computed when the day is repaired."""
    shop = waiting_shop(new_shop, DAILY.format(start=day(3)), restate=True)
    shop.add_module("complete", COMPLETE)
    count = shop.project / "models" / "alone.sql"
    count.write_text("MODEL (name t.alone, kind FULL); SELECT count(*) AS n FROM raw.orders, t.days")
    shop.plan()
    for ago in (3, 2, 1):
        load(shop, ago)
    assert outcomes(run(shop))["alone"] == "executed"
    shop.query(f"INSERT INTO raw.orders VALUES ('{day(1)}', -1)")
    evaluate_complete(shop, 1, passed=False)
    restate = {"start": day(3), "end": day(3)}
    run(shop, restate=restate, dry_run=True).succeeded()
    restated = run(shop, restate=restate).succeeded()
    assert outcomes(restated) == {"days": "executed", "shown": "executed", "total": "executed", "alone": "waiting"}
    assert f"load/orders has failed its check complete in partition {day(1)}" in restated.description_of(
        "t/alone:sqlmesh_execution_status"
    )
    assert outcomes(run(shop))["alone"] == "waiting"
    shop.query("DELETE FROM raw.orders WHERE n = -1")
    evaluate_complete(shop, 1, passed=True)
    assert outcomes(run(shop))["alone"] == "executed"
    assert shop.query("SELECT n FROM t.alone") == [(9,)]


@pytest.mark.night(
    "unit/worker/intervals/test_forgotten.py::test_an_automatic_restatement_marks_only_what_was_computed",
    "test_a_sensor_requests_the_models_that_a_load_or_its_check_makes_ready_in_one_run",
)
def test_an_automatic_restatement_leaves_a_day_pending_that_a_check_has_refused(new_shop: NewShop) -> None:
    shop = waiting_shop(new_shop, DAILY.format(start=day(3)))
    shop.add_module("complete", COMPLETE)
    days = shop.project / "models" / "days.sql"
    restated = "time_column day, auto_restatement_cron '@daily', auto_restatement_intervals 3"
    days.write_text(days.read_text().replace("time_column day", restated))
    shop.plan()
    for ago in (3, 2, 1):
        load(shop, ago)
    run(shop).succeeded()
    load(shop, 2)
    shop.query("UPDATE raw.orders SET n = 7")
    shop.query("UPDATE sqlmesh._auto_restatements SET next_auto_restatement_ts = 1")
    evaluate_complete(shop, 2, passed=False)
    first = run(shop).succeeded()
    assert f"t.days was executed for {day(3)}, {day(1)}. Its other intervals are waiting" in first.description_of(
        STATUS
    )
    assert outcomes(run(shop))["days"] == "waiting"
    evaluate_complete(shop, 2, passed=True)
    assert run(shop).succeeded().status_of("t/days") == "executed"
    assert shop.query("SELECT DISTINCT day, n FROM t.days WHERE n <> 7") == []


AUDITED = """
- name: '"warehouse"."raw"."orders"'
  columns: {day: date, n: int}
  audits: [{name: has_rows}]
"""


@pytest.mark.night(
    "unit/worker/intervals/test_availability.py::test_what_is_not_loaded_is_left_out",
    "engine/test_steps.py::test_audit_of_an_external_model_is_a_check_and_blocks_downstream_models",
)
def test_a_blocking_audit_of_a_table_waits_until_it_is_loaded_and_names_what_is_not_if_it_fails(
    new_shop: NewShop,
) -> None:
    """The audit may look at rows after the intervals that are loaded."""
    shop = waiting_shop(new_shop, DAILY.format(start=day(3)))
    stale = "count(*) = 0 OR max(day) < @execution_ds::DATE - 1"
    query = f"SELECT max(day) AS newest FROM raw.orders HAVING {stale}"
    files = {"audits/has_rows.sql": f"AUDIT (name has_rows); {query}", "external_models.yaml": AUDITED}
    write_project(shop.project, files)
    shop.plan("--skip-backfill")
    assert outcomes(run(shop).succeeded())["days"] == "waiting"
    load(shop, 3)
    load(shop, 2)
    [failure] = run(shop).failures
    expected = f"has_rows (1 row). Its other intervals are waiting: load/orders has no materialization of {day(1)}."
    assert expected in failure
    load(shop, 1)
    loaded = run(shop)
    assert outcomes(loaded)["days"] == "executed"
    [audit] = [check for name, check in loaded.checks.items() if "has_rows" in name]
    assert audit.passed


MIDDLE = 'import dagster as dg\n\n@dg.asset(key=["py", "middle"], deps=[["t", "first"]])\ndef middle(): ...\n'


def shop_with_asset_between(new_shop: NewShop, of_first: str = "") -> Shop:
    models = {
        "models/first.sql": f"MODEL (name t.first, kind FULL{of_first}); SELECT 1 AS n",
        "models/last.sql": "MODEL (name t.last, kind FULL); SELECT n FROM py.middle",
    }
    options: dict[str, Any] = {"external_models": {"wait": True}, "schedule": {"cron": "@daily"}}
    shop = new_shop(models, tables={"py.middle": "SELECT 1 AS n"}, planned_at="3 days ago", **options)
    shop.add_module("middle", MIDDLE)
    return shop


def test_an_asset_between_two_models_is_a_source_too(new_shop: NewShop) -> None:
    """It runs between the two parts of the step, so the second part sees its materialization."""
    shop = shop_with_asset_between(new_shop)
    alone = shop.launch(assets=["t/last"])
    assert alone.status_of("t/last") == "waiting"
    assert "py/middle was never materialized" in alone.description_of("t/last:sqlmesh_execution_status")
    assert tick(shop) == {"t/first", "py/middle", "t/last"}, "a tick requests it with them"
    everything = shop.launch("multiprocess").succeeded()
    assert everything.status_of("t/last") == "executed"


@pytest.mark.night(
    "unit/capabilities/schedule/test_ready_by_runs.py", "test_an_asset_between_two_models_is_a_source_too"
)
def test_a_tick_requests_no_model_that_waits_for_an_asset_between_models_that_are_not_due(new_shop: NewShop) -> None:
    shop = shop_with_asset_between(new_shop, f", cron '{YEARLY_CRON}', start '{day(800)}'")
    until = datetime.fromisoformat(day(4)).replace(tzinfo=timezone.utc)
    stated = {"sqlmesh/complete_until": dg.MetadataValue.timestamp(until)}
    shop.instance.report_runless_asset_event(dg.AssetMaterialization(["py", "middle"], metadata=stated))
    assert f"t.last (py/middle is complete until {day(4)}" in tick(shop)
    assert shop.launch(assets=["t/last"]).status_of("t/last") == "waiting", "a run would only wait"


@pytest.mark.advice("If one does, set its key in `external_models.keys` in defs.yaml.")
def test_a_table_with_a_key_is_awaited_without_its_asset_and_others_are_named_in_the_log(new_shop: NewShop) -> None:
    models = {**MODELS, "models/alone.sql": "MODEL (name t.alone, kind FULL); SELECT n FROM raw.other"}
    external = {"keys": {"raw.orders": "laod/orders"}, "wait": True}
    shop = new_shop(
        models, tables={**EMPTY, "raw.other": "SELECT 1 AS n"}, planned_at="3 days ago", external_models=external
    )
    shop.add_module("loader", LOADER.format(partitions="", arguments=""))
    record = run(shop)
    assert outcomes(record)["days"] == "waiting"
    assert "laod/orders was never materialized" in record.description_of(STATUS)
    assert (
        "Not awaited, because no asset of this code location loads them: warehouse.raw.other. If one does" in record.log
    )
    external["keys"] = {"raw.orders": "laod/orders", "raw.other": "load/orders"}
    shop.configure(external_models=external)
    followed = run(shop)
    assert "Not awaited" not in followed.log


def test_the_promoted_version_waits_for_what_it_reads_after_its_file_has_changed(new_shop: NewShop) -> None:
    external: dict[str, Any] = {"wait": True}
    options: dict[str, Any] = {"schedule": {"cron": "@daily"}, "restate": True}
    shop = new_shop(MODELS, tables=EMPTY, planned_at="3 days ago", external_models=external, **options)
    loader = LOADER.format(partitions=DAILY.format(start=day(3)), arguments=", partitions_def=days")
    shop.add_module("loader", loader.replace('["load", "orders"]', '["raw", "orders"]'))
    shop.query("CREATE TABLE raw.other AS SELECT * FROM raw.orders")
    days = shop.project / "models" / "days.sql"
    days.write_text(days.read_text().replace("raw.orders", "raw.other"))
    shop.query(f"INSERT INTO raw.orders VALUES ('{day(3)}', 1)")
    shop.instance.report_runless_asset_event(dg.AssetMaterialization(["raw", "orders"], partition=day(3)))

    cause = f"raw/orders has no materialization of {day(2)}, {day(1)}"
    predicted = shop.launch(ops={OP: {"dry_run": True}}, assets=["t/days"])
    assert cause in str(predicted.logged["sqlmesh/dry_run_json"])
    assert cause in run(shop).description_of(STATUS)
    assert rows(shop) == [day(3)]
    assert f"t.days, t.shown, t.total ({cause})" in tick(shop)
    restated = run(shop, restate={"start": day(3), "end": day(2)}).succeeded()
    waiting = f"Its other intervals are waiting: raw/orders has no materialization of {day(2)}."
    assert f"executed for {day(3)}. {waiting}" in restated.description_of(STATUS)


def test_a_tick_waits_if_promoted_models_have_no_files_any_more(new_shop: NewShop) -> None:
    shop = waiting_shop(new_shop, DAILY.format(start=day(3)), schedule={"cron": "@daily"})
    shown, total = (shop.project / "models" / f"{name}.sql" for name in ("shown", "total"))
    shown.write_text(shown.read_text().replace("VIEW", "EMBEDDED"))
    shop.plan()
    shown.unlink()
    total.unlink()

    for _ in range(2):  # the second tick reads the snapshots that the first has kept without their code
        assert tick(shop) == {"t/alone"}


def test_a_run_without_a_code_location_waits_too(new_shop: NewShop) -> None:
    """Dagster's `materialize` knows only the assets that it gets."""
    shop = waiting_shop(new_shop, DAILY.format(start=day(3)))
    load(shop, 3)
    found = shop.refresh().resolve_asset_graph().assets_defs
    days = dg.AssetSelection.keys(["t", "days"])
    result = dg.materialize(found, instance=shop.instance, selection=days)
    record = shop.run_record(result.run_id)
    assert f"load/orders has no materialization of {day(2)}, {day(1)}" in record.description_of(STATUS)
    assert rows(shop) == [day(3)]
    assert "Not awaited" not in record.log


@pytest.mark.night("test_days_wait_until_their_partitions_are_materialized")
def test_another_environment_waits_for_the_same_sources(new_shop: NewShop) -> None:
    shop = waiting_shop(new_shop, DAILY.format(start=day(3)), execution={"environments": ["dev"]})
    days = shop.project / "models" / "days.sql"
    days.write_text(days.read_text().replace("day, n FROM", "day, n + 1 AS n FROM"))
    shop.plan("dev")
    load(shop, 3)
    run(shop, environment="dev").succeeded()
    assert shop.query("SELECT DISTINCT day::TEXT FROM t__dev.days") == [(day(3),)]
    load(shop, 2)
    load(shop, 1)
    run(shop, environment="dev")
    assert shop.query("SELECT count(*) FROM t__dev.days") == [(3,)]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (
            {"schedule": {"on_sources": True}},
            "`schedule.on_sources` in defs.yaml needs the sources that the models wait for",
        ),
        (
            {"external_models": {"wait": {"tables": ["rwa.*"]}}},
            "`external_models.wait.tables` in defs.yaml names 'rwa.*', but no model reads",
        ),
    ],
    ids=["a sensor without wait", "a pattern of tables that no model reads"],
)
def test_attribute_that_would_have_no_effect_is_refused(new_shop: NewShop, options: dict[str, Any], error: str) -> None:
    assert error in new_shop(MODELS, tables=EMPTY, **options).load_error()


@pytest.mark.night(
    "unit/report/test_causes.py", "engine/test_causes.py::test_models_without_those_upstream_say_what_helps"
)
@pytest.mark.advice(
    "Launch a run without {}", " When its sources are loaded, launch a run of it with all models upstream of it."
)
def test_a_model_names_the_source_of_a_model_upstream_and_what_the_run_config_leaves_out(new_shop: NewShop) -> None:
    """Each message is followed as it is written. "Select them too" named models that waited themselves."""
    shop = waiting_shop(new_shop, DAILY.format(start=day(3)), restate=True)
    total = "t/total:sqlmesh_execution_status"
    load(shop, 3)
    load(shop, 2)
    cause = f"load/orders has no materialization of {day(1)}."

    bounded = run(shop, start=day(2), end=day(2)).succeeded().description_of(total)
    assert bounded == (
        "t.total is waiting: models upstream have pending intervals that this run leaves out: t.days. "
        "Launch a run without `start` and `end`."
    )
    assert outcomes(run(shop).succeeded())["total"] == "executed"

    alone = shop.launch(assets=["t/total"]).succeeded().description_of(total)
    advice = "When its sources are loaded, launch a run of it with all models upstream of it."
    assert alone == f"t.total is waiting: {cause} {advice}"
    restated = run(shop, restate={"start": day(3), "end": day(3)}).succeeded()
    assert restated.description_of(total).endswith(f": {cause}")

    load(shop, 1)
    assert outcomes(run(shop).succeeded())["total"] == "executed"
    assert shop.query("SELECT n FROM t.total") == [(3,)]
