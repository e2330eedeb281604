"""A SQLMesh model as Dagster shows it: asset keys, asset specs and check specs."""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import lru_cache
from typing import Any

import dagster as dg
from dagster.components.resolved.errors import ResolutionException
from dagster_shared.check import CheckError
from pydantic import ValidationError
from pydantic_core import PydanticCustomError

from dg_sqlmesh_component.config.attribute_types import ASSET_PROPERTIES, NOT_OF_ONE_MODEL, Freshness, TagConvention
from dg_sqlmesh_component.config.component_attributes import ComponentAttributes
from dg_sqlmesh_component.config.durations import duration_of
from dg_sqlmesh_component.config.external_tables import ExternalTable
from dg_sqlmesh_component.config.yaml_text import yaml_line
from dg_sqlmesh_component.dagster_internals.assets import EXTERNAL_TAG, is_accepted_cron
from dg_sqlmesh_component.definitions.automation import cron_tick_condition, longest_gap
from dg_sqlmesh_component.definitions.ports import CORE_ALONE, Ports
from dg_sqlmesh_component.definitions.upstream import Upstream, parents_first
from dg_sqlmesh_component.protocol.errors import ConfigurationError, ProjectLoadError
from dg_sqlmesh_component.protocol.formatting import as_sentence, counted, duration_text, fenced
from dg_sqlmesh_component.protocol.manifest import Audit, DbtNode, Manifest, Model, StandaloneAudit, split_fqn

STATUS_CHECK = "sqlmesh_execution_status"
"""The check of every model that shows its outcome in the run."""

INTERVALS_CHECK = "sqlmesh_intervals_complete"
"""The optional check of every incremental model that shows whether it has gaps."""

LATE_DATA_CHECK = "sqlmesh_no_late_data"
"""The optional check of every incremental model that shows whether a source was loaded again after it was computed."""

PARTITIONS_REFUSED = (
    "has a `partitions_def`. SQLMesh itself decides which intervals it computes, whatever partition a run has. So "
    "Dagster could show a partition as materialized that is not. Remove it."
)
"""The reason for refusing an asset, after its name."""

HAS_VIRTUAL_ASSETS = "is_virtual" in inspect.signature(dg.AssetSpec.__new__).parameters
"""Whether this Dagster has virtual assets, which are never stale by themselves; 1.13 and later do."""

_EMAIL = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+")

_TRANSLATION_ERRORS = (
    dg.DagsterInvalidDefinitionError,
    dg.DagsterInvariantViolationError,  # `deps` has an asset twice, once with a table name
    CheckError,
    ResolutionException,
    ValidationError,
    # Dagster raises these if a template returns a value of another type.
    TypeError,
    ValueError,
    AttributeError,
)


@dataclass
class _TagProperties:
    """The properties of an asset that the tags of its model set, and the tags that set none."""

    group_name: str | None = None
    key_prefix: tuple[str, ...] = ()
    owners: list[str] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)
    freshness: timedelta | None = None
    ordinary_tags: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, model: Model, convention: TagConvention | None) -> _TagProperties:
        """Read the tags of a model. Refuse one that sets no property, or a property to a value it cannot have."""
        properties = cls()
        for tag in model.tags:
            split = convention.split(tag) if convention is not None else None
            if convention is None or split is None:
                properties.ordinary_tags.append(tag)
            elif problem := properties._set(*split, convention):
                raise ProjectLoadError(f"{model_label(model)}: tag {tag!r} cannot be used: {problem}")
        return properties

    def _set(self, name: str, value: str, convention: TagConvention) -> str | None:
        """Set a property to a value; the problem if that is impossible."""
        *others, last = ASSET_PROPERTIES
        if name in NOT_OF_ONE_MODEL:
            return NOT_OF_ONE_MODEL[name]
        if name not in (*others, last):
            return f"there is no property {name!r}; the properties are {', '.join(others)} and {last}."
        if not value:
            return f"it has no value; write it as {convention.tag(name, '<value>')}."
        if name == "group_name":
            if self.group_name not in (None, value):
                return f"another tag has set the group to {self.group_name!r} already."
            self.group_name = value
            return _dagster_problem(group_name=value)
        if name == "owner":
            self.owners.append(value)
            return _dagster_problem(owners=(value,))
        if name == "kind":
            self.kinds.append(value)
            return _dagster_problem(kinds=frozenset([value]))
        if name == "tag":
            key, _, content = value.partition("=")
            if self.tags.setdefault(key, content) != content:
                return f"another tag has set {key!r} to {self.tags[key]!r} already."
            return _dagster_problem(tags=((key, content),))
        if name == "freshness":
            try:
                slack = duration_of(value)
            except PydanticCustomError as error:
                return f"{error.message()}."
            if self.freshness not in (None, slack):
                return "another tag has set another one already."
            self.freshness = slack
            return None
        prefix = tuple(value.split("/"))
        if self.key_prefix not in ((), prefix):
            return f"another tag has set the prefix to {'/'.join(self.key_prefix)!r} already."
        self.key_prefix = prefix
        return "a prefix is names joined by '/', none of them empty." if "" in prefix else None


