"""A cancelled run reports what is finished, ends within its grace periods and leaves no process."""

import signal
import time
from collections.abc import Callable
from contextlib import closing

import dagster as dg
import duckdb
import psycopg2
import pytest
from engine.beside_lab import LOCK, new_warehouse
from engine.plan_jobs import APPLY, executed, planned
from engine.preview_lab import PREVIEW
from forked import AnyProcess
from harness import (
    EXECUTORS,
    PAUSE,
    PYTHON_CONFIG,
    YEARLY_CRON,
    NewShop,
    RunRecord,
    Shop,
    at_night,
    needs_previews,
    processes_in,
    python_model,
    wait_until,
)
from mariadb import mariadb_server
from postgres import Server, postgres_server

from dg_sqlmesh_component.worker.lock_sessions import Postgres
from dg_sqlmesh_component.worker_client.worker import CUT_OFF_GRACE_SECONDS, FINISH_GRACE_SECONDS

STOP_MESSAGE = "SQLMesh is asked to finish what is in flight"
FILES = {
    "models/first.sql": "MODEL (name t.first, kind FULL); SELECT 1 AS id",
    "models/pause.py": python_model("t.pause", PAUSE, ["t.first"]),
    "models/last.sql": "MODEL (name t.last, kind FULL); SELECT id FROM t.pause",
}
IDLE_MODEL = f"MODEL (name t.idle, kind FULL, cron '{YEARLY_CRON}', start '2020-01-01'); SELECT 1 AS id"
LONG_QUERY_FILES = {
    "models/first.sql": FILES["models/first.sql"],
    "models/long.sql": "MODEL (name t.long, kind FULL, start '{start}'); {before}SELECT {long} AS id FROM t.first",
    "models/last.sql": "MODEL (name t.last, kind FULL); SELECT id FROM t.long",
}


def launch_and_cancel(
    shop: Shop, when: Callable[[], bool], then: Callable[[], None] = lambda: None, executor: str = "in_process"
) -> tuple[RunRecord, float]:
    """Launch all assets, and cancel the run as `cancel` does."""
    return cancel(shop, shop.start(executor), when, then)


def cancel(
    shop: Shop, process: AnyProcess, when: Callable[[], bool], then: Callable[[], None] = lambda: None
) -> tuple[RunRecord, float]:
    """Cancel the only started run as the UI does. It must end as cancelled and leave no process.

    Args:
        process: The process of the run.
        when: The run is cancelled as soon as this is true.
        then: Called after the run has logged that SQLMesh was asked to stop.

    Returns:
        The record of the run, and how many seconds it took to end.
    """
    wait_until(when, process)
    [run] = shop.instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED]))
    shop.instance.report_run_canceling(run)
    process.send_signal(signal.SIGTERM)
    since = time.monotonic()
    wait_until(lambda: STOP_MESSAGE in shop.run_record(run.run_id).log)
    then()
    process.wait(300)
    record, seconds = shop.run_record(run.run_id), time.monotonic() - since
    assert record.status is dg.DagsterRunStatus.CANCELED
    assert processes_in(shop.project) == []
    return record, seconds


def has_logged(shop: Shop, text: str) -> bool:
    return any(text in shop.run_record(run.run_id).log for run in shop.instance.get_runs())


@pytest.mark.parametrize(("executor", "record_unchanged"), [*zip(EXECUTORS, (True, False))])
def test_cancelled_run_finishes_and_reports_batches(new_shop: NewShop, executor: str, record_unchanged: bool) -> None:
    shop = new_shop({**FILES, "models/idle.sql": IDLE_MODEL}, execution={"record_unchanged": record_unchanged})
    pause = shop.project / "pause"
    pause.touch()
    before = shop.state()["intervals"]
    record, _ = launch_and_cancel(shop, (shop.project / "pausing").exists, pause.unlink, executor)
    after = shop.state()["intervals"]  # opens the file, so no process holds it
    assert set(record.materializations) == {"t/first", "t/pause"}
    assert {fqn.split('"')[-2] for fqn in after if after[fqn] > before[fqn]} == {"first", "pause"}
    assert record.status_of("t/last") == "interrupted"
    [failure] = record.failures
    assert "The run was cancelled. SQLMesh in environment prod: 1 interrupted, 2 executed, 1 up to date." in failure
    assert set(record.computed_outside) == {"t/idle"}
    assert "batches in flight were finished" in failure
    second_run = shop.launch(executor).succeeded()
    assert set(second_run.materializations) == {"t/last"}
    assert ("t/idle" in second_run.observations) is record_unchanged


