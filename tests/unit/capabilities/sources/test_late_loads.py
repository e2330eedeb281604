"""What a comparison of models with the loads of their sources costs, by real events of an instance."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from harness import empty_instance
from unit.builders import days, fqn
from unit.calls import calls_of, growth, queries
from unit.capabilities.sources.late_data import loads_of

from dg_sqlmesh_component.capabilities.sources.late_check import Compared, late_data_result
from dg_sqlmesh_component.capabilities.sources.late_loads import SourceLoads
from dg_sqlmesh_component.history.earlier_results import evaluation_of
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.report.wording import Wording

ORDERS = fqn("core.orders")


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with empty_instance(tmp_path, has_default_storage=True) as instance:
        yield instance


def record(instance: dg.DagsterInstance, loads: SourceLoads, compared: Compared) -> None:
    """Record the result of the check of `orders`."""
    check = loads.assets.late_data_check(ORDERS)
    assert check is not None
    result = late_data_result(Wording(loads.assets, "prod"), check, compared, (["load/orders"], []))
    instance.report_runless_asset_event(evaluation_of(result))


def reads(loads: SourceLoads) -> dict[str, msg.PromotedReads]:
    return {
        model: msg.PromotedReads("1", tuple(loads.assets.tables_behind_views(model))) for model in loads.assets.specs
    }


def test_comparing_twice_as_many_models_costs_twice_as_much(instance: dg.DagsterInstance) -> None:
    def cost(size: int) -> int:
        loads = loads_of(instance, {f"model_{number}": [f"table_{number}"] for number in range(size)})
        of_versions = reads(loads)
        loads.loaders_of(frozenset())  # Dagster makes its graph of the assets once
        return calls_of(lambda: loads.compare(of_versions, of_versions).loads)

    assert growth(cost, 100) < 2.2


def test_comparison_that_is_the_last_result_of_a_check_is_read_in_one_query(instance: dg.DagsterInstance) -> None:
    loads = loads_of(instance, {"orders": ["orders"]})
    of_versions = reads(loads)
    record(instance, loads, Compared(1, (days(1, 1),), 1, of_versions[ORDERS]))
    with queries() as executed:
        found = loads.compare(of_versions, of_versions).loads
    assert found == {ORDERS: (msg.SourceLoad(days(1, 1), 1, is_late=True),)}
    assert len([query for query in executed if "FROM asset_check_executions" in query]) == 1


@pytest.mark.parametrize("since", ["other tables", "another version"])
def test_what_is_late_stays_late_although_a_plan_has_changed_what_is_read_or_shown(
    instance: dg.DagsterInstance, since: str
) -> None:
    loads = loads_of(instance, {"orders": ["orders"]})
    read = reads(loads)[ORDERS]
    record(instance, loads, Compared(1, (days(1, 1),), 1, read))
    if since == "other tables":
        read = msg.PromotedReads(read.version, (*read.tables, fqn("raw.other")))
    else:
        record(instance, loads, Compared(2, (), 2, msg.PromotedReads("another", read.tables)))

    found = loads.compare([ORDERS], {ORDERS: read})

    assert found.loads == {ORDERS: (msg.SourceLoad(days(1, 1), 1, is_late=True),)}
    assert found.compared(ORDERS, [days(1, 1)]).reads == read


def test_loads_of_a_source_are_read_once_for_all_late_ranges(instance: dg.DagsterInstance) -> None:
    loads = loads_of(instance, {"orders": ["orders"], "revenue": ["orders"]})
    for day in (1, 2, 1):
        instance.report_runless_asset_event(dg.AssetMaterialization(["load", "orders"], partition=f"2026-01-{day:02}"))
    compared = loads.compare(reads(loads), reads(loads))
    models = [ORDERS, fqn("core.revenue")]
    with queries() as executed:
        newest = compared.newest_loads({days(day, day): models for day in (1, 2, 3)})
    assert {of: load and load[0] for of, load in newest.items()} == {days(1, 1): 3, days(2, 2): 2, days(3, 3): None}
    assert len([query for query in executed if "event_logs.partition" in query]) == 1
