"""A SQLMesh model as Dagster sees it: keys, asset specs, check specs, and the way back from them."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from graphlib import TopologicalSorter
from typing import Any

import dagster as dg
from dagster_shared.check import CheckError

from .errors import ProjectLoadError
from .manifest import Audit, Manifest, Model, StandaloneAudit, split_fqn
from .outcomes import AuditResult
from .tag_convention import TagConvention

STATUS_CHECK = "sqlmesh_execution_status"
"""The check that every model has: what SQLMesh did with it in the run."""

MAX_QUERY_CHARACTERS = 4_000
"""Longest SQL text that goes into metadata; more is cut, with a note."""

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

    def __init__(self, manifest: Manifest, convention: TagConvention) -> None:
        self._manifest = manifest
        self._convention = convention
        self._models = {model.fqn: model for model in manifest.models}
        self._properties = {model.fqn: self._read_tags(model) for model in manifest.models}

    def asset_key(self, model: Model) -> dg.AssetKey:
        """`schema/name`, behind the prefix that a tag may set. The catalog is left out (ADR-0013)."""
        return dg.AssetKey([*self._properties[model.fqn].key_prefix, model.schema, model.table])

    def asset_spec(self, model: Model) -> dg.AssetSpec:
        """The asset of one model.

        Raises:
            ProjectLoadError: The model says something that Dagster refuses.
        """
        said = self._properties[model.fqn]
        try:
            return dg.AssetSpec(
                key=self.asset_key(model),
                deps=self._deps(model),
                # Never empty: Dagster would show the op's description, which is the same for every model.
                description=model.description or f"SQLMesh model {model.name} ({model.kind}).",
                group_name=said.group_name or _identifier(model.schema),
                owners=said.owners or _default_owners(model),
                tags={**_ordinary_tags(self._ordinary(model)), **said.tags},
                kinds={"sqlmesh", model.engine, *said.kinds},
                code_version=model.data_hash,
                metadata=_definition_metadata(model),
            )
        except (dg.DagsterInvalidDefinitionError, CheckError) as error:
            raise ProjectLoadError(f"{_where(model)}: Dagster refuses its asset: {error}") from error

    def check_specs(self, model: Model, key: dg.AssetKey) -> list[dg.AssetCheckSpec]:
        """The status check and one check for each use of an audit."""
        status = dg.AssetCheckSpec(
            STATUS_CHECK,
            asset=key,
            description="What SQLMesh did with the model in the run: passed when it was executed or had nothing to do.",
        )
        return [status, *(self.audit_check_spec(audit, key) for audit in model.audits)]

    def audit_check_spec(self, audit: Audit, key: dg.AssetKey) -> dg.AssetCheckSpec:
        """The check of one audit. Blocking where a failure stops the model and what is downstream of it."""
        metadata: dict[str, Any] = {"sqlmesh/audit": audit.name, "sqlmesh/blocking": audit.blocking}
        if audit.args:
            metadata["sqlmesh/arguments"] = dg.MetadataValue.json(audit.args)
        if audit.query:
            metadata["sqlmesh/query"] = sql_metadata(audit.query)
        if audit.path:
            metadata["sqlmesh/path"] = dg.MetadataValue.path(audit.path)
        arguments = f" with {json.dumps(audit.args)}" if audit.args else ""
        return dg.AssetCheckSpec(
            check_name(audit),
            asset=key,
            description=audit.description or f"SQLMesh audit {audit.name}{arguments}.",
            blocking=audit.blocking,
            metadata=metadata,
        )

    # -- lineage ----------------------------------------------------------------------------------

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
        """The key of a table that somebody else produces: `schema/name`, too, unless two tables share that."""
        fqn = parent.fqn if isinstance(parent, Model) else parent
        parts = list(split_fqn(fqn))
        prefix = self._properties[fqn].key_prefix if fqn in self._properties else ()
        return dg.AssetKey([*prefix, *(parts if self._is_ambiguous(fqn) else parts[-2:])])

    def _is_ambiguous(self, fqn: str) -> bool:
        return len(self._external_tables[split_fqn(fqn)[-2:]]) > 1

    @cached_property
    def _external_tables(self) -> dict[tuple[str, ...], set[str]]:
        """The tables from outside that models read, by schema and name."""
        tables: dict[tuple[str, ...], set[str]] = defaultdict(set)
        for model in self._models.values():
            for parent in self.upstream(model):
                if not isinstance(parent, Model) or parent.is_external:
                    fqn = parent.fqn if isinstance(parent, Model) else parent
                    tables[split_fqn(fqn)[-2:]].add(fqn)
        return tables

    def _deps(self, model: Model) -> list[dg.AssetDep]:
        deps: dict[dg.AssetKey, dg.AssetDep] = {}
        for parent in self.upstream(model):
            if isinstance(parent, Model) and parent.is_executable:
                deps[self.asset_key(parent)] = dg.AssetDep(self.asset_key(parent))
            else:
                # The table's name lets Dagster link the dependency to whichever asset produced that table.
                table = parent.table_name if isinstance(parent, Model) else ".".join(split_fqn(parent))
                key = self.external_key(parent)
                deps[key] = dg.AssetDep(key, metadata={"dagster/table_name": table})
        return list(deps.values())

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
            return ProjectLoadError(f"{_where(model)}: tag {tag!r} cannot be used: {rule}")

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


@lru_cache(maxsize=4096)
def dagster_problem(**properties: Any) -> str | None:
    """Dagster's own words against a property of an asset, None when it accepts it."""
    if "tags" in properties:
        properties["tags"] = dict(properties["tags"])
    try:
        dg.AssetsDefinition(specs=[dg.AssetSpec("probe", **properties)])
    except (dg.DagsterInvalidDefinitionError, CheckError) as error:
        return str(error)
    return None


