"""`restate` in the run config computes a range again, and automatic restatements are in order across runs."""

import datetime
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import dagster as dg
import pytest
from harness import CONFIG, EXECUTORS, PAUSE, YEARLY_CRON, NewShop, Shop, python_model, wait_until
from postgres import postgres_server

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
ALLOWED: dict[str, Any] = {"restate": True, "execution": {"environments": ["dev"]}}


def restate(start: str, end: str, **more: Any) -> dict[str, Any]:
    return {OP: {"restate": {"start": start, "end": end}, **more}}


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
    tables = {"ctl.source": "SELECT 1 AS n"}
    config = CONFIG.replace("6 days ago", "'2026-01-01'")
    return new_shop(MODELS, config, tables=tables, planned_at="30 days ago", **ALLOWED)


@pytest.mark.attribute("restate")
@pytest.mark.parametrize("executor", EXECUTORS)
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


def test_pending_model_whose_cron_has_not_ticked_since_the_range_is_left_out_of_it(new_shop: NewShop) -> None:
    yearly = f"MODEL (name marts.yearly, {BY_DAY}, cron '{YEARLY_CRON}', interval_unit 'day'); "
    query = "SELECT ds, n FROM raw.orders WHERE ds BETWEEN @start_ds AND @end_ds"
    models = {"models/orders.sql": MODELS["models/orders.sql"], "models/yearly.sql": yearly + query}
    tables = {"ctl.source": "SELECT 1 AS n"}
    config = CONFIG.replace("6 days ago", "'2025-01-01'")
    shop = new_shop(models, config, tables=tables, planned_at="300 days ago", **ALLOWED)
    shop.launch(assets=["raw/orders"]).succeeded()
    day = str(datetime.datetime.now(datetime.timezone.utc).date() - DAY)
    yesterday = restate(day, day)
    run = shop.launch(ops=yesterday, assets=["raw/orders"]).succeeded()
    assert set(run.materializations) == {"raw/orders"}
    shop.launch(ops={OP: {"start": day}}).succeeded()
    [failure] = shop.launch(ops=yesterday).failures
    assert f"marts.yearly (its cron, {YEARLY_CRON}, has not ticked since this range began: the next tick" in failure


@pytest.mark.attribute("restate.max_intervals", "budget")
def test_refused_restatement_computes_nothing(shop: Shop) -> None:
    shop.configure()
    assert shop.launch().status is dg.DagsterRunStatus.SUCCESS
    shop.query("UPDATE ctl.source SET n = 7")
    day = restate("2026-02-10", "2026-02-10")
    [failure] = shop.launch(ops=day, assets=["raw/orders"]).failures
    assert "asks for a restatement, which defs.yaml does not allow" in failure

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
    [failure] = shop.launch(ops=day, assets=["raw/countries", "raw/orders"]).failures
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
    over_budget = {OP: {**day[OP], "over_budget": True}}
    assert shop.launch(ops=over_budget, assets=["raw/orders"]).status is dg.DagsterRunStatus.SUCCESS


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

    # In prod, the promoted version of raw.orders is restated, and not the changed file.
    run = shop.launch(ops=restate("2026-02-11", "2026-02-11"), assets=["raw/orders"]).succeeded()
    assert "These environments lose the same intervals of their own versions: dev (3 models)." in run.log
    assert "The manifest differs from environment prod. This run executes the promoted version of raw.orders" in run.log
    assert rows(shop) == {"2026-02-11": 7}
    assert rows(shop, "marts__dev") == {"2026-02-10": 7}


DEV_ONLY = "virtual_environment_mode: dev_only"


