"""Retries inside the step: what may be gone is tried again, what is done is not done twice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from harness import CONFIG, DagsterProject, dagster_project, plan, state, write_project

FLAKY = """
import os
import signal
import typing as t
from pathlib import Path

import pandas as pd
from sqlmesh import model


@model("t.flaky", kind="FULL", columns={"id": "int"}, depends_on=["t.fine"])
def execute(context, start, end, execution_time, **kwargs: t.Any) -> pd.DataFrame:
    with open("attempts", "a") as attempts:
        attempts.write(".")
    for fault in ("lose_connection", "kill"):
        if Path(fault).exists():
            Path(fault).unlink()
            if fault == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise ConnectionError("the connection was lost")
    return pd.DataFrame({"id": [1]})
"""
FILES = {
    "models/fine.sql": "MODEL (name t.fine, kind FULL); SELECT 1 AS id",
    "models/flaky.py": FLAKY,
    "models/below_flaky.sql": "MODEL (name t.below_flaky, kind FULL); SELECT id FROM t.flaky",
    "models/broken.sql": "MODEL (name t.broken, kind FULL, start '2026-01-01'); "
    "SELECT CASE WHEN @execution_ds > '{today}' THEN error('boom') ELSE '' END AS never",
    "models/below_both.sql": "MODEL (name t.below_both, kind FULL); SELECT f.id FROM t.flaky AS f, t.broken",
}
HEALTHY = ["t/fine", "t/flaky", "t/below_flaky"]


@pytest.fixture
def flaky(tmp_path: Path) -> Iterator[tuple[Path, DagsterProject]]:
    files = {**FILES, "models/broken.sql": FILES["models/broken.sql"].format(today=_two_days_ago())}
    project = write_project(tmp_path / "flaky", files)
    plan(project)
    (project / "attempts").unlink()
    with dagster_project(tmp_path) as dagster:
        dagster.declare("flaky", {"project": str(project), "execution": {"retries": {"max_retries": 2, "delay": 0.1}}})
        dagster.refresh()
        yield project, dagster


def _two_days_ago() -> str:
    from datetime import datetime, timedelta, timezone

    return (datetime.now(timezone.utc) - timedelta(days=2)).strftime("%Y-%m-%d")


@pytest.mark.attribute("execution.retries", "execution.retries.max_retries", "execution.retries.delay")
def test_only_what_a_transient_error_left_open_is_tried_again(flaky: tuple[Path, DagsterProject]) -> None:
    project, dagster = flaky
    (project / "lose_connection").touch()
    before = state(project)["intervals"]
    told = dagster.launch("multiprocess")
    after = state(project)["intervals"]
    assert {one: told.status_of(one) for one in ["t/broken", "t/below_both"]} == {
        "t/broken": "failed",
        "t/below_both": "blocked",
    }
    assert set(told.materializations) == set(HEALTHY)
    assert {fqn for fqn in after if after[fqn] != before[fqn]} == {f'"warehouse"."t"."{one[2:]}"' for one in HEALTHY}
    attempts = {one: told.materializations[one].metadata.get("sqlmesh/attempts") for one in HEALTHY}
    assert {one: said and said.value for one, said in attempts.items()} == {
        "t/fine": None,
        "t/flaky": 2,
        "t/below_flaky": 2,
    }
    assert (project / "attempts").read_text() == ".."
    assert "Attempt 2 of 3 starts in 0.1 seconds" in told.log
    assert "Attempt 3" not in told.log  # nothing transient is left, and the persistent error is not tried again
    [failure] = told.failures
    assert "1 failed, 1 blocked, 3 executed" in failure
    assert "boom" in failure


def test_a_worker_that_was_killed_is_tried_again_and_does_what_is_missing(
    flaky: tuple[Path, DagsterProject],
) -> None:
    project, dagster = flaky
    (project / "kill").touch()
    told = dagster.launch("in_process", assets=HEALTHY)
    assert told.status == dg.DagsterRunStatus.SUCCESS, told.failures
    assert set(told.materializations) == set(HEALTHY)
    assert "sqlmesh/attempts" not in told.materializations["t/fine"].metadata
    assert (project / "attempts").read_text() == ".."
    assert "SIGKILL" in told.log


@pytest.mark.parametrize(("fails_at", "is_fine"), [("once.", True), ("once%", False)], ids=["the first", "each"])
def test_a_statement_that_fails_behind_a_transient_error_is_repeated_behind_the_next_attempt(
    tmp_path: Path, fails_at: str, is_fine: bool
) -> None:
    statement = f"SELECT CASE WHEN content LIKE '{fails_at}' THEN error('too early') END FROM read_text('attempts')"
    files = {name: FILES[name] for name in ("models/fine.sql", "models/flaky.py")}
    project = write_project(tmp_path / "shop", files, f"{CONFIG}\nafter_all:\n  - {statement}\n")
    plan(project)
    (project / "attempts").write_text("once")
    (project / "lose_connection").touch()
    with dagster_project(tmp_path) as dagster:
        dagster.declare("shop", {"project": str(project), "execution": {"retries": {"max_retries": 2, "delay": 0}}})
        dagster.refresh()
        told = dagster.launch()
    assert (told.status == dg.DagsterRunStatus.SUCCESS) is is_fine, told.failures
    assert set(told.materializations) == {"t/fine", "t/flaky"}
    assert (
        "starts in 0.0 seconds, because of transient errors. It computes the pending intervals of t.flaky." in told.log
    )
    assert is_fine or "too early" in told.failures[0]


def test_checks_alone_are_evaluated_also_where_a_statement_behind_the_models_failed_which_stays_said(
    tmp_path: Path,
) -> None:
    files = {
        "models/fine.sql": "MODEL (name t.fine, kind FULL); SELECT 1 AS id",
        "models/audited.sql": "MODEL (name t.audited, kind FULL, audits (not_null(columns := (id)))); SELECT 1 AS id",
    }
    statement = "SELECT CASE WHEN count(*) > 0 THEN error('too late') END FROM glob('is_late')"
    project = write_project(tmp_path / "shop", files, f"{CONFIG}\nafter_all:\n  - {statement}\n")
    plan(project)
    (project / "is_late").touch()
    with dagster_project(tmp_path) as dagster:
        dagster.declare("shop", {"project": str(project), "execution": {"retries": {"max_retries": 1, "delay": 0}}})
        dagster.refresh()
        told = dagster.launch(assets=["t/fine"], checks=["t/audited:not_null_id"])
    assert told.status == dg.DagsterRunStatus.FAILURE
    assert "too late" in told.failures[0]
    assert told.checks["t/audited:not_null_id"].passed


def test_without_retries_a_transient_error_is_a_failure_at_once(flaky: tuple[Path, DagsterProject]) -> None:
    project, dagster = flaky
    dagster.declare("flaky", {"project": str(project)})
    (project / "lose_connection").touch()
    told = dagster.launch("in_process", assets=HEALTHY)
    assert told.status == dg.DagsterRunStatus.FAILURE
    assert (told.status_of("t/flaky"), told.status_of("t/below_flaky")) == ("failed", "blocked")
    again = dagster.launch("in_process", assets=HEALTHY)
    assert (again.status_of("t/fine"), set(again.materializations)) == ("up_to_date", {"t/flaky", "t/below_flaky"})
