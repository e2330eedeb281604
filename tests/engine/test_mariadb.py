"""Runs, restatements and previews on MariaDB, whose statements are not transactional and whose SQL is MySQL's.

tests/engine/test_cancel.py cancels a query on it.
"""

import datetime
from collections.abc import Iterator
from typing import Any

import dagster as dg
import pytest
from engine.plan_jobs import launch
from engine.preview_lab import ENVIRONMENT, PREVIEW, diffs, report_of_last
from harness import YEARLY_CRON, NewShop, RunRecord, Shop, needs_previews
from mariadb import Server, mariadb_server

BY_DAY = "kind INCREMENTAL_BY_TIME_RANGE (time_column ds{more})"
DAYS = "ctl.days AS days WHERE ds BETWEEN @start_ds AND @end_ds"
MODELS = {
    "models/orders.sql": f"MODEL (name t.orders, {BY_DAY.format(more='')}, audits (not_null(columns := (n)))); "
    f"SELECT ds, (SELECT MAX(n) FROM ctl.source) AS n FROM {DAYS}",
    "models/revenue.sql": "MODEL (name t.revenue, kind FULL); SELECT SUM(n) AS n FROM t.orders",
    "models/yearly.sql": f"MODEL (name t.yearly, kind FULL, cron '{YEARLY_CRON}', start '2020-01-01'); SELECT 1 AS n",
}
OUTCOMES = {
    **MODELS,
    "models/gated.sql": "MODEL (name t.gated, kind FULL, signals (released())); SELECT 1 AS n",
    "models/below_gated.sql": "MODEL (name t.below_gated, kind FULL); SELECT n FROM t.gated",
    "models/failing.sql": "MODEL (name t.failing, kind FULL); SELECT (SELECT n FROM ctl.single) AS n",
    "models/below_failing.sql": "MODEL (name t.below_failing, kind FULL); SELECT n FROM t.failing",
    "models/audited.sql": "MODEL (name t.audited, kind FULL, audits (not_null(columns := (n)))); "
    "SELECT MAX(n) AS n FROM ctl.audited",
    # Two batches of one table at once may end in a deadlock (1213): InnoDB locks the gaps between rows.
    "models/batched.sql": f"MODEL (name t.batched, {BY_DAY.format(more=', batch_size 1, batch_concurrency 1')}); "
    f"SELECT ds, (SELECT n FROM ctl.single_of_day AS s WHERE s.ds = days.ds) AS n FROM {DAYS}",
    "signals/__init__.py": "",
    "signals/released.py": "from pathlib import Path\n\nfrom sqlmesh import signal\n\n\n@signal()\n"
    "def released(batch):\n    return not Path('hold').exists()\n",
}
EXPECTED = {
    "t/orders": "executed",
    "t/revenue": "executed",
    "t/yearly": "up_to_date",
    "t/gated": "waiting",
    "t/below_gated": "waiting",
    "t/failing": "failed",
    "t/below_failing": "blocked",
    "t/audited": "audit_failed",
    "t/batched": "partly_executed",
}


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    with mariadb_server() as server:
        yield server


@pytest.fixture
def server(running: Server) -> Server:
    """A server with source tables only."""
    running.clear()
    today = datetime.datetime.now(datetime.timezone.utc).date()
    days = " UNION ALL ".join(f"SELECT DATE '{today - datetime.timedelta(n)}' AS ds" for n in range(10))
    for statement in (
        "CREATE DATABASE ctl",
        f"CREATE TABLE ctl.days AS {days}",
        "CREATE TABLE ctl.source AS SELECT 1 AS n",
        "CREATE TABLE ctl.single AS SELECT 1 AS n",
        "CREATE TABLE ctl.audited AS SELECT 1 AS n",
        "CREATE TABLE ctl.single_of_day AS SELECT ds, 1 AS n FROM ctl.days",
    ):
        running.query(statement)
    return running


