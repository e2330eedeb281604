"""Definitions, their graph of assets, and crons, as Dagster has them."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import lru_cache
from typing import Any, Protocol, TypeVar

import dagster as dg
from dagster._core.definitions.assets.definition.asset_spec import SYSTEM_METADATA_KEY_AUTO_CREATED_STUB_ASSET
from dagster._core.definitions.assets.graph.base_asset_graph import BaseAssetGraph
from dagster._core.definitions.definitions_load_context import DefinitionsLoadContext, DefinitionsLoadType
from dagster._utils.schedules import cron_string_iterator, is_valid_cron_string, reverse_cron_string_iterator

_Shared = TypeVar("_Shared")

# -- loading definitions --------------------------------------------------------------------------


def is_rebuilding_definitions() -> bool:
    """Whether Dagster builds definitions again that it has built before, for example for a run. They must be equal.

    Dagster has no public way to distinguish a rebuild from a load.
    """
    return DefinitionsLoadContext.get().load_type is DefinitionsLoadType.RECONSTRUCTION


def serves_definitions() -> bool:
    """Whether Dagster has started this process to serve definitions, for example for `dg dev`, and no command has.

    Dagster has no public way to find out why a process was started. Its command is `dagster api grpc`.
    """
    return sys.argv[1:3] == ["api", "grpc"]


def shared_in_code_location(context: dg.ComponentLoadContext, create: Callable[[], _Shared]) -> _Shared:
    """An object that all components of one load of a code location share, created for the first of them.

    Dagster loads components one by one and has no public place for shared objects. Its `state_tracker` exists once
    per load, so the object is kept on it and ends with it.
    """
    attributes = vars(context.component_tree.state_tracker)
    shared: _Shared = attributes.setdefault("dg_sqlmesh_component", create())
    return shared


# -- crons ----------------------------------------------------------------------------------------


def is_accepted_cron(cron: str) -> bool:
    """Whether Dagster accepts a cron: five fields, or an alias such as `@daily`. It has no public way to check one."""
    return bool(is_valid_cron_string(cron))


def cron_ticks(cron: str, timezone: str, start: datetime) -> Iterator[datetime]:
    """The ticks of a cron at or after a time, as Dagster's schedules and automation conditions see them.

    Dagster has no public way to list them.
    """
    return cron_string_iterator(start.timestamp(), cron, timezone)


def last_cron_tick(cron: str, time_zone: str, end: datetime) -> datetime:
    """The last tick of a cron at or before a time, as Dagster's schedules see it. Nothing public computes it.

    It is in UTC, because Python compares two times of another zone by their clocks, and an hour may be repeated.
    """
    return next(reverse_cron_string_iterator(end.timestamp(), cron, time_zone)).astimezone(timezone.utc)


# -- selections -----------------------------------------------------------------------------------


class AssetsOfOp(dg.AssetsDefinition):
    """The assets of an op. If a run executes only some of them, its step has only the inputs that these assets read.

    Dagster keeps the inputs of all assets. A step waits for everything upstream of an input that is a virtual asset.
    If a part of that waits for the step itself, Dagster creates no run: it raises `CircularDependencyError` (its issue
    33764).
    """

    @staticmethod
    def dagster_internal_init(**attributes: Any) -> dg.AssetsDefinition:
        """Dagster makes each changed copy with this, such as a subset."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", dg.BetaWarning)  # as in the overridden method
            copy = AssetsOfOp(**attributes)
            if not copy.is_subset:
                return copy
            # Of a subset, the property has only the inputs of its assets, and the argument has those of all.
            return AssetsOfOp(**{**attributes, "keys_by_input_name": copy.keys_by_input_name})


class WithAssetsBetween(dg.AssetSelection):
    """Some assets, and the assets between two of them that a run without a partition can materialize.

    A selection made of public ones would select partitioned assets too. Dagster refuses a job with two kinds of
    partitions, and a run without a partition of a job with one.
    """

    def __init__(self, keys: Iterable[dg.AssetKey]) -> None:
        self._keys = frozenset(keys)

    def resolve_inner(self, asset_graph: BaseAssetGraph[Any], allow_missing: bool) -> Set[dg.AssetKey]:  # noqa: ARG002
        """Dagster calls this when it builds the job."""
        return self._keys | _between(asset_graph, self._keys)


