"""`restate` in the run config computes a range again, and automatic restatements are in order across runs."""

import datetime
import re
from functools import partial
from typing import Any

import dagster as dg
import pytest
import yaml
from harness import CONFIG, ONE_EXECUTOR, YEARLY_CRON, NewShop, Shop, at_night, rows_at_night
from postgres import postgres_server
from story_projects import Project

BY_DAY = "kind INCREMENTAL_BY_TIME_RANGE (time_column ds)"
DAYS = "range(0, 1 + (@end_ds::DATE - @start_ds::DATE)) AS r(i)"
MODELS = {
    "models/orders.sql": f"MODEL (name raw.orders, {BY_DAY}, audits (not_null(columns := (n)))); "
    f"SELECT @start_ds::DATE + i::INT AS ds, (SELECT max(n) FROM ctl.source) AS n FROM {DAYS}",
    "models/revenue.sql": f"MODEL (name marts.revenue, {BY_DAY}, audits (not_null(columns := (n)))); "
    "SELECT ds, n FROM raw.orders WHERE ds BETWEEN @start_ds AND @end_ds",
    "models/total.sql": "MODEL (name marts.total, kind FULL); SELECT sum(n) AS n FROM marts.revenue",
    "models/other.sql": f"MODEL (name raw.other, {BY_DAY}); SELECT @start_ds::DATE + i::INT AS ds FROM {DAYS}",
    "models/seed.sql": "MODEL (name raw.countries, kind SEED (path '../seeds/countries.csv')); ",
    "seeds/countries.csv": "code\nDE\n",
}
SIGNAL = (
    "from pathlib import Path\nfrom sqlmesh import signal\n\n\n@signal()\ndef is_open(batch):\n"
    "    return not Path('closed').exists()\n"
)
BY_DAY_MODELS = ("raw.orders", "marts.revenue", "raw.other")
DAY = datetime.timedelta(days=1)
OP = "sqlmesh_shop"
LONG_AGO = CONFIG.replace("6 days ago", "'2026-01-01'")
ONE = {"ctl.source": "SELECT 1 AS n"}
ALLOWED: dict[str, Any] = {"restate": True, "execution": {"environments": ["dev"]}}


def restate(start: str, end: str, **more: Any) -> dict[str, Any]:
    return {OP: {"restate": {"start": start, "end": end}, **more}}


def ago(days: int) -> str:
    return str(datetime.datetime.now(datetime.timezone.utc).date() - days * DAY)


def rows(shop: Shop, schema: str = "marts") -> dict[str, int]:
    """The value of each day in revenue that is not the first one."""
    found = shop.query(f"SELECT ds::DATE::TEXT, n FROM {schema}.revenue WHERE n <> 1 ORDER BY ds")
    return dict(found)


def days_of(shop: Shop, model: str) -> list[datetime.date]:
    """The day of each row of a model, in order."""
    return [day for (day,) in shop.query(f"SELECT ds::DATE FROM {model} ORDER BY ds")]


@pytest.fixture
def shop(new_shop: NewShop) -> Shop:
    """A project whose models lack the last thirty days."""
    return new_shop(MODELS, LONG_AGO, tables=ONE, planned_at="30 days ago", **ALLOWED)


@pytest.mark.advice("To compute it again, write this in place of them, with `restate: true` in defs.yaml:")
@pytest.mark.attribute("restate")
@pytest.mark.parametrize("executor", ONE_EXECUTOR)
def test_thirty_missing_days_and_then_one_restated_day_are_one_sqlmesh_run_each(shop: Shop, executor: str) -> None:
    planned = {model: days_of(shop, model) for model in BY_DAY_MODELS}
    run = shop.launch(executor).succeeded()
    assert run.step_keys == [OP]
    assert set(run.materializations) == {"raw/orders", "marts/revenue", "marts/total", "raw/other"}
    for model in BY_DAY_MODELS:
        metadata = run.materializations[model.replace(".", "/")].metadata
        first = planned[model][-1] + DAY
        missing = [day for day in days_of(shop, model) if day >= first]
        assert missing == [first + i * DAY for i in range(len(missing))]
        assert len(missing) in (30, 31)  # 31, if midnight came between the plan and the run
        assert metadata["sqlmesh/intervals"].value == f"{first} to {missing[-1]} ({len(missing)} days)"
        assert "sqlmesh/batches" not in metadata, "there was one"

    shop.query("UPDATE ctl.source SET n = 7")
    before = shop.state()

    run = shop.launch(executor, ops=restate("2026-02-10", "2026-02-10"), assets=["raw/orders"]).succeeded()
    assert rows(shop) == {"2026-02-10": 7}
    assert set(run.materializations) == {"raw/orders", "marts/revenue", "marts/total"}
    intervals = {key: event.metadata["sqlmesh/intervals"].value for key, event in run.materializations.items()}
    assert intervals["raw/orders"] == intervals["marts/revenue"] == "2026-02-10"
    assert {name: check.passed for name, check in run.checks.items()} == {
        "raw/orders:not_null_n": True,
        "raw/orders:sqlmesh_execution_status": True,
        "marts/revenue:not_null_n": True,
        "marts/revenue:sqlmesh_execution_status": True,
        "marts/total:sqlmesh_execution_status": True,
    }
    assert "This run restates 3 models" in run.log
    assert "    raw.orders: 2026-02-10 (1 interval)" in run.log
    assert "Not selected, but downstream of a restated model, so SQLMesh computes them again: " in run.log
    [table] = [
        event.event_specific_data.metadata["sqlmesh/restated"]
        for event in run.events(dg.DagsterEventType.ENGINE_EVENT)
        if "sqlmesh/restated" in event.event_specific_data.metadata
    ]
    assert {record.data["model"] for record in table.records} == {"raw.orders", "marts.revenue", "marts.total"}
    assert shop.state()["data_hashes"] == before["data_hashes"]

    # The next run finds nothing to do, and nothing that was computed outside of Dagster.
    after = shop.launch(executor, ops={OP: {"start": "2026-02-10"}})
    assert not after.materializations
    assert not after.computed_outside
    [warning] = after.warnings
    assert "Already computed in the range of `start` and `end` of the run config, so not computed again" in warning
    assert "restate: {start: '2026-02-10', end: '20" in warning
    assert "marts.total" in warning
    assert "raw.countries" not in warning, "a seed"
    assert "are computed, also those within start '2026-02-10' of the run config" in after.description_of(
        "raw/orders:sqlmesh_execution_status"
    )
    [advised] = re.findall(r"^ +(restate: .*)$", warning, re.MULTILINE)
    again = shop.launch(ops={OP: yaml.safe_load(advised)}, assets=["raw/orders"]).succeeded()
    assert again.status_of("raw/orders") == "executed"


