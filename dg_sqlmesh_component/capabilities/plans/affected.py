"""The assets of others that read what a plan changes, from the asset graph of the code location. Pure.

Columns are followed from a changed model through SQLMesh models, by the columns that these read, and through other
assets, by their column lineage. Where that is not known, the columns are not known either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from graphlib import TopologicalSorter
from typing import Any

import dagster as dg

from dg_sqlmesh_component.capabilities.plans import messages as msg
from dg_sqlmesh_component.capabilities.plans.column_words import columns_of
from dg_sqlmesh_component.capabilities.plans.data_tables import is_whole
from dg_sqlmesh_component.definitions.project_assets import ProjectAssets
from dg_sqlmesh_component.protocol.graph import grouped, reachable
from dg_sqlmesh_component.protocol.manifest import split_fqn

_LINEAGE = "dagster/column_lineage"

Found = dict[str, set[str]] | None
"""By column of a node, and by `msg.ROWS`, the columns of the changed model that it is made of; None if not known."""

KeyReads = Mapping[dg.AssetKey, Mapping[str, Sequence[str]]]
"""As `msg.ColumnReads`, by asset."""


@dataclass(frozen=True)
class Affected:
    """An asset downstream of a model, which is no SQLMesh model."""

    asset: str  # its key, with slashes
    group: str
    owner: str | None  # the first one; None without any
    # The lost or changed columns of the model that it reads; None if that is not known.
    columns: tuple[str, ...] | None = None

    @property
    def is_affected(self) -> bool:
        """Whether it reads a lost or changed column, as far as that is known."""
        return self.columns != ()

    def as_json(self) -> dict[str, Any]:
        """The asset for programs."""
        columns = None if self.columns is None else list(self.columns)
        return {"asset": self.asset, "owner": self.owner, "columns": columns}


def changed_columns(
    model: msg.PlannedModel, compared: msg.ModelCompared | None, columns: Iterable[str], *, is_compared: bool
) -> set[str] | None:
    """The lost and changed columns of a model; None if they are not known.

    `compared` is None if the tables are the same, or if no data was compared at all (`is_compared`).
    """
    # Values that were not compared may differ, and so may those that prod computes later.
    if model.rows.kept or (compared and not is_whole(compared)):
        return None
    changes = columns_of(model, compared)
    if changes is None or (compared is None and model.change in ("added", "removed")):
        return None
    lost = {change.name for change in changes if change.before is not None}
    if not is_compared:
        return lost if model.category == "non_breaking" else None
    if compared is None:
        return lost
    lost |= set(compared.ignored)  # nobody has compared these
    if compared.added or compared.removed:
        names = set(compared.clock) or {*columns, *compared.amounts, *compared.keys}
        return lost | names if names else None
    return lost | {name for name, equal in compared.columns.items() if equal < 1}


def affected_assets(
    plan: msg.PlanBuilt,
    compared: Sequence[msg.ModelCompared] | None,
    assets: ProjectAssets,
    graph: Any,
    lineage: Callable[[dg.AssetKey], KeyReads | None],
) -> dict[str, Sequence[Affected]]:
    """By fqn, the assets downstream of each changed model that are none of its project, in the order of their keys.

    `compared` is the data of a preview; None if nothing was compared. `graph` has the assets of this code location
    only. `lineage` returns the columns that an asset reads which is no SQLMesh model.
    """
    differences = {of_model.fqn: of_model for of_model in compared or ()}
    lineage = cache(lineage)

    def reads_of(key: dg.AssetKey) -> KeyReads | None:
        """What an asset reads; None if it is not known."""
        if key not in assets.fqn_by_key:
            return lineage(key)
        reads = plan.reads.get(assets.fqn_by_key[key])
        return None if reads is None else {_key(fqn, assets): columns for fqn, columns in reads.items()}

    others = graph.get_all_asset_keys() - assets.fqn_by_key.keys()
    relevant = reachable(others, lambda key: _neighbours(graph, key, "parent_keys"))
    by_name = grouped((tuple(key.path[-2:]), key) for key in others)
    affected: dict[str, Sequence[Affected]] = {}
    for model in plan.models:
        if model.change in (None, "metadata") or not model.table.exists:  # SQLMesh changes no rows of an external table
            continue
        known = assets.models.get(model.fqn)
        columns = [column.name for column in known.columns] if known else ()
        changed = changed_columns(model, differences.get(model.fqn), columns, is_compared=compared is not None)
        keys = [assets.key(model.fqn)] if model.fqn in assets.specs else _undefined(model.fqn, by_name, graph)
        start: Found = None if changed is None else {column: {column} for column in changed}
        downstream = {
            asset: _affected(graph.get(asset), found)
            for key in keys
            for asset, found in _follow(graph, key, start, reads_of, relevant)
            if asset not in assets.fqn_by_key
        }
        affected[model.fqn] = list(downstream.values())
    return affected


def _undefined(fqn: str, others: Mapping[tuple[str, ...], Sequence[dg.AssetKey]], graph: Any) -> list[dg.AssetKey]:
    """The keys that a removed model may have had: assets read them, and nothing makes them any more.

    Its tags and the translation are not known here. They rarely change more than the prefix of a key. `others` are the
    keys of other assets by their last two parts.
    """
    name = split_fqn(fqn)[-2:]
    default = dg.AssetKey(list(name))
    return [key for key in others.get(name, ()) if key == default or not graph.get(key).is_materializable]


def _key(fqn: str, assets: ProjectAssets) -> dg.AssetKey:
    """The key of a model; of one that has no asset here, the key that assets without a prefix have."""
    return assets.key(fqn) if fqn in assets.specs else dg.AssetKey(list(split_fqn(fqn)[-2:]))


def _follow(
    graph: Any,
    start: dg.AssetKey,
    found: Found,
    reads_of: Callable[[dg.AssetKey], KeyReads | None],
    relevant: set[dg.AssetKey],
) -> Iterator[tuple[dg.AssetKey, Found]]:
    """What is found in each asset downstream of one, in the order of their keys. Only `relevant` assets are visited."""

    def children(key: dg.AssetKey) -> set[dg.AssetKey]:
        return relevant.intersection(_neighbours(graph, key, "child_keys"))

    downstream = reachable(children(start), children)
    known = {start, *downstream}
    parents = {key: known & set(_neighbours(graph, key, "parent_keys")) for key in downstream}
    nodes: dict[dg.AssetKey, Found] = {start: found}
    for key in TopologicalSorter(parents).static_order():
        if key != start:
            nodes[key] = _found({parent: nodes[parent] for parent in parents[key]}, reads_of(key))
    return ((key, nodes[key]) for key in sorted(downstream))


def _neighbours(graph: Any, key: dg.AssetKey, direction: str) -> Iterable[dg.AssetKey]:
    neighbours: Iterable[dg.AssetKey] = getattr(graph.get(key), direction) if graph.has(key) else ()
    return neighbours


def _found(parents: Mapping[dg.AssetKey, Found], reads: KeyReads | None) -> Found:
    if all(found == {} for found in parents.values()):
        return {}
    if reads is None or None in parents.values():
        return None
    result: dict[str, set[str]] = {}
    for parent, found in parents.items():
        assert found is not None, "the columns of all parents are known"
        for column, own_columns in reads.get(parent, {}).items():
            origins = found.get(column, set()) | found.get(msg.ROWS, set())
            for own in own_columns if origins else ():
                result.setdefault(own, set()).update(origins)
    return result


def _affected(node: Any, found: Found) -> Affected:
    columns = None if found is None else tuple(sorted({origin for origins in found.values() for origin in origins}))
    return Affected(node.key.to_user_string(), node.group_name, min(node.owners, default=None), columns)


def lineage_in(metadata: Mapping[str, Any]) -> KeyReads | None:
    """What an asset reads, from its metadata; None without column lineage."""
    value = metadata.get(_LINEAGE)
    lineage = value if isinstance(value, dg.TableColumnLineage) else getattr(value, "value", None)
    if not isinstance(lineage, dg.TableColumnLineage):
        return None
    reads: dict[dg.AssetKey, dict[str, list[str]]] = {}
    for own, columns in lineage.deps_by_column.items():
        for column in columns:
            reads.setdefault(column.asset_key, {}).setdefault(column.column_name, []).append(own)
    return reads


def by_asset(affected: Mapping[str, Sequence[Affected]]) -> dict[str, dict[str, Affected]]:
    """By asset, the models that it reads a lost or changed column of, by fqn, in the order of the assets."""
    readers: dict[str, dict[str, Affected]] = {}
    for fqn, assets in affected.items():
        for asset in assets:
            if asset.is_affected:
                readers.setdefault(asset.asset, {})[fqn] = asset
    return dict(sorted(readers.items()))
