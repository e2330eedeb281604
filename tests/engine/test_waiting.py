"""A model waits for pending upstream models outside of the run, and for signals, in every step and retry."""

import datetime
from pathlib import Path

import dagster as dg
import pytest
from computed_hours import recorded_hours
from harness import CONFIG, EXECUTORS, YEARLY_CRON, NewShop, RunRecord, Shop, dagster_project, plan, write_project

DAILY_ROWS = "SELECT @start_ds::DATE + i::INT AS ds FROM range(0, 1 + (@end_ds::DATE - @start_ds::DATE)) AS r(i)"
BY_DAY = "kind INCREMENTAL_BY_TIME_RANGE (time_column ds)"
LANDING = f"MODEL (name raw.landing, {BY_DAY}); {DAILY_ROWS}"
DOWNSTREAM = f"MODEL (name marts.reader, {BY_DAY}); SELECT ds FROM raw.landing WHERE ds BETWEEN @start_ds AND @end_ds"
MODEL_BETWEEN = {
    "nothing": {},
    "a view": {"models/way.sql": "MODEL (name mid.way, kind VIEW); SELECT ds FROM raw.landing"},
    "an embedded model": {"models/way.sql": "MODEL (name mid.way, kind EMBEDDED); SELECT ds FROM raw.landing"},
}
WAITING_REASON = (
    "models upstream have pending intervals and are not part of this step: raw.landing. "
    "Select them too, with all models upstream of them"
)


def stored_days(shop: Shop, table: str) -> list[str]:
    return [str(day) for (day,) in shop.query(f"SELECT ds FROM {table} ORDER BY ds")]


def last_hour(record: RunRecord, asset: str) -> int:
    return max(recorded_hours(record.materializations[asset].metadata) or [0])


