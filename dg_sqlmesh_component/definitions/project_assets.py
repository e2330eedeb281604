"""A project's assets and checks, and the way back from them to SQLMesh's nodes. Pure: the manifest in."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from graphlib import TopologicalSorter
from typing import Any, Protocol, TypeVar

import dagster as dg

from dg_sqlmesh_component.definitions.translator import Dependencies, Translator, where
from dg_sqlmesh_component.protocol.errors import DeclarationError, ProjectLoadError
from dg_sqlmesh_component.protocol.formatting import counted, did_you_mean, short_hash
from dg_sqlmesh_component.protocol.graph import reachable
from dg_sqlmesh_component.protocol.manifest import Audit, Manifest, Model, StandaloneAudit, pair_uses, split_fqn


class EvaluatedAudit(Protocol):
    """What a result says of the audit that was evaluated."""

    @property
    def name(self) -> str: ...
    @property
    def args(self) -> Mapping[str, str]: ...
    @property
    def position(self) -> int: ...
    @property
    def blocking(self) -> bool: ...


_Evaluated = TypeVar("_Evaluated", bound=EvaluatedAudit)

SpecOf = Callable[[Model], dg.AssetSpec]
CheckSpecOf = Callable[[dg.AssetSpec, Model | StandaloneAudit, Audit], dg.AssetCheckSpec | None]

PARTITIONED = (
    "has a `partitions_def`. SQLMesh itself decides which intervals it computes, whatever partition a run is of, so "
    "that a partition would be shown as materialized that is not. Leave it out."
)
"""Why what stands before it is refused."""


@dataclass(frozen=True)
class ProjectAssets:
    """A project's assets and checks, and the way back from them to SQLMesh's nodes.

    Attributes:
        specs: One per selected, executable model, by fqn.
        checks: All checks, by key, in definition order.
        models: Every model of the project, by fqn.
        standalone_audits: Those that read one of the assets, by name.
        unchecked_standalone_audits: Those of them without a check, with the model beside which they run.
        fqn_by_key: The model of each asset.
        node_by_check: The node of each check: the model, or for audits that stand on a reader of what they
            audit, the external model or the standalone audit.
        check_by_audit: The check of each audit that has one, by its node and position.
    """

    manifest: Manifest
    specs: Mapping[str, dg.AssetSpec]
    checks: Mapping[dg.AssetCheckKey, dg.AssetCheckSpec]
    models: Mapping[str, Model]
    standalone_audits: Mapping[str, StandaloneAudit]
    unchecked_standalone_audits: Mapping[str, str]
    fqn_by_key: Mapping[dg.AssetKey, str]
    node_by_check: Mapping[dg.AssetCheckKey, str]
    check_by_audit: Mapping[tuple[str, int], dg.AssetCheckKey]

    @classmethod
    def build(
        cls,
        manifest: Manifest,
        translator: Translator,
        spec_of: SpecOf,
        check_spec_of: CheckSpecOf,
        *,
        status_checks: bool = True,
    ) -> ProjectAssets:
        """Translate the selected models.

        Args:
            status_checks: Whether each model has the check that says what SQLMesh did with it.

        Raises:
            ProjectLoadError: Two models, or a model and a table it reads, end up on one asset key.
            DeclarationError: An overridden check belongs to another asset, or has the name of another check.
            DeclarationError: An asset has partitions.
        """
        models = {model.fqn: model for model in manifest.models}
        chosen = [models[fqn] for fqn in manifest.selected if models[fqn].is_executable]
        specs, keys = _follow_renames(chosen, translator, spec_of)
        fqn_by_key = _index_keys(chosen, specs)
        for model in chosen:
            if specs[model.fqn].partitions_def is not None:
                raise DeclarationError(f"{where(model)} {PARTITIONED}")
        _refuse_collisions_with_what_is_read(chosen, fqn_by_key, models, translator, keys)
        checks = _Checks(check_spec_of)
        for model in chosen:
            if status_checks:
                checks.add_status(translator.status_check_spec(specs[model.fqn].key), model)
            for audit in model.audits:
                checks.add(specs[model.fqn], model.fqn, model, audit)
        carriers = _Carriers(chosen, models)
        for external, carrier in carriers.first_readers().items():
            for audit in models[external].audits:
                checks.add(specs[carrier], external, models[external], audit)
        standalone_audits, unchecked = {}, {}
        for standalone in manifest.standalone_audits:
            reader = carriers.of(standalone)
            if reader is not None:
                name = standalone.audit.name
                standalone_audits[name] = standalone
                checks.add(specs[reader], name, standalone, standalone.audit)
                if (name, standalone.audit.position) not in checks.check_by_audit:
                    unchecked[name] = reader
        return cls(
            manifest=manifest,
            specs=specs,
            checks=checks.specs,
            models=models,
            standalone_audits=standalone_audits,
            unchecked_standalone_audits=unchecked,
            fqn_by_key=fqn_by_key,
            node_by_check=checks.node_by_check,
            check_by_audit=checks.check_by_audit,
        )

    @cached_property
    def parents_first(self) -> tuple[str, ...]:
        """All models, each behind those that it reads: the order in which results may be recorded."""
        return _parents_first(self.models)

    def audited_externals(self, models: Iterable[str]) -> set[str]:
        """External models with audits that these models read, through embedded ones too.

        They are no assets of ours, yet SQLMesh runs their audits, and one that blocks stops what reads the table.
        """
        return {external for model in models for external in _audited_externals_of(model, self.models)}

    def read_beyond(self, models: Iterable[str]) -> dict[str, tuple[str, ...]]:
        """What each of the models reads that is no asset of ours, through others that are none either."""
        beyond = {model: tuple(sorted(self._beyond(model))) for model in models}
        return {model: reads for model, reads in beyond.items() if reads}

    def _beyond(self, model: str) -> set[str]:
        def reads(node: str) -> list[str]:
            parents = self.models[node].depends_on if node in self.models else ()
            return [parent for parent in parents if parent not in self.specs]

        return reachable(reads(model), reads)

    def downstream_of(self, nodes: Collection[str]) -> set[str]:
        """Models and standalone audits that read any of these, through others too."""
        if not nodes:
            return set()
        readers: dict[str, list[str]] = {}
        for reader, reads in [
            *((model.fqn, model.depends_on) for model in self.manifest.models),
            *((audit.audit.name, audit.depends_on) for audit in self.manifest.standalone_audits),
        ]:
            for parent in reads:
                readers.setdefault(parent, []).append(reader)

        def readers_of(node: str) -> list[str]:
            return readers.get(node, [])

        return reachable((reader for node in nodes for reader in readers_of(node)), readers_of)

    def name(self, node: str) -> str:
        """A node as people call it: the model's name as written, or the standalone audit's."""
        return self.models[node].name if node in self.models else node

    def key(self, node: str) -> dg.AssetKey:
        """The asset key of a model that is an asset."""
        return self.specs[node].key

    def key_of_name(self, name: str, project: str) -> dg.AssetKey:
        """The asset key of a model, by its name as written in SQLMesh, with or without its catalog.

        Args:
            project: The project's name, for the error.

        Raises:
            DeclarationError: No asset is a model of that name, or more than one is.
        """
        parts = [part.strip('"').casefold() for part in name.split(".")]
        found = [
            fqn
            for fqn in self.specs
            if name in (self.models[fqn].name, fqn)
            or [part.casefold() for part in split_fqn(fqn)[-len(parts) :]] == parts
        ]
        if len(found) == 1:
            return self.specs[found[0]].key
        if found:
            raise DeclarationError(
                f"{name!r} is more than one model: {', '.join(sorted(found))}. Write out the catalog."
            )
        known = did_you_mean(name, (self.models[fqn].name for fqn in self.specs))
        raise DeclarationError(
            f"No asset of the SQLMesh project {project!r} is a model named {name!r}."
            + (known or " The project has no assets.")
        )

    def severity(self, node: str, audit: EvaluatedAudit) -> dg.AssetCheckSeverity:
        """How bad it is when an audit fails: an error where it stops the model, or where dbt says that it is one."""
        standalone = self.standalone_audits.get(node)
        is_error = audit.blocking or bool(standalone and standalone.dbt and standalone.dbt.severity == "error")
        return dg.AssetCheckSeverity.ERROR if is_error else dg.AssetCheckSeverity.WARN

    @cached_property
    def audit_checks(self) -> Mapping[str, tuple[dg.AssetCheckKey, ...]]:
        """The checks of each node's audits, by node."""
        found: dict[str, list[dg.AssetCheckKey]] = {}
        for (node, _), check in self.check_by_audit.items():
            found.setdefault(node, []).append(check)
        return {node: tuple(checks) for node, checks in found.items()}

    def check_of(self, node: str, audits: Iterable[_Evaluated]) -> dict[dg.AssetCheckKey, _Evaluated]:
        """Match results to checks: by the audit's name and arguments, else by the order of its uses."""
        results = sorted(audits, key=lambda one: one.position)
        return {
            check: result
            for use, result in pair_uses(self.audits_of(node), results)
            if (check := self.check_by_audit.get((node, use.position))) is not None
        }

    def audits_of(self, node: str) -> tuple[Audit, ...]:
        """The audits of a model or external model, or the one that a standalone audit is."""
        if node in self.standalone_audits:
            return (self.standalone_audits[node].audit,)
        return self.models[node].audits if node in self.models else ()


