"""`restate.jobs`: a backfill in Dagster restates each of its partitions in a run of its own."""

import json
import shutil
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from engine.backfills import backfills
from engine.signals import IS_OPEN
from harness import CONFIG, NewShop, RunRecord, Shop, plan, query, rows_at_night, state
from waiting import evaluate_tick

BY_DAY = "kind INCREMENTAL_BY_TIME_RANGE (time_column ds)"
NO_NULLS = "audits (not_null(columns := (n)))"
READS = "WHERE ds BETWEEN @start_ds AND @end_ds"
MODELS = {
    "models/orders.sql": f"MODEL (name raw.orders, {BY_DAY}, tags (finance), {NO_NULLS}); "
    f"SELECT ds, n FROM ctl.source {READS}",
    "models/revenue.sql": f"MODEL (name marts.revenue, {BY_DAY}, {NO_NULLS}); SELECT ds, n FROM raw.orders {READS}",
    "models/total.sql": "MODEL (name marts.total, kind FULL); SELECT sum(n) AS n FROM marts.revenue",
    "models/late.sql": f"MODEL (name raw.late, {BY_DAY}, start '2026-02-12'); SELECT ds, n FROM ctl.source {READS}",
    "models/alone.sql": "MODEL (name raw.alone, kind FULL); SELECT 1 AS n",
    "models/seed.sql": "MODEL (name raw.countries, kind SEED (path '../seeds/countries.csv')); ",
    "seeds/countries.csv": "code\nDE\n",
}
SOURCE = "SELECT d::DATE AS ds, 1 AS n FROM range(DATE '{start}', DATE '2026-03-01', INTERVAL 1 DAY) AS r(d)"
JOB = "sqlmesh_shop_restate_{by}"
DAYS = ["2026-02-10", "2026-02-11", "2026-02-12"]
MONTHS = [f"{month // 12}-{month % 12 + 1:02}-01" for month in range(2023 * 12 + 5, 2026 * 12 + 2)]


def corrected_shop(new_shop: NewShop, by: str, start: str, corrected: tuple[str, str]) -> Shop:
    """A project whose source was corrected, after everything was computed up to the end of February."""
    shop = new_shop(
        MODELS,
        CONFIG.replace("6 days ago", f"'{start}'"),
        tables={"ctl.source": SOURCE.format(start=start)},
        planned_at="2026-03-01",
        restate={"jobs": [{"by": by}]},
    )
    shop.query("UPDATE ctl.source SET n = 7 WHERE ds BETWEEN '{}' AND '{}'".format(*corrected))
    return shop


@pytest.fixture
def shop(new_shop: NewShop) -> Shop:
    """A project whose source was corrected in three days."""
    return corrected_shop(new_shop, "day", "2026-02-05", (DAYS[0], DAYS[-1]))


def run_job(shop: Shop, partition: str | None = None, by: str = "day") -> RunRecord:
    """Run the job of backfills for a partition, without a backfill."""
    job = shop.refresh().resolve_job_def(JOB.format(by=by))
    result = job.execute_in_process(partition_key=partition, instance=shop.instance, raise_on_error=False)
    return shop.run_record(result.run_id)


def rows(project: Path) -> list[tuple[object, ...]]:
    return query(project, "SELECT ds::DATE::TEXT, n FROM marts.revenue ORDER BY ds") + query(
        project, "SELECT * FROM marts.total"
    )


def restated_twin(shop: Shop, folder: Path, start: str, end: str) -> Path:
    """A copy of the project, restated by SQLMesh in one plan."""
    twin = shutil.copytree(shop.project, folder / "twin")
    models = [f"--restate-model={name}" for name in ("raw.orders", "raw.late", "marts.revenue")]
    plan(twin, *models, "--start", start, "--end", end, at=None)
    return twin


