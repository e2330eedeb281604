"""Schedules request what SQLMesh would compute. Ticks are evaluated as Dagster's daemon evaluates them."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import time_machine
from dagster._core.execution.api import create_execution_plan
from dagster._core.scheduler.instigation import InstigatorStatus
from dagster._utils.schedules import schedule_execution_time_iterator
from engine.backfills import backfills
from harness import CONFIG, NewShop, RunRecord, Shop, at_night, duckdb_file_in_use, script, state

from dg_sqlmesh_component.definitions.translator import HAS_VIRTUAL_ASSETS
from dg_sqlmesh_component.protocol.errors import EnvironmentNotReadyError

CONFIG_SINCE = CONFIG.replace("6 days ago", "{start}")
BY_TIME = "kind INCREMENTAL_BY_TIME_RANGE (time_column at)"
FAILING = "CASE WHEN (SELECT count(*) FROM ctl.broken) > 0 THEN error('broken') ELSE 1 END"
MODELS = {
    "models/often.sql": f"MODEL (name raw.often, {BY_TIME}, cron '*/10 * * * *');"
    " SELECT @start_dt::TIMESTAMP AS at, 1 AS n",
    "models/hourly.sql": f"MODEL (name raw.hourly, {BY_TIME}, cron '@hourly');"
    f" SELECT @start_dt::TIMESTAMP AS at, {FAILING} AS n",
    "models/daily.sql": "MODEL (name marts.daily, kind FULL, cron '@daily'); SELECT count(*) AS n FROM raw.hourly",
    "models/weekly.sql": "MODEL (name marts.weekly, kind FULL, cron '0 3 * * 1'); SELECT n FROM marts.daily",
    "models/night.sql": "MODEL (name marts.night, kind FULL, cron '30 1 * * *', cron_tz 'America/New_York');"
    " SELECT count(*) AS n FROM raw.hourly",
    "models/morning.sql": "MODEL (name marts.morning, kind FULL, cron '30 2 * * *', cron_tz 'Europe/Berlin');"
    " SELECT n FROM marts.night",
}
SCHEDULE = "sqlmesh_shop_schedule"


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=timezone.utc)


def milliseconds(instant: datetime) -> int:
    return int(instant.timestamp() * 1000)


@dataclass
class Scheduler:
    """Evaluates ticks and launches the requested runs, at frozen times, like Dagster's daemon."""

    dagster: Shop

    def __post_init__(self) -> None:
        self.definitions = self.dagster.refresh()
        self.repository = self.definitions.get_repository_def()

    @property
    def schedules(self) -> dict[str, dg.ScheduleDefinition]:
        return {schedule.name: schedule for schedule in self.repository.schedule_defs}

    def tick(self, schedule: str, when: datetime) -> Any:
        """Evaluate one tick and return a `RunRequest`, or the reason of a skipped tick."""
        with time_machine.travel(when):
            context = dg.build_schedule_context(self.dagster.instance, when, repository_def=self.repository)
            result = self.schedules[schedule].evaluate_tick(context)
        assert len(result.run_requests or ()) <= 1
        return result.run_requests[0] if result.run_requests else result.skip_message

    def launch(self, request: dg.RunRequest, when: datetime) -> RunRecord:
        job = self.definitions.resolve_job_def("sqlmesh_shop_job")
        with time_machine.travel(when):
            result = job.execute_in_process(
                instance=self.dagster.instance,
                asset_selection=list(request.asset_selection or ()),
                tags=request.tags,
                raise_on_error=False,
            )
        return RunRecord(self.dagster.instance, result.run_id)

    def create_run(self, run_config: dict[str, Any] | None = None) -> str:
        """Create a run of all assets that waits in the queue, and return its id."""
        job = self.definitions.resolve_job_def("sqlmesh_shop_job")
        plan = create_execution_plan(job, run_config)
        return self.dagster.instance.create_run_for_job(job, plan, run_config=run_config).run_id

    def start(self, run_id: str, when: datetime) -> None:
        """Record the start of a run."""
        with time_machine.travel(when):
            event = dg.DagsterEvent(dg.DagsterEventType.RUN_START.value, "sqlmesh_shop_job")
            self.dagster.instance.report_dagster_event(event, run_id)

    def ticks(self, start: datetime, end: datetime) -> Iterator[tuple[datetime, str]]:
        """The ticks of all schedules in a period, in their order."""
        ticks = []
        for schedule in self.schedules.values():
            times = schedule_execution_time_iterator(
                start.timestamp(), schedule.cron_schedule, schedule.execution_timezone, ascending=True
            )
            for time in times:
                if time.timestamp() > end.timestamp():
                    break
                ticks.append((datetime.fromtimestamp(time.timestamp(), timezone.utc), schedule.name))
        yield from sorted(ticks)