@pytest.mark.night(
    "unit/worker/intervals/test_forgotten.py::test_forgotten_days_are_computed_before_a_tick",
    "test_a_selected_model_that_sqlmesh_cannot_restate_is_left_out_or_refused_if_none_is_left",
)
def test_pending_model_whose_cron_has_not_ticked_since_the_range_is_left_out_of_it(new_shop: NewShop) -> None:
    yearly = f"MODEL (name marts.yearly, {BY_DAY}, cron '{YEARLY_CRON}', interval_unit 'day'); "
    query = "SELECT ds, n FROM raw.orders WHERE ds BETWEEN @start_ds AND @end_ds"
    models = {"models/orders.sql": MODELS["models/orders.sql"], "models/yearly.sql": yearly + query}
    config = CONFIG.replace("6 days ago", "'2025-01-01'")
    shop = new_shop(models, config, tables=ONE, planned_at="300 days ago", **ALLOWED)
    shop.launch(assets=["raw/orders"]).succeeded()
    yesterday = restate(ago(1), ago(1))
    run = shop.launch(ops=yesterday, assets=["raw/orders"]).succeeded()
    assert set(run.materializations) == {"raw/orders"}
    shop.launch(ops={OP: {"start": ago(1)}}).succeeded()
    reason = (
        f"marts.yearly (its cron, {YEARLY_CRON}, has not ticked since this range began: the next tick computes it)."
    )
    assert f"Left out: {reason}" in shop.launch(ops=yesterday).succeeded().log
    [failure] = shop.launch(ops=yesterday, assets=["marts/yearly"]).failures
    assert f"cannot restate {reason}" in failure


