"""An apply on PostgreSQL: runs go on while it computes new versions, and nothing is left out.

Four of these stories run in CI, and all of them each night.
"""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from datetime import datetime, timezone

import dagster as dg
import pytest
from engine.beside_lab import (
    DAILY,
    FAILURE,
    FILES,
    KEPT,
    LOCK,
    LOOKBACK,
    PAUSES,
    SWITCH,
    WITHIN,
    Warehouse,
    all_rows,
    day,
    days,
    new_warehouse,
)
from engine.plan_jobs import APPLY, change, edit_config, failure_of, launch, planned
from harness import NewShop, Shop, at_night, needs_previews, processes_in, wait_until
from mariadb import mariadb_server
from postgres import Server


@pytest.fixture(params=["postgres", *at_night("mariadb")])
def warehouse(server: Server, new_shop: NewShop, request: pytest.FixtureRequest) -> Iterator[Warehouse]:
    """A shop whose state is in PostgreSQL, as its tables are, or in MariaDB."""
    with mariadb_server() if request.param == "mariadb" else nullcontext() as state:
        yield new_warehouse(server, new_shop, state=state)


def test_run_does_not_wait_for_the_backfill_and_the_plan_computes_what_the_run_computed(warehouse: Warehouse) -> None:
    shop = warehouse.shop
    audit = "accepted_range_non_blocking(column := n, max_v := 3)"
    warehouse.change("days", DAILY, f"{DAILY}, audits ({audit})")
    with warehouse.applying("days", "day, n", f"day, n {PAUSES}") as process:
        assert "Waiting" not in warehouse.run().log
        assert warehouse.rows("days") == all_rows(), "by the old version"
    applied = warehouse.end(process)
    assert f"for the old versions meanwhile: t.days ({day(3)} to {day(1)} (3 days))." in applied.log
    assert warehouse.rows("days") == all_rows()
    assert warehouse.query("SELECT count(paused) FROM t.days") == [(5,)]
    found = applied.checks["t/days:accepted_range_non_blocking_n_max_v_3"]
    assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.WARN)
    computed, older = f"{day(3)} to {day(1)} (3 days)", f"2 rows failed in {day(5)} to {day(4)} (2 days)"
    assert str(found.description).startswith(f"No failing rows in {computed}. Other intervals: {older} at ")
    assert shop.launch().status_of("t/days") == "up_to_date"


def test_an_interval_that_is_restated_while_a_new_version_reads_it_is_computed_again(warehouse: Warehouse) -> None:
    with warehouse.applying("days", "day, n", f"day, n {PAUSES}") as process:
        warehouse.restate_oldest()
    applied = warehouse.end(process)
    assert f"runs rewrote the source meanwhile: t.days ({day(5)})." in applied.log
    assert warehouse.rows("days")[0] == (day(5), 50)


@pytest.mark.night(
    "test_run_does_not_wait_for_the_backfill_and_the_plan_computes_what_the_run_computed",
    "unit/capabilities/plans/worker/test_versions.py::test_a_rewritten_interval_is_read_again_downstream_...",
)
def test_models_downstream_of_a_new_version_and_whole_tables_catch_up_too(warehouse: Warehouse) -> None:
    warehouse.add(
        total="MODEL (name t.total, kind FULL); SELECT sum(n) AS n FROM t.days",
        kept=f"MODEL (name t.kept, kind INCREMENTAL_UNMANAGED); SELECT day, n FROM t.days {WITHIN}",
    )
    with warehouse.applying("days", "day, n", f"day, n {PAUSES}") as process:
        warehouse.run()
    warehouse.end(process)
    assert warehouse.rows("days") == all_rows()
    assert warehouse.query("SELECT n FROM t.total") == [(sum(range(1, 6)),)]
    assert warehouse.rows("kept") == all_rows(), "each interval once"


def test_killed_apply_is_finished_with_the_same_digest_and_reads_again_what_was_rewritten(warehouse: Warehouse) -> None:
    shop = warehouse.shop
    with warehouse.applying("days", "day, n", f"day, n {PAUSES}") as process:
        warehouse.restate_oldest()
        process.kill()
        wait_until(lambda: not processes_in(shop.project))
        warehouse.run()  # the locks are free
        warehouse.is_killed = True
    warehouse.apply()
    assert warehouse.rows("days") == [(day(5), 50), *all_rows()[1:]]


