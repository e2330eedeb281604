"""What an apply records in Dagster: the data that the environment shows after it, and no other."""

from __future__ import annotations

from typing import Any

import dagster as dg
import pytest
from engine.test_plan_gate import APPLY, change, failure_of, launch, planned
from engine.test_records import LOST, MODELS, broken, day, health, new_recorded, restate
from harness import NewShop, RunRecord, Shop

__all__ = ["new_recorded"]


def applied(shop: Shop) -> RunRecord:
    record = launch(shop, APPLY, digest=planned(shop)["digest"])
    assert record.status is dg.DagsterRunStatus.SUCCESS, failure_of(record)
    return record


@pytest.fixture
def shop(new_recorded: NewShop) -> Shop:
    """All intervals are computed, and recorded by a run."""
    shop = new_recorded(planned_at="now", deploy=True)
    shop.launch()
    return shop


def metadata_of(record: RunRecord, asset: str) -> dict[str, Any]:
    return {name: value.value for name, value in record.computed_outside[asset].metadata.items()}


# -- coverage -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("computed_by", ["the apply", "a plan of another environment"])
def test_an_incremental_model_has_its_coverage_after_an_apply(shop: Shop, computed_by: str) -> None:
    change(shop, days=MODELS["models/days.sql"].replace("ELSE 1 END", "ELSE 2 END"))
    if computed_by != "the apply":
        shop.plan("dev", at=None)

    record = applied(shop)

    assert record.checks["t/days:sqlmesh_intervals_complete"].passed
    description = record.description_of("t/days:sqlmesh_intervals_complete")
    assert description == f"t.days has no gaps in [{day(8)}, {day(0)})."
    assert metadata_of(record, "t/days")["sqlmesh/coverage"] == f"[{day(8)}, {day(0)})"


def test_rows_that_a_restatement_has_lost_keep_the_checks_red_after_an_apply(shop: Shop) -> None:
    broken(shop, day(5))
    shop.launch(ops=restate(day(6), day(5)), assets=["t/days"])
    broken(shop)
    gap = f"epoch_ms(start_ts) = TIMESTAMP '{day(3)}'"  # a plan computes gaps, and nothing newer
    shop.query(f"DELETE FROM sqlmesh._intervals WHERE name LIKE '%days%' AND {gap}")
    change(shop, alone=MODELS["models/alone.sql"].replace("1 AS n", "2 AS n"))

    record = applied(shop)

    assert metadata_of(record, "t/days")["sqlmesh/intervals"] == f"[{day(3)}, {day(2)})"
    assert health(record) == LOST
    assert f"has not finished for [{day(5)}, {day(4)})" in record.description_of("t/days:sqlmesh_execution_status")