class Translator:
    """Translates the models of a manifest into Dagster's specs, as the attributes of a component configure."""

    def __init__(self, manifest: Manifest, attributes: ComponentAttributes, ports: Ports = CORE_ALONE) -> None:
        self.manifest = manifest
        self._check_specs = ports.check_specs
        self.attributes = attributes
        self._properties = {model.fqn: _TagProperties.of(model, attributes.tag_convention) for model in manifest.models}
        prefixes = {fqn: properties.key_prefix for fqn, properties in self._properties.items()}
        self.upstream = Upstream(manifest, attributes.external_models, prefixes)

    def asset_specs(self, spec_of: Callable[[Model], dg.AssetSpec]) -> dict[str, dg.AssetSpec]:
        """The assets of the selected models, by fqn. Each is made after those upstream of it, so their keys are known.

        An upstream model that is not selected has the key that it would have as an asset. So two components that share
        a project and its translation fit together.
        """
        upstream, models = self.upstream, self.upstream.models
        for fqn in upstream.tables_read:
            if not upstream.is_external(fqn) and fqn not in upstream.selected:
                upstream.keys[fqn] = spec_of(models[fqn]).key
        specs = {}
        for fqn in parents_first(models):
            if models[fqn].is_executable and fqn in upstream.selected:
                specs[fqn] = _accepted(spec_of(models[fqn]), models[fqn])
                upstream.keys[fqn] = specs[fqn].key
        return {fqn: specs[fqn] for fqn in models if fqn in specs}

    def asset_spec(self, model: Model) -> dg.AssetSpec:
        """The asset of one model: the defaults, its tags, then `translation`."""
        spec = self._default_spec(model)
        if self.attributes.translation is None:
            return spec
        try:
            return self.attributes.translation(spec, model)
        except _TRANSLATION_ERRORS as error:
            raise ConfigurationError(
                f"`translation` in defs.yaml cannot be applied to {model_label(model)}: {error}"
            ) from error

    def _default_spec(self, model: Model) -> dg.AssetSpec:
        properties = self._properties[model.fqn]
        dbt = model.dbt or DbtNode("")
        is_view = model.kind == "VIEW" and not model.stores_rows
        is_virtual = self.attributes.virtual_views and HAS_VIRTUAL_ASSETS and is_view
        virtual: dict[str, Any] = {"is_virtual": True} if is_virtual else {}
        owners = properties.owners or _default_owners(model)
        metadata = _definition_metadata(model)
        if model.owner and not any(model.owner in owner for owner in owners):  # a tag or Dagster prevents it
            metadata["sqlmesh/owner"] = model.owner
        if "storage_kind" in self.attributes.include_metadata:
            metadata["dagster/storage_kind"] = model.engine
        deps: list[dg.AssetDep] = []
        if model.fqn in self.upstream.selected:  # of another model, only the key is used
            deps = self.upstream.deps(model)
            metadata |= self.upstream.column_lineage(model) | _column_schema(model, self.upstream.column_sources(model))
        python = ["python"] if model.source_type == "python" else []
        try:
            return _spec_without_preview_warning(
                key=self.upstream.default_key(model),
                deps=deps,
                # Never empty: Dagster would show the op's description, which is the same for every model.
                description=_described(
                    model.description or f"SQLMesh model {model.display_name} ({model.kind}).", model.query
                ),
                group_name=properties.group_name or _identifier(dbt.group or model.schema),
                owners=owners,
                tags={
                    "sqlmesh/kind": model.kind.lower(),
                    **_ordinary_tags(properties.ordinary_tags),
                    **properties.tags,
                },
                kinds={"sqlmesh", model.engine, *python, *properties.kinds},
                code_version=model.data_hash,
                metadata=metadata,
                automation_condition=self._automation_condition(model),
                freshness_policy=self._freshness_policy(model),
                **virtual,
            )
        except (dg.DagsterInvalidDefinitionError, CheckError) as error:
            raise ProjectLoadError(f"{model_label(model)}: Dagster refuses its asset: {error}") from error

    def _automation_condition(self, model: Model) -> dg.AutomationCondition[dg.AssetKey] | None:
        if self.attributes.automation is None:
            return None
        require_five_fields(model, "automation")
        return cron_tick_condition(model.cron, model.cron_tz or "UTC")

    def _freshness_policy(self, model: Model) -> dg.FreshnessPolicy | None:
        """The policy by the model's cron; None for a model that SQLMesh does not execute after every tick."""
        slack = self._properties[model.fqn].freshness
        configured = self.attributes.freshness if slack is None else Freshness(slack)
        if configured is None or model.kind == "SEED" or model.end is not None:
            return None
        require_five_fields(model, "freshness")
        return dg.FreshnessPolicy.time_window(longest_gap(model.cron, model.cron_tz or "UTC") + configured.slack)

    def own_check_specs(self, model: Model, key: dg.AssetKey) -> Iterator[dg.AssetCheckSpec]:
        """The checks of a model that belong to no audit."""
        attributes = self.attributes
        if attributes.execution_status_check:
            text = "Passes if SQLMesh executed the model or had nothing to do."
            yield dg.AssetCheckSpec(STATUS_CHECK, asset=key, description=text)
        if attributes.intervals_check is not None and model.is_incremental:
            slack = attributes.intervals_check.slack
            longer = f"for longer than {duration_text(slack)} " if slack else ""
            text = (
                f"Fails if an expected interval is missing {longer}after its cron tick. Warns if a model that it reads "
                "was computed for an interval only afterwards."
            )
            metadata = {"sqlmesh/slack_seconds": slack.total_seconds()}
            yield dg.AssetCheckSpec(INTERVALS_CHECK, asset=key, description=text, metadata=metadata)
        yield from self._check_specs(attributes, self.upstream, model, key)

    def audit_check_spec(self, node: Model | StandaloneAudit, audit: Audit, key: dg.AssetKey) -> dg.AssetCheckSpec:
        """The check of one audit. It blocks if a failed audit stops the model and its downstream models.

        An external model or a standalone audit is no asset of ours: its check has the key of a model that reads it.
        """
        metadata: dict[str, Any] = {"sqlmesh/audit": audit.name, "sqlmesh/blocking": audit.blocking}
        if audit.args:
            metadata["sqlmesh/arguments"] = dg.MetadataValue.json(audit.args)
        if audit.query:
            metadata["sqlmesh/query"] = sql_metadata(audit.query)
        if audit.path:
            metadata["sqlmesh/path"] = dg.MetadataValue.path(audit.path)
        arguments = f" ({', '.join(f'{name} := {value}' for name, value in audit.args.items())})" if audit.args else ""
        description = f"SQLMesh audit {audit.name}{arguments}"
        check_name, query = audit.check_name, audit.query if "sql" in self.attributes.include_metadata else None
        if isinstance(node, Model) and node.is_external:
            # With its schema: a model may read tables of the same name in several schemas.
            check_name = f"{_identifier('_'.join(split_fqn(node.fqn)[-2:]))}__{check_name}"
            description += f" of the external model {node.display_name}"
        elif check_name in (STATUS_CHECK, INTERVALS_CHECK, LATE_DATA_CHECK):
            check_name = f"{check_name}_audit"
        return dg.AssetCheckSpec(
            check_name,
            asset=key,
            description=_described(as_sentence(audit.description or description), query),
            blocking=audit.blocking,
            metadata=metadata,
        )

    def external_specs(self, models: Iterable[Model]) -> list[dg.AssetSpec]:
        """The external tables that these models read, as assets that nothing here executes.

        Without `external_models.assets` there are none. Tables in `external_models.keys` are left out, because they
        belong to other assets, and so are tables that share a key.
        """
        if not self.attributes.external_models.assets:
            return []
        tables: dict[dg.AssetKey, dict[str, Model]] = {}
        for model in models:
            for fqn in self.upstream.of(model):
                if self.upstream.is_external(fqn) and fqn not in self.upstream.configured_keys:
                    tables.setdefault(self.upstream.external_key(fqn), {}).setdefault(fqn, model)
        return [self._external_spec(key, *next(iter(same.items()))) for key, same in tables.items() if len(same) == 1]

    def _external_spec(self, key: dg.AssetKey, fqn: str, downstream: Model) -> dg.AssetSpec:
        """The asset of an external table. If no external model declares it, only its name is known."""
        names, declared = ExternalTable.of(fqn), self.upstream.models.get(fqn)
        description = (declared.description if declared else None) or (
            f"The table {names.table_name}, which SQLMesh only reads."
        )
        if self.attributes.allows_restatements:
            description += (
                "\n\nIf its rows were corrected, restate the models that read it: select models, and set "
                f"`restate: {{start: ..., end: ..., tables: {yaml_line([names.table_name])}}}` in the run config."
            )
        return dg.AssetSpec(
            key,
            description=description,
            group_name=_identifier(names.schema),
            kinds={"external", downstream.engine},
            tags=EXTERNAL_TAG,
            metadata=_definition_metadata(declared) if declared else {"dagster/table_name": names.table_name},
        )