@pytest.mark.night(
    "unit/capabilities/restatements/test_planned.py",
    "unit/run/test_run_config.py::test_restatement_must_be_allowed_and_takes_no_options_of_a_run",
    "test_a_selected_model_that_sqlmesh_cannot_restate_is_left_out_or_refused_if_none_is_left",
    "test_a_restatement_that_an_asset_splits_computes_each_model_once_in_its_own_step",
)
@pytest.mark.advice(
    "Choose a shorter range or fewer models, or raise the limit in defs.yaml.",
    "SQLMesh cannot restate {}. Nothing was computed. Leave these models out of the run.",
    "so nothing would be computed. Correct one of them.",
    "Nothing was computed. Correct `restate` in the run config.",
    "lies in this range: choose a longer one",
    "a seed: to load it again, change its file and apply a plan",
    "The run config sets over_budget, and defs.yaml has no `budget`. Leave it out.",
    " To compute a range again, set {}`restate` in the run config.",
    "range or fewer models, or set `over_budget: true` in the run config.",
)
@pytest.mark.attribute("restate.max_intervals", "budget.seconds")
def test_refused_restatement_computes_nothing(shop: Shop) -> None:
    shop.configure()
    assert shop.launch().status is dg.DagsterRunStatus.SUCCESS
    shop.query("UPDATE ctl.source SET n = 7")
    day = restate("2026-02-10", "2026-02-10")
    [failure] = shop.launch(ops=day, assets=["raw/orders"]).failures
    assert "asks for a restatement, which defs.yaml does not allow" in failure
    idle = str(shop.launch(assets=["raw/orders"]).observations["raw/orders"].description)
    assert " To compute a range again, set `restate: true` in defs.yaml, and then `restate` in the run config." in idle
    shop.configure(**ALLOWED)
    over_budget = {OP: {**day[OP], "over_budget": True}}
    [failure] = shop.launch(ops=over_budget, assets=["raw/orders"]).failures
    assert "The run config sets over_budget, and defs.yaml has no `budget`. Leave it out." in failure

    shop.configure(**{**ALLOWED, "restate": {"max_intervals": 2}})
    for blank in (restate("", ""), {OP: {"start": " "}}):
        [failure] = shop.launch(ops=blank, assets=["raw/orders"]).failures
        assert re.match(r"`(restate\.)?start` in the run config is ' ?'\. Write a date", failure)
    refused = shop.launch(ops=restate("2026-02-10", "2026-02-12"), assets=["raw/orders"])
    [failure] = refused.failures
    asked_for = "from 2026-02-10T00:00:00Z to 2026-02-13T00:00:00Z"
    assert failure.startswith(f"The restatement {asked_for} would compute 7 intervals of 3 models; ")
    assert f"The run config asks for the range {asked_for}." in refused.log
    assert "`restate.max_intervals` in defs.yaml is 2. Nothing was computed." in failure
    assert "raw.orders: 2026-02-10 to 2026-02-12 (3 days) (3 intervals)" in refused.log
    assert "marts.total: the whole table (1 interval)" in refused.log
    [failure] = shop.launch(ops=day, assets=["raw/countries"]).failures
    assert "cannot restate raw.countries (a seed: to load it again, change its file and apply a plan)." in failure
    instant = restate("3 days ago", "3 days ago")
    [failure] = shop.launch(ops=instant, assets=["raw/orders"]).failures
    assert "raw.orders (no complete interval of its unit, day, lies in this range: choose a longer one)." in failure
    [failure] = shop.launch(ops=restate("2026-02-12", "2026-02-10"), assets=["raw/orders"]).failures
    assert "start '2026-02-12' (2026-02-12T00:00:00Z) is after end '2026-02-10' (2026-02-10T00:00:00Z)" in failure
    [failure] = shop.launch(ops=restate("2026-02-12", "2999-01-01"), assets=["raw/orders"]).failures
    assert "SQLMesh refuses the restatement: PlanError: Plan end date" in failure
    reason = failure.partition("\nUntil the next successful run of the same assets")[0]
    assert reason.endswith("Nothing was computed. Correct `restate` in the run config.")

    shop.configure(**ALLOWED, budget={"seconds": 0.000001})
    [failure] = shop.launch(ops=day, assets=["raw/orders"]).failures
    assert "`budget.seconds` in defs.yaml is 0.000001. Nothing was computed." in failure
    assert rows(shop) == {}
    shop.launch(ops=over_budget, assets=["raw/orders"]).succeeded()

    shop.configure(**{**ALLOWED, "restate": {"max_intervals": 3}})
    shop.launch(ops=day, assets=["raw/orders"]).succeeded()  # a shorter range
    shop.configure(**{**ALLOWED, "restate": {"max_intervals": 7}})
    three_days = restate("2026-02-10", "2026-02-12")  # in the right order, and before today
    shop.launch(ops=three_days, assets=["raw/orders"]).succeeded()
    longer = restate("3 days ago", "yesterday")
    assert shop.launch(ops=longer, assets=["raw/orders"]).succeeded().status_of("raw/orders") == "executed"
    (shop.project / "seeds/countries.csv").write_text("code\nDE\nFR\n")
    shop.plan(at=None)
    assert shop.query("SELECT count(*) FROM raw.countries") == [(2,)]


@pytest.mark.night("engine/test_backfills.py::test_what_reads_a_corrected_table_is_restated_as_by_sqlmesh")
@pytest.mark.advice("If its rows were corrected, restate the models that read it: select models, and set")
def test_page_of_an_external_table_has_the_run_config_that_restates_its_readers(new_shop: NewShop) -> None:
    shop = new_shop(MODELS, LONG_AGO, tables=ONE, planned_at="1 day ago", **ALLOWED, external_models={"assets": True})
    shop.query("UPDATE ctl.source SET n = 7")
    table = dg.AssetKey(["ctl", "source"])
    [spec] = [spec for spec in shop.refresh().resolve_all_asset_specs() if spec.key == table]
    [advised] = re.findall(r"restate the models that read it: select models, and set `(.*)`", str(spec.description))
    for bound in ("start", "end"):
        advised = advised.replace(f"{bound}: ...", f"{bound}: '2026-02-10'")
    shop.launch(ops={OP: yaml.safe_load(advised)}).succeeded()
    assert rows(shop) == {"2026-02-10": 7}


@pytest.mark.advice("environment {} shows the table of prod: restate it in prod")
def test_restatement_in_dev_leaves_prod_as_it_is_and_one_in_prod_names_dev(shop: Shop) -> None:
    orders = shop.project / "models/orders.sql"
    orders.write_text(orders.read_text().replace("AS n FROM range", "+ 0 AS n FROM range"))
    shop.plan("dev")
    shop.query("UPDATE ctl.source SET n = 7")
    in_dev = restate("2026-02-10", "2026-02-10", environment="dev")
    run = shop.launch(ops=in_dev, assets=["raw/orders"]).succeeded()
    assert (rows(shop, "marts__dev"), rows(shop)) == ({"2026-02-10": 7}, {})
    assert not run.materializations
    assert set(run.observations) == {"raw/orders", "marts/revenue", "marts/total"}
    [failure] = shop.launch(ops=in_dev, assets=["raw/other"]).failures
    assert "raw.other (environment dev shows the table of prod: restate it in prod)" in failure
    in_prod = shop.launch(ops=restate("2026-02-10", "2026-02-10"), assets=["raw/other"]).succeeded()
    assert in_prod.status_of("raw/other") == "executed"

    # In prod, the promoted version of raw.orders is restated, and not the changed file.
    run = shop.launch(ops=restate("2026-02-11", "2026-02-11"), assets=["raw/orders"]).succeeded()
    assert "These environments lose the same intervals of their own versions: dev (3 models)." in run.log
    assert "The manifest differs from environment prod. This run executes the promoted version of raw.orders" in run.log
    assert rows(shop) == {"2026-02-11": 7}
    assert rows(shop, "marts__dev") == {"2026-02-10": 7}