@pytest.mark.parametrize("between", MODEL_BETWEEN)
def test_model_run_alone_waits_for_pending_upstream_intervals(new_shop: NewShop, between: str) -> None:
    """Otherwise it would lack the days that are pending upstream permanently, and its runs would succeed."""
    source = "raw.landing" if between == "nothing" else "mid.way"
    files = {"models/landing.sql": LANDING, "models/reader.sql": DOWNSTREAM.replace("raw.landing", source)}
    shop = new_shop({**files, **MODEL_BETWEEN[between]})
    alone = shop.launch(assets=["marts/reader"]).succeeded()
    assert alone.status_of("marts/reader") == "waiting"
    nearest = "mid.way" if between == "a view" else "raw.landing"
    status = alone.checks["marts/reader:sqlmesh_execution_status"]
    assert (status.passed, status.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert status.description == f"marts.reader is waiting: {WAITING_REASON.replace('raw.landing', nearest)}."
    whole_run = shop.launch()
    assert whole_run.status_of("marts/reader") == "executed"
    assert shop.launch(assets=["marts/reader"]).status_of("marts/reader") == "up_to_date"
    assert len(stored_days(shop, "raw.landing")) == 6
    assert stored_days(shop, "marts.reader") == stored_days(shop, "raw.landing")


def test_model_between_whose_cron_is_not_due_holds_nothing_back(new_shop: NewShop) -> None:
    """It would not change if the model upstream of it ran, so its downstream model would wait for nothing."""
    way = f"MODEL (name mid.way, kind FULL, cron '{YEARLY_CRON}', start '2 years ago'); SELECT ds FROM raw.landing"
    reader = DOWNSTREAM.replace("raw.landing", "mid.way")
    shop = new_shop({"models/landing.sql": LANDING, "models/way.sql": way, "models/reader.sql": reader})
    assert shop.launch(assets=["marts/reader"]).status_of("marts/reader") == "executed"


@pytest.mark.parametrize("executor", EXECUTORS)
def test_model_is_computed_up_to_its_upstream_model_and_log_says_so(new_shop: NewShop, executor: str) -> None:
    shop = new_shop({"models/landing.sql": LANDING, "models/reader.sql": DOWNSTREAM})
    first = shop.launch(assets=["raw/landing"], ops={"sqlmesh_shop": {"end": "2 days ago"}})
    record = shop.launch(executor, assets=["marts/reader"])
    assert record.status_of("marts/reader") == "executed"
    assert last_hour(record, "marts/reader") == last_hour(first, "raw/landing")
    status = "marts/reader:sqlmesh_execution_status"
    assert record.checks[status].passed
    assert record.description_of(status).endswith(f"Its other intervals are waiting: {WAITING_REASON}.")
    assert "Its other intervals are waiting" not in first.description_of("raw/landing:sqlmesh_execution_status")
    assert "Not in this run, with pending intervals: raw.landing. Models downstream are computed" in record.log
    assert shop.launch().status == dg.DagsterRunStatus.SUCCESS
    assert stored_days(shop, "marts.reader") == stored_days(shop, "raw.landing")
    assert len(stored_days(shop, "raw.landing")) == 6


STANDALONE_AUDIT = "AUDIT (name as_many, standalone true); SELECT 1 FROM raw.landing, mid.other HAVING count(*) = 0"


def test_standalone_audit_waits_until_all_its_models_are_computed(new_shop: NewShop) -> None:
    """Otherwise no audit would check rows that arrive later the same day."""
    other = LANDING.replace("raw.landing", "mid.other")
    files = {"models/landing.sql": LANDING, "models/other.sql": other, "audits/as_many.sql": STANDALONE_AUDIT}
    shop = new_shop(files)
    shop.refresh()
    check = "mid/other:as_many"
    alone = shop.launch(assets=["mid/other"]).succeeded()
    assert check not in alone.checks
    assert f"as_many is waiting: {WAITING_REASON}" in alone.log
    assert shop.launch().checks[check].passed


def test_model_that_waits_for_excluded_model_says_so(new_shop: NewShop) -> None:
    shop = new_shop({"models/landing.sql": LANDING, "models/reader.sql": DOWNSTREAM}, exclude="raw.landing")
    record = shop.launch()
    assert record.status_of("marts/reader") == "waiting"
    description = record.description_of("marts/reader:sqlmesh_execution_status")
    assert (
        "Not in this component: raw.landing. If the file was deleted, promote the deletion with `sqlmesh plan`."
        in description
    )


PLAIN_ASSET = """
import dagster as dg
from pathlib import Path


@dg.asset(key=["mid", "made"], deps=[["raw", "landing"]])
def made() -> None:
    if Path("{flag}").exists():
        raise ValueError("not today")
"""
CREATE_MID_TABLE = """
before_all:
  - CREATE SCHEMA IF NOT EXISTS mid
  - CREATE TABLE IF NOT EXISTS mid.made AS SELECT 1 AS one
"""


def test_plan_between_failed_run_and_retry_leaves_no_gap(tmp_path: Path, new_shop: NewShop) -> None:
    """The retry does not repeat the first step, and a plan has made intervals of its model pending again."""
    reader = DOWNSTREAM.replace("raw.landing WHERE", "raw.landing, mid.made WHERE")
    files = {"models/landing.sql": LANDING, "models/reader.sql": reader}
    shop = new_shop(files, CONFIG + CREATE_MID_TABLE)
    flag = tmp_path / "the asset between fails"
    flag.touch()
    shop.add_module("between", PLAIN_ASSET.format(flag=flag))
    first = shop.launch().failed()
    assert first.status_of("raw/landing") == "executed"
    flag.unlink()
    (shop.project / "models/landing.sql").write_text(LANDING.replace("AS ds FROM", "AS ds, 2 AS version FROM"))
    shop.plan()
    retried = shop.launch(retry_of=first.run_id)
    assert "raw/landing" not in retried.materializations
    assert retried.status_of("marts/reader") == "waiting"
    assert WAITING_REASON in retried.description_of("marts/reader:sqlmesh_execution_status")
    assert shop.launch().status == dg.DagsterRunStatus.SUCCESS
    assert stored_days(shop, "marts.reader") == stored_days(shop, "raw.landing")
    assert len(stored_days(shop, "raw.landing")) == 6


def ago(days: int, hour: int = 0) -> str:
    """Return a point in time that many days ago."""
    day = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(days=days)
    return f"{day:%Y-%m-%d} {hour:02}:00:00"


HOURLY_ROWS = "SELECT ts, 1 AS n FROM range(@start_dt::TIMESTAMP, @end_dt::TIMESTAMP, INTERVAL 1 hour) AS r(ts)"
BY_TIME = "INCREMENTAL_BY_TIME_RANGE (time_column ts{})"
TIME_FILTER = "WHERE ts >= @start_dt::TIMESTAMP AND ts <= @end_dt::TIMESTAMP"


def hourly_model(name: str, source: str, cron: str, kind: str = BY_TIME.format("")) -> str:
    """Return a model with as many rows as its source, so that missing rows show."""
    return f"MODEL (name {name}, kind {kind}, cron '{cron}'); SELECT ts, n FROM {source} {TIME_FILTER}"


SCENARIOS: dict[str, tuple[dict[str, str], list[tuple[list[str], dict[str, str]]]]] = {
    "a gap in an upstream model": (
        {
            "landing": f"MODEL (name raw.landing, kind {BY_TIME.format('')}); {HOURLY_ROWS}",
            "way": hourly_model("mid.way", "raw.landing", "@daily", "INCREMENTAL_BY_UNIQUE_KEY (unique_key ts)"),
            "reader": hourly_model("marts.reader", "mid.way", "@daily"),
        },
        [(["raw/landing"], {"start": ago(1)}), (["mid/way", "marts/reader"], {})],
    ),
    "a daily model between hourly models": (
        {
            "landing": f"MODEL (name raw.landing, kind {BY_TIME.format('')}, cron '@hourly'); {HOURLY_ROWS}",
            "way": hourly_model("mid.way", "raw.landing", "@daily"),
            "reader": hourly_model("marts.reader", "mid.way", "@hourly"),
        },
        [(["raw/landing"], {"end": ago(1, 22)}), (["mid/way", "marts/reader"], {})],
    ),
    "a run that computes a part of a day": (
        {
            "landing": f"MODEL (name raw.landing, kind {BY_TIME.format('')}, cron '@hourly'); {HOURLY_ROWS}",
            "reader": hourly_model("marts.reader", "raw.landing", "@daily"),
        },
        [(["raw/landing"], {"start": ago(1, 12)}), (["marts/reader"], {"start": ago(1, 12)})],
    ),
    "a run of both models that computes a part of a day": (
        {
            "landing": f"MODEL (name raw.landing, kind {BY_TIME.format('')}, cron '@hourly'); {HOURLY_ROWS}",
            "reader": hourly_model("marts.reader", "raw.landing", "@daily"),
        },
        [(["raw/landing", "marts/reader"], {"start": ago(2, 12), "end": ago(1, 12)})],
    ),
    "a view that depends on the execution time": (
        {
            "landing": f"MODEL (name raw.landing, kind {BY_TIME.format('')}); {HOURLY_ROWS}",
            "way": "MODEL (name mid.way, kind VIEW); SELECT ts, n FROM raw.landing WHERE ts < @execution_ds::DATE",
            "reader": hourly_model("marts.reader", "mid.way", "@daily"),
        },
        [(["raw/landing"], {}), (["marts/reader"], {})],
    ),
}


@pytest.mark.parametrize("case", SCENARIOS)
def test_no_row_is_lost_downstream_of_waiting_models(new_shop: NewShop, case: str) -> None:
    models, runs = SCENARIOS[case]
    shop = new_shop({f"models/{name}.sql": text for name, text in models.items()})
    for assets, config in runs:
        shop.launch(assets=assets, ops={"sqlmesh_shop": config}).succeeded()
    assert shop.launch().status == dg.DagsterRunStatus.SUCCESS
    before_today = f"WHERE ts < '{ago(0)}'"
    assert shop.query(f"SELECT count(*), min(n) FROM marts.reader {before_today}") == [(6 * 24, 1)]


FIRST_ROWS = {"a whole table": "FULL", "a table by key": "INCREMENTAL_BY_UNIQUE_KEY (unique_key ts)"}


@pytest.mark.parametrize("kind", FIRST_ROWS)
def test_a_model_waits_for_the_first_rows_of_a_table_with_a_later_start(new_shop: NewShop, kind: str) -> None:
    """A plan without backfill leaves tables empty. Their first computation brings rows of any time."""
    all_rows = "SELECT ts, n FROM raw.landing UNION ALL SELECT ts, n FROM raw.landing WHERE FALSE"
    models = {
        "landing": f"MODEL (name raw.landing, kind {BY_TIME.format('')}); {HOURLY_ROWS}",
        "way": f"MODEL (name mid.way, kind {FIRST_ROWS[kind]}, start '1 day ago'); {all_rows}",
        "reader": hourly_model("marts.reader", "mid.way", "@daily"),
    }
    shop = new_shop({f"models/{name}.sql": text for name, text in models.items()}, planned_at=None)
    shop.plan("--skip-backfill", at=None)
    shop.launch(assets=["raw/landing"], ops={"sqlmesh_shop": {"end": ago(2)}}).succeeded()
    assert shop.launch(assets=["marts/reader"]).status_of("marts/reader") == "waiting"  # its source does not run
    assert shop.launch(assets=["mid/way", "marts/reader"]).status_of("marts/reader") == "waiting"  # its source waits
    assert shop.launch().status_of("marts/reader") == "executed"
    assert shop.query("SELECT count(*) FROM marts.reader") == [(6 * 24,)]


@pytest.mark.parametrize("kind", [BY_TIME.format(", lookback 3"), BY_TIME.format("")])
def test_recomputation_in_lookback_of_upstream_model_blocks_nothing(new_shop: NewShop, kind: str) -> None:
    landing = f"MODEL (name raw.landing, kind {kind}); {HOURLY_ROWS}"
    reader = hourly_model("marts.reader", "raw.landing", "@daily")
    shop = new_shop({"models/landing.sql": landing, "models/reader.sql": reader})
    first = shop.launch(assets=["raw/landing"], ops={"sqlmesh_shop": {"end": ago(2)}})
    record = shop.launch(assets=["marts/reader"])
    assert last_hour(record, "marts/reader") == last_hour(first, "raw/landing")


def test_model_waits_for_pending_upstream_view(new_shop: NewShop) -> None:
    """Its rows may depend on the execution time, and its audits run before its downstream models."""
    seed = "MODEL (name raw.landing, kind SEED (path '../seeds/landing.csv'), columns (ds DATE))"
    view = "MODEL (name mid.view, kind VIEW, audits (not_null(columns := (ds)))); SELECT ds FROM raw.landing"
    full = "MODEL (name marts.full, kind FULL); SELECT ds FROM mid.view"
    files = {"seeds/landing.csv": "ds\n2024-01-01\n", "models/landing.sql": seed, "models/view.sql": view}
    shop = new_shop({**files, "models/full.sql": full})
    assert shop.launch(assets=["marts/full"]).status_of("marts/full") == "waiting"
    assert shop.launch(assets=["mid/view", "marts/full"]).status_of("marts/full") == "executed"
    assert shop.launch(assets=["marts/full"]).status_of("marts/full") == "up_to_date"


def test_downstream_model_with_lookback_waits_until_older_day_is_computed(new_shop: NewShop) -> None:
    """SQLMesh recomputes the older day only together with the newer day. Later its rows would stay as they are."""
    kind = "MODEL (name raw.landing, kind INCREMENTAL_BY_TIME_RANGE (time_column ds)); SELECT ds, n{more} FROM ctl.ext"
    within = "WHERE ds BETWEEN @start_ds AND @end_ds"
    landing = f"{kind} {within}"
    looking_back = BY_DAY.replace("ds)", "ds, lookback 1)")
    reader = f"MODEL (name marts.reader, {looking_back}); SELECT ds, n FROM raw.landing {within}"
    files = {"models/landing.sql": landing.format(more=""), "models/reader.sql": reader}
    ten_days = "SELECT (current_date - i::INT)::DATE AS ds, 1 AS n FROM range(0, 10) r(i)"
    shop = new_shop(files, tables={"ctl.ext": ten_days}, planned_at="1 day ago")
    shop.query("UPDATE ctl.ext SET n = 2 WHERE ds = current_date - 2")
    (shop.project / "models/landing.sql").write_text(landing.format(more=", 7 AS more"))
    shop.plan(at="2 days ago")
    newer = shop.launch(assets=["raw/landing"], ops={"sqlmesh_shop": {"start": "1 day ago"}})
    assert newer.status_of("raw/landing") == "executed"
    assert shop.launch(assets=["marts/reader"]).status_of("marts/reader") == "waiting"
    assert shop.launch().status_of("marts/reader") == "executed"
    rows = shop.query("SELECT n FROM marts.reader WHERE ds >= current_date - 3 ORDER BY ds")
    assert rows == [(1,), (2,), (1,)]


def test_pending_upstream_intervals_are_found_if_project_has_no_start(new_shop: NewShop) -> None:
    """SQLMesh derives the start of models without `start` from the end of the run."""
    config = CONFIG.replace(", start: 6 days ago", "").replace("  start: 6 days ago\n", "")
    assert "start" not in config
    shop = new_shop({"models/landing.sql": LANDING, "models/reader.sql": DOWNSTREAM}, config, planned_at="now")
    shop.refresh()
    bounds = {"sqlmesh_shop": {"start": "4 days ago", "end": "2 days ago"}}
    assert shop.launch(assets=["marts/reader"], ops=bounds).status_of("marts/reader") == "waiting"
    assert shop.launch(ops=bounds).status_of("marts/reader") == "executed"
    assert stored_days(shop, "marts.reader") == stored_days(shop, "raw.landing")
    assert len(stored_days(shop, "raw.landing")) == 2


def test_waiting_model_names_only_upstream_models_that_lack_its_intervals(new_shop: NewShop) -> None:
    kind = "cron '@hourly', kind INCREMENTAL_BY_TIME_RANGE (time_column ts)"
    hours = "range(@start_dt::TIMESTAMP, @end_dt::TIMESTAMP, INTERVAL 1 hour) AS r(ts)"
    landing = f"MODEL (name raw.landing, {kind}); SELECT ts{{more}} FROM {hours}"
    files = {
        "models/landing.sql": landing.format(more=""),
        "models/other.sql": f"MODEL (name raw.other, {kind}); SELECT ts FROM {hours}",
        "models/reader.sql": "MODEL (name marts.reader, kind INCREMENTAL_BY_TIME_RANGE (time_column ts)); "
        "SELECT landing.ts FROM raw.landing JOIN raw.other ON other.ts = landing.ts "
        "WHERE landing.ts BETWEEN @start_dt AND @end_dt",
    }
    shop = new_shop(files)
    today = f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d} 00:00:00"
    shop.refresh()
    sources = ["raw/landing", "raw/other"]
    shop.launch(assets=sources, ops={"sqlmesh_shop": {"end": today}}).succeeded()
    (shop.project / "models/landing.sql").write_text(landing.format(more=", 7 AS more"))
    shop.plan()
    shop.refresh()
    record = shop.launch(assets=["marts/reader"])
    description = record.description_of("marts/reader:sqlmesh_execution_status")
    assert description == f"marts.reader is waiting: {WAITING_REASON}."


