"""A backfill on its pages: one day fails and is retried, and another backfill is cancelled and continued.

Each story builds on the stories before it.
"""

import datetime
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from dagster_ui import Site, browser_page
from dev_server import serve
from harness import (
    CONFIG,
    PAUSE,
    Shop,
    empty_instance,
    plan,
    planned_project,
    python_model,
    query,
    wait_until,
    write_dagster_project,
)

pytestmark = pytest.mark.slow

TODAY = datetime.datetime.now(datetime.timezone.utc).date()
DAYS = [str(TODAY - datetime.timedelta(days=ago)) for ago in range(30, 0, -1)]
BAD_DAY, SECOND = DAYS[4], DAYS[-3:]
ENDED = ("SUCCESS", "FAILURE", "CANCELED")
BY_DAY = "kind INCREMENTAL_BY_TIME_RANGE (time_column ds)"
READS = "WHERE ds BETWEEN @start_ds AND @end_ds"
MODELS = {
    "models/payments.sql": f"MODEL (name raw.payments, {BY_DAY}); "
    f"SELECT ds, amount::INT AS amount FROM ctl.source {READS}",
    "models/revenue.sql": f"MODEL (name marts.revenue, {BY_DAY}); "
    f"SELECT ds, sum(amount) AS revenue FROM raw.payments {READS} GROUP BY ds",
    "models/export.py": python_model("marts.export", PAUSE, depends_on=["marts.revenue"]),
}
SOURCE = f"SELECT d::DATE AS ds, '1' AS amount FROM range(DATE '{DAYS[0]}', DATE '{TODAY}', INTERVAL 1 DAY) AS r(d)"
ONE_BY_ONE = """
run_coordinator:
  module: dagster._core.run_coordinator
  class: QueuedRunCoordinator
  config: {dequeue_interval_seconds: 1, tag_concurrency_limits: [{key: dagster/backfill, limit: 1}]}
"""
JOB = "jobs/sqlmesh_shop_restate_day/partitions"
RUNS = """
query R($tag: [ExecutionTag!]) { runsOrError(filter: {tags: $tag}) { ... on Runs { results {
  runId status tags { key value } } } } }
"""


STATUS = """
query B($id: String!) { partitionBackfillOrError(backfillId: $id) { ... on PartitionBackfill { status } } }
"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """All days are computed. Then the source is corrected, with a row of one day that is no number."""
    folder = tmp_path_factory.mktemp("backfills").resolve()
    config = CONFIG.replace("6 days ago", f"'{DAYS[0]}'")
    project = planned_project(folder / "shop", MODELS, config, {"ctl.source": SOURCE}, "now")
    with empty_instance(folder) as instance:
        shop = Shop(write_dagster_project(folder / "analytics"), instance, project)
        shop.add_component("shop", {"project": str(project), "restate": {"jobs": [{"by": "day"}]}})
        shop.add_module("executor", "import dagster as dg\n\ndefs = dg.Definitions(executor=dg.in_process_executor)\n")
        yield shop


@pytest.fixture(scope="module")
def twin(shop: Shop) -> Path:
    """A copy of the project, whose days are restated by SQLMesh in one plan."""
    twin = shutil.copytree(shop.project, shop.project.parent / "twin")
    query(twin, "UPDATE ctl.source SET amount = '7'")
    query(twin, f"UPDATE ctl.source SET amount = '9' WHERE ds >= '{SECOND[0]}'")
    plan(twin, "--restate-model=raw.payments", "--start", DAYS[0], "--end", DAYS[-1], at=None)
    return twin


@pytest.fixture(scope="module")
def site(shop: Shop, twin: Path) -> Iterator[Site]:  # the twin is a copy from before the first run
    with serve(shop, ONE_BY_ONE) as server, browser_page() as page:
        yield Site(page, server)


def select_days(site: Site, days: Sequence[str] = ()) -> None:
    """Open the job's page, and select all days in the dialog for a backfill, or only some, also the completed ones."""
    site.open_in_location(JOB)
    site.click("Launch backfill")
    if not days:
        site.page.get_by_role("button", name="All", exact=True).click()
        return
    written = site.page.get_by_placeholder(re.compile("^ex: "))
    written.fill(", ".join(days))
    written.press("Enter")
    site.page.get_by_text(f"Completed ({len(days)})").click()


def submit(site: Site, runs: int) -> str:
    """Launch the selected days, whose number the button shows. Return the backfill's id."""
    site.click(f"Submit {runs} run")
    return created_backfill(site)