def sql_metadata(query: str) -> dg.MarkdownMetadataValue:
    """SQL as the UI shows it best, cut at `MAX_QUERY_CHARACTERS`."""
    if len(query) > MAX_QUERY_CHARACTERS:
        query = f"{query[:MAX_QUERY_CHARACTERS]}\n-- cut here: {len(query)} characters in all"
    fence = "````" if "```" in query else "```"
    return dg.MetadataValue.md(f"{fence}sql\n{query}\n{fence}")


def _where(model: Model) -> str:
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
    """Labels without a value. Characters that Dagster has no place for become `_`, so that every project loads."""
    keys = (re.sub(r"[^A-Za-z0-9_.-]+", "_", tag).strip("_.-")[:63] for tag in tags)
    return {key: "" for key in keys if key}


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
    }
    metadata: dict[str, Any] = {f"sqlmesh/{name}": value for name, value in said.items() if value}
    metadata["dagster/table_name"] = model.table_name
    if model.columns:
        metadata["dagster/column_schema"] = dg.TableSchema(
            columns=[dg.TableColumn(column.name, column.type, column.description) for column in model.columns]
        )
    if model.path:
        metadata["dagster/code_references"] = dg.CodeReferencesMetadataValue(
            code_references=[dg.LocalFileCodeReference(file_path=model.path, line_number=1)]
        )
    return metadata


