"""How an apply or a preview on PostgreSQL catches up with runs, in the cases that are easily overlooked.

One of these stories runs in CI, and all of them each night.
"""

from contextlib import AbstractContextManager
from datetime import datetime, time, timezone
from unittest.mock import ANY

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
from engine.plan_jobs import APPLY, failure_of, launch, planned
from engine.preview_lab import CLOSE, PREVIEW
from forked import ForkedProcess
from harness import NewShop, needs_previews, processes_in, wait_until
from postgres import Server

pytestmark = needs_previews

COUNTS = "MODEL (name t.late, kind FULL); SELECT count(*) AS x FROM t.days"


@pytest.fixture
def warehouse(server: Server, new_shop: NewShop) -> Warehouse:
    """It computes all days, and has previews."""
    execution = {"overlap_timeout": 10, "environments": ["pr_*"]}
    return new_warehouse(server, new_shop, preview={"environment": "pr_1"}, execution=execution)


@pytest.fixture
def dev_only(server: Server, new_shop: NewShop) -> Warehouse:
    """The versions of a model share one table, and each preview has its own."""
    return new_warehouse(server, new_shop, "virtual_environment_mode: dev_only\n", preview={"environment": "pr_1"})


def previewing(warehouse: Warehouse, **config: bool) -> AbstractContextManager[ForkedProcess]:
    """Preview in a process of its own, which waits for a lock until the block ends."""
    warehouse.shop.refresh()
    return warehouse.holding(LOCK, lambda: warehouse.start_job(PREVIEW, **config))


@pytest.mark.night(
    "engine/test_previews.py::test_a_new_forward_only_model_is_marked_and_its_preview_is_deleted_after_the_apply",
    "engine/test_apply_beside_runs.py::test_run_does_not_wait_for_the_backfill_...",
)
def test_a_preview_computes_a_forward_only_model_behind_a_new_version_and_holds_no_run(warehouse: Warehouse) -> None:
    kept = "kind INCREMENTAL_BY_TIME_RANGE (time_column day, forward_only true)"
    warehouse.add(kept=f"MODEL (name t.kept, {kept}); SELECT day, n FROM t.orders {WITHIN}")
    warehouse.run()
    warehouse.change("orders", "day, n", "day, n * 10 AS n")
    warehouse.change("kept", "day, n", f"day, n + 1 AS n {PAUSES}")
    with previewing(warehouse) as process:
        assert "Waiting" not in warehouse.run().log
    previewed = warehouse.end(process)
    assert warehouse.query("SELECT n FROM t__pr_1.kept") == [(11,)], "the last day"
    assert "Computed as well" not in previewed.log, "SQLMesh only copies the record of prod's days"


@pytest.mark.slow
def test_a_preview_of_versions_that_share_one_table_holds_no_run_and_has_the_last_day_only(dev_only: Warehouse) -> None:
    """SQLMesh computes only that day for such a preview, so an older one has not been read."""
    dev_only.run()
    before = dev_only.rows("days")
    dev_only.change("orders", "day, n", "day, n * 10 AS n")
    dev_only.change("days", "day, n", f"day, n + 1 AS n {PAUSES}")
    with previewing(dev_only) as process:
        dev_only.restate_oldest()
        assert "Waiting" not in dev_only.run().log
    dev_only.end(process)
    assert dev_only.query("SELECT n FROM t__pr_1.days ORDER BY day") == [(11,)]
    assert dev_only.rows("days") == [(day(5), 50), *before[1:]]


