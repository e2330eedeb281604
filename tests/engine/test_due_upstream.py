"""What is due upstream and does not run: what reads it is computed as far as that is."""

from __future__ import annotations

import datetime
from pathlib import Path

import dagster as dg
import pytest
from harness import CONFIG, EXECUTORS, RARELY, Told, dagster_project, plan, query, sqlmesh, write_project

DAYS = "SELECT @start_ds::DATE + i::INT AS ds FROM range(0, 1 + (@end_ds::DATE - @start_ds::DATE)) AS r(i)"
BY_DAY = "kind INCREMENTAL_BY_TIME_RANGE (time_column ds)"
LANDING = f"MODEL (name raw.landing, {BY_DAY}); {DAYS}"
READER = f"MODEL (name marts.reader, {BY_DAY}); SELECT ds FROM raw.landing WHERE ds BETWEEN @start_ds AND @end_ds"
BETWEEN = {
    "nothing": {},
    "a view": {"models/way.sql": "MODEL (name mid.way, kind VIEW); SELECT ds FROM raw.landing"},
    "an embedded model": {"models/way.sql": "MODEL (name mid.way, kind EMBEDDED); SELECT ds FROM raw.landing"},
    "a model that is not due": {
        "models/way.sql": f"MODEL (name mid.way, kind FULL, cron '{RARELY}', start '2 years ago'); "
        "SELECT ds FROM raw.landing",
    },
}
WAITS = (
    "models upstream have pending intervals and are not part of this step: raw.landing. "
    "Select them too, with all models upstream of them"
)


def days(project: Path, table: str) -> list[str]:
    return [str(day) for (day,) in query(project, f"SELECT ds FROM {table} ORDER BY ds")]


def end_of(told: Told, asset: str) -> object:
    return told.materializations[asset].metadata["sqlmesh/interval_end"].value


@pytest.mark.parametrize("between", BETWEEN)
def test_a_model_run_alone_waits_for_what_is_due_upstream_and_says_what_to_do(tmp_path: Path, between: str) -> None:
    """Else the days that have not been computed upstream would be missing in it for good, in green runs."""
    source = "raw.landing" if between == "nothing" else "mid.way"
    files = {"models/landing.sql": LANDING, "models/reader.sql": READER.replace("raw.landing", source)}
    project = write_project(tmp_path / "shop", {**files, **BETWEEN[between]})
    plan(project)
    with dagster_project(tmp_path) as dagster:
        dagster.declare("shop", {"project": str(project)})
        dagster.refresh()
        alone = dagster.launch(assets=["marts/reader"])
        assert alone.status == dg.DagsterRunStatus.SUCCESS
        assert alone.status_of("marts/reader") == "waiting"
        nearest = "mid.way" if between == "a view" else "raw.landing"
        status = alone.checks["marts/reader:sqlmesh_execution_status"]
        assert (status.passed, status.severity) == (False, dg.AssetCheckSeverity.WARN)
        assert status.description == f"marts.reader is waiting: {WAITS.replace('raw.landing', nearest)}."
        together = dagster.launch()
        assert together.status_of("marts/reader") == "executed"
        assert dagster.launch(assets=["marts/reader"]).status_of("marts/reader") == "up_to_date"
    assert len(days(project, "raw.landing")) == 6
    if between != "a model that is not due":  # what such a model lacks, SQLMesh itself lets its readers lack
        assert days(project, "marts.reader") == days(project, "raw.landing")


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_model_is_computed_as_far_as_what_it_reads_and_the_log_says_so(tmp_path: Path, executor: str) -> None:
    project = write_project(tmp_path / "shop", {"models/landing.sql": LANDING, "models/reader.sql": READER})
    plan(project)
    with dagster_project(tmp_path) as dagster:
        dagster.declare("shop", {"project": str(project)})
        dagster.refresh()
        first = dagster.launch(assets=["raw/landing"], ops={"sqlmesh_shop": {"end": "2 days ago"}})
        told = dagster.launch(executor, assets=["marts/reader"])
        assert told.status_of("marts/reader") == "executed"
        assert end_of(told, "marts/reader") == end_of(first, "raw/landing")
        status = told.checks["marts/reader:sqlmesh_execution_status"]
        assert status.passed
        assert status.description.endswith(f"Its other intervals are waiting: {WAITS}.")
        assert "Its other intervals are waiting" not in first.checks["raw/landing:sqlmesh_execution_status"].description
        assert (
            "Not in this run, with pending intervals: warehouse.raw.landing. Models downstream are computed" in told.log
        )
        assert dagster.launch().status == dg.DagsterRunStatus.SUCCESS
    assert days(project, "marts.reader") == days(project, "raw.landing")
    assert len(days(project, "raw.landing")) == 6


AUDIT = "AUDIT (name as_many, standalone true); SELECT 1 FROM raw.landing, mid.other HAVING count(*) = 0"