@dataclass(frozen=True)
class ProjectAssets:
    """A project's assets and checks, and the way back from them to SQLMesh's nodes.

    Attributes:
        specs: One per selected, executable model, by fqn.
        checks: All checks, by key, in definition order.
        models: Every model of the project, by fqn.
        standalone_audits: Those that have a check, by name.
    """

    manifest: Manifest
    specs: Mapping[str, dg.AssetSpec]
    checks: Mapping[dg.AssetCheckKey, dg.AssetCheckSpec]
    models: Mapping[str, Model]
    standalone_audits: Mapping[str, StandaloneAudit]
    fqn_by_key: Mapping[dg.AssetKey, str]
    standalone_by_check: Mapping[dg.AssetCheckKey, str]

    @classmethod
    def build(
        cls,
        manifest: Manifest,
        translator: Translator,
        spec_of: Callable[[Model], dg.AssetSpec],
        check_specs_of: Callable[[Model, dg.AssetKey], list[dg.AssetCheckSpec]],
    ) -> ProjectAssets:
        """Translate the selected models.

        Raises:
            ProjectLoadError: Two models, or a model and a table it reads, end up on one asset key.
        """
        models = {model.fqn: model for model in manifest.models}
        chosen = [models[fqn] for fqn in manifest.selected if models[fqn].is_executable]
        specs = _follow_renames([(model, spec_of(model)) for model in chosen], translator)
        fqn_by_key = _index_keys(chosen, specs)
        _refuse_collisions_with_external_tables(chosen, fqn_by_key, models, translator)
        checks = {spec.key: spec for model in chosen for spec in check_specs_of(model, specs[model.fqn].key)}
        standalone_audits, standalone_by_check = {}, {}
        for standalone in manifest.standalone_audits:
            carrier = next((fqn for fqn in standalone.depends_on if fqn in specs), None)
            if carrier is not None:
                spec = translator.audit_check_spec(standalone.audit, specs[carrier].key)
                spec = spec._replace(name=_free_name(spec, checks))
                checks[spec.key] = spec
                standalone_audits[standalone.audit.name] = standalone
                standalone_by_check[spec.key] = standalone.audit.name
        return cls(manifest, specs, checks, models, standalone_audits, fqn_by_key, standalone_by_check)

    @cached_property
    def parents_first(self) -> tuple[str, ...]:
        """All models, each behind those that it reads: the order in which results may be recorded."""
        graph = {fqn: self.models[fqn].depends_on for fqn in sorted(self.models)}
        return tuple(fqn for fqn in TopologicalSorter(graph).static_order() if fqn in self.models)

    def audited_externals(self, models: Iterable[str]) -> set[str]:
        """External models with audits that these models read, through embedded ones too.

        They are no assets of ours, yet SQLMesh runs their audits, and one that blocks stops what reads the table.
        """
        found: set[str] = set()
        to_visit = [parent for fqn in models for parent in self.models[fqn].depends_on]
        while to_visit:
            parent = self.models.get(to_visit.pop())
            if parent is not None and parent.is_embedded:
                to_visit.extend(parent.depends_on)
            elif parent is not None and parent.is_external and parent.audits:
                found.add(parent.fqn)
        return found

    def name(self, node: str) -> str:
        """A node as people call it: the model's name as written, or the standalone audit's."""
        return self.models[node].name if node in self.models else node

    def key(self, node: str) -> dg.AssetKey:
        """The asset key of a model that is an asset."""
        return self.specs[node].key

    def check_of(self, node: str, audits: Iterable[AuditResult]) -> dict[dg.AssetCheckKey, AuditResult]:
        """Match results to checks: by the audit's name and arguments, else by the order of its uses."""
        if node in self.standalone_audits:
            checks = [key for key, name in self.standalone_by_check.items() if name == node]
            return dict(zip(checks, audits))
        if node not in self.specs:
            return {}  # an external model: its audits have no check, but their failures are in the step's Failure
        results = sorted(audits, key=lambda one: one.position)
        defined = list(self.models[node].audits)
        matched = {}
        for by_arguments in (True, False):
            for result in list(results):
                same = [use for use in defined if use.name == result.name]
                use = next((use for use in same if not by_arguments or use.args == result.args), None)
                if use is not None:
                    defined.remove(use)
                    results.remove(result)
                    matched[dg.AssetCheckKey(self.key(node), check_name(use))] = result
        return matched


def _follow_renames(specs: list[tuple[Model, dg.AssetSpec]], translator: Translator) -> dict[str, dg.AssetSpec]:
    """Where somebody gave a model another key, those that read it follow."""
    renamed = {translator.asset_key(model): spec.key for model, spec in specs}
    return {
        model.fqn: spec.replace_attributes(
            deps=[dep._replace(asset_key=renamed.get(dep.asset_key, dep.asset_key)) for dep in spec.deps]
        )
        for model, spec in specs
    }


def _free_name(spec: dg.AssetCheckSpec, checks: Mapping[dg.AssetCheckKey, dg.AssetCheckSpec]) -> str:
    name, number = spec.name, 1
    while dg.AssetCheckKey(spec.asset_key, name) in checks:
        name = f"{spec.name}_standalone" if number == 1 else f"{spec.name}_standalone_{number}"
        number += 1
    return name


def _index_keys(chosen: list[Model], specs: Mapping[str, dg.AssetSpec]) -> dict[dg.AssetKey, str]:
    by_key: dict[dg.AssetKey, Model] = {}
    for model in chosen:
        other = by_key.setdefault(specs[model.fqn].key, model)
        if other is not model:
            raise ProjectLoadError(
                f"Two models become the asset {specs[model.fqn].key.to_user_string()}: {_where(other)} and "
                f"{_where(model)}. Give one of them another key, for instance with a tag "
                "'dagster:key_prefix:<prefix>' in its MODEL block."
            )
    return {key: model.fqn for key, model in by_key.items()}


def _refuse_collisions_with_external_tables(
    chosen: list[Model],
    fqn_by_key: Mapping[dg.AssetKey, str],
    models: Mapping[str, Model],
    translator: Translator,
) -> None:
    for model in chosen:
        for parent in translator.upstream(model):
            if isinstance(parent, Model) and parent.is_executable:
                continue
            fqn = fqn_by_key.get(translator.external_key(parent))
            if fqn is not None:
                table = parent.fqn if isinstance(parent, Model) else parent
                raise ProjectLoadError(
                    f"{_where(model)} reads the external table {table}, whose asset key "
                    f"{translator.external_key(parent).to_user_string()} is that of {_where(models[fqn])}. "
                    "Give the model another key, for instance with a tag 'dagster:key_prefix:<prefix>'."
                )