@pytest.mark.parametrize(("mode", "later_mode"), [("", "plan: {forward_only: true}"), (DEV_ONLY, DEV_ONLY)])
def test_restatement_in_dev_of_a_model_of_prod_is_refused_if_all_plans_are_forward_only(
    new_shop: NewShop, mode: str, later_mode: str
) -> None:
    """SQLMesh alone would restate it, and in the first mode write the table of prod."""
    files = {name: MODELS[name] for name in ("models/orders.sql", "models/revenue.sql", "models/other.sql")}
    config = CONFIG.replace("6 days ago", "'2026-01-01'")
    shop = new_shop(files, config + mode, tables={"ctl.source": "SELECT 1 AS n"}, **ALLOWED)
    (shop.project / "config.yaml").write_text(config + later_mode)
    other = shop.project / "models/other.sql"
    other.write_text(other.read_text().replace("AS ds FROM", "AS ds, 1 AS added FROM"))
    shop.plan("dev", "--start", "2026-03-01")
    shop.query("UPDATE ctl.source SET n = 7")
    in_dev = restate("2026-02-10", "2026-02-10", environment="dev")
    run = shop.launch(ops=in_dev, assets=["raw/orders"])
    assert rows(shop) == {}
    [failure] = run.failures
    assert "raw.orders (environment dev shows the table of prod: restate it in prod)" in failure


def test_a_selected_model_that_sqlmesh_cannot_restate_is_refused_also_if_it_is_pending(new_shop: NewShop) -> None:
    files = {
        "models/kept.sql": "MODEL (name raw.kept, kind INCREMENTAL_UNMANAGED); SELECT @end_ds::DATE AS ds, 1 AS n",
        "models/revenue.sql": MODELS["models/revenue.sql"].replace("raw.orders", "raw.kept"),
    }
    shop = new_shop(files, restate=True)
    yesterday = datetime.datetime.now(datetime.timezone.utc).date() - DAY
    range_ = restate(str(yesterday - 4 * DAY), str(yesterday))
    [failure] = shop.launch(ops=range_, assets=["raw/kept", "marts/revenue"]).failures
    assert "cannot restate raw.kept (kind INCREMENTAL_UNMANAGED: `disable_restatement` is true)." in failure
    run = shop.launch(ops=range_, assets=["marts/revenue"]).succeeded()
    assert run.status_of("raw/kept") == "executed"
    assert "This run restates 1 model, 5 intervals." in run.log
    assert "Not restated, but read by restated models, so SQLMesh computes pending intervals: raw.kept." in run.log
    assert "Not selected, but downstream" not in run.log


def test_other_versions_lose_the_restated_day_of_a_model_also_if_another_run_restates_the_rest(
    new_shop: NewShop,
) -> None:
    """Otherwise a plan would bring back the rows from before the restatement."""
    with_fee = "SELECT ds, n + (SELECT max(amount) FROM ctl.fees) AS n FROM"
    files = {
        "models/orders.sql": MODELS["models/orders.sql"],
        "models/revenue.sql": MODELS["models/revenue.sql"].replace("SELECT ds, n FROM", with_fee),
    }
    config = CONFIG.replace("6 days ago", "'2026-01-01'")
    tables = {"ctl.source": "SELECT 1 AS n", "ctl.fees": "SELECT 0 AS amount"}
    shop = new_shop(files, config, tables=tables, restate=True)
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


def test_the_next_run_computes_what_a_failed_restatement_has_left(shop: Shop) -> None:
    shop.launch().succeeded()
    shop.query("UPDATE ctl.source SET n = NULL")
    run = shop.launch(ops=restate("2026-02-10", "2026-02-10"), assets=["raw/orders"])
    [failure] = run.failures
    assert "Correct the model or its data, then launch a run: it computes all pending intervals." in failure
    assert not run.materializations
    assert not run.checks["raw/orders:not_null_n"].passed
    assert not run.checks["marts/revenue:sqlmesh_execution_status"].passed

    shop.query("UPDATE ctl.source SET n = 7")
    run = shop.launch().succeeded()
    assert rows(shop) == {"2026-02-10": 7}
    assert run.materializations.keys() == {"raw/orders", "marts/revenue", "marts/total"}


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
CORRECTED = ("UPDATE ctl.source SET n = 7", "UPDATE ctl.divisor SET d = 1")
VALUES = "SELECT DISTINCT n FROM {} ORDER BY n"


