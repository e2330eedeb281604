"""Subsets, checks alone, and assets that stand between two models."""

from __future__ import annotations

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
    EXECUTORS,
    DagsterProject,
    copy_project,
    dagster_project,
    plan,
    query,
    raise_flags,
    sqlmesh,
    state,
    write_project,
)

SANDWICH = {
    "models/first.sql": "MODEL (name t.first, kind FULL); SELECT 1 AS id, @execution_ts AS executed_at",
    "models/beside.sql": "MODEL (name t.beside, kind FULL); SELECT id FROM t.first",
    "models/last.sql": "MODEL (name t.last, kind FULL); SELECT id, @execution_ts AS executed_at FROM mid.made",
}
BEFORE_ALL = """
before_all:
  - CREATE SCHEMA IF NOT EXISTS mid
  - CREATE TABLE IF NOT EXISTS mid.made (id INT)
"""
BETWEEN = """
import dagster as dg
import duckdb


@dg.asset(key=["mid", "made"], deps=[["t", "first"]])
def made():
    with duckdb.connect({file!r}) as connection:
        connection.execute("INSERT INTO mid.made SELECT id FROM t.first")
"""


@pytest.mark.parametrize("executor", EXECUTORS)
def test_an_asset_between_two_models_splits_the_run_into_steps_of_one_point_in_time(
    executor: str, tmp_path: Path
) -> None:
    project = write_project(tmp_path / "bread", SANDWICH, CONFIG + BEFORE_ALL)
    plan(project)
    with dagster_project(tmp_path) as dagster:
        dagster.declare("bread", {"project": str(project)})
        dagster.add_module("between", BETWEEN.format(file=str(project / "warehouse.duckdb")))
        dagster.refresh()
        told = dagster.launch(executor, ops={"sqlmesh_bread": {"ignore_cron": True}})
        assert told.status == dg.DagsterRunStatus.SUCCESS, told.failures
        assert told.log.count("ignore_cron true") == 2  # what is said to the first step holds for the second
        assert {"t/first", "t/beside", "mid/made", "t/last"} == set(told.materializations)
        assert len([step for step in told.step_keys if step.startswith("sqlmesh_bread")]) == 2
        record = dagster.instance.get_run_record_by_id(told.run_id)
        assert record is not None
        [(first,)], [(last,)] = (query(project, f"SELECT executed_at FROM t.{name}") for name in ("first", "last"))
        assert first == last
        assert query(project, "SELECT epoch(executed_at::TIMESTAMP) FROM t.first") == [
            (pytest.approx(record.start_time, abs=1e-3),)
        ]
        assert query(project, "SELECT id FROM t.last") == [(1,)]


STARTING = """#!/bin/sh
date +%s.%N >> {starts}
exec {python} "$@"
"""


def test_sqlmesh_is_imported_while_dagster_still_prepares_the_step_and_in_no_other_step(tmp_path: Path) -> None:
    project = write_project(tmp_path / "shop", {"models/one.sql": "MODEL (name t.one, kind FULL); SELECT 1 AS id"})
    plan(project)
    starts, python = tmp_path / "starts", tmp_path / "python"
    python.write_text(STARTING.format(starts=starts, python=sys.executable))
    python.chmod(0o755)
    with dagster_project(tmp_path) as dagster:
        dagster.declare("shop", {"project": {"path": str(project), "python": str(python)}})
        dagster.add_module(
            "plain", "import dagster as dg\n\n@dg.asset(deps=[dg.AssetKey(['t', 'one'])])\ndef page(): ...\n"
        )
        dagster.refresh()
        starts.unlink()
        told = dagster.launch("multiprocess")
    assert told.status == dg.DagsterRunStatus.SUCCESS, told.failures
    assert set(told.materializations) == {"t/one", "page"}
    [started] = map(float, starts.read_text().split())
    [began] = [
        entry.timestamp
        for entry in told.entries
        if entry.dagster_event
        and entry.dagster_event.event_type == dg.DagsterEventType.STEP_START
        and entry.step_key != "page"
    ]
    assert started < began


