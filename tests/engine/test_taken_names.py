"""A plan takes no table or view of others, in each `virtual_environment_mode`."""

import pytest
from engine.plan_jobs import APPLY, applied, change, failure_of, launch, planned
from engine.preview_lab import PREVIEW
from harness import CONFIG, NewShop, at_night, needs_previews

STOCK = "MODEL (name t.stock, kind FULL); SELECT 1 AS id"
ORDERS = "MODEL (name t.orders, kind FULL, audits (not_null(columns := (id)))); SELECT {id} AS id"
SEEN = "MODEL (name t.seen, kind VIEW); SELECT id FROM t.orders"


@pytest.mark.night("engine/test_dependents.py::test_a_view_in_place_of_a_table_is_refused_before_anything_changes")
@pytest.mark.advice("Rename or drop them first. Queries that use them fail until the apply has succeeded.")
@needs_previews
@pytest.mark.parametrize("mode", ["dev_only", *at_night("full")])
def test_a_model_with_the_name_of_another_table_or_view_is_refused_also_after_its_preview(
    new_shop: NewShop, mode: str
) -> None:
    config = f"{CONFIG}virtual_environment_mode: {mode}\n"
    shop = new_shop({"models/stock.sql": STOCK}, config, deploy=True, preview={"environment": "pr_1"})
    shop.query("CREATE TABLE t.orders AS SELECT 7 AS id")
    shop.query("CREATE VIEW t.seen AS SELECT 8 AS id")
    change(shop, orders=ORDERS.format(id=1), seen=SEEN)
    launch(shop, PREVIEW).succeeded()

    report = planned(shop)
    refused = launch(shop, APPLY, digest=report["digest"]).failed()

    [refusal] = report["refusals"]
    assert (refusal["kind"], refusal["models"]) == ("name_taken", ["t.orders", "t.seen"])
    assert "The names of t.orders, t.seen are taken" in failure_of(refused)
    assert shop.query("SELECT orders.id, seen.id FROM t.orders, t.seen") == [(7, 8)]
    shop.query("DROP TABLE t.orders")
    shop.query("DROP VIEW t.seen")
    applied(shop)
    assert shop.query("SELECT orders.id, seen.id FROM t.orders, t.seen") == [(1, 1)]


LISTED = """
MODEL (name t.listed, kind SEED (path '../seeds/listed.csv'), columns (id INT), audits (not_null(columns := (id))))
"""


@pytest.mark.night("engine/test_dependents.py::test_a_view_in_place_of_a_table_is_refused_before_anything_changes")
@pytest.mark.parametrize("attempts", [1, *at_night(2)])
def test_a_table_of_a_failed_attempt_is_no_table_of_others(new_shop: NewShop, attempts: int) -> None:
    """SQLMesh's state has no interval of it. It has created the table of a model downstream too, and not begun it."""
    shop = new_shop({"models/stock.sql": STOCK}, f"{CONFIG}virtual_environment_mode: dev_only\n", deploy=True)
    csv = shop.project / "seeds" / "listed.csv"
    csv.parent.mkdir()
    csv.write_text('id\n""\n')
    change(shop, listed=LISTED, copied="MODEL (name t.copied, kind FULL); SELECT id FROM t.listed")
    digest = planned(shop)["digest"]
    for _ in range(attempts):
        assert "failed its audit not_null (1 row)" in failure_of(launch(shop, APPLY, digest=digest))
    assert shop.query("SELECT id FROM t.listed") == [(None,)]

    csv.write_text("id\n1\n")
    applied(shop)

    assert shop.query("SELECT id FROM t.listed") == shop.query("SELECT id FROM t.copied") == [(1,)]
