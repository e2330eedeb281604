"""The one op behind all of a project's assets.

What `@dg.multi_asset(specs=..., check_specs=..., can_subset=True)` builds, with output names of our
own: the decorator derives them from asset keys and check names, which refuses names with spaces and
lets `orders` + `items_not_null` collide with `orders_items` + `not_null` (ADR-0001).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import dagster as dg

from dg_sqlmesh_component.definitions.project_assets import ProjectAssets

PROJECT_TAG = "sqlmesh/project"
"""Tag of an op that tells which SQLMesh project it runs, and how opened: equal in ops that run the same."""

Compute = Callable[[dg.AssetExecutionContext], Iterator[Any]]


def build_multi_asset(
    assets: ProjectAssets,
    compute: Compute,
    *,
    name: str,
    project: str,
    description: str | None,
    tags: dict[str, Any] | None,
    pool: str | None,
    config_schema: type[dg.Config] | None = None,
) -> dg.AssetsDefinition:
    """One subsettable op that yields every asset and check of the project.

    Args:
        project: The value of the op's `PROJECT_TAG`.
    """
    namer = _Namer()
    key_by_output = {namer.name("__".join(spec.key.path)): spec.key for spec in assets.specs.values()}
    output_by_key = {key: output for output, key in key_by_output.items()}
    check_by_output = {
        namer.name(f"{output_by_key[check.asset_key]}__{check.name}"): check for check in assets.checks.values()
    }
    # Everything that is read: tables from outside, and our own assets, which become inputs when Dagster
    # splits the op because another asset stands between two models.
    read = dict.fromkeys(dep.asset_key for spec in assets.specs.values() for dep in spec.deps)
    key_by_input = {namer.name("__".join(key.path)): key for key in read}
    op = dg.op(
        name=name,
        description=description,
        tags={**(tags or {}), PROJECT_TAG: project},
        pool=pool,
        config_schema=config_schema.to_fields_dict() if config_schema else {},
        ins={input_name: dg.In(dg.Nothing) for input_name in key_by_input},
        out={
            **{output: dg.Out(dg.Nothing, is_required=False) for output in key_by_output},
            **{output: dg.Out(is_required=False) for output in check_by_output},
        },
    )(_op_function(compute))
    return dg.AssetsDefinition(
        node_def=op,
        keys_by_input_name=key_by_input,
        keys_by_output_name=key_by_output,
        check_specs_by_output_name=check_by_output,
        specs=list(assets.specs.values()),
        can_subset=True,
    )


def _op_function(compute: Compute) -> Callable[[dg.AssetExecutionContext], Iterator[Any]]:
    def run_sqlmesh(context: dg.AssetExecutionContext) -> Iterator[Any]:
        yield from compute(context)

    # Dagster looks at the annotation itself to decide which kind of context to pass.
    run_sqlmesh.__annotations__ = {"context": dg.AssetExecutionContext}
    return run_sqlmesh


class _Namer:
    """Valid, distinct names for inputs and outputs; they appear in logs only."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def name(self, text: str) -> str:
        base = re.sub(r"[^A-Za-z0-9_]", "_", text)
        if "__" not in base:
            base = f"asset__{base}"  # a single word may be one that Dagster keeps for itself
        name, number = base, 1
        while name.lower() in self._taken:
            number += 1
            name = f"{base}_{number}"
        self._taken.add(name.lower())
        return name