def _spec_without_preview_warning(**attributes: Any) -> dg.AssetSpec:
    """An asset, without Dagster's warning that virtual assets are a preview. `virtual_views` can turn them off."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.PreviewWarning)
        return dg.AssetSpec(**attributes)


_TRIAL_KEY = dg.AssetKey("nobody")
"""The key of the asset with which a property is tried."""


@lru_cache(maxsize=4096)
def _dagster_problem(**properties: Any) -> str | None:
    """The error with which Dagster refuses these properties of an asset; None if it accepts them."""
    if "tags" in properties:
        properties["tags"] = dict(properties["tags"])
    try:
        dg.AssetsDefinition(specs=[dg.AssetSpec(_TRIAL_KEY, **properties)])
    except (dg.DagsterInvalidDefinitionError, CheckError) as error:
        return re.sub(rf" for asset '?{re.escape(str(_TRIAL_KEY))}'?", "", str(error))  # the caller names it
    return None


def _described(description: str, query: str | None) -> str:
    """A description in Markdown, with the query after its first paragraph if it is known."""
    first, *others = description.split("\n\n", 1)
    return "\n\n".join([first, *([fenced(query, "sql")] if query else []), *others])


def sql_metadata(query: str) -> dg.MarkdownMetadataValue:
    """SQL as a block of code in the UI."""
    return dg.MetadataValue.md(fenced(query, "sql"))


def _accepted(spec: object, model: Model) -> dg.AssetSpec:
    """The spec of a model, which an override or `translation` may have made. One that cannot be used is refused."""
    if not isinstance(spec, dg.AssetSpec):
        raise ConfigurationError(
            f"{model_label(model)}: get_asset_spec returned {spec!r}. It must return a dagster.AssetSpec. To leave a "
            "model out, name it in `exclude`."
        )
    if spec.partitions_def is not None:
        raise ConfigurationError(f"{model_label(model)} {PARTITIONS_REFUSED}")
    return spec


def model_label(model: Model) -> str:
    """A model's name and file, for messages."""
    return f"Model {model.display_name} ({model.path or 'not from a file'})"


