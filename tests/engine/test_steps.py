"""Runs of a subset, runs of checks only, and runs that other assets split into steps.

Steps of one run that write their events at the same time have the default storage of Dagster.
"""

import sys
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import dagster as dg
import pytest
import yaml
from harness import (
    COMPONENT,
    CONFIG,
    ONE_EXECUTOR,
    NewShop,
    Shop,
    at_night,
    dagster_project,
    ledger_shop,
    plan,
    query,
    raise_flags,
    write_project,
)

from dg_sqlmesh_component.history.active_runs import COMPUTING_SINCE_TAG

MODELS_AROUND_AN_ASSET = {
    "models/first.sql": "MODEL (name t.first, kind FULL); SELECT 1 AS id, @execution_ts AS executed_at",
    "models/beside.sql": "MODEL (name t.beside, kind FULL); SELECT id FROM t.first",
    "models/last.sql": "MODEL (name t.last, kind FULL); SELECT id, @execution_ts AS executed_at FROM mid.made",
}
BEFORE_ALL = """
before_all:
  - CREATE SCHEMA IF NOT EXISTS mid
  - CREATE TABLE IF NOT EXISTS mid.made (id INT)
"""
ASSET_BETWEEN = """
import dagster as dg
import duckdb


@dg.asset(key=["mid", "made"], deps=[["t", "first"]])
def made():
    with duckdb.connect({file!r}) as connection:
        connection.execute("INSERT INTO mid.made SELECT id FROM t.first")
"""


# The second one takes twenty seconds: each step starts Python, as on a machine of a user.
@pytest.mark.parametrize("executor", ONE_EXECUTOR)
def test_asset_between_models_splits_the_run_into_steps_with_same_execution_time(executor: str, tmp_path: Path) -> None:
    project = write_project(tmp_path / "shop", MODELS_AROUND_AN_ASSET, CONFIG + BEFORE_ALL)
    plan(project)
    with dagster_project(tmp_path, has_default_storage=True) as dagster:
        dagster.add_component("shop", {"project": str(project)})
        dagster.add_module("between", ASSET_BETWEEN.format(file=str(project / "warehouse.duckdb")))
        dagster.refresh()
        record = dagster.launch(executor, ops={"sqlmesh_shop": {"ignore_cron": True}}, spawns_steps=True).succeeded()
        assert record.log.count("ignore_cron true") == 2  # the run config of the first step also applies to the second
        assert {"t/first", "t/beside", "mid/made", "t/last"} == set(record.materializations)
        assert len([step for step in record.step_keys if step.startswith("sqlmesh_shop")]) == 2
        stored_run = dagster.instance.get_run_record_by_id(record.run_id)
        assert stored_run is not None
        [(first,)], [(last,)] = (query(project, f"SELECT executed_at FROM t.{name}") for name in ("first", "last"))
        assert first == last
        assert query(project, "SELECT epoch(executed_at::TIMESTAMP) FROM t.first") == [
            (pytest.approx(stored_run.start_time, abs=1e-3),)
        ]
        assert query(project, "SELECT id FROM t.last") == [(1,)]


PYTHON_WRAPPER = """#!/bin/sh
date +%s.%N >> {starts}
exec {python} "$@"
"""


# More than ten seconds: each step starts Python, as on a machine of a user.
def test_worker_starts_before_its_step_and_for_no_other_step(tmp_path: Path, new_shop: NewShop) -> None:
    shop = new_shop({"models/one.sql": "MODEL (name t.one, kind FULL); SELECT 1 AS id"})
    starts, python = tmp_path / "starts", tmp_path / "python"
    python.write_text(PYTHON_WRAPPER.format(starts=starts, python=sys.executable))
    python.chmod(0o755)
    page = "import dagster as dg\n\n@dg.asset(deps=[dg.AssetKey(['t', 'one'])])\ndef page(): ...\n"
    shop.add_module("plain", page)
    shop.configure(project={"path": str(shop.project), "python": str(python)})
    starts.unlink()
    record = shop.launch("multiprocess", spawns_steps=True).succeeded()
    assert set(record.materializations) == {"t/one", "page"}
    [started] = map(float, starts.read_text().split())
    [began] = [
        entry.timestamp
        for entry in record.entries
        if entry.dagster_event
        and entry.dagster_event.event_type == dg.DagsterEventType.STEP_START
        and entry.step_key != "page"
    ]
    assert started < began


