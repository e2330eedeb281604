"""How an apply or a preview on PostgreSQL catches up with runs, in the cases that are easily overlooked.

Four of these stories run in CI, and all of them each night.
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
    SUCCESS,
    SWITCH,
    WITHIN,
    Warehouse,
    all_rows,
    day,
    days,
    new_warehouse,
)
from engine.plan_jobs import APPLY, failure_of, launch, planned
from engine.preview_lab import PREVIEW
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


def milliseconds(ago: int) -> int:
    return int(datetime.fromisoformat(f"{day(ago)}T00:00+00:00").timestamp() * 1000)


def previewing(warehouse: Warehouse, **config: bool) -> AbstractContextManager[ForkedProcess]:
    """Preview in a process of its own, which waits for a lock until the block ends."""
    warehouse.shop.refresh()
    return warehouse.holding(LOCK, lambda: warehouse.start_job(PREVIEW, **config))


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
def test_the_second_preview_of_a_shared_table_that_reads_itself_leaves_the_days_between(dev_only: Warehouse) -> None:
    """Each preview computes one day. What it lacks between them is no reason to compute the second one for ever."""
    head = f"MODEL (name t.sums, {DAILY}, columns (day date, n int))"
    past = "(SELECT max(s.n) FROM t.sums AS s WHERE s.day = @start_ds::date - 1)"
    query = f"SELECT o.day, (o.n + {{}} + COALESCE({past}, 0))::int AS n FROM t.orders AS o WHERE o.{WITHIN[6:]}"
    dev_only.add(sums=f"{head}; {query.format(0)}")
    dev_only.write(sums=f"{head}; {query.format(10)}")
    dev_only.preview(allow_pending=True)
    dev_only.run()
    dev_only.preview()
    assert dev_only.query("SELECT day::text, n FROM t__pr_1.sums ORDER BY day") == [(day(4), 14), (day(1), 11)]


@pytest.mark.slow
def test_what_runs_compute_of_a_day_that_has_not_ended_is_computed_too(warehouse: Warehouse) -> None:
    part = "kind INCREMENTAL_BY_TIME_RANGE (time_column day), cron '*/5 * * * *', interval_unit 'day'"
    warehouse.add(part=f"MODEL (name t.part, {part}, allow_partials true); SELECT day, n FROM raw.orders {WITHIN}")
    with warehouse.applying("part", "day, n", f"day, n {PAUSES}") as process:
        warehouse.query(f"INSERT INTO raw.orders VALUES ('{day(0)}', 60)")
        is_due = datetime.now(timezone.utc).time() >= time(0, 5)
        warehouse.run()
        of_run = warehouse.rows("part")
    warehouse.end(process)
    assert warehouse.rows("part") == of_run
    assert len(of_run) == 6 or not is_due, "today is there from its first tick on"


@pytest.mark.slow
def test_the_rest_of_today_does_not_count_as_computed(warehouse: Warehouse) -> None:
    """An hourly model needs hours of today. The new version of the daily model that it reads must not compute them."""
    series = "generate_series(@start_ts::timestamp, @end_ts::timestamp, interval '1 hour') AS hours (at)"
    hours = "kind INCREMENTAL_BY_TIME_RANGE (time_column at), cron '@hourly'"
    of_query = f"SELECT at::timestamp AS at, (SELECT count(*) FROM t.orders)::int AS n FROM {series}"
    warehouse.add(hours=f"MODEL (name t.hours, {hours}); {of_query}")
    with warehouse.applying("orders", "day, n", f"day, n + 0 AS n {PAUSES}") as process:
        warehouse.run()
    warehouse.end(process)
    ends = "SELECT to_timestamp(max(end_ts) / 1000)::date::text FROM sqlmesh._intervals WHERE name LIKE '%orders%'"
    assert warehouse.query(ends) == [(day(0),)]


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
    assert f"t.days has rows from before a correction, or of another version, for {day(5)}." in applied.log


@pytest.mark.slow
def test_an_interrupted_apply_of_another_environment_is_remembered(warehouse: Warehouse) -> None:
    """It has computed the version that prod will show, from rows that a run has rewritten before the version was done.

    So the times of the computations do not tell that. No environment shows the version yet.
    """
    shop, other = warehouse.shop, LOCK + 1
    warehouse.add(late=COUNTS)
    warehouse.run()
    shop.plan("dev", "--include-unmodified", at=None)
    shop.add_component("shop", {"project": {"path": str(shop.project), "environment": "dev"}, "deploy": True})
    warehouse.change("late", "count(*) AS x", f"count(*) AS x {PAUSES.replace(str(LOCK), str(other))}")
    with warehouse.server.advisory_lock(other, warehouse.database):
        with warehouse.applying("days", "day, n", f"day, n + 1 AS n {PAUSES}") as process:
            shop.configure(deploy=True, restate=True)
            warehouse.restate_oldest()
        wait_until(lambda: warehouse.waits_for(other), process)
        process.kill()
        wait_until(lambda: not processes_in(shop.project))
    warehouse.apply()
    assert warehouse.rows("days")[0] == (day(5), 51)


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
def test_a_refused_preview_is_no_interrupted_one(warehouse: Warehouse) -> None:
    warehouse.add(total="MODEL (name t.total, kind FULL); SELECT sum(n) AS n FROM t.days")
    warehouse.change("days", "day, n", "day, n + 0 AS n")
    assert launch(warehouse.shop, PREVIEW).status is FAILURE, "prod has pending intervals"
    warehouse.run()
    warehouse.preview()
    assert "omputed again" not in warehouse.apply().log


@pytest.mark.slow
def test_a_model_that_reads_itself_is_computed_again_from_the_rewritten_day_on(warehouse: Warehouse) -> None:
    warehouse.run()
    before = "COALESCE((SELECT max(r.n) FROM t.running AS r WHERE r.day = o.day - 1), 0)"
    query = f"SELECT o.day, (o.n + {before})::int AS n FROM t.orders AS o {WITHIN.replace('day', 'o.day')}"
    columns = "batch_size 1), columns (day date, n int)"
    text = f"MODEL (name t.running, {DAILY.replace(')', ', ' + columns)}); {query}"
    late = COUNTS.replace("t.days", "t.running").replace("AS x", f"AS x {PAUSES}")
    warehouse.write(running=text, late=late)
    with warehouse.applying("other", "1 AS x", "2 AS x") as process:
        warehouse.restate_oldest()
    warehouse.end(process)
    assert [n for _, n in warehouse.rows("running")] == [50, 54, 57, 59, 60]


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


# More than ten seconds: a preview, an apply in a process of its own, and a run that waits for its time-out.
def test_a_run_of_another_environment_waits_for_a_plan(warehouse: Warehouse) -> None:
    """It may show the very versions that the plan computes."""
    warehouse.change("days", "day, n", f"day, n {PAUSES}")
    warehouse.preview(allow_pending=True)
    warehouse.run()
    with warehouse.holding(LOCK, warehouse.start_apply) as process:
        waited = warehouse.shop.launch(ops={"sqlmesh_shop": {"environment": "pr_1"}}).failed()
        assert "is held by plan of run" in str(waited.failures)
    warehouse.end(process)


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


@pytest.mark.slow
def test_a_gap_that_a_preview_does_not_read_does_not_stop_it(warehouse: Warehouse) -> None:
    warehouse.add(kept=KEPT)
    warehouse.run("t/orders", "t/days")
    warehouse.change("days", "day, n", f"day, n {PAUSES}")
    with previewing(warehouse, allow_pending=True) as process:
        warehouse.leave_gap("kept")
    warehouse.end(process)


@pytest.mark.slow
def test_a_gap_that_a_preview_has_read_stops_it_until_a_run_has_filled_it(warehouse: Warehouse) -> None:
    warehouse.add(kept=KEPT, behind=f"MODEL (name t.behind, {DAILY}); SELECT day, n FROM t.kept {WITHIN}")
    warehouse.run("t/orders", "t/days")
    warehouse.change("behind", "day, n", f"day, n {PAUSES}")
    with previewing(warehouse, allow_pending=True) as process:
        warehouse.leave_gap("kept")
    stopped = warehouse.end(process, FAILURE)
    gap = f"t.kept ({day(4)}). Launch a run of prod, and then this job again."
    assert f"A run has not finished to compute again what the preview has read: {gap}" in failure_of(stopped)
    warehouse.run()
    warehouse.preview()
    assert warehouse.query("SELECT n FROM t__pr_1.behind ORDER BY n") == [(n,) for n in range(1, 6)]


@pytest.mark.slow
def test_a_persons_plan_of_statements_stops_the_apply(warehouse: Warehouse) -> None:
    config = warehouse.shop.project / "config.yaml"
    text = config.read_text()
    with warehouse.applying("days", "day, n", f"day, n {PAUSES}") as process:
        warehouse.change("days", f" {PAUSES}", "")
        config.write_text(f"{text}\nafter_all: [SELECT 12345]\n")
        warehouse.shop.plan(at=None)
        config.write_text(text)
    stopped = warehouse.end(process, FAILURE)
    assert "Another plan has changed environment prod" in failure_of(stopped)
    [[statements]] = warehouse.query("SELECT environment_statements::text FROM sqlmesh._environment_statements")
    assert "12345" in statements


@pytest.mark.slow
def test_a_row_of_the_state_counts_although_its_time_is_before_the_last_look(warehouse: Warehouse) -> None:
    """SQLMesh takes the time of a row before it writes it."""
    warehouse.run()
    warehouse.query(
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.name LIKE '%orders%' THEN "
        f"PERFORM pg_advisory_xact_lock({LOCK + 1}); END IF; RETURN NEW; END $$; "
        "CREATE TRIGGER slow BEFORE INSERT ON sqlmesh._intervals FOR EACH ROW EXECUTE FUNCTION slow()"
    )
    warehouse.write(fresh=FILES["models/days.sql"].replace("t.days", "t.fresh"))
    warehouse.query(f"UPDATE raw.orders SET n = 50 WHERE day = '{day(5)}'")
    computed = "SELECT count(*) > 0 FROM sqlmesh._intervals WHERE name LIKE '%fresh%'"
    with warehouse.server.advisory_lock(LOCK + 1, warehouse.database):
        with warehouse.applying("other", "1 AS x", f"1 AS x {PAUSES}") as process:
            wait_until(lambda: warehouse.query(computed) == [(True,)], process)
            restated = warehouse.start_restatement(5, 5)
            wait_until(lambda: warehouse.waits_for(LOCK + 1), restated)
        wait_until(lambda: "is held by Dagster run" in warehouse.log_of(APPLY), process)
    assert restated.wait(300) == 0
    warehouse.end(process)
    assert warehouse.rows("fresh") == [(day(5), 50), *all_rows()[1:]]


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
def test_a_table_that_all_versions_share_is_computed_again_if_its_kind_changes(dev_only: Warehouse) -> None:
    dev_only.run()
    dev_only.change("days", DAILY, "kind FULL")
    dev_only.change("days", f"day, n FROM t.orders {WITHIN}", "day, n + 1 AS n FROM t.orders")
    dev_only.apply()
    assert dev_only.rows("days") == [(of_day, n + 1) for of_day, n in all_rows()]


@pytest.mark.slow
def test_what_runs_rewrite_before_a_model_begins_to_compute_again_counts(warehouse: Warehouse) -> None:
    held = f", pg_advisory_xact_lock({LOCK + 1})::text AS held"
    warehouse.add(
        orders=FILES["models/orders.sql"].replace("day, n", f"day, n {held}"),
        side=FILES["models/orders.sql"].replace("t.orders", "t.side"),
        days=f"MODEL (name t.days, {DAILY}); SELECT day, o.n + s.n AS n FROM t.orders AS o "
        f"JOIN t.side AS s USING (day) {WITHIN}",
    )
    warehouse.run()
    with warehouse.server.advisory_lock(LOCK + 1, warehouse.database):
        with warehouse.applying("orders", held, PAUSES) as process:
            restated = warehouse.start_restatement(5, 5)
            wait_until(lambda: warehouse.waits_for(LOCK + 1), restated)
        wait_until(lambda: "is held by Dagster run" in warehouse.log_of(APPLY), process)
        with warehouse.server.advisory_lock(LOCK, warehouse.database):
            warehouse.release(LOCK + 1)
            assert restated.wait(300) == 0
            wait_until(lambda: warehouse.waits_for(LOCK), process)
            warehouse.query(f"UPDATE raw.orders SET n = 40 WHERE day = '{day(4)}'")
            warehouse.run("t/side", restate=days(4))
            of_day = f"to_timestamp(start_ts / 1000)::date = '{day(4)}'"
            warehouse.query(f"UPDATE sqlmesh._intervals SET last_altered_ts = last_altered_ts - 60000 WHERE {of_day}")
    warehouse.end(process)
    assert warehouse.rows("days")[:2] == [(day(5), 10), (day(4), 44)]


@pytest.mark.slow
def test_a_new_model_behind_a_view_that_keeps_its_version_is_computed_again(warehouse: Warehouse) -> None:
    """SQLMesh computes it in a table of the preview, because it creates the view again."""
    warehouse.add(shown="MODEL (name t.shown, kind VIEW); SELECT day, n FROM t.orders")
    warehouse.run()
    warehouse.change("orders", "day, n", "day, n, n AS also")
    fresh = FILES["models/days.sql"].replace("t.days", "t.fresh").replace("t.orders", "t.shown")
    warehouse.write(fresh=fresh)
    late = COUNTS.replace("t.days", "t.fresh").replace("AS x", f"AS x {PAUSES}")
    warehouse.write(late=late)
    with previewing(warehouse) as process:
        warehouse.restate_oldest()
    warehouse.end(process)
    assert warehouse.query("SELECT n FROM t__pr_1.fresh ORDER BY day") == [(n,) for n in (50, 4, 3, 2, 1)]


@pytest.mark.slow
def test_what_a_plan_catches_up_with_has_the_time_at_which_it_is_computed(warehouse: Warehouse) -> None:
    with warehouse.applying("days", "day, n", f"day, n, @execution_ts::text AS at {PAUSES}") as process:
        warehouse.run()
    warehouse.end(process)
    assert warehouse.query("SELECT at, count(*) FROM t.days GROUP BY at ORDER BY at") == [(ANY, 2), (ANY, 3)]


@pytest.mark.slow
def test_a_new_version_waits_for_a_gap_of_a_table_that_reads_another_new_version(warehouse: Warehouse) -> None:
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
    applied = warehouse.apply()
    assert warehouse.query("SELECT x FROM t.total") == [(2,)]
    assert warehouse.rows("behind") == all_rows()[:2]
    assert "omputed again" not in applied.log, "each day once"


@pytest.mark.slow
def test_a_new_model_leaves_out_days_that_its_source_lacks(warehouse: Warehouse) -> None:
    """SQLMesh plans a new model until where the newest model of prod has come."""
    warehouse.add(side=FILES["models/orders.sql"].replace("t.orders", "t.side"))
    warehouse.run("t/side")
    (warehouse.shop.project / "models" / "fresh.sql").write_text(FILES["models/days.sql"].replace("t.days", "t.fresh"))
    warehouse.apply()
    assert warehouse.rows("fresh") == all_rows()[:2]
    warehouse.run()
    assert warehouse.rows("fresh") == all_rows()


def add_signal(warehouse: Warehouse, ready: str = "not Path(name).exists()") -> None:
    """Add a signal that is not ready as long as a file exists."""
    (warehouse.shop.project / "signals").mkdir()
    text = "from pathlib import Path\nfrom sqlmesh import signal\n\n\n@signal()\n"
    text += f"def is_open(batch, name='closed'):\n    return {ready}\n"
    (warehouse.shop.project / "signals/__init__.py").write_text(text)


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
    add_signal(warehouse)
    warehouse.add(days=f"MODEL (name t.days, signals [is_open()], {DAILY}); SELECT day, n FROM t.orders {WITHIN}")
    warehouse.change("days", "day, n", "day, n + 1 AS n")
    closed = warehouse.shop.project / "closed"
    closed.touch()
    digest = planned(warehouse.shop)["digest"]
    refused = launch(warehouse.shop, APPLY, digest=digest)
    assert "environment prod is as it was before" in failure_of(refused)
    assert "Prod would lose all rows of t.days" in failure_of(refused)
    closed.unlink()
    assert launch(warehouse.shop, APPLY, digest=digest).status is SUCCESS
    assert warehouse.rows("days") == [(of_day, n + 1) for of_day, n in all_rows()[:2]]


@pytest.mark.slow
def test_a_whole_table_over_a_gap_whose_signal_is_not_ready_is_promoted_once_it_is_ready(warehouse: Warehouse) -> None:
    add_signal(warehouse)
    warehouse.add(
        kept=KEPT.replace("kind", "signals [is_open()], kind"),
        total="MODEL (name t.total, kind FULL); SELECT sum(n) AS n FROM t.kept",
    )
    warehouse.run()
    warehouse.query(f"DELETE FROM sqlmesh._intervals WHERE name LIKE '%kept%' AND end_ts > {milliseconds(2)}")
    (warehouse.shop.project / "closed").touch()
    warehouse.change("total", "sum(n)", "sum(n) + 0")

    digest = planned(warehouse.shop)["digest"]
    failure = failure_of(launch(warehouse.shop, APPLY, digest=digest))
    assert "Prod would lose all rows of t.total: no interval of the new version is computed." in failure

    (warehouse.shop.project / "closed").unlink()
    launch(warehouse.shop, APPLY, digest=digest).succeeded()
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
def test_a_restatement_takes_from_a_previewed_version_whose_metadata_has_changed(warehouse: Warehouse) -> None:
    """It has another identifier, and shares the table. The state does not have it when the plan begins."""
    warehouse.run()
    warehouse.change("days", "day, n", "day, n + 0 AS n")
    warehouse.preview()
    warehouse.change("days", DAILY, f"{DAILY}, owner someone")
    with warehouse.applying("other", "1 AS x", f"1 AS x {PAUSES}") as process:
        warehouse.restate_oldest()
    warehouse.end(process)
    assert warehouse.rows("days") == [(day(5), 50), *all_rows()[1:]]


@pytest.mark.slow
def test_a_new_model_reads_a_changed_seed_of_versions_that_share_one_table(dev_only: Warehouse) -> None:
    """SQLMesh always finds a seed to be missing that it rebuilds, also when it has."""
    seeds = dev_only.shop.project / "seeds"
    seeds.mkdir()
    (seeds / "names.csv").write_text("id,v\n1,10\n")
    dev_only.add(names="MODEL (name t.names, kind SEED (path '../seeds/names.csv'));")
    (seeds / "names.csv").write_text("id,v\n1,10\n2,20\n")
    dev_only.write(more="MODEL (name t.more, kind FULL); SELECT id FROM t.names")
    dev_only.apply()
    assert dev_only.query("SELECT id FROM t.more ORDER BY id") == [(1,), (2,)]
