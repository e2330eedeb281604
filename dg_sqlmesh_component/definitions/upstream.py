"""The models and tables that models read: their asset keys, and the dependencies and column lineage on them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from graphlib import TopologicalSorter
from typing import Any

import dagster as dg

from dg_sqlmesh_component.config.external_models import ExternalModels
from dg_sqlmesh_component.config.external_tables import ExternalTable
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.errors import ConfigurationError
from dg_sqlmesh_component.protocol.formatting import block, counted, listed
from dg_sqlmesh_component.protocol.graph import grouped, reachable
from dg_sqlmesh_component.protocol.manifest import Manifest, Model, split_fqn


class Upstream:
    """The upstream models and tables of a manifest's models, each by its fqn."""

    def __init__(
        self, manifest: Manifest, external_models: ExternalModels, prefixes: Mapping[str, Sequence[str]]
    ) -> None:
        """`prefixes` are those of the models' keys, which tags may set."""
        self.models = {model.fqn: model for model in manifest.models}
        self.selected = set(manifest.selected)
        self._external_models = external_models
        self._prefixes = prefixes
        self.configured_keys = external_models.mapped(filter(self.is_external, self.tables_read))
        # The final keys of the assets that are made so far. `translation` and overrides change the default ones.
        self.keys: dict[str, dg.AssetKey] = {}
        self._refuse_shared_default_keys()

    def of(self, model: Model) -> list[str]:
        """The models and tables that a model reads, through embedded models."""
        return tables_read(model.depends_on, self.models)

    @cached_property
    def tables_read(self) -> list[str]:
        """The models and tables that any model reads, through embedded models."""
        return tables_read((fqn for model in self.models.values() for fqn in model.depends_on), self.models)

    def is_external(self, fqn: str) -> bool:
        return fqn not in self.models or self.models[fqn].is_external

    def key(self, fqn: str) -> dg.AssetKey:
        """The key of an upstream model or table."""
        if self.is_external(fqn):
            return self.external_key(fqn)
        return self.keys.get(fqn) or self.default_key(self.models[fqn])

    def default_key(self, model: Model) -> dg.AssetKey:
        """`schema/name`, after the prefix that a tag may set. The catalog is left out (ADR-0013)."""
        return dg.AssetKey([*self._prefixes[model.fqn], model.schema, model.table])

    def external_key(self, fqn: str) -> dg.AssetKey:
        """The key of an external table. `external_models` may set it, otherwise it is `schema/name` as for a model."""
        if fqn in self.configured_keys:
            return self.configured_keys[fqn]
        if self._external_models.key is not None:
            return self._external_models.key(ExternalTable.of(fqn))
        return dg.AssetKey([*self._prefixes.get(fqn, ()), *split_fqn(fqn)[-2:]])

    def _refuse_shared_default_keys(self) -> None:
        """Refuse two external tables whose default keys are equal, as for models (ADR-0013)."""
        others = [fqn for fqn in self.external_tables if fqn not in self.configured_keys]
        others.sort(key=lambda fqn: len(split_fqn(fqn)))  # one without a catalog keeps the key
        tables = grouped((self.external_key(fqn), ExternalTable.of(fqn)) for fqn in others)
        shared = {key.to_user_string(): same for key, same in tables.items() if len(same) > 1}
        if shared and self._external_models.key is None:
            names = [f"{key} ({', '.join(table.table_name for table in same)})" for key, same in shared.items()]
            keys = [f"{table.table_name}: {table.catalog}/{key}" for key, same in shared.items() for table in same[1:]]
            raise ConfigurationError(
                f"Several external tables have the same asset key: {listed(names)}. Give all but one of them another "
                "key in defs.yaml, for example:" + block("\n    ".join(["external_models:\n  keys:", *keys]))
            )

    @cached_property
    def external_tables(self) -> list[str]:
        """The external tables that any model reads, by fqn."""
        return [fqn for fqn in self.tables_read if self.is_external(fqn)]

    @cached_property
    def awaited(self) -> dict[str, dg.AssetKey]:
        """The keys of the external tables that `external_models.wait` may wait for, by fqn."""
        if self._wait is not None:
            self._wait.refuse_unknown(self.external_tables)
        return self.awaited_of(self.external_tables)

    def awaited_of(self, tables: Iterable[str]) -> dict[str, dg.AssetKey]:
        """The keys of those external tables that are awaited, by fqn, even if no model of the manifest reads them."""
        wait = self._wait
        return {fqn: self.external_key(fqn) for fqn in tables if wait is not None and wait.has(fqn)}

    @property
    def _wait(self) -> Any:
        """The attribute `external_models.wait`; None without `capabilities/sources` too."""
        return getattr(self._external_models, "wait", None)

    def _is_ours(self, fqn: str) -> bool:
        return fqn in self.selected and not self.is_external(fqn)

    def deps(self, model: Model) -> list[dg.AssetDep]:
        """The dependencies of a model's asset."""
        deps = {}
        for fqn in self.of(model):
            key = self.key(fqn)
            table = None if self._is_ours(fqn) else self._tables[key]
            deps[key] = dg.AssetDep(key, metadata={"dagster/table_name": table} if table else None)
        return list(deps.values())

    @cached_property
    def _tables(self) -> dict[dg.AssetKey, str | None]:
        """The table name of each dependency that is not an asset of ours.

        By the name, Dagster links the dependency to the asset that produces the table. The name is None in two cases.
        Several tables share a key: Dagster refuses metadata that differs. Or `external_models.keys` sets the key,
        which must stay as it is.
        """
        tables: dict[dg.AssetKey, str | None] = {}
        for fqn in self.tables_read:
            if not self._is_ours(fqn):
                table = self.models[fqn].table_name if fqn in self.models else ".".join(split_fqn(fqn))
                named = None if fqn in self.configured_keys else table
                key = self.key(fqn)
                tables[key] = named if tables.get(key, named) == named else None
        return tables

    def column_lineage(self, model: Model) -> dict[str, Any]:
        """The metadata of a model's column lineage, if it was requested."""
        if not model.column_lineage:
            return {}
        metadata: dict[str, Any] = {
            "dagster/column_lineage": dg.TableColumnLineage(
                {
                    column: [dg.TableColumnDep(asset_key=key, column_name=name) for key, name in sources]
                    for column, sources in self.column_sources(model).items()
                }
            )
        }
        if model.column_lineage_cut:
            metadata["sqlmesh/column_lineage_cut"] = f"{counted(model.column_lineage_cut, 'pair')} of columns left out"
        return metadata

    def column_sources(self, model: Model) -> dict[str, list[tuple[dg.AssetKey, str]]]:
        """By column, the columns of assets that it is made of; empty if they were not requested."""
        traced = {
            column: sorted({source for pair in pairs for source in self._source_columns(*pair)})
            for column, pairs in (model.column_lineage or {}).items()
        }
        return {column: sources for column, sources in traced.items() if sources}

    def _source_columns(self, fqn: str, column: str) -> Iterable[tuple[dg.AssetKey, str]]:
        """The columns of assets that a column comes from, through embedded models."""
        parent = self.models.get(fqn)
        if parent is not None and parent.is_embedded:
            for source in (parent.column_lineage or {}).get(column, ()):
                yield from self._source_columns(*source)
        else:
            yield self.key(fqn), column


