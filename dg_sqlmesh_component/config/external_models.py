"""The attribute `external_models`: asset keys of the tables that SQLMesh reads and does not compute."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import dagster as dg
from dagster.components.resolved.errors import ResolutionException

from dg_sqlmesh_component.capabilities.sources.attributes import LateAttribute, WaitAttribute
from dg_sqlmesh_component.config.external_tables import NO_TABLE, ExternalTable
from dg_sqlmesh_component.config.mappings import Attributes, TemplateScope, described, not_a_mapping, unmatched
from dg_sqlmesh_component.protocol.errors import ConfigurationError
from dg_sqlmesh_component.protocol.manifest import split_fqn

KeyOfTable = Callable[[ExternalTable], dg.AssetKey]


def _resolve_key(context: dg.ResolutionContext, template: str | None) -> KeyOfTable | None:
    if template is None:
        return None

    def key_of(table: ExternalTable) -> dg.AssetKey:
        where = f"`external_models.key` in defs.yaml, applied to the table {table.table_name},"
        try:
            rendered = context.with_scope(external=TemplateScope("external", table)).resolve_value(template)
        except ResolutionException as error:
            raise ConfigurationError(f"{where} cannot be rendered: {error}") from error
        return _as_key(
            rendered,
            where,
            " The template knows external.catalog (empty if the engine has none), external.schema, external.name "
            "and external.table_name.",
        )

    return key_of


def _resolve_keys(context: dg.ResolutionContext, written: Mapping[str, str] | str) -> dict[str, dg.AssetKey]:
    keys: Any = context.resolve_value(written) if isinstance(written, str) else written
    if not isinstance(keys, Mapping):
        raise not_a_mapping("external_models.keys", keys, {"raw.orders": "dlt/shop/orders"})
    return {
        name: _as_key(
            context.at_path(name).resolve_value(template), f"`external_models.keys` in defs.yaml, at {name!r},"
        )
        for name, template in keys.items()
    }


def _as_key(rendered: object, where: str, hint: str = "") -> dg.AssetKey:
    """The asset key of a rendered template.

    It may be one already: `{{ context.load_component(...).asset_key_for_model(...) }}` renders to an asset key.
    """
    key = rendered if isinstance(rendered, dg.AssetKey) else dg.AssetKey.from_user_string(str(rendered))
    if not all(key.path):
        shown = key.to_user_string()
        raise ConfigurationError(f"{where} gives the asset key {shown!r}, which has an empty part.{hint}")
    return key


@dataclass(frozen=True)
class ExternalModels(Attributes, path="external_models"):
    """How tables that SQLMesh reads, but does not produce, become upstream assets.

    By default Dagster links a dependency to the asset with that `dagster/table_name`.
    """

    key: Annotated[
        KeyOfTable | None,
        dg.Resolver(
            _resolve_key,
            model_field_type=str | None,
            inject_before_resolve=False,
            description="Template of the asset key; it knows `external.catalog`, `external.schema`, `external.name` "
            "and `external.table_name`. Default: `schema/name`.",
            examples=["landing/{{ external.schema }}/{{ external.name }}"],
        ),
    ] = None
    keys: Annotated[
        Mapping[str, dg.AssetKey],
        dg.Resolver(
            _resolve_keys,
            model_field_type=dict[str, str],
            inject_before_resolve=False,
            description="Asset keys of single tables, by the table's name with or without its catalog. They win "
            "over `key`, and several tables may belong to one asset.",
            examples=[{"raw.orders": "dlt/shop/orders"}],
        ),
    ] = field(default_factory=dict)
    assets: Annotated[
        bool,
        described(
            "Whether tables that no asset of the code location produces are assets themselves, with a kind, a group "
            "(the table's schema), a description and columns; those that `keys` names are not. false: Dagster shows "
            "them without these, in the group `default`. Default: false, since Dagster refuses a code location in "
            "which another asset has the key of one of them.",
            True,
        ),
    ] = False
    wait: WaitAttribute = None
    late: LateAttribute = "ignore"

    def mapped(self, fqns: Iterable[str]) -> dict[str, dg.AssetKey]:
        """The keys that the attribute `keys` gives to these tables, by fqn.

        Raises:
            ConfigurationError: An entry names no table that a model reads, or more than one.
        """
        tables = {fqn: ".".join(split_fqn(fqn)) for fqn in sorted(fqns)}
        mapped: dict[str, dg.AssetKey] = {}
        for name, key in self.keys.items():
            unquoted = name.replace('"', "").casefold()
            exact = [fqn for fqn, table in tables.items() if table.casefold() == unquoted]
            matches = exact or [fqn for fqn, table in tables.items() if table.casefold().endswith(f".{unquoted}")]
            if len(matches) != 1:
                raise _wrong_name(name, [tables[fqn] for fqn in matches], tables)
            if matches[0] in mapped:
                raise ConfigurationError(
                    f"`external_models.keys` in defs.yaml names the table {tables[matches[0]]} twice, once as {name!r}."
                )
            mapped[matches[0]] = key
        return mapped


def _wrong_name(name: str, matches: list[str], tables: Mapping[str, str]) -> ConfigurationError:
    if matches:
        return ConfigurationError(
            f"`external_models.keys` in defs.yaml names {name!r}, which is more than one table: {', '.join(matches)}. "
            "Write out the catalog."
        )
    known = {".".join(split_fqn(fqn)[-2:]) for fqn in tables} | set(tables.values())
    return unmatched("external_models.keys", name, NO_TABLE, known)
