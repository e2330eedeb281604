"""What a person sees and clicks in Dagster's UI, in a real browser. Each story builds on the stories before it."""

import datetime
import re

import pytest
from dagster_ui import Site
from harness import Shop, wait_until

pytestmark = pytest.mark.slow

STATUS = "sqlmesh_execution_status"
TICK_MS = 120_000
"""The schedule ticks each minute, the sensor each half minute."""
DAY = datetime.date.today() - datetime.timedelta(days=4)
"""It lies before the plan, so it is computed."""
FIRST_METADATA = ("sqlmesh/seconds", "sqlmesh/computed_intervals", "sqlmesh/intervals")


def test_dry_run_in_the_launchpad_shows_what_a_run_would_do(site: Site) -> None:
    run = site.launch_with("raw/orders", "dry_run: true")
    site.sees(
        "Dry run of environment prod. Outcomes of a run now: 1 executed. Nothing was computed.", "1 batch to compute"
    )
    assert site.status_of(run) == "SUCCESS"
    assert all(site.lines_of(cell) == 1 for cell in ("raw.orders", "executed")), "no word of the table is broken"
    site.picture("dry-run", height=710)
    site.asset("raw/orders")
    site.sees("Never materialized")


def test_job_with_failures_names_them_on_its_page(site: Site, shop: Shop) -> None:
    """The run of all models, for this story and the next six."""
    shop.query("UPDATE ctl.most SET n = 0")
    site.open_in_location("jobs/sqlmesh_shop_job")
    site.click("Materialize all")
    site.sees("Launched run")
    run = site.last_run
    site.open(f"runs/{run}")
    site.sees("RUN_FAILURE", "1 failed, 1 audit failed, 1 blocked, 3 executed, 1 waiting")
    assert site.status_of(run) == "FAILURE"
    site.sees_nowhere("Stack Trace")
    site.picture("failed-run", height=850)
    site.open("runs")
    site.sees("sqlmesh/result: 1 failed, 1 audit failed, 1 blocked, 3 executed, 1 waiting")


def test_green_model_shows_numbers_and_days_first_and_passed_checks(site: Site) -> None:
    site.asset("raw/orders", "events")
    site.sees("sqlmesh/intervals", " days)")
    names = site.page.locator("td", has_text="sqlmesh/").all_inner_texts()
    first = [name for name in names if name in FIRST_METADATA]
    assert first == list(FIRST_METADATA), names
    assert names[: len(first)] == first, "nothing is before them"
    site.picture("metadata", height=780)
    site.check("raw/orders")
    site.sees("raw.orders was executed for")
    assert set(site.checks_of("raw/orders").values()) == {"SUCCEEDED"}


def test_failing_blocking_audit_shows_its_count_its_query_and_what_it_blocked(site: Site) -> None:
    site.check("raw/payments", "no_refunds")
    site.sees("3 rows failed in", "sqlmesh/failing_row_count", "sqlmesh/query")
    site.picture("failed-audit", height=750)
    site.check("marts/balance")
    site.sees("marts.balance was not executed, because a model upstream of it failed: raw.payments.")
    assert site.checks_of("raw/payments")["no_refunds"] == "FAILED"
    assert site.checks_of("marts/balance")[STATUS] == "FAILED"
    assert site.severity_of("marts/balance", STATUS) == "WARN"


def test_sample_of_failing_rows_is_a_table_with_masked_columns(site: Site) -> None:
    site.check("raw/payments", "no_refunds")
    site.sees("sqlmesh/failing_rows", "customer_email", "***")
    site.sees_nowhere("ann@example.com")


def test_failing_query_shows_the_file_and_the_error_of_the_engine(site: Site) -> None:
    site.check("raw/stock")
    site.sees("raw.stock (models/stock.sql) failed.", "no such warehouse")
    assert site.checks_of("raw/stock")[STATUS] == "FAILED"