DEV_ONLY = "virtual_environment_mode: dev_only"


@pytest.mark.parametrize(
    ("mode", "later_mode"), [*rows_at_night(("", "plan: {forward_only: true}")), (DEV_ONLY, DEV_ONLY)]
)
def test_restatement_in_dev_of_a_model_of_prod_is_refused_if_all_plans_are_forward_only(
    new_shop: NewShop, mode: str, later_mode: str
) -> None:
    """SQLMesh alone would restate it, and in the first mode write the table of prod."""
    files = {name: MODELS[name] for name in ("models/orders.sql", "models/revenue.sql", "models/other.sql")}
    shop = new_shop(files, LONG_AGO + mode, tables=ONE, **ALLOWED)
    (shop.project / "config.yaml").write_text(LONG_AGO + later_mode)
    other = shop.project / "models/other.sql"
    other.write_text(other.read_text().replace("AS ds FROM", "AS ds, 1 AS added FROM"))
    shop.plan("dev", "--start", "2026-03-01")
    shop.query("UPDATE ctl.source SET n = 7")
    in_dev = restate("2026-02-10", "2026-02-10", environment="dev")
    run = shop.launch(ops=in_dev, assets=["raw/orders"])
    assert rows(shop) == {}
    [failure] = run.failures
    assert "raw.orders (environment dev shows the table of prod: restate it in prod)" in failure


def test_a_selected_model_that_sqlmesh_cannot_restate_is_left_out_or_refused_if_none_is_left(new_shop: NewShop) -> None:
    files = {
        "models/kept.sql": "MODEL (name raw.kept, kind INCREMENTAL_UNMANAGED); SELECT @end_ds::DATE AS ds, 1 AS n",
        "models/revenue.sql": MODELS["models/revenue.sql"].replace("raw.orders", "raw.kept"),
    }
    shop = new_shop(files, restate=True)
    range_ = restate(ago(5), ago(1))
    reason = "raw.kept (kind INCREMENTAL_UNMANAGED: `disable_restatement` is true)."
    [failure] = shop.launch(ops=range_, assets=["raw/kept"]).failures
    assert f"cannot restate {reason}" in failure
    run = shop.launch(ops=range_, assets=["marts/revenue"]).succeeded()
    assert run.status_of("raw/kept") == "executed"
    assert "This run restates 1 model, 5 intervals." in run.log
    assert "Not restated, but read by restated models, so SQLMesh computes pending intervals: raw.kept." in run.log
    assert "Not selected, but downstream" not in run.log
    run = shop.launch(ops=range_, assets=["raw/kept", "marts/revenue"]).succeeded()
    assert f"Left out: {reason}" in run.log
    assert run.status_of("marts/revenue") == "executed"
    assert "raw/kept" not in {*run.materializations, *run.observations, *(name.split(":")[0] for name in run.checks)}


@pytest.mark.night("engine/test_overlap.py::test_a_restatement_that_loses_its_lock_forgets_versions_only_before")
def test_other_versions_lose_the_restated_day_of_a_model_also_if_another_run_restates_the_rest(
    new_shop: NewShop,
) -> None:
    """Otherwise a plan would bring back the rows from before the restatement."""
    with_fee = "SELECT ds, n + (SELECT max(amount) FROM ctl.fees) AS n FROM"
    files = {
        "models/orders.sql": MODELS["models/orders.sql"],
        "models/revenue.sql": MODELS["models/revenue.sql"].replace("SELECT ds, n FROM", with_fee),
    }
    tables = {**ONE, "ctl.fees": "SELECT 0 AS amount"}
    shop = new_shop(files, LONG_AGO, tables=tables, restate=True)
    orders = shop.project / "models/orders.sql"
    orders.write_text(orders.read_text().replace("AS n FROM range", "+ 0 AS n FROM range"))
    shop.plan("dev")
    shop.query("UPDATE ctl.source SET n = 7")
    shop.query("ALTER TABLE ctl.fees RENAME amount TO renamed")
    day = restate("2026-02-10", "2026-02-10")
    first = shop.launch(ops=day, assets=["raw/orders"]).failed()
    assert (first.status_of("raw/orders"), first.status_of("marts/revenue")) == ("executed", "failed")
    shop.query("ALTER TABLE ctl.fees RENAME renamed TO amount")
    shop.launch(ops=day, assets=["marts/revenue"]).succeeded()
    assert rows(shop) == {"2026-02-10": 7}

    shop.plan()

    assert rows(shop) == {"2026-02-10": 7}


COPIES = {
    "models/a.sql": "MODEL (name t.a, kind INCREMENTAL_BY_TIME_RANGE (time_column ds, batch_size 1)); "
    "SELECT ds, 7 / n AS n FROM ctl.source WHERE ds BETWEEN @start_ds AND @end_ds",
    "models/b.sql": f"MODEL (name t.b, {BY_DAY}); SELECT ds, n / d AS n FROM t.a, ctl.divisor "
    "WHERE ds BETWEEN @start_ds AND @end_ds",
}
SOURCE = (
    "CREATE TABLE ctl.source AS SELECT (current_date - i)::DATE AS ds, 1 AS n FROM generate_series(1, 6) AS r(i)",
    "CREATE TABLE ctl.divisor AS SELECT 1 AS d",
)