def requested_models(request: dg.RunRequest | str) -> set[str]:
    keys = request.asset_selection or () if isinstance(request, dg.RunRequest) else ()
    return {".".join(key.path) for key in keys}


def name(fqn: str) -> str:
    return ".".join(part.strip('"') for part in fqn.split(".")[1:])


def grown(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    """The models with more computed intervals than before."""
    return {name(fqn) for fqn, computed in after["intervals"].items() if computed > before["intervals"][fqn]}


def is_hourly_or_in_dst_night(time: datetime) -> bool:
    """Most ticks of `*/10` are missed, except in the nights when the clocks change."""
    nights = ("2025-10-26", "2025-11-02", "2026-03-08", "2026-03-29")
    return time.minute in (0, 30) and (time.hour % 6 == 0 or time.strftime("%Y-%m-%d") in nights)


AUTUMN_NIGHT = {
    "2025-10-26T00:00",
    "2025-10-26T00:30",  # 02:30 in Berlin
    "2025-10-26T01:00",
    "2025-10-26T01:30",  # 02:30 in Berlin again
    "2025-10-27T00:00",
    "2025-10-27T01:30",
    "2025-10-27T05:30",
}
"""The evaluated ticks. All others are missed."""


def is_in_autumn_night(time: datetime) -> bool:
    return f"{time:%Y-%m-%dT%H:%M}" in AUTUMN_NIGHT


# Ten seconds: each tick is compared with what SQLMesh computes then, on a copy of the project and its state.
@pytest.mark.parametrize(
    ("start", "hours", "is_evaluated"),
    [
        pytest.param("2025-10-25T22:00", 4, is_in_autumn_night, id="hour that comes twice"),
        pytest.param("2025-10-25T22:00", 32, is_in_autumn_night, id="autumn night", marks=pytest.mark.night),
        pytest.param("2025-10-24T22:00", 14 * 24, is_hourly_or_in_dst_night, id="autumn", marks=pytest.mark.slow),
        pytest.param("2026-03-07T00:00", 3 * 24, is_hourly_or_in_dst_night, id="New York", marks=pytest.mark.slow),
        pytest.param("2026-03-28T00:00", 3 * 24, is_hourly_or_in_dst_night, id="Berlin", marks=pytest.mark.slow),
    ],
)
@pytest.mark.timeout(3600)
def test_ticks_request_what_sqlmesh_computes(
    new_shop: NewShop, tmp_path: Path, start: str, hours: int, is_evaluated: Callable[[datetime], bool]
) -> None:
    config = CONFIG_SINCE.format(start=f"{at(start) - timedelta(days=11):%Y-%m-%d}")
    tables = {"ctl.broken": "SELECT NULL::INT AS n LIMIT 0"}
    shop = new_shop(MODELS, config, tables=tables, planned_at=start, schedule=True)
    scheduler = Scheduler(shop)
    assert set(scheduler.schedules) == {SCHEDULE, f"{SCHEDULE}_europe_berlin", f"{SCHEDULE}_america_new_york"}
    ticks = [tick for tick in scheduler.ticks(at(start), at(start) + timedelta(hours=hours)) if is_evaluated(tick[0])]
    requested: set[str] = set()
    for number, (time, schedule) in enumerate(ticks):
        # raw.hourly fails in every fourth stretch of three ticks, so its pending intervals are left for later ticks.
        shop.query("DELETE FROM ctl.broken")
        if number // 3 % 4 == 1:
            shop.query("INSERT INTO ctl.broken VALUES (1)")
        before = shop.state()
        # What SQLMesh itself computes at this time, on a copy of the warehouse and its state.
        copy = Path(shutil.copytree(shop.project, tmp_path / "copy"))
        planned = {name(fqn) for fqn in script("sqlmesh_run_at.py", copy, str(milliseconds(time)))}
        expected = grown(before, state(copy))
        shutil.rmtree(copy)
        request = scheduler.tick(schedule, time)
        assert requested_models(request) == planned, (time, schedule, request)
        if isinstance(request, dg.RunRequest):
            run = scheduler.launch(request, time)
            assert {key.replace("/", ".") for key in run.materializations} == expected, (time, run.failures)
        assert grown(before, shop.state()) == expected, (time, schedule)
        requested |= planned
    models = {"raw.often", "raw.hourly", "marts.daily", "marts.weekly", "marts.night", "marts.morning"}
    assert requested == models if hours > 24 else requested < models


SMALL = {
    "models/plain.sql": "MODEL (name raw.plain, kind FULL); SELECT 1 AS n",
    "models/report.sql": "MODEL (name marts.report, kind FULL); SELECT made.n FROM mid.made, raw.plain",
    "external_models.yaml": "- name: mid.made\n  columns:\n    n: int\n",
}
ASSETS_BETWEEN = """
import dagster as dg


@dg.asset(key=["mid", "made"], deps=[["raw", "plain"]])
def made() -> None: ...


@dg.asset(
    key=["mid", "by_day"],
    deps=[["raw", "plain"]],
    partitions_def=dg.DailyPartitionsDefinition("2025-10-01"),
)
def by_day() -> None: ...


@dg.asset(key=["out", "after"], deps=[["marts", "report"]])
def after() -> None: ...
"""
MIDNIGHT = at("2025-10-26T00:00")


def planned_at_noon_before_midnight(
    new_shop: NewShop, files: dict[str, str], module: str = "", schedule: object = True
) -> Scheduler:
    files = {**files, "landed until": "2030-01-01"}
    options = {"tables": {"mid.made": "SELECT 1 AS n"}, "planned_at": "2025-10-25T12:00", "schedule": schedule}
    shop = new_shop(files, CONFIG_SINCE.format(start="2025-10-13"), **options)
    if module:
        shop.add_module("between", module)
    return Scheduler(shop)


@pytest.fixture
def small(new_shop: NewShop) -> Scheduler:
    """Two daily models with an asset between them. Both have a pending day at MIDNIGHT."""
    return planned_at_noon_before_midnight(new_shop, SMALL, ASSETS_BETWEEN, schedule={"tags": {"team": "data"}})


VIEWS_AROUND_THE_ASSET_BETWEEN = {
    "models/seen.sql": "MODEL (name stg.seen, kind VIEW, cron '0 0 * * 3'); SELECT n FROM raw.plain",
    "models/shown.sql": "MODEL (name stg.shown, kind VIEW, cron '0 0 * * 3'); SELECT n FROM mid.made",
    "models/report.sql": "MODEL (name marts.report, kind FULL); SELECT n FROM stg.shown",
}


@pytest.mark.attribute("schedule", "schedule.tags")
def test_tick_requests_the_asset_and_the_views_between_two_models_too(new_shop: NewShop) -> None:
    """Dagster creates no run of models around a virtual asset if the run leaves that out. Before 1.13, it has none."""
    module = ASSETS_BETWEEN.replace('deps=[["raw", "plain"]])', 'deps=[["stg", "seen"]])')
    files = {**SMALL, **VIEWS_AROUND_THE_ASSET_BETWEEN}
    small = planned_at_noon_before_midnight(new_shop, files, module, schedule={"tags": {"team": "data"}})
    models = small.dagster.project / "models"  # no plan has promoted these versions, and a run of stg.aside would fail
    (models / "aside.sql").write_text("MODEL (name stg.aside, kind VIEW); SELECT n FROM raw.plain")
    (models / "report.sql").write_text("MODEL (name marts.report, kind FULL); SELECT a.n FROM stg.shown, stg.aside a")
    small = Scheduler(small.dagster)
    request = small.tick(SCHEDULE, MIDNIGHT)
    views = {"stg.seen", "stg.shown"} if HAS_VIRTUAL_ASSETS else set()
    assert requested_models(request) == {"raw.plain", "mid.made", "marts.report", *views}
    assert request.run_key == f"{SCHEDULE} 2025-10-26T00:00:00+00:00"
    assert request.tags["team"] == "data"
    run = small.launch(request, MIDNIGHT)
    assert set(run.materializations) == {"raw/plain", "mid/made", "marts/report"}
    assert small.tick(SCHEDULE, MIDNIGHT + timedelta(hours=1)) == (
        "No model has pending intervals. The next is marts.report, at 2025-10-27 00:00:00 UTC."
    )


LANDED_UNTIL = """
import pathlib
from sqlmesh import signal


@signal()
def landed(batch):
    until = pathlib.Path("landed until").read_text()
    if until == "hanging":
        import time

        time.sleep(600)
    return [interval for interval in batch if f"{interval[1]:%Y-%m-%d}" <= until]
"""
NOTHING = "2000-01-01"
LANDING = {
    "signals/__init__.py": "",
    "signals/landed.py": LANDED_UNTIL,
    "models/plain.sql": "MODEL (name raw.plain, kind FULL); SELECT 1 AS n",
    "models/landing.sql": f"MODEL (name raw.landing, {BY_TIME}, cron '@daily', signals (landed()));"
    " SELECT @start_dt::TIMESTAMP AS at, 1 AS n",
    "models/reader.sql": f"MODEL (name marts.reader, {BY_TIME}, cron '@daily');"
    " SELECT at, n FROM raw.landing WHERE at BETWEEN @start_dt AND @end_dt",
}


FRESH = """
from sqlmesh import signal


@signal()
def fresh(batch, context):
    return bool(context.parent_intervals)
"""


CAUSES = (
    "marts.reader (upstream model raw.landing is waiting for its signal landed), raw.landing (its signal landed "
    "has no interval ready)."
)
WAITING = f"Waiting for signals: {CAUSES} The next tick looks again."


def test_tick_requests_only_ready_intervals_of_signals(new_shop: NewShop, capsys: pytest.CaptureFixture[str]) -> None:
    scheduler = planned_at_noon_before_midnight(new_shop, LANDING)
    landed = scheduler.dagster.project / "landed until"
    landed.write_text(NOTHING)
    assert scheduler.tick(SCHEDULE, MIDNIGHT - timedelta(hours=1)).startswith("No model has pending intervals.")
    request = scheduler.tick(SCHEDULE, MIDNIGHT)
    assert requested_models(request) == {"raw.plain"}
    assert f"wait for signals: {CAUSES}" in capsys.readouterr().err
    assert set(scheduler.launch(request, MIDNIGHT).materializations) == {"raw/plain"}
    assert scheduler.tick(SCHEDULE, MIDNIGHT) == f"No pending model is ready. {WAITING}"

    next_day = MIDNIGHT + timedelta(days=1)
    landed.write_text("2025-10-26")  # one of two pending days
    request = scheduler.tick(SCHEDULE, next_day)
    assert requested_models(request) == {"raw.plain", "raw.landing", "marts.reader"}
    assert len(scheduler.launch(request, next_day).materializations) == 3
    assert scheduler.tick(SCHEDULE, next_day) == f"No pending model is ready. {WAITING}"

    landed.write_text("2025-10-27")
    request = scheduler.tick(SCHEDULE, next_day)
    assert requested_models(request) == {"raw.landing", "marts.reader"}
    assert len(scheduler.launch(request, next_day).materializations) == 2
    assert scheduler.tick(SCHEDULE, next_day).startswith("No model has pending intervals. The next is ")
    for table in ("raw.landing", "marts.reader"):
        assert scheduler.dagster.query(f'SELECT max("at")::TEXT FROM {table}') == [("2025-10-26 00:00:00",)]


UNEVALUATED = (
    "This tick requests all pending models, even those that wait, because SQLMesh could not evaluate the signal landed "
    "of warehouse.raw.landing: "
)


def test_signal_that_raises_starts_a_run_that_reports_it(new_shop: NewShop, capsys: pytest.CaptureFixture[str]) -> None:
    scheduler = planned_at_noon_before_midnight(new_shop, LANDING)
    (scheduler.dagster.project / "landed until").unlink()
    request = scheduler.tick(SCHEDULE, MIDNIGHT)
    assert requested_models(request) == {"raw.plain", "raw.landing", "marts.reader"}
    assert f"{UNEVALUATED}SignalEvalError: " in capsys.readouterr().err
    run = scheduler.launch(request, MIDNIGHT).failed()
    assert run.status_of("raw/landing") == "failed"
    assert "because the signal landed of warehouse.raw.landing raised an error" in str(run.failures)


@pytest.mark.slow  # waits for MAX_SIGNAL_SECONDS
def test_tick_requests_all_pending_if_a_signal_hangs(new_shop: NewShop, capsys: pytest.CaptureFixture[str]) -> None:
    scheduler = planned_at_noon_before_midnight(new_shop, LANDING)
    (scheduler.dagster.project / "landed until").write_text("hanging")
    request = scheduler.tick(SCHEDULE, MIDNIGHT)
    assert requested_models(request) == {"raw.plain", "raw.landing", "marts.reader"}
    log = capsys.readouterr().err
    assert UNEVALUATED in log
    assert "The signals were not evaluated in 20 seconds." in log


def test_freshness_signal_is_ready_after_an_upstream_model_was_computed_in_an_earlier_run(new_shop: NewShop) -> None:
    """SQLMesh alone would find the signal not ready, and the model would never be requested."""
    files = SMALL | {
        "signals/__init__.py": "",
        "signals/fresh.py": FRESH,
        "models/report.sql": "MODEL (name marts.report, kind FULL, signals (fresh())); SELECT n FROM raw.plain",
    }
    scheduler = planned_at_noon_before_midnight(new_shop, files)
    assert requested_models(scheduler.tick(SCHEDULE, MIDNIGHT)) == {"raw.plain", "marts.report"}
    plain = dg.RunRequest(asset_selection=[dg.AssetKey(["raw", "plain"])])
    assert set(scheduler.launch(plain, MIDNIGHT).materializations) == {"raw/plain"}
    request = scheduler.tick(SCHEDULE, MIDNIGHT)
    assert requested_models(request) == {"marts.report"}
    assert set(scheduler.launch(request, MIDNIGHT).materializations) == {"marts/report"}
    assert scheduler.tick(SCHEDULE, MIDNIGHT).startswith("No model has pending intervals.")


def test_tick_during_unfinished_runs_is_explained_and_its_models_are_not_lost(small: Scheduler) -> None:
    first = small.create_run()
    covered = f"Run {first} has not finished, and computes these pending models: marts.report, raw.plain."
    assert small.tick(SCHEDULE, MIDNIGHT) == covered
    small.start(first, MIDNIGHT + timedelta(seconds=1))
    assert small.tick(SCHEDULE, MIDNIGHT) == covered

    # The next day is not part of a run that started before.
    next_day = MIDNIGHT + timedelta(days=1)
    request = small.tick(SCHEDULE, next_day)
    assert requested_models(request) == {"raw.plain", "mid.made", "marts.report"}

    second = small.create_run()
    assert small.tick(SCHEDULE, next_day + timedelta(days=1)) == (
        f"2 runs of these models have not finished: {second}, {first}. The next tick requests the models that are "
        "still pending. If one of the runs has died, terminate it in Dagster."
    )


@pytest.mark.parametrize("ends", [False, True], ids=["a run is requested elsewhere", "the run in progress ends"])
def test_run_that_is_unfinished_before_or_after_a_tick_reads_the_state_is_not_requested_again(
    small: Scheduler, tmp_path: Path, ends: bool
) -> None:
    """Dagster evaluates schedules and sensors at the same time, and runs go on meanwhile."""
    gate, python = tmp_path / "gate", tmp_path / "python"
    python.write_text(f'#!/bin/sh\n[ -p {gate} ] && read line < {gate}\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    small.dagster.configure(project={"path": str(small.dagster.project), "python": str(python)}, schedule=True)
    small = Scheduler(small.dagster)
    os.mkfifo(gate)
    run_id = small.create_run() if ends else ""
    with ThreadPoolExecutor() as threads:
        tick = threads.submit(small.tick, SCHEDULE, MIDNIGHT)
        with gate.open("w") as opened:  # by now, the tick has looked at the unfinished runs
            if ends:
                small.dagster.instance.report_run_failed(small.dagster.instance.get_runs()[0])
            else:
                run_id = small.create_run()
            opened.write("go\n")
    expected = f"Run {run_id} has not finished, and computes these pending models: marts.report, raw.plain."
    assert tick.result() == expected


def test_run_with_a_run_config_does_not_count_as_computing_pending_models(small: Scheduler) -> None:
    small.create_run({"ops": {"sqlmesh_shop": {"config": {"end": "2025-10-20"}}}})
    assert requested_models(small.tick(SCHEDULE, MIDNIGHT)) == {"raw.plain", "mid.made", "marts.report"}


def test_tick_page_lists_models_with_pending_intervals(small: Scheduler, capsys: pytest.CaptureFixture[str]) -> None:
    small.tick(SCHEDULE, MIDNIGHT)
    log = capsys.readouterr().err
    assert "Requested: 2 models.\n" in log
    assert "    raw.plain: pending: 2025-10-25" in log
    assert "    marts.report: pending: 2025-10-25" in log


RESTATED_DAILY = "auto_restatement_cron='@daily', auto_restatement_intervals=2"
RESTATED = {
    "models/restated.sql": f"MODEL (name raw.restated, {BY_TIME[:-1]}, {RESTATED_DAILY.replace('=', ' ')}));"
    " SELECT @start_dt::TIMESTAMP AS at",
    "models/restated.py": f"""
import pandas as pd
from sqlmesh import model
from sqlmesh.core.model import ModelKindName

kind = dict(name=ModelKindName.INCREMENTAL_BY_TIME_RANGE, time_column="at", {RESTATED_DAILY})


@model("raw.restated", kind=kind, columns=dict(at="timestamp"))
def execute(context, start, end, **kwargs):
    return pd.DataFrame(dict(at=[start.replace(tzinfo=None)]))
""",
}


@pytest.mark.night(
    "unit/capabilities/schedule/worker/test_kept_snapshots.py::test_if_an_automatic_restatement_is_due_everything_is_read"
)
@pytest.mark.parametrize("file", ["models/restated.sql", *at_night("models/restated.py")])
def test_tick_after_an_automatic_restatement_requests_only_what_is_pending(new_shop: NewShop, file: str) -> None:
    """The first tick keeps the snapshots. The restatement then changes in the state when the next one is due."""
    hourly = f"MODEL (name raw.hourly, {BY_TIME}, cron '@hourly'); SELECT @start_dt::TIMESTAMP AS at"
    scheduler = planned_at_noon_before_midnight(new_shop, {"models/hourly.sql": hourly, file: RESTATED[file]})
    hourly_and_restated = dg.RunRequest(asset_selection=[dg.AssetKey(["raw", of]) for of in ("hourly", "restated")])
    scheduler.launch(hourly_and_restated, MIDNIGHT - timedelta(hours=2)).succeeded()
    for when in (MIDNIGHT - timedelta(hours=1), MIDNIGHT):
        scheduler.launch(scheduler.tick(SCHEDULE, when), when).succeeded()
    assert requested_models(scheduler.tick(SCHEDULE, MIDNIGHT + timedelta(hours=1))) == {"raw.hourly"}


def test_crons_of_manifest_decide_while_duckdb_is_in_use(small: Scheduler, capsys: pytest.CaptureFixture[str]) -> None:
    with duckdb_file_in_use(small.dagster.project / "warehouse.duckdb"):
        request = small.tick(SCHEDULE, MIDNIGHT)
    log = capsys.readouterr().err
    assert requested_models(request) == {"raw.plain", "mid.made", "marts.report"}
    assert "    raw.plain: its cron has ticked at 2025-10-26T00:00:00Z" in log
    assert "The SQLMesh state cannot be read: The DuckDB file is in use by another process" in log


def test_missing_environment_fails_the_tick_with_the_plan(new_shop: NewShop) -> None:
    scheduler = Scheduler(new_shop(SMALL, planned_at=None, schedule=True))
    with pytest.raises(
        EnvironmentNotReadyError, match=r"does not exist .* its first plan is applied:\n\n.* sqlmesh plan"
    ):
        scheduler.tick(SCHEDULE, MIDNIGHT)


@pytest.mark.attribute("schedule.name", "schedule.cron", "schedule.timezone", "schedule.default_status")
def test_schedule_has_the_configured_name_cron_time_zone_and_status(new_shop: NewShop) -> None:
    schedule = {"name": "shop", "cron": "0 6 * * *", "timezone": "Europe/Berlin", "default_status": "RUNNING"}
    (built,) = new_shop(SMALL, planned_at=None, schedule=schedule).refresh().get_repository_def().schedule_defs
    assert (built.name, built.cron_schedule, built.execution_timezone, built.default_status, built.job_name) == (
        "shop_europe_berlin",
        ["0 6 * * *"],
        "Europe/Berlin",
        dg.DefaultScheduleStatus.RUNNING,
        "shop_job",
    )


@pytest.mark.advice('Turn them on under "Automation" if this branch may run them.')
@pytest.mark.parametrize("is_branch", [False, True])
def test_branch_deployment_turns_off_each_schedule_and_sensor_and_says_so_once(
    new_shop: NewShop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, is_branch: bool
) -> None:
    """With the variables of prod, they would run prod from the branch."""
    if is_branch:
        monkeypatch.setenv("DAGSTER_CLOUD_IS_BRANCH_DEPLOYMENT", "1")
    running = {"default_status": "RUNNING"}
    shop = new_shop(
        SMALL,
        planned_at=None,
        schedule={**running, "on_sources": True},
        external_models={"wait": True},
        polling_sensor=running,
        janitor=running,
    )
    repository = shop.refresh().get_repository_def()
    op = SCHEDULE.removesuffix("_schedule")
    names = [SCHEDULE, f"{SCHEDULE}_on_sources", f"{op}_sensor", f"{op}_janitor_schedule"]
    statuses = {of.name: of.default_status.value for of in repository.schedule_defs}
    statuses |= {of.name: of.default_status.value for of in repository.sensor_defs}
    assert statuses == dict.fromkeys(names, "STOPPED" if is_branch else "RUNNING")
    lines = [line for line in caplog.messages if "branch" in line]
    assert lines == (
        [
            f"{shop.root.name}/defs/shop: off in this branch deployment, although `default_status` is "
            f'RUNNING: {", ".join(names)}. Turn them on under "Automation" if this branch may run them.'
        ]
        if is_branch
        else []
    )
    if is_branch:
        with backfills(shop, f"{op}_janitor") as location:
            [loaded] = location.workspace.create_request_context().code_locations[0].get_repositories().values()
            turned_on = [shop.instance.start_schedule(schedule) for schedule in loaded.get_schedules()]
            turned_on += [shop.instance.start_sensor(sensor) for sensor in loaded.get_sensors()]
        assert sorted(of.name for of in turned_on) == sorted(names)
        assert {of.status for of in turned_on} == {InstigatorStatus.RUNNING}