@pytest.mark.slow
def test_an_apply_computes_what_runs_compute_meanwhile_of_today_too_and_no_more(warehouse: Warehouse) -> None:
    """An hourly model needs hours of today. The new version of the daily model that it reads must not compute them."""
    part = "kind INCREMENTAL_BY_TIME_RANGE (time_column day), cron '*/5 * * * *', interval_unit 'day'"
    series = "generate_series(@start_ts::timestamp, @end_ts::timestamp, interval '1 hour') AS hours (at)"
    hours = "kind INCREMENTAL_BY_TIME_RANGE (time_column at), cron '@hourly'"
    of_query = f"SELECT at::timestamp AS at, (SELECT count(*) FROM t.orders)::int AS n FROM {series}"
    warehouse.add(
        part=f"MODEL (name t.part, {part}, allow_partials true); SELECT day, n FROM raw.orders {WITHIN}",
        hours=f"MODEL (name t.hours, {hours}); {of_query}",
    )
    warehouse.change("part", "day, n", "day, n + 0 AS n")
    with warehouse.applying("orders", "day, n", f"day, n + 0 AS n, @execution_ts::text AS at {PAUSES}") as process:
        warehouse.query(f"INSERT INTO raw.orders VALUES ('{day(0)}', 60)")
        is_due = datetime.now(timezone.utc).time() >= time(0, 5)
        warehouse.run()
        of_run = warehouse.rows("part")
    warehouse.end(process)
    assert warehouse.rows("part") == of_run
    assert len(of_run) == 6 or not is_due, "today is there from its first tick on"
    ends = "SELECT to_timestamp(max(end_ts) / 1000)::date::text FROM sqlmesh._intervals WHERE name LIKE '%orders%'"
    assert warehouse.query(ends) == [(day(0),)]
    by_time = warehouse.query("SELECT at, count(*) FROM t.orders GROUP BY at ORDER BY at")
    assert by_time == [(ANY, 2), (ANY, 3)], "the time at which they were computed"


@pytest.mark.slow
def test_an_apply_that_dagster_still_shows_as_running_was_interrupted(warehouse: Warehouse) -> None:
    warehouse.add(late=COUNTS)
    warehouse.run()
    warehouse.change("days", "day, n", "day, n + 1 AS n")
    warehouse.is_killed = True
    with warehouse.applying("late", "count(*) AS x", f"count(*) AS x {PAUSES}") as process:
        warehouse.restate_oldest()
        process.kill()
        wait_until(lambda: not processes_in(warehouse.shop.project))
    applied = warehouse.apply()
    assert warehouse.rows("days")[0] == (day(5), 51)
    assert f"t.days has rows that predate a correction or come from another version, for {day(5)}." in applied.log


@pytest.mark.slow
def test_an_interrupted_preview_is_remembered_although_another_change_was_applied(warehouse: Warehouse) -> None:
    warehouse.add(late=COUNTS)
    warehouse.run()
    warehouse.change("days", "day, n", "day, n + 1 AS n")
    warehouse.change("late", "count(*) AS x", f"count(*) AS x {PAUSES}")
    with previewing(warehouse) as process:
        warehouse.restate_oldest()
        process.terminate()
        process.communicate(timeout=300)
        wait_until(lambda: not processes_in(warehouse.shop.project))
    warehouse.change("days", "day, n + 1 AS n", "day, n")
    warehouse.change("late", f" {PAUSES}", "")
    warehouse.change("other", "1 AS x", "2 AS x")
    warehouse.apply()
    warehouse.change("days", "day, n", "day, n + 1 AS n")
    warehouse.preview()
    assert warehouse.query("SELECT n FROM t__pr_1.days ORDER BY day LIMIT 1") == [(51,)]


@pytest.mark.slow
def test_late_data_of_an_old_version_reaches_a_version_that_a_preview_has_finished(warehouse: Warehouse) -> None:
    warehouse.add(direct=f"MODEL (name t.direct, {LOOKBACK}); SELECT day, n FROM raw.orders {WITHIN}")
    warehouse.change("direct", "day, n", "day, n + 0 AS n")
    warehouse.preview(allow_pending=True)
    with warehouse.applying("days", "day, n", f"day, n {PAUSES}") as process:
        warehouse.query(f"UPDATE raw.orders SET n = 40 WHERE day = '{day(4)}'")
        warehouse.run()
    warehouse.end(process)
    assert warehouse.rows("direct") == [all_rows()[0], (day(4), 40), *all_rows()[2:]]


