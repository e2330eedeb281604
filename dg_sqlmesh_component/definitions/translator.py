"""A SQLMesh model as Dagster sees it: keys, asset specs, check specs, and the way back from them."""

from __future__ import annotations

import inspect
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import dagster as dg
from dagster_shared.check import CheckError

from dg_sqlmesh_component.config.external_models import ExternalModels, ExternalTable
from dg_sqlmesh_component.config.tag_convention import TagConvention
from dg_sqlmesh_component.protocol.errors import ProjectLoadError
from dg_sqlmesh_component.protocol.formatting import counted
from dg_sqlmesh_component.protocol.manifest import Audit, DbtNode, Manifest, Model, StandaloneAudit, split_fqn

STATUS_CHECK = "sqlmesh_execution_status"
"""The check that every model has: what SQLMesh did with it in the run."""

HAS_VIRTUAL_ASSETS = "is_virtual" in inspect.signature(dg.AssetSpec.__new__).parameters
"""Whether this Dagster knows assets that are never stale by themselves; 1.13 and later do."""

_EMAIL = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+")


@dataclass
class _Properties:
    """What a model's `dagster:` tags say about its asset."""

    group_name: str | None = None
    key_prefix: tuple[str, ...] = ()
    owners: list[str] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)


class Translator:
    """Default translation of a project's models. Pure: the manifest in, Dagster's specs out."""

    def __init__(
        self,
        manifest: Manifest,
        convention: TagConvention,
        external_models: ExternalModels,
        *,
        virtual_views: bool = True,
        storage_kind: bool = False,
    ) -> None:
        self._manifest = manifest
        self._convention = convention
        self._models = {model.fqn: model for model in manifest.models}
        self._selected = set(manifest.selected)
        self._properties = {model.fqn: self._read_tags(model) for model in manifest.models}
        self._external_models = external_models
        self._virtual_views = virtual_views and HAS_VIRTUAL_ASSETS
        self._storage_kind = storage_kind
        self._mapped = external_models.mapped(self._external_tables)
        self._keys: dict[str, dg.AssetKey] = {}

    def asset_key(self, model: Model) -> dg.AssetKey:
        """`schema/name`, behind the prefix that a tag may set. The catalog is left out (ADR-0013)."""
        if model.fqn not in self._keys:  # a model is asked for by each of its readers
            prefix = self._properties[model.fqn].key_prefix
            self._keys[model.fqn] = dg.AssetKey([*prefix, model.schema, model.table])
        return self._keys[model.fqn]

    def asset_spec(self, model: Model) -> dg.AssetSpec:
        """The asset of one model.

        Raises:
            ProjectLoadError: The model says something that Dagster refuses.
        """
        said = self._properties[model.fqn]
        dbt = model.dbt or DbtNode("")
        virtual: dict[str, Any] = {"is_virtual": True} if self._virtual_views and model.kind == "VIEW" else {}
        metadata = _definition_metadata(model)
        if self._storage_kind:
            metadata["dagster/storage_kind"] = model.engine
        try:
            return _quietly(
                key=self.asset_key(model),
                deps=self._deps(model),
                # Never empty: Dagster would show the op's description, which is the same for every model.
                description=model.description or f"SQLMesh model {model.name} ({model.kind}).",
                group_name=said.group_name or _identifier(dbt.group or model.schema),
                owners=said.owners or _default_owners(model),
                tags={"sqlmesh/kind": model.kind.lower(), **_ordinary_tags(self._ordinary(model)), **said.tags},
                kinds={"sqlmesh", model.engine, *(["python"] if model.source_type == "python" else []), *said.kinds},
                code_version=model.data_hash,
                metadata=metadata,
                **virtual,
            )
        except (dg.DagsterInvalidDefinitionError, CheckError) as error:
            raise ProjectLoadError(f"{where(model)}: Dagster refuses its asset: {error}") from error

    @staticmethod
    def status_check_spec(key: dg.AssetKey) -> dg.AssetCheckSpec:
        """The check that every model has."""
        return dg.AssetCheckSpec(
            STATUS_CHECK,
            asset=key,
            description="Passes if SQLMesh executed the model or had nothing to do.",
        )

    def audit_check_spec(self, node: Model | StandaloneAudit, audit: Audit, key: dg.AssetKey) -> dg.AssetCheckSpec:
        """The check of one audit. Blocking where a failure stops the model and what is downstream of it.

        An external model is no asset of ours, so the check of its audit stands on a model that reads it, which is
        `key`; the same holds for a standalone audit.
        """
        external = node if isinstance(node, Model) and node.is_external else None
        metadata: dict[str, Any] = {"sqlmesh/audit": audit.name, "sqlmesh/blocking": audit.blocking}
        if audit.args:
            metadata["sqlmesh/arguments"] = dg.MetadataValue.json(audit.args)
        if audit.query:
            metadata["sqlmesh/query"] = sql_metadata(audit.query)
        if audit.path:
            metadata["sqlmesh/path"] = dg.MetadataValue.path(audit.path)
        # With its schema: a model may read tables of one name in several.
        table = _identifier("_".join(split_fqn(external.fqn)[-2:])) if external else ""
        arguments = f" ({', '.join(f'{name} := {value}' for name, value in audit.args.items())})" if audit.args else ""
        of_external = f" of the external model {external.name}" if external else ""
        return dg.AssetCheckSpec(
            f"{table}__{audit.check_name}" if external else check_name(audit),
            asset=key,
            description=audit.description or f"SQLMesh audit {audit.name}{arguments}{of_external}.",
            blocking=audit.blocking,
            metadata=metadata,
        )

    # -- lineage ----------------------------------------------------------------------------------

    def model(self, fqn: str) -> Model | None:
        """A model of the project; None for a table that no model declares."""
        return self._models.get(fqn)

    def upstream(self, model: Model) -> Iterable[Model | str]:
        """What a model reads: models, through embedded ones, and the fqn of tables that no model declares."""
        for fqn in model.depends_on:
            parent = self._models.get(fqn)
            if parent is None:
                yield fqn
            elif parent.is_embedded:
                yield from self.upstream(parent)
            else:
                yield parent

    def external_key(self, parent: Model | str) -> dg.AssetKey:
        """The key of a table that somebody else produces.

        As `external_models` says; else `schema/name`, behind the prefix that a tag may set, and with the catalog
        where two tables share schema and name.
        """
        fqn = _fqn(parent)
        if fqn in self._mapped:
            return self._mapped[fqn]
        if self._external_models.key is not None:
            return self._external_models.key(ExternalTable.of(fqn))
        parts = list(split_fqn(fqn))
        prefix = self._properties[fqn].key_prefix if fqn in self._properties else ()
        is_ambiguous = self._external_names[tuple(parts[-2:])] > 1
        return dg.AssetKey([*prefix, *(parts if is_ambiguous else parts[-2:])])

    def external_specs(self, readers: Iterable[Model]) -> list[dg.AssetSpec]:
        """The tables from outside that these models read, as assets that nothing here executes.

        Not those that `external_models.keys` names, which are somebody's assets, nor tables that share a key.
        """
        found: dict[dg.AssetKey, dict[str, tuple[Model | str, Model]]] = {}
        for reader in readers:
            for parent in self.upstream(reader):
                is_external = not isinstance(parent, Model) or parent.is_external
                if is_external and _fqn(parent) not in self._mapped:
                    found.setdefault(self.external_key(parent), {}).setdefault(_fqn(parent), (parent, reader))
        return [_external_spec(key, *next(iter(tables.values()))) for key, tables in found.items() if len(tables) == 1]

    @cached_property
    def _external_tables(self) -> set[str]:
        """The tables from outside that models read, by fqn."""
        return {
            _fqn(parent)
            for model in self._models.values()
            for parent in self.upstream(model)
            if not isinstance(parent, Model) or parent.is_external
        }

    @cached_property
    def _external_names(self) -> Counter[tuple[str, ...]]:
        return Counter(split_fqn(fqn)[-2:] for fqn in self._external_tables)

    def default_key(self, parent: Model | str) -> dg.AssetKey:
        """The key of what a model reads, as long as nobody has changed it."""
        if isinstance(parent, Model) and parent.is_executable:
            return self.asset_key(parent)
        return self.external_key(parent)

    def tables(self, key_of: Callable[[Model | str], dg.AssetKey]) -> dict[dg.AssetKey, str | None]:
        """The table behind each dependency that is not one of our assets.

        Its name lets Dagster link the dependency to whichever asset produced that table. None where several tables
        share a key, since Dagster refuses differing metadata, and for a key that `external_models.keys` gives, which
        stays what it is.
        """
        found: dict[dg.AssetKey, str | None] = {}
        for parent in self._parents:
            key, table = key_of(parent), self._table_of(parent)
            found[key] = table if found.get(key, table) == table else None
        return found

    @cached_property
    def _parents(self) -> list[Model | str]:
        """Everything that is read, each once."""
        found = {_fqn(parent): parent for model in self._models.values() for parent in self.upstream(model)}
        return list(found.values())

    def _table_of(self, parent: Model | str) -> str | None:
        is_ours = isinstance(parent, Model) and parent.is_executable and parent.fqn in self._selected
        if is_ours or _fqn(parent) in self._mapped:
            return None
        return parent.table_name if isinstance(parent, Model) else ".".join(split_fqn(parent))

    @cached_property
    def default_dependencies(self) -> Dependencies:
        """The dependencies on default keys, as long as nobody has changed them."""
        return Dependencies(self.tables(self.default_key))

    def _deps(self, model: Model) -> list[dg.AssetDep]:
        keys = dict.fromkeys(self.default_key(parent) for parent in self.upstream(model))
        return [self.default_dependencies[key] for key in keys]

    # -- tags -------------------------------------------------------------------------------------

    def _ordinary(self, model: Model) -> list[str]:
        return [tag for tag in model.tags if self._convention.split(tag) is None]

    def _read_tags(self, model: Model) -> _Properties:
        said = _Properties()
        for tag in model.tags:
            split = self._convention.split(tag)
            if split is not None:
                self._read_property(model, tag, *split, said)
        return said

    def _read_property(self, model: Model, tag: str, property_: str, value: str, said: _Properties) -> None:
        def refuse(rule: object) -> ProjectLoadError:
            return ProjectLoadError(f"{where(model)}: tag {tag!r} cannot be used: {rule}")

        if property_ not in ("group_name", "owner", "kind", "tag", "key_prefix"):
            raise refuse(
                f"there is no property {property_!r}; the properties are group_name, owner, kind, tag and key_prefix."
            )
        if not value:
            raise refuse(
                f"it has no value; write it as {self._convention.prefix}{self._convention.separator}"
                f"{property_}{self._convention.separator}<value>."
            )
        if property_ == "group_name":
            if said.group_name not in (None, value):
                raise refuse(f"another tag has set the group to {said.group_name!r} already.")
            said.group_name = value
            problem = dagster_problem(group_name=value)
        elif property_ == "owner":
            said.owners.append(value)
            problem = dagster_problem(owners=(value,))
        elif property_ == "kind":
            said.kinds.append(value)
            problem = dagster_problem(kinds=frozenset([value]))
        elif property_ == "tag":
            key, _, content = value.partition("=")
            if said.tags.setdefault(key, content) != content:
                raise refuse(f"another tag has set {key!r} to {said.tags[key]!r} already.")
            problem = dagster_problem(tags=((key, content),))
        else:
            if said.key_prefix and said.key_prefix != tuple(value.split("/")):
                raise refuse(f"another tag has set the prefix to {'/'.join(said.key_prefix)!r} already.")
            said.key_prefix = tuple(value.split("/"))
            problem = "a prefix is names joined by '/', none of them empty." if "" in said.key_prefix else None
        if problem:
            raise refuse(problem)