@pytest.mark.slow
def test_model_that_does_not_end_is_killed_after_both_grace_periods(new_shop: NewShop) -> None:
    shop = new_shop({**FILES, "models/idle.sql": IDLE_MODEL})
    (shop.project / "pause").touch()
    record, seconds = launch_and_cancel(shop, (shop.project / "pausing").exists)
    assert seconds > FINISH_GRACE_SECONDS + CUT_OFF_GRACE_SECONDS - 1  # and the model would take far longer
    assert set(record.materializations) == {"t/first"}
    assert {record.status_of("t/pause"), record.status_of("t/last")} == {"interrupted"}
    assert record.status_of("t/idle") == "up_to_date"
    [failure] = record.failures
    assert failure.removeprefix("dagster._core.errors.DagsterExecutionInterruptedError: ").splitlines()[:3] == [
        "The run was cancelled. SQLMesh in environment prod: 2 interrupted, 1 executed, 1 up to date.",
        "The run was cancelled. SQLMesh's process was killed after 8 seconds, because t.pause was still running.",
        "Not started: t.last. The next run computes what is left.",
    ]
    assert "SIGKILL" not in record.log


@pytest.mark.parametrize("engine", [*at_night("duckdb"), "postgres"])
def test_long_query_is_cancelled_in_the_engine(new_shop: NewShop, engine: str) -> None:
    with postgres_server() as server:
        is_postgres = engine == "postgres"
        long = "pg_sleep(600)::text" if is_postgres else "(SELECT count(*) FROM range(10000000) a, range(10000000) b)"
        # The plan is quick. Only the interval of today is slow.
        today = time.strftime("%Y-%m-%d", time.gmtime())
        value = f"CASE WHEN @execution_ds >= '{today}' THEN {long} ELSE {repr('') if is_postgres else 0} END"
        start = time.strftime("%Y-%m-%d", time.gmtime(time.time() - 6 * 86400))
        before = "" if is_postgres else "COPY (SELECT 1) TO 'long_has_begun'; "
        files = {path: text.format(start=start, before=before, long=value) for path, text in LONG_QUERY_FILES.items()}
        config = {"config": server.config("long")} if is_postgres else {}
        server.query("CREATE DATABASE long")
        shop = new_shop(files, **config)
        has_begun = shop.project / "long_has_begun"
        has_begun.unlink(missing_ok=True)
        sleeping = (
            "SELECT 1 FROM pg_stat_activity WHERE state = 'active' AND query ILIKE '%pg_sleep(600)%' "
            "AND pid <> pg_backend_pid()"
        )

        def is_query_running() -> bool:
            return bool(server.query(sleeping)) if is_postgres else has_begun.exists()

        record, seconds = launch_and_cancel(shop, is_query_running)
        assert seconds > FINISH_GRACE_SECONDS
        assert set(record.materializations) == {"t/first"}
        assert {record.status_of("t/long"), record.status_of("t/last")} == {"interrupted"}
        assert "batches in flight were cut off" in record.failures[0]
        assert server.query(sleeping) == []