# -- signals ------------------------------------------------------------------------------------------

LANDED_SIGNAL = """
import datetime, pathlib
from sqlmesh import signal


@signal()
def landed(batch):
    if pathlib.Path("nothing has landed").exists():
        return False
    if not pathlib.Path("yesterday has not landed").exists():
        return True
    today = datetime.datetime.now(datetime.timezone.utc).replace(hour=0, minute=0, second=0, microsecond=0)
    return [interval for interval in batch if interval[1] < today]
"""
LANDING_WITH_SIGNAL = f"MODEL (name raw.landing, {BY_DAY}, signals (landed())); {DAILY_ROWS}"
FLAKY_DOWNSTREAM = """
import typing as t
from pathlib import Path

import pandas as pd
from sqlmesh import model
from sqlmesh.core.model.kind import ModelKindName


@model(
    "marts.reader",
    kind={"name": ModelKindName.INCREMENTAL_BY_TIME_RANGE, "time_column": "ds"},
    columns={"ds": "date"},
    depends_on=["raw.landing"],
)
def execute(context, start, end, execution_time, **kwargs: t.Any) -> pd.DataFrame:
    if Path("the connection breaks").exists():
        Path("the connection breaks").unlink()
        raise ConnectionError("the connection was lost")
    landing = context.resolve_table("raw.landing")
    yield context.fetchdf(f"SELECT ds FROM {landing} WHERE ds BETWEEN '{start.date()}' AND '{end.date()}'")
"""