def check_name(audit: Audit) -> str:
    """The name of an audit's check, which must not be that of the status check."""
    return audit.check_name if audit.check_name != STATUS_CHECK else f"{STATUS_CHECK}_audit"


def _quietly(**attributes: Any) -> dg.AssetSpec:
    """An asset without Dagster's warning that virtual assets are a preview: `virtual_views` is how to do without."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.PreviewWarning)
        return dg.AssetSpec(**attributes)


_NOBODY = dg.AssetKey("nobody")
"""The asset on which a property is tried."""


@lru_cache(maxsize=4096)
def dagster_problem(**properties: Any) -> str | None:
    """Dagster's own words against a property of an asset, None when it accepts it."""
    if "tags" in properties:
        properties["tags"] = dict(properties["tags"])
    try:
        dg.AssetsDefinition(specs=[dg.AssetSpec(_NOBODY, **properties)])
    except (dg.DagsterInvalidDefinitionError, CheckError) as error:
        return re.sub(rf" for asset '?{re.escape(str(_NOBODY))}'?", "", str(error))  # the caller says of what
    return None


def sql_metadata(query: str) -> dg.MarkdownMetadataValue:
    """SQL as the UI shows it best."""
    fence = "````" if "```" in query else "```"
    return dg.MetadataValue.md(f"{fence}sql\n{query}\n{fence}")