@pytest.mark.night(
    "unit/definitions/test_code_location.py",
    "test_asset_between_models_splits_the_run_into_steps_with_same_execution_time",
)
def test_split_step_is_not_confused_with_another_component(tmp_path: Path) -> None:
    """Dagster names the steps `<op>` and `<op>_2`. If two ops have the same name, it silently runs only one of them."""
    projects = [
        write_project(tmp_path / "shop", MODELS_AROUND_AN_ASSET, CONFIG + BEFORE_ALL),
        write_project(tmp_path / "other", {"models/one.sql": "MODEL (name t2.one, kind FULL); SELECT 1 AS id"}),
        write_project(tmp_path / "third", {"models/one.sql": "MODEL (name t3.one, kind FULL); SELECT 1 AS id"}),
    ]
    for project in projects:
        plan(project)
    with dagster_project(tmp_path, has_default_storage=True) as dagster:
        defs_file = dagster.add_component("shop", {"project": str(projects[0])})
        second = {"type": COMPONENT, "attributes": {"project": str(projects[2])}}
        third = {"type": COMPONENT, "attributes": {"project": str(projects[2]), "translation": {"key_prefix": "again"}}}
        defs_file.write_text("---\n".join([defs_file.read_text(), yaml.safe_dump(second), yaml.safe_dump(third)]))
        dagster.add_component("shop_2", {"project": str(projects[1])})
        dagster.add_module("between", ASSET_BETWEEN.format(file=str(projects[0] / "warehouse.duckdb")))
        dagster.refresh()
        record = dagster.launch("in_process")
    assert record.status == dg.DagsterRunStatus.SUCCESS, record.failures
    events = {**record.materializations, **record.computed_outside, **record.observations}
    models = {"t/first", "t/beside", "t/last", "t2/one", "t3/one", "again/t3/one"}
    assert set(events) == {*models, "mid/made"}


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with ledger_shop(tmp_path_factory.mktemp("steps")) as shop:
        yield shop


def test_run_of_a_subset_executes_exactly_the_subset(ledger: Shop) -> None:
    before = ledger.state()["intervals"]
    record = ledger.launch("in_process", assets=["t/odd name-x", "t/talkative"])
    after = ledger.state()["intervals"]
    assert set(record.materializations) == {"t/odd name-x", "t/talkative"}
    assert {fqn for fqn in after if after[fqn] != before[fqn]} == {
        '"warehouse"."t"."odd name-x"',
        '"warehouse"."t"."talkative"',
    }


def test_run_of_checks_only_evaluates_audits_and_executes_nothing(ledger: Shop) -> None:
    before = ledger.state()
    raise_flags(ledger.project, "events_warn", "standalone")
    record = ledger.launch(
        "in_process",
        checks=[
            "t/events:flag_is_down_flag_name_events_warn",
            "t/events:not_null_id",
            "t/events:events_are_numbered",
            "t/events:sqlmesh_execution_status",
        ],
    )
    raise_flags(ledger.project)
    assert record.status == dg.DagsterRunStatus.SUCCESS, record.failures
    assert not record.materializations
    assert {name: check.passed for name, check in record.checks.items()} == {
        "t/events:flag_is_down_flag_name_events_warn": False,
        "t/events:not_null_id": True,
        "t/events:events_are_numbered": False,
        "t/events:sqlmesh_execution_status": False,
    }
    assert "has pending intervals" in record.description_of("t/events:sqlmesh_execution_status")
    assert ledger.state() == before


FAILING_DAYS_FILES = {
    "models/days.sql": """
        MODEL (name t.days, kind INCREMENTAL_BY_TIME_RANGE (time_column day, batch_size 1));
        SELECT CASE WHEN @start_ds >= '{yesterday}' THEN error('this day is broken') ELSE @start_ds END::DATE AS day
    """,
    "models/total.sql": "MODEL (name t.total, kind FULL); SELECT count(*) AS days FROM t.days",
    "models/audited.sql": """
        MODEL (name t.audited, kind FULL, audits (not_null(columns := (id)), unique_values(columns := (id))));
        SELECT 1 AS id
    """,
}


UPSERTED_MODEL = """
MODEL (name t.upserted, kind INCREMENTAL_BY_UNIQUE_KEY (unique_key k, batch_size 1), audits (positive(), known()));
SELECT 1 AS k, CASE WHEN @end_ds::DATE < CURRENT_DATE - 1 THEN NULL ELSE 5 END AS v UNION ALL SELECT 2, -1
"""
NON_BLOCKING_AUDITS = """
AUDIT (name positive, blocking false); SELECT * FROM @this_model WHERE v < 0;
AUDIT (name known, blocking false); SELECT * FROM @this_model WHERE v IS NULL;
"""


@pytest.mark.night("unit/run/test_ledger.py::test_audit_of_the_whole_table_keeps_only_the_last_batch")
def test_audit_of_whole_table_has_same_result_in_a_run_and_alone(new_shop: NewShop) -> None:
    shop = new_shop({"models/upserted.sql": UPSERTED_MODEL, "audits/soft.sql": NON_BLOCKING_AUDITS})
    checks = ["t/upserted:positive", "t/upserted:known"]
    record, checks_only = shop.launch(), shop.launch(checks=checks)
    batches = record.materializations["t/upserted"].metadata["sqlmesh/batches"].value
    assert isinstance(batches, int)
    assert batches > 1
    for run in (record, checks_only):
        assert [run.checks[check].passed for check in checks] == [False, True]
        assert run.checks[checks[0]].metadata["sqlmesh/failing_row_count"].value == 1


