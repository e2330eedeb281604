"""The last result of an audit is carried over only if the data and the audit are the same."""

import textwrap
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path

import dagster as dg
import pytest
from engine.signals import IS_OPEN
from harness import CONFIG, PAUSE, YEARLY_CRON, NewShop, is_free, rows_at_night, sqlmesh, wait_until, write_project

from dg_sqlmesh_component.dagster_internals import event_log

CREATE_FLAGS_TABLE = """
before_all:
  - CREATE SCHEMA IF NOT EXISTS ctl
  - CREATE TABLE IF NOT EXISTS ctl.flags AS SELECT 0 AS id
"""
BAD_ROWS = "SELECT * FROM @this_model WHERE id < 0"
YEARLY = f"cron '{YEARLY_CRON}', start '2020-01-01'"
FILES = {
    "models/source.sql": "MODEL (name t.source, kind FULL, cron '@hourly'); SELECT 1 AS id",
    "models/shown.sql": f"MODEL (name t.shown, kind VIEW, {YEARLY}, audits (soft)); SELECT id FROM t.source",
    "models/kept.sql": f"MODEL (name t.kept, kind FULL, {YEARLY}, audits (soft, hard, related)); "
    "SELECT id FROM t.source",
    "models/outside.sql": f"MODEL (name t.outside, kind VIEW, {YEARLY}, audits (soft)); SELECT id FROM ctl.flags",
    "audits/soft.sql": f"AUDIT (name soft, blocking false); {BAD_ROWS}",
    "audits/hard.sql": f"AUDIT (name hard); {BAD_ROWS}",
    "audits/related.sql": f"AUDIT (name related); {BAD_ROWS} OR id NOT IN (SELECT id FROM t.source)",
}
WITH_FLAGS = CONFIG + CREATE_FLAGS_TABLE


def do_nothing(project: Path) -> None:
    """The last result stays valid."""


def change_an_audit(project: Path) -> None:
    write_project(project, {"audits/soft.sql": f"AUDIT (name soft, blocking false); {BAD_ROWS} AND id > 0"}, WITH_FLAGS)
    sqlmesh(project, "plan", "--auto-apply", "--no-prompts")


def restate(project: Path) -> None:
    sqlmesh(project, "plan", "--restate-model", "t.kept", "--auto-apply", "--no-prompts")


@pytest.mark.parametrize(
    ("change", "carried_over"),
    [(do_nothing, {"t/kept:soft", "t/kept:hard"}), *rows_at_night((change_an_audit, set())), (restate, set())],
)
def test_result_is_carried_over_until_data_or_audit_changes(
    new_shop: NewShop, change: Callable[[Path], None], carried_over: set[str]
) -> None:
    """Some results are never carried over: of a view if its upstream model was computed in the same run or is an
    external table, and of an audit that reads other models.
    """
    shop = new_shop(FILES, WITH_FLAGS, planned_at=None)
    shop.plan(at="3 hours ago")
    shop.refresh()
    checks = ["t/kept:soft", "t/kept:hard", "t/kept:related", "t/shown:soft", "t/outside:soft"]
    assert set(shop.launch(checks=checks).checks) == set(checks)
    change(shop.project)
    shop.refresh()
    record = shop.launch()
    assert record.status_of("t/source") == "executed"
    assert record.status_of("t/kept") == record.status_of("t/shown") == "up_to_date"
    assert {name for name, result in record.checks.items() if "sqlmesh/carried_over" in result.metadata} == carried_over
    assert set(checks) <= record.checks.keys(), "the others are evaluated"


def test_result_of_other_environment_hides_no_failure_here(new_shop: NewShop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_log, "_PAGE", 1)
    model = f"MODEL (name t.kept, kind FULL, {YEARLY}, audits (soft, hard)); SELECT {{}} AS id"
    audits = {name: FILES[name] for name in ("audits/soft.sql", "audits/hard.sql")}
    shop = new_shop({"models/kept.sql": model.format(1), **audits}, WITH_FLAGS, execution={"environments": ["dev"]})
    write_project(shop.project, {"models/kept.sql": model.format(2)}, WITH_FLAGS)
    shop.plan("dev")
    write_project(shop.project, {"models/kept.sql": model.format(1)}, WITH_FLAGS)
    shop.refresh()
    for (table,) in shop.query("SELECT table_name FROM duckdb_tables() WHERE table_name LIKE 't__kept__%'"):
        shop.query(f"UPDATE sqlmesh__t.{table} SET id = -1 WHERE id = 1")
    shop.launch(checks=["t/kept:hard"]).failed()
    for _ in range(2):
        shop.launch(checks=["t/kept:hard"], ops={"sqlmesh_shop": {"environment": "dev"}}).succeeded()
    record = shop.launch(assets=["t/kept"], checks=["t/kept:hard"]).failed()
    assert "t.kept: the check hard failed when its audit was last evaluated" in record.failures[0]