def assets_between(repository: dg.RepositoryDefinition | None, keys: Collection[dg.AssetKey]) -> Set[dg.AssetKey]:
    """The assets downstream of one of these and upstream of another (`WithAssetsBetween`); none without definitions."""
    return frozenset() if repository is None else _between(repository.asset_graph, keys)


def assets_downstream(repository: dg.RepositoryDefinition | None, keys: Collection[dg.AssetKey]) -> Set[dg.AssetKey]:
    """These assets and all assets downstream of them; none without definitions."""
    selection = dg.AssetSelection.assets(*keys).downstream()
    return frozenset() if repository is None else selection.resolve(repository.asset_graph)


def assets_upstream(repository: dg.RepositoryDefinition | None, keys: Collection[dg.AssetKey]) -> Set[dg.AssetKey]:
    """These assets and all assets upstream of them; none without definitions."""
    selection = dg.AssetSelection.assets(*keys).upstream()
    return frozenset() if repository is None else selection.resolve(repository.asset_graph)


class HasAssets(Protocol):
    """The definitions of a code location, or at least those of a job."""

    @property
    def asset_graph(self) -> BaseAssetGraph[Any]: ...


EXTERNAL_TAG = {"sqlmesh/kind": "external"}
"""The tag of the assets that a component makes of external tables. They say nothing about the asset that loads them."""


@dataclass(frozen=True)
class Loader:
    """An asset that loads an external table."""

    key: dg.AssetKey
    partitions: dg.PartitionsDefinition[str] | None  # None without any
    blocking_checks: tuple[dg.AssetCheckKey, ...]
    # Whether the code location defines or declares the asset. Otherwise, its partitions are not known here.
    is_known: bool = True


def loaders(
    location: HasAssets, tables: Mapping[str, dg.AssetKey], also_elsewhere: Container[str]
) -> dict[str, Loader]:
    """The asset that loads each table, by fqn: by its key, or by the table name that it declares.

    The assets of `also_elsewhere`, by fqn, count although this code location does not materialize them.
    """
    graph = location.asset_graph
    by_table, found = _key_by_table(graph), {}
    for fqn, key in tables.items():
        own = key if graph.has(key) and graph.get(key).is_materializable else by_table.get(fqn.replace('"', ""))
        if own is not None or fqn in also_elsewhere:
            found[fqn] = _loader(graph, own or key)
    return found


@lru_cache(maxsize=1)  # a tick asks for the tables of each model
def _key_by_table(graph: BaseAssetGraph[Any]) -> Mapping[str, dg.AssetKey]:
    """The assets that a code location materializes, by the table name that they declare."""
    return {
        str(node.metadata["dagster/table_name"]): node.key
        for node in graph.asset_nodes
        if "dagster/table_name" in node.metadata and node.is_materializable
    }


def _loader(graph: BaseAssetGraph[Any], key: dg.AssetKey) -> Loader:
    """The asset with a key. Dagster makes one for each dependency, and a component for each external table."""
    if not graph.has(key):
        return Loader(key, None, (), is_known=False)
    node = graph.get(key)
    checks = tuple(sorted(check for check in node.check_keys if graph.get(check).blocking))
    is_made_up = (
        SYSTEM_METADATA_KEY_AUTO_CREATED_STUB_ASSET in node.metadata or EXTERNAL_TAG.items() <= node.tags.items()
    )
    return Loader(key, node.partitions_def, checks, is_known=not is_made_up)


def time_dimension(definition: dg.PartitionsDefinition[Any]) -> dg.TimeWindowPartitionsDefinition | None:
    """The time windows of an asset's partitions, which may be one of two dimensions; None if there are none, or two."""
    dimensions = [definition]
    if isinstance(definition, dg.MultiPartitionsDefinition):
        dimensions = [dimension.partitions_def for dimension in definition.partitions_defs]
    found = [dimension for dimension in dimensions if isinstance(dimension, dg.TimeWindowPartitionsDefinition)]
    return found[0] if len(found) == 1 else None


def _between(asset_graph: BaseAssetGraph[Any], keys: Collection[dg.AssetKey]) -> Set[dg.AssetKey]:
    assets = dg.AssetSelection.assets(*keys)
    path = (assets.downstream() & assets.upstream()).resolve(asset_graph)
    nodes = {key: asset_graph.get(key) for key in path - set(keys)}
    return {key for key, node in nodes.items() if node.is_materializable and not node.is_partitioned}