@pytest.mark.night(
    "unit/report/test_results.py::test_result_of_other_or_unknown_data_is_not_carried_over_and_the_check_says_why",
    "engine/test_carried_over.py::test_result_is_carried_over_until_data_or_audit_changes",
)
def test_result_of_another_version_or_environment_is_not_carried_over(new_shop: NewShop) -> None:
    soft = {"audits/soft.sql": "AUDIT (name positive, blocking false); SELECT * FROM @this_model WHERE id < 0"}
    model = "MODEL (name t.one, kind FULL, audits (positive())); SELECT {id} AS id"
    shop = new_shop({"models/one.sql": model.format(id=1), **soft}, execution={"environments": ["dev"]})
    shop.plan("dev", "--include-unmodified")
    check = "t/one:positive"
    executed, same = shop.launch(), shop.launch()
    in_dev = shop.launch(ops={"sqlmesh_shop": {"environment": "dev"}})
    (shop.project / "models" / "one.sql").write_text(model.format(id=-1))
    shop.plan(at=None)  # computes the model
    shop.refresh()
    changed = shop.launch()
    assert executed.checks[check].passed
    assert same.checks[check].passed
    assert same.checks[check].metadata["sqlmesh/carried_over"].value is True
    assert in_dev.status_of("t/one") == changed.status_of("t/one") == "up_to_date"
    assert in_dev.checks[check].metadata["sqlmesh/evaluated_in_run"].value == executed.run_id, (
        "the result of prod, not of dev"
    )
    assert not changed.checks[check].passed
    assert "sqlmesh/carried_over" not in changed.checks[check].metadata


REPORT = """
import dagster as dg


@dg.asset(deps=[dg.AssetKey(["t", "audited"])])
def report() -> None: ...


@dg.asset(deps=[dg.AssetKey(["t", "fine"])])
def healthy() -> None: ...
"""
CONTINUE_AFTER_FAILURE = {"step_dependency_config": {"require_upstream_step_success": False}}


@pytest.mark.advice("Execute the check alone to evaluate it again.")
@pytest.mark.parametrize("records_unchanged", [True, *at_night(False)])
def test_failed_blocking_check_fails_later_runs_until_its_audit_passes(
    new_shop: NewShop, records_unchanged: bool
) -> None:
    audited = "kind FULL, audits (not_null(columns := (id)))"
    shop = new_shop(
        {
            "models/audited.sql": f"MODEL (name t.audited, {audited}); SELECT 1 AS id",
            "models/fine.sql": f"MODEL (name t.fine, {audited}); SELECT 1 AS id",
        }
    )
    check = "t/audited:not_null_id"
    shop.add_module("report", REPORT)
    assert shop.launch().status == dg.DagsterRunStatus.SUCCESS
    [(table,)] = shop.query("SELECT table_schema || '.' || table_name FROM information_schema.tables "
                       "WHERE table_name LIKE 't__audited__%' AND table_name NOT LIKE '%dev'")  # fmt: skip
    shop.query(f"UPDATE sqlmesh__t.{table.split('.')[1]} SET id = NULL")
    checks_only = shop.launch(checks=[check])
    shop.configure(execution={"record_unchanged": records_unchanged})
    later_runs = [shop.launch(), shop.launch(executor_config=CONTINUE_AFTER_FAILURE)]
    shop.query(f"UPDATE sqlmesh__t.{table.split('.')[1]} SET id = 1")
    passed = shop.launch(checks=[check])
    fixed = shop.launch()
    assert (checks_only.status, checks_only.checks[check].passed) == (dg.DagsterRunStatus.FAILURE, False)
    for record in later_runs:
        assert record.status == dg.DagsterRunStatus.FAILURE
        assert record.checks[check].passed is False
        assert record.checks[check].metadata["sqlmesh/carried_over"].value is True
        [failure] = record.failures
        assert f"the check not_null_id failed when its audit was last evaluated (run {checks_only.run_id})" in failure
        assert "report" not in record.materializations
    assert "healthy" in later_runs[1].materializations
    assert (passed.status, fixed.status) == (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.SUCCESS)
    assert {"report", "healthy"} <= set(fixed.materializations)