def created_backfill(site: Site) -> str:
    """Return the id in the message at the corner of the page."""
    message = site.page.get_by_text(re.compile(r"Created backfill \w+")).last.inner_text()
    return message.split("Created backfill ")[1].split()[0]


def in_menu(site: Site, backfill: str, item: str) -> None:
    """Open a backfill's page, and choose an item of its menu."""
    site.open(f"runs/b/{backfill}")
    site.sees("% completed")
    site.page.locator("button:has([aria-label=expand_more])").last.click()
    site.page.get_by_role("menuitem").filter(has_text=item).click()


def status_of(site: Site, backfill: str) -> str:
    status: str = site.server.ask(STATUS, id=backfill)["partitionBackfillOrError"]["status"]
    return status


def bars(site: Site, backfill: str) -> dict[str, str]:
    """The status of the run of each day. It leaves the processor to the runs for some time, if a story asks again."""
    time.sleep(0.5)
    tag = [{"key": "dagster/backfill", "value": backfill}]
    runs: list[dict[str, Any]] = site.server.ask(RUNS, tag=tag)["runsOrError"]["results"]
    return {tag["value"]: run["status"] for run in runs for tag in run["tags"] if tag["key"] == "dagster/partition"}


def wait_for_days(site: Site, backfill: str, days: Sequence[str]) -> dict[str, str]:
    """Wait until the run of each day has ended, which may take its own time. Return their status."""
    for day in days:
        wait_until(lambda day=day: bars(site, backfill).get(day) in ENDED)  # type: ignore[misc]
    return bars(site, backfill)


def sees_counts(site: Site, failed: int, missing: int) -> None:
    """The numbers above the bar of the job's page."""
    site.open_in_location(JOB)
    for number, name in ((len(DAYS), "Total"), (failed, "Failed"), (missing, "Missing")):
        site.page.get_by_text(f"{name} partitions").locator("..").get_by_text(str(number), exact=True).wait_for()


def rows(project: Path) -> list[tuple[object, ...]]:
    return query(project, "SELECT ds::DATE::TEXT, revenue::INT FROM marts.revenue ORDER BY ds")


def test_failed_day_is_red_on_both_pages_and_its_retry_launches_it_alone(site: Site, shop: Shop) -> None:
    shop.query(f"UPDATE ctl.source SET amount = CASE WHEN ds = '{BAD_DAY}' THEN 'seven' ELSE '7' END")
    select_days(site)
    backfill = submit(site, len(DAYS))
    ended = wait_for_days(site, backfill, DAYS)
    assert ended == {day: "FAILURE" if day == BAD_DAY else "SUCCESS" for day in DAYS}
    wait_until(lambda: status_of(site, backfill) == "COMPLETED_FAILED")
    site.open(f"runs/b/{backfill}")
    site.sees("100% completed")
    site.picture("backfill", height=330)
    sees_counts(site, failed=1, missing=0)
    site.picture("backfill-failed-day", height=770)

    shop.query(f"UPDATE ctl.source SET amount = '7' WHERE ds = '{BAD_DAY}'")
    in_menu(site, backfill, "Re-execute from failure")
    retry = created_backfill(site)
    assert wait_for_days(site, retry, [BAD_DAY]) == {BAD_DAY: "SUCCESS"}
    sees_counts(site, failed=0, missing=0)
    assert rows(shop.project) == [(day, 7) for day in DAYS]


def test_cancelled_backfill_of_complete_days_is_continued_by_selecting_them(site: Site, shop: Shop, twin: Path) -> None:
    """Dagster shows a day by its last run that was not cancelled. So the dialog does not call these days missing."""
    pause, pausing = shop.project / "pause", shop.project / "pausing"
    shop.query(f"UPDATE ctl.source SET amount = '9' WHERE ds >= '{SECOND[0]}'")
    select_days(site, SECOND)
    backfill = submit(site, len(SECOND))
    wait_until(lambda: "SUCCESS" in bars(site, backfill).values())
    pause.touch()
    wait_until(pausing.exists)
    in_menu(site, backfill, "Cancel backfill")
    site.page.get_by_role("dialog").get_by_role("button", name="Cancel backfill").click()
    wait_until(lambda: "CANCELING" in bars(site, backfill).values())
    pause.unlink()
    ended = wait_for_days(site, backfill, SECOND)
    left = [day for day in SECOND if ended[day] == "CANCELED"]
    assert left, ended
    assert set(ended.values()) == {"SUCCESS", "CANCELED"}, ended
    sees_counts(site, failed=0, missing=0)

    select_days(site, left)
    rest = submit(site, len(left))
    assert wait_for_days(site, rest, left) == dict.fromkeys(left, "SUCCESS")
    assert rows(shop.project) == rows(twin)