RUNNING_SUM = """
MODEL (name t.sums, kind INCREMENTAL_BY_TIME_RANGE (time_column ds, batch_size 1), columns (ds DATE, n INT));
SELECT ds, (1 + COALESCE((SELECT max(p.n) FROM t.sums AS p WHERE p.ds = @start_ds::DATE - 1), 0))::INT AS n
FROM raw.landing WHERE ds BETWEEN @start_ds AND @end_ds
"""
OF_SUMS = f"MODEL (name t.reader, {BY_DAY}); SELECT ds, n FROM t.sums WHERE ds BETWEEN @start_ds AND @end_ds"
HELD_SIGNAL = """
from pathlib import Path

from sqlmesh import signal


@signal()
def held(batch):
    day = Path("held").read_text() if Path("held").exists() else ""
    return [interval for interval in batch if str(interval[0].date()) != day]
"""


def test_a_model_waits_for_what_one_upstream_leaves_out_behind_a_day_that_is_not_ready(new_shop: NewShop) -> None:
    """SQLMesh computes it from no rows, and never again: the model upstream reads itself, so it leaves out more."""
    files = {
        "models/landing.sql": f"MODEL (name raw.landing, {BY_DAY}, signals (held())); {DAILY_ROWS}",
        "models/sums.sql": RUNNING_SUM,
        "models/reader.sql": OF_SUMS,
        "signals/__init__.py": HELD_SIGNAL,
    }
    shop = new_shop(files, CONFIG)
    (shop.project / "held").write_text(
        str(datetime.datetime.now(datetime.timezone.utc).date() - datetime.timedelta(days=2))
    )
    shop.launch().succeeded()
    assert stored_days(shop, "t.reader") == stored_days(shop, "t.sums")
    (shop.project / "held").unlink()
    assert shop.launch().status == dg.DagsterRunStatus.SUCCESS
    sums = shop.query("SELECT ds, n FROM t.sums ORDER BY ds")
    assert [n for _, n in sums] == [1, 2, 3, 4, 5, 6]
    assert shop.query("SELECT ds, n FROM t.reader ORDER BY ds") == sums