# More than ten seconds: a preview, an apply in a process of its own, a run, and four jobs that wait for their time-out.
def test_changes_the_janitor_and_runs_of_other_environments_wait_for_a_plan_and_name_it(
    server: Server, new_shop: NewShop
) -> None:
    """Another environment may show the very versions that the plan computes."""
    execution = {"overlap_timeout": 1, "environments": ["pr_*"]}
    warehouse = new_warehouse(server, new_shop, preview={"environment": "pr_1"}, execution=execution)
    shop = warehouse.shop
    warehouse.change("orders", "day, n", "day, n, 1 AS added")
    warehouse.preview(allow_pending=True)
    with warehouse.applying("days", "day, n", f"day, n {PAUSES}") as process:
        run = warehouse.run(skip_janitor=False)
        assert "This run leaves out SQLMesh's janitor." in run.log
        assert "has waited for 0 seconds" not in run.log
        assert "has been running since" in run.log, "a run names the plan"
        for refused in (
            launch(shop, APPLY, digest=planned(shop)["digest"]),
            launch(shop, CLOSE),
            launch(shop, "sqlmesh_shop_janitor"),
            shop.launch(ops={"sqlmesh_shop": {"environment": "pr_1"}}),
        ):
            assert "is held by plan of run" in str(refused.failed().failures), refused.run.job_name
    warehouse.end(process)
    assert "leaves out" not in warehouse.run(skip_janitor=False).log
    launch(shop, CLOSE).succeeded()
    assert warehouse.query("SELECT count(added) FROM t.orders") == [(5,)], "prod shows the table of the preview"


@pytest.mark.night(
    "unit/capabilities/plans/worker/test_versions.py::test_intervals_that_a_restatement_has_taken_are_computed_again_...",
    "engine/test_apply_beside_runs.py::test_an_interval_that_is_restated_while_a_new_version_reads_it_...",
)
def test_a_preview_computes_a_restated_day_again_that_is_older_than_all_that_it_lacked(warehouse: Warehouse) -> None:
    warehouse.run()
    warehouse.change("days", "day, n", "day, n + 1 AS n")
    warehouse.preview()
    head = f"MODEL (name t.late, {DAILY}, start '{day(1)}')"
    warehouse.write(late=f"{head}; SELECT day, n {PAUSES} FROM t.orders {WITHIN}")
    with previewing(warehouse) as process:
        warehouse.restate_oldest()
    warehouse.end(process)
    rows = warehouse.query("SELECT day::text, n FROM t__pr_1.days ORDER BY day")
    assert rows == [(day(5), 51), *((day(ago), ago + 1) for ago in range(4, 0, -1))]


@pytest.mark.advice("Launch a run of prod, and then this job again.")
@pytest.mark.slow
def test_a_gap_that_a_preview_has_read_stops_it_until_a_run_has_filled_it(warehouse: Warehouse) -> None:
    warehouse.add(
        kept=KEPT,
        unread=KEPT.replace("t.kept", "t.unread"),
        behind=f"MODEL (name t.behind, {DAILY}); SELECT day, n FROM t.kept {WITHIN}",
    )
    warehouse.run("t/orders", "t/days")
    warehouse.change("behind", "day, n", f"day, n {PAUSES}")
    with previewing(warehouse, allow_pending=True) as process:
        warehouse.leave_gap("kept", "unread")
    stopped = warehouse.end(process, FAILURE)
    gap = f"t.kept ({day(4)}). Launch a run of prod, and then this job again."
    assert f"A run has not finished to compute again what the preview has read: {gap}" in failure_of(stopped)
    warehouse.run()
    warehouse.preview()
    assert warehouse.query("SELECT n FROM t__pr_1.behind ORDER BY n") == [(n,) for n in range(1, 6)]


@pytest.mark.slow
def test_runs_do_not_wait_while_a_plan_catches_up(warehouse: Warehouse) -> None:
    warehouse.add(
        orders=FILES["models/orders.sql"].replace("day, n", f"day, n, pg_advisory_xact_lock({LOCK + 1})::text AS held")
    )
    warehouse.run()
    with warehouse.server.advisory_lock(LOCK + 1, warehouse.database):
        with warehouse.applying("days", "day, n", f"day, n {PAUSES}") as process:
            restated = warehouse.start_restatement(5, 1)
            wait_until(lambda: warehouse.waits_for(LOCK + 1), restated)
        wait_until(lambda: "is held by Dagster run" in warehouse.log_of(APPLY), process)
        with warehouse.server.advisory_lock(LOCK, warehouse.database):
            warehouse.release(LOCK + 1)
            assert restated.wait(300) == 0
            wait_until(lambda: warehouse.waits_for(LOCK), process)
            assert "Waiting" not in warehouse.run("t/other").log
            warehouse.query("UPDATE raw.orders SET n = n + 1")  # the plan has forgotten these days in this round too
            assert "Waiting" not in warehouse.run("t/orders", restate=days(5, 1)).log
    warehouse.end(process)
    assert warehouse.rows("days") == [(a_day, n + 1) for a_day, n in all_rows()]


