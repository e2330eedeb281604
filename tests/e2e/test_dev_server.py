"""`dg dev`: the web server shows the project, and a run launched like from the UI has the correct results."""

import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from dev_server import RUN, serve
from harness import BIN, COMPONENT, Shop, dagster_project, plan, planned_shop, run, wait_until

ASSETS = """
query { assetNodes {
  assetKey { path } groupName kinds description isMaterializable
  owners { ... on UserAssetOwner { email } ... on TeamAssetOwner { team } }
  metadataEntries { label __typename ... on TableSchemaMetadataEntry { schema { columns { name description } } } }
  assetChecksOrError { ... on AssetChecks { checks { name blocking } } } } }
"""
RESULTS = """
query T($keys: [AssetKeyInput!]!) { assetNodes(assetKeys: $keys) {
  assetKey { path } assetMaterializations(limit: 1) { runId metadataEntries { label } }
  assetObservations(limit: 1) { runId }
  assetChecksOrError { ... on AssetChecks { checks { name executionForLatestMaterialization { status } } } } } }
"""

START_SENSOR = """
mutation S($selector: SensorSelector!) { startSensor(sensorSelector: $selector) {
  __typename ... on Sensor { sensorState { status } } ... on PythonError { message } } }
"""
AUTOMATED_RUNS = "query { runsOrError { ... on Runs { results { runId status tags { key value } } } } }"
FRESHNESS = """
query F { assetNodes { assetKey { path } freshnessStatusInfo { freshnessStatus }
  internalFreshnessPolicy { ... on TimeWindowFreshnessPolicy { failWindowSeconds warnWindowSeconds } }
  assetMaterializations { runId } } }
"""


@pytest.fixture
def starter(tmp_path: Path) -> Iterator[Shop]:
    """The starter, scaffolded and planned."""
    with dagster_project(tmp_path) as dagster:
        run([BIN / "dg", "scaffold", "defs", COMPONENT, "shop", "--json-params", '{"init": true}'], cwd=dagster.root)
        plan(dagster.root / "sqlmesh_project")
        defs_yaml = dagster.root / dagster.root.name / "defs" / "shop" / "defs.yaml"
        defs_yaml.write_text(defs_yaml.read_text() + "\n  restate: true\n")
        yield Shop(dagster.root, dagster.instance, dagster.root / "sqlmesh_project")


@pytest.mark.slow
def test_web_server_shows_every_model_and_the_results_of_a_launched_run(starter: Shop) -> None:
    with serve(starter) as server:
        assets = {"/".join(node["assetKey"]["path"]): node for node in server.ask(ASSETS)["assetNodes"]}
        keys = {key for key, node in assets.items() if node["isMaterializable"]}
        assert keys == {
            "reference/products", "staging/orders", "core/daily_orders", "marts/revenue_by_product",
            "marts/revenue_by_country", "marts/weekly_revenue",
        }  # fmt: skip
        daily = assets["core/daily_orders"]
        assert daily["groupName"] == "sales"
        assert {"sqlmesh", "duckdb"} <= set(daily["kinds"])
        assert daily["owners"] == [{"email": "analytics@example.com"}]
        assert daily["description"]
        [schema] = [entry["schema"] for entry in daily["metadataEntries"] if entry["label"] == "dagster/column_schema"]
        assert "order_date" in {column["name"] for column in schema["columns"]}
        checks = {check["name"]: check["blocking"] for check in daily["assetChecksOrError"]["checks"]}
        assert checks == {
            "sqlmesh_execution_status": False,
            "not_null_order_date_product_id_country_code": True,
            "no_negative_revenue": True,
            "unusually_large_order_threshold_250": False,
        }

        # No process holds the warehouse between runs, so the command line and a query work while the server runs.
        assert "core__daily_orders" in starter.sqlmesh("table_name", "core.daily_orders")
        before = starter.state()["intervals"]
        assert starter.query("SELECT count(*) > 0 FROM core.daily_orders") == [(True,)]

        assert server.launch(keys)["status"] == "SUCCESS"

        after = starter.state()["intervals"]
        grew = {"/".join(part.strip('"') for part in fqn.split(".")[-2:]) for fqn in after if after[fqn] > before[fqn]}
        nodes = server.ask(RESULTS, keys=[{"path": key.split("/")} for key in sorted(keys)])["assetNodes"]
        is_from_plan = {}  # whether the materialization is of data that the plan has computed
        for node in nodes:
            [materialization] = node["assetMaterializations"]
            labels = {entry["label"] for entry in materialization["metadataEntries"]}
            is_from_plan["/".join(node["assetKey"]["path"])] = "sqlmesh/origin" in labels
            assert not node["assetObservations"]
        assert "core/daily_orders" in grew
        assert is_from_plan == {key: key not in grew for key in keys}

        # The UI's mutation restates a day, too, and reports the downstream models that are not selected.
        day = f"{datetime.now(timezone.utc) - timedelta(days=3):%Y-%m-%d}"
        restate = {"ops": {"sqlmesh_shop": {"config": {"restate": {"start": day, "end": day}}}}}
        run = server.launch(["core/daily_orders"], restate)
        assert run["status"] == "SUCCESS"
        nodes = server.ask(RESULTS, keys=[{"path": key.split("/")} for key in sorted(keys)])["assetNodes"]
        restated = {
            "/".join(node["assetKey"]["path"])
            for node in nodes
            if node["assetMaterializations"][0]["runId"] == run["id"]
        }
        assert restated >= {"core/daily_orders", "marts/revenue_by_product"}

        output = server.log.read_text()
        assert "Traceback" not in output
        assert "SELECT" not in output.replace("AssetSelection", ""), "SQLMesh's own output floods the terminal"