def _parents_first(models: Mapping[str, Model]) -> tuple[str, ...]:
    graph = {fqn: models[fqn].depends_on for fqn in sorted(models)}
    return tuple(fqn for fqn in TopologicalSorter(graph).static_order() if fqn in models)


class _Carriers:
    """The models that checks of standalone audits, and of audits of external models, stand on."""

    def __init__(self, chosen: list[Model], models: Mapping[str, Model]) -> None:
        self._chosen = {model.fqn: model for model in chosen}
        self._models = models

    def of(self, standalone: StandaloneAudit) -> str | None:
        """The model that dbt says it tests, else that furthest downstream of those that it reads.

        It runs with that model, and where Dagster splits the op, with the last of its parts that the audit reads. One
        that reads tables from outside only stands on the first model that reads one of these, as their own audits do.
        """
        if standalone.dbt and standalone.dbt.tests in self._chosen:
            return standalone.dbt.tests
        read = _tables_behind(standalone.depends_on, self._models)
        ours = sorted(read & self._chosen.keys())
        if ours:
            return max(ours, key=self._depths.__getitem__)
        if any(fqn in self._models and not self._models[fqn].is_external for fqn in read):
            return None  # another declaration's
        readers = [fqn for fqn, model in self._chosen.items() if read & _tables_behind(model.depends_on, self._models)]
        return min(readers, key=self._depths.__getitem__, default=None)

    def first_readers(self) -> dict[str, str]:
        """The model that carries the checks of each external model with audits: the first that reads it."""
        readers: dict[str, list[str]] = {}
        for fqn in self._chosen:
            for external in sorted(_audited_externals_of(fqn, self._models)):
                readers.setdefault(external, []).append(fqn)
        return {external: min(found, key=self._depths.__getitem__) for external, found in readers.items()}

    @cached_property
    def _depths(self) -> Mapping[str, int]:
        """How many models stand upstream of each, one behind the other."""
        depths: dict[str, int] = {}
        for fqn in _parents_first(self._models):
            depths[fqn] = max(
                (depths[parent] + 1 for parent in self._models[fqn].depends_on if parent in depths), default=0
            )
        return depths