@pytest.mark.night(
    "engine/test_records.py::test_failed_restatement_fails_checks_until_range_is_computed_again",
    "unit/worker/intervals/test_forgotten.py",
)
@pytest.mark.advice("Correct the model or its data, then launch a run")
@pytest.mark.parametrize(
    "breaks",
    ["UPDATE ctl.source SET n = 0 WHERE ds = '{day}'", *at_night("UPDATE ctl.divisor SET d = 0")],
    ids=["a batch", "a model downstream"],
)
def test_no_run_is_green_before_all_is_computed_that_a_failed_restatement_has_left(
    new_shop: NewShop, breaks: str
) -> None:
    """PostgreSQL keeps the finished batches and rolls back the failed one: its rows are old, not lost."""
    with postgres_server() as server:
        server.query("CREATE DATABASE copies")
        query = partial(server.query, database="copies")
        for statement in ("CREATE SCHEMA ctl", *SOURCE):
            query(statement)
        shop = new_shop(COPIES, server.config("copies"), restate=True, intervals_check=True)
        shop.launch().succeeded()
        query("UPDATE ctl.source SET n = 7")
        query(breaks.format(day=ago(3)))
        failed = shop.launch(ops=restate(ago(6), ago(1)), assets=["t/a"]).failed()
        assert "Correct the model or its data, then launch a run: it computes all pending" in str(failed.failures)
        assert not failed.checks["t/b:sqlmesh_execution_status"].passed
        assert not failed.checks["t/b:sqlmesh_intervals_complete"].passed
        again = shop.launch().failed()
        assert not again.checks["t/b:sqlmesh_intervals_complete"].passed
        query("UPDATE ctl.source SET n = 7")
        query("UPDATE ctl.divisor SET d = 1")
        healed = shop.launch().succeeded()
        assert healed.checks["t/b:sqlmesh_intervals_complete"].passed
        assert [query(f"SELECT DISTINCT n FROM t.{name}") for name in ("a", "b")] == [[(1,)], [(1,)]]


LOSES_CONNECTION = """
from pathlib import Path

import pandas as pd
from sqlmesh import model
from sqlmesh.core.model.kind import ModelKindName


@model(
    "raw.orders",
    kind={"name": ModelKindName.INCREMENTAL_BY_TIME_RANGE, "time_column": "ds"},
    columns={"ds": "date", "n": "int"},
)
def execute(context, start, end, execution_time, **kwargs):
    with Path("computed").open("a") as computed:
        computed.write(f"{start:%Y-%m-%d} to {end:%Y-%m-%d} ")
    if Path("lose_connection").exists():
        Path("lose_connection").unlink()
        raise ConnectionError("the connection was lost")
    return pd.DataFrame({"ds": pd.date_range(start.date(), end.date()), "n": 1})
"""


def test_a_retry_computes_no_more_than_the_pending_day_of_a_model_upstream_of_the_restated_one(
    new_shop: NewShop,
) -> None:
    files = {"models/orders.py": LOSES_CONNECTION, "models/revenue.sql": MODELS["models/revenue.sql"]}
    retries = {"retries": {"max_retries": 1, "delay": 0.1}}
    shop = new_shop(files, LONG_AGO, planned_at="1 day ago", restate=True, execution=retries)
    computed = shop.project / "computed"
    computed.unlink()
    (shop.project / "lose_connection").touch()
    run = shop.launch(ops=restate("2026-02-10", ago(1)), assets=["marts/revenue"]).succeeded()
    assert "Attempt 2 of 2 starts" in run.log
    assert computed.read_text() == f"{ago(1)} to {ago(1)} " * 2
    materialized = {key: event.metadata for key, event in run.materializations.items()}
    assert materialized.keys() == {"raw/orders", "marts/revenue"}
    assert {metadata["sqlmesh/attempts"].value for metadata in materialized.values()} == {2}


@pytest.mark.night("test_restatement_in_dev_leaves_prod_as_it_is_and_one_in_prod_names_dev")
def test_a_failed_restatement_of_a_table_that_only_dev_shows_is_no_matter_of_prod(shop: Shop) -> None:
    assert shop.launch().status is dg.DagsterRunStatus.SUCCESS
    orders = shop.project / "models/orders.sql"
    orders.write_text(orders.read_text().replace("AS n FROM range", "+ 0 AS n FROM range"))
    shop.plan("dev", "--forward-only", "--start", ago(1), at=None)
    shop.query("ALTER TABLE ctl.source RENAME n TO renamed")
    in_dev = {OP: {"environment": "dev"}}
    shop.launch(ops=restate(ago(1), ago(1), environment="dev"), assets=["raw/orders"]).failed()
    shop.query("ALTER TABLE ctl.source RENAME renamed TO n")

    assert shop.launch(assets=["raw/orders"]).succeeded().status_of("raw/orders") == "up_to_date"
    assert shop.launch(ops=in_dev, assets=["raw/orders"]).succeeded().observations.keys() == {"raw/orders"}
    assert days_of(shop, "raw__dev.orders")[-1] == datetime.date.fromisoformat(ago(1))


# -- automatic restatements ---------------------------------------------------------------------------

