"""The janitor's job: the objects that it deletes, its report, and its wait for runs."""

import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import pytest
from forked import ForkedProcess
from harness import CONFIG, HAS_PREVIEWS, PAUSE, NewShop, RunRecord, Shop, python_model, wait_until, write_project
from postgres import postgres_server

from dg_sqlmesh_component.capabilities.janitor.messages import JanitorRequest
from dg_sqlmesh_component.capabilities.plans import messages as msg
from dg_sqlmesh_component.capabilities.plans.messages import ClosePreviewRequest
from dg_sqlmesh_component.config.project import SQLMeshProject
from dg_sqlmesh_component.worker_client.calls import serving

JANITOR = "sqlmesh_shop_janitor"
PAUSING_MODEL = {"models/pause.py": python_model("t.pause", PAUSE)}
# A version of a model expires at once when no environment shows it.
EXPIRING_CONFIG = f"{CONFIG}snapshot_ttl: in 0 seconds\n"
COUNTED_MODEL = "MODEL (name t.counted, kind FULL); SELECT count(*) + {added} AS days FROM t.daily"
MODELS = {
    "models/daily.sql": "MODEL (name t.daily, kind INCREMENTAL_BY_TIME_RANGE (time_column day)); "
    "SELECT @start_ds::DATE AS day",
    "models/counted.sql": COUNTED_MODEL.format(added=0),
}


def run_janitor(shop: Shop) -> RunRecord:
    """Run the janitor's job, and return what Dagster recorded."""
    return run_job(shop, shop.refresh().resolve_job_def(JANITOR))


def run_job(shop: Shop, job: dg.JobDefinition) -> RunRecord:
    return shop.run_record(job.execute_in_process(instance=shop.instance, raise_on_error=False).run_id)


def promote_changed_model(shop: Shop, environment: str, added: int) -> None:
    """Promote a new version of t.counted in an environment, then invalidate the environment."""
    (shop.project / "models/counted.sql").write_text(COUNTED_MODEL.format(added=added))
    shop.plan(environment)
    shop.sqlmesh("invalidate", environment)
    (shop.project / "models/counted.sql").write_text(COUNTED_MODEL.format(added=0))


@contextmanager
def when_janitor_waits(shop: Shop, job_runs: int, then: Callable[[], None]) -> Iterator[None]:
    """During the block, call `then` as soon as the last of so many runs of the janitor's job waits for the lock."""

    def is_waiting() -> bool:
        runs = shop.instance.get_runs(dg.RunsFilter(job_name=JANITOR))
        return len(runs) == job_runs and "Waiting up to 3600 seconds" in shop.run_record(runs[0].run_id).log

    def watch() -> None:
        wait_until(is_waiting)
        then()

    thread = threading.Thread(target=watch)
    thread.start()
    yield
    thread.join()


def tables(shop: Shop) -> set[str]:
    rows = shop.query("SELECT table_schema || '.' || table_name FROM information_schema.tables")
    return {name for (name,) in rows if not name.startswith("sqlmesh.")}


