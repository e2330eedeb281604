"""Build the assets and checks of a project from its manifest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property

import dagster as dg

from dg_sqlmesh_component.config.attribute_types import TagConvention
from dg_sqlmesh_component.definitions.project_assets import ProjectAssets, is_audited_external
from dg_sqlmesh_component.definitions.translator import Translator, model_label
from dg_sqlmesh_component.definitions.upstream import Upstream, parents_first, tables_read
from dg_sqlmesh_component.protocol.errors import ConfigurationError, ProjectLoadError
from dg_sqlmesh_component.protocol.formatting import short_hash
from dg_sqlmesh_component.protocol.manifest import Audit, Model, StandaloneAudit

SpecOf = Callable[[Model], dg.AssetSpec]
CheckSpecOf = Callable[[dg.AssetSpec, Model | StandaloneAudit, Audit], dg.AssetCheckSpec | None]


def build_assets(translator: Translator, spec_of: SpecOf, check_spec_of: CheckSpecOf) -> ProjectAssets:
    """Translate the selected models. Refuse assets that share a key, and overridden specs that cannot be used."""
    manifest, models, attributes = translator.manifest, translator.upstream.models, translator.attributes
    slack = attributes.intervals_check.slack if attributes.intervals_check else None
    specs = translator.asset_specs(spec_of)
    chosen = [models[fqn] for fqn in specs]
    fqn_by_key = _index_keys(chosen, specs, attributes.tag_convention)
    _refuse_key_collisions(chosen, fqn_by_key, translator.upstream, attributes.tag_convention)
    checks = _Checks(
        lambda asset, owner, audit: check_spec_of(asset, owner, audit) if attributes.audits.has_check(audit) else None
    )
    for model in chosen:
        for spec in translator.own_check_specs(model, specs[model.fqn].key):
            checks.add_own(spec, model)
        for audit in model.audits:
            checks.add(specs[model.fqn], model, audit)
    carriers = _Carriers(chosen, models)
    for external, carrier in carriers.of_external_models().items():
        for audit in models[external].audits:
            checks.add(specs[carrier], models[external], audit)
    standalone_audits, unchecked = {}, {}
    for standalone in manifest.standalone_audits:
        standalone_carrier = carriers.of(standalone)
        if standalone_carrier is not None:
            name = standalone.audit.name
            standalone_audits[name] = standalone
            checks.add(specs[standalone_carrier], standalone, standalone.audit)
            if (name, standalone.audit.position) not in checks.check_by_audit:
                unchecked[name] = standalone_carrier
    return ProjectAssets(
        manifest=manifest,
        specs=specs,
        checks=checks.specs,
        external_specs=translator.external_specs(chosen),
        models=models,
        standalone_audits=standalone_audits,
        unchecked_standalone_audits=unchecked,
        fqn_by_key=fqn_by_key,
        node_by_check=checks.node_by_check,
        check_by_audit=checks.check_by_audit,
        intervals_slack=slack,
        upstream=translator.upstream,
    )


class _Carriers:
    """The models whose assets carry the checks of standalone audits and of external models."""

    def __init__(self, chosen: list[Model], models: Mapping[str, Model]) -> None:
        self._chosen = {model.fqn: model for model in chosen}
        self._models = models

    def of(self, standalone: StandaloneAudit) -> str | None:
        """The model that a dbt test belongs to, else the most downstream model that the audit reads.

        The audit runs with that model. If Dagster splits the op, it runs in the last of the parts that it reads. If it
        reads only external tables, the first model that reads one of them carries it, as it carries their own audits.
        None if no asset of ours is such a model.
        """
        if standalone.dbt and standalone.dbt.tests in self._chosen:
            return standalone.dbt.tests
        tables = set(tables_read(standalone.depends_on, self._models))
        ours = sorted(tables & self._chosen.keys())
        if ours:
            return max(ours, key=self._depths.__getitem__)
        if any(fqn in self._models and not self._models[fqn].is_external for fqn in tables):
            return None  # the audit of another component
        siblings = [self._first_downstream[fqn] for fqn in tables & self._first_downstream.keys()]
        return min(siblings, key=self._rank, default=None)

    def of_external_models(self) -> dict[str, str]:
        """For each external model with audits, the first model that reads it."""
        return {fqn: first for fqn, first in self._first_downstream.items() if is_audited_external(fqn, self._models)}

    @cached_property
    def _first_downstream(self) -> Mapping[str, str]:
        """For each table, the first of the models that read it, also through embedded models."""
        first: dict[str, str] = {}
        for model in sorted(self._chosen, key=self._rank):
            for table in tables_read(self._chosen[model].depends_on, self._models):
                first.setdefault(table, model)
        return first

    def _rank(self, model: str) -> tuple[int, str]:
        return self._depths[model], model

    @cached_property
    def _depths(self) -> Mapping[str, int]:
        """The length of the longest chain of models upstream of each model."""
        depths: dict[str, int] = {}
        for fqn in parents_first(self._models):
            depths[fqn] = max(
                (depths[parent] + 1 for parent in self._models[fqn].depends_on if parent in depths), default=0
            )
        return depths


class _Checks:
    """Collects the checks, with the node and the audit of each."""

    def __init__(self, spec_of: CheckSpecOf) -> None:
        self._spec_of = spec_of
        self.specs: dict[dg.AssetCheckKey, dg.AssetCheckSpec] = {}
        self.node_by_check: dict[dg.AssetCheckKey, str] = {}
        self.check_by_audit: dict[tuple[str, int], dg.AssetCheckKey] = {}

    def add_own(self, spec: dg.AssetCheckSpec, model: Model) -> None:
        """Add a check of ours, which belongs to no audit."""
        self.specs[spec.key] = spec
        self.node_by_check[spec.key] = model.fqn

    def add(self, asset: dg.AssetSpec, owner: Model | StandaloneAudit, audit: Audit) -> None:
        spec = self._spec_of(asset, owner, audit)
        if spec is None:
            return
        if not isinstance(spec, dg.AssetCheckSpec):
            raise ConfigurationError(
                f"get_asset_check_spec returned {spec!r} for the audit {audit.name} of {asset.key.to_user_string()}. "
                "It must return a dagster.AssetCheckSpec, or None for no check."
            )
        if spec.asset_key != asset.key:
            raise ConfigurationError(
                f"get_asset_check_spec puts the check {spec.name!r} of the audit {audit.name} on the asset "
                f"{spec.asset_key.to_user_string()}; it belongs to {asset.key.to_user_string()}."
            )
        node = owner.fqn if isinstance(owner, Model) else owner.audit.name
        if spec.key in self.specs:
            if isinstance(owner, Model) and not owner.is_external:
                raise ConfigurationError(
                    f"Two audits of {asset.key.to_user_string()} have the check name {spec.name!r}. Each check of an "
                    "asset needs its own name. Return another name from get_asset_check_spec."
                )
            # The checks of the asset's own model keep their names; those of other nodes change theirs.
            spec = spec._replace(name=f"{spec.name}_{short_hash([node, audit.check_name])}")
        self.specs[spec.key] = spec
        self.node_by_check[spec.key] = node
        self.check_by_audit[(node, audit.position)] = spec.key


def _index_keys(
    chosen: list[Model], specs: Mapping[str, dg.AssetSpec], convention: TagConvention | None
) -> dict[dg.AssetKey, str]:
    by_key: dict[dg.AssetKey, Model] = {}
    for model in chosen:
        other = by_key.setdefault(specs[model.fqn].key, model)
        if other is not model:
            raise ProjectLoadError(
                f"Two models become the asset {specs[model.fqn].key.to_user_string()}: {model_label(other)} and "
                f"{model_label(model)}. Give one of them another key, {_by_tag_or_translation(convention)}."
            )
    return {key: model.fqn for key, model in by_key.items()}


def _by_tag_or_translation(convention: TagConvention | None) -> str:
    """How a model gets another key. Without a convention, no tag gives it one."""
    translation = "with `translation.key` in defs.yaml"
    if convention is None:
        return translation
    return f"for instance with a tag {convention.tag('key_prefix', '<prefix>')!r} in its MODEL block, or {translation}"


def _refuse_key_collisions(
    chosen: list[Model], fqn_by_key: Mapping[dg.AssetKey, str], upstream: Upstream, convention: TagConvention | None
) -> None:
    """Refuse an external table, or a model that is not selected, with the key of one of our assets."""
    for model in chosen:
        for fqn in upstream.of(model):
            key = upstream.key(fqn)
            owner = fqn_by_key.get(key)
            if owner is None or owner == fqn:
                continue
            if not upstream.is_external(fqn):
                node = f"{fqn}, which is not selected and"
                remedy = "Give one of them another key,"
            else:
                node = f"the external table {fqn},"
                remedy = "Give the table another key with `external_models.keys` in defs.yaml, or the model,"
            raise ProjectLoadError(
                f"{model_label(model)} reads {node} whose asset key {key.to_user_string()} is that of "
                f"{model_label(upstream.models[owner])}. {remedy} {_by_tag_or_translation(convention)}."
            )
