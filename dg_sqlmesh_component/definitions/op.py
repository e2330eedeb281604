"""The op that executes all assets of a component: its configuration and its definition.

`@dg.multi_asset(specs=..., check_specs=..., can_subset=True)` would build the same definition, except for the names of
the outputs. The decorator derives them from asset keys and check names. So it refuses names with spaces, and `orders` +
`items_not_null` collides with `orders_items` + `not_null` (ADR-0001).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import dagster as dg
from dagster.components.resolved.core_models import OpSpec
from dagster_shared.check import CheckError

from dg_sqlmesh_component.config.project import SQLMeshProject, variables_without_secrets
from dg_sqlmesh_component.config.run_config import config_fields
from dg_sqlmesh_component.dagster_internals.assets import AssetsOfOp
from dg_sqlmesh_component.dagster_internals.steps import failures_without_traceback, is_reserved_tag
from dg_sqlmesh_component.definitions.project_assets import ProjectAssets
from dg_sqlmesh_component.protocol.errors import ConfigurationError
from dg_sqlmesh_component.protocol.formatting import short_hash
from dg_sqlmesh_component.protocol.manifest import Manifest

PROJECT_TAG = "sqlmesh/project"
"""Tag of an op that identifies its SQLMesh project and how it is opened. Ops with equal tags run the same models."""

RESTATE_TAG = "sqlmesh/restate"
"""Tag of a run that computes a range again."""

NOT_SET = "not set"
"""The value of a tag that a run has copied from the run that it repeats, for a setting that only that run had."""

NAME_OF_A_PART = re.compile(r"_[0-9]+$")
"""The ending that Dagster gives to the second and later parts of an op that it splits: `<op>_2`."""

_UNCHANGED_NAME = re.compile(r"[A-Za-z0-9]+(_[A-Za-z0-9]+)*")
"""A folder name that can be part of an op's name as it is, between two `__`."""

Compute = Callable[[dg.AssetExecutionContext], Iterator[Any]]


@dataclass(frozen=True)
class ComponentOp:
    """The op of a component: `op` in `defs.yaml`, with defaults for the rest."""

    configured: OpSpec
    project: SQLMeshProject

    def __post_init__(self) -> None:
        if self.configured.name is not None:
            refuse_op_name(self.configured.name)
        if self.configured.backfill_policy is not None:
            raise ConfigurationError(
                "`op.backfill_policy` in defs.yaml configures backfills of partitions, and SQLMesh models have no "
                "partitions in Dagster. Remove it. To limit what a run computes, use `start` and `end` in the run "
                "config."
            )
        _refuse_pool_and_tags(self.configured.pool, self.configured.tags or {})

    def name(self, context: dg.ComponentLoadContext) -> str:
        """The name of the op, which is the key of its run config."""
        path = context.component_path
        component = os.path.relpath(path.file_path, context.defs_module_path)
        return self.configured.name or default_op_name(component, path.instance_key)

    def pool(self, environment: str) -> str:
        """The concurrency pool of the op."""
        return self.configured.pool or re.sub(r"[^A-Za-z0-9_]", "_", f"sqlmesh_{self.project.name}_{environment}")

    def build(self, name: str, assets: ProjectAssets, compute: Compute, config_schema: object) -> dg.AssetsDefinition:
        """The op, which yields every asset and check of the project, or a subset of them."""
        namer = _Namer()
        key_by_output = {namer.name("__".join(spec.key.path)): spec.key for spec in assets.specs.values()}
        output_by_key = {key: output for output, key in key_by_output.items()}
        check_by_output = {
            namer.name(f"{output_by_key[check.asset_key]}__{check.name}"): check for check in assets.checks.values()
        }
        # External tables, and our own assets: they become inputs when Dagster splits the op, because another asset
        # stands between two models.
        upstream = dict.fromkeys(dep.asset_key for spec in assets.specs.values() for dep in spec.deps)
        key_by_input = {namer.name("__".join(key.path)): key for key in upstream}

        environment = assets.manifest.environment
        op = dg.op(
            name=name,
            description=self.configured.description or f"Runs SQLMesh in environment {environment}.",
            tags={**(self.configured.tags or {}), PROJECT_TAG: self.project_tag(assets.manifest)},
            pool=self.pool(environment),
            config_schema=config_fields(config_schema),
            ins={input_name: dg.In(dg.Nothing) for input_name in key_by_input},
            out={
                **{output: dg.Out(dg.Nothing, is_required=False) for output in key_by_output},
                **{output: dg.Out(is_required=False) for output in check_by_output},
            },
        )(_function_of_op(compute, dg.AssetExecutionContext))
        return AssetsOfOp(
            node_def=op,
            keys_by_input_name=key_by_input,
            keys_by_output_name=key_by_output,
            check_specs_by_output_name=check_by_output,
            specs=list(assets.specs.values()),
            can_subset=True,
        )

    def project_tag(self, manifest: Manifest) -> str:
        """Equal for two components that run the same models, however their YAML is written."""
        project = self.project
        folders = map(str, [*project.paths, project.working_directory or project.paths[0]])
        return f"{project.name}_{short_hash([*folders, self.state_tag(manifest)])}"

    def state_tag(self, manifest: Manifest) -> str:
        """Equal for components of one environment of a state, also if a release has its project in another folder.

        It may be equal for other states too (ADR-0037).
        """
        return self._tag(manifest.gateway, manifest.environment)

    def changes_tag(self, manifest: Manifest) -> str:
        """As `state_tag`, but equal for all environments of a state, because they share the versions of models."""
        return self._tag(manifest.gateway)

    def _tag(self, *opened: str) -> str:
        project = self.project
        variables = variables_without_secrets(project.env)
        return f"{project.name}_{short_hash([*opened, project.config or '', *variables])}"