def test_no_part_of_a_split_step_is_taken_for_another_project(tmp_path: Path) -> None:
    """Dagster names the parts `<op>`, `<op>_2`, and of two ops of one name it runs one without a word."""
    projects = [
        write_project(tmp_path / "shop", SANDWICH, CONFIG + BEFORE_ALL),
        write_project(tmp_path / "other", {"models/one.sql": "MODEL (name t2.one, kind FULL); SELECT 1 AS id"}),
        write_project(tmp_path / "third", {"models/one.sql": "MODEL (name t3.one, kind FULL); SELECT 1 AS id"}),
    ]
    for project in projects:
        plan(project)
    with dagster_project(tmp_path) as dagster:
        declared = dagster.declare("shop", {"project": str(projects[0])})
        second = {"type": COMPONENT, "attributes": {"project": str(projects[2])}}
        third = {"type": COMPONENT, "attributes": {"project": str(projects[2]), "translation": {"key_prefix": "again"}}}
        declared.write_text("---\n".join([declared.read_text(), yaml.safe_dump(second), yaml.safe_dump(third)]))
        dagster.declare("shop_2", {"project": str(projects[1])})
        dagster.add_module("between", BETWEEN.format(file=str(projects[0] / "warehouse.duckdb")))
        dagster.refresh()
        told = dagster.launch("in_process")
    assert told.status == dg.DagsterRunStatus.SUCCESS, told.failures
    said = {**told.materializations, **told.computed_outside, **told.observations}
    models = {"t/first", "t/beside", "t/last", "t2/one", "t3/one", "again/t3/one"}
    assert set(said) == {*models, "mid/made"}


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, DagsterProject]]:
    folder = tmp_path_factory.mktemp("steps")
    project = copy_project("ledger", folder)
    plan(project)
    with dagster_project(folder) as dagster:
        dagster.declare("ledger", {"project": str(project)})
        dagster.add_module(
            "plain",
            "import dagster as dg\n\n@dg.asset(key='below_waiting', deps=[['t', 'gated']])\ndef below(): ...\n\n"
            "@dg.asset(key='below_yearly', deps=[['t', 'yearly']])\ndef below_yearly(): ...\n",
        )
        dagster.refresh()
        yield project, dagster


def test_a_subset_runs_exactly_that_subset(ledger: tuple[Path, DagsterProject]) -> None:
    project, dagster = ledger
    before = state(project)["intervals"]
    told = dagster.launch("in_process", assets=["t/odd name-x", "t/talkative"])
    after = state(project)["intervals"]
    assert set(told.materializations) == {"t/odd name-x", "t/talkative"}
    assert {fqn for fqn in after if after[fqn] != before[fqn]} == {
        '"warehouse"."t"."odd name-x"',
        '"warehouse"."t"."talkative"',
    }


def test_a_waiting_model_keeps_its_downstream_back_and_the_run_green(ledger: tuple[Path, DagsterProject]) -> None:
    project, dagster = ledger
    (project / "hold").touch()
    told = dagster.launch("in_process", assets=["t/gated", "t/yearly", "below_waiting", "below_yearly"])
    (project / "hold").unlink()
    assert told.status == dg.DagsterRunStatus.SUCCESS
    assert told.status_of("t/gated") == "waiting"
    assert set(told.materializations) == {"below_yearly"}


def test_checks_alone_evaluate_audits_and_execute_nothing(ledger: tuple[Path, DagsterProject]) -> None:
    project, dagster = ledger
    before = state(project)
    raise_flags(project, "events_warn", "standalone")
    told = dagster.launch(
        "in_process",
        checks=[
            "t/events:flag_is_down_flag_name_events_warn",
            "t/events:not_null_id",
            "t/events:events_are_numbered",
            "t/events:sqlmesh_execution_status",
        ],
    )
    raise_flags(project)
    assert told.status == dg.DagsterRunStatus.SUCCESS, told.failures
    assert not told.materializations
    assert {name: check.passed for name, check in told.checks.items()} == {
        "t/events:flag_is_down_flag_name_events_warn": False,
        "t/events:not_null_id": True,
        "t/events:events_are_numbered": False,
        "t/events:sqlmesh_execution_status": False,
    }
    assert "has pending intervals" in told.checks["t/events:sqlmesh_execution_status"].description
    assert state(project) == before


def test_a_blocking_audit_that_fails_alone_fails_the_step(ledger: tuple[Path, DagsterProject]) -> None:
    project, dagster = ledger
    raise_flags(project, "audited_block")
    told = dagster.launch("in_process", checks=["t/audited:flag_is_down_flag_name_audited_block"])
    raise_flags(project)
    assert told.status == dg.DagsterRunStatus.FAILURE
    assert told.failures == ["t.audited: audit flag_is_down failed: 1 row."]