@pytest.mark.slow
def test_a_day_that_only_a_lookback_computes_again_is_not_missing(warehouse: Warehouse) -> None:
    """A run computes days of the old version, but not up to now. The new version needs them too."""
    warehouse.add(orders=f"MODEL (name t.orders, {LOOKBACK}); SELECT day, n FROM raw.orders {WITHIN}")
    with warehouse.applying("days", "day, n", f"day, n {PAUSES}") as process:
        warehouse.run(end=day(2))
    warehouse.end(process)
    assert warehouse.rows("days") == all_rows()[:4]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["INCREMENTAL_UNMANAGED (forward_only false)", DAILY.removeprefix("kind ")])
def test_model_computed_after_promotion_has_what_runs_computed_of_old_version(warehouse: Warehouse, kind: str) -> None:
    """It reads a column that a model with a table of its own only has then."""
    kept = "kind INCREMENTAL_BY_TIME_RANGE (time_column day, forward_only true)"
    warehouse.add(
        kept=f"MODEL (name t.kept, {kept}); SELECT day, n FROM t.orders {WITHIN}",
        tail=f"MODEL (name t.tail, kind {kind}); SELECT day, n FROM t.kept {WITHIN}",
    )
    warehouse.change("kept", "day, n", "day, n, n::int AS more")
    warehouse.change("tail", "day, n", "day, COALESCE(more, n) AS n")
    allowed = ["t.tail"] if "UNMANAGED" in kind else []  # its old rows may be of a source that has others now
    with warehouse.applying("days", "day, n", f"day, n {PAUSES}", allow_lost_intervals=allowed) as process:
        warehouse.run()
        assert warehouse.rows("tail") == all_rows(), "by the old version"
    applied = warehouse.end(process)
    assert warehouse.rows("tail") == all_rows()
    assert f"t.tail ({day(3)} to {day(1)} (3 days))" in applied.log


@pytest.mark.slow
def test_a_table_that_all_versions_share_is_computed_again_if_its_kind_or_seed_changes(dev_only: Warehouse) -> None:
    """SQLMesh always finds a seed to be missing that it rebuilds, also when it has."""
    seeds = dev_only.shop.project / "seeds"
    seeds.mkdir()
    (seeds / "names.csv").write_text("id,v\n1,10\n")
    dev_only.add(names="MODEL (name t.names, kind SEED (path '../seeds/names.csv'));")
    dev_only.run()
    (seeds / "names.csv").write_text("id,v\n1,10\n2,20\n")
    dev_only.write(more="MODEL (name t.more, kind FULL); SELECT id FROM t.names")
    dev_only.change("days", DAILY, "kind FULL")
    dev_only.change("days", f"day, n FROM t.orders {WITHIN}", "day, n + 1 AS n FROM t.orders")
    dev_only.apply()
    assert dev_only.rows("days") == [(of_day, n + 1) for of_day, n in all_rows()]
    assert dev_only.query("SELECT id FROM t.more ORDER BY id") == [(1,), (2,)]


@pytest.mark.slow
def test_a_new_version_waits_for_a_gap_of_a_table_that_reads_another_new_version(warehouse: Warehouse) -> None:
    """A new model, which SQLMesh plans as far as the newest model of prod, leaves out days that its source lacks."""
    warehouse.add(
        kept=KEPT,
        total="MODEL (name t.total, kind FULL, audits accepted_range(column := x, min_v := 2)); "
        "SELECT count(*) AS x FROM t.kept",
        behind=f"MODEL (name t.behind, {DAILY}); SELECT day, n FROM t.kept {WITHIN}",
    )
    warehouse.leave_gap("kept")
    warehouse.change("orders", "day, n", "day, n, n AS also")
    warehouse.change("total", "count(*)", "count(*) + 0")
    warehouse.change("behind", "day, n", "day, n + 0 AS n")
    warehouse.write(fresh=FILES["models/days.sql"].replace("t.days", "t.fresh").replace("t.orders", "t.days"))
    applied = warehouse.apply()
    assert warehouse.query("SELECT x FROM t.total") == [(2,)]
    assert warehouse.rows("behind") == warehouse.rows("fresh") == all_rows()[:2]
    assert "omputed again" not in applied.log, "each day once"
    warehouse.run()
    assert warehouse.rows("fresh") == all_rows()


