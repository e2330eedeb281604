"""Find assets of a component by what a person writes: names of models, and selections."""

from __future__ import annotations

from pathlib import Path

import dagster as dg

from dg_sqlmesh_component.definitions.project_assets import ProjectAssets
from dg_sqlmesh_component.protocol.errors import ConfigurationError
from dg_sqlmesh_component.protocol.formatting import did_you_mean


def selected_models(assets: ProjectAssets, select: tuple[str, ...], exclude: tuple[str, ...] = ()) -> list[str]:
    """The models of a selection that are assets, by fqn; all if it is empty. SQLMesh has evaluated it before."""
    models = assets.manifest.answer_to(select, exclude) if select or exclude else assets.specs
    return [fqn for fqn in models or () if fqn in assets.specs]


def selected(assets: ProjectAssets, select: tuple[str, ...], exclude: tuple[str, ...]) -> dg.AssetSelection:
    """The assets of a selection whose models are in the manifest; all assets if it is empty. Refuse one of none."""
    keys = [assets.key(fqn) for fqn in selected_models(assets, select, exclude)]
    if not keys:
        raise ConfigurationError(
            f"get_asset_selection(select={list(select)}, exclude={list(exclude)}) matches no asset of the SQLMesh "
            f"project {_project_name(assets)!r}. External and embedded models are not assets, and neither are models "
            "that `select` and `exclude` of the component leave out."
        )
    return dg.AssetSelection.assets(*keys)


def key_of_model(assets: ProjectAssets, name: str) -> dg.AssetKey:
    """The asset key of a model, by its name as written in SQLMesh, with or without its catalog."""
    if not isinstance(name, str):  # a template may give anything
        raise ConfigurationError(f"asset_key_for_model was given {name!r}. It takes the name of a model.")
    matches = [fqn for fqn in assets.names.fitting(name) if fqn in assets.specs]
    if len(matches) == 1:
        return assets.key(matches[0])
    if matches:
        raise ConfigurationError(
            f"{name!r} is the name of several models: {', '.join(sorted(matches))}. Write one of these instead."
        )
    known = did_you_mean(name, map(assets.name, assets.specs))
    raise ConfigurationError(
        f"No asset of the SQLMesh project {_project_name(assets)!r} is a model named {name!r}."
        + (known or " The project has no assets.")
    )


def _project_name(assets: ProjectAssets) -> str:
    """As `SQLMeshProject.name`, for messages."""
    return Path(assets.manifest.paths[0]).name
