"""The assets and checks of a project, and the SQLMesh nodes that they belong to. Computed from the manifest alone."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import dagster as dg

from dg_sqlmesh_component.definitions.translator import INTERVALS_CHECK, LATE_DATA_CHECK
from dg_sqlmesh_component.definitions.upstream import Upstream, parents_first, tables_behind_views, tables_read
from dg_sqlmesh_component.protocol.errors import ConfigurationError
from dg_sqlmesh_component.protocol.formatting import did_you_mean, fenced, unquoted
from dg_sqlmesh_component.protocol.graph import grouped, reachable
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


@dataclass(frozen=True)
class ProjectAssets:
    """The assets and checks of a project, and the SQLMesh nodes that they belong to.

    A node is a model, by its fqn, or a standalone audit, by its name.
    """

    manifest: Manifest
    specs: Mapping[str, dg.AssetSpec]  # the assets by fqn: one for each selected, executable model
    checks: Mapping[dg.AssetCheckKey, dg.AssetCheckSpec]  # all checks by key, in definition order
    # The external tables that are shown as assets: all that the assets read, if that is configured.
    external_specs: Sequence[dg.AssetSpec]
    models: Mapping[str, Model]  # every model of the project by fqn
    standalone_audits: Mapping[str, StandaloneAudit]  # the standalone audits that read one of the assets, by name
    unchecked_standalone_audits: Mapping[str, str]  # the model with which each standalone audit runs that has no check
    fqn_by_key: Mapping[dg.AssetKey, str]  # the model of each asset
    # The node of each check. The check of an external model or a standalone audit belongs to that node, and not to the
    # model of its asset.
    node_by_check: Mapping[dg.AssetCheckKey, str]
    # The check of each audit that has one, by the audit's node and position.
    check_by_audit: Mapping[tuple[str, int], dg.AssetCheckKey]
    # How long an interval may be missing before the check of intervals of an incremental model fails; None if there are
    # no such checks.
    intervals_slack: timedelta | None
    upstream: Upstream  # what the models read, with the keys of external tables

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

    @cached_property
    def parents_first(self) -> tuple[str, ...]:
        """All models, each after its upstream models: the order in which results may be recorded."""
        return parents_first(self.models)

    def external_models_with_audits(self, models: Iterable[str]) -> set[str]:
        """External models with audits that these models read, also through embedded models.

        They are not assets of ours. SQLMesh still runs their audits, and a blocking audit stops each model that
        reads the table.
        """
        tables = (table for model in models for table in tables_read(self.models[model].depends_on, self.models))
        return {table for table in tables if is_audited_external(table, self.models)}

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

    def shown_tables(self, node: str) -> set[str]:
        """The tables whose rows a view or a standalone audit shows. None of a model that has rows of its own."""
        if node in self.standalone_audits:
            read = self.standalone_audits[node].depends_on
            return {*read, *(of for model in read for of in self.tables_behind_views(model))}
        model = self.models.get(node)
        return self.tables_behind_views(node) if model and model.kind == "VIEW" and not model.stores_rows else set()

    def late_data_check(self, model: str) -> dg.AssetCheckKey | None:
        """The check of a model that shows whether its source was loaded after the model had read it."""
        return self._check(model, LATE_DATA_CHECK)

    def intervals_check(self, model: str) -> dg.AssetCheckKey | None:
        """The check of a model that shows which intervals it lacks, and which are outdated."""
        return self._check(model, INTERVALS_CHECK)

    def _check(self, model: str, name: str) -> dg.AssetCheckKey | None:
        check = dg.AssetCheckKey(self.specs[model].key, name) if model in self.specs else None
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
        return grouped((parent, child) for child, parents in nodes for parent in parents)

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
        return grouped((node, check) for check, node in self.node_by_check.items())

    @cached_property
    def audit_checks(self) -> Mapping[str, Sequence[dg.AssetCheckKey]]:
        """The checks of each node's audits, by node."""
        return grouped((node, check) for (node, _), check in self.check_by_audit.items())

    def checks_of_results(self, node: str, audits: Iterable[_Evaluated]) -> dict[dg.AssetCheckKey, _Evaluated]:
        """Match results to checks by the audit's name and arguments."""
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


def is_audited_external(table: str, models: Mapping[str, Model]) -> bool:
    """Whether a table is an external model with audits."""
    return table in models and models[table].is_external and bool(models[table].audits)


def selected_models(assets: ProjectAssets, select: tuple[str, ...], exclude: tuple[str, ...] = ()) -> list[str]:
    """The models of a selection that are assets, by fqn; all if it is empty. SQLMesh has evaluated it before."""
    models = assets.manifest.answer_to(select, exclude) if select or exclude else assets.specs
    return [fqn for fqn in models or () if fqn in assets.specs]


def selected(assets: ProjectAssets, select: tuple[str, ...], exclude: tuple[str, ...]) -> dg.AssetSelection:
    """The assets of a selection whose models are in the manifest; all assets if it is empty. Refuse one of none."""
    keys = [assets.key(fqn) for fqn in selected_models(assets, select, exclude)]
    if not keys:
        raise ConfigurationError(
            f"get_asset_selection(select={list(select)}, exclude={list(exclude)}) matches no asset of the SQLMesh "
            f"project {_project_name(assets)!r}. External and embedded models are not assets, and neither are models "
            "that `select` and `exclude` of the component leave out."
        )
    return dg.AssetSelection.assets(*keys)


def key_of_model(assets: ProjectAssets, name: str) -> dg.AssetKey:
    """The asset key of a model, by its name as written in SQLMesh, with or without its catalog."""
    if not isinstance(name, str):  # a template may give anything
        raise ConfigurationError(f"asset_key_for_model was given {name!r}. It takes the name of a model.")
    matches = [fqn for fqn in assets.names.fitting(name) if fqn in assets.specs]
    if len(matches) == 1:
        return assets.key(matches[0])
    if matches:
        raise ConfigurationError(
            f"{name!r} is the name of several models: {', '.join(sorted(matches))}. Write one of these instead."
        )
    known = did_you_mean(name, map(assets.name, assets.specs))
    raise ConfigurationError(
        f"No asset of the SQLMesh project {_project_name(assets)!r} is a model named {name!r}."
        + (known or " The project has no assets.")
    )


def _project_name(assets: ProjectAssets) -> str:
    """As `SQLMeshProject.name`, for messages."""
    return Path(assets.manifest.paths[0]).name
