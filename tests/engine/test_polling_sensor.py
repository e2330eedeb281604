"""The sensor records runs, restatements and plans that were made outside of Dagster, each once."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta, timezone
from typing import Any

import dagster as dg
import pytest
from dagster._core.execution.api import create_execution_plan
from harness import DagsterProject, NewShop, duckdb_file_in_use, wait_until
from postgres import postgres_server

from dg_sqlmesh_component.history.active_runs import APPLIES_TAG, mark_as_computing
from dg_sqlmesh_component.protocol.formatting import short_hash

BY_DAY = "kind INCREMENTAL_BY_TIME_RANGE (time_column ds), start '2026-01-01'"
FAILING = "CASE WHEN @start_ds::DATE IN (SELECT day FROM ctl.broken) THEN error('broken day') ELSE 1 END"
MODELS = {
    "models/days.sql": f"MODEL (name t.days, {BY_DAY}); SELECT @start_ds::DATE AS ds, 1 AS n",
    "models/total.sql": "MODEL (name t.total, kind FULL, start '2026-01-01'); SELECT sum(n) AS n FROM t.days",
    "models/old.sql": "MODEL (name t.old, kind FULL, start '2026-01-01'); SELECT 1 AS n",
}
SENSOR = "sqlmesh_shop_sensor"
NOTHING = "Nothing was computed or promoted outside of Dagster."


def day(ago: int) -> str:
    return f"{datetime.now(timezone.utc) - timedelta(days=ago):%Y-%m-%d}"


@dataclass
class Tick:
    """What one tick has recorded."""

    text: str
    materializations: dict[str, dict[str, Any]] = field(default_factory=dict)
    observations: dict[str, dict[str, Any]] = field(default_factory=dict)
    checks: dict[str, bool] = field(default_factory=dict)
    descriptions: dict[str, str] = field(default_factory=dict)

    @property
    def intervals(self) -> dict[str, str]:
        return {name: metadata["sqlmesh/intervals"] for name, metadata in self.materializations.items()}


@dataclass
class Sensor:
    """Evaluates ticks and records their events, as Dagster's daemon does."""

    dagster: DagsterProject
    cursor: str | None = None

    def __post_init__(self) -> None:
        self.refresh()

    def refresh(self) -> None:
        """Load the definitions again."""
        self.repository = self.dagster.refresh().get_repository_def()
        self.definition = self.repository.get_sensor_def(SENSOR)

    def tick(self) -> Tick:
        instance = self.dagster.instance
        context = dg.build_sensor_context(instance, self.cursor, repository_def=self.repository)
        result = self.definition.evaluate_tick(context)
        self.cursor = result.cursor
        tick = Tick(result.skip_message or "")
        for event in result.asset_events:
            instance.report_runless_asset_event(event)
            if isinstance(event, dg.AssetCheckEvaluation):
                tick.checks[f"{event.asset_key.to_user_string()}:{event.check_name}"] = event.passed
                continue
            is_data = isinstance(event, dg.AssetMaterialization)
            events = tick.materializations if is_data else tick.observations
            name = event.asset_key.to_user_string()
            assert name not in events, "recorded twice"
            events[name] = values(event.metadata)
            if event.description:
                tick.descriptions[name] = event.description
        return tick


def values(metadata: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value.value for name, value in metadata.items()}


@pytest.fixture
def new_sensed(new_shop: NewShop) -> NewShop:
    """Create a project with a sensor, of MODELS if no others are given, planned as of noon three days ago."""
    options = {"planned_at": f"{day(3)} 12:00:00", "polling_sensor": True, "restate": True}
    tables = {"ctl.broken": "SELECT NULL::DATE AS day LIMIT 0"}
    return lambda models=MODELS, **attributes: new_shop(models, **{"tables": tables, **options, **attributes})