NUMBERS = {"raw.numbers": "SELECT 1 AS v"}
AUTO_RESTATEMENT = "auto_restatement_cron '@hourly', auto_restatement_intervals 3"
AUTOMATIC = {
    "models/source.sql": f"MODEL (name t.source, kind INCREMENTAL_BY_TIME_RANGE (time_column ds, {AUTO_RESTATEMENT})); "
    f"SELECT @start_ds::DATE + i::INT AS ds, (SELECT max(v) FROM raw.numbers) AS x FROM {DAYS}",
    "models/middle.sql": "MODEL (name t.middle, kind EMBEDDED); SELECT ds, x FROM t.source",
    "models/reader.sql": "MODEL (name t.reader, kind INCREMENTAL_BY_TIME_RANGE (time_column ds)); "
    "SELECT ds, x FROM t.middle WHERE ds BETWEEN @start_ds AND @end_ds",
}


def make_restatement_due(shop: Shop) -> None:
    """Change the source, and let two hours pass since the last automatic restatement."""
    shop.query("UPDATE raw.numbers SET v = 2")
    shop.query("UPDATE sqlmesh._auto_restatements SET next_auto_restatement_ts = next_auto_restatement_ts - 7200000")


def test_downstream_model_run_alone_is_not_restated_before_its_upstream_model(new_shop: NewShop) -> None:
    shop = new_shop(AUTOMATIC, tables=NUMBERS)
    shop.launch()
    make_restatement_due(shop)
    alone = shop.launch(assets=["t/reader"])
    everything = shop.launch()
    assert alone.status_of("t/reader") == "up_to_date"
    assert "it would restate warehouse.t.reader before models upstream of it" in alone.log
    assert everything.status_of("t/source") == everything.status_of("t/reader") == "executed"
    restated = "SELECT ds FROM {} WHERE x = 2 ORDER BY 1"
    assert shop.query(restated.format("t.reader")) == shop.query(restated.format("t.source")) != []


@pytest.mark.parametrize("number", [*at_night(1), 2, *at_night(3)])
def test_a_killed_restatement_has_forgotten_all_of_its_models_or_none(new_shop: NewShop, number: int) -> None:
    """Else the next run computes the forgotten model, and is green for those downstream with the older rows."""
    files = {**MODELS, "config.py": Project({}).hooked_config(LONG_AGO), "job": ""}
    shop = new_shop(files, LONG_AGO, tables=ONE, planned_at="30 days ago", **ALLOWED)
    shop.launch().succeeded()
    shop.query("UPDATE ctl.source SET n = 7")
    (shop.project / "kill").write_text(f"before {number} 0")  # before its first, second or third statement that writes
    shop.launch(ops=restate("2026-02-10", "2026-02-10"), assets=["raw/orders"]).failed()
    assert (shop.project / "killed").exists()
    shop.launch().succeeded()
    [(restated,)] = shop.query("SELECT count(*) FROM raw.orders WHERE n = 7")
    assert rows(shop) == ({"2026-02-10": 7} if restated else {})
    assert restated or number == 1


@pytest.mark.night(
    "unit/worker/intervals/test_coverage.py::test_days_that_sqlmesh_will_restate_automatically_are_missing_as_far_as_they_are_due",
    "test_downstream_model_run_alone_is_not_restated_before_its_upstream_model",
)
def test_days_restated_automatically_are_missing_while_their_signal_is_closed_and_new_days_are_not(
    new_shop: NewShop,
) -> None:
    model = AUTOMATIC["models/source.sql"].replace("));", "), signals [is_open()]);")
    files = {"signals/__init__.py": SIGNAL, "models/source.sql": model}
    shop = new_shop(files, tables=NUMBERS, planned_at="3 days ago", intervals_check=True)
    closed, check = shop.project / "closed", "t/source:sqlmesh_intervals_complete"
    closed.touch()
    assert shop.launch().checks[check].passed
    closed.unlink()
    assert shop.launch().status_of("t/source") == "executed"
    make_restatement_due(shop)
    closed.touch()
    assert not shop.launch().checks[check].passed
    closed.unlink()
    assert shop.launch().checks[check].passed
    assert shop.query("SELECT count(*) FROM t.source WHERE x = 2") == [(3,)]


def test_a_restated_whole_table_does_not_count_as_computed_for_what_its_upstream_models_lack(shop: Shop) -> None:
    """SQLMesh would count it as computed up to now, and not compute it when the upstream models are."""
    [first] = shop.query("SELECT min(ds)::DATE::TEXT FROM marts.revenue")[0]
    shop.launch(ops=restate(first, first), assets=["marts/revenue"]).succeeded()
    assert shop.launch().status_of("marts/total") == "executed"
    assert shop.query("SELECT n FROM marts.total") == shop.query("SELECT sum(n) FROM marts.revenue")


HALF_OPEN = (
    "from pathlib import Path\nfrom sqlmesh import signal\n\n\n@signal()\ndef is_open(batch):\n"
    "    return [of for of in batch if of[0].day < 11] if Path('closed').exists() else True\n"
)