@pytest.mark.attribute("restate.jobs")
def test_backfill_with_a_failing_day_is_finished_by_its_retry_alone(shop: Shop, tmp_path: Path) -> None:
    twin = rows(restated_twin(shop, tmp_path, DAYS[0], DAYS[-1]))
    assert twin != rows(shop.project)
    shop.query("UPDATE ctl.source SET n = NULL WHERE ds = '2026-02-11'")
    with backfills(shop, JOB.format(by="day")) as jobs:
        backfill = jobs.launch(DAYS)
        jobs.execute(jobs.queued())
        assert jobs.status_of(backfill) == "COMPLETED_FAILED"
        failed = {day: "FAILURE" if day == "2026-02-11" else "SUCCESS" for day in DAYS}
        assert jobs.bars(backfill) == failed
        runs = jobs.runs_of(backfill)
        [failure] = runs["2026-02-11"].failures
        assert "1 audit failed" in failure
        first = runs["2026-02-10"]
        assert set(first.materializations) == {"raw/orders", "marts/revenue", "marts/total"}
        assert first.materializations["raw/orders"].metadata["sqlmesh/intervals"].value == "2026-02-10"
        assert first.checks["marts/revenue:not_null_n"].passed
        assert first.checks["raw/orders:sqlmesh_execution_status"].passed
        assert "Left out: raw.late (it starts at 2026-02-12T00:00:00Z, after this range)." in first.log
        # The day after it succeeds, and the table that has lost rows of the failed day waits.
        after = runs["2026-02-12"].succeeded()
        assert set(after.materializations) == {"raw/orders", "raw/late", "marts/revenue"}
        assert after.status_of("marts/total") == "waiting"

        shop.query("UPDATE ctl.source SET n = 7 WHERE ds = '2026-02-11'")
        retry = jobs.launch(DAYS, from_failure=True)
        jobs.execute(jobs.queued())
        assert jobs.status_of(retry) == "COMPLETED_SUCCESS"
        assert jobs.bars(retry) == {"2026-02-11": "SUCCESS"}
        assert rows(shop.project) == twin
    after = shop.launch().succeeded()
    assert "raw/orders" not in {**after.computed_outside, **after.reported_outside}


@pytest.mark.attribute("restate.jobs", "restate.jobs.tables")
def test_a_backfill_of_what_reads_a_table_restates_its_readers_of_each_kind(shop: Shop) -> None:
    (shop.project / "models/seen.sql").write_text(
        "MODEL (name raw.seen, kind FULL); SELECT sum(n) AS n FROM ctl.source WHERE ds < '2026-02-12'"
    )
    shop.plan(at="2026-03-01")
    shop.query("UPDATE ctl.source SET n = 9 WHERE ds = '2026-02-11'")
    shop.refresh()
    shop.configure(restate={"jobs": [{"tables": ["ctl.*"]}]})
    with backfills(shop, JOB.format(by="day")) as jobs:
        backfill = jobs.launch(DAYS[1:2])
        jobs.execute(jobs.queued())
        run = jobs.runs_of(backfill)[DAYS[1]].succeeded()
    assert set(run.materializations) == {"raw/orders", "raw/seen", "marts/revenue", "marts/total"}
    assert shop.query("SELECT n FROM marts.revenue WHERE ds = '2026-02-11'") == [(9,)]


READERS = ["raw.orders", "raw.late", "raw.through"]


def of_tables(*tables: str) -> dict[str, Any]:
    return {"sqlmesh_shop": {"restate": {"start": DAYS[0], "end": DAYS[-1], "tables": [*tables]}}}


@pytest.fixture
def read_shop(new_shop: NewShop) -> Shop:
    """A project whose source was corrected in three days, with a model that reads it through an embedded model."""
    files = {
        **MODELS,
        "models/renamed.sql": "MODEL (name raw.renamed, kind EMBEDDED); SELECT ds, n AS m FROM ctl.source",
        "models/through.sql": f"MODEL (name raw.through, {BY_DAY}); SELECT ds, m FROM raw.renamed {READS}",
    }
    config = CONFIG.replace("6 days ago", "'2026-02-05'")
    tables = {"ctl.source": SOURCE.format(start="2026-02-05")}
    shop = new_shop(files, config, tables=tables, planned_at="2026-03-01", restate=True)
    shop.query(f"UPDATE ctl.source SET n = 7 WHERE ds BETWEEN '{DAYS[0]}' AND '{DAYS[-1]}'")
    return shop


def test_what_reads_a_corrected_table_is_restated_as_by_sqlmesh(read_shop: Shop, tmp_path: Path) -> None:
    shop = read_shop
    twin = shutil.copytree(shop.project, tmp_path / "twin")
    plan(twin, *[f"--restate-model={name}" for name in READERS], "--start", DAYS[0], "--end", DAYS[-1], at=None)

    run = shop.launch(ops=of_tables("Ctl.Source")).succeeded()

    computed = {"raw/orders", "raw/late", "raw/through", "marts/revenue", "marts/total"}
    assert set(run.materializations) == computed
    assert "Left out: raw.alone (does not read the tables itself)" in run.log
    assert rows(shop.project) == rows(twin)
    for name in ("raw.orders", "raw.late", "raw.through"):
        assert query(shop.project, f"SELECT * FROM {name} ORDER BY ds") == query(
            twin, f"SELECT * FROM {name} ORDER BY ds"
        )
    ours, sqlmesh = (
        {fqn: computed for fqn, computed in state(project)["intervals"].items() if "total" not in fqn}
        for project in (shop.project, twin)
    )
    assert ours == sqlmesh, "the sum is computed up to the end of the range here, and up to now by SQLMesh's plan"


