"""The assets and checks of a project, and the SQLMesh nodes that they belong to. Computed from the manifest alone."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cached_property
from typing import TypeVar

import dagster as dg

from dg_sqlmesh_component.definitions.translator import LATE_DATA_CHECK, Translator, model_label
from dg_sqlmesh_component.definitions.upstream import Upstream, parents_first, tables_read
from dg_sqlmesh_component.protocol.errors import ConfigurationError, ProjectLoadError
from dg_sqlmesh_component.protocol.formatting import fenced, short_hash, unquoted
from dg_sqlmesh_component.protocol.graph import reachable
from dg_sqlmesh_component.protocol.manifest import (
    Audit,
    Manifest,
    Model,
    ModelNames,
    StandaloneAudit,
    UsedAudit,
    pair_audits,
)

_Evaluated = TypeVar("_Evaluated", bound=UsedAudit)
_Member = TypeVar("_Member")

SpecOf = Callable[[Model], dg.AssetSpec]
CheckSpecOf = Callable[[dg.AssetSpec, Model | StandaloneAudit, Audit], dg.AssetCheckSpec | None]


@dataclass(frozen=True)
class OwnChecks:
    """Which checks models have that belong to no audit.

    Attributes:
        status: Whether each model has the check of its execution.
        intervals_slack: How long an interval may be missing before the intervals check fails; None for no check.
        late_data: Whether models that read awaited tables have the check for late data.
    """

    status: bool = True
    intervals_slack: timedelta | None = None
    late_data: bool = False


@dataclass(frozen=True)
class ProjectAssets:
    """The assets and checks of a project, and the SQLMesh nodes that they belong to.

    A node is a model, by its fqn, or a standalone audit, by its name.

    Attributes:
        specs: The assets by fqn: one for each selected, executable model.
        checks: All checks by key, in definition order.
        external_specs: The external tables that are shown as assets: all that the assets read, if that is configured.
        models: Every model of the project by fqn.
        standalone_audits: The standalone audits that read one of the assets, by name.
        unchecked_standalone_audits: The model with which each standalone audit runs that has no check.
        fqn_by_key: The model of each asset.
        node_by_check: The node of each check. The check of an external model or a standalone audit belongs to that
            node, and not to the model of its asset.
        check_by_audit: The check of each audit that has one, by the audit's node and position.
        intervals_slack: How long an interval may be missing before the check of intervals of an incremental model
            fails; None if there are no such checks.
        awaited: The keys of the external tables for which runs and ticks may have to wait, by fqn.
        external_key: The key of any external table.
        max_columns: How many columns of a model are shown.
    """

    manifest: Manifest
    specs: Mapping[str, dg.AssetSpec]
    checks: Mapping[dg.AssetCheckKey, dg.AssetCheckSpec]
    external_specs: Sequence[dg.AssetSpec]
    models: Mapping[str, Model]
    standalone_audits: Mapping[str, StandaloneAudit]
    unchecked_standalone_audits: Mapping[str, str]
    fqn_by_key: Mapping[dg.AssetKey, str]
    node_by_check: Mapping[dg.AssetCheckKey, str]
    check_by_audit: Mapping[tuple[str, int], dg.AssetCheckKey]
    intervals_slack: timedelta | None
    awaited: Mapping[str, dg.AssetKey]
    external_key: Callable[[str], dg.AssetKey]
    max_columns: int

    def with_problem(self, problem: str) -> ProjectAssets:
        """The same assets, whose descriptions begin with the error of a project that cannot be loaded any more.

        Dagster shows the beginning of the description on each asset of its graph.
        """
        notice = (
            "**The SQLMesh project cannot be loaded.** This asset is as it was when it was loaded the last time."
            f"\n\n{fenced(problem)}\n\n"
        )
        specs = {
            fqn: spec.replace_attributes(description=notice + (spec.description or ""))
            for fqn, spec in self.specs.items()
        }
        return replace(self, specs=specs)

    @classmethod
    def build(
        cls,
        translator: Translator,
        spec_of: SpecOf,
        check_spec_of: CheckSpecOf,
        own: OwnChecks,
    ) -> ProjectAssets:
        """Translate the selected models. Refuse assets that share a key, and overridden specs that cannot be used."""
        manifest, models = translator.manifest, translator.upstream.models
        specs = translator.asset_specs(spec_of)
        chosen = [models[fqn] for fqn in specs]
        fqn_by_key = _index_keys(chosen, specs)
        _refuse_key_collisions(chosen, fqn_by_key, translator.upstream)
        checks = _Checks(check_spec_of)
        for model in chosen:
            if own.status:
                checks.add_own(translator.status_check_spec(specs[model.fqn].key), model)
            if own.intervals_slack is not None and model.is_incremental:
                checks.add_own(translator.intervals_check_spec(specs[model.fqn].key, own.intervals_slack), model)
            tables = tables_behind_views(model, models) if own.late_data and model.is_incremental else set()
            if not tables.isdisjoint(translator.upstream.awaited):
                checks.add_own(translator.late_data_check_spec(specs[model.fqn].key), model)
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
        return cls(
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
            intervals_slack=own.intervals_slack,
            awaited=translator.upstream.awaited,
            external_key=translator.upstream.external_key,
            max_columns=translator.max_columns,
        )

    @cached_property
    def parents_first(self) -> tuple[str, ...]:
        """All models, each after its upstream models: the order in which results may be recorded."""
        return parents_first(self.models)

    def external_models_with_audits(self, models: Iterable[str]) -> set[str]:
        """External models with audits that these models read, also through embedded models.

        They are not assets of ours. SQLMesh runs their audits all the same, and a blocking audit stops each model that
        reads the table.
        """
        return {external for model in models for external in _audited_externals_of(model, self.models)}

    def upstream_outside_assets(self, models: Iterable[str]) -> dict[str, tuple[str, ...]]:
        """For each model, its upstream nodes that are not assets of ours, up to the next asset."""

        def reads(node: str) -> list[str]:
            parents = self.models[node].depends_on if node in self.models else ()
            return [parent for parent in parents if parent not in self.specs]

        beyond = {model: tuple(sorted(reachable(reads(model), reads))) for model in models}
        return {model: nodes for model, nodes in beyond.items() if nodes}

    def tables_behind_views(self, model: str) -> set[str]:
        """The tables that a model reads, also through views and embedded models."""
        return tables_behind_views(self.models[model], self.models) if model in self.models else set()

    def late_data_check(self, model: str) -> dg.AssetCheckKey | None:
        """The check of a model that shows whether its source was loaded after the model had read it."""
        check = dg.AssetCheckKey(self.specs[model].key, LATE_DATA_CHECK) if model in self.specs else None
        return check if check in self.checks else None

    def with_upstream(self, models: Iterable[str]) -> tuple[str, ...]:
        """These models and all models upstream of them that are assets of ours, parents before children."""
        nodes = reachable(models, lambda node: self.models[node].depends_on if node in self.models else ())
        return tuple(fqn for fqn in self.parents_first if fqn in nodes and fqn in self.specs)

    def downstream_of(self, nodes: Collection[str]) -> set[str]:
        """Models and standalone audits downstream of any of these nodes, at any distance."""

        def downstream(node: str) -> Iterable[str]:
            return self._direct_downstream.get(node, ())

        return reachable((child for node in nodes for child in downstream(node)), downstream)

    @cached_property
    def _direct_downstream(self) -> Mapping[str, list[str]]:
        nodes = [
            *((model.fqn, model.depends_on) for model in self.manifest.models),
            *((audit.audit.name, audit.depends_on) for audit in self.manifest.standalone_audits),
        ]
        return _grouped((parent, child) for child, parents in nodes for parent in parents)

    def name(self, node: str) -> str:
        """The name of a node in messages: the model's display name, or the standalone audit's name."""
        return self.models[node].display_name if node in self.models else unquoted(node)

    @cached_property
    def names(self) -> ModelNames:
        """Finds the models of the project by the names that people write."""
        return ModelNames({fqn: model.display_name for fqn, model in self.models.items()})

    def key(self, node: str) -> dg.AssetKey:
        """The asset key of a model that is an asset."""
        return self.specs[node].key

    def severity(self, node: str, is_blocking: bool) -> dg.AssetCheckSeverity:
        """The severity of a failed audit: an error if it blocks the model, or if dbt configures it as an error."""
        standalone = self.standalone_audits.get(node)
        is_error = is_blocking or bool(standalone and standalone.dbt and standalone.dbt.severity == "error")
        return dg.AssetCheckSeverity.ERROR if is_error else dg.AssetCheckSeverity.WARN

    def checks_of(self, node: str) -> Sequence[dg.AssetCheckKey]:
        """The checks of a node, those of its audits last."""
        return self._checks_by_node.get(node, ())

    @cached_property
    def _checks_by_node(self) -> Mapping[str, list[dg.AssetCheckKey]]:
        return _grouped((node, check) for check, node in self.node_by_check.items())

    @cached_property
    def audit_checks(self) -> Mapping[str, Sequence[dg.AssetCheckKey]]:
        """The checks of each node's audits, by node."""
        return _grouped((node, check) for (node, _), check in self.check_by_audit.items())

    def checks_of_results(self, node: str, audits: Iterable[_Evaluated]) -> dict[dg.AssetCheckKey, _Evaluated]:
        """Match results to checks by the audit's name and arguments, else by the order of its uses."""
        results = sorted(audits, key=lambda result: result.position)
        return {
            check: result
            for use, result in pair_audits(self.audits_of(node), results)
            if (check := self.check_by_audit.get((node, use.position))) is not None
        }

    def audits_of(self, node: str) -> tuple[Audit, ...]:
        """The audits of a model, or the standalone audit itself."""
        if node in self.standalone_audits:
            return (self.standalone_audits[node].audit,)
        return self.models[node].audits if node in self.models else ()