RELOAD = """
mutation R($location: String!) { reloadRepositoryLocation(repositoryLocationName: $location) { __typename } }
"""


@pytest.mark.slow
def test_error_in_one_model_keeps_the_graph_and_each_asset_shows_it(starter: Shop) -> None:
    model = starter.project / "models" / "core" / "daily_orders.sql"
    text = model.read_text()

    def descriptions() -> dict[str, str]:
        nodes = [node for node in server.ask(ASSETS)["assetNodes"] if node["isMaterializable"]]
        return {"/".join(node["assetKey"]["path"]): node["description"] or "" for node in nodes}

    def reloaded() -> dict[str, str]:
        """Reload the definitions, which differ afterwards. Dagster answers before it has them."""
        earlier = descriptions()
        server.ask(RELOAD, location=server.repository["repositoryLocationName"])
        wait_until(lambda: descriptions() != earlier)
        return descriptions()

    with serve(starter) as server:
        before = descriptions()
        model.write_text(text.replace("SELECT", "SELCT"))

        broken = reloaded()

        assert broken.keys() == before.keys()
        for key, description in broken.items():
            assert description.startswith("**The SQLMesh project cannot be loaded.**"), key
            assert description.endswith(before[key])
            assert "models/core/daily_orders.sql" in description
        assert "The SQLMesh project 'sqlmesh_project' cannot be loaded." in server.log.read_text()
        assert server.launch(["core/daily_orders"])["status"] == "SUCCESS", "it executes the promoted version"
        checked = run([BIN / "dg", "check", "defs"], cwd=starter.root, check=False)
        assert checked.returncode
        assert "models/core/daily_orders.sql" in checked.stdout + checked.stderr

        model.write_text(text)
        assert reloaded() == before


TICKS = """
query T($selector: ScheduleSelector!) { scheduleOrError(scheduleSelector: $selector) {
  ... on Schedule { scheduleState { status ticks(limit: 5) { status runIds skipReason error { message } } } } } }
"""


@pytest.mark.slow  # it waits for two ticks, a minute apart
def test_daemon_launches_one_run_of_the_pending_models(starter: Shop) -> None:
    starter.add_component(
        "shop", {"project": str(starter.project), "schedule": {"cron": "* * * * *", "default_status": "RUNNING"}}
    )
    with serve(starter) as server:
        selector = {**server.repository, "scheduleName": "sqlmesh_shop_schedule"}
        ticks: list[dict[str, Any]] = []
        deadline = time.monotonic() + 300
        while not any("No model has pending" in (tick["skipReason"] or "") for tick in ticks):
            assert time.monotonic() < deadline, ticks
            time.sleep(1)
            ticks = server.ask(TICKS, selector=selector)["scheduleOrError"]["scheduleState"]["ticks"]
        run_ids = [run_id for tick in ticks for run_id in tick["runIds"]]
        assert len(run_ids) == 1, ticks
        assert server.ask(RUN, id=run_ids[0])["runOrError"]["status"] == "SUCCESS"
        assert [tick["error"] for tick in ticks if tick["error"]] == []