class _Checks:
    """Collects checks, and what each of them is the check of."""

    def __init__(self, spec_of: CheckSpecOf) -> None:
        self._spec_of = spec_of
        self.specs: dict[dg.AssetCheckKey, dg.AssetCheckSpec] = {}
        self.node_by_check: dict[dg.AssetCheckKey, str] = {}
        self.check_by_audit: dict[tuple[str, int], dg.AssetCheckKey] = {}

    def add_status(self, spec: dg.AssetCheckSpec, model: Model) -> None:
        self.specs[spec.key] = spec
        self.node_by_check[spec.key] = model.fqn

    def add(self, asset: dg.AssetSpec, node: str, owner: Model | StandaloneAudit, audit: Audit) -> None:
        spec = self._spec_of(asset, owner, audit)
        if spec is None:
            return
        if not isinstance(spec, dg.AssetCheckSpec):
            raise DeclarationError(
                f"get_asset_check_spec gave {spec!r} for the audit {audit.name} of {asset.key.to_user_string()}; "
                "it must give a dagster.AssetCheckSpec, or None for no check."
            )
        if spec.asset_key != asset.key:
            raise DeclarationError(
                f"get_asset_check_spec puts the check {spec.name!r} of the audit {audit.name} on the asset "
                f"{spec.asset_key.to_user_string()}; it belongs to {asset.key.to_user_string()}."
            )
        is_own = isinstance(owner, Model) and not owner.is_external
        if spec.key in self.specs and is_own:
            raise DeclarationError(
                f"Two audits of {asset.key.to_user_string()} become the check {spec.name!r}. Each check of an asset "
                "needs a name of its own, which get_asset_check_spec may give."
            )
        if spec.key in self.specs:
            # Audits of other nodes stand beside the model's own, which keep their names.
            spec = spec._replace(name=f"{spec.name}_{short_hash([node, audit.check_name])}")
        self.specs[spec.key] = spec
        self.node_by_check[spec.key] = node
        self.check_by_audit[(node, audit.position)] = spec.key


