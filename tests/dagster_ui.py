"""Dagster's UI in a browser."""

import html
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dev_server import Server
from harness import wait_until
from playwright.sync_api import FloatRect, Page, expect, sync_playwright

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
WAIT_MS = 30_000
"""How long a page may take to show a result: the run must end, and the UI asks from time to time."""

TERMINAL = "height: 100vh; background: #1e1e1e; color: #e4e4e4; font: 20px/1.5 monospace"

CHECKS = """
query C($key: AssetKeyInput!) { assetNodes(assetKeys: [$key]) { assetChecksOrError { ... on AssetChecks { checks {
  name executionForLatestMaterialization { status evaluation { severity } } } } } } }
"""
MATERIALIZED = """
query M($key: AssetKeyInput!) { assetOrError(assetKey: $key) { ... on Asset { assetMaterializations(limit: 1) {
  runId } } } }
"""
SKIPPED = """
query S($selector: SensorSelector!) { sensorOrError(sensorSelector: $selector) {
  ... on Sensor { sensorState { ticks(limit: 5) { status skipReason } } } } }
"""
LAST_RUN = "query { runsOrError(limit: 1) { ... on Runs { results { runId status } } } }"


@contextmanager
def browser_page() -> Iterator[Page]:
    """While it is open, no other test of this process can start an event loop."""
    assert CHROMIUM, "there is no Chromium: `make browser` installs it"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser.new_page(viewport={"width": 1400, "height": 900})
        browser.close()


@dataclass
class Site:
    """Dagster's UI in a browser."""

    page: Page
    server: Server

    # -- what a person does -----------------------------------------------------------------------

    def open(self, path: str) -> None:
        self.page.goto(f"{self.server.url}/{path}")

    def open_in_location(self, path: str) -> None:
        """Open the page of a job, schedule or sensor."""
        repository = self.server.repository
        name, location = repository["repositoryName"], repository["repositoryLocationName"]
        self.open(f"locations/{name}@{location}/{path}")

    def asset(self, key: str, view: str = "overview") -> None:
        self.open(f"assets/{key}?view={view}")

    def check(self, asset: str, name: str = "sqlmesh_execution_status") -> None:
        self.open(f"assets/{asset}?view=checks&checkDetail={name}")

    def click(self, name: str) -> None:
        self.page.get_by_role("button", name=name).first.click()

    def lineage(self, *models: str) -> None:
        """Open the graph of all assets, and expand its groups, so that these models are visible."""
        self.open("asset-groups")
        self.sees("Materialize all")

        def are_visible() -> bool:
            """The key has no effect until the graph is laid out."""
            self.page.keyboard.press("Alt+KeyE")
            self.page.wait_for_timeout(1000)
            return all(self.page.get_by_text(model).first.is_visible() for model in models)

        wait_until(are_visible)

    def switch_on(self) -> None:
        """Turn on the schedule or the sensor of the page."""
        self.page.locator("label:has(input[type=checkbox])").first.click()

    def launch_with(self, asset: str, config: str) -> str:
        """Write run config into an asset's launchpad and launch. The page of the run opens. Return its id."""
        self.asset(asset)
        self.page.get_by_role("button", name="Materialize").first.click(modifiers=["Shift"])
        self.sees("All defaults expanded")
        self.page.locator(".CodeMirror").click()
        self.page.keyboard.press("Control+a")
        self.page.keyboard.insert_text(f"ops: {{sqlmesh_shop: {{config: {{{config}}}}}}}")
        self.sees("No errors")
        self.page.get_by_role("button", name="Materialize").last.click()
        self.page.wait_for_url("**/runs/*")
        return self.page.url.rpartition("/")[2].partition("?")[0]

    def terminal(self, text: str) -> None:
        """Show the text of a terminal, for a picture."""
        self.page.set_content(f"<pre style='margin: -8px; padding: 24px; {TERMINAL}'>{html.escape(text)}</pre>")

    # -- what a person sees -----------------------------------------------------------------------

    def sees(self, *texts: str | re.Pattern[str], wait_ms: int = WAIT_MS) -> None:
        for text in texts:
            expect(self.page.get_by_text(text).first).to_be_visible(timeout=wait_ms)

    def sees_nowhere(self, text: str) -> None:
        expect(self.page.get_by_text(text)).to_have_count(0)

    def lines_of(self, cell: str) -> int:
        """On how many lines the page shows the text of a table's cell."""
        script = "cell => { const all = new Range(); all.selectNodeContents(cell); return all.getClientRects().length }"
        lines: int = self.page.get_by_role("cell", name=cell, exact=True).first.evaluate(script)
        return lines

    def picture(self, name: str, height: int | None = None) -> None:
        """Store the page as a picture of the docs, if `make screenshots` runs the stories.

        Args:
            height: How many pixels from the top; None for all that are visible.
        """
        if folder := os.environ.get("DG_SQLMESH_SCREENSHOTS"):
            self.page.wait_for_timeout(1000)  # animations end
            size = self.page.viewport_size
            assert size is not None
            clip = FloatRect(x=0, y=0, width=size["width"], height=height or size["height"])
            self.page.screenshot(path=Path(folder) / f"{name}.png", clip=clip)

    # -- what the UI asks for ---------------------------------------------------------------------

    def status_of(self, run_id: str) -> str:
        return self.server.status_of(run_id)

    @property
    def last_run(self) -> str:
        run: dict[str, str] = self.server.ask(LAST_RUN)["runsOrError"]["results"][0]
        return run["runId"]

    def is_materialized(self, asset: str) -> bool:
        found = self.server.ask(MATERIALIZED, key={"path": asset.split("/")})
        return bool(found["assetOrError"]["assetMaterializations"])

    def checks_of(self, asset: str) -> dict[str, str]:
        """The result of each check for the last materialization; without those that have none."""
        return {name: execution["status"] for name, execution in self._executions(asset).items()}

    def severity_of(self, asset: str, check: str) -> str:
        severity: str = self._executions(asset)[check]["evaluation"]["severity"]
        return severity

    def skip_reasons_of(self, sensor: str) -> set[str]:
        selector = {**self.server.repository, "sensorName": sensor}
        found = self.server.ask(SKIPPED, selector=selector)["sensorOrError"]["sensorState"]["ticks"]
        return {tick["skipReason"] for tick in found if tick["status"] == "SKIPPED"}

    def _executions(self, asset: str) -> dict[str, Any]:
        [node] = self.server.ask(CHECKS, key={"path": asset.split("/")})["assetNodes"]
        checks = node["assetChecksOrError"]["checks"]
        found = {check["name"]: check["executionForLatestMaterialization"] for check in checks}
        return {name: execution for name, execution in found.items() if execution}