def _function_of_op(compute: Callable[[Any], Iterator[Any]], context_type: type) -> Callable[..., Iterator[Any]]:
    def run_op(context: Any) -> Iterator[Any]:
        with failures_without_traceback(context):
            yield from compute(context)

    # Dagster looks at the annotation itself to decide which kind of context to pass.
    run_op.__annotations__ = {"context": context_type}
    return run_op


def graph_of_op(
    name: str,
    description: str,
    compute: Callable[[dg.OpExecutionContext], Iterator[Any]],
    config: Any,
    pool: str | None = None,
) -> dg.GraphDefinition:
    """The graph of a job that has one op of its own name."""

    # Dagster allows no op of the job's own name, but its use in the job may have it. The run config names the use.
    op = dg.op(name=f"{name}_op", description=description, config_schema=config, pool=pool, out=dg.Out(dg.Nothing))
    use = dg.NodeInvocation(f"{name}_op", alias=name)
    return dg.GraphDefinition(
        name=name,
        node_defs=[op(_function_of_op(compute, dg.OpExecutionContext))],
        dependencies={use: {}},
        description=description,
    )


def default_op_name(component: str, instance: int | str | None) -> str:
    """A name that differs between any two components of one code location.

    Folders are joined by `__`. A short hash distinguishes names that an op cannot have: `shop-eu` and `shop_eu`.

    Args:
        component: The component's folder or Python file, relative to the folder of all definitions.
        instance: The component's name or index in that file; 0 and None are the first.
    """
    parts = [part for part in component.removesuffix(".py").split(os.sep) if part != os.curdir]
    if instance:
        parts.append(str(instance))
    name = "sqlmesh_" + "__".join(re.sub(r"[^A-Za-z0-9]+", "_", part).strip("_") for part in parts)
    if not all(map(_UNCHANGED_NAME.fullmatch, parts)):
        name = f"{name.rstrip('_')}_{short_hash(parts)}"
    return f"{name}_" if NAME_OF_A_PART.search(name) else name


def refuse_op_name(name: str, attribute: str = "op.name") -> None:
    """Refuse a name that no op can have. `attribute` of `defs.yaml` has it."""
    if NAME_OF_A_PART.search(name):
        raise ConfigurationError(
            f"`{attribute}` in defs.yaml is {name!r}. It must not end in an underscore and a number: Dagster "
            "gives such names to the parts of an op that it splits, and runs only one of two ops with the same name."
        )
    refuse_name(name, attribute)


def refuse_name(name: str, attribute: str) -> None:
    """Refuse a name that Dagster refuses, with Dagster's rule."""
    _try_op(attribute, name, name=name)


def _refuse_pool_and_tags(pool: str | None, tags: Mapping[str, Any]) -> None:
    """Refuse `op.pool` and `op.tags` if Dagster refuses them, or a tag that the component sets itself."""
    if pool == "":
        raise ConfigurationError(
            "`op.pool` in defs.yaml is ''. Write a name, or remove it: the op has a pool by default."
        )
    _try_op("op.pool", pool, pool=pool)
    _try_op("op.tags", tags, tags=tags)
    refuse_reserved_tags("op.tags", [key for key in tags if key.startswith("sqlmesh/")])
    if (key := tags.get("dagster/concurrency_key", pool)) != pool:
        raise ConfigurationError(
            f"`op.tags` in defs.yaml has dagster/concurrency_key: {key}, and the op is in another pool. Write "
            f"`op.pool: {key}` instead."
        )


def _try_op(attribute: str, value: object, name: str = "trial", **settings: Any) -> None:
    """Refuse the value of an attribute of `defs.yaml` if Dagster makes no op with it."""
    try:
        dg.op(name=name, **settings)(lambda: None)
    except (dg.DagsterInvalidDefinitionError, CheckError) as error:
        raise ConfigurationError(f"`{attribute}` in defs.yaml is {value!r}, which Dagster refuses: {error}") from error


def refuse_reserved_tags(attribute: str, tags: Iterable[str]) -> None:
    """Refuse tags of runs that Dagster or this package sets."""
    for key in tags:
        if is_reserved_tag(key) or key.startswith("sqlmesh/"):
            owner = "this component" if key.startswith("sqlmesh/") else "Dagster"
            raise ConfigurationError(
                f"`{attribute}` in defs.yaml contains {key!r}, a tag that {owner} sets itself. Choose another name."
            )


class _Namer:
    """Valid, distinct names for inputs and outputs, which appear only in logs."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def name(self, text: str) -> str:
        base = re.sub(r"[^A-Za-z0-9_]", "_", text)
        if "__" not in base:
            base = f"asset__{base}"  # Dagster reserves some single words
        name, number = base, 1
        while name.lower() in self._taken:
            number += 1
            name = f"{base}_{number}"
        self._taken.add(name.lower())
        return name