def add_signal(warehouse: Warehouse, ready: str = "not Path(name).exists()") -> None:
    """Add a signal that is not ready as long as a file exists."""
    (warehouse.shop.project / "signals").mkdir()
    text = "from pathlib import Path\nfrom sqlmesh import signal\n\n\n@signal()\n"
    text += f"def is_open(batch, name='closed'):\n    return {ready}\n"
    (warehouse.shop.project / "signals/__init__.py").write_text(text)


@pytest.mark.slow
def test_an_apply_ends_although_a_signal_releases_another_day_in_each_round(warehouse: Warehouse) -> None:
    add_signal(warehouse, "batch[:1]")
    since = f"start '{day(30)}', signals [is_open()]"
    warehouse.write(slow=f"MODEL (name t.slow, {DAILY}, {since}); SELECT day, n FROM raw.orders {WITHIN}")
    left_out = f"t.slow ({day(23)} to {day(4)} (20 days)). The next run computes it."
    why = "signals have released more in each of 6 rounds, and a plan has no more"
    assert f"Left out, because {why}: {left_out}" in warehouse.apply().log
    assert warehouse.run("t/slow").materializations.keys() == {"t/slow"}


@pytest.mark.slow
def test_a_gap_waits_for_the_signal_of_a_new_version_that_its_table_reads(warehouse: Warehouse) -> None:
    """Its model keeps its table. The signal lets the new version compute its first day only."""
    add_signal(warehouse, f"[day for day in batch if not Path(name).exists() or str(day[0].date()) == '{day(5)}']")
    warehouse.add(
        orders=f"MODEL (name t.orders, signals [is_open()], {DAILY}); SELECT day, n FROM raw.orders {WITHIN}",
        kept=KEPT,
        behind=f"MODEL (name t.behind, {DAILY}); SELECT day, n FROM t.kept {WITHIN}",
    )
    warehouse.run("t/orders", "t/days")
    warehouse.leave_gap("kept")
    warehouse.change("orders", "day, n", "day, n, n AS also")
    warehouse.change("behind", "day, n", "day, n + 0 AS n")
    (warehouse.shop.project / "closed").touch()
    left_out = f"t.behind ({day(4)}), t.kept ({day(4)}), t.orders ({day(4)} to {day(1)} (4 days)). Runs compute it"
    assert f"Left out, because signals are not ready: {left_out}" in warehouse.apply().log
    (warehouse.shop.project / "closed").unlink()
    warehouse.run()
    for model in ("orders", "kept", "behind"):
        assert warehouse.rows(model) == all_rows(), model


@pytest.mark.night(
    "unit/capabilities/plans/worker/test_versions.py::test_what_has_read_a_lost_interval_is_forgotten_...",
    "unit/capabilities/plans/worker/test_rounds.py::test_what_was_tried_and_still_lacks_waits_for_signals",
    "engine/test_apply_beside_runs.py::test_an_interval_that_is_restated_while_a_new_version_reads_it_...",
)
def test_a_restated_day_that_waits_for_a_signal_is_forgotten_of_new_versions_too(warehouse: Warehouse) -> None:
    """Nobody computes it again before the promotion. The run after the signal computes it of both."""
    add_signal(warehouse)
    warehouse.add(
        orders=f"MODEL (name t.orders, signals [is_open()], {DAILY}); SELECT day, n FROM raw.orders {WITHIN}",
        shown="MODEL (name t.shown, kind VIEW); SELECT day, n FROM t.orders",
        days=f"MODEL (name t.days, {DAILY}); SELECT day, n FROM t.shown {WITHIN}",
        total="MODEL (name t.total, kind FULL); SELECT sum(n) AS n FROM t.days",
    )
    warehouse.run()
    closed = warehouse.shop.project / "closed"
    with warehouse.applying("days", "day, n", f"day, n {PAUSES}") as process:
        closed.touch()
        warehouse.restate_oldest()
    applied = warehouse.end(process)
    assert f"rewrote the source meanwhile: t.days ({day(1)})." in applied.log, "SQLMesh restates all days behind a view"
    assert warehouse.rows("days") == all_rows(), "the rows stay until then"
    assert "interrupted" not in applied.tags["sqlmesh/result"], "the day waits"
    assert applied.checks["t/days:sqlmesh_execution_status"].passed
    closed.unlink()
    assert warehouse.run().status_of("t/days") == "executed"
    assert warehouse.rows("days") == [(day(5), 50), *all_rows()[1:]]
    assert warehouse.query("SELECT n FROM t.total") == [(60,)]