@pytest.mark.advice("Execute this check alone to audit all intervals.")
def test_audit_that_passes_on_new_intervals_warns_of_older_rows_until_they_are_audited_again(new_shop: NewShop) -> None:
    bad = (datetime.now(timezone.utc) - timedelta(days=3)).date()
    shop = new_shop(
        {
            "models/days.sql": "MODEL (name t.days, kind INCREMENTAL_BY_TIME_RANGE (time_column ds), audits (soft)); "
            "SELECT @start_ds::DATE + i::INT AS ds, CASE WHEN ds = (SELECT day FROM raw.bad) THEN -1 ELSE 1 END AS id "
            "FROM range(0, 1 + (@end_ds::DATE - @start_ds::DATE)) AS r(i)",
            "audits/soft.sql": FILES["audits/soft.sql"],
        },
        tables={"raw.bad": f"SELECT DATE '{bad}' AS day"},
        planned_at="5 days ago",
        restate=True,
    )
    until = {"sqlmesh_shop": {"end": str(bad)}}
    assert shop.launch(ops=until).checks["t/days:soft"].description == (
        f"1 row failed in {bad - timedelta(days=2)} to {bad} (3 days)."
    )

    then = shop.launch().checks["t/days:soft"]

    assert (then.passed, then.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert f" Other intervals: 1 row failed in {bad - timedelta(days=2)} to {bad} (3 days) at " in str(then.description)
    assert str(shop.launch().checks["t/days:soft"].description).startswith(str(then.description))

    shop.query("UPDATE raw.bad SET day = NULL")
    again = {"sqlmesh_shop": {"restate": {"start": str(bad), "end": str(bad)}}}
    partly = shop.launch(ops=again).checks["t/days:soft"]
    assert not partly.passed
    assert f"may be in {bad - timedelta(days=2)} to {bad - timedelta(days=1)} (2 days), and" in str(partly.description)
    assert shop.launch(checks=["t/days:soft"]).checks["t/days:soft"].passed, "it audits all intervals"
    assert shop.launch().checks["t/days:soft"].passed


@pytest.mark.night(
    "unit/run/test_step_results.py::test_result_is_repeated_for_a_model_that_was_not_reached_unless_it_is_about_another_table"
)
def test_blocked_model_with_a_new_empty_table_has_no_passed_audit(new_shop: NewShop) -> None:
    """The last result is about the table before the plan."""
    audits = {name: FILES[name] for name in ("audits/soft.sql", "audits/hard.sql")}
    down = "MODEL (name t.down, kind FULL, cron '@hourly', audits (soft, hard)); SELECT id FROM t.up"
    up = "MODEL (name t.up, kind FULL, cron '@hourly'); SELECT {} AS id"
    shop = new_shop({"models/up.sql": up.format(1), "models/down.sql": down, **audits}, planned_at=None)
    sqlmesh(shop.project, "plan", "--auto-apply", "--no-prompts", "--skip-backfill")
    shop.refresh()
    assert shop.launch().succeeded().checks["t/down:hard"].passed
    write_project(shop.project, {"models/up.sql": up.format("'x'::INT")})
    sqlmesh(shop.project, "plan", "--auto-apply", "--no-prompts", "--skip-backfill")
    shop.refresh()

    record = shop.launch().failed()

    assert record.status_of("t/down") == "blocked"
    assert shop.query("SELECT count(*) FROM t.down") == [(0,)]
    results = [record.checks[check] for check in ("t/down:soft", "t/down:hard")]
    assert [result.passed for result in results] == [False, False]
    assert {result.severity for result in results} == {dg.AssetCheckSeverity.WARN}
    assert {str(result.description) for result in results} == {
        "Not evaluated: t.down was not executed, because a model upstream of it failed: t.up."
    }


def test_result_from_before_a_run_that_failed_between_the_rows_and_their_audit_is_not_repeated(
    new_shop: NewShop,
) -> None:
    """The table has the new rows. The audit raised an error for them."""
    model = "MODEL (name t.total, kind FULL, cron '@hourly', signals (is_open()), audits (roots))"
    files = {
        "models/total.sql": f"{model}; SELECT id FROM ctl.flags",
        "audits/roots.sql": "AUDIT (name roots); SELECT * FROM @this_model WHERE sqrt(id) > 9",
        "signals/__init__.py": IS_OPEN,
    }
    shop = new_shop(files, WITH_FLAGS)
    yesterday = str(datetime.now(timezone.utc).date() - timedelta(days=1))
    assert shop.launch(ops={"sqlmesh_shop": {"end": yesterday}}).succeeded().checks["t/total:roots"].passed
    shop.query("UPDATE ctl.flags SET id = -1")
    failed = shop.launch().failed()
    assert "cannot take square root" in failed.description_of("t/total:roots")
    assert shop.query("SELECT id FROM t.total") == [(-1,)]
    (shop.project / "closed").touch()

    for _ in range(2):
        record = shop.launch()

        assert record.status_of("t/total") == "waiting"
        check = record.checks["t/total:roots"]
        assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
        assert "because a later run has begun to compute it and failed before its audit" in str(check.description)


AUDIT_MACRO = f"""
import os
import signal
import time
from pathlib import Path

from sqlglot import exp
from sqlmesh import macro


@macro()
def begins(evaluator, date):
    Path("begun").write_text(date.name)


@macro()
def may_stop(evaluator):
    if evaluator.runtime_stage == "auditing":
{textwrap.indent(PAUSE, "        ")}
        if Path("kill").exists() and Path("begun").read_text() >= Path("kill").read_text():
            os.kill(os.getpid(), signal.SIGKILL)
    return exp.true()
"""
"""An audit with it waits, or kills SQLMesh's process from a day on, after the rows of a batch are committed."""
STOPPABLE = {
    "audits/positive.sql": "AUDIT (name positive); SELECT * FROM @this_model WHERE id < 0 AND @may_stop()",
    "macros/may_stop.py": AUDIT_MACRO,
}


@pytest.mark.night(
    "model/test_every_audit.py::test_no_history_of_three_actions_has_a_passed_check_of_rows_that_fail",
    "test_result_from_before_a_run_that_failed_between_the_rows_and_their_audit_is_not_repeated",
)
def test_result_from_before_a_process_that_was_killed_between_the_rows_and_their_audit_is_not_repeated(
    new_shop: NewShop,
) -> None:
    """Dagster has no result of the killed run. SQLMesh's state has the mark of the batch that was begun."""
    model = "MODEL (name t.total, kind FULL, cron '@hourly', signals (is_open()), audits (positive))"
    files = {"models/total.sql": f"{model}; SELECT id FROM ctl.flags", "signals/__init__.py": IS_OPEN}
    shop = new_shop({**files, **STOPPABLE}, WITH_FLAGS)
    yesterday = str(datetime.now(timezone.utc).date() - timedelta(days=1))
    assert shop.launch(ops={"sqlmesh_shop": {"end": yesterday}}).succeeded().checks["t/total:positive"].passed
    shop.query("UPDATE ctl.flags SET id = -1")
    (shop.project / "pause").touch()
    process = shop.start()
    wait_until((shop.project / "pausing").exists, process)
    process.kill()
    process.wait()
    wait_until(lambda: is_free(shop.project / "warehouse.duckdb"))
    assert shop.query("SELECT id FROM t.total") == [(-1,)]
    (shop.project / "pause").unlink()
    (shop.project / "closed").touch()

    record = shop.launch()

    assert record.status_of("t/total") == "waiting"
    check = record.checks["t/total:positive"]
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN), check.description
    (shop.project / "closed").unlink()
    assert shop.launch().failed().checks["t/total:positive"].severity is dg.AssetCheckSeverity.ERROR


