"""The components of one code location, and the conflicts between two of them, or between names of one.

Dagster would report these conflicts late, and without the names of the components.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence, Set

import dagster as dg

from dg_sqlmesh_component.dagster_internals.assets import shared_in_code_location
from dg_sqlmesh_component.protocol.errors import ConfigurationError
from dg_sqlmesh_component.protocol.formatting import block, listed

_NAMES_OF_DAGSTER = {
    ("job or op", "__ASSET_JOB"): ("Dagster", ""),
    ("schedule or sensor", "default_automation_condition_sensor"): ("Dagster", ""),
}
"""The owner of each name, as component and attribute, by kind and name."""


class CodeLocation:
    """The components of one code location that are built so far: their names, assets, tables and manifests.

    Each component is named by its label (`component_label`).
    """

    def __init__(self) -> None:
        self._name_owners = dict(_NAMES_OF_DAGSTER)
        self._table_by_key: dict[dg.AssetKey, tuple[str, str]] = {}
        self._produced: set[dg.AssetKey | str] = set()
        self._owners: dict[dg.AssetKey, str] = {}
        self._external_owners: dict[dg.AssetKey | str, str] = {}
        self._manifests: dict[str, tuple[str, Mapping[str, str]]] = {}
        self._models: set[str] = set()

    @property
    def models(self) -> Set[str]:
        """The models that are assets of these components, by fqn."""
        return self._models

    @classmethod
    def of(cls, context: dg.ComponentLoadContext) -> CodeLocation:
        """The code location that is being loaded. Each load of it starts with an empty one."""
        return shared_in_code_location(context, cls)

    def add_definitions(self, component: str, attribute: str, definitions: dg.Definitions) -> None:
        """Register the names of jobs, their ops, schedules and sensors, which `attribute` sets. Refuse a taken name."""
        for job in definitions.jobs or ():
            self._add_name(component, attribute, "job or op", job.name)
            for op in job.graph.node_defs if isinstance(job, dg.JobDefinition) else ():
                self._add_name(component, attribute, "job or op", op.name)
        for name in ticking_names(definitions):
            self._add_name(component, attribute, "schedule or sensor", name)

    def _add_name(self, component: str, attribute: str, kind: str, name: str) -> None:
        """Register a name. Dagster does not accept two of one kind, and does not name the attributes that set them."""
        owner = (component, attribute)
        other = self._name_owners.setdefault((kind, name), owner)
        if other != owner:
            owners = f"`{attribute}` of {component} and {f'`{other[1]}` of {other[0]}' if other[1] else other[0]}"
            raise ConfigurationError(
                f"{owners} would both give the name {name!r} to a {kind}. Set another `{attribute}` in defs.yaml."
            )

    def add(self, component: str, op_name: str, specs: Mapping[str, dg.AssetSpec]) -> None:
        """Register a component's op and its assets, by fqn. Warn if another component has another table under one key.

        Dagster refuses two such tables without naming them, unless an asset has that key or declares one of the
        tables as its own. That is only known when everything is loaded, so this is a warning.

        Raises:
            ConfigurationError: The op's name is taken, or another component has one of these assets, or shows one of
                these tables as external.
        """
        self._add_name(component, "op.name", "job or op", op_name)
        self._models.update(specs)  # in place: steps and sensors that are built already look at it
        for spec in specs.values():
            self._add_produced(component, spec)
        for dep in (dep for spec in specs.values() for dep in spec.deps):
            table = dep.metadata.get("dagster/table_name") if dep.metadata else None
            if table is not None:
                self._add_upstream_table(component, dep.asset_key, str(table))

    def external_assets(self, component: str, specs: Iterable[dg.AssetSpec]) -> list[dg.AssetSpec]:
        """The external tables of a component that no other component produces or shows."""
        unclaimed = []
        for spec in specs:
            identities = _identities(spec)
            is_shown = any(self._external_owners.get(identity, component) != component for identity in identities)
            if not is_shown and self._produced.isdisjoint(identities):
                self._external_owners.update(dict.fromkeys(identities, component))
                unclaimed.append(spec)
        return unclaimed

    def add_manifest(self, component: str, key: str, env: Mapping[str, str]) -> None:
        """Register the key of a component's stored manifest. Refuse the key of another component if `env` differs.

        The key does not depend on values of variables that may be secrets.
        """
        other, other_env = self._manifests.setdefault(key, (component, env))
        differing = sorted(name for name in env.keys() | other_env.keys() if env.get(name) != other_env.get(name))
        if differing:
            raise ConfigurationError(
                f"{other} and {component} would share one stored manifest, so each would show the other's models. "
                f"They open one SQLMesh project and differ only in {', '.join(differing)} of `project.env`. Values "
                "that look like secrets, and values from the same template, do not distinguish manifests. Set another "
                "variable, the gateway or the environment differently too."
            )

    def log_turned_off(self, component: str, names: Sequence[str]) -> None:
        """Name the schedules and sensors of a component that are off because this is a branch deployment."""
        if names:
            _LOGGER.warning(
                f"{component}: off in this branch deployment, although `default_status` is RUNNING: {listed(names)}. "
                'Turn them on under "Automation" if this branch may run them.'
            )

    def _add_produced(self, component: str, spec: dg.AssetSpec) -> None:
        owner = self._owners.setdefault(spec.key, component)
        if owner != component:
            raise ConfigurationError(
                f"{owner} and {component} both make the asset {spec.key.to_user_string()}. If they show one project "
                f"in two environments, give the assets of one of them a prefix, in its defs.yaml:{block(_PREFIX)}"
            )
        identities = _identities(spec)
        self._produced.update(identities)
        for identity in identities:
            other = self._external_owners.get(identity, component)
            if other != component:
                table = spec.metadata.get("dagster/table_name", spec.key.path[-1])
                raise ConfigurationError(
                    f"`external_models.assets` in {other} makes an asset of the table {table}, which {component} "
                    f"produces. Add it to `external_models.keys` in {other}:\n    {table}: {spec.key.to_user_string()}"
                )

    def _add_upstream_table(self, component: str, key: dg.AssetKey, table: str) -> None:
        other_table, other = self._table_by_key.setdefault(key, (table, component))
        if other_table == table:
            return
        name = key.to_user_string()
        _LOGGER.warning(
            f"The models of {other} and {component} read two tables, {other_table} and {table}, which have the same "
            f"asset key {name}. Set their asset keys in `external_models.keys`. If both tables belong to one asset, "
            f"add {{{other_table}: {name}}} and {{{table}: {name}}}. Otherwise, give one of them another key. Until "
            "then, Dagster may report conflicting metadata on AssetDeps."
        )


def component_label(context: dg.ComponentLoadContext) -> str:
    """The file or folder of a component, and its name if the file has several, for messages."""
    path = os.path.relpath(context.component_path.file_path, context.project_root)
    instance = context.component_path.instance_key
    return f"{path} ({instance})" if instance else path


def ticking_names(definitions: dg.Definitions) -> list[str]:
    """The names of the schedules and sensors."""
    return [ticking.name for ticking in (*(definitions.schedules or ()), *(definitions.sensors or ()))]


def _identities(spec: dg.AssetSpec) -> list[dg.AssetKey | str]:
    """The key and the table name of an asset: Dagster finds it by either."""
    table = spec.metadata.get("dagster/table_name")
    return [spec.key] if table is None else [spec.key, str(table)]


_PREFIX = "attributes:\n  translation:\n    key_prefix: dev"

_LOGGER = logging.getLogger(__package__)
