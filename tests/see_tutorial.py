"""What the tutorial's reader sees in the browser at one of its pictures, and how many rows prod shows.

Run in the tutorial's Dagster project.
"""

import os
import shutil
import sys
from pathlib import Path

import duckdb
from dagster_ui import Site, browser_page
from dev_server import Serving


def green(site: Site) -> None:
    site.lineage("paid_orders", "revenue")
    site.click("Skip")  # Dagster greets its first visitor, some seconds late
    for model in ("raw/orders", "shop/paid_orders", "shop/revenue"):
        assert set(site.checks_of(model).values()) == {"SUCCEEDED"}, model


def failed_audit(site: Site) -> None:
    site.check("shop/paid_orders", "amount_is_positive")
    site.sees("1 row failed", "sqlmesh/query")
    site.sees("customer_email", "***")
    site.sees_nowhere("bob@example.com")


def print_rows(database: Path) -> None:
    """Print the number of rows of each of the tutorial's models, if the database exists."""
    if not database.exists():
        return
    with duckdb.connect(str(database), read_only=True) as prod:
        tables = ("raw.orders", "shop.paid_orders", "shop.revenue")
        rows = [prod.sql(f"SELECT COUNT(*) FROM {table}").fetchall()[0][0] for table in tables]
    print("rows in prod:", *rows)


PICTURES = {"tutorial-green": green, "tutorial-failed-audit": failed_audit}


def main(name: str) -> None:
    dg = shutil.which("dg")
    assert dg, "the tutorial's environment is not active"
    home = Path(os.environ["DAGSTER_HOME"])
    with Serving(Path(dg), Path.cwd(), home, home / "server.log") as server, browser_page() as page:
        site = Site(page, server)
        PICTURES[name](site)
        site.picture(name)


if __name__ == "__main__":
    if sys.argv[1] == "rows":
        print_rows(Path("sqlmesh_project/warehouse.duckdb"))
    else:
        main(sys.argv[1])
