"""`dry_run` in the run config shows what a run would do with each model, and why. It computes and records nothing."""

import time
from typing import Any

import clock
import dagster as dg
import pytest
from harness import CONFIG, ONE_EXECUTOR, YEARLY_CRON, NewShop, RunRecord, Shop

OP = "sqlmesh_shop"
BY_DAY = "kind INCREMENTAL_BY_TIME_RANGE (time_column ds)"
DAYS = "SELECT @start_ds::DATE + i::INT AS ds, 1 AS n FROM range(0, 1 + (@end_ds::DATE - @start_ds::DATE)) AS r(i)"
READS = "SELECT ds, n FROM raw.orders WHERE ds BETWEEN @start_ds AND @end_ds"
SIGNALS = """
import typing as t
from pathlib import Path

from sqlmesh import signal


@signal()
def never(batch) -> t.Union[bool, list]:
    if Path("broken").exists():
        raise ValueError("no catalog")
    return False
"""
MODELS = {
    "signals/__init__.py": SIGNALS,
    "models/orders.sql": f"MODEL (name raw.orders, {BY_DAY}); {DAYS}",
    "models/revenue.sql": f"MODEL (name marts.revenue, {BY_DAY}); {READS}",
    "models/yearly.sql": f"MODEL (name raw.yearly, kind FULL, cron '{YEARLY_CRON}', start '2 years ago'); SELECT 1 n",
    "models/late.sql": f"MODEL (name raw.late, {BY_DAY}, signals (never())); {DAYS}",
    "models/seed.sql": "MODEL (name raw.countries, kind SEED (path '../seeds/countries.csv')); ",
    "seeds/countries.csv": "code\nDE\n",
}


def dry_run(
    shop: Shop, executor: str = "in_process", config: dict[str, Any] | None = None, **selection: Any
) -> RunRecord:
    return shop.launch(executor, ops={OP: {"dry_run": True, **(config or {})}}, **selection)


def predictions(record: RunRecord) -> dict[str, dict[str, Any]]:
    assert record.status is dg.DagsterRunStatus.SUCCESS, record.failures
    return {row["model"]: row for row in record.logged["sqlmesh/dry_run_json"]}


def outcomes(record: RunRecord) -> dict[str, str]:
    return {model: row["outcome"] for model, row in predictions(record).items()}


@pytest.mark.parametrize("executor", ONE_EXECUTOR)
def test_dry_run_predicts_the_outcomes_of_the_next_run_and_changes_nothing(new_shop: NewShop, executor: str) -> None:
    shop = new_shop(MODELS)
    shop.launch(assets=["raw/yearly"])
    before = shop.state()
    record = dry_run(shop, executor)
    assert shop.state() == before
    assert not record.materializations
    assert not record.observations
    assert outcomes(record) == {
        "raw.orders": "executed",
        "marts.revenue": "executed",
        "raw.yearly": "up_to_date",
        "raw.late": "waiting",
        "raw.countries": "up_to_date",
    }
    run = shop.launch(executor)
    keys = {model: model.replace(".", "/") for model in outcomes(record)}
    assert {model: run.status_of(key) for model, key in keys.items()} == outcomes(record)
    for model in ("raw.orders", "marts.revenue"):
        computed = run.materializations[keys[model]].metadata
        predicted = predictions(record)[model]
        assert predicted["intervals"] == computed["sqlmesh/intervals"].value
        assert predicted["batches"] == (computed["sqlmesh/batches"].value if "sqlmesh/batches" in computed else 1)