@pytest.mark.night("unit/worker/test_running_queries.py", "test_long_query_is_cancelled_in_the_engine")
def test_long_query_is_cancelled_in_mariadb(new_shop: NewShop) -> None:
    with mariadb_server() as server:
        server.query("CREATE DATABASE ctl")
        server.query("CREATE TABLE ctl.hold AS SELECT 0 AS seconds")
        files = {
            "models/first.sql": FILES["models/first.sql"],
            "models/long.sql": "MODEL (name t.long, kind FULL); SELECT SLEEP(seconds) AS id FROM ctl.hold",
            "models/last.sql": "MODEL (name t.last, kind FULL); SELECT id FROM t.long",
        }
        shop = new_shop(files, server.config())
        server.query("UPDATE ctl.hold SET seconds = 600")
        sleeping = "SELECT 1 FROM information_schema.processlist WHERE state = 'User sleep' AND id <> CONNECTION_ID()"
        record, seconds = launch_and_cancel(shop, lambda: bool(server.query(sleeping)))
        assert server.query(sleeping) == []
    assert seconds > FINISH_GRACE_SECONDS
    assert set(record.materializations) == {"t/first"}
    assert {record.status_of("t/long"), record.status_of("t/last")} == {"interrupted"}
    assert "batches in flight were cut off" in record.failures[0]


@pytest.mark.slow
def test_query_that_was_not_cancelled_is_named(new_shop: NewShop) -> None:
    """The user of the second connection is locked: MariaDB refuses it."""
    with mariadb_server() as server:
        server.query("CREATE DATABASE ctl")
        server.query("CREATE TABLE ctl.hold AS SELECT 0 AS seconds")
        server.query("CREATE USER runner@'127.0.0.1'")
        server.query("GRANT ALL ON *.* TO runner@'127.0.0.1'")
        files = {"models/long.sql": "MODEL (name t.long, kind FULL); SELECT SLEEP(seconds) AS id FROM ctl.hold"}
        shop = new_shop(files, server.config().replace("user: root", "user: runner"))
        server.query("UPDATE ctl.hold SET seconds = 600")
        sleeping = "SELECT 1 FROM information_schema.processlist WHERE state = 'User sleep' AND id <> CONNECTION_ID()"

        def is_running_and_user_is_locked() -> bool:
            is_running = bool(server.query(sleeping))
            if is_running:
                server.query("ALTER USER runner@'127.0.0.1' ACCOUNT LOCK")
            return is_running

        record, _ = launch_and_cancel(shop, is_running_and_user_is_locked)
    assert record.status_of("t/long") == "interrupted"
    [failure] = record.failures
    assert "SQLMesh's process was killed after 8 seconds, because t.long was still running." in failure
    assert "A query of t.long was not cancelled: OperationalError: (4151, " in failure
    assert "End it in the engine." in failure


@pytest.mark.night(
    "unit/worker_client/test_interruption.py::test_no_result_is_lost_wherever_a_signal_comes",
    "test_cancelled_run_finishes_and_reports_batches",
)
def test_finished_models_are_recorded_if_run_is_cancelled_during_recording(new_shop: NewShop) -> None:
    quick = {f"models/m{n}.sql": f"MODEL (name t.m{n}, kind FULL); SELECT {n} AS id" for n in range(20)}
    # This model runs after all others, so that the run cannot end before it is cancelled.
    paused_model = python_model("t.pause", PAUSE, [f"t.m{n}" for n in range(20)])
    shop = new_shop({**quick, "models/pause.py": paused_model})
    pause = shop.project / "pause"
    pause.touch()

    def some_are_recorded() -> bool:
        return any(len(shop.run_record(run.run_id).materializations) > 3 for run in shop.instance.get_runs())

    before = shop.state()["intervals"]
    record, _ = launch_and_cancel(shop, some_are_recorded, then=pause.unlink)
    after = shop.state()["intervals"]
    second_run = shop.launch().succeeded()
    computed = {fqn.split('"')[-2] for fqn in after if after[fqn] > before[fqn]}
    assert {key.split("/")[1] for key in record.materializations} == computed
    models = {"pause", *(f"m{n}" for n in range(20))}
    assert {key.split("/")[1] for key in second_run.materializations} == models - computed


CONFIG_THAT_WAITS = f"""{PYTHON_CONFIG}
if Path("hold").exists():
    Path("holding").touch()
    time.sleep(600)
"""