@pytest.mark.slow
def test_no_empty_version_replaces_a_table_with_rows(warehouse: Warehouse) -> None:
    """Of t.days because of its own signal, of the whole table because of a gap that waits for another one."""
    add_signal(warehouse)
    warehouse.add(
        days=f"MODEL (name t.days, signals [is_open()], {DAILY}); SELECT day, n FROM t.orders {WITHIN}",
        kept=KEPT.replace("kind", "signals [is_open()], kind"),
        total="MODEL (name t.total, kind FULL); SELECT sum(n) AS n FROM t.kept",
    )
    warehouse.run()
    since = f"extract(epoch FROM '{day(2)}'::timestamp) * 1000"
    warehouse.query(f"DELETE FROM sqlmesh._intervals WHERE name LIKE '%kept%' AND end_ts > {since}")
    closed = warehouse.shop.project / "closed"
    closed.touch()
    warehouse.change("days", "day, n", "day, n + 1 AS n")
    warehouse.change("total", "sum(n)", "sum(n) + 0")
    digest = planned(warehouse.shop)["digest"]
    refused = failure_of(launch(warehouse.shop, APPLY, digest=digest))
    assert "environment prod is as it was before" in refused
    assert "Prod would lose all rows of t.days, t.total: no interval of the new version is computed." in refused
    closed.unlink()
    launch(warehouse.shop, APPLY, digest=digest).succeeded()
    assert warehouse.rows("days") == [(of_day, n + 1) for of_day, n in all_rows()]
    assert warehouse.query("SELECT n FROM t.total") == [(15,)]


@pytest.mark.slow
def test_a_gap_behind_a_new_version_is_filled_after_what_runs_rewrote_meanwhile(warehouse: Warehouse) -> None:
    """Its model keeps its table, and is read by another new version."""
    warehouse.add(
        side=FILES["models/orders.sql"].replace("t.orders", "t.side"),
        first=f"MODEL (name t.first, {DAILY}); SELECT day, n FROM t.side {WITHIN}",
        kept=f"MODEL (name t.kept, {LOOKBACK}); SELECT day, n / {SWITCH} AS n FROM t.first {WITHIN}",
        behind=f"MODEL (name t.behind, {DAILY}); SELECT day, n FROM t.kept {WITHIN}",
    )
    warehouse.run("t/orders", "t/days", "t/side", "t/first")
    warehouse.leave_gap("kept")
    warehouse.change("behind", "day, n", "day, n + 0 AS n")
    warehouse.query(f"UPDATE raw.orders SET n = 7 WHERE day = '{day(1)}'")
    with warehouse.applying("first", "day, n", f"day, n {PAUSES}") as process:
        warehouse.run("t/side", restate=days(1))
        warehouse.query("UPDATE raw.switch SET x = 1")
    warehouse.end(process)
    for model in ("first", "kept", "behind"):
        assert warehouse.query(f"SELECT n FROM t.{model} WHERE day = '{day(1)}'") == [(7,)], model


@pytest.mark.slow
def test_an_apply_computes_a_whole_table_after_the_run_that_computes_what_it_reads(warehouse: Warehouse) -> None:
    """The report does not say that its rows are lost, and the apply does not read rows that may be refused."""
    held = FILES["models/orders.sql"].replace("day, n", f"day, n, pg_advisory_xact_lock({LOCK + 1})::text AS held")
    warehouse.add(orders=held, late=COUNTS.replace("t.days", "t.orders"))
    warehouse.change("late", "count(*) AS x", "count(*) + 0 AS x")
    with warehouse.server.advisory_lock(LOCK + 1, warehouse.database):
        run = warehouse.shop.start(assets=["t/orders"])
        wait_until(lambda: warehouse.waits_for(LOCK + 1), run)
        process = warehouse.start_apply()
        wait_until(lambda: "is held by Dagster run" in warehouse.log_of(APPLY), process)
    assert run.wait(300) == 0
    warehouse.end(process)
    assert warehouse.query("SELECT x FROM t.late") == [(5,)]