def _tables_behind(read: Iterable[str], models: Mapping[str, Model]) -> set[str]:
    """What is really read: embedded models are no tables, but what they read is."""

    def is_embedded(fqn: str) -> bool:
        return fqn in models and models[fqn].is_embedded

    found = reachable(read, lambda fqn: models[fqn].depends_on if is_embedded(fqn) else ())
    return {fqn for fqn in found if not is_embedded(fqn)}


def _audited_externals_of(model: str, models: Mapping[str, Model]) -> set[str]:
    read = _tables_behind(models[model].depends_on, models)
    return {fqn for fqn in read if fqn in models and models[fqn].is_external and models[fqn].audits}


def _follow_renames(
    chosen: list[Model], translator: Translator, spec_of: SpecOf
) -> tuple[dict[str, dg.AssetSpec], _RealKeys]:
    """The assets, each depending on the keys that its upstream models really have; and those keys.

    A model upstream that is not selected has the key that it would have if it were, so that two declarations
    that share a project and its translation join up.
    """
    specs = {model.fqn: _checked(spec_of(model), model) for model in chosen}
    keys = _RealKeys(specs, translator, spec_of)
    dependencies = Dependencies(translator.tables(keys.of))
    lineage = _ColumnLineage(translator, keys)
    for model in chosen:
        spec, metadata = specs[model.fqn], lineage.metadata(model)
        deps = _real_deps(spec, list(translator.upstream(model)), translator, keys, dependencies)
        if metadata or deps != list(spec.deps):  # Dagster checks all of a spec again that is replaced
            specs[model.fqn] = spec.replace_attributes(deps=deps, metadata={**metadata, **spec.metadata})
    return specs, keys


def _checked(spec: object, model: Model) -> dg.AssetSpec:
    if not isinstance(spec, dg.AssetSpec):
        raise DeclarationError(
            f"{where(model)}: get_asset_spec gave {spec!r}; it must give a dagster.AssetSpec. To leave a model out, "
            "name it in `exclude`."
        )
    if "None" in spec.key.path and "None" not in model.fqn:
        raise DeclarationError(
            f"{where(model)}: `translation` gives it the key {spec.key.to_user_string()}: a variable that it names is "
            "not set."
        )
    return spec


class _RealKeys:
    """The keys that everything has in the end."""

    def __init__(self, specs: Mapping[str, dg.AssetSpec], translator: Translator, spec_of: SpecOf) -> None:
        self._known = {fqn: spec.key for fqn, spec in specs.items()}
        self._translator = translator
        self._spec_of = spec_of

    def of(self, parent: Model | str) -> dg.AssetKey:
        """The key of something that is read."""
        if not isinstance(parent, Model) or parent.is_external:
            return self._translator.external_key(parent)
        if parent.fqn not in self._known:
            self._known[parent.fqn] = self._spec_of(parent).key
        return self._known[parent.fqn]