def test_each_outcome_of_a_run_is_that_of_the_database(server: Server, new_shop: NewShop) -> None:
    shop = new_shop(OUTCOMES, server.config())
    planned = shop.state()["intervals"]
    (shop.project / "hold").touch()
    yesterday = datetime.datetime.now(datetime.timezone.utc).date() - datetime.timedelta(1)
    server.query("INSERT INTO ctl.single SELECT 2")
    server.query("DELETE FROM ctl.audited")
    server.query(f"INSERT INTO ctl.single_of_day SELECT DATE '{yesterday}', 2")

    run = shop.launch()

    assert {asset: run.status_of(asset) for asset in EXPECTED} == EXPECTED
    assert set(run.materializations) == {asset for asset, outcome in EXPECTED.items() if outcome == "executed"}
    assert run.status is dg.DagsterRunStatus.FAILURE
    assert "Subquery returns more than 1 row" in run.failures[0]
    grown = {fqn.split('"')[-2] for fqn, computed in shop.state()["intervals"].items() if computed > planned[fqn]}
    assert grown == {"orders", "revenue", "batched"}
    assert server.query("SELECT COUNT(*) FROM t.orders") > server.query("SELECT COUNT(*) FROM t.batched")

    (shop.project / "hold").unlink()
    server.query("DELETE FROM ctl.single WHERE n = 2")
    server.query("DELETE FROM ctl.single_of_day WHERE n = 2")
    server.query("INSERT INTO ctl.audited SELECT 3")
    shop.launch().succeeded()
    assert server.query("SELECT COUNT(*) FROM t.orders") == server.query("SELECT COUNT(*) FROM t.batched")


def test_restatement_computes_one_day_again(server: Server, new_shop: NewShop) -> None:
    shop = new_shop(MODELS, server.config(), restate=True)
    assert shop.launch().status is dg.DagsterRunStatus.SUCCESS
    (rows,) = server.query("SELECT COUNT(*) FROM t.orders")[0]
    server.query("UPDATE ctl.source SET n = 7")
    day = str(datetime.datetime.now(datetime.timezone.utc).date() - datetime.timedelta(3))
    config = {"sqlmesh_shop": {"restate": {"start": day, "end": day}}}

    run = shop.launch(ops=config, assets=["t/orders"]).succeeded()
    assert set(run.materializations) == {"t/orders", "t/revenue"}
    assert [(str(ds), n) for ds, n in server.query("SELECT ds, n FROM t.orders WHERE n <> 1")] == [(day, 7)]
    assert server.query("SELECT COUNT(*), (SELECT n FROM t.revenue) FROM t.orders") == [(rows, rows - 1 + 7)]


ITEMS = """
MODEL (name t.items, kind FULL, grain id);
SELECT id, {price} AS price, {label} AS label, {number} AS number FROM ctl.items WHERE id {which}
"""


def preview(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv("PULL_REQUEST", "1")
    record: RunRecord = launch(shop, PREVIEW)
    assert record.status is dg.DagsterRunStatus.SUCCESS, record.log
    return report_of_last(record)


@needs_previews
def test_preview_counts_added_removed_and_changed_rows(
    server: Server, new_shop: NewShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.query("CREATE TABLE ctl.items AS SELECT seq AS id FROM ctl.seq_1_to_20")
    price = "CAST(1200000000000000.69 + {} AS DECIMAL(18, 2))"
    old = ITEMS.format(price=price.format("0"), label="'a'", number="1", which="<= 16")
    changed = {
        "price": price.format("(id = 5) * 0.09"),
        "label": "IF(id IN (6, 7), 'A', 'a')",
        "number": "IF(id = 8, 10, 1)",
    }
    shop = new_shop(
        {"models/items.sql": old, "models/by_all.sql": old.replace("items,", "by_all,").replace(", grain id", "")},
        server.config(),
        planned_at=None,
        deploy={},
        preview={"environment": ENVIRONMENT},
    )
    shop.plan(at=None)
    after = ITEMS.format(**changed, which="> 2")
    (shop.project / "models" / "items.sql").write_text(after)
    (shop.project / "models" / "by_all.sql").write_text(after.replace("items,", "by_all,").replace(", grain id", ""))

    found = diffs(preview(shop, monkeypatch))

    items, by_all = found["t.items"], found["t.by_all"]
    assert (items["rows_prod"], items["rows"], items["added"], items["removed"], items["changed"]) == (16, 18, 4, 2, 4)
    assert items["columns"] == {
        name: pytest.approx(1 - n / 14) for name, n in [("price", 1), ("label", 2), ("number", 1)]
    }
    assert items["schema"] == [], "int(1) and int(2) are one type"
    assert (by_all["added"], by_all["removed"], by_all["changed"]) == (4 + 4, 2 + 4, None)
