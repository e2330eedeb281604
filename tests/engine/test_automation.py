"""`automation` and `freshness` on a real project: what Dagster requests at a tick, and what such a run materializes."""

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import dagster as dg
import pytest
from harness import CONFIG, DagsterProject, planned_shop

BERLIN = "cron_tz 'Europe/Berlin'"
EVENTS_SINCE = "SELECT * FROM raw.events WHERE day BETWEEN @start_date AND @end_date"
MODELS = {
    "seeds/colours.csv": "id,name\n1,red\n",
    "models/colours.sql": "MODEL (name t.colours, kind SEED (path '../seeds/colours.csv'))",
    "models/full.sql": "MODEL (name t.full, kind FULL); SELECT id FROM raw.events",
    "models/local.sql": f"MODEL (name t.local, kind FULL, {BERLIN}); SELECT id FROM t.full",
    "models/by_day.sql": f"MODEL (name t.by_day, kind INCREMENTAL_BY_TIME_RANGE (time_column day)); {EVENTS_SINCE}",
    "models/ended.sql": "MODEL (name t.ended, kind INCREMENTAL_BY_TIME_RANGE (time_column day), end '5 days ago'); "
    + EVENTS_SINCE,
    "models/shown.sql": "MODEL (name t.shown, kind VIEW); SELECT id FROM t.full",
    "models/office.sql": "MODEL (name t.office, kind FULL, cron '0 9 * * 1-5', interval_unit day); SELECT 1 AS id",
}
EVERY_DAY = {"t/colours", "t/full", "t/by_day", "t/ended", "t/shown"}
FRIDAY = datetime(2026, 3, 6, tzinfo=timezone.utc)


@pytest.fixture(scope="module")
def dagster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DagsterProject]:
    attributes: dict[str, Any] = {
        "automation": "cron",
        "freshness": {"slack": "2h"},
        "external_models": {"assets": True},
    }
    tables = {"raw.events": "SELECT 1 AS id, current_date - 3 AS day"}
    # On each day of the week and at each hour, every cron has ticked before the plan.
    config = CONFIG.replace("6 days", "2 weeks")
    with planned_shop(tmp_path_factory.mktemp("automation"), MODELS, config, tables, **attributes) as shop:
        yield shop


def requested_at(dagster: DagsterProject, *times: datetime) -> list[set[str]]:
    """Return the assets that an evaluation at each of these times requests."""
    definitions, cursor, requested = dagster.refresh(), None, []
    keys = definitions.resolve_asset_graph().get_all_asset_keys()
    for time in times:
        result = dg.evaluate_automation_conditions(definitions, dagster.instance, evaluation_time=time, cursor=cursor)
        cursor = result.cursor
        requested.append({key.to_user_string() for key in keys if result.get_num_requested(key)})
    return requested


@pytest.mark.attribute("automation")
def test_each_model_is_requested_once_after_each_tick_of_its_own_cron(dagster: DagsterProject) -> None:
    hour, minute = timedelta(hours=1), timedelta(minutes=1)
    assert requested_at(
        dagster,
        FRIDAY - hour - minute,
        FRIDAY - hour + minute,  # midnight in Berlin
        FRIDAY - minute,
        FRIDAY + minute,
        FRIDAY + 2 * minute,
        FRIDAY + 9 * hour + minute,
        FRIDAY + 24 * hour + minute,
    ) == [set(), {"t/local"}, set(), EVERY_DAY, set(), {"t/office"}, EVERY_DAY | {"t/local"}]


@pytest.mark.attribute("freshness", "freshness.slack")
def test_windows_are_the_longest_gap_of_each_cron_plus_slack(dagster: DagsterProject) -> None:
    found = {spec.key.to_user_string(): spec.freshness_policy for spec in dagster.refresh().resolve_all_asset_specs()}

    def window(gap: timedelta) -> dg.FreshnessPolicy:
        return dg.FreshnessPolicy.time_window(gap + timedelta(hours=2))

    day = window(timedelta(days=1))
    assert found == {
        "raw/events": None,
        "t/colours": None,
        "t/ended": None,
        "t/full": day,
        "t/by_day": day,
        "t/shown": day,
        "t/local": window(timedelta(hours=25)),
        "t/office": window(timedelta(days=3)),
    }


def test_run_after_ticks_materializes_exactly_the_models_with_a_policy(dagster: DagsterProject) -> None:
    found = {spec.key.to_user_string() for spec in dagster.refresh().resolve_all_asset_specs() if spec.freshness_policy}
    record = dagster.launch()  # the plan was three days ago.succeeded()
    on_weekends = {"t/office"}
    assert record.materializations.keys() | on_weekends == found
    assert {"t/colours", "t/ended"} <= record.computed_outside.keys(), "the plan has computed them for good"
