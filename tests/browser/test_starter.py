"""The first minutes in the browser, as the README describes them: the starter, a plan, and all models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from dagster_ui import Site, browser_page
from dev_server import serve
from harness import BIN, COMPONENT, dagster_project, run, sqlmesh

pytestmark = pytest.mark.slow


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with dagster_project(tmp_path) as dagster:
        run([BIN / "dg", "scaffold", "defs", COMPONENT, "shop", "--init"], cwd=dagster.root)
        sqlmesh(dagster.root / "sqlmesh_project", "plan", "--skip-backfill", "--auto-apply", "--no-prompts")
        with serve(dagster) as server, browser_page() as page:
            yield Site(page, server)


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