def test_waiting_model_names_its_signal_and_is_a_warning(site: Site) -> None:
    site.check("raw/visits")
    site.sees("raw.visits is waiting: its signal landed has no interval ready.")
    site.sees_nowhere("sqlmesh/")
    assert site.severity_of("raw/visits", STATUS) == "WARN"


def test_second_run_with_nothing_pending_says_when_the_next_is_due(site: Site) -> None:
    site.asset("raw/orders")
    site.click("Materialize")
    site.sees("Launched run")
    assert site.status_of(site.last_run) == "SUCCESS"
    site.check("raw/orders")
    site.sees("raw.orders had nothing to do: all complete intervals are computed. Next due at")
    site.check("raw/orders", "not_null_ds")
    site.sees(re.compile(r"^No failing rows in 20.* Evaluated 20.* Repeated, because"), "sqlmesh/evaluated_in_run")


def test_run_config_of_the_launchpad_is_in_the_tags_of_the_run(site: Site) -> None:
    run = site.launch_with("raw/orders", "ignore_cron: true, end: yesterday")
    site.sees("SQLMesh runs: environment prod, ignore_cron true, end yesterday", "Finished execution of run")
    assert site.status_of(run) == "SUCCESS"


def test_restatement_from_the_launchpad_shows_its_plan(site: Site) -> None:
    run = site.launch_with("raw/orders", f"restate: {{start: {DAY}, end: {DAY}}}")
    site.sees("This run restates 2 models", "Planned restatement", "Finished execution of run")
    assert site.status_of(run) == "SUCCESS"


def test_cancelled_run_says_what_has_finished(site: Site, shop: Shop) -> None:
    pause, pausing = shop.project / "pause", shop.project / "pausing"
    pause.touch()
    run = site.launch_with("raw/export", f"restate: {{start: {DAY}, end: {DAY}}}")
    wait_until(pausing.exists)
    site.click("Terminate")
    site.page.get_by_role("dialog").get_by_role("button", name="Terminate").click()
    site.sees("The run is being cancelled.")
    pause.unlink()
    assert site.status_of(run) == "CANCELED"
    site.open(f"runs/{run}")
    site.sees("The run was cancelled.")
    site.sees_nowhere("Stack Trace")


def test_models_of_the_dev_environment_are_next_to_those_of_prod(site: Site) -> None:
    site.asset("dev/raw/orders")
    site.sees("warehouse.raw__dev.orders")
    site.asset("raw/orders")
    site.sees("warehouse.raw.orders")
    site.sees_nowhere("raw__dev")


def test_adopted_project_is_recorded_with_its_origin_and_nothing_is_unsynced(site: Site) -> None:
    site.open_in_location("asset-groups/hr")
    site.click("Materialize all")
    site.sees("Launched run")
    assert site.status_of(site.last_run) == "SUCCESS"
    site.asset("hr/teams", "events")
    site.sees("outside of Dagster")
    site.asset("hr/teams")
    site.sees("Latest materialization")
    site.sees_nowhere("Unsynced")


def test_log_of_a_schedule_tick_names_each_requested_model_and_why(site: Site) -> None:
    """The models that have failed in the stories above are pending."""
    site.open_in_location("schedules/sqlmesh_shop_schedule")
    site.switch_on()
    site.page.locator("tr", has_text="1 run requested").get_by_text("View logs").first.click(timeout=TICK_MS)
    site.sees("Not requested, because they wait for signals: raw.visits (landed).", "raw.stock: pending: ")
    site.picture("tick")


def test_page_of_a_sensor_shows_that_a_tick_found_nothing(site: Site) -> None:
    site.open_in_location("sensors/sqlmesh_shop_sensor")
    site.switch_on()
    site.sees("0 runs requested", wait_ms=TICK_MS)
    assert site.skip_reasons_of("sqlmesh_shop_sensor") == {"Nothing was computed or promoted outside of Dagster."}
