"""A source is late: its model waits, and runs when the source has arrived. With dlt and dbt, in their own environment.

Each story builds on the stories before it.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from dagster_ui import Site, browser_page
from dev_server import Serving, create_home
from example_projects import copy_example
from harness import wait_until
from package_environment import run_in_environment

pytestmark = pytest.mark.slow

TODAY = datetime.now(timezone.utc).date()
LOADED, FIRST_LATE, SECOND_LATE = (str(TODAY - timedelta(days=ago)) for ago in (3, 2, 1))
UNTIL_LOADED = {"dagster/asset_partition_range_start": "2026-11-01", "dagster/asset_partition_range_end": LOADED}
"""The tags of a run that loads a range of partitions."""
AT_ONCE = "run_coordinator: {module: dagster._core.run_coordinator, class: DefaultRunCoordinator}\n"
TICKS_MS = 180_000
"""A tick that requests the model, its run, and a tick that requests the dashboard."""
ON_SOURCES, CONDITIONS = "sqlmesh_museum_schedule_on_sources", "default_automation_condition_sensor"


@pytest.fixture(scope="module")
def site(dlt_environment: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """All days but the last two are loaded and computed."""
    folder = tmp_path_factory.mktemp("museum").resolve()
    root, home = copy_example("with_wait", folder), create_home(folder, AT_ONCE)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("DLT_DATA_DIR", str(folder / "dlt"))
        with Serving(dlt_environment / "dg", root, home, folder / "server.log") as server, browser_page() as page:
            assert server.launch(["dlt_tickets_sold", "exhibitions"], tags=UNTIL_LOADED)["status"] == "SUCCESS"
            plan = ("plan", "--auto-apply", "--no-prompts", "--execution-time", FIRST_LATE)
            run_in_environment(dlt_environment, root / "sqlmesh_project", "dg_sqlmesh", *plan)
            yield Site(page, server)


def run_models_and_dashboard(site: Site) -> None:
    site.open_in_location("asset-groups/museum")
    site.click("Materialize all")
    site.sees("Launched run")
    assert site.status_of(site.last_run) == "SUCCESS"


def load_tickets(site: Site, day: str) -> None:
    """Launch the partition of a day."""
    site.asset("dlt_tickets_sold")
    site.click("Materialize")
    partitions = site.page.get_by_placeholder("No matching partitions")
    partitions.fill(day)
    partitions.press("Enter")
    site.click("Launch 1 run")
    site.sees("Launched run")
    assert site.status_of(site.last_run) == "SUCCESS"


def test_model_waits_for_a_late_source_and_the_dashboard_does_not_run(site: Site) -> None:
    run_models_and_dashboard(site)
    site.check("museum/daily_sales")
    late = f"dlt_tickets_sold has no materialization of {FIRST_LATE}, {SECOND_LATE}"
    site.sees(f"museum.daily_sales is waiting: {late}.")
    site.picture("waiting-model", height=640)
    assert site.severity_of("museum/daily_sales", "sqlmesh_execution_status") == "WARN"
    assert not site.is_materialized("dashboard")


def test_model_and_dashboard_run_after_the_source_has_arrived(site: Site) -> None:
    load_tickets(site, FIRST_LATE)
    run_models_and_dashboard(site)
    site.check("museum/daily_sales")
    late = f"dlt_tickets_sold has no materialization of {SECOND_LATE}"
    site.sees(f"museum.daily_sales was executed for {FIRST_LATE}", f"Its other intervals are waiting: {late}.")
    site.asset("dashboard")
    site.sees("newest_day", FIRST_LATE)


def test_sensors_run_the_model_and_then_the_dashboard_when_the_source_arrives(site: Site) -> None:
    for sensor in (ON_SOURCES, CONDITIONS):
        site.open_in_location(f"sensors/{sensor}")
        site.switch_on()
    wait_until(lambda: bool(site.skip_reasons_of(ON_SOURCES) and site.skip_reasons_of(CONDITIONS)))
    load_tickets(site, SECOND_LATE)
    site.asset("dashboard")
    site.sees(SECOND_LATE, wait_ms=TICKS_MS)
    site.check("museum/daily_sales")
    site.sees(f"museum.daily_sales was executed for {SECOND_LATE}")