def require_five_fields(model: Model, attribute: str) -> None:
    """Refuse a model whose cron Dagster does not accept, for an attribute of `defs.yaml` that uses it."""
    if not is_accepted_cron(model.cron):
        raise ConfigurationError(
            f"{model_label(model)}: Dagster does not accept its cron {model.cron!r}, which `{attribute}` in defs.yaml "
            "uses. Write five fields (minute, hour, day of month, month, day of week) or an alias such as @daily."
        )


def _identifier(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_]+", "_", text) or "default"


def _default_owners(model: Model) -> list[str]:
    """The owner as Dagster accepts it: an email address, or else a team."""
    if not model.owner:
        return []
    name = model.owner_email or model.owner
    owner = name if _EMAIL.fullmatch(name) or name.startswith("team:") else f"team:{name}"
    # An owner that Dagster refuses must not prevent loading the project. The metadata shows it.
    return [] if _dagster_problem(owners=(owner,)) else [owner]


def _ordinary_tags(tags: Iterable[str]) -> dict[str, str]:
    """`tier=gold` as key and value, every other tag as a label: a key without a value.

    Characters that Dagster refuses become `_`, so that every project loads. Dagster keeps one value for a key. If a
    model has several values for a key, each of them becomes a label (`tier_gold`).
    """
    parts = [(_tag_key(tag), _tag_key(tag.partition("=")[0]), _tag_value(tag.partition("=")[2])) for tag in tags]
    values: dict[str, set[str]] = {}
    for _, key, value in parts:
        values.setdefault(key, set()).add(value)
    dagster_tags = {}
    for label, key, value in parts:
        is_pair = key != "" and len(values[key]) == 1
        dagster_tags[key if is_pair else label] = value if is_pair else ""
    return {key: value for key, value in dagster_tags.items() if key}