def tables_read(fqns: Iterable[str], models: Mapping[str, Model]) -> list[str]:
    """These tables, with each embedded model replaced by the tables that it reads: it has none of its own."""

    def is_embedded(fqn: str) -> bool:
        return fqn in models and models[fqn].is_embedded

    nodes = reachable(fqns, lambda fqn: models[fqn].depends_on if is_embedded(fqn) else ())
    return sorted(fqn for fqn in nodes if not is_embedded(fqn))


def tables_behind_views(model: Model, models: Mapping[str, Model]) -> set[str]:
    """The tables that a model reads, also through views and embedded models."""

    def behind(node: str) -> Sequence[str]:
        of = models.get(node)
        return of.depends_on if of is not None and of.kind in ("VIEW", "EMBEDDED") else ()

    return reachable(model.depends_on, behind)


def external_tables_read(models: Iterable[Model], of: Mapping[str, Model]) -> dict[str, msg.TablesRead]:
    """By model, the tables that it reads itself and that SQLMesh does not compute."""
    return {
        model.fqn: msg.TablesRead(
            model.data_hash, tuple(fqn for fqn in model.depends_on if fqn not in of or of[fqn].is_external)
        )
        for model in models
    }


def parents_first(models: Mapping[str, Model]) -> tuple[str, ...]:
    """The models, each after its upstream models."""
    graph = {fqn: models[fqn].depends_on for fqn in sorted(models)}
    return tuple(fqn for fqn in TopologicalSorter(graph).static_order() if fqn in models)