def test_audit_of_a_whole_table_has_no_result_if_a_later_batch_was_begun_and_not_audited(new_shop: NewShop) -> None:
    kind = "INCREMENTAL_BY_UNIQUE_KEY (unique_key id, batch_size 1)"
    today = datetime.now(timezone.utc).date()
    model = f"MODEL (name t.total, kind {kind}, start '{today - timedelta(days=4)}', audits (positive))"
    shop = new_shop(
        {"models/total.sql": f"{model}; @begins(@start_ds); SELECT id FROM ctl.flags", **STOPPABLE}, WITH_FLAGS
    )
    (shop.project / "kill").write_text(str(today - timedelta(days=2)))

    record = shop.launch().failed()

    assert record.status_of("t/total") == "interrupted"
    check = record.checks["t/total:positive"]
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN), check.description


def test_result_of_a_view_is_not_repeated_by_a_run_that_ends_after_it_has_computed_a_table_of_the_view(
    new_shop: NewShop,
) -> None:
    """The view was not executed, and shows other rows."""
    hourly = "cron '@hourly'"
    files = {
        "models/source.sql": f"MODEL (name t.source, kind FULL, {hourly}); SELECT id FROM ctl.flags",
        "models/mortal.sql": f"MODEL (name t.mortal, kind FULL, {hourly}, audits (positive)); "
        "@begins(@start_ds); SELECT 1 AS id FROM t.source",
        "models/shown.sql": f"MODEL (name t.shown, kind VIEW, {hourly}, audits (soft)); "
        "SELECT source.id FROM t.source AS source CROSS JOIN t.mortal AS mortal",
        "audits/soft.sql": FILES["audits/soft.sql"],
    }
    shop = new_shop({**files, **STOPPABLE}, WITH_FLAGS)
    today = datetime.now(timezone.utc).date()
    yesterday = str(today - timedelta(days=1))
    assert shop.launch(ops={"sqlmesh_shop": {"end": yesterday}}).succeeded().checks["t/shown:soft"].passed
    shop.query("UPDATE ctl.flags SET id = -1")
    (shop.project / "kill").write_text("2020-01-01")

    record = shop.launch().failed()

    assert record.status_of("t/shown") == "interrupted"
    assert shop.query("SELECT id FROM t.shown") == [(-1,)]
    check = record.checks["t/shown:soft"]
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN), check.description