@pytest.mark.night(
    "unit/worker/intervals/test_availability.py",
    "test_a_restated_whole_table_does_not_count_as_computed_for_what_its_upstream_models_lack",
)
@pytest.mark.parametrize("then", [{OP: {}}, *at_night(restate("2026-02-12", "2026-02-12"))], ids=["run", "restatement"])
def test_a_table_that_is_only_restated_as_a_whole_keeps_its_rows_while_some_of_its_days_wait(
    new_shop: NewShop, then: dict[str, Any]
) -> None:
    """SQLMesh would put the first days in place of all rows. A run or a restatement of one day computes them all."""
    newest = (
        "MODEL (name marts.newest, kind INCREMENTAL_BY_UNIQUE_KEY (unique_key ds), signals [is_open()]); "
        "SELECT ds, n FROM raw.orders WHERE ds BETWEEN @start_ds AND @end_ds"
    )
    files = {
        "signals/__init__.py": HALF_OPEN,
        "models/orders.sql": MODELS["models/orders.sql"],
        "models/newest.sql": newest,
        "models/last.sql": f"MODEL (name marts.last, {BY_DAY}); "
        "SELECT * FROM marts.newest WHERE ds BETWEEN @start_ds AND @end_ds",
    }
    shop = new_shop(files, CONFIG.replace("6 days ago", "'2026-02-08'"), tables=ONE, **ALLOWED)
    shop.launch()
    before = days_of(shop, "marts.newest")
    (shop.project / "closed").touch()
    shop.query("UPDATE ctl.source SET n = 7")

    record = shop.launch(ops=restate("2026-02-12", "2026-02-12"), assets=["raw/orders"]).succeeded()

    assert record.status_of("marts/newest") == record.status_of("marts/last") == "waiting"
    assert days_of(shop, "marts.newest") == before
    (shop.project / "closed").unlink()
    shop.launch(ops=then, assets=["raw/orders", "marts/newest", "marts/last"]).succeeded()
    of_both = [shop.query(f"SELECT ds::DATE, n FROM marts.{name} ORDER BY 1") for name in ("newest", "last")]
    assert of_both[0] == of_both[1] == shop.query("SELECT ds::DATE, n FROM raw.orders ORDER BY 1")


def test_a_restatement_forgets_nothing_of_a_model_that_it_does_not_restate(new_shop: NewShop) -> None:
    """SQLMesh asks for the pending days of its upstream models too, and for those of their lookback."""
    lookback = BY_DAY.replace("ds)", "ds, lookback 2), signals [is_open()]")
    files = {
        "signals/__init__.py": SIGNAL,
        "models/orders.sql": MODELS["models/orders.sql"].replace(BY_DAY, lookback),
        "models/revenue.sql": MODELS["models/revenue.sql"],
    }
    shop = new_shop(files, LONG_AGO, tables=ONE, planned_at="1 day ago", **ALLOWED)

    def of_orders() -> list[Any]:
        return [intervals for fqn, intervals in shop.state()["intervals"].items() if "orders" in fqn]

    before = of_orders()
    (shop.project / "closed").touch()
    shop.launch(ops=restate("2026-02-10", ago(1)), assets=["marts/revenue"]).succeeded()
    assert of_orders() == before


@pytest.mark.night(
    "unit/worker/intervals/test_held_back.py::test_model_that_depends_on_past_keeps_only_intervals_before_the_first_gap",
    "engine/test_causes.py::test_a_run_of_all_models_names_the_bounds_that_leave_out_intervals",
)
@pytest.mark.advice("Launch a run of it without {} first")
def test_a_model_that_reads_itself_is_not_computed_beyond_its_own_pending_days(new_shop: NewShop) -> None:
    """Later days would be computed without them, and no later run would correct these."""
    running = (
        "MODEL (name t.running, kind INCREMENTAL_BY_TIME_RANGE (time_column ds, batch_size 1), "
        "columns (ds date, n int)); "
        "SELECT @start_ds::DATE AS ds, 1 + COALESCE((SELECT n FROM t.running WHERE ds = @start_ds::DATE - 1), 0) AS n"
    )
    below = f"MODEL (name t.below, {BY_DAY}); SELECT ds, n FROM t.running WHERE ds BETWEEN @start_ds AND @end_ds"
    shop = new_shop({"models/running.sql": running, "models/below.sql": below}, **ALLOWED)
    check = "t/running:sqlmesh_execution_status"
    for config in ({"start": ago(1)}, restate(ago(1), ago(1))[OP]):
        record = shop.launch(ops={OP: config}, assets=["t/running", "t/below"]).succeeded()
        assert record.status_of("t/running") == record.status_of("t/below") == "waiting"
        assert "other intervals of it are pending, outside of the range" in record.description_of(check)
        assert f"Launch a run of it without `{next(iter(config))}` first." in record.description_of(check)
    assert shop.launch().status is dg.DagsterRunStatus.SUCCESS
    assert shop.query("SELECT n FROM t.running ORDER BY ds") == [(n,) for n in range(1, 7)]
    assert shop.query("SELECT n FROM t.below ORDER BY ds") == [(n,) for n in range(1, 7)]


ALONE = "AUDIT (name alone, standalone true); SELECT * FROM t.daily WHERE id < {least}"
AUDITED = (
    "MODEL (name t.daily, kind INCREMENTAL_BY_TIME_RANGE (time_column day)); SELECT 1 AS id, @start_ds::DATE AS day"
)