@pytest.mark.attribute("polling_sensor")
def test_everything_that_is_typed_in_a_shell_is_recorded_once(new_sensed: NewShop) -> None:
    shop = new_sensed()
    sensor = Sensor(shop)
    first = sensor.tick()
    computed = (date.fromisoformat(day(3)) - date(2026, 1, 1)).days
    assert first.intervals["t/days"] == f"2026-01-01 to {day(4)} ({computed} days)"
    assert set(first.materializations) == {"t/days", "t/total", "t/old"}
    assert not first.observations
    assert sensor.tick() == Tick(NOTHING)

    shop.sqlmesh("run")
    ran = sensor.tick()
    three, whole = f"{day(3)} to {day(1)} (3 days)", "the whole table"
    assert ran.intervals == {"t/days": three, "t/total": whole, "t/old": whole}
    assert ran.text == "Recorded 3 models computed outside of Dagster: t.days, t.old, t.total."
    days = ran.materializations["t/days"]
    assert days["sqlmesh/origin"].startswith("outside of Dagster, at 20")
    assert days["sqlmesh/coverage"].count(f" to {day(1)} (")
    assert "sqlmesh/not_computed" not in days
    assert "sqlmesh/coverage" not in ran.materializations["t/total"]
    assert sensor.tick() == Tick(NOTHING)

    # Dagster's own runs, also a restatement, are not recorded again. They record models that they do not select.
    restatement = {"sqlmesh_shop": {"restate": {"start": day(2), "end": day(2)}}}
    ours = shop.launch(assets=["t/days"], ops=restatement)
    assert set(ours.materializations) == {"t/days", "t/total"}, ours.failures
    assert not sensor.tick().materializations

    a_past_day = ("--start", day(5), "--end", day(5))
    shop.plan("--restate-model", "t.days", *a_past_day, at=None)
    restated = sensor.tick()
    assert restated.intervals["t/days"] == day(5)
    assert set(restated.materializations) == {"t/days", "t/total"}
    assert not restated.observations
    assert "Plan" not in restated.text, "it has changed no model"

    # Whoever looks first records it: here it is a run.
    shop.plan("--restate-model", "t.old", at=None)
    assert set(shop.launch().computed_outside) == {"t/old"}
    assert not sensor.tick().materializations


@pytest.mark.advice("In a deployment, refresh the manifest, and then reload them:")
def test_plans_are_recorded_as_observations_of_their_models(new_sensed: NewShop) -> None:
    shop = new_sensed()
    sensor = Sensor(shop)
    sensor.tick()

    (shop.project / "models/new.sql").write_text(
        "MODEL (name t.new, kind FULL, start '2026-01-01'); SELECT n FROM t.days"
    )
    (shop.project / "models/total.sql").write_text(MODELS["models/total.sql"].replace("sum(n)", "max(n)"))
    (shop.project / "models/old.sql").unlink()
    shop.plan()
    planned = sensor.tick()
    assert set(planned.materializations) == {"t/total"}, "the plan has computed its new version"
    assert set(planned.observations) == {"t/total", "t/old"}
    total, old = planned.observations["t/total"], planned.observations["t/old"]
    assert (total["sqlmesh/plan_change"], old["sqlmesh/plan_change"]) == ("changed", "removed")
    plan_id = total["sqlmesh/plan_id"]
    for observed in (total, old):
        assert observed["sqlmesh/plan_id"] == plan_id
        assert observed["sqlmesh/models_changed"].endswith("t.total")
        assert observed["sqlmesh/models_removed"].endswith("t.old")
    assert total["sqlmesh/unapplied_change"] == "data", "the definitions have its earlier version"
    assert "refresh the manifest" in planned.descriptions["t/total"]
    assert f"Plan {plan_id} was applied to environment prod (changed: " in planned.text
    assert "The definitions differ from environment prod (not in the definitions: " in planned.text
    assert ".t.new; " in planned.text
    assert len(sensor.cursor or "") < 200
    assert "dg utils refresh-defs-state" in planned.text
    again = sensor.tick()
    assert not again.observations
    assert again.text.startswith(f"{NOTHING} The definitions differ from environment prod"), "as long as it is true"

    sensor.refresh()
    known = sensor.tick()
    assert set(known.materializations) == {"t/new"}, "now it is an asset"
    assert not known.observations
    assert "differ" not in known.text