def _grouped(pairs: Iterable[tuple[str, _Member]]) -> dict[str, list[_Member]]:
    """The second members of the pairs, by the first."""
    groups: dict[str, list[_Member]] = {}
    for name, member in pairs:
        groups.setdefault(name, []).append(member)
    return groups


def tables_behind_views(model: Model, models: Mapping[str, Model]) -> set[str]:
    """The tables that a model reads, also through views and embedded models."""

    def behind(node: str) -> Sequence[str]:
        of = models.get(node)
        return of.depends_on if of is not None and of.kind in ("VIEW", "EMBEDDED") else ()

    return reachable(model.depends_on, behind)


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
        siblings = [
            fqn
            for fqn, model in self._chosen.items()
            if tables.intersection(tables_read(model.depends_on, self._models))
        ]
        return min(siblings, key=self._depths.__getitem__, default=None)

    def of_external_models(self) -> dict[str, str]:
        """For each external model with audits, the first model that reads it."""
        downstream = _grouped(
            (external, fqn) for fqn in self._chosen for external in sorted(_audited_externals_of(fqn, self._models))
        )
        return {external: min(models, key=self._depths.__getitem__) for external, models in downstream.items()}

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


def _audited_externals_of(model: str, models: Mapping[str, Model]) -> set[str]:
    tables = tables_read(models[model].depends_on, models)
    return {fqn for fqn in tables if fqn in models and models[fqn].is_external and models[fqn].audits}


def _index_keys(chosen: list[Model], specs: Mapping[str, dg.AssetSpec]) -> dict[dg.AssetKey, str]:
    by_key: dict[dg.AssetKey, Model] = {}
    for model in chosen:
        other = by_key.setdefault(specs[model.fqn].key, model)
        if other is not model:
            raise ProjectLoadError(
                f"Two models become the asset {specs[model.fqn].key.to_user_string()}: {model_label(other)} and "
                f"{model_label(model)}. Give one of them another key, for instance with a tag "
                "'dagster:key_prefix:<prefix>' in its MODEL block, or with `translation.key` in defs.yaml."
            )
    return {key: model.fqn for key, model in by_key.items()}


def _refuse_key_collisions(
    chosen: list[Model],
    fqn_by_key: Mapping[dg.AssetKey, str],
    upstream: Upstream,
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
                f"{model_label(upstream.models[owner])}. {remedy} for instance with a tag "
                "'dagster:key_prefix:<prefix>'."
            )