def ago(days: int) -> str:
    return str(datetime.datetime.now(datetime.timezone.utc).date() - days * DAY)


@contextmanager
def shop_on_a_server(new_shop: NewShop, files: dict[str, str]) -> Iterator[tuple[Shop, Callable[..., list[Any]]]]:
    """A shop whose models are computed from a source with 1, which has 7 then, and a function that queries."""
    with postgres_server() as server:
        server.query("CREATE DATABASE copies")
        query = partial(server.query, database="copies")
        for statement in ("CREATE SCHEMA ctl", *SOURCE):
            query(statement)
        shop = new_shop(files, server.config("copies"), restate=True, intervals_check=True)
        shop.launch().succeeded()
        query("UPDATE ctl.source SET n = 7")
        yield shop, query


@pytest.mark.parametrize(
    "breaks",
    ["UPDATE ctl.source SET n = 0 WHERE ds = '{day}'", "UPDATE ctl.divisor SET d = 0"],
    ids=["a batch", "a model downstream"],
)
def test_no_run_is_green_before_all_is_computed_that_a_failed_restatement_has_left(
    new_shop: NewShop, breaks: str
) -> None:
    """PostgreSQL keeps the finished batches and rolls back the failed one: its rows are old, not lost."""
    with shop_on_a_server(new_shop, COPIES) as (shop, query):
        query(breaks.format(day=ago(3)))
        failed = shop.launch(ops=restate(ago(6), ago(1)), assets=["t/a"]).failed()
        assert not failed.checks["t/b:sqlmesh_intervals_complete"].passed
        again = shop.launch().failed()
        assert not again.checks["t/b:sqlmesh_intervals_complete"].passed
        for statement in CORRECTED:
            query(statement)
        healed = shop.launch().succeeded()
        assert healed.checks["t/b:sqlmesh_intervals_complete"].passed
        assert query(VALUES.format("t.a")) == query(VALUES.format("t.b")) == [(1,)]


def test_the_next_run_computes_what_a_cancelled_restatement_has_not(new_shop: NewShop) -> None:
    files = {
        "models/a.sql": COPIES["models/a.sql"],
        "models/middle.py": python_model("t.middle", PAUSE, ["t.a"]),
        "models/b.sql": COPIES["models/b.sql"].replace("FROM t.a, ", "FROM t.a, t.middle, "),
    }
    with shop_on_a_server(new_shop, files) as (shop, query):
        (shop.project / "pause").touch()
        process = shop.start(ops=restate(ago(1), ago(1)), assets=["t/a"])
        wait_until((shop.project / "pausing").exists, process)
        [run] = shop.instance.get_runs(limit=1)
        shop.instance.report_run_canceling(run)
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: "SQLMesh is asked to finish" in shop.run_record(run.run_id).log)
        (shop.project / "pause").unlink()
        process.wait(300)
        assert query(VALUES.format("t.b")) == [(7,)], "the run has not begun with it"
        assert shop.launch().succeeded().status_of("t/b") == "executed"
        assert query(VALUES.format("t.a")) == query(VALUES.format("t.b")) == [(1,), (7,)]