@pytest.mark.night("engine/test_plan_gate.py::test_an_applied_digest_can_be_applied_again_and_does_nothing")
def test_an_apply_without_changes_succeeds(warehouse: Warehouse) -> None:
    """As the second launch of a finished apply, or of one that was killed after it had promoted."""
    warehouse.change("days", "day, n", "day, n + 1 AS n")
    digest = planned(warehouse.shop)["digest"]
    launch(warehouse.shop, APPLY, digest=digest).succeeded()
    for same in (digest, planned(warehouse.shop)["digest"]):
        assert "Computed: 0 models." in launch(warehouse.shop, APPLY, digest=same).succeeded().log


@pytest.mark.slow
def test_a_gap_that_a_run_fills_while_the_plan_waits_for_it_is_not_filled_again(warehouse: Warehouse) -> None:
    shop = warehouse.shop
    warehouse.add(kept=KEPT.replace(" FROM t.", f" {PAUSES} FROM t."))
    warehouse.leave_gap("kept")
    warehouse.change("days", "day, n", "day, n + 1 AS n")
    with warehouse.holding(LOCK, shop.start) as run:
        process = warehouse.start_apply()
        wait_until(lambda: "Waiting" in warehouse.last_log(), process)
    run.communicate(timeout=300)
    assert "Computed: 1 model." in warehouse.end(process).log
    assert warehouse.rows("kept") == all_rows()
    assert warehouse.rows("days") == [(of_day, n + 1) for of_day, n in all_rows()]


def add_forward_only(warehouse: Warehouse) -> None:
    """Add a forward-only model with a gap."""
    warehouse.add(kept=KEPT.replace("day,", "day, forward_only true,", 1))
    warehouse.leave_gap("kept")


def test_the_report_says_that_runs_wait_for_what_follows_the_promotion(warehouse: Warehouse) -> None:
    add_forward_only(warehouse)
    assert planned(warehouse.shop)["why_runs_wait"] == ""
    warehouse.change("kept", " FROM t", f"{PAUSES} FROM t")
    assert planned(warehouse.shop)["why_runs_wait"] == (
        "Runs wait while the plan computes t.kept, which SQLMesh does after the promotion."
    )


# More than ten seconds: an apply in a process of its own, a plan, and a run that waits for its time-out.
@pytest.mark.night(
    "test_the_report_says_that_runs_wait_for_what_follows_the_promotion",
    "engine/test_catch_up.py::test_changes_the_janitor_and_runs_of_other_environments_...",
)
def test_what_follows_the_promotion_stops_runs(warehouse: Warehouse) -> None:
    shop = warehouse.shop
    add_forward_only(warehouse)
    warehouse.change("kept", " FROM t", f"{PAUSES} FROM t")
    with warehouse.holding(LOCK, warehouse.start_apply) as process:
        assert "is held by plan of run" in str(shop.launch(assets=["t/other"]).failures)
    warehouse.end(process)
    assert warehouse.rows("kept") == all_rows()[:2]


@pytest.mark.slow
def test_if_versions_share_one_table_runs_wait_for_the_whole_plan(server: Server, new_shop: NewShop) -> None:
    warehouse = new_warehouse(server, new_shop, "virtual_environment_mode: dev_only\n")
    warehouse.change("days", "n FROM", "n + 1 AS n FROM")
    assert planned(warehouse.shop)["why_runs_wait"] == (
        "Runs wait until the plan is applied, because all versions of t.days share one table."
    )
    warehouse.end(warehouse.start_apply())


def edit_other(shop: Shop) -> None:
    change(shop, other="MODEL (name t.other, kind FULL); SELECT 2 AS x")


@pytest.mark.slow
@pytest.mark.parametrize("edit", [edit_other, edit_config("after_all: [SELECT 1]\n")], ids=["a model", "statements"])
def test_the_plan_of_a_person_stops_the_apply(warehouse: Warehouse, edit: Callable[[Shop], None]) -> None:
    shop, plan_id = warehouse.shop, "SELECT plan_id FROM sqlmesh._environments"
    with warehouse.applying("days", "day, n", f"day, n {PAUSES}") as process:
        warehouse.change("days", f" {PAUSES}", "")
        edit(shop)
        shop.plan(at=None)
        promoted, shown = warehouse.query_state(plan_id), warehouse.rows("days")
    record = warehouse.end(process, FAILURE)
    assert "Another plan has changed environment prod" in str(record.failures)
    assert warehouse.query_state(plan_id) == promoted
    assert warehouse.rows("days") == shown == all_rows()[:2]


