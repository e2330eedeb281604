"""Asset keys of the tables that SQLMesh reads and does not compute."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal, TypeAlias

import dagster as dg
from dagster.components.resolved.errors import ResolutionException

from dg_sqlmesh_component.config.durations import Duration, WrittenDuration
from dg_sqlmesh_component.config.mappings import (
    Attributes,
    TemplateScope,
    described,
    described_text,
    mapping,
    not_a_mapping,
    unmatched,
)
from dg_sqlmesh_component.protocol.errors import ConfigurationError
from dg_sqlmesh_component.protocol.manifest import split_fqn


@dataclass(frozen=True)
class ExternalTable:
    """A table that SQLMesh does not compute: `external` in a template.

    Attributes:
        catalog: Empty if the engine has no catalogs.
        table_name: All parts, unquoted and dotted.
    """

    catalog: str
    schema: str
    name: str
    table_name: str

    @classmethod
    def of(cls, fqn: str) -> "ExternalTable":
        """Create it from SQLMesh's quoted name."""
        parts = split_fqn(fqn)
        catalog, schema, name = ("", "", *parts)[-3:]
        return cls(catalog, schema, name, ".".join(parts))


Late: TypeAlias = Literal["ignore", "warn", "restate"]

_NO_TABLE = "no model reads an external table of that name"

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
class Wait(Attributes, path="external_models.wait"):
    """Whether an interval is computed only if the assets that load its external tables are complete for it.

    Write true, or a mapping with options. By default, intervals are computed whether or not their sources are
    complete.
    """

    tables: Annotated[
        list[str] | None,
        described_text(
            "Wait for these external tables only: names or patterns, with or without a catalog. Default: those in "
            "`keys`, and those that an asset of the code location produces.",
            ["raw.*"],
        ),
    ] = None
    lag: Annotated[
        Duration,
        described(
            "Without partitions, data is complete up to the start of the last load, minus this: seconds, or text such "
            "as 30m. Default: 0.",
            "30m",
            1800,
            written_as=WrittenDuration,
        ),
    ] = timedelta(0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tables == []:
            raise ConfigurationError(
                "`external_models.wait.tables` in defs.yaml is an empty list, so no interval would wait. Name a table, "
                "or remove `external_models.wait`."
            )

    def refuse_unknown(self, fqns: Collection[str]) -> None:
        """Raise a ConfigurationError if a pattern matches none of the external tables that models read."""
        matching_tables(self.tables or (), fqns, "external_models.wait.tables")

    def has(self, fqn: str) -> bool:
        """Whether to wait for a table if an asset makes it."""
        return self.tables is None or any(_matches(fqn, pattern) for pattern in self.tables)


def matching_tables(
    patterns: Iterable[str], fqns: Collection[str], attribute: str, place: str = "defs.yaml"
) -> list[str]:
    """The external tables that models read and that match a name or pattern, by fqn.

    Raises a ConfigurationError if a pattern matches none.
    """
    matching: dict[str, None] = {}
    for pattern in patterns:
        found = [fqn for fqn in fqns if _matches(fqn, pattern)]
        if not found:
            known = {".".join(split_fqn(fqn)[-2:]) for fqn in fqns}
            raise unmatched(attribute, pattern, _NO_TABLE, known, place)
        matching |= dict.fromkeys(found)
    return list(matching)


def _matches(fqn: str, pattern: str) -> bool:
    name, text = ".".join(split_fqn(fqn)).casefold(), pattern.replace('"', "").casefold()
    return fnmatchcase(name, text) or fnmatchcase(name, f"*.{text}")


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
    wait: Annotated[Wait | None, mapping(Wait, True, {"tables": ["raw.*"], "lag": "30m"})] = None
    late: Annotated[
        Late,
        described(
            "What to do if a partition of an awaited table is loaded again after an interval of it was computed. warn: "
            "the check `sqlmesh_no_late_data` of each incremental model that read it warns until it is computed again. "
            "restate: as warn, and a tick requests that restatement. It needs `restate` and `schedule`. Default: "
            "ignore.",
            "warn",
        ),
    ] = "ignore"

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
    return unmatched("external_models.keys", name, _NO_TABLE, known)