def test_a_range_that_failed_for_good_is_pending_also_if_a_retry_restates_another_model(new_shop: NewShop) -> None:
    lose_connection = """
    if Path("lose_connection").exists():
        Path("lose_connection").unlink()
        raise ConnectionError("the connection was lost")
    """
    files = {
        "models/orders.sql": MODELS["models/orders.sql"],
        "models/flaky.py": python_model("t.flaky", lose_connection),
    }
    config = CONFIG.replace("6 days ago", "'2026-01-01'")
    retries = {"retries": {"max_retries": 1, "delay": 0.1}}
    shop = new_shop(files, config, tables={"ctl.source": "SELECT 1 AS n"}, restate=True, execution=retries)
    shop.query("UPDATE ctl.source SET n = NULL")
    (shop.project / "lose_connection").touch()
    run = shop.launch(ops=restate("2026-02-10", "2026-02-10")).failed()
    assert "Attempt 2 of 2 starts" in run.log
    assert set(run.materializations) == {"t/flaky"}
    shop.query("UPDATE ctl.source SET n = 7")

    shop.launch().succeeded()

    assert shop.query("SELECT n FROM raw.orders WHERE ds = '2026-02-10'") == [(7,)]


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
    config = CONFIG.replace("6 days ago", "'2026-01-01'")
    retries = {"retries": {"max_retries": 1, "delay": 0.1}}
    shop = new_shop(files, config, planned_at="1 day ago", restate=True, execution=retries)
    computed = shop.project / "computed"
    computed.unlink()
    (shop.project / "lose_connection").touch()
    yesterday = str(datetime.datetime.now(datetime.timezone.utc).date() - DAY)
    run = shop.launch(ops=restate("2026-02-10", yesterday), assets=["marts/revenue"]).succeeded()
    assert "Attempt 2 of 2 starts" in run.log
    assert computed.read_text() == f"{yesterday} to {yesterday} " * 2
    materialized = {key: event.metadata for key, event in run.materializations.items()}
    assert materialized.keys() == {"raw/orders", "marts/revenue"}
    assert {metadata["sqlmesh/attempts"].value for metadata in materialized.values()} == {2}


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

AUTO_RESTATEMENT = "auto_restatement_cron '@hourly', auto_restatement_intervals 3"
AUTOMATIC = {
    "models/source.sql": f"MODEL (name t.source, kind INCREMENTAL_BY_TIME_RANGE (time_column ds, {AUTO_RESTATEMENT})); "
    f"SELECT @start_ds::DATE + i::INT AS ds, (SELECT max(v) FROM raw.numbers) AS x FROM {DAYS}",
    "models/middle.sql": "MODEL (name t.middle, kind EMBEDDED); SELECT ds, x FROM t.source",
    "models/reader.sql": "MODEL (name t.reader, kind INCREMENTAL_BY_TIME_RANGE (time_column ds)); "
    "SELECT ds, x FROM t.middle WHERE ds BETWEEN @start_ds AND @end_ds",
}


def test_downstream_model_run_alone_is_not_restated_before_its_upstream_model(new_shop: NewShop) -> None:
    shop = new_shop(AUTOMATIC, tables={"raw.numbers": "SELECT 1 AS v"})
    shop.launch()
    shop.query("UPDATE raw.numbers SET v = 2")
    shop.query("UPDATE sqlmesh._auto_restatements SET next_auto_restatement_ts = next_auto_restatement_ts - 7200000")
    alone = shop.launch(assets=["t/reader"])
    everything = shop.launch()
    assert alone.status_of("t/reader") == "up_to_date"
    assert "it would restate warehouse.t.reader before models upstream of it" in alone.log
    assert everything.status_of("t/source") == everything.status_of("t/reader") == "executed"
    restated = "SELECT ds FROM {} WHERE x = 2 ORDER BY 1"
    assert shop.query(restated.format("t.reader")) == shop.query(restated.format("t.source")) != []


def test_days_restated_automatically_are_missing_while_their_signal_is_closed_and_new_days_are_not(
    new_shop: NewShop,
) -> None:
    model = AUTOMATIC["models/source.sql"].replace("));", "), signals [is_open()]);")
    tables = {"raw.numbers": "SELECT 1 AS v"}
    files = {"signals/__init__.py": SIGNAL, "models/source.sql": model}
    shop = new_shop(files, tables=tables, planned_at="3 days ago", intervals_check=True)
    closed, check = shop.project / "closed", "t/source:sqlmesh_intervals_complete"
    closed.touch()
    assert shop.launch().checks[check].passed
    closed.unlink()
    assert shop.launch().status_of("t/source") == "executed"
    shop.query("UPDATE raw.numbers SET v = 2")
    shop.query("UPDATE sqlmesh._auto_restatements SET next_auto_restatement_ts = next_auto_restatement_ts - 7200000")
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


