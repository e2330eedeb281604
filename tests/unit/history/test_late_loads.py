"""What a comparison of models with the loads of their sources costs, by real events of an instance."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from harness import empty_instance
from unit.builders import attributes, days, external_models, fqn, manifest, model, project_assets
from unit.calls import calls_of, growth, queries

from dg_sqlmesh_component.definitions.settings import Settings
from dg_sqlmesh_component.history.earlier_results import evaluation_of
from dg_sqlmesh_component.history.late_loads import Compared, SourceLoads, source_loads
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.report.checks import late_data_result
from dg_sqlmesh_component.report.wording import Wording

DAYS = dg.DailyPartitionsDefinition(start_date="2026-01-01")


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with empty_instance(tmp_path, has_default_storage=True) as instance:
        yield instance


def _nothing() -> None: ...


def loads_of(instance: dg.DagsterInstance, **sources: str) -> SourceLoads:
    """Return the comparison of incremental models, each with the table that it reads, which is loaded by day."""
    models = [
        model(f"core.{name}", reads=[f"raw.{table}"], kind="INCREMENTAL_BY_TIME_RANGE")
        for name, table in sources.items()
    ]
    external = external_models(wait=True, late="warn")
    assets = project_assets(manifest(*models), outside=external)
    loaders = [
        dg.asset(key=["load", table], metadata={"dagster/table_name": f"db.raw.{table}"}, partitions_def=DAYS)(_nothing)
        for table in sorted(set(sources.values()))
    ]
    location = dg.Definitions(assets=loaders).get_repository_def()
    of_component = attributes(external_models=external)
    settings = Settings(of_component, assets, "sqlmesh_shop", "pool", "shop_1", "shop", frozenset(assets.specs))
    found = source_loads(instance, location, settings)
    assert found is not None
    return found


def reads(loads: SourceLoads) -> dict[str, msg.PromotedReads]:
    return {
        model: msg.PromotedReads("1", tuple(loads.assets.tables_behind_views(model))) for model in loads.assets.specs
    }


def test_comparing_twice_as_many_models_costs_twice_as_much(instance: dg.DagsterInstance) -> None:
    def cost(size: int) -> int:
        loads = loads_of(instance, **{f"model_{number}": f"table_{number}" for number in range(size)})
        of_versions = reads(loads)
        loads.loaders_of(frozenset())  # Dagster makes its graph of the assets once
        return calls_of(lambda: loads.compare(of_versions, of_versions).loads)

    assert growth(cost, 100) < 2.2


def test_comparison_that_is_the_last_result_of_a_check_is_read_in_one_query(instance: dg.DagsterInstance) -> None:
    loads = loads_of(instance, orders="orders")
    check = loads.assets.late_data_check(fqn("core.orders"))
    assert check is not None
    of_versions = reads(loads)
    late = Compared(1, (days(1, 1),), 1, of_versions[fqn("core.orders")])
    result = late_data_result(Wording(loads.assets, "prod"), check, late, (["load/orders"], []))
    instance.report_runless_asset_event(evaluation_of(result))
    with queries() as executed:
        found = loads.compare(of_versions, of_versions).loads
    assert found == {fqn("core.orders"): (msg.SourceLoad(days(1, 1), 1, is_late=True),)}
    assert len([query for query in executed if "FROM asset_check_executions" in query]) == 1


@pytest.mark.parametrize("since", ["other tables", "another version"])
def test_what_is_late_stays_late_although_a_plan_has_changed_what_is_read_or_shown(
    instance: dg.DagsterInstance, since: str
) -> None:
    loads = loads_of(instance, orders="orders")
    check, model = loads.assets.late_data_check(fqn("core.orders")), fqn("core.orders")
    assert check is not None
    read = reads(loads)[model]
    before = [Compared(1, (days(1, 1),), 1, read)]
    if since == "other tables":
        read = msg.PromotedReads(read.version, (*read.tables, fqn("raw.other")))
    else:
        before.append(Compared(2, (), 2, msg.PromotedReads("another", read.tables)))
    for compared in before:
        result = late_data_result(Wording(loads.assets, "prod"), check, compared, (["load/orders"], []))
        instance.report_runless_asset_event(evaluation_of(result))

    found = loads.compare([model], {model: read})

    assert found.loads == {model: (msg.SourceLoad(days(1, 1), 1, is_late=True),)}
    assert found.compared(model, [days(1, 1)]).reads == read


def test_loads_of_a_source_are_read_once_for_all_late_ranges(instance: dg.DagsterInstance) -> None:
    loads = loads_of(instance, orders="orders", revenue="orders")
    for day in (1, 2, 1):
        instance.report_runless_asset_event(dg.AssetMaterialization(["load", "orders"], partition=f"2026-01-{day:02}"))
    compared = loads.compare(reads(loads), reads(loads))
    models = [fqn("core.orders"), fqn("core.revenue")]
    with queries() as executed:
        newest = compared.newest_loads({days(day, day): models for day in (1, 2, 3)})
    assert newest == {days(1, 1): 3, days(2, 2): 2, days(3, 3): 0}
    assert len([query for query in executed if "event_logs.partition" in query]) == 1
