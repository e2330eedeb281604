"""Incremental models, and the loads of the tables that they read."""

from collections.abc import Iterable, Mapping

import dagster as dg
from unit.builders import attributes, external_models, manifest, model, project_assets

from dg_sqlmesh_component.capabilities.sources.late_loads import SourceLoads, source_loads
from dg_sqlmesh_component.definitions.settings import Settings

DAYS = dg.DailyPartitionsDefinition(start_date="2026-01-01")


def _nothing() -> None: ...


def loads_of(instance: dg.DagsterInstance, models: Mapping[str, Iterable[str]]) -> SourceLoads:
    """Return the comparison of models, each with the tables that it reads, which are loaded by day."""
    found = source_loads(instance, *component_of(models))
    assert found is not None
    return found


def component_of(models: Mapping[str, Iterable[str]]) -> tuple[dg.RepositoryDefinition, Settings]:
    """Return a component of models, each with the tables that it reads, and the assets that load these by day."""
    readers = [
        model(f"core.{name}", reads=[f"raw.{table}" for table in tables], kind="INCREMENTAL_BY_TIME_RANGE")
        for name, tables in models.items()
    ]
    external = external_models(wait=True, late="warn")
    assets = project_assets(manifest(*readers), outside=external)
    loaders = [
        dg.asset(key=["load", table], metadata={"dagster/table_name": f"db.raw.{table}"}, partitions_def=DAYS)(_nothing)
        for table in sorted({table for tables in models.values() for table in tables})
    ]
    of_component = attributes(external_models=external)
    settings = Settings(of_component, assets, "sqlmesh_shop", "pool", "shop_1", "shop", frozenset(assets.specs))
    return dg.Definitions(assets=loaders).get_repository_def(), settings