def test_a_standalone_audit_waits_for_all_that_it_reads_and_is_evaluated_once_that_is_there(tmp_path: Path) -> None:
    """Else what comes later the same day would be seen by no audit."""
    other = LANDING.replace("raw.landing", "mid.other")
    files = {"models/landing.sql": LANDING, "models/other.sql": other, "audits/as_many.sql": AUDIT}
    project = write_project(tmp_path / "shop", files)
    plan(project)
    with dagster_project(tmp_path) as dagster:
        dagster.declare("shop", {"project": str(project)})
        dagster.refresh()
        check = "mid/other:as_many"
        alone = dagster.launch(assets=["mid/other"])
        assert alone.status == dg.DagsterRunStatus.SUCCESS, alone.failures
        assert check not in alone.checks
        assert f"as_many is waiting: {WAITS}" in alone.log
        assert dagster.launch().checks[check].passed


def test_a_model_that_waits_for_one_which_is_left_out_says_that_it_has_to_run_elsewhere(tmp_path: Path) -> None:
    project = write_project(tmp_path / "shop", {"models/landing.sql": LANDING, "models/reader.sql": READER})
    plan(project)
    with dagster_project(tmp_path) as dagster:
        dagster.declare("shop", {"project": str(project), "exclude": "raw.landing"})
        dagster.refresh()
        told = dagster.launch()
        assert told.status_of("marts/reader") == "waiting"
        said = told.checks["marts/reader:sqlmesh_execution_status"].description
        assert (
            "Not in this component: raw.landing. If the file was deleted, promote the deletion with `sqlmesh plan`."
            in said
        )


MADE = """
import dagster as dg
from pathlib import Path


@dg.asset(key=["mid", "made"], deps=[["raw", "landing"]])
def made() -> None:
    if Path("{flag}").exists():
        raise ValueError("not today")
"""
MID = """
before_all:
  - CREATE SCHEMA IF NOT EXISTS mid
  - CREATE TABLE IF NOT EXISTS mid.made AS SELECT 1 AS one
"""


def test_a_plan_between_a_failed_run_and_its_retry_leaves_no_hole_in_what_the_retry_computes(tmp_path: Path) -> None:
    """The first part of the split step is not repeated, and a plan has made its model due again."""
    reader = READER.replace("raw.landing WHERE", "raw.landing, mid.made WHERE")
    files = {"models/landing.sql": LANDING, "models/reader.sql": reader}
    project = write_project(tmp_path / "shop", files, config=CONFIG + MID)
    plan(project)
    flag = tmp_path / "the asset between fails"
    flag.touch()
    with dagster_project(tmp_path) as dagster:
        dagster.declare("shop", {"project": str(project)})
        dagster.add_module("between", MADE.format(flag=flag))
        dagster.refresh()
        first = dagster.launch()
        assert first.status == dg.DagsterRunStatus.FAILURE
        assert first.status_of("raw/landing") == "executed"
        flag.unlink()
        (project / "models/landing.sql").write_text(LANDING.replace("AS ds FROM", "AS ds, 2 AS version FROM"))
        plan(project)
        retried = dagster.launch(retry_of=first.run_id)
        assert "raw/landing" not in retried.materializations
        assert retried.status_of("marts/reader") == "waiting"
        assert WAITS in retried.checks["marts/reader:sqlmesh_execution_status"].description
        assert dagster.launch().status == dg.DagsterRunStatus.SUCCESS
    assert days(project, "marts.reader") == days(project, "raw.landing")
    assert len(days(project, "raw.landing")) == 6


def ago(days: int, hour: int = 0) -> str:
    """A point in time of that many days ago."""
    day = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(days=days)
    return f"{day:%Y-%m-%d} {hour:02}:00:00"


HOURS = "SELECT ts, 1 AS n FROM range(@start_dt::TIMESTAMP, @end_dt::TIMESTAMP, INTERVAL 1 hour) AS r(ts)"
BY_TIME = "INCREMENTAL_BY_TIME_RANGE (time_column ts{})"
OF_TIME = "WHERE ts >= @start_dt::TIMESTAMP AND ts <= @end_dt::TIMESTAMP"


def of_hours(name: str, source: str, cron: str, kind: str = BY_TIME.format("")) -> str:
    """A model of as many rows as its source has, which tells whose rows are missing."""
    return f"MODEL (name {name}, kind {kind}, cron '{cron}'); SELECT ts, n FROM {source} {OF_TIME}"