@pytest.mark.parametrize(
    ("least", "selects_check", "days"),
    [(2, True, (3, 2)), *rows_at_night((2, False, (3, 2)), (0, True, (3, 2)), (0, False, (3, 2)), (2, True, (6, 1)))],
    ids=["fails", "without check, fails", "passes", "without check, passes", "all days"],
)
def test_a_standalone_audit_is_evaluated_after_the_restatement_of_the_model_that_it_reads(
    new_shop: NewShop, least: int, selects_check: bool, days: tuple[int, int]
) -> None:
    files = {"models/daily.sql": AUDITED, "audits/alone.sql": ALONE.format(least=0)}
    shop = new_shop(files, restate=True)
    shop.launch()
    (shop.project / "audits" / "alone.sql").write_text(ALONE.format(least=least))
    shop.plan(at=None)
    selection: Any = {"assets" if selects_check else "assets_without_checks": ["t/daily"]}
    run = shop.launch(ops=restate(*map(ago, days)), **selection)
    assert set(run.materializations) == {"t/daily"}
    assert run.status is dg.DagsterRunStatus.SUCCESS, run.failures  # as if the check was executed alone
    if selects_check:
        assert run.checks["t/daily:alone"].passed is (least == 0)
    else:
        assert "t/daily:alone" not in run.checks


AROUND_AN_ASSET = {
    "models/a.sql": f"MODEL (name t.a, {BY_DAY}, audits (not_null(columns := (n)))); "
    f"SELECT @start_ds::DATE + i::INT AS ds, (SELECT max(n) FROM ctl.source) AS n FROM {DAYS}",
    "models/b.sql": f"MODEL (name t.b, {BY_DAY}, audits (not_null(columns := (n)))); "
    "SELECT a.ds, (SELECT max(n) FROM mid.made) AS n FROM t.a AS a WHERE a.ds BETWEEN @start_ds AND @end_ds",
    # Not selected: each is computed by the last step that restates a model which it reads.
    "models/c.sql": "MODEL (name t.c, kind FULL); SELECT max(a.n) AS a, max(b.n) AS b FROM t.a AS a, t.b AS b",
    "models/d.sql": "MODEL (name t.d, kind FULL); SELECT max(n) AS n FROM t.a",
}
MADE_BETWEEN = """
import dagster as dg
import duckdb


@dg.asset(key=["mid", "made"], deps=[["t", "a"]])
def made():
    with duckdb.connect({file!r}) as connection:
        connection.execute("UPDATE mid.made SET n = (SELECT max(n) FROM t.a)")
"""


def split_shop(new_shop: NewShop) -> Shop:
    tables = {**ONE, "mid.made": "SELECT 1 AS n"}
    shop = new_shop(AROUND_AN_ASSET, tables=tables, restate={"max_intervals": 4})
    shop.add_module("between", MADE_BETWEEN.format(file=str(shop.project / "warehouse.duckdb")))
    shop.launch().succeeded()
    return shop


@pytest.mark.attribute("restate.max_intervals")
def test_a_restatement_that_an_asset_splits_computes_each_model_once_in_its_own_step(new_shop: NewShop) -> None:
    shop = split_shop(new_shop)
    shop.query("UPDATE ctl.source SET n = 7")
    all_of_them = [["t", "a"], ["mid", "made"], ["t", "b"]]

    run = shop.launch(ops=restate(ago(2), ago(2)), assets=["/".join(key) for key in all_of_them]).succeeded()
    events = [event.asset_key.to_user_string() for event in run.events(dg.DagsterEventType.ASSET_MATERIALIZATION)]
    assert sorted(events) == ["mid/made", "t/a", "t/b", "t/c", "t/d"]
    results = [event.event_specific_data for event in run.events(dg.DagsterEventType.ASSET_CHECK_EVALUATION)]
    names = [f"{result.asset_key.to_user_string()}:{result.check_name}" for result in results]
    assert sorted(names) == sorted(set(names))
    assert events.index("mid/made") < events.index("t/b") < events.index("t/c")
    assert events.index("t/d") < events.index("mid/made")
    assert shop.query("SELECT a, b FROM t.c") == [(7, 7)]
    assert "Left to later steps of this run: t.b, t.c." in run.log
    assert not shop.launch().materializations.keys() - {"mid/made"}, "nothing is pending"

    # The limit counts the models of all steps, before anything is computed.
    [failure] = shop.launch(ops=restate(ago(3), ago(2))).failures
    assert "would compute 6 intervals of 4 models" in failure


@pytest.mark.night(
    "test_a_restatement_that_an_asset_splits_computes_each_model_once_in_its_own_step",
    "unit/capabilities/restatements/worker/test_split.py",
    "engine/test_backfills.py::test_what_reads_a_corrected_table_is_restated_as_by_sqlmesh",
)
def test_a_restatement_of_what_reads_a_table_is_split_too(new_shop: NewShop) -> None:
    """A step whose models do not read the table has nothing to restate, and the next step does."""
    shop = split_shop(new_shop)
    shop.query("UPDATE ctl.source SET n = 8")
    by_table = {OP: {"restate": {"start": ago(1), "end": ago(1), "tables": ["mid.made"]}}}
    run = shop.launch(ops=by_table).succeeded()
    assert set(run.materializations) == {"mid/made", "t/b", "t/c"}
    assert shop.query("SELECT max(n) FROM t.a") == [(1,)]
    # A restatement of the first model restates everything downstream of it, also in later steps.
    by_table = {OP: {"restate": {"start": ago(1), "end": ago(1), "tables": ["ctl.source"]}}}
    run = shop.launch(ops=by_table).succeeded()
    assert set(run.materializations) == {"mid/made", "t/a", "t/b", "t/c", "t/d"}
    assert shop.query("SELECT a, b FROM t.c") == [(8, 8)]
