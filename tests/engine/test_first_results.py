"""A selected audit has a result about the current data, also if a plan or a shell has computed the data."""

from datetime import datetime, timedelta, timezone

import dagster as dg
import pytest
from engine.plan_jobs import APPLY, PLAN, launch, report_of
from engine.signals import IS_OPEN
from harness import CONFIG, ONE_EXECUTOR, NewShop, Shop, at_night

DAYS = (
    "MODEL (name t.days, kind INCREMENTAL_BY_TIME_RANGE (time_column day), "
    "audits (not_null(columns := (day)), small)); "
    "SELECT day, n FROM raw.days WHERE day BETWEEN @start_ds AND @end_ds"
)
SMALL = "AUDIT (name small{more}); SELECT * FROM @this_model WHERE n > 5"
TABLES = {"raw.days": "SELECT CURRENT_DATE - range::INT AS day, range AS n FROM range(4)"}


def files(more: str = "") -> dict[str, str]:
    return {"models/days.sql": DAYS, "audits/small.sql": SMALL.format(more=more)}


@pytest.mark.parametrize("executor", ONE_EXECUTOR)
def test_audits_of_data_that_a_plan_has_computed_are_evaluated_once(new_shop: NewShop, executor: str) -> None:
    shop = new_shop(files(), CONFIG, tables=TABLES, planned_at="now")

    first = shop.launch(executor).succeeded()
    second = shop.launch(executor).succeeded()

    assert first.status_of("t/days") == second.status_of("t/days") == "up_to_date"
    for name in ("t/days:small", "t/days:not_null_day"):
        assert first.checks[name].passed
        assert "sqlmesh/carried_over" not in first.checks[name].metadata
        assert "sqlmesh/carried_over" in second.checks[name].metadata


def test_audits_are_evaluated_again_after_a_shell_has_computed_the_data_again(new_shop: NewShop) -> None:
    shop = new_shop(files(", blocking false"), CONFIG, tables=TABLES, planned_at="now")
    assert shop.launch().succeeded().checks["t/days:small"].passed
    shop.query("UPDATE raw.days SET n = 9 WHERE n = 2")
    shop.plan("--restate-model", "t.days", at=None)

    record = shop.launch().succeeded()

    assert record.status_of("t/days") == "up_to_date"
    assert not record.checks["t/days:small"].passed


def test_a_blocking_audit_that_fails_on_data_from_outside_fails_the_run(new_shop: NewShop) -> None:
    shop = new_shop(files(), CONFIG, tables=TABLES, planned_at="now")
    [(table,)] = shop.query("SELECT table_name FROM duckdb_tables() WHERE schema_name = 'sqlmesh__t'")
    shop.query(f"UPDATE sqlmesh__t.{table} SET n = 9 WHERE n = 2")

    record = shop.launch().failed()

    check = record.checks["t/days:small"]
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.ERROR)
    [failure] = record.failures
    assert "t.days: audit small failed: 1 row." in failure


def test_a_warning_does_not_fail_a_run_that_has_nothing_to_do(new_shop: NewShop) -> None:
    more = ", blocking false"
    tables = {"raw.days": "SELECT CURRENT_DATE - range::INT AS day, 9 AS n FROM range(4)"}
    shop = new_shop(files(more), CONFIG, tables=tables, planned_at="now")
    check = shop.launch().succeeded().checks["t/days:small"]
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)


@pytest.mark.advice("{} No earlier result {}. Execute this check alone to evaluate it.")
def test_check_of_a_model_that_waits_and_has_no_result_says_why(new_shop: NewShop) -> None:
    waits = DAYS.replace("audits (", "signals [is_open()], audits (")
    more = {"models/days.sql": waits, "signals/__init__.py": IS_OPEN}
    shop = new_shop({**files(), **more}, CONFIG, tables=TABLES, planned_at="2 days ago")
    (shop.project / "closed").touch()

    record = shop.launch()

    assert record.status_of("t/days") == "waiting"
    check = record.checks["t/days:small"]
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
    status = record.description_of("t/days:sqlmesh_execution_status")
    assert check.description == (
        f"Not evaluated: {status} No earlier result is repeated, because no run of Dagster has evaluated its audit. "
        "Execute this check alone to evaluate it."
    )
    alone = shop.launch(checks=["t/days:small"]).checks["t/days:small"]
    assert not str(alone.description).startswith("Not evaluated")


# -- rows from outside, in a run that computes other rows --------------------------------------------

PLANNED, OWN, OUTSIDE = ((datetime.now(timezone.utc) - timedelta(days=days)).date() for days in (5, 4, 3))
NEW = [OUTSIDE + timedelta(days=1), OUTSIDE + timedelta(days=2)]


def with_outside_day(new_shop: NewShop, more: str = "", value: int = 9, **attributes: object) -> Shop:
    """A plan has computed a day, a run of ours the next one, and a shell the third one."""
    since = DAYS.replace("(name t.days,", f"(name t.days, start '{PLANNED}',")
    tables = {"raw.days": "SELECT CURRENT_DATE - range::INT AS day, 0 AS n FROM range(8)"}
    shop = new_shop(
        {**files(more), "models/days.sql": since}, CONFIG, tables=tables, planned_at=f"{OWN} 01:00", **attributes
    )
    first = shop.launch(ops={"sqlmesh_shop": {"end": str(OWN)}}).succeeded()
    assert first.checks["t/days:small"].description == f"No failing rows in {PLANNED} to {OWN} (2 days)."
    shop.query(f"UPDATE raw.days SET n = {value} WHERE day = '{OUTSIDE}'")
    shop.sqlmesh("run", "--end", str(OUTSIDE))
    return shop


