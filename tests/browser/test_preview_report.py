"""The report of a preview: on the step's page, in the list of runs, and as a comment. The stories share one preview."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dagster_ui import Site, browser_page
from dev_server import serve
from harness import needs_previews, planned_shop
from markdown_it import MarkdownIt

pytestmark = [needs_previews, pytest.mark.slow]

ORDERS = """
MODEL (name core.orders, kind FULL, grain order_id, owner ann, audits (
  not_null(columns := (amount)), accepted_range(column := amount, min_v := 0, blocking := false)
));
SELECT i AS order_id, (i % 5) AS country_id, {amount} AS amount{more} FROM range(1, 326) AS r(i)
"""
MODELS = {
    "models/orders.sql": ORDERS.format(amount="(i * 2)::DOUBLE", more=", 'x' AS note"),
    "models/revenue.sql": "MODEL (name marts.revenue, kind FULL, grain country_id); "
    "SELECT country_id, sum(amount) AS revenue FROM core.orders GROUP BY country_id",
}
DASHBOARD = """
import dagster as dg


@dg.asset(deps=[dg.AssetKey(["marts", "revenue"])], group_name="dashboards", owners=["ben@example.com"])
def revenue_page(): ...
"""
GITHUB = """
body { font: 14px/1.5 -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; margin: 16px; max-width: 100%; }
table { border-collapse: collapse; display: block; overflow: auto; width: max-content; max-width: 100%; }
th, td { border: 1px solid #d0d7de; padding: 6px 13px; }
code { background: #eff1f3; border-radius: 6px; padding: 2px 5px; font-size: 85%; }
pre { background: #f6f8fa; padding: 16px; overflow: auto; } pre code { background: none; }
blockquote { border-left: 4px solid #cf222e; margin: 0 0 16px; padding: 0 16px; }
h2 { border-bottom: 1px solid #d0d7de; }
"""
"""What matters of the styles of a comment on GitHub."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("preview").resolve()


@pytest.fixture(scope="module")
def site(folder: Path) -> Iterator[Site]:
    """A pull request drops a column, and makes some amounts negative."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("DG_SQLMESH_REPORT", str(folder / "report"))
        options: dict[str, Any] = {"deploy": True, "preview": {"environment": "pr_12"}}
        with planned_shop(folder, MODELS, planned_at=None, **options) as shop:
            shop.plan(at=None)
            changed = ORDERS.format(amount="CASE WHEN i < 100 THEN i * -1.0 ELSE i * 2.0 END", more="")
            (shop.project / "models" / "orders.sql").write_text(changed)
            shop.add_module("dashboard", DASHBOARD)
            with serve(shop) as server, browser_page() as page:
                yield Site(page, server)


def test_step_page_shows_the_report_and_the_list_of_runs_its_result(site: Site) -> None:
    site.open_in_location("jobs/sqlmesh_shop_preview/playground")
    site.click("Launch Run")
    site.page.wait_for_url("**/runs/*")
    run = site.page.url.rpartition("/")[2].partition("?")[0]
    assert site.status_of(run) == "SUCCESS"
    site.sees("Preview pr_12: The preview is ready.", "sqlmesh/report")
    site.page.get_by_text("Show Markdown").last.click()
    site.sees("To decide:", "1 loss, 1 failing audit, 1 asset outside of SQLMesh affected.")
    site.picture("preview-report-in-dagster", height=690)
    site.open("runs")
    site.sees("sqlmesh/result: 2 executed", "sqlmesh/preview: pr_12")
    site.picture("list-of-runs")


@pytest.mark.parametrize("width", [980, 390])
def test_comment_on_pull_request_answers_at_widths_of_screen_and_phone(site: Site, folder: Path, width: int) -> None:
    text = (folder / "report.md").read_text()
    html = (
        MarkdownIt("commonmark", {"html": True}).enable("table").render(text.replace("[!CAUTION]", "**Caution**<br>"))
    )
    site.page.set_viewport_size({"width": width, "height": 1200})
    site.page.set_content(f"<style>{GITHUB}</style>{html}")
    site.sees(
        "1 loss, 1 failing audit, 1 asset outside of SQLMesh affected.",
        "queries that use the column will fail",
        "−",
        "ben@example.com",
    )
    if width == 980:
        site.picture("preview-report")