@pytest.mark.parametrize("by_shell", [False, True], ids=["killed between the rows and their audit", "by a shell"])
def test_passed_result_of_older_rows_is_not_repeated_by_a_run_that_fails_before_it_reaches_the_model(
    new_shop: NewShop, *, by_shell: bool
) -> None:
    """The check would be green, and the rows that it shows fail."""
    breaks = "CASE WHEN id = -2 THEN error('broken')::INT ELSE id END AS id"
    files = {
        "models/first.sql": f"MODEL (name t.first, kind FULL, cron '@hourly'); SELECT {breaks} FROM ctl.flags",
        "models/total.sql": "MODEL (name t.total, kind FULL, cron '@hourly', audits (positive)); "
        "SELECT flags.id FROM ctl.flags AS flags CROSS JOIN t.first AS first",
    }
    shop = new_shop({**files, **STOPPABLE}, WITH_FLAGS)
    if by_shell:
        text = STOPPABLE["audits/positive.sql"].replace("positive", "positive, blocking false")
        write_project(shop.project, {"audits/positive.sql": text}, WITH_FLAGS)
        shop.plan()
    days = [str(datetime.now(timezone.utc).date() - timedelta(days=ago)) for ago in (2, 1)]
    assert shop.launch(ops={"sqlmesh_shop": {"end": days[0]}}).succeeded().checks["t/total:positive"].passed
    shop.query("UPDATE ctl.flags SET id = -1")
    if by_shell:
        sqlmesh(shop.project, "run", "--end", days[1])
    else:
        (shop.project / "pause").touch()
        process = shop.start(ops={"sqlmesh_shop": {"end": days[1]}})
        wait_until((shop.project / "pausing").exists, process)
        process.kill()
        process.wait()
        wait_until(lambda: is_free(shop.project / "warehouse.duckdb"))
        (shop.project / "pause").unlink()
    assert shop.query("SELECT id FROM t.total") == [(-1,)]
    if not by_shell:
        for config in ({"start": " "}, {"dry_run": True}):  # it is refused, and it reads no rows
            blind = shop.launch(ops={"sqlmesh_shop": config})
            assert not blind.checks["t/total:positive"].passed, "no later run has evaluated it"
    shop.query("UPDATE ctl.flags SET id = -2")

    record = shop.launch().failed()

    assert record.status_of("t/total") == "blocked"
    check = record.checks["t/total:positive"]
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN), check.description