def test_dry_run_gives_the_reason_of_each_prediction_in_a_table_and_in_the_log(new_shop: NewShop) -> None:
    ended = f"MODEL (name raw.ended, {BY_DAY}, start '2020-01-01', end '2020-01-05'); {DAYS}"
    rolling = f"MODEL (name raw.rolling, {BY_DAY}, end '5 days ago'); {DAYS}"
    shop = new_shop({**MODELS, "models/ended.sql": ended, "models/rolling.sql": rolling})
    record = dry_run(shop, assets=["raw/orders", "raw/yearly", "raw/late", "raw/ended", "raw/rolling"])
    reasons = {model: row["why"] for model, row in predictions(record).items()}
    assert reasons["raw.orders"].startswith("1 batch to compute: 20")
    assert reasons["raw.yearly"].startswith("Nothing to do: all complete intervals are computed. Next due at 20")
    assert reasons["raw.ended"] == "Nothing to do: all complete intervals are computed."
    assert reasons["raw.rolling"].startswith("Nothing to do: all complete intervals are computed. Next due at 20")
    assert reasons["raw.late"] == "It waits: its signal never has no interval ready."
    table = record.logged["sqlmesh/dry_run"]
    columns = ("model", "outcome", "why", "seconds")
    assert [{**row.data, "why": str(row.data["why"]).replace("\n", " ")} for row in table.records] == [
        {column: row[column] for column in columns} for row in predictions(record).values()
    ]
    assert {len(line) > 32 for row in table.records for line in str(row.data["why"]).split("\n")} == {False}
    fields = {"model", "outcome", "why", "intervals", "batches", "seconds", "changed_locally"}
    assert all(row.keys() == fields for row in predictions(record).values())
    assert "    raw.late: waiting. It waits: its signal never has no interval ready." in record.log
    assert "Outcomes of a run now: 3 up to date, 1 executed, 1 waiting. Nothing was computed." in record.log

    (alone,) = predictions(dry_run(shop, assets=["marts/revenue"])).values()
    assert alone["outcome"] == "waiting"
    assert "models upstream have pending intervals and are not part of this step: raw.orders" in alone["why"]

    assert predictions(record)["raw.orders"]["seconds"] is None
    shop.launch(ops={OP: {"end": "2 days ago"}})
    assert predictions(dry_run(shop))["raw.orders"]["seconds"] >= 0, "estimated from the run before"


