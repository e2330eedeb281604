"""What two declarations of one code location may not both say; Dagster itself would say it late and name neither."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Mapping, Set
from weakref import WeakKeyDictionary

import dagster as dg

from dg_sqlmesh_component.dagster_internals import code_location_of
from dg_sqlmesh_component.protocol.errors import DeclarationError
from dg_sqlmesh_component.protocol.formatting import short_hash

NAME_OF_A_PART = re.compile(r"_[0-9]+$")
"""How Dagster names the second part of an op that it splits, and those that follow: `<op>_2`."""

_PLAIN = re.compile(r"[A-Za-z0-9]+(_[A-Za-z0-9]+)*")
"""What an op's name can hold as it is, between two `__`."""


class Neighbours:
    """The declarations of one code location that are built so far, and what is theirs."""

    def __init__(self) -> None:
        self._op_names: dict[str, str] = {}
        self._tables: dict[dg.AssetKey, tuple[str, str]] = {}
        self._produced: dict[dg.AssetKey | str, str] = {}
        self._external: dict[dg.AssetKey | str, str] = {}
        self._stored: dict[str, tuple[str, Mapping[str, str]]] = {}
        self._models: set[str] = set()

    @property
    def models(self) -> Set[str]:
        """The models that are assets of these components, by fqn."""
        return self._models

    @classmethod
    def of(cls, context: dg.ComponentLoadContext) -> Neighbours:
        """Those of the code location that is being loaded; another load of it begins anew."""
        return _NEIGHBOURS.setdefault(code_location_of(context), cls())

    def add(self, declared_in: str, op_name: str, specs: Mapping[str, dg.AssetSpec]) -> None:
        """Take note of a declaration; warn where it has another table than its neighbour under one asset key.

        Dagster refuses that, naming neither, unless an asset has the key or says that it produces one of the tables,
        which is not known before everything is loaded.

        Args:
            specs: Its assets, by the fqn of their models.

        Raises:
            DeclarationError: Another declaration has an op of that name, or shows one of its tables as external.
        """
        other = self._op_names.setdefault(op_name, declared_in)
        if other != declared_in:
            raise DeclarationError(
                f"{other} and {declared_in} both name their op {op_name!r}. Give one of them another `op.name`."
            )
        self._models |= specs.keys()
        for spec in specs.values():
            self._add_produced(declared_in, spec)
        for dep in (dep for spec in specs.values() for dep in spec.deps):
            table = dep.metadata.get("dagster/table_name") if dep.metadata else None
            if table is not None:
                self._add_table(declared_in, dep.asset_key, str(table))

    def external_assets(self, declared_in: str, specs: Iterable[dg.AssetSpec]) -> list[dg.AssetSpec]:
        """Those of a declaration's external tables that no other declaration produces or shows, so that it may."""
        free = []
        for spec in specs:
            names = _names(spec)
            if all(self._external.get(name, declared_in) == declared_in for name in names) and not any(
                name in self._produced for name in names
            ):
                self._external.update(dict.fromkeys(names, declared_in))
                free.append(spec)
        return free

    def add_stored(self, declared_in: str, key: str, env: Mapping[str, str]) -> None:
        """Take note of where a declaration's description is stored.

        Args:
            key: It has no part in it of a variable's value that may be a secret.
            env: The variables that the declaration sets.

        Raises:
            DeclarationError: Another declaration, of which such a value differs, stores its own there.
        """
        other, other_env = self._stored.setdefault(key, (declared_in, env))
        differing = sorted(name for name in env.keys() | other_env.keys() if env.get(name) != other_env.get(name))
        if differing:
            raise DeclarationError(
                f"{other} and {declared_in} open one SQLMesh project in the same way but for {', '.join(differing)} in "
                "`project.env`. Values that look like secrets, or that are written alike as templates, do not tell "
                "stored manifests apart: each would show the other's models. Let them differ in another variable, "
                "the gateway or the environment too."
            )

    def _add_produced(self, declared_in: str, spec: dg.AssetSpec) -> None:
        for name in _names(spec):
            self._produced[name] = declared_in
            other = self._external.get(name, declared_in)
            if other != declared_in:
                table = spec.metadata.get("dagster/table_name", spec.key.path[-1])
                raise DeclarationError(
                    f"`external_models.assets` in {other} makes an asset of the table {table}, which {declared_in} "
                    f"produces. Add it to `external_models.keys` in {other}:\n    {table}: {spec.key.to_user_string()}"
                )

    def _add_table(self, declared_in: str, key: dg.AssetKey, table: str) -> None:
        other_table, other = self._tables.setdefault(key, (table, declared_in))
        if other_table == table:
            return
        name = key.to_user_string()
        _LOGGER.warning(
            f"The models of {other} and {declared_in} read two tables, {other_table} and {table}, which have the same "
            f"asset key {name}. Say in `external_models.keys` which asset each one is: where they are one, "
            f"{{{other_table}: {name}}} and {{{table}: {name}}}, else another key in one of them. Without it, Dagster "
            "speaks of conflicting metadata on AssetDeps."
        )


def _names(spec: dg.AssetSpec) -> list[dg.AssetKey | str]:
    """What Dagster finds an asset by: its key, and its table's name."""
    table = spec.metadata.get("dagster/table_name")
    return [spec.key] if table is None else [spec.key, str(table)]


_LOGGER = logging.getLogger(__package__)

_NEIGHBOURS: WeakKeyDictionary[object, Neighbours] = WeakKeyDictionary()


def place(context: dg.ComponentLoadContext) -> str:
    """Where a declaration stands, for people: its file, and which of the declarations in it."""
    said = os.path.relpath(context.component_path.file_path, context.project_root)
    instance = context.component_path.instance_key
    return f"{said} ({instance})" if instance else said


def default_op_name(where: str, instance: int | str | None) -> str:
    """A name that differs between any two declarations of one code location.

    Folders are joined by `__`. A short hash tells apart what an op's name cannot: `shop-eu` and `shop_eu`.

    Args:
        where: The declaration's folder or Python file, from the folder of all definitions.
        instance: Which of the declarations in it; 0 and None are the first.
    """
    parts = [part for part in where.removesuffix(".py").split(os.sep) if part != os.curdir]
    if instance:
        parts.append(str(instance))
    name = "sqlmesh_" + "__".join(re.sub(r"[^A-Za-z0-9]+", "_", part).strip("_") for part in parts)
    if not all(map(_PLAIN.fullmatch, parts)):
        name = f"{name.rstrip('_')}_{short_hash(parts)}"
    return f"{name}_" if NAME_OF_A_PART.search(name) else name


def refuse_op_name(name: str) -> None:
    """Refuse what no op can be called.

    Raises:
        DeclarationError: Dagster refuses the name, or gives such names itself.
    """
    said = f"`op.name` in defs.yaml is {name!r}"
    if NAME_OF_A_PART.search(name):
        raise DeclarationError(
            f"{said}, and must not end in an underscore and a number: Dagster gives such names to the parts of an op "
            "that it splits, and runs one of two ops that are named alike."
        )
    try:
        dg.op(name=name)(lambda: None)
    except dg.DagsterInvalidDefinitionError as error:
        raise DeclarationError(f"{said}, which Dagster refuses: {error}") from error