def test_a_run_that_computes_newer_rows_also_audits_those_that_a_shell_has_computed(new_shop: NewShop) -> None:
    shop = with_outside_day(new_shop, ", blocking false")

    record = shop.launch().succeeded()

    assert record.status_of("t/days") == "executed"
    check = record.checks["t/days:small"]
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert check.description == f"1 row failed in {OUTSIDE}."
    assert record.checks["t/days:not_null_day"].description == f"No failing rows in {OUTSIDE} to {NEW[1]} (3 days)."
    assert not shop.launch().succeeded().checks["t/days:small"].passed


@pytest.mark.night(
    "model/test_every_audit.py::test_no_history_of_three_actions_has_a_passed_check_of_rows_that_fail",
    "test_a_run_that_computes_newer_rows_also_audits_those_that_a_shell_has_computed",
)
def test_a_run_audits_rows_of_a_plan_once_and_rows_of_a_run_never_again(new_shop: NewShop) -> None:
    shop = with_outside_day(new_shop, value=0)
    shop.launch(ops={"sqlmesh_shop": {"end": str(NEW[0])}}).succeeded()
    record = shop.launch().succeeded()

    assert record.checks["t/days:small"].description == f"No failing rows in {NEW[1]}."


@pytest.mark.night(
    "model/test_every_audit.py::test_no_history_of_three_actions_has_a_passed_check_of_rows_that_fail",
    "test_a_run_that_computes_newer_rows_also_audits_those_that_a_shell_has_computed",
)
def test_a_run_does_not_audit_rows_that_a_job_has_applied(new_shop: NewShop) -> None:
    shop = with_outside_day(new_shop, value=0, deploy=True)
    text = (shop.project / "models/days.sql").read_text()
    (shop.project / "models/days.sql").write_text(text.replace("SELECT day, n", "SELECT day, n + 0 AS n"))
    digest = report_of(launch(shop, PLAN))["digest"]
    applied = launch(shop, APPLY, digest=digest).succeeded()
    assert f"No failing rows in {PLANNED} to {OUTSIDE} (3 days)." in str(applied.checks["t/days:small"].description)

    assert (
        shop.launch().succeeded().checks["t/days:small"].description
        == f"No failing rows in {NEW[0]} to {NEW[1]} (2 days)."
    )


@pytest.mark.parametrize("fails", [False, *at_night(True)])
def test_a_blocking_audit_that_fails_on_rows_of_a_shell_fails_the_run_that_computes_newer_ones(
    new_shop: NewShop, fails: bool
) -> None:
    shop = with_outside_day(new_shop, value=0)
    table = shop.query("SELECT table_name FROM duckdb_tables() WHERE schema_name = 'sqlmesh__t'")[0][0]
    shop.query(f"UPDATE sqlmesh__t.{table} SET n = 9 WHERE day = '{OUTSIDE}'")
    if fails:  # the audits of the older rows have a result nevertheless
        shop.query(f"UPDATE raw.days SET n = 9 WHERE day = '{NEW[0]}'")

    record = shop.launch().failed()

    assert record.status_of("t/days") == ("audit_failed" if fails else "executed")
    check = record.checks["t/days:small"]
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.ERROR)
    where = f"2 rows failed in {OUTSIDE} to {NEW[1]}" if fails else f"1 row failed in {OUTSIDE}"
    assert str(check.description).startswith(where)
    assert "t.days: audit small failed: " in record.failures[0] or fails


FLAKY = f"""
from pathlib import Path

import pandas as pd
from sqlmesh import model
from sqlmesh.core.model.kind import ModelKindName


@model(
    "t.days",
    kind={{"name": ModelKindName.INCREMENTAL_BY_TIME_RANGE, "time_column": "day", "batch_size": 1}},
    start="{PLANNED}",
    columns={{"day": "date", "n": "int"}},
    audits=[("small", {{}})],
)
def execute(context, start, end, execution_time, **kwargs):
    if str(start.date()) == "{NEW[1]}" and Path("is_flaky").exists():
        Path("is_flaky").unlink()
        raise ConnectionError("the connection was lost")
    yield pd.DataFrame({{"day": [start.date()], "n": [9 if start.date() >= pd.Timestamp("{OUTSIDE}").date() else 0]}})
"""


@pytest.mark.night(
    "model/test_every_audit.py::test_no_history_of_three_actions_has_a_passed_check_of_rows_that_fail",
    "test_a_run_that_computes_newer_rows_also_audits_those_that_a_shell_has_computed",
)
def test_a_retry_audits_no_rows_twice(new_shop: NewShop) -> None:
    """The first attempt has computed and audited a day, and audited that of the shell before."""
    models = {"models/days.py": FLAKY, "audits/small.sql": SMALL.format(more=", blocking false")}
    retries = {"retries": {"max_retries": 1, "delay": 0}}
    shop = new_shop(models, CONFIG, planned_at=f"{OWN} 01:00", execution=retries)
    shop.launch(ops={"sqlmesh_shop": {"end": str(OWN)}}).succeeded()
    shop.sqlmesh("run", "--end", str(OUTSIDE))
    (shop.project / "is_flaky").touch()

    record = shop.launch().succeeded()

    assert record.materializations["t/days"].metadata["sqlmesh/attempts"].value == 2
    assert str(record.checks["t/days:small"].description).startswith(
        f"3 rows failed in {OUTSIDE} to {NEW[1]} (3 days)."
    )
