"""The first minutes in the browser, as the README describes them: the starter, a plan, and all models."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from dagster_ui import Site, browser_page
from dev_server import Serving, create_home
from harness import BIN, COMPONENT, run, sqlmesh, write_dagster_project

pytestmark = pytest.mark.slow


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    root = write_dagster_project(tmp_path / "analytics")
    command = ["dg", "scaffold", "defs", COMPONENT, "shop", "--init"]
    answer = run([BIN / command[0], *command[1:]], cwd=root).stdout.replace(f"{tmp_path}/", "~/")
    sqlmesh(root / "sqlmesh_project", "plan", "--skip-backfill", "--auto-apply", "--no-prompts")
    home = create_home(tmp_path)
    with Serving(BIN / "dg", root, home, tmp_path / "server.log") as server, browser_page() as page:
        site = Site(page, server)
        site.terminal(f"$ {' '.join(command)}\n{answer}")
        site.picture("scaffold", height=430)
        yield site


def test_starter_is_green_after_one_click(site: Site) -> None:
    site.open("asset-groups")
    site.click("Materialize all")
    site.sees("Launched run")
    assert site.status_of(site.last_run) == "SUCCESS"
    site.lineage("daily_orders", "revenue_by_country")
    site.picture("lineage")
    for model in ("staging/orders", "core/daily_orders", "marts/revenue_by_country"):
        assert site.is_materialized(model)
        assert site.checks_of(model)["sqlmesh_execution_status"] == "SUCCEEDED", model