def test_run_cancelled_while_sqlmesh_opens_the_project_ends_at_once(new_shop: NewShop) -> None:
    shop = new_shop({**FILES, "config.py": CONFIG_THAT_WAITS})
    shop.refresh()
    (shop.project / "hold").touch()
    record, _ = launch_and_cancel(shop, (shop.project / "holding").exists)
    assert "The run was cancelled before SQLMesh computed anything." in record.failures[0]  # it was not killed
    reason = "Not evaluated: the run was cancelled before SQLMesh computed or audited anything."
    assert record.not_evaluated_reasons == {reason}
    assert not record.materializations


def test_run_that_waits_for_another_run_is_cancelled_at_once(new_shop: NewShop) -> None:
    shop = new_shop(FILES)
    with duckdb.connect(str(shop.project / "warehouse.duckdb")):
        record, _ = launch_and_cancel(shop, lambda: has_logged(shop, "Waiting up to 3600 seconds."))
    assert "The run was cancelled before SQLMesh computed anything." in record.failures[0]  # it was not killed


LOSE_CONNECTION = """
if Path("lose_connection").exists():
    raise ConnectionError("the connection was lost")
"""


def test_run_cancelled_before_a_retry_has_the_error_of_the_last_attempt(new_shop: NewShop) -> None:
    files = {**FILES, "models/pause.py": python_model("t.pause", LOSE_CONNECTION, ["t.first"])}
    shop = new_shop(files, execution={"retries": {"max_retries": 1, "delay": 3600}})
    (shop.project / "lose_connection").touch()
    record, _ = launch_and_cancel(shop, lambda: has_logged(shop, "Attempt 2 of 2 starts"))
    [failure] = record.failures
    assert "1 failed, 1 blocked, 1 executed" in failure
    assert "ConnectionError: the connection was lost" in failure
    assert "without reporting an outcome" not in failure
    assert "named no model that failed" not in failure
    assert (record.status_of("t/pause"), record.status_of("t/last")) == ("failed", "blocked")


NOT_PROMOTED = "The plan was cancelled before it was promoted: environment prod is as it was before."


@pytest.mark.night(
    "test_apply_that_is_cancelled_in_its_last_batch_promotes_nothing",
    "test_run_that_waits_for_another_run_is_cancelled_at_once",
)
def test_cancelled_apply_that_waits_for_a_run_is_not_killed_and_promotes_nothing(
    server: Server, new_shop: NewShop
) -> None:
    warehouse = new_warehouse(server, new_shop)
    warehouse.change("other", "1 AS x", "2 AS x")

    def connect() -> object:
        return psycopg2.connect(host="127.0.0.1", port=server.port, user="postgres", dbname=warehouse.database)

    with closing(Postgres(connect, "dg_sqlmesh sqlmesh runs", "Dagster run 1")) as lock_of_runs:
        assert lock_of_runs.take()
        apply = warehouse.start_apply()
        record, _ = cancel(warehouse.shop, apply, lambda: "Waiting up to" in warehouse.last_log())
    assert f"The run was cancelled. {NOT_PROMOTED}" in record.failures[0]  # it was not killed
    assert warehouse.query("SELECT x FROM t.other") == [(1,)]


def test_apply_that_is_cancelled_in_its_last_batch_promotes_nothing(new_shop: NewShop) -> None:
    shop = new_shop({"models/pause.py": python_model("t.pause", PAUSE)}, deploy=True)
    model, pause = shop.project / "models" / "pause.py", shop.project / "pause"
    model.write_text(model.read_text().replace("[1]", "[2]"))
    digest = planned(shop)["digest"]
    pause.touch()
    apply = shop.start_fork(lambda instance: executed(shop, instance, APPLY, {"digest": digest}))
    record, _ = cancel(shop, apply, (shop.project / "pausing").exists, pause.unlink)
    assert f"The run was cancelled. {NOT_PROMOTED}" in record.failures[0]
    assert shop.query("SELECT id FROM t.pause") == [(1,)]