FAILS_LAST = {
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


UPSERTED = """
MODEL (name t.upserted, kind INCREMENTAL_BY_UNIQUE_KEY (unique_key k, batch_size 1), audits (positive(), known()));
SELECT 1 AS k, CASE WHEN @end_ds::DATE < CURRENT_DATE - 1 THEN NULL ELSE 5 END AS v UNION ALL SELECT 2, -1
"""
SOFT = """
AUDIT (name positive, blocking false); SELECT * FROM @this_model WHERE v < 0;
AUDIT (name known, blocking false); SELECT * FROM @this_model WHERE v IS NULL;
"""


def test_an_audit_of_a_whole_table_says_of_a_run_what_it_says_alone(tmp_path: Path) -> None:
    project = write_project(tmp_path / "shop", {"models/upserted.sql": UPSERTED, "audits/soft.sql": SOFT})
    plan(project)
    checks = ["t/upserted:positive", "t/upserted:known"]
    with dagster_project(tmp_path) as dagster:
        dagster.declare("shop", {"project": str(project)})
        dagster.refresh()
        told, alone = dagster.launch(), dagster.launch(checks=checks)
    assert told.materializations["t/upserted"].metadata["sqlmesh/batches"].value > 1
    for one in (told, alone):
        assert [one.checks[check].passed for check in checks] == [False, True]
        assert one.checks[checks[0]].metadata["sqlmesh/failing_rows"].value == 1


def test_a_result_is_not_repeated_of_another_version_or_another_environment(tmp_path: Path) -> None:
    soft = {"audits/soft.sql": "AUDIT (name positive, blocking false); SELECT * FROM @this_model WHERE id < 0"}
    model = "MODEL (name t.one, kind FULL, audits (positive())); SELECT {id} AS id"
    project = write_project(tmp_path / "shop", {"models/one.sql": model.format(id=1), **soft})
    plan(project)
    plan(project, "dev", "--include-unmodified")
    check = "t/one:positive"
    with dagster_project(tmp_path) as dagster:
        dagster.declare("shop", {"project": str(project), "execution": {"environments": ["dev"]}})
        dagster.refresh()
        executed, same = dagster.launch(), dagster.launch()
        in_dev = dagster.launch(ops={"sqlmesh_shop": {"environment": "dev"}})
        (project / "models" / "one.sql").write_text(model.format(id=-1))
        sqlmesh(project, "plan", "--auto-apply", "--no-prompts")  # which computes it, and its audit fails
        dagster.refresh()
        changed = dagster.launch()
    assert executed.checks[check].passed
    assert same.checks[check].passed
    assert same.checks[check].metadata["sqlmesh/carried_over"].value is True
    assert in_dev.status_of("t/one") == changed.status_of("t/one") == "up_to_date"
    assert in_dev.checks[check].metadata["sqlmesh/evaluated_in_run"].value == executed.run_id, "prod's, not dev's"
    assert check not in changed.checks, "it is not known"
    assert "Without a result in this run: 1 audit of models that were not executed." in changed.log


REPORT = """
import dagster as dg


@dg.asset(deps=[dg.AssetKey(["t", "audited"])])
def report() -> None: ...


@dg.asset(deps=[dg.AssetKey(["t", "fine"])])
def healthy() -> None: ...
"""
GO_ON = {"step_dependency_config": {"require_upstream_step_success": False}}


def test_what_failed_alone_keeps_failing_until_the_model_is_computed_or_its_audit_passes(tmp_path: Path) -> None:
    audited = "kind FULL, audits (not_null(columns := (id)))"
    project = write_project(
        tmp_path / "shop",
        {
            "models/audited.sql": f"MODEL (name t.audited, {audited}); SELECT 1 AS id",
            "models/fine.sql": f"MODEL (name t.fine, {audited}); SELECT 1 AS id",
        },
    )
    plan(project)
    check = "t/audited:not_null_id"
    with dagster_project(tmp_path) as dagster:
        dagster.declare("shop", {"project": str(project)})
        dagster.add_module("report", REPORT)
        dagster.refresh()
        assert dagster.launch().status == dg.DagsterRunStatus.SUCCESS
        [(table,)] = query(project, "SELECT table_schema || '.' || table_name FROM information_schema.tables "
                           "WHERE table_name LIKE 't__audited__%' AND table_name NOT LIKE '%dev'")  # fmt: skip
        query(project, f"UPDATE sqlmesh__t.{table.split('.')[1]} SET id = NULL")
        alone = dagster.launch(checks=[check])
        behind = [dagster.launch(), dagster.launch(executor_config=GO_ON)]
        dagster.declare("shop", {"project": str(project), "execution": {"record_unchanged": False}})
        dagster.refresh()
        behind += [dagster.launch(), dagster.launch(executor_config=GO_ON)]
        query(project, f"UPDATE sqlmesh__t.{table.split('.')[1]} SET id = 1")
        passed = dagster.launch(checks=[check])
        healed = dagster.launch()
    assert (alone.status, alone.checks[check].passed) == (dg.DagsterRunStatus.FAILURE, False)
    for told in behind:
        assert told.status == dg.DagsterRunStatus.FAILURE
        assert told.checks[check].passed is False
        assert told.checks[check].metadata["sqlmesh/carried_over"].value is True
        [failure] = told.failures
        assert f"the check not_null_id failed when its audit was last evaluated (run {alone.run_id})" in failure
        assert "report" not in told.materializations
    assert all("healthy" in behind[number].materializations for number in (1, 3))
    assert (passed.status, healed.status) == (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.SUCCESS)
    assert {"report", "healthy"} <= set(healed.materializations)


def test_a_failure_stays_one_when_checks_of_other_models_are_evaluated_behind_it(tmp_path: Path) -> None:
    yesterday = (datetime.now(timezone.utc) - timedelta(days=1)).strftime("%Y-%m-%d")
    files = {name: text.replace("{yesterday}", yesterday) for name, text in FAILS_LAST.items()}
    project = write_project(tmp_path / "shop", files)
    plan(project)
    with dagster_project(tmp_path) as dagster:
        dagster.declare("shop", {"project": str(project)})
        dagster.refresh()
        told = dagster.launch("in_process", assets=["t/days", "t/total"], checks=["t/audited:not_null_id"])
    assert told.status == dg.DagsterRunStatus.FAILURE
    assert (told.status_of("t/days"), told.status_of("t/total")) == ("partly_executed", "blocked")
    assert not told.materializations
    [failure] = told.failures
    assert "this day is broken" in failure
    assert "Blocked by it: t.total." in failure
    assert told.checks["t/audited:not_null_id"].passed
    assert "starts over" not in told.log


def test_a_change_that_no_plan_has_applied_is_named_and_what_is_promoted_runs(
    ledger: tuple[Path, DagsterProject],
) -> None:
    project, dagster = ledger
    promoted = state(project)["data_hashes"]['"warehouse"."t"."through_embedded"']
    model = project / "models" / "through_embedded.sql"
    original = model.read_text()
    model.write_text(original.replace("max(double_id)", "min(double_id)"))
    try:
        dagster.refresh()
        told = dagster.launch("in_process", assets=["t/events", "t/through_embedded"])
    finally:
        model.write_text(original)
    assert "t.through_embedded (data changed)" in told.log
    assert "sqlmesh plan" in told.log
    materialization = told.materializations["t/through_embedded"]
    assert materialization.metadata["sqlmesh/unapplied_change"].value == "data"
    assert (materialization.tags or {})["dagster/code_version"] == promoted
    [(most,)] = query(project, "SELECT most FROM t.through_embedded")
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


def test_an_audit_of_an_external_model_is_a_check_and_stops_what_reads_the_table(tmp_path: Path) -> None:
    before_all = (
        "before_all:\n  - CREATE SCHEMA IF NOT EXISTS raw\n  - CREATE TABLE IF NOT EXISTS raw.landed (id INT)\n"
    )
    project = write_project(tmp_path / "shop", AUDITED_EXTERNAL, CONFIG + before_all)
    plan(project)
    query(project, "INSERT INTO raw.landed VALUES (NULL)")
    with dagster_project(tmp_path) as dagster:
        dagster.declare("shop", {"project": str(project)})
        dagster.refresh()
        told = dagster.launch("in_process")
        query(project, "DELETE FROM raw.landed")
        alone = dagster.launch("in_process", checks=["t/reader:raw_landed__not_null_id"])
        after = dagster.launch("in_process", assets=["t/reader"])
    assert alone.status == dg.DagsterRunStatus.SUCCESS
    assert alone.checks["t/reader:raw_landed__not_null_id"].passed
    assert after.checks["t/reader:raw_landed__not_null_id"].passed
    assert set(after.materializations) == {"t/reader"}
    failed = told.checks["t/reader:raw_landed__not_null_id"]
    assert (failed.passed, failed.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert failed.metadata["sqlmesh/failing_rows"].value == 1
    assert told.status == dg.DagsterRunStatus.FAILURE
    assert set(told.materializations) == {"t/other"}
    assert told.status_of("t/reader") == "blocked"
    [failure] = told.failures
    assert "raw.landed (external_models.yaml) failed its audit not_null (1 row).\n\nBlocked by it: t.reader." in failure
