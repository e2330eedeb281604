"""The last result of an audit is carried over only if the data and the audit are the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest
from harness import CONFIG, YEARLY_CRON, dagster_project, plan, query, sqlmesh, write_project

from dg_sqlmesh_component import dagster_internals

CREATE_FLAGS_TABLE = """
before_all:
  - CREATE SCHEMA IF NOT EXISTS ctl
  - CREATE TABLE IF NOT EXISTS ctl.flags AS SELECT 0 AS id
"""
BAD_ROWS_QUERY = "SELECT * FROM @this_model WHERE id < 0"
YEARLY = f"cron '{YEARLY_CRON}', start '2020-01-01'"
FILES = {
    "models/source.sql": "MODEL (name t.source, kind FULL, cron '@hourly'); SELECT 1 AS id",
    "models/shown.sql": f"MODEL (name t.shown, kind VIEW, {YEARLY}, audits (soft)); SELECT id FROM t.source",
    "models/kept.sql": f"MODEL (name t.kept, kind FULL, {YEARLY}, audits (soft, hard, related)); "
    "SELECT id FROM t.source",
    "models/outside.sql": f"MODEL (name t.outside, kind VIEW, {YEARLY}, audits (soft)); SELECT id FROM ctl.flags",
    "audits/soft.sql": f"AUDIT (name soft, blocking false); {BAD_ROWS_QUERY}",
    "audits/hard.sql": f"AUDIT (name hard); {BAD_ROWS_QUERY}",
    "audits/related.sql": f"AUDIT (name related); {BAD_ROWS_QUERY} OR id NOT IN (SELECT id FROM t.source)",
}
CONFIG_WITH_FLAGS = CONFIG + CREATE_FLAGS_TABLE


def do_nothing(project: Path) -> None:
    """The last result stays valid."""


def change_an_audit(project: Path) -> None:
    write_project(
        project,
        {"audits/soft.sql": f"AUDIT (name soft, blocking false); {BAD_ROWS_QUERY} AND id > 0"},
        CONFIG_WITH_FLAGS,
    )
    sqlmesh(project, "plan", "--auto-apply", "--no-prompts")


def restate(project: Path) -> None:
    sqlmesh(project, "plan", "--restate-model", "t.kept", "--auto-apply", "--no-prompts")


@pytest.mark.parametrize(
    ("change", "carried_over"),
    [
        (do_nothing, {"t/kept:soft", "t/kept:hard"}),
        (change_an_audit, set()),
        (restate, set()),
    ],
)
def test_result_is_carried_over_until_data_or_audit_changes(
    tmp_path: Path, change: Callable[[Path], None], carried_over: set[str]
) -> None:
    """Some results are never carried over: of a view if its upstream model was computed in the same run or is an
    external table, and of an audit that reads other models.
    """
    project = write_project(tmp_path / "shop", FILES, CONFIG_WITH_FLAGS)
    sqlmesh(project, "plan", "--auto-apply", "--no-prompts", "--execution-time", "3 hours ago")
    with dagster_project(tmp_path) as dagster:
        dagster.add_component("shop", {"project": str(project)})
        dagster.refresh()
        checks = ["t/kept:soft", "t/kept:hard", "t/kept:related", "t/shown:soft", "t/outside:soft"]
        assert set(dagster.launch(checks=checks).checks) == set(checks)
        change(project)
        dagster.refresh()
        record = dagster.launch()
    assert record.status_of("t/source") == "executed"
    assert record.status_of("t/kept") == record.status_of("t/shown") == "up_to_date"
    assert {name for name, result in record.checks.items() if "sqlmesh/carried_over" in result.metadata} == carried_over
    assert set(checks) & record.checks.keys() == carried_over
    other_tables = "because its audit has read other tables than the one that environment prod shows for its model"
    assert other_tables in record.log


def test_result_from_another_environment_does_not_hide_failure_in_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dagster_internals, "_PAGE", 1)
    model = f"MODEL (name t.kept, kind FULL, {YEARLY}, audits (soft, hard)); SELECT {{}} AS id"
    audits = {name: FILES[name] for name in ("audits/soft.sql", "audits/hard.sql")}
    project = write_project(tmp_path / "shop", {"models/kept.sql": model.format(1), **audits}, CONFIG_WITH_FLAGS)
    plan(project)
    write_project(project, {"models/kept.sql": model.format(2)}, CONFIG_WITH_FLAGS)
    plan(project, "dev")
    write_project(project, {"models/kept.sql": model.format(1)}, CONFIG_WITH_FLAGS)
    with dagster_project(tmp_path) as dagster:
        dagster.add_component("shop", {"project": str(project), "execution": {"environments": ["dev"]}})
        dagster.refresh()
        for (table,) in query(project, "SELECT table_name FROM duckdb_tables() WHERE table_name LIKE 't__kept__%'"):
            query(project, f"UPDATE sqlmesh__t.{table} SET id = -1 WHERE id = 1")
        assert dagster.launch(checks=["t/kept:hard"]).status == dg.DagsterRunStatus.FAILURE
        for _ in range(2):
            in_dev = dagster.launch(checks=["t/kept:hard"], ops={"sqlmesh_shop": {"environment": "dev"}})
            assert in_dev.status == dg.DagsterRunStatus.SUCCESS
        record = dagster.launch(assets=["t/kept"], checks=["t/kept:hard"])
    assert record.status == dg.DagsterRunStatus.FAILURE
    assert "t.kept: the check hard failed when its audit was last evaluated" in record.failures[0]