LEFT_OUT = {
    "what is behind a gap": (
        {
            "landing": f"MODEL (name raw.landing, kind {BY_TIME.format('')}); {HOURS}",
            "way": of_hours("mid.way", "raw.landing", "@daily", "INCREMENTAL_BY_UNIQUE_KEY (unique_key ts)"),
            "reader": of_hours("marts.reader", "mid.way", "@daily"),
        },
        [(["raw/landing"], {"start": ago(1)}), (["mid/way", "marts/reader"], {})],
    ),
    "a day for an hour": (
        {
            "landing": f"MODEL (name raw.landing, kind {BY_TIME.format('')}, cron '@hourly'); {HOURS}",
            "way": of_hours("mid.way", "raw.landing", "@daily"),
            "reader": of_hours("marts.reader", "mid.way", "@hourly"),
        },
        [(["raw/landing"], {"end": ago(1, 22)}), (["mid/way", "marts/reader"], {})],
    ),
    "a day of which a run computes a part": (
        {
            "landing": f"MODEL (name raw.landing, kind {BY_TIME.format('')}, cron '@hourly'); {HOURS}",
            "reader": of_hours("marts.reader", "raw.landing", "@daily"),
        },
        [(["raw/landing"], {"start": ago(1, 12)}), (["marts/reader"], {"start": ago(1, 12)})],
    ),
    "what a view showed when it ran": (
        {
            "landing": f"MODEL (name raw.landing, kind {BY_TIME.format('')}); {HOURS}",
            "way": "MODEL (name mid.way, kind VIEW); SELECT ts, n FROM raw.landing WHERE ts < @execution_ds::DATE",
            "reader": of_hours("marts.reader", "mid.way", "@daily"),
        },
        [(["raw/landing"], {}), (["marts/reader"], {})],
    ),
}


@pytest.mark.parametrize("case", LEFT_OUT)
def test_no_row_is_lost_in_readers_of_what_had_to_wait(tmp_path: Path, case: str) -> None:
    models, runs = LEFT_OUT[case]
    project = write_project(tmp_path / "shop", {f"models/{name}.sql": text for name, text in models.items()})
    plan(project)
    with dagster_project(tmp_path) as dagster:
        dagster.declare("shop", {"project": str(project)})
        dagster.refresh()
        for assets, config in runs:
            told = dagster.launch(assets=assets, ops={"sqlmesh_shop": config})
            assert told.status == dg.DagsterRunStatus.SUCCESS, told.failures
        assert dagster.launch().status == dg.DagsterRunStatus.SUCCESS
    before_today = f"WHERE ts < '{ago(0)}'"
    assert query(project, f"SELECT count(*), min(n) FROM marts.reader {before_today}") == [(6 * 24, 1)]


@pytest.mark.parametrize("kind", [BY_TIME.format(", lookback 3"), BY_TIME.format("")])
def test_what_its_source_computes_once_more_holds_nothing_back(tmp_path: Path, kind: str) -> None:
    landing = f"MODEL (name raw.landing, kind {kind}); {HOURS}"
    reader = of_hours("marts.reader", "raw.landing", "@daily")
    project = write_project(tmp_path / "shop", {"models/landing.sql": landing, "models/reader.sql": reader})
    plan(project)
    with dagster_project(tmp_path) as dagster:
        dagster.declare("shop", {"project": str(project)})
        dagster.refresh()
        first = dagster.launch(assets=["raw/landing"], ops={"sqlmesh_shop": {"end": ago(2)}})
        told = dagster.launch(assets=["marts/reader"])
    assert end_of(told, "marts/reader") == end_of(first, "raw/landing")


def test_a_view_is_waited_for_as_any_model(tmp_path: Path) -> None:
    """What it shows may depend on when it ran, and its audits see the rows before its readers do."""
    seed = "MODEL (name raw.landing, kind SEED (path '../seeds/landing.csv'), columns (ds DATE))"
    view = "MODEL (name mid.view, kind VIEW, audits (not_null(columns := (ds)))); SELECT ds FROM raw.landing"
    full = "MODEL (name marts.full, kind FULL); SELECT ds FROM mid.view"
    files = {"seeds/landing.csv": "ds\n2024-01-01\n", "models/landing.sql": seed, "models/view.sql": view}
    project = write_project(tmp_path / "shop", {**files, "models/full.sql": full})
    plan(project)
    with dagster_project(tmp_path) as dagster:
        dagster.declare("shop", {"project": str(project)})
        dagster.refresh()
        assert dagster.launch(assets=["marts/full"]).status_of("marts/full") == "waiting"
        assert dagster.launch(assets=["mid/view", "marts/full"]).status_of("marts/full") == "executed"
        assert dagster.launch(assets=["marts/full"]).status_of("marts/full") == "up_to_date"