@pytest.mark.night(
    "engine/test_records.py::test_batches_of_a_failed_run_are_never_outside_data_however_many_observations_follow"
)
def test_batches_of_a_failed_run_are_not_recorded_as_computed_elsewhere(new_sensed: NewShop) -> None:
    models = {
        "models/days.sql": "MODEL (name t.days, kind INCREMENTAL_BY_TIME_RANGE (time_column ds, batch_size 1, "
        f"batch_concurrency 1), start '{day(6)}'); SELECT @start_ds::DATE AS ds, {FAILING} AS n"
    }
    shop = new_sensed(models)
    sensor = Sensor(shop)
    sensor.tick()
    shop.query(f"INSERT INTO ctl.broken VALUES ('{day(1)}')")
    failed = shop.launch()
    assert failed.status_of("t/days") == "partly_executed"
    assert sensor.tick() == Tick(NOTHING)

    # What somebody computes after the failure is recorded.
    shop.query("DELETE FROM ctl.broken")
    shop.sqlmesh("run")
    assert set(sensor.tick().materializations) == {"t/days"}


def test_intervals_check_is_evaluated_with_the_recorded_data(new_sensed: NewShop) -> None:
    shop = new_sensed(intervals_check=True)
    sensor = Sensor(shop)
    first = sensor.tick()
    assert first.checks == {"t/days:sqlmesh_intervals_complete": False}
    [gap] = first.materializations["t/days"]["sqlmesh/not_computed"].records
    assert gap.data["range"].endswith("(3 days)")
    shop.sqlmesh("run")
    assert sensor.tick().checks == {"t/days:sqlmesh_intervals_complete": True}


def start_computing(shop: DagsterProject, run: dg.DagsterRun) -> None:
    """Record the start of a run, and that it has taken the lock."""
    start = dg.DagsterEvent(dg.DagsterEventType.RUN_START.value, run.job_name)
    shop.instance.report_dagster_event(start, run.run_id)
    mark_as_computing(shop.instance, run.run_id, "shop")


def test_data_computed_since_an_unfinished_run_holds_the_lock_is_left_to_it(new_sensed: NewShop) -> None:
    shop = new_sensed()
    sensor = Sensor(shop)
    job = sensor.repository.get_job("__ASSET_JOB").get_subset(asset_selection={dg.AssetKey(["t", "days"])})
    run = shop.instance.create_run_for_job(job, create_execution_plan(job))
    assert set(sensor.tick().materializations) == {"t/days", "t/total", "t/old"}, "the run has computed nothing"
    start_computing(shop, run)
    shop.sqlmesh("run")
    tick = sensor.tick()
    assert set(tick.materializations) == {"t/total", "t/old"}
    assert f"Will be recorded by run {run.run_id}, which has not finished: t.days." in tick.text
    shop.instance.report_run_canceled(run)
    assert set(sensor.tick().materializations) == {"t/days"}


def test_data_computed_while_a_plan_is_applied_is_left_to_that_job(new_sensed: NewShop) -> None:
    shop = new_sensed(deploy=True)
    sensor = Sensor(shop)
    sensor.tick()
    job = sensor.repository.get_job("sqlmesh_shop_apply")
    run_config = {"ops": {"sqlmesh_shop_apply": {"config": {"digest": "x"}}}}
    run = shop.instance.create_run_for_job(job, run_config=run_config)
    start_computing(shop, run)
    # The name of the folder: a release may have its project elsewhere.
    tag = f"{shop.project.name}_{short_hash(['local', 'prod', ''])}"
    shop.instance.add_run_tags(run.run_id, {APPLIES_TAG: tag})
    shop.sqlmesh("run")
    assert sensor.tick().materializations == {}
    shop.instance.report_run_canceled(run)
    assert set(sensor.tick().materializations) == {"t/days", "t/total", "t/old"}


WAITING_QUERY = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND objid = 7 AND NOT granted"