@pytest.mark.advice("If the cause is permanent, correct it. The next run of the janitor deletes")
@pytest.mark.attribute("janitor")
def test_janitor_deletes_and_reports_what_has_expired_and_changes_no_models(new_shop: NewShop) -> None:
    shop = new_shop(MODELS, EXPIRING_CONFIG)
    definitions = shop.refresh()
    assert not definitions.jobs
    assert not definitions.schedules
    assert set(shop.launch().materializations) == {"t/daily", "t/counted"}
    tables_of_prod = tables(shop)
    promote_changed_model(shop, "dev", added=1)
    assert "t__dev.counted" in tables(shop)

    shop.configure(janitor=True)
    record = run_janitor(shop).succeeded()
    metadata = record.job_metadata
    assert metadata["deleted_environments"] == ["dev"]
    assert metadata["deleted_snapshots"] == 1
    assert {name.split(".")[1] for name in metadata["dropped_object_names"]} == {"t__dev", "sqlmesh__t"}
    assert metadata["dropped_objects"] == len(metadata["dropped_object_names"])
    assert tables(shop) == tables_of_prod
    # A plan and a run have added a row for each model of prod.
    assert metadata["interval_rows_before"] > metadata["interval_rows_after"] == 2
    assert shop.query("SELECT count(*) FROM sqlmesh._intervals") == [(2,)]
    assert "Deleted: 1 environment (dev) and 1 version of a model; dropped: " in record.log

    after = shop.launch().succeeded()
    assert set(after.observations) == {"t/daily", "t/counted"}, "nothing is pending"
    assert not after.computed_outside, "the janitor computes nothing"
    assert {after.status_of(model) for model in after.observations} == {"up_to_date"}

    promote_changed_model(shop, "dev", added=2)
    [(changed_table,)] = shop.query(
        "SELECT table_name FROM information_schema.tables WHERE table_schema = 'sqlmesh__t' "
        f"AND 'sqlmesh__t.' || table_name NOT IN {(*tables_of_prod, '')}"
    )
    shop.query(f"DROP VIEW t__dev.counted; DROP TABLE sqlmesh__t.{changed_table}")
    shop.query(f"CREATE VIEW sqlmesh__t.{changed_table} AS SELECT 1 AS id")
    record = run_janitor(shop).failed()
    metadata = record.job_metadata
    [failure] = record.failures
    assert failure.startswith("SQLMesh's janitor ended with an error: ")
    assert f"{changed_table} is of type View" in failure
    intervals = "SELECT count(*) FROM sqlmesh._intervals WHERE version = '{}'"
    assert shop.query(intervals.format(changed_table.split("__")[-1])) == [(0,)], "deleted before the table"
    assert any(name.endswith(".t__dev") for name in metadata["dropped_object_names"]), "dropped before the error"
    shop.query(f"DROP VIEW sqlmesh__t.{changed_table}")
    metadata = run_janitor(shop).succeeded().job_metadata
    assert (metadata["deleted_snapshots"], metadata["interval_rows_after"]) == (1, 2)


OWN_KIND = """
from sqlmesh import CustomMaterialization


class Own(CustomMaterialization):
    NAME = "own"

    def insert(self, table_name, query_or_df, model, is_first_insert, render_kwargs, **kwargs):
        self._replace_query_for_model(model, table_name, query_or_df, render_kwargs)
"""


def test_janitor_deletes_a_removed_model_with_a_materialization_of_the_project(new_shop: NewShop) -> None:
    model = "MODEL (name t.own, kind CUSTOM (materialization 'own')); SELECT 1 AS x"
    files = {**MODELS, "models/own.sql": model, "materializations/own.py": OWN_KIND}
    shop = new_shop(files, EXPIRING_CONFIG, janitor=True)
    (shop.project / "models/own.sql").unlink()
    shop.plan()
    job = shop.refresh().resolve_job_def(JANITOR)
    (shop.project / "materializations/own.py").write_text(OWN_KIND + "\nimport no_such_module")
    [failure] = run_job(shop, job).failures
    assert failure.startswith("SQLMesh cannot load the custom materializations of the project at ")
    assert "no_such_module" in failure
    (shop.project / "materializations/own.py").write_text(OWN_KIND)
    record = run_janitor(shop).succeeded()
    assert record.job_metadata["deleted_snapshots"] == 1
    assert not any("__own__" in name for name in tables(shop))


@pytest.mark.advice("If nobody uses it, drop it:{}")
def test_janitor_leaves_and_names_the_table_of_a_removed_model_in_dev_only_mode(new_shop: NewShop) -> None:
    config = f"{EXPIRING_CONFIG}virtual_environment_mode: dev_only\n"
    files = {
        **MODELS,
        "models/other.sql": "MODEL (name t.other, kind FULL); SELECT 1 AS x",
        "models/seen.sql": "MODEL (name t.seen, kind VIEW); SELECT 1 AS x",
    }
    shop = new_shop(files, config, janitor=True)
    (shop.project / "models/other.sql").unlink()
    (shop.project / "models/seen.sql").unlink()
    shop.plan()
    record = run_janitor(shop).succeeded()
    assert record.job_metadata["deleted_snapshots"] == 2
    assert tables(shop) == {"t.daily", "t.counted", "t.other"}
    assert "SQLMesh does not delete its table. If nobody uses it, drop it:" in record.log
    assert 'DROP TABLE "warehouse"."t"."other"' in record.log
    assert record.log.count("DROP TABLE") == 1
    [statement] = re.findall("DROP TABLE.*", record.log)
    shop.query(statement)
    assert tables(shop) == {"t.daily", "t.counted"}
    run_janitor(shop).succeeded()


