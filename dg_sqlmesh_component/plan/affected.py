"""The assets of others that read what a plan changes: from the asset graph of the code location."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg

from dg_sqlmesh_component.definitions.project_assets import ProjectAssets
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.graph import reachable
from dg_sqlmesh_component.protocol.manifest import split_fqn


@dataclass(frozen=True)
class Affected:
    """An asset downstream of a model, which is no SQLMesh model.

    Attributes:
        asset: Its key, with slashes.
        owner: The first one; None without any.
        columns: The lost or changed columns of the model that it reads; None if that is not known.
    """

    asset: str
    group: str
    owner: str | None
    columns: tuple[str, ...] | None = None

    def as_json(self) -> dict[str, Any]:
        """The asset for programs."""
        columns = None if self.columns is None else list(self.columns)
        return {"asset": self.asset, "owner": self.owner, "columns": columns}


def affected_assets(
    plan: msg.PlanBuilt, assets: ProjectAssets, repository: dg.RepositoryDefinition | None
) -> dict[str, Sequence[Affected]]:
    """By fqn, the assets downstream of each changed model that are none of its project, in the order of their keys.

    Args:
        repository: The assets of the code location. Those of other code locations are not known here.
    """
    if repository is None:
        return {}
    graph = repository.asset_graph
    affected: dict[str, Sequence[Affected]] = {}
    for model in plan.models:
        if model.change in (None, "metadata"):
            continue
        key = _key(model.fqn, assets)
        downstream = reachable(_children(graph, key), lambda child: _children(graph, child)) - assets.fqn_by_key.keys()
        affected[model.fqn] = [_affected(graph.get(child)) for child in sorted(downstream)]
    return affected


def _key(fqn: str, assets: ProjectAssets) -> dg.AssetKey:
    """The key of a model; of a removed one, which has no asset any more, the key that assets without a prefix have."""
    return assets.key(fqn) if fqn in assets.specs else dg.AssetKey(list(split_fqn(fqn)[-2:]))


def _children(graph: Any, key: dg.AssetKey) -> Iterable[dg.AssetKey]:
    children: Iterable[dg.AssetKey] = graph.get(key).child_keys if graph.has(key) else ()
    return children


def _affected(node: Any) -> Affected:
    return Affected(node.key.to_user_string(), node.group_name, min(node.owners, default=None))


def by_asset(affected: Mapping[str, Sequence[Affected]]) -> dict[Affected, list[str]]:
    """The models that each asset reads, by fqn, in the order of the assets."""
    readers: dict[Affected, list[str]] = {}
    for fqn, assets in affected.items():
        for asset in assets:
            readers.setdefault(asset, []).append(fqn)
    return dict(sorted(readers.items(), key=lambda item: item[0].asset))