def _real_deps(
    spec: dg.AssetSpec,
    parents: list[Model | str],
    translator: Translator,
    keys: _RealKeys,
    dependencies: Dependencies,
) -> list[dg.AssetDep]:
    """The dependencies of an asset, each default key in them replaced by the real keys of the parents behind it."""
    real: dict[dg.AssetKey, list[dg.AssetKey]] = {}
    for parent in parents:
        real.setdefault(translator.default_key(parent), []).append(keys.of(parent))
    deps: dict[dg.AssetKey, dg.AssetDep] = {}
    for dep in spec.deps:
        is_bare = dep.partition_mapping is None and not dep.metadata
        is_default = is_bare or dep == translator.default_dependencies[dep.asset_key]
        for key in real.get(dep.asset_key, ()):
            deps[key] = dependencies[key] if is_default else dep._replace(asset_key=key)
        if dep.asset_key not in real:
            deps[dep.asset_key] = dep
    return list(deps.values())


class _ColumnLineage:
    """Column lineage in terms of assets: through embedded models, to the keys that everything really has."""

    def __init__(self, translator: Translator, keys: _RealKeys) -> None:
        self._translator = translator
        self._keys = keys

    def metadata(self, model: Model) -> dict[str, Any]:
        if not model.column_lineage:
            return {}
        metadata: dict[str, Any] = {
            "dagster/column_lineage": dg.TableColumnLineage(
                {
                    column: [dg.TableColumnDep(asset_key=key, column_name=name) for key, name in made_of]
                    for column, pairs in model.column_lineage.items()
                    if (made_of := sorted({one for pair in pairs for one in self._sources(*pair)}))
                }
            )
        }
        if model.column_lineage_cut:
            metadata["sqlmesh/column_lineage_cut"] = (
                f"{counted(model.column_lineage_cut, 'pair')} of columns left out; "
                "`metadata_limits.lineage_pairs` in defs.yaml says how many are kept"
            )
        return metadata

    def _sources(self, fqn: str, column: str) -> Iterable[tuple[dg.AssetKey, str]]:
        parent = self._translator.model(fqn)
        if parent is not None and parent.is_embedded:
            for source in (parent.column_lineage or {}).get(column, ()):
                yield from self._sources(*source)
        else:
            yield self._keys.of(parent or fqn), column


def _index_keys(chosen: list[Model], specs: Mapping[str, dg.AssetSpec]) -> dict[dg.AssetKey, str]:
    by_key: dict[dg.AssetKey, Model] = {}
    for model in chosen:
        other = by_key.setdefault(specs[model.fqn].key, model)
        if other is not model:
            raise ProjectLoadError(
                f"Two models become the asset {specs[model.fqn].key.to_user_string()}: {where(other)} and "
                f"{where(model)}. Give one of them another key, for instance with a tag "
                "'dagster:key_prefix:<prefix>' in its MODEL block, or with `translation.key` in defs.yaml."
            )
    return {key: model.fqn for key, model in by_key.items()}


def _refuse_collisions_with_what_is_read(
    chosen: list[Model],
    fqn_by_key: Mapping[dg.AssetKey, str],
    models: Mapping[str, Model],
    translator: Translator,
    keys: _RealKeys,
) -> None:
    """A table that somebody else produces, or a model that is not selected, must not look like one of our assets."""
    selected = {model.fqn for model in chosen}
    for model in chosen:
        for parent in translator.upstream(model):
            is_model = isinstance(parent, Model) and parent.is_executable
            if isinstance(parent, Model) and is_model and parent.fqn in selected:
                continue
            fqn = fqn_by_key.get(keys.of(parent))
            if fqn is None:
                continue
            table = parent.fqn if isinstance(parent, Model) else parent
            what = f"{table}, which is not selected and" if is_model else f"the external table {table},"
            remedy = (
                "Give one of them another key,"
                if is_model
                else "Give the table another key with `external_models.keys` in defs.yaml, or the model,"
            )
            raise ProjectLoadError(
                f"{where(model)} reads {what} whose asset key {keys.of(parent).to_user_string()} is that of "
                f"{where(models[fqn])}. {remedy} for instance with a tag 'dagster:key_prefix:<prefix>'."
            )
