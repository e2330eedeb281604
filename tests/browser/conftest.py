"""One `dg dev` and one browser for all stories."""

from collections.abc import Iterator
from typing import Any

import pytest
from dagster_ui import Site, browser_page
from dev_server import Server, serve
from harness import PAUSE, Shop, plan, planned_shop, python_model, write_project
from playwright.sync_api import Page

BY_DAY = "kind INCREMENTAL_BY_TIME_RANGE (time_column ds)"
DAYS = "SELECT @start_ds::DATE + i::INT AS ds, 1 AS n FROM range(0, 1 + (@end_ds::DATE - @start_ds::DATE)) AS r(i)"
SHOP = {
    "models/orders.sql": f"MODEL (name raw.orders, {BY_DAY}, audits (not_null(columns := (ds)))); {DAYS}",
    "models/revenue.sql": f"MODEL (name marts.revenue, {BY_DAY}); "
    "SELECT ds, n FROM raw.orders WHERE ds BETWEEN @start_ds AND @end_ds",
    "audits/no_refunds.sql": "AUDIT (name no_refunds); "
    "SELECT * FROM @this_model WHERE n > (SELECT max(n) FROM ctl.most)",
    "models/payments.sql": f"MODEL (name raw.payments, {BY_DAY}, audits (no_refunds)); "
    + DAYS.replace("AS n", "AS n, 'ann@example.com' AS customer_email"),
    "models/balance.sql": "MODEL (name marts.balance, kind FULL); SELECT sum(n) AS n FROM raw.payments",
    "models/stock.sql": "MODEL (name raw.stock, kind FULL); "
    "SELECT CASE WHEN (SELECT max(n) FROM ctl.most) = 0 THEN error('no such warehouse') ELSE 'ok' END AS state",
    "signals/__init__.py": "from sqlmesh import signal\n\n\n@signal()\ndef landed(batch):\n    return False\n",
    "models/visits.sql": f"MODEL (name raw.visits, {BY_DAY}, signals (landed())); {DAYS}",
    "models/export.py": python_model("raw.export", PAUSE),
}
ADOPTED = {
    "models/people.sql": "MODEL (name hr.people, kind FULL); SELECT 1 AS id",
    "models/teams.sql": "MODEL (name hr.teams, kind FULL); SELECT count(*) AS n FROM hr.people",
}
AT_ONCE = "run_coordinator: {module: dagster._core.run_coordinator, class: DefaultRunCoordinator}\n"
"""Runs do not wait in a queue, whose daemon looks at it every few seconds."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Shop, Server]]:
    folder = tmp_path_factory.mktemp("site").resolve()
    most = {"ctl.most": "SELECT 1 AS n"}
    options: dict[str, Any] = {
        "audits": {"sample_rows": 2, "mask": ["customer_email"]},
        "restate": True,
        "polling_sensor": 30,
        "schedule": {"cron": "* * * * *"},
    }
    with planned_shop(folder, SHOP, tables=most, **options) as shop:
        shop.plan("dev", "--include-unmodified")
        dev = {"path": str(shop.project), "environment": "dev"}
        shop.add_component("dev", {"project": dev, "translation": {"key_prefix": "dev"}})
        adopted = write_project(folder / "adopted", ADOPTED)
        plan(adopted, at=None)
        shop.add_component("adopted", {"project": str(adopted)})
        shop.add_module("executor", "import dagster as dg\n\ndefs = dg.Definitions(executor=dg.in_process_executor)\n")
        with serve(shop, AT_ONCE) as running:
            yield shop, running


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with browser_page() as page:
        yield page


@pytest.fixture
def site(page: Page, server: tuple[Shop, Server]) -> Site:
    return Site(page, server[1])


@pytest.fixture
def shop(server: tuple[Shop, Server]) -> Shop:
    return server[0]