def test_the_next_run_computes_restated_days_whose_signal_was_not_ready(new_shop: NewShop) -> None:
    files = {
        "signals/__init__.py": SIGNAL,
        "models/orders.sql": MODELS["models/orders.sql"],
        "models/revenue.sql": MODELS["models/revenue.sql"].replace(BY_DAY, f"{BY_DAY}, signals [is_open()]"),
        "models/total.sql": MODELS["models/total.sql"],
    }
    config = CONFIG.replace("6 days ago", "'2026-01-01'")
    shop = new_shop(files, config, tables={"ctl.source": "SELECT 1 AS n"}, intervals_check=True, **ALLOWED)
    shop.launch()
    shop.query("UPDATE ctl.source SET n = 7")
    closed = shop.project / "closed"
    closed.touch()
    run = shop.launch(ops=restate("2026-02-10", "2026-02-11"), assets=["raw/orders"]).succeeded()
    assert run.status_of("marts/revenue") == "waiting"
    assert "2026-02-10 to 2026-02-11" in run.description_of("marts/revenue:sqlmesh_intervals_complete")
    assert not run.checks["marts/revenue:sqlmesh_intervals_complete"].passed
    assert not rows(shop)
    closed.unlink()
    assert shop.launch().status is dg.DagsterRunStatus.SUCCESS
    assert rows(shop) == {"2026-02-10": 7, "2026-02-11": 7}
    assert shop.query("SELECT n FROM marts.total") == shop.query("SELECT sum(n) FROM marts.revenue")


@pytest.mark.parametrize("then", [{OP: {}}, restate("2026-02-10", "2026-02-10")], ids=["run", "restatement"])
def test_a_table_that_is_only_restated_as_a_whole_waits_and_is_then_computed_as_a_whole(
    new_shop: NewShop, then: dict[str, Any]
) -> None:
    """The next run computes it, and so does a restatement of one day."""
    newest = (
        "MODEL (name marts.newest, kind INCREMENTAL_BY_UNIQUE_KEY (unique_key one), signals [is_open()]); "
        "SELECT 1 AS one, max(ds) AS ds, max(n) AS n FROM raw.orders WHERE ds BETWEEN @start_ds AND @end_ds"
    )
    files = {
        "signals/__init__.py": SIGNAL,
        "models/orders.sql": MODELS["models/orders.sql"],
        "models/newest.sql": newest,
    }
    config = CONFIG.replace("6 days ago", "'2026-01-01'")
    shop = new_shop(files, config, tables={"ctl.source": "SELECT 1 AS n"}, **ALLOWED)
    shop.launch()
    rows_before = shop.query("SELECT * FROM marts.newest")
    shop.query("UPDATE ctl.source SET n = 7")
    closed = shop.project / "closed"
    closed.touch()
    first = shop.launch(ops=restate("2026-02-10", "2026-02-10"), assets=["raw/orders"]).succeeded()
    assert first.status_of("marts/newest") == "waiting"
    assert shop.query("SELECT * FROM marts.newest") == rows_before
    closed.unlink()
    shop.launch(ops=then, assets=["raw/orders", "marts/newest"]).succeeded()
    assert shop.query("SELECT ds, n FROM marts.newest") == [(rows_before[0][1], 7)]


HALF_OPEN = (
    "from pathlib import Path\nfrom sqlmesh import signal\n\n\n@signal()\ndef is_open(batch):\n"
    "    return [of for of in batch if of[0].day < 11] if Path('closed').exists() else True\n"
)