class Dependencies(dict[dg.AssetKey, dg.AssetDep]):
    """Dependencies, each made once, that say which table they are, where that is known."""

    def __init__(self, tables: Mapping[dg.AssetKey, str | None]) -> None:
        self._tables = tables

    def __missing__(self, key: dg.AssetKey) -> dg.AssetDep:
        table = self._tables.get(key)
        self[key] = dg.AssetDep(key, metadata={"dagster/table_name": table} if table else None)
        return self[key]


def _external_spec(key: dg.AssetKey, table: Model | str, reader: Model) -> dg.AssetSpec:
    """The asset of a table that somebody else produces; of one that is not declared, the name is all that is known."""
    names, declared = ExternalTable.of(_fqn(table)), table if isinstance(table, Model) else None
    return dg.AssetSpec(
        key,
        description=(declared and declared.description) or f"The table {names.table_name}, which SQLMesh only reads.",
        group_name=_identifier(names.schema),
        kinds={"external", reader.engine},
        tags={"sqlmesh/kind": "external"},
        metadata=_definition_metadata(declared) if declared else {"dagster/table_name": names.table_name},
    )


def _fqn(parent: Model | str) -> str:
    return parent.fqn if isinstance(parent, Model) else parent


def where(model: Model) -> str:
    return f"Model {model.name} ({model.path or 'not from a file'})"