@pytest.mark.night("test_a_table_that_no_model_reads_is_refused_with_the_nearest_name")
@pytest.mark.advice("Select the models that read it, or all models.")
def test_a_selection_in_which_nothing_reads_the_table_is_refused(read_shop: Shop) -> None:
    run = read_shop.launch(assets=["raw/alone"], ops=of_tables("source")).failed()
    [failure] = run.failures
    assert "None of the selected models reads" in failure
    assert "ctl.source itself, as promoted in prod. Nothing was computed." in failure
    read_shop.launch(assets=["raw/alone", "raw/orders"], ops=of_tables("source")).succeeded()
    read_shop.launch(ops=of_tables("source")).succeeded()


def test_a_table_that_no_model_reads_is_refused_with_the_nearest_name(read_shop: Shop) -> None:
    [failure] = read_shop.launch(ops=of_tables("ctl.sorce")).failed().failures
    assert "`restate.tables` in the run config names 'ctl.sorce', but no model reads an external table" in failure
    assert "Did you mean ctl.source?" in failure


def test_a_day_in_which_no_selected_model_can_be_restated_fails_and_computes_nothing(new_shop: NewShop) -> None:
    ended = f"MODEL (name raw.ended, {BY_DAY}, end '2026-02-11'); SELECT ds, n FROM ctl.source {READS}"
    files = {
        "models/ended.sql": ended,
        "models/total.sql": "MODEL (name marts.total, kind FULL); SELECT sum(n) AS n FROM raw.ended",
        "models/kept.sql": "MODEL (name raw.kept, kind INCREMENTAL_UNMANAGED); SELECT 1 AS n",
    }
    shop = new_shop(
        files,
        CONFIG.replace("6 days ago", f"'{DAYS[0]}'"),
        tables={"ctl.source": SOURCE.format(start=DAYS[0])},
        planned_at="2026-03-01",
        restate={"jobs": [{}]},
    )
    unmanaged = "raw.kept (kind INCREMENTAL_UNMANAGED: `disable_restatement` is true)"
    with backfills(shop, JOB.format(by="day")) as jobs:
        backfill = jobs.launch(DAYS[1:])
        jobs.execute(jobs.queued())
        first, second = jobs.runs_of(backfill).values()
        assert set(first.succeeded().materializations) == {"raw/ended", "marts/total"}
        assert f"Left out: {unmanaged}." in first.log
        [failure] = second.failures
        ends = "raw.ended (it ends at 2026-02-12T00:00:00Z, before this range)"
        assert failure.startswith(f"SQLMesh cannot restate {unmanaged}, {ends}. Nothing was computed.")
        assert not second.materializations
    (shop.project / "models/new.sql").write_text(f"MODEL (name raw.new, {BY_DAY}); SELECT ds FROM ctl.source {READS}")
    shop.configure(restate={"jobs": [{"select": "raw.new"}]})
    [failure] = run_job(shop, DAYS[0]).failures
    assert failure.startswith("SQLMesh cannot restate warehouse.raw.new (not promoted). Nothing was computed.")


@pytest.mark.advice("which SQLMesh restates only together with the next one: choose a longer range")
@pytest.mark.parametrize(
    ("by", "cron", "first", "second"),
    [("day", "@daily", "2026-02-05", "2026-02-06"), *rows_at_night(("month", "@monthly", "2026-02-01", "2026-03-01"))],
)
def test_the_interval_in_which_a_model_starts_is_no_partition_and_is_restated_with_the_next_one(
    new_shop: NewShop, by: str, cron: str, first: str, second: str
) -> None:
    model = f"MODEL (name raw.noon, {BY_DAY}, start '2026-02-05 12:00:00', cron '{cron}'); SELECT @start_ds::DATE AS ds"
    shop = new_shop({"models/noon.sql": model}, planned_at="2026-05-01", restate={"jobs": [{"by": by}]})
    job = shop.refresh().resolve_job_def(JOB.format(by=by))
    assert job.partitions_def is not None
    assert job.partitions_def.get_first_partition_key() == second
    assert job.execute_in_process(partition_key=second, instance=shop.instance).success

    [failure] = shop.launch(ops={"sqlmesh_shop": {"restate": {"start": first, "end": first}}}).failures
    assert "raw.noon (it starts at 2026-02-05T12:00:00Z, inside its first interval, which SQLMesh" in failure
    run = shop.launch(ops={"sqlmesh_shop": {"restate": {"start": first, "end": second}}})
    assert run.succeeded().materializations["raw/noon"].metadata["sqlmesh/computed_intervals"].value == 2