def _tag_key(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", text).strip("_.-")[:63]


def _tag_value(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", text.strip())[:63]


_SHOWN_PROPERTIES = (
    "cron", "cron_tz", "interval_unit", "start", "end", "lookback", "batch_size", "time_column", "unique_key",
    "references", "partitioned_by", "clustered_by", "storage_format", "gateway", "project", "signals",
)  # fmt: skip


def _column_schema(model: Model, sources: Mapping[str, Sequence[tuple[dg.AssetKey, str]]]) -> dict[str, Any]:
    """The columns. Dagster draws no lineage of a column, so a column's description names those it is made of."""
    columns = []
    for column in model.columns:
        made_of = ", ".join(f"{'.'.join(key.path[-2:])}.{name}" for key, name in sources.get(column.name, ()))
        text = column.description
        if made_of:
            text = f"{as_sentence(text)} From {made_of}." if text else f"From {made_of}."
        columns.append(dg.TableColumn(column.name, column.type, text))
    return {"dagster/column_schema": dg.TableSchema(columns=columns)} if columns else {}


def _definition_metadata(model: Model) -> dict[str, Any]:
    """Properties that Dagster's page of the asset does not show elsewhere."""
    values = {**{name: getattr(model, name) for name in _SHOWN_PROPERTIES}, "grain": model.grains}
    metadata: dict[str, Any] = {
        f"sqlmesh/{name}": ", ".join(value) if isinstance(value, tuple) else value
        for name, value in values.items()
        if value
    }
    metadata["dagster/table_name"] = model.table_name
    if model.dbt and model.dbt.unique_id:
        metadata["sqlmesh/dbt_unique_id"] = model.dbt.unique_id
    if model.dbt and model.dbt.meta:
        metadata["sqlmesh/dbt_meta"] = dg.MetadataValue.text(model.dbt.meta)
    if model.source_url:
        metadata["sqlmesh/source"] = dg.MetadataValue.url(model.source_url)
    metadata |= _column_schema(model, {})
    if model.columns_cut:
        metadata["sqlmesh/columns_cut"] = f"{counted(model.columns_cut, 'column')} left out"
    if model.path:
        metadata["dagster/code_references"] = dg.CodeReferencesMetadataValue(
            code_references=[dg.LocalFileCodeReference(file_path=model.path, line_number=1)]
        )
    return metadata