def test_a_reader_with_lookback_waits_with_the_newer_day_for_the_older_one(tmp_path: Path) -> None:
    """SQLMesh computes the older day once more behind the newer one, and not again: it would keep what stood there."""
    kind = "MODEL (name raw.landing, kind INCREMENTAL_BY_TIME_RANGE (time_column ds)); SELECT ds, n{more} FROM ctl.ext"
    within = "WHERE ds BETWEEN @start_ds AND @end_ds"
    landing = f"{kind} {within}"
    looking_back = BY_DAY.replace("ds)", "ds, lookback 1)")
    reader = f"MODEL (name marts.reader, {looking_back}); SELECT ds, n FROM raw.landing {within}"
    files = {"models/landing.sql": landing.format(more=""), "models/reader.sql": reader}
    project = write_project(tmp_path / "shop", files)
    query(project, "CREATE SCHEMA ctl")
    query(project, "CREATE TABLE ctl.ext AS SELECT (current_date - i::INT)::DATE AS ds, 1 AS n FROM range(0, 10) r(i)")
    as_of = ("plan", "--auto-apply", "--no-prompts", "--execution-time")
    sqlmesh(project, *as_of, "1 day ago")
    query(project, "UPDATE ctl.ext SET n = 2 WHERE ds = current_date - 2")
    (project / "models/landing.sql").write_text(landing.format(more=", 7 AS more"))
    sqlmesh(project, *as_of, "2 days ago")
    with dagster_project(tmp_path) as dagster:
        dagster.declare("shop", {"project": str(project)})
        dagster.refresh()
        newer = dagster.launch(assets=["raw/landing"], ops={"sqlmesh_shop": {"start": "1 day ago"}})
        assert newer.status_of("raw/landing") == "executed"
        assert dagster.launch(assets=["marts/reader"]).status_of("marts/reader") == "waiting"
        assert dagster.launch().status_of("marts/reader") == "executed"
    said = query(project, "SELECT n FROM marts.reader WHERE ds >= current_date - 3 ORDER BY ds")
    assert said == [(1,), (2,), (1,)]


def test_what_is_missing_upstream_is_seen_also_where_only_the_bounds_of_a_run_say_its_start(tmp_path: Path) -> None:
    """Of models without a `start`, SQLMesh takes that for the start which the end of a run leads to."""
    config = CONFIG.replace(", start: 6 days ago", "").replace("  start: 6 days ago\n", "")
    assert "start" not in config
    project = write_project(tmp_path / "shop", {"models/landing.sql": LANDING, "models/reader.sql": READER}, config)
    sqlmesh(project, "plan", "--auto-apply", "--no-prompts")
    with dagster_project(tmp_path) as dagster:
        dagster.declare("shop", {"project": str(project)})
        dagster.refresh()
        bounds = {"sqlmesh_shop": {"start": "4 days ago", "end": "2 days ago"}}
        assert dagster.launch(assets=["marts/reader"], ops=bounds).status_of("marts/reader") == "waiting"
        assert dagster.launch(ops=bounds).status_of("marts/reader") == "executed"
    assert days(project, "marts.reader") == days(project, "raw.landing")
    assert len(days(project, "raw.landing")) == 2


def test_a_waiting_model_names_what_lacks_its_intervals_and_nothing_that_is_due_beside_them(tmp_path: Path) -> None:
    kind = "cron '@hourly', kind INCREMENTAL_BY_TIME_RANGE (time_column ts)"
    hours = "range(@start_dt::TIMESTAMP, @end_dt::TIMESTAMP, INTERVAL 1 hour) AS r(ts)"
    within = "WHERE {ts} BETWEEN @start_dt AND @end_dt"
    landing = f"MODEL (name raw.landing, {kind}); SELECT ts{{more}} FROM {hours}"
    files = {
        "models/landing.sql": landing.format(more=""),
        "models/other.sql": f"MODEL (name raw.other, {kind}); SELECT ts FROM {hours}",
        "models/way.sql": f"MODEL (name mid.way, {kind}); SELECT ts FROM raw.landing {within.format(ts='ts')}",
        "models/reader.sql": "MODEL (name marts.reader, kind INCREMENTAL_BY_TIME_RANGE (time_column ts)); "
        f"SELECT way.ts FROM mid.way JOIN raw.other ON other.ts = way.ts {within.format(ts='way.ts')}",
    }
    project = write_project(tmp_path / "shop", files)
    plan(project)
    today = f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d} 00:00:00"
    with dagster_project(tmp_path) as dagster:
        dagster.declare("shop", {"project": str(project)})
        dagster.refresh()
        sources = ["raw/landing", "mid/way", "raw/other"]
        before = dagster.launch(assets=sources, ops={"sqlmesh_shop": {"end": today}})
        assert before.status == dg.DagsterRunStatus.SUCCESS, before.failures
        (project / "models/landing.sql").write_text(landing.format(more=", 7 AS more"))
        plan(project)
        dagster.refresh()
        told = dagster.launch(assets=["marts/reader"])
        said = told.checks["marts/reader:sqlmesh_execution_status"].description
        assert said == f"marts.reader is waiting: {WAITS}."