ASSET_BETWEEN = """
import dagster as dg


@dg.asset(key=["mid", "made"], deps=[["raw", "plain"]])
def made() -> None: ...


@dg.asset(deps=[["raw", "late"]])
def report_of_late() -> None: ...
"""


@pytest.mark.parametrize("where", ["in another run", "in a retry", "in another step"])
def test_model_waits_for_signal_of_upstream_model_outside_the_run(new_shop: NewShop, where: str) -> None:
    """Otherwise the day that has not landed would be computed without its source, and never again."""
    files = {"models/landing.sql": LANDING_WITH_SIGNAL, "signals/__init__.py": "", "signals/landed.py": LANDED_SIGNAL}
    files |= {
        "in another run": {"models/reader.sql": DOWNSTREAM},
        "in a retry": {"models/reader.py": FLAKY_DOWNSTREAM},
        "in another step": {
            "models/reader.sql": DOWNSTREAM.replace("raw.landing WHERE", "raw.landing, mid.made WHERE")
        },
    }[where]
    retries = {"execution": {"retries": {"max_retries": 1, "delay": 0.1}}}
    shop = new_shop(files, CONFIG + CREATE_MID_TABLE, **retries)
    (shop.project / "yesterday has not landed").touch()
    if where == "in another step":
        between = ASSET_BETWEEN.replace(
            "-> None: ...", f"-> None: Path('{shop.project}/yesterday has not landed').unlink(True)"
        )
        shop.add_module("between", "from pathlib import Path\n" + between.replace("plain", "landing"))
    if where == "in another run":
        first = shop.launch(assets=["raw/landing"])
        (shop.project / "yesterday has not landed").unlink()  # now its signal would report it as ready
        second = shop.launch(assets=["marts/reader"])
    elif where == "in another step":
        first = second = shop.launch()
        assert "mid__made" in second.succeeded_steps
    else:
        (shop.project / "the connection breaks").touch()
        first = second = shop.launch()
        assert second.materializations["marts/reader"].metadata["sqlmesh/attempts"].value == 2
    assert first.status == second.status == dg.DagsterRunStatus.SUCCESS
    assert last_hour(second, "marts/reader") == last_hour(first, "raw/landing")
    (shop.project / "yesterday has not landed").unlink(missing_ok=True)
    assert shop.launch().status == dg.DagsterRunStatus.SUCCESS
    assert stored_days(shop, "marts.reader") == stored_days(shop, "raw.landing")
    assert len(stored_days(shop, "raw.landing")) == 6