@pytest.mark.parametrize("cause", ["its signal", "a day upstream"])
def test_a_table_that_is_only_restated_as_a_whole_keeps_its_rows_while_some_of_its_days_wait(
    new_shop: NewShop, cause: str
) -> None:
    """SQLMesh would put the first days in place of all rows."""
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
    config = CONFIG.replace("6 days ago", "'2026-02-08'")
    shop = new_shop(files, config, tables={"ctl.source": "SELECT 1 AS n"}, **ALLOWED)
    shop.launch()
    before = days_of(shop, "marts.newest")
    if cause == "its signal":
        (shop.project / "closed").touch()
    else:
        shop.query("UPDATE ctl.source SET n = NULL")
        shop.launch(ops=restate("2026-02-11", "2026-02-11"), assets=["raw/orders"]).failed()
    shop.query("UPDATE ctl.source SET n = 7")

    record = shop.launch(ops=restate("2026-02-12", "2026-02-12"), assets=["raw/orders"]).succeeded()

    assert record.status_of("marts/newest") == record.status_of("marts/last") == "waiting"
    assert days_of(shop, "marts.newest") == before
    (shop.project / "closed").unlink(missing_ok=True)
    shop.launch().succeeded()
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
    config = CONFIG.replace("6 days ago", "'2026-01-01'")
    tables = {"ctl.source": "SELECT 1 AS n"}
    shop = new_shop(files, config, tables=tables, planned_at="1 day ago", **ALLOWED)
    before = shop.state()["intervals"]
    (shop.project / "closed").touch()
    yesterday = str(datetime.datetime.now(datetime.timezone.utc).date() - DAY)
    shop.launch(ops=restate("2026-02-10", yesterday), assets=["marts/revenue"]).succeeded()
    assert _orders(shop.state()["intervals"]) == _orders(before)


def _orders(of_models: dict[str, Any]) -> list[Any]:
    return [value for fqn, value in of_models.items() if "orders" in fqn]


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
    yesterday = str(datetime.datetime.now(datetime.timezone.utc).date() - DAY)
    for config in ({"start": yesterday}, {"restate": {"start": yesterday, "end": yesterday}}):
        record = shop.launch(ops={OP: config}, assets=["t/running", "t/below"]).succeeded()
        assert record.status_of("t/running") == record.status_of("t/below") == "waiting"
        assert "other intervals of it are pending, outside of the range" in record.description_of(check)
    assert shop.launch().status is dg.DagsterRunStatus.SUCCESS
    assert shop.query("SELECT n FROM t.running ORDER BY ds") == [(n,) for n in range(1, 7)]
    assert shop.query("SELECT n FROM t.below ORDER BY ds") == [(n,) for n in range(1, 7)]


ALONE = "AUDIT (name alone, standalone true); SELECT * FROM t.daily WHERE id < {least}"
AUDITED = (
    "MODEL (name t.daily, kind INCREMENTAL_BY_TIME_RANGE (time_column day)); SELECT 1 AS id, @start_ds::DATE AS day"
)


@pytest.mark.parametrize(
    ("least", "selects_check", "days"),
    [(0, True, (3, 2)), (2, True, (3, 2)), (0, False, (3, 2)), (2, False, (3, 2)), (2, True, (6, 1))],
    ids=["passes", "fails", "without check, passes", "without check, fails", "all days"],
)
def test_a_standalone_audit_is_evaluated_after_the_restatement_of_the_model_that_it_reads(
    new_shop: NewShop, least: int, selects_check: bool, days: tuple[int, int]
) -> None:
    files = {"models/daily.sql": AUDITED, "audits/alone.sql": ALONE.format(least=0)}
    shop = new_shop(files, restate=True)
    shop.launch()
    (shop.project / "audits" / "alone.sql").write_text(ALONE.format(least=least))
    shop.plan(at=None)
    today = datetime.datetime.now(datetime.timezone.utc).date()
    start, end = (str(today - DAY * ago) for ago in days)
    config = {"restate": {"start": start, "end": end}}
    selection = {"assets" if selects_check else "assets_without_checks": ["t/daily"]}
    run = shop.launch(ops={"sqlmesh_shop": config}, **selection)
    assert set(run.materializations) == {"t/daily"}
    assert run.status is dg.DagsterRunStatus.SUCCESS, run.failures  # as if the check was executed alone
    if selects_check:
        assert run.checks["t/daily:alone"].passed is (least == 0)
    else:
        assert "t/daily:alone" not in run.checks