@contextmanager
def paused_run(shop: Shop) -> Iterator[ForkedProcess]:
    """During the block, a run of all assets computes t.pause. It ends when the file `pause` is deleted."""
    (shop.project / "pause").touch()
    process = shop.start()
    wait_until((shop.project / "pausing").exists, process)
    try:
        yield process
    finally:
        (shop.project / "pause").unlink(missing_ok=True)
    run = shop.run_record(process.communicate(timeout=300)[0].split()[-1]).succeeded()
    assert set(run.materializations) == {"t/pause"}


def test_janitor_waits_for_a_run_and_can_be_cancelled_meanwhile(new_shop: NewShop) -> None:
    shop = new_shop(PAUSING_MODEL, janitor=True)
    with paused_run(shop):
        with when_janitor_waits(shop, 1, lambda: os.kill(os.getpid(), signal.SIGTERM)):
            cancelled = run_janitor(shop)
        [failure] = cancelled.failures
        assert (
            "The run was cancelled. Before that, SQLMesh's janitor had dropped 0 views, schemas and tables." in failure
        )
        with when_janitor_waits(shop, 2, (shop.project / "pause").unlink):
            run_janitor(shop).succeeded()


def test_janitor_fails_after_the_overlap_timeout_if_a_run_holds_the_lock(new_shop: NewShop) -> None:
    with postgres_server() as server:
        server.query("CREATE DATABASE waiting")
        config = server.config("waiting")
        shop = new_shop(PAUSING_MODEL, config, janitor=True, execution={"overlap_timeout": 0})
        with paused_run(shop):
            record = run_janitor(shop)
            [run] = shop.instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED]))
        [failure] = record.failures
        assert f"SQLMesh's state in schema 'sqlmesh' is held by Dagster run {run.run_id} since " in failure
        assert "Only one run, or the janitor, may use it at a time. This run has waited for 0 seconds" in failure
        assert "(`execution.overlap_timeout` in defs.yaml)." in failure
        assert record.job_metadata["dropped_objects"] == 0
        record = run_janitor(shop).succeeded()
        assert record.job_metadata["interval_rows_after"] == 1


@pytest.mark.skipif(HAS_PREVIEWS, reason="this SQLMesh has previews")
def test_preview_is_refused_by_a_sqlmesh_that_has_none(tmp_path: Path) -> None:
    project = SQLMeshProject((write_project(tmp_path / "shop", MODELS),))
    with serving(project, msg.PreviewRequest(project.open_request, "pr_1", msg.AwaitedTables())) as events:
        [*_, last] = events
    assert isinstance(last, msg.RequestFailed)
    assert "Previews need SQLMesh 0.236.0 or later" in last.message


@pytest.mark.parametrize("request_type", [JanitorRequest, ClosePreviewRequest, msg.PreviewRequest])
def test_clean_up_and_previews_refuse_a_state_that_cannot_be_locked(tmp_path: Path, request_type: type) -> None:
    state = "    state_connection: {type: motherduck, token: x}\n"
    config = CONFIG.replace("default_gateway", f"{state}default_gateway")
    project = SQLMeshProject((write_project(tmp_path / "shop", MODELS, config),))
    environment = () if request_type is JanitorRequest else ("pr_1",)
    tables = {"tables": msg.AwaitedTables()} if request_type is msg.PreviewRequest else {}
    with serving(project, request_type(project.open_request, *environment, **tables)) as events:
        [*_, last] = events
    assert isinstance(last, msg.RequestFailed)
    assert last.error == "ConfigurationError"
    assert "SQLMesh's state in motherduck cannot be locked. Remove `" in last.message
    is_preview = request_type is msg.PreviewRequest
    assert last.message.endswith("sqlmesh plan pr_1" if is_preview else "sqlmesh janitor")