def test_failure_remains_if_checks_of_other_models_are_evaluated_after_it(new_shop: NewShop) -> None:
    yesterday = (datetime.now(timezone.utc) - timedelta(days=1)).strftime("%Y-%m-%d")
    files = {name: text.replace("{yesterday}", yesterday) for name, text in FAILING_DAYS_FILES.items()}
    shop = new_shop(files)
    record = shop.launch("in_process", assets=["t/days", "t/total"], checks=["t/audited:not_null_id"]).failed()
    assert (record.status_of("t/days"), record.status_of("t/total")) == ("partly_executed", "blocked")
    assert not record.materializations
    [failure] = record.failures
    assert "this day is broken" in failure
    assert "Blocked by it: t.total." in failure
    assert record.checks["t/audited:not_null_id"].passed
    assert "starts over" not in record.log


def test_unapplied_change_is_logged_and_promoted_version_runs(ledger: Shop) -> None:
    promoted = ledger.state()["data_hashes"]['"warehouse"."t"."through_embedded"']
    model = ledger.project / "models" / "through_embedded.sql"
    original = model.read_text()
    model.write_text(original.replace("max(double_id)", "min(double_id)"))
    try:
        ledger.refresh()
        record = ledger.launch("in_process", assets=["t/events", "t/through_embedded"])
    finally:
        model.write_text(original)
    assert "t.through_embedded (data changed)" in record.log
    assert "sqlmesh plan" in record.log
    materialization = record.materializations["t/through_embedded"]
    assert materialization.metadata["sqlmesh/unapplied_change"].value == "data"
    assert (materialization.tags or {})["dagster/code_version"] == promoted
    [(most,)] = ledger.query("SELECT most FROM t.through_embedded")
    assert most > 2


AUDITED_EXTERNAL = {
    "external_models.yaml": """
- name: raw.landed
  columns: {id: int}
  audits:
    - name: not_null
      columns: '(id)'
""",
    "models/reader.sql": "MODEL (name t.reader, kind FULL); SELECT id FROM raw.landed",
    "models/other.sql": "MODEL (name t.other, kind FULL); SELECT 1 AS id",
}


def test_audit_of_an_external_model_is_a_check_and_blocks_downstream_models(new_shop: NewShop) -> None:
    before_all = (
        "before_all:\n  - CREATE SCHEMA IF NOT EXISTS raw\n  - CREATE TABLE IF NOT EXISTS raw.landed (id INT)\n"
    )
    shop = new_shop(AUDITED_EXTERNAL, CONFIG + before_all)
    shop.query("INSERT INTO raw.landed VALUES (NULL)")
    record = shop.launch("in_process")
    shop.query("DELETE FROM raw.landed")
    checks_only = shop.launch("in_process", checks=["t/reader:raw_landed__not_null_id"])
    after = shop.launch("in_process", assets=["t/reader"])
    assert checks_only.status == dg.DagsterRunStatus.SUCCESS
    assert checks_only.checks["t/reader:raw_landed__not_null_id"].passed
    assert after.checks["t/reader:raw_landed__not_null_id"].passed
    assert set(after.materializations) == {"t/reader"}
    failed = record.checks["t/reader:raw_landed__not_null_id"]
    assert (failed.passed, failed.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert failed.metadata["sqlmesh/failing_row_count"].value == 1
    assert record.status == dg.DagsterRunStatus.FAILURE
    assert set(record.materializations) == {"t/other"}
    assert record.status_of("t/reader") == "blocked"
    [failure] = record.failures
    assert "raw.landed (external_models.yaml) failed its audit not_null (1 row).\n\nBlocked by it: t.reader." in failure


def test_run_that_is_launched_again_writes_its_own_tags(new_shop: NewShop) -> None:
    """Dagster's web server and its run retries copy the tags of the first run."""
    model = "MODEL (name t.one, kind FULL); SELECT text::INT AS id FROM raw.source"
    shop = new_shop({"models/one.sql": model}, tables={"raw.source": "SELECT '1' AS text"})
    shop.query("UPDATE raw.source SET text = 'one'")
    first = shop.launch(ops={"sqlmesh_shop": {"ignore_cron": True, "start": "2 days ago"}}).failed()
    shop.query("UPDATE raw.source SET text = '1'")

    [copied] = shop.instance.get_runs(dg.RunsFilter(run_ids=[first.run_id]))
    own = {name: value for name, value in copied.tags.items() if name.startswith("sqlmesh/")}
    again = shop.launch(retry_of=first.run_id, tags=own).succeeded()
    [record] = shop.instance.get_run_records(dg.RunsFilter(run_ids=[again.run_id]))
    tags, started = record.dagster_run.tags, record.start_time
    assert tags["sqlmesh/ignore_cron"] == tags["sqlmesh/start"] == "not set"
    assert tags["sqlmesh/environment"] == "prod"
    assert started is not None
    assert datetime.fromisoformat(tags[COMPUTING_SINCE_TAG]).timestamp() >= int(started * 1000) / 1000