def test_relative_range_is_that_at_the_start_of_the_run_however_long_the_step_has_waited(
    new_shop: NewShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = new_shop(MODELS)
    monkeypatch.setenv(clock.VARIABLE, str(time.time() - time.monotonic() + 86_400))  # workers only
    bounds = {"start": "3 days ago", "end": "1 day ago"}
    dry = dry_run(shop, config=bounds, assets=["raw/orders"])
    run = shop.launch(ops={OP: bounds}, assets=["raw/orders"])
    computed = str(run.materializations["raw/orders"].metadata["sqlmesh/intervals"].value)
    for record, intervals in ((dry, predictions(dry)["raw.orders"]["intervals"]), (run, computed)):
        assert f"The run config asks for the range from {intervals[:10]}T00:00:00Z" in record.log
        assert intervals.endswith("(2 days)")


def test_dry_run_names_a_blocking_audit_that_failed_and_what_it_may_block(new_shop: NewShop) -> None:
    audited = MODELS["models/orders.sql"].replace(BY_DAY, f"{BY_DAY}, audits (as_said)")
    audit = "AUDIT (name as_said); SELECT * FROM @this_model WHERE (SELECT max(n) FROM ctl.fails) > 0"
    files = {**MODELS, "models/orders.sql": audited, "audits/as_said.sql": audit}
    shop = new_shop(files, tables={"ctl.fails": "SELECT 0 AS n"})
    shop.query("UPDATE ctl.fails SET n = 1")
    shop.launch().failed()
    record = dry_run(shop)
    rows = predictions(record)
    assert rows["raw.orders"]["outcome"] == "executed"
    assert rows["raw.orders"]["why"].endswith("The last time, its blocking audit failed: as_said.")
    assert rows["marts.revenue"]["outcome"] == "blocked"
    assert rows["marts.revenue"]["why"].startswith("A blocking audit of raw.orders failed the last time.")
    assert not record.checks["raw/orders:as_said"].passed
    assert "Repeated, because this was a dry run" in record.description_of("raw/orders:as_said")
    shop.query("UPDATE ctl.fails SET n = 0")
    assert shop.launch().status_of("marts/revenue") == "executed"
    assert outcomes(dry_run(shop))["marts.revenue"] == "up_to_date"


@pytest.mark.night(
    "engine/test_carried_over.py::test_result_is_carried_over_until_data_or_audit_changes",
    "test_dry_run_names_a_blocking_audit_that_failed_and_what_it_may_block",
)
def test_audit_that_reads_other_tables_is_evaluated_in_each_run_and_repeated_by_a_dry_run(new_shop: NewShop) -> None:
    audited = MODELS["models/orders.sql"].replace(BY_DAY, f"{BY_DAY}, audits (known)")
    audit = "AUDIT (name known, blocking false); SELECT * FROM @this_model JOIN ctl.unknown USING (n)"
    files = {**MODELS, "models/orders.sql": audited, "audits/known.sql": audit}
    shop = new_shop(files, tables={"ctl.unknown": "SELECT 1 AS n"})
    check = dg.AssetCheckKey(dg.AssetKey(["raw", "orders"]), "known")
    assert not shop.launch().checks["raw/orders:known"].passed
    again = shop.launch().checks["raw/orders:known"]
    assert not again.passed
    assert "sqlmesh/carried_over" not in again.metadata, "its audit reads another table, so it is evaluated again"
    record = dry_run(shop)
    assert "Repeated, because this was a dry run" in record.description_of("raw/orders:known")
    assert record.checks["raw/orders:sqlmesh_execution_status"].passed
    history = shop.instance.event_log_storage.get_asset_check_execution_history(check, limit=3)
    assert [execution.status.value for execution in history] == ["FAILED", "FAILED", "FAILED"]


@pytest.mark.night(
    "unit/run/test_step_results.py", "test_dry_run_without_a_result_fails_and_repeats_the_last_results_of_checks"
)
def test_check_without_a_result_about_the_data_is_evaluated_by_a_run_and_not_by_a_dry_run(new_shop: NewShop) -> None:
    audited = MODELS["models/revenue.sql"].replace(BY_DAY, f"{BY_DAY}, audits (known)")
    files = {
        **MODELS,
        "models/orders.sql": f"MODEL (name raw.orders, {BY_DAY}); {DAYS} WHERE (SELECT max(ok) FROM ctl.ok)::INT > 0",
        "models/revenue.sql": audited,
        "audits/known.sql": "AUDIT (name known); SELECT * FROM @this_model WHERE n = 2",
    }
    shop = new_shop(files, tables={"ctl.ok": "SELECT '1' AS ok"})
    shop.query("UPDATE ctl.ok SET ok = 'no number'")
    failed = shop.launch()
    assert "sqlmesh/not_evaluated" in failed.checks["marts/revenue:known"].metadata
    before_skip = dry_run(shop).checks["marts/revenue:known"]
    assert before_skip.description == failed.description_of("marts/revenue:known")
    shop.query("UPDATE ctl.ok SET ok = '1'")
    shop.sqlmesh("run")
    assert not dry_run(shop).checks["marts/revenue:known"].passed
    assert shop.launch().checks["marts/revenue:known"].passed


def test_dry_run_tells_what_is_not_promoted_and_what_has_changed_locally(new_shop: NewShop) -> None:
    shop = new_shop(MODELS)
    (shop.project / "models/new.sql").write_text("MODEL (name raw.new, kind FULL); SELECT 1 AS n")
    (shop.project / "models/orders.sql").write_text(MODELS["models/orders.sql"].replace("1 AS n", "2 AS n"))
    rows = predictions(dry_run(shop))
    assert rows["raw.new"]["outcome"] == "not_in_environment"
    assert rows["raw.orders"]["changed_locally"] == "data"
    assert rows["raw.orders"]["why"].endswith(
        "The manifest has another version (data differs): the promoted version runs."
    )
    assert rows["raw.late"]["changed_locally"] is None


def test_dry_run_of_a_restatement_shows_its_ranges_and_what_it_adds_or_why_it_is_refused(new_shop: NewShop) -> None:
    shop = new_shop(MODELS, CONFIG.replace("6 days ago", "'2026-01-01'"), restate=True)
    shop.launch()
    before = shop.state()
    config = {"restate": {"start": "2026-02-10", "end": "2026-02-11"}}
    record = dry_run(shop, config=config, assets=["raw/orders"])
    rows = predictions(record)
    assert set(rows) == {"raw.orders", "marts.revenue"}
    assert {row["intervals"] for row in rows.values()} == {"2026-02-10 to 2026-02-11 (2 days)"}
    assert "Not selected, but downstream of a restated model" in record.log
    assert "sqlmesh/estimated_seconds" in record.logged
    assert shop.state() == before
    assert not record.materializations

    shop.configure(restate={"max_intervals": 1})
    refused = dry_run(shop, config=config, assets=["raw/orders"]).succeeded()
    assert "`restate.max_intervals` in defs.yaml is 1. Nothing was computed." in refused.logged["sqlmesh/refusal"]
    assert "a run would be refused" in refused.log


def test_dry_run_without_a_result_fails_and_repeats_the_last_results_of_checks(new_shop: NewShop) -> None:
    shop = new_shop(MODELS)
    broken = shop.project / "broken"
    broken.touch()
    record = dry_run(shop).failed()
    assert "because the signal never of warehouse.raw.late raised an error" in record.failures[0]
    assert "ValueError" in record.failures[0]
    assert record.not_evaluated_reasons == {"Not evaluated: this was a dry run."}

    broken.unlink()
    before = shop.launch().checks
    broken.touch()
    checks = dry_run(shop).checks
    assert {name: check.passed for name, check in checks.items()} == {
        name: check.passed for name, check in before.items()
    }
    assert all("Repeated, because this was a dry run." in str(check.description) for check in checks.values())


@pytest.mark.advice("Correct the name, or leave it out.", "Select the assets too, or leave it out.")
def test_run_config_of_another_op_and_a_dry_run_of_checks_are_refused_and_compute_nothing(new_shop: NewShop) -> None:
    shop = new_shop(MODELS)
    before = shop.state()

    def launch(*ops: str) -> RunRecord:
        """Launch as `dg launch --assets`: Dagster itself refuses such a config for a job that somebody has defined."""
        job = shop.refresh().resolve_implicit_global_asset_job_def()
        config = {"ops": {op: {"config": {"dry_run": True}} for op in ops}}
        run = job.execute_in_process(instance=shop.instance, run_config=config, raise_on_error=False)
        return shop.run_record(run.run_id)

    record = launch("sqlmesh_shopp").failed()
    [failure] = record.failures
    assert "configures sqlmesh_shopp under `ops`, and this run has no such op" in failure
    assert "Did you mean sqlmesh_shop?" in failure
    assert record.not_evaluated_reasons == {"Not evaluated: the run was refused."}
    assert shop.state() == before
    for ops in (("sqlmesh_shopp", OP), (OP,)):
        launch(*ops).succeeded()
        assert shop.state() == before
    of_checks = dry_run(shop, checks=["raw/orders:sqlmesh_execution_status"]).failed()
    assert "The run config sets dry_run, but only checks are selected" in of_checks.failures[0]
    dry_run(shop, assets=["raw/orders"], checks=["raw/orders:sqlmesh_execution_status"]).succeeded()
    shop.launch(checks=["raw/orders:sqlmesh_execution_status"]).succeeded()


def test_dry_run_in_another_environment_predicts_that_environment(new_shop: NewShop) -> None:
    shop = new_shop(MODELS, execution={"environments": ["dev"]})
    shop.plan("dev", "--include-unmodified")
    record = dry_run(shop, config={"environment": "dev"})
    assert outcomes(record)["raw.orders"] == "executed"
    assert "Dry run of environment dev." in record.log