LATE_MODEL = "MODEL (name raw.late, kind FULL, signals (landed())); SELECT 1 AS id"


@pytest.mark.parametrize(("components", "executor"), [*zip((1, 2), EXECUTORS)])
def test_waiting_model_holds_back_only_its_downstream_models(tmp_path: Path, components: int, executor: str) -> None:
    """With one component, whose step is split because another asset is between two models, and with two components."""
    project = write_project(
        tmp_path / "shop",
        {
            "signals/__init__.py": "",
            "signals/landed.py": LANDED_SIGNAL,
            "models/landing.sql": LANDING_WITH_SIGNAL,
            "models/late.sql": LATE_MODEL,
            "models/plain.sql": "MODEL (name raw.plain, kind FULL); SELECT 1 AS id",
            "models/reader.sql": DOWNSTREAM.replace("raw.landing WHERE", "raw.landing, mid.made WHERE"),
            "models/healthy.sql": "MODEL (name marts.healthy, kind FULL, audits (not_null(columns := (id)))); "
            "SELECT id FROM raw.plain, mid.made",
        },
        config=CONFIG + CREATE_MID_TABLE,
    )
    plan(project)
    (project / "nothing has landed").touch()
    with dagster_project(tmp_path) as dagster:
        if components == 1:
            dagster.add_component("shop", {"project": str(project)})
        else:
            dagster.add_component("raw", {"project": str(project), "select": "raw.*"})
            # This is the same project, written in another form.
            dagster.add_component(
                "marts", {"project": {"path": str(project), "environment": "prod"}, "select": "marts.*"}
            )
        dagster.add_module("between", ASSET_BETWEEN)
        dagster.refresh()
        record = dagster.launch(executor)
    assert record.status == dg.DagsterRunStatus.SUCCESS
    assert {key: record.status_of(key) for key in ("raw/landing", "raw/late", "raw/plain")} == {
        "raw/landing": "waiting",
        "raw/late": "waiting",
        "raw/plain": "executed",
    }
    assert record.status_of("marts/healthy") == "executed"
    assert record.checks["marts/healthy:not_null_id"].passed
    assert record.status_of("marts/reader") == "waiting"
    assert "upstream of it, raw.landing waits for a signal" in str(record.observations["marts/reader"].description)
    # Dagster skips other assets downstream of it, and the log of the successful run says so.
    assert "report_of_late" not in record.materializations
    assert "raw.late is waiting, so Dagster skips the steps that wait for it" in record.log
    assert "Not run because of that: report_of_late." in record.log


