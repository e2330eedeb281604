"""What an environment loses by a plan, by facts alone."""

from dataclasses import replace
from typing import Any

import pytest
from unit.capabilities.plans.plans import ORDERS, drops, plan, with_facts

from dg_sqlmesh_component.capabilities.plans import messages as msg
from dg_sqlmesh_component.capabilities.plans.findings import losses, named
from dg_sqlmesh_component.protocol.intervals import ALL_TIME

DAY, DAY_2, LATER = (0, 86_400_000), (86_400_000, 172_800_000), (172_800_000, ALL_TIME[1])
OLD_VERSION = "The apply deletes no data: the old version stays until SQLMesh's janitor deletes it, by default"
ONE_TABLE = "No old version stays: in `virtual_environment_mode: dev_only`, SQLMesh changes or drops the only table."
AGAIN = (msg.ColumnChange("id", "INT", "TEXT"),)
VIEW = {"dependents": ("bi.x",)}
COMPARED = msg.ModelCompared(ORDERS.fqn, ORDERS.name, 1, 4, added=0, removed=3, changed=0)
Facts = dict[str, Any]

LOSSES: dict[str, tuple[Facts, list[tuple[str, str, str | None]]]] = {
    "nothing": ({}, []),
    "no table": ({"exists": False, "destructive": drops("id"), "change": "removed"}, []),
    "values": (
        {"destructive": drops("id"), "columns": drops("id")},
        [("drops id", "the column and its values are gone, and", "destructive")],
    ),
    "values, accepted by the model": (
        {"destructive": drops("id"), "may_destroy": True},
        [("drops id", "the column and its values are gone, and", None)],
    ),
    "values of another type": (
        {"destructive": AGAIN},
        [("drops id and adds it again as TEXT", "the values of all existing rows are lost. They are", "destructive")],
    ),
    "a column": (
        {"columns": drops("id")},
        [("drops id", f"queries that use the column will fail. {OLD_VERSION}", None)],
    ),
    "a column of the only table": (
        {"columns": drops("id"), "was_shared": True},
        [("drops id", f"queries that use the column will fail. {ONE_TABLE}", None)],
    ),
    "another type of a column": ({"columns": AGAIN}, []),
    "rows": (
        {"loses": msg.LostRows((DAY,), without_time=True, of_past=True)},
        [
            (
                "loses rows of 1970-01-01, rows without a time",
                "they are not shown any more. The apply",
                "lost_intervals",
            ),
            ("loses rows that the source does not have any more", "they are not shown any more.", "lost_intervals"),
        ],
    ),
    "rows for a time": (
        {
            "loses": msg.LostRows(
                (DAY, DAY_2, LATER), not_loaded=(DAY,), until_run=(DAY_2,), until_later_runs=(LATER,)
            ),
            "waits_for": ('"db"."raw"."a"',),
        },
        [
            (
                "loses rows from 1970-01-03 on until later runs compute them",
                "a run computes each after the end of its interval.",
                "lost_intervals",
            ),
            ("loses rows of 1970-01-01 until db.raw.a is loaded", "a run computes them then.", "not_loaded"),
            ("loses rows of 1970-01-02 until the next run", "", None),
        ],
    ),
    "rows that it reads": (
        {"reads_lost": msg.LostRows((DAY,)), "loses_with": ("t.a",)},
        [("loses rows of 1970-01-01", "it shows or reads t.a.", None)],
    ),
    "rows that it reads at its next run": (
        {"reads_lost": msg.LostRows((DAY,)), "loses_with": ("t.a",), "loses_at": 3_600_000},
        [("loses rows of 1970-01-01 at the first run after 1970-01-01T01:00:00Z", "it shows or reads t.a.", None)],
    ),
    "a view of others": (
        VIEW,
        [("reads core.orders", "PostgreSQL drops it with the view that SQLMesh replaces, and", "drops_dependents")],
    ),
    "a view of others that cannot be dropped": (
        {**VIEW, "is_dropped": True},
        [("reads core.orders", "SQLMesh cannot remove what others read, so the plan would", "has_dependents")],
    ),
    "the model": ({"change": "removed"}, [("is removed", f"queries that use it will fail. {OLD_VERSION}", None)]),
    "the model in the only table": (
        {"change": "removed", "was_shared": True},
        [("is removed", "its rows are not computed any more. In", None)],
    ),
    "a model that SQLMesh computes no more": (
        {"change": "removed", "becomes": "EXTERNAL"},
        [("is removed", "its kind is EXTERNAL now, so SQLMesh computes nothing for it.", None)],
    ),
}
"""The facts of a model; what each finding says, how its meaning begins, and the refusal that names it."""


@pytest.mark.parametrize(("facts", "expected"), LOSSES.values(), ids=LOSSES)
def test_loss_is_found_once_and_worded_once(facts: Facts, expected: list[tuple[str, str, str | None]]) -> None:
    found = losses(plan(with_facts(replace(ORDERS, columns=()), **facts)))

    assert [(f"{of.kind.verb}{of.what}", of.refusal) for of in found] == [(what, why) for what, _, why in expected]
    for finding, (what, means, _) in zip(found, expected, strict=True):
        assert finding.means.startswith(means)
        assert finding.sentence == (f"{what}: {finding.means}" if means else f"{what}.")
        assert finding.as_json()["means"] == finding.means


def test_the_data_of_a_preview_tells_which_columns_and_rows_are_lost() -> None:
    unknown = with_facts(replace(ORDERS, columns=None), loses=msg.LostRows((DAY,)))
    compared = replace(COMPARED, schema=drops("id"))
    column, rows = losses(plan(unknown), {ORDERS.fqn: compared})
    assert (column.what, rows.what) == ("drops id", "rows of 1970-01-01")
    assert rows.means.endswith(" The preview has counted 3 rows of prod that it does not have.")
    kept = with_facts(ORDERS, kept=msg.KeptRows("@daily", 0, True))
    assert losses(plan(kept), {ORDERS.fqn: compared}) == [], "prod keeps its table"


def test_removed_models_are_first_and_all_losses_of_a_model_have_one_name() -> None:
    sales = replace(ORDERS, fqn="sales", name="marts.sales", change="removed")
    found = losses(plan(with_facts(ORDERS, destructive=(*drops("a"), *drops("b"))), sales))
    assert named(found) == ["marts.sales (is removed)", "core.orders (drops a, drops b)"]