SENSOR_TICKS = """
query S($selector: SensorSelector!) { sensorOrError(sensorSelector: $selector) {
  ... on Sensor { sensorState { status ticks(limit: 20) { status skipReason error { message } } } } } }
"""


@pytest.mark.slow  # it waits for two ticks, half a minute apart
def test_daemon_records_what_was_computed_outside_of_dagster_once(tmp_path: Path) -> None:
    models = {"models/one.sql": "MODEL (name t.one, kind FULL, start '2026-01-01'); SELECT 1 AS id"}
    attributes: dict[str, Any] = {
        "polling_sensor": {"interval": 30, "default_status": "RUNNING"},
        "schedule": True,
        "janitor": True,
        "intervals_check": True,
        "freshness": {"slack": "1h"},
    }
    with planned_shop(tmp_path, models, **attributes) as shop, serve(shop) as server:
        selector = {**server.repository, "sensorName": "sqlmesh_shop_sensor"}

        def wait_for(reason: str) -> None:
            deadline = time.monotonic() + 300
            ticks: list[dict[str, Any]] = []
            while not (ticks and reason in (ticks[0]["skipReason"] or "")):
                assert time.monotonic() < deadline, (ticks, server.log.read_text())
                time.sleep(1)
                ticks = server.ask(SENSOR_TICKS, selector=selector)["sensorOrError"]["sensorState"]["ticks"]
            assert [tick["error"] for tick in ticks if tick["error"]] == []

        wait_for("Nothing was computed")  # the tick before it has recorded the plan
        shop.sqlmesh("run")
        wait_for("Recorded 1 model computed outside of Dagster: t.one.")
        wait_for("Nothing was computed")
        [node] = server.ask(FRESHNESS)["assetNodes"]
        assert [event["runId"] for event in node["assetMaterializations"]] == ["", ""]


@pytest.mark.slow  # it waits for a tick, which SQLMesh allows every five minutes
def test_daemon_requests_a_model_at_its_cron_and_evaluates_its_freshness(tmp_path: Path) -> None:
    models = {
        "models/often.sql": "MODEL (name t.often, kind FULL, cron '*/5 * * * *'); SELECT id FROM raw.events",
        "models/daily.sql": "MODEL (name t.daily, kind FULL); SELECT id FROM t.often",
    }
    options: dict[str, Any] = {"automation": "cron", "freshness": {"slack": "1h"}}
    tables = {"raw.events": "SELECT 1 AS id"}
    with planned_shop(tmp_path, models, tables=tables, planned_at="now", **options) as shop, serve(shop) as server:
        selector = {**server.repository, "sensorName": "default_automation_condition_sensor"}
        started = server.ask(START_SENSOR, selector=selector)["startSensor"]
        assert started["sensorState"]["status"] == "RUNNING", started

        def nodes() -> dict[str, dict[str, Any]]:
            return {"/".join(node["assetKey"]["path"]): node for node in server.ask(FRESHNESS)["assetNodes"]}

        deadline = time.monotonic() + 600
        while nodes()["t/often"]["freshnessStatusInfo"]["freshnessStatus"] != "HEALTHY":
            assert time.monotonic() < deadline, server.log.read_text()
            time.sleep(1)
        [automated] = server.ask(AUTOMATED_RUNS)["runsOrError"]["results"]
        assert automated["status"] in ("STARTED", "SUCCESS")
        assert "dagster/from_automation_condition" in {tag["key"] for tag in automated["tags"]}
        often, daily = nodes()["t/often"], nodes()["t/daily"]
        of_plan = ""  # the run has recorded it, as no event of the run
        assert [event["runId"] for event in often["assetMaterializations"]] == [automated["runId"], of_plan]
        assert not daily["assetMaterializations"], "its cron has not ticked"
        assert often["internalFreshnessPolicy"] == {"failWindowSeconds": 65 * 60, "warnWindowSeconds": None}