def test_a_selected_model_that_is_left_out_computes_a_pending_day_of_the_range(new_shop: NewShop) -> None:
    files = {
        "models/kept.sql": f"MODEL (name raw.kept, kind INCREMENTAL_UNMANAGED); SELECT ds, n FROM ctl.source {READS}",
        "models/revenue.sql": MODELS["models/revenue.sql"].replace("raw.orders", "raw.kept"),
    }
    tables = {"ctl.source": SOURCE.format(start=DAYS[0])}
    shop = new_shop(files, tables=tables, planned_at="1 day ago", restate={"jobs": [{}]})
    run = run_job(shop, f"{datetime.now(timezone.utc) - timedelta(days=1):%Y-%m-%d}").succeeded()
    assert "Left out: raw.kept (kind INCREMENTAL_UNMANAGED: `disable_restatement` is true)." in run.log
    assert set(run.materializations) == {"raw/kept", "marts/revenue"}


def test_a_day_in_which_each_selected_model_waits_fails_and_the_next_run_computes_it(new_shop: NewShop) -> None:
    waits = f"MODEL (name raw.waits, {BY_DAY}, signals [is_open()]); SELECT ds, n FROM ctl.source {READS}"
    shop = new_shop(
        {
            "signals/__init__.py": IS_OPEN,
            "models/waits.sql": waits,
            "models/total.sql": "MODEL (name marts.total, kind FULL); SELECT sum(n) AS n FROM raw.waits",
        },
        CONFIG.replace("6 days ago", f"'{DAYS[0]}'"),
        tables={"ctl.source": SOURCE.format(start=DAYS[0])},
        restate={"jobs": [{}]},
    )
    shop.query("UPDATE ctl.source SET n = 7")
    (shop.project / "closed").touch()
    run = run_job(shop, DAYS[0])
    [failure] = run.failures
    assert "All selected models are waiting, so nothing was restated: raw.waits. Their intervals are pending" in failure
    assert not run.materializations
    (shop.project / "closed").unlink()
    shop.launch().succeeded()
    assert shop.query("SELECT ds::TEXT FROM raw.waits WHERE n = 7") == [(DAYS[0],)]


@pytest.mark.advice("Launch a backfill on the job's page in Dagster, or write the range:")
def test_run_of_the_job_without_a_range_is_refused_with_the_command(shop: Shop) -> None:
    """`dg launch --job` ignores `--partition`."""
    [failure] = run_job(shop).failures
    config = (
        '{"ops": {"sqlmesh_shop_restate_day": {"config": {"restate": {"start": "2026-02-05", "end": "2026-02-05"}}}}}'
    )
    assert f"    dg launch --job sqlmesh_shop_restate_day --config-json '{config}'" in failure
    with backfills(shop, JOB.format(by="day")) as jobs:
        backfill = jobs.launch(DAYS[:1])
        jobs.execute(jobs.queued())
        assert jobs.runs_of(backfill)[DAYS[0]].succeeded().materializations
    job = shop.refresh().resolve_job_def(JOB.format(by="day"))
    result = job.execute_in_process(json.loads(config), instance=shop.instance)
    assert shop.run_record(result.run_id).succeeded().materializations


def test_run_without_a_range_is_refused_also_before_the_first_partition_has_ended(new_shop: NewShop) -> None:
    today = f"{datetime.now(timezone.utc):%Y-%m-%d}"
    files = {"models/days.sql": f"MODEL (name t.days, {BY_DAY}); SELECT @start_ds::DATE AS ds"}
    config = CONFIG.replace("6 days ago", f"'{today}'")
    shop = new_shop(files, config, planned_at=None, restate={"jobs": [{"by": "month"}]})
    [failure] = run_job(shop, by="month").failures
    assert f'"restate": {{"start": "{today[:7]}-01"' in failure