KEPT = """
MODEL (name t.first, kind INCREMENTAL_BY_TIME_RANGE (time_column day, forward_only true));
SELECT @start_ds::DATE AS day, 1 AS id{more}
"""


def test_apply_that_is_cancelled_while_it_computes_after_it_has_begun_to_promote_is_taken_back(
    new_shop: NewShop,
) -> None:
    shop = new_shop({**FILES, "models/first.sql": KEPT.format(more="")}, deploy=True)
    model, pause = shop.project / "models" / "pause.py", shop.project / "pause"
    (shop.project / "models" / "first.sql").write_text(KEPT.format(more=", 2 AS more"))
    model.write_text(model.read_text().replace("[1]", "[2]"))
    digest = planned(shop)["digest"]
    pause.touch()
    apply = shop.start_fork(lambda instance: executed(shop, instance, APPLY, {"digest": digest}))
    record, _ = cancel(shop, apply, (shop.project / "pausing").exists, pause.unlink)
    assert "The plan was cancelled while it was promoted, and was taken back" in record.failures[0]
    assert "Columns left behind: more of t.first." in record.failures[0]
    assert shop.query("SELECT id FROM t.last") == [(1,)]
    assert shop.query("SELECT count(*) FROM sqlmesh._environments WHERE finalized_ts IS NOT NULL") == [(1,)]


@pytest.mark.night("test_apply_that_is_cancelled_in_its_last_batch_promotes_nothing")
@needs_previews
def test_preview_that_is_cancelled_while_it_is_compared_is_complete(server: Server, new_shop: NewShop) -> None:
    warehouse = new_warehouse(server, new_shop, preview={"environment": "pr_1"})
    warehouse.change("other", "1 AS x", "2 AS x")
    waits_for_prod = (
        "SELECT 1 FROM sqlmesh._environments, pg_locks "
        "WHERE name = 'pr_1' AND finalized_ts IS NOT NULL AND relation IS NOT NULL AND NOT granted"
    )
    warehouse.shop.refresh()
    with server.session(warehouse.database) as prod:
        prod.execute(f"BEGIN; LOCK TABLE {warehouse.table('other')}")
        preview = warehouse.start_job(PREVIEW)
        record, _ = cancel(
            warehouse.shop, preview, lambda: bool(warehouse.query(waits_for_prod)), lambda: prod.execute("ROLLBACK")
        )
    assert "The preview is complete, and was cancelled while it was compared with prod." in record.failures[0]
    assert warehouse.query("SELECT x FROM t__pr_1.other") == [(2,)]


AUDITED = f"""
MODEL (name t.other, kind FULL, audits (waits(), not_null(columns := (x))));
SELECT 1 AS x;

AUDIT (name waits);
SELECT * FROM @this_model WHERE pg_advisory_xact_lock({LOCK})::text <> '';
"""


def test_cancelled_run_of_checks_finishes_one_audit_and_begins_no_other(server: Server, new_shop: NewShop) -> None:
    warehouse = new_warehouse(server, new_shop)
    warehouse.add(other=AUDITED)
    with server.advisory_lock(LOCK, warehouse.database):
        process = warehouse.shop.start(checks=["t/other:waits", "t/other:not_null_x"])
        record, _ = cancel(warehouse.shop, process, lambda: warehouse.waits_for(LOCK), lambda: warehouse.release(LOCK))
    assert "The evaluation of audits was cancelled." in record.failures[0]
    assert {name: check.passed for name, check in record.checks.items()} == {"t/other:waits": True}


@pytest.mark.slow
def test_cancelled_run_of_checks_that_waits_for_a_plan_is_not_killed(new_shop: NewShop) -> None:
    shop = new_shop(FILES)
    shop.query("UPDATE sqlmesh._environments SET finalized_ts = NULL")
    checks = shop.start(checks=["t/first:sqlmesh_execution_status"])
    record, _ = cancel(shop, checks, lambda: has_logged(shop, "is updating environment prod"))
    assert "was killed" not in record.failures[0]