def _identifier(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_]+", "_", text) or "default"


def _default_owners(model: Model) -> list[str]:
    """Dagster knows people by email and everybody else as a team."""
    if not model.owner:
        return []
    known = model.owner_email or model.owner
    owner = known if _EMAIL.fullmatch(known) or known.startswith("team:") else f"team:{known}"
    # One that Dagster has no place for stays in the metadata; it must not keep the project from loading.
    return [] if dagster_problem(owners=(owner,)) else [owner]


def _ordinary_tags(tags: Iterable[str]) -> dict[str, str]:
    """`tier=gold` as key and value, everything else as a label: a key without a value.

    Characters that Dagster refuses become `_`, so that every project loads. Where a model has several values for one
    key, of which Dagster keeps one, each of them stays in a label of its own (`tier_gold`).
    """
    read = [(_tag_key(tag), _tag_key(tag.partition("=")[0]), _tag_value(tag.partition("=")[2])) for tag in tags]
    values: dict[str, set[str]] = {}
    for _, key, value in read:
        values.setdefault(key, set()).add(value)
    found = {}
    for label, key, value in read:
        is_pair = key != "" and len(values[key]) == 1
        found[key if is_pair else label] = value if is_pair else ""
    return {key: value for key, value in found.items() if key}


def _tag_key(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", text).strip("_.-")[:63]


def _tag_value(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", text.strip())[:63]


def _definition_metadata(model: Model) -> dict[str, Any]:
    said = {
        "model": model.name,
        "kind": model.kind,
        "source_type": model.source_type,
        "cron": model.cron,
        "cron_tz": model.cron_tz,
        "interval_unit": model.interval_unit,
        "start": model.start,
        "end": model.end,
        "lookback": model.lookback or None,
        "batch_size": model.batch_size,
        "time_column": model.time_column,
        "unique_key": ", ".join(model.unique_key),
        "grain": ", ".join(model.grains),
        "references": ", ".join(model.references),
        "partitioned_by": ", ".join(model.partitioned_by),
        "clustered_by": ", ".join(model.clustered_by),
        "storage_format": model.storage_format,
        "dialect": model.dialect,
        "gateway": model.gateway,
        "project": model.project,
        "owner": model.owner,
        "tags": ", ".join(model.tags),
        "signals": ", ".join(model.signals),
        "dbt_unique_id": model.dbt.unique_id if model.dbt else None,
    }
    metadata: dict[str, Any] = {f"sqlmesh/{name}": value for name, value in said.items() if value}
    metadata["dagster/table_name"] = model.table_name
    if model.dbt and model.dbt.meta:
        metadata["sqlmesh/dbt_meta"] = dg.MetadataValue.text(model.dbt.meta)
    if model.query:
        metadata["sqlmesh/query"] = sql_metadata(model.query)
    if model.source_url:
        metadata["sqlmesh/source"] = dg.MetadataValue.url(model.source_url)
    if model.columns:
        metadata["dagster/column_schema"] = dg.TableSchema(
            columns=[dg.TableColumn(column.name, column.type, column.description) for column in model.columns]
        )
    if model.columns_cut:
        metadata["sqlmesh/columns_cut"] = (
            f"{counted(model.columns_cut, 'column')} left out; "
            "`metadata_limits.columns` in defs.yaml says how many are kept"
        )
    if model.path:
        metadata["dagster/code_references"] = dg.CodeReferencesMetadataValue(
            code_references=[dg.LocalFileCodeReference(file_path=model.path, line_number=1)]
        )
    return metadata