@pytest.mark.night(
    "test_data_computed_since_an_unfinished_run_holds_the_lock_is_left_to_it",
    "unit/history/test_records.py::test_data_computed_since_an_unfinished_run_holds_the_lock_is_left_to_it",
)
def test_batches_of_a_run_in_progress_on_postgres_are_left_to_that_run(new_sensed: NewShop) -> None:
    pause = f"CASE WHEN @start_ds = '{day(1)}' THEN pg_advisory_xact_lock(7)::text ELSE '' END"
    models = {
        "models/slow.sql": "MODEL (name t.slow, kind INCREMENTAL_BY_TIME_RANGE (time_column ds, batch_size 1, "
        f"batch_concurrency 1), start '{day(6)}'); SELECT @start_ds::DATE AS ds, {pause} AS paused"
    }
    with postgres_server() as server:
        server.query("CREATE DATABASE sensed")
        shop = new_sensed(models, config=server.config("sensed"), tables=None)
        sensor = Sensor(shop)
        assert sensor.tick().intervals == {"t/slow": f"{day(6)} to {day(4)} (3 days)"}
        with server.advisory_lock(7, "sensed"):  # the last of three batches waits for this lock
            process = shop.start()
            wait_until(lambda: bool(server.query(WAITING_QUERY)), process)
            during = sensor.tick()
        run_id = process.communicate(timeout=200)[0].split()[-1]
        assert during == Tick(f"Will be recorded by run {run_id}, which has not finished: t.slow.")
        assert sensor.tick() == Tick(NOTHING)
        assert set(shop.run_record(run_id).materializations) == {"t/slow"}
        shop.plan("--restate-model", "t.slow", "--start", day(5), at=None)
        assert sensor.tick().intervals == {"t/slow": f"{day(5)} to {day(1)} (5 days)"}


@pytest.mark.advice("The next tick looks again. If the plan was interrupted, apply it again.")
def test_locked_duckdb_file_and_unfinished_plan_skip_the_tick(new_sensed: NewShop) -> None:
    shop = new_sensed()
    sensor = Sensor(shop)
    with duckdb_file_in_use(shop.project / "warehouse.duckdb"):
        skipped = sensor.tick()
    assert "The DuckDB file is in use by another process" in skipped.text
    assert "The next tick looks again." in skipped.text

    shop.query("UPDATE sqlmesh._environments SET finalized_ts = NULL")
    skipped = sensor.tick()
    assert skipped.text.startswith("Plan ")
    assert "is updating environment prod. The next tick looks again." in skipped.text
    shop.plan(at=None)
    assert set(sensor.tick().materializations) == {"t/days", "t/total", "t/old"}


@pytest.mark.night(
    "test_everything_that_is_typed_in_a_shell_is_recorded_once",
    "engine/test_outside_data_and_environments.py::test_run_in_another_environment_only_observes",
)
def test_development_environment_is_recorded_with_its_own_tables(new_sensed: NewShop) -> None:
    shop = new_sensed()
    (shop.project / "models/days.sql").write_text(MODELS["models/days.sql"].replace("1 AS n", "2 AS n"))
    shop.plan("dev", "--forward-only", "--include-unmodified", at=f"{day(3)} 12:00:00")
    shop.configure(project={"path": str(shop.project), "environment": "dev"}, polling_sensor="10m")
    sensor = Sensor(shop)
    planned = sensor.tick()
    assert set(planned.materializations) >= {"t/days", "t/old"}
    assert shop.query("SELECT ds::TEXT FROM t__dev.days") == [(day(4),)], "the plan has computed the last day"
    assert planned.intervals["t/days"] == planned.materializations["t/days"]["sqlmesh/coverage"] == day(4)
    shop.sqlmesh("run", "dev")
    ran = sensor.tick()
    assert ran.intervals["t/days"] == f"{day(3)} to {day(1)} (3 days)"
    four = f"{day(4)} to {day(1)} (4 days)"
    assert ran.materializations["t/days"]["sqlmesh/coverage"] == four
    assert sensor.tick() == Tick(NOTHING)
    observations = shop.launch().observations
    assert observations["t/days"].metadata["sqlmesh/coverage"].value == four


@pytest.mark.attribute("polling_sensor.interval", "polling_sensor.default_status")
def test_sensor_has_the_configured_interval_and_status(new_shop: NewShop) -> None:
    configured = {"interval": "1h", "default_status": "RUNNING"}
    [sensor] = new_shop(MODELS, planned_at=None, polling_sensor=configured).refresh().get_repository_def().sensor_defs
    assert (sensor.minimum_interval_seconds, sensor.default_status) == (3600, dg.DefaultSensorStatus.RUNNING)