@pytest.mark.slow
def test_a_gap_that_a_failed_run_leaves_is_filled_and_read_again(warehouse: Warehouse) -> None:
    orders = f"MODEL (name t.orders, {LOOKBACK}); SELECT day, n / {SWITCH} AS n FROM raw.orders {WITHIN}"
    warehouse.add(orders=orders)
    with warehouse.applying("days", "day, n", f"day, n {PAUSES}") as process:
        warehouse.leave_gap("orders")
        warehouse.query(f"UPDATE raw.orders SET n = 40 WHERE day = '{day(4)}'")
    applied = warehouse.end(process)
    assert f"runs rewrote the source meanwhile: t.days ({day(5)} to {day(4)} (2 days))." in applied.log
    assert warehouse.rows("days") == [all_rows()[0], (day(4), 40)]


@pytest.mark.slow
def test_a_plan_waits_for_a_restatement_in_flight_whose_days_it_reads(warehouse: Warehouse) -> None:
    """An engine without transactions shows a range without rows while a run computes it again."""
    slow = f"day, n, pg_advisory_xact_lock({LOCK + 1})::text AS held"
    warehouse.add(orders=FILES["models/orders.sql"].replace("day, n", slow))
    with warehouse.server.advisory_lock(LOCK + 1, warehouse.database):
        warehouse.query(f"DELETE FROM {warehouse.table('orders')} WHERE day = '{day(5)}'")
        run = warehouse.start_restatement(5, 5)
        wait_until(lambda: warehouse.waits_for(LOCK + 1), run)
        warehouse.change("days", "day, n", "day, n + 0 AS n")
        config = {"digest": planned(warehouse.shop)["digest"]}
        assert "is held by Dagster run" in failure_of(launch(warehouse.shop, APPLY, **config))
        warehouse.release(LOCK + 1)
        run.communicate(timeout=300)
    launch(warehouse.shop, APPLY, **config).succeeded()
    assert warehouse.rows("days") == all_rows()[:2]
    warehouse.run()


@pytest.mark.slow
@needs_previews
def test_what_a_restatement_takes_from_a_previewed_version_is_computed_again(server: Server, new_shop: NewShop) -> None:
    """SQLMesh then also forgets these intervals of each version that another environment shows.

    Its metadata has changed since: it has another identifier, which the state does not have when the plan begins, and
    shares the table.
    """
    warehouse = new_warehouse(server, new_shop, preview={"environment": "pr_1"})
    warehouse.change("orders", "day, n", "day, n, 1 AS added")
    warehouse.preview(allow_pending=True)
    warehouse.change("orders", DAILY, f"{DAILY}, owner someone")
    with warehouse.applying("other", "1 AS x", f"1 AS x {PAUSES}") as process:
        warehouse.restate_oldest()
    applied = warehouse.end(process)
    assert warehouse.query(f"SELECT n, added FROM t.orders WHERE day = '{day(5)}'") == [(50, 1)]
    assert f"runs rewrote the source meanwhile: t.orders ({day(5)})." in applied.log


@pytest.mark.slow
def test_each_interval_is_recorded_although_runs_end_while_a_plan_goes_on(warehouse: Warehouse) -> None:
    shop, key = warehouse.shop, dg.AssetKey(["t", "orders"])
    with warehouse.applying("days", "day, n", f"day, n {PAUSES}") as process:
        shop.sqlmesh("run")  # outside of Dagster, as the data of a run that was killed
        warehouse.run("t/orders", restate=days(5))
    warehouse.end(process)
    records = shop.instance.fetch_materializations(key, limit=9).records
    recorded = [record.asset_materialization.metadata for record in records if record.asset_materialization]
    assert [metadata["sqlmesh/intervals"].value for metadata in recorded] == [day(5), f"{day(5)} to {day(1)} (5 days)"]
    assert str(recorded[1]["sqlmesh/origin"].value).startswith("while run ")


@pytest.mark.slow
def test_a_tick_requests_a_run_and_says_that_a_plan_goes_on(
    server: Server, new_shop: NewShop, capsys: pytest.CaptureFixture[str]
) -> None:
    warehouse = new_warehouse(server, new_shop, schedule={"cron": "@daily"})
    with warehouse.applying("days", "day, n", f"day, n {PAUSES}") as process:
        repository = warehouse.shop.refresh().get_repository_def()
        now = datetime.now(timezone.utc)
        context = dg.build_schedule_context(warehouse.shop.instance, now, repository_def=repository)
        ticked = repository.get_schedule_def("sqlmesh_shop_schedule").evaluate_tick(context)
        assert ticked.run_requests
        [applying] = warehouse.shop.instance.get_runs(dg.RunsFilter(job_name=APPLY))
        assert f"Run {applying.run_id} applies a plan." in capsys.readouterr().err
    warehouse.end(process)