FRESHNESS_SIGNAL = """
from sqlmesh import signal


@signal()
def fresh(batch, context):
    return bool(context.parent_intervals)
"""


@pytest.mark.parametrize("where", ["in another run", "in another step"])
def test_freshness_signal_sees_upstream_model_computed_in_another_run_or_step(new_shop: NewShop, where: str) -> None:
    """SQLMesh's own signal `freshness` needs this. Otherwise the model would wait permanently."""
    source = "raw.plain, mid.made" if where == "in another step" else "raw.plain"
    files = {
        "signals/__init__.py": "",
        "signals/fresh.py": FRESHNESS_SIGNAL,
        "models/plain.sql": "MODEL (name raw.plain, kind FULL); SELECT 1 AS id",
        "models/reader.sql": f"MODEL (name marts.reader, kind FULL, signals (fresh())); SELECT id FROM {source}",
    }
    shop = new_shop(files, CONFIG + CREATE_MID_TABLE)
    if where == "in another step":
        shop.add_module("between", ASSET_BETWEEN.replace("late", "nothing"))
    if where == "in another run":
        assert shop.launch(assets=["marts/reader"]).status_of("marts/reader") == "waiting"
        assert shop.launch(assets=["raw/plain"]).status_of("raw/plain") == "executed"
        assert shop.launch(assets=["marts/reader"]).status_of("marts/reader") == "executed"
    else:
        record = shop.launch()
        assert "mid__made" in record.succeeded_steps
        assert record.status_of("marts/reader") == "executed"