@pytest.mark.attribute("restate.jobs.select")
def test_cancelled_backfill_is_continued_by_its_missing_partitions(shop: Shop) -> None:
    """The job is one of a selection. The second day is above the budget, as the first one was recorded."""
    jobs = [{"by": "day", "select": "tag:finance"}]
    shop.configure(restate={"jobs": jobs}, budget={"seconds": 0.000001})
    with backfills(shop, JOB.format(by="day")) as of_job:
        backfill = of_job.launch(DAYS)
        first, *others = of_job.queued()
        of_job.execute([first])
        of_job.cancel(backfill)
        assert of_job.status_of(backfill) == "CANCELED"
        assert list(of_job.bars(backfill).values()) == ["SUCCESS", *["CANCELED" for _ in others]]
        run = of_job.runs_of(backfill)[DAYS[0]]
        assert set(run.materializations) == {"raw/orders", "marts/revenue", "marts/total"}
        assert "raw.late" not in run.log, "it is not selected"

        rest = of_job.launch(DAYS[1:2])
        of_job.execute(of_job.queued())
        assert of_job.status_of(rest) == "COMPLETED_FAILED"
        [failure] = of_job.runs_of(rest)[DAYS[1]].failures
        assert "`budget.seconds` in defs.yaml is 0.000001. Nothing was computed." in failure
        assert not of_job.runs_of(rest)[DAYS[1]].checks, "it has planned none"
    assert [day for day, n in rows(shop.project)[:-1] if n == 7] == DAYS[:1]


def test_tick_names_only_the_runs_that_it_waits_for_and_not_the_queued_runs_of_a_backfill(
    shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    shop.configure(restate={"jobs": [{"by": "day"}]}, schedule={"cron": "@daily"})
    with backfills(shop, JOB.format(by="day")) as jobs:
        jobs.launch(DAYS)
        assert evaluate_tick(shop).run_requests
        assert "has not finished" not in capsys.readouterr().err
        run = shop.instance.create_run_for_job(shop.refresh().resolve_job_def("sqlmesh_shop_job"))
        skipped = evaluate_tick(shop).skip_message
    assert skipped.startswith(f"Run {run.run_id} has not finished, and computes these pending models: marts.revenue, ")


def test_run_of_a_backfill_in_which_a_model_waits_gives_no_advice_for_backfills_of_assets(new_shop: NewShop) -> None:
    """Its status is that of the run. A backfill of assets counts the model as failed."""
    waits = f"MODEL (name raw.waits, {BY_DAY}, signals (is_open())); SELECT ds, n FROM ctl.source {READS}"
    files = {
        "models/orders.sql": MODELS["models/orders.sql"],
        "models/waits.sql": waits,
        "signals/__init__.py": IS_OPEN,
    }
    tables = {"ctl.source": SOURCE.format(start=DAYS[0])}
    shop = new_shop(files, CONFIG.replace("6 days ago", f"'{DAYS[0]}'"), tables=tables, restate={"jobs": [{}]})
    (shop.project / "closed").touch()
    with backfills(shop, JOB.format(by="day")) as jobs:
        backfill = jobs.launch(DAYS[:1])
        jobs.execute(jobs.queued())
        [run] = jobs.runs_of(backfill).values()
    assert run.succeeded().status_of("raw/waits") == "waiting"
    assert "belongs to a backfill" not in run.log


@pytest.mark.slow
def test_1000_days_cancelled_continued_and_retried_equal_one_restatement(new_shop: NewShop, tmp_path: Path) -> None:
    start, end = "2023-06-05", "2026-02-28"
    shop = corrected_shop(new_shop, "month", start, (start, end))
    twin = rows(restated_twin(shop, tmp_path, start, end))
    assert {n for _, n in twin[:-1]} == {7}
    assert len(twin) - 1 == 1000
    shop.query("UPDATE ctl.source SET n = NULL WHERE ds = '2024-10-15'")
    with backfills(shop, JOB.format(by="month")) as jobs:
        backfill = jobs.launch(MONTHS)
        while len(jobs.queued()) < len(MONTHS):
            jobs.tick()
        jobs.execute(jobs.queued()[:20])
        jobs.cancel(backfill)
        assert jobs.status_of(backfill) == "CANCELED"
        expected = {month: "SUCCESS" if month in MONTHS[:20] else "CANCELED" for month in MONTHS}
        assert jobs.bars(backfill) == {**expected, "2024-10-01": "FAILURE"}

        rest = jobs.launch(MONTHS[20:])
        jobs.execute(jobs.queued())
        assert (jobs.status_of(rest), len(jobs.bars(rest))) == ("COMPLETED_SUCCESS", 13)
        lacking = [day for day, n in rows(shop.project)[:-1] if n != 7]
        assert set(lacking) <= {f"2024-10-{day:02}" for day in range(1, 32)}

        shop.query("UPDATE ctl.source SET n = 7 WHERE ds = '2024-10-15'")
        retry = jobs.launch(MONTHS, from_failure=True)
        jobs.execute(jobs.queued())
        assert (jobs.status_of(retry), jobs.bars(retry)) == ("COMPLETED_SUCCESS", {"2024-10-01": "SUCCESS"})
    assert rows(shop.project) == twin
    assert not shop.launch(assets=["raw/orders"]).succeeded().computed_outside
