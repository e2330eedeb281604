"""The request to SQLMesh that a step's selection and run config make, if the step is as it was planned."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Set
from dataclasses import dataclass, replace

import dagster as dg

from dg_sqlmesh_component.config.attribute_types import Budget
from dg_sqlmesh_component.config.external_tables import matching_tables
from dg_sqlmesh_component.config.run_config import (
    SQLMeshRunConfig,
    chosen_environment,
    config_of_run,
    refuse_blank_bounds,
    refuse_config_of_other_ops,
    refuse_options_without_effect,
    refuse_restatement,
    run_config,
)
from dg_sqlmesh_component.dagster_internals.steps import (
    JobOfAssets,
    assets_of,
    assets_of_later_steps,
    assets_of_run,
    planned_selection,
    repeats_failed_assets,
)
from dg_sqlmesh_component.definitions.awaited import Awaited
from dg_sqlmesh_component.definitions.op import NOT_SET, RESTATE_TAG
from dg_sqlmesh_component.definitions.project_assets import ProjectAssets
from dg_sqlmesh_component.definitions.settings import Settings
from dg_sqlmesh_component.definitions.translator import PARTITIONS_REFUSED
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.errors import ConfigurationError
from dg_sqlmesh_component.protocol.formatting import listed, unquoted
from dg_sqlmesh_component.run.limits import Limits
from dg_sqlmesh_component.run.run_log import RESULT_TAG


def run_tags(
    request: msg.EvaluationRequest, inherited: Collection[str], *, ignores_sources: bool = False
) -> dict[str, str]:
    """The run's settings as tags, so that people can find runs by them.

    If the run was launched again, Dagster has copied the tags of the first run: they are `inherited`.
    """
    settings = {
        "sqlmesh/environment": request.environment,
        "sqlmesh/ignore_cron": "true" if request.ignore_cron else None,
        "sqlmesh/ignore_sources": "true" if ignores_sources else None,
        "sqlmesh/start": request.start,
        "sqlmesh/end": request.end,
        "sqlmesh/skip_janitor": None if request.skip_janitor else "false",
        "sqlmesh/dry_run": None if request.WRITES else "true",
        RESULT_TAG: None,
        RESTATE_TAG: f"{request.restate.start} to {request.restate.end}" if request.restate else None,
    }
    return {name: value or NOT_SET for name, value in settings.items() if value is not None or name in inherited}


def build_request(
    context: dg.AssetExecutionContext, settings: Settings, tables: msg.AwaitedTables
) -> msg.EvaluationRequest:
    """Translate the step's selection.

    A selected asset is a model to run with its audits. If a check is selected and its asset is not, the audit is
    evaluated without running the model.

    Raises:
        ConfigurationError: The run config asks for something impossible, or an asset has partitions.
    """
    project, assets = settings.project, settings.assets
    config = _run_config(context)
    _refuse(context, settings, config, tables)
    environment = chosen_environment(config, assets.manifest.environment, settings.attributes.execution.environments)
    selected = _selected(context, assets, config)
    restate = _restatement(context, assets, config, selected.models)
    if restate is not None:
        selected = selected.restated
    if config.dry_run:
        selected = replace(selected, audit_only=frozenset())
    known = selected.nodes | selected.audit_only
    return _request_type(settings, config, restates=restate is not None)(
        project=project.open_request,
        environment=environment,
        models=tuple(fqn for fqn in assets.parents_first if fqn in selected.nodes),
        standalone_audits=tuple(sorted(selected.standalone_audits)),
        audit_only={
            node: audit_uses(assets, node, context.selected_asset_check_keys) for node in sorted(selected.audit_only)
        },
        execution_time=_run_started_at(context),
        external_models=frozenset(fqn for fqn in known if fqn in assets.models and assets.models[fqn].is_external),
        start=config.start,
        end=config.end,
        ignore_cron=config.ignore_cron,
        skip_janitor=config.skip_janitor,
        job=settings.job(context.run.run_id),
        # The jobs plan and apply for the declared environment only.
        deploy_jobs=settings.ports.deploy_jobs(settings) if environment == settings.environment else None,
        environment_timeout=settings.attributes.execution.environment_timeout,
        manifest_facts=msg.ManifestFacts(
            assets.manifest.gateway,
            None if project.open_request.environment else assets.manifest.environment,
            frozenset(assets.specs),
            assets.upstream_outside_assets(selected.models),
        ),
        restate=restate,
        elsewhere=_models_elsewhere(context, assets) - selected.models,
        sampling=settings.attributes.audits.sampling,
        tables=tables,
    )


def _refuse(
    context: dg.AssetExecutionContext, settings: Settings, config: SQLMeshRunConfig, tables: msg.AwaitedTables
) -> None:
    """Refuse assets that no request can describe, and run config that is impossible or without effect."""
    attributes, assets = settings.attributes, settings.assets
    for spec in context.assets_def.specs:  # `post_processing` may have added partitions
        if spec.partitions_def is not None:
            raise ConfigurationError(f"The asset {spec.key.to_user_string()} {PARTITIONS_REFUSED}")
    refuse_blank_bounds(config)
    refuse_restatement(config, is_allowed=attributes.allows_restatements)
    environment = chosen_environment(config, assets.manifest.environment, attributes.execution.environments)
    # A step that has only checks gets the config of the whole run, so all assets of the run count.
    runs_models = not assets.fqn_by_key.keys().isdisjoint(assets_of_run(context))
    # Dagster itself chooses what to repeat, and gives it the config of the failed run.
    is_asset_retry = repeats_failed_assets(context.run)
    refuse_options_without_effect(config, environment, runs_models=runs_models or is_asset_retry)
    if config.over_budget and attributes.budget == Budget():
        raise ConfigurationError("The run config sets over_budget, and defs.yaml has no `budget`. Leave it out.")
    if config.ignore_sources and tables.are_all:
        raise ConfigurationError(
            "The run config sets ignore_sources, and defs.yaml has no `external_models.wait`. Leave it out."
        )


@dataclass(frozen=True)
class _Selected:
    """What a step runs and audits.

    Attributes:
        models: The selected models.
        nodes: These, and external models that are audited before them.
        standalone_audits: The standalone audits to run.
        audit_only: The nodes whose audits are evaluated without running them.
    """

    models: Set[str]
    nodes: Set[str]
    standalone_audits: Set[str]
    audit_only: Set[str]

    @property
    def restated(self) -> _Selected:
        """A restatement computes models only. The audits of all other nodes are evaluated after it."""
        others = self.standalone_audits | (self.nodes - self.models)
        return _Selected(self.models, self.models, frozenset(), self.audit_only | others)


def _selected(context: dg.AssetExecutionContext, assets: ProjectAssets, config: SQLMeshRunConfig) -> _Selected:
    # A dry run yields no results, so a later part of a split step does not start. The first part answers for all.
    selected = assets_of_run(context) & assets.fqn_by_key.keys() if config.dry_run else context.selected_asset_keys
    models = {assets.fqn_by_key[key] for key in selected}
    nodes = models | assets.external_models_with_audits(models)
    standalone = {name for name, model in assets.unchecked_standalone_audits.items() if model in models}
    audit_only: set[str] = set()
    for check in reported_checks(context):
        node = assets.node_by_check[check]
        if node in assets.standalone_audits and assets.fqn_by_key[check.asset_key] in models:
            standalone.add(node)
        elif node not in nodes:
            audit_only.add(node)
    return _Selected(models, nodes, standalone, audit_only)


def _restatement(
    context: dg.AssetExecutionContext, assets: ProjectAssets, config: SQLMeshRunConfig, models: Set[str]
) -> msg.Restatement | None:
    """The restatement that the run config asks for; None for a run, and for a step that has only checks."""
    if config.restate is None or not models:
        return None
    tables_read = matching_tables(
        config.restate.tables, assets.upstream.external_tables, "restate.tables", "the run config"
    )
    only_promoted = isinstance(context, JobOfAssets) or bool(tables_read)
    earlier, later = _models_of_other_steps(context, assets, models)
    return msg.Restatement(config.restate.start, config.restate.end, only_promoted, tuple(tables_read), earlier, later)


def _request_type(settings: Settings, config: SQLMeshRunConfig, *, restates: bool) -> type[msg.EvaluationRequest]:
    """The request, which names the worker's function that serves it."""
    ports = settings.ports
    if config.dry_run:
        if ports.dry_run is None:
            raise ConfigurationError("The run config sets dry_run, and this installation has no dry runs.")
        return ports.dry_run.request
    if restates:
        assert ports.restating is not None, "`restate` in defs.yaml belongs to it"
        return ports.restating.request
    return msg.EvaluationRequest


def bounds_of(request: msg.EvaluationRequest) -> list[str]:
    """Those of `start`, `end` and `restate` that the run config has."""
    given = {"start": request.start, "end": request.end, "restate": request.restate}
    return [name for name, value in given.items() if value]


def _models_elsewhere(context: dg.AssetExecutionContext, assets: ProjectAssets) -> frozenset[str]:
    """The models of the run's other steps, also those of other components of the project."""
    keys = assets_of_run(context) - context.selected_asset_keys
    models = assets.models.values() if keys else ()
    return frozenset(model.fqn for model in models if model.is_executable and assets.upstream.key(model.fqn) in keys)


def _models_of_other_steps(
    context: dg.AssetExecutionContext, assets: ProjectAssets, models: Set[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The models of the run that earlier steps have computed, and that later steps are to compute.

    A step that does not run again, because the run repeats others, is an earlier one.
    """
    others = {assets.fqn_by_key[key] for key in assets_of_run(context) & assets.fqn_by_key.keys()} - models
    if not others:
        return (), ()
    of_later = assets_of_later_steps(context)
    ordered = [fqn for fqn in assets.parents_first if fqn in others]
    later = tuple(fqn for fqn in ordered if assets.key(fqn) in of_later)
    return tuple(fqn for fqn in ordered if fqn not in later), later


def refuse_changed_step(context: dg.AssetExecutionContext) -> None:
    """Refuse a step whose assets have changed since its run was created.

    Each Dagster process loads definitions itself. If the project was reloaded after a run was created (`dg dev`, `dg
    utils refresh-defs-state`), a step may have other models than planned. A model that has moved to another step, or
    that was removed, would not be executed, and nobody would notice. So the step is compared with the plan of its run,
    and with the plan of the failed run that this run repeats.

    Raises:
        ConfigurationError: With the assets and checks that are missing or new.
    """
    if isinstance(context, JobOfAssets):
        return  # the plan of its run has no assets
    selected = {*context.selected_asset_keys, *context.selected_asset_check_keys}
    planned = planned_selection(context, context.run)
    if planned is not None and planned != selected:
        raise ConfigurationError(
            f"The project was reloaded after this run was created.{_named_keys('No longer', planned - selected)}"
            f"{_named_keys('Now also', selected - planned)} Nothing was run in this step. Launch a new run."
        )
    if context.run.parent_run_id is None or context.run.step_keys_to_execute is None:
        return  # the run does not repeat steps of another run
    parent = context.instance.get_run_by_id(context.run.parent_run_id)
    planned_before = parent and planned_selection(context, parent)
    lost = {key for key in planned_before or () if isinstance(key, dg.AssetKey)} - selected
    if lost:
        raise ConfigurationError(
            "The project was reloaded after the run that this one repeats was created."
            f"{_named_keys('No longer', lost)} Nothing was run in this step. Launch a new run of all assets that were "
            "not materialized, instead of repeating steps."
        )


def _named_keys(change: str, keys: Iterable[dg.AssetKey | dg.AssetCheckKey]) -> str:
    names = sorted(key.to_user_string() for key in keys)
    return f" {change} part of this step: {listed(names)}." if names else ""


def awaited_by(context: dg.AssetExecutionContext, settings: Settings) -> Awaited:
    """The external tables that the run waits for; none if its run config ignores them."""
    waits = not _run_config(context).ignore_sources
    awaited = settings.ports.awaited(context.instance, assets_of(context.op_execution_context), settings, waits)
    if waits and (tables := awaited.without_asset):
        context.log.info(
            f"Not awaited, because no asset of this code location loads them: {listed([*map(unquoted, tables)])}. "
            "If one does, set its key in `external_models.keys` in defs.yaml."
        )
    return awaited


def limits_of(context: dg.AssetExecutionContext, settings: Settings) -> Limits:
    """What the run may compute. There is no budget if its run config goes on over it."""
    attributes = settings.attributes
    budget = Budget() if _run_config(context).over_budget else attributes.budget
    return Limits(context.instance, settings.assets, budget)


def reported_checks(context: dg.AssetExecutionContext) -> Set[dg.AssetCheckKey]:
    """The checks that the step reports: the selected ones or, if it repeats assets of a failed run, all of theirs.

    If Dagster repeats failed assets (`FROM_ASSET_FAILURE`), it selects only blocking checks and checks without a result
    in the failed run. The other checks would keep a result about the data before.
    """
    selected: Set[dg.AssetCheckKey] = context.selected_asset_check_keys
    if not repeats_failed_assets(context.run):
        return selected
    specs = context.assets_def.node_check_specs_by_output_name.values()
    return selected | {spec.key for spec in specs if spec.asset_key in context.selected_asset_keys}


def audit_uses(assets: ProjectAssets, node: str, selected: Set[dg.AssetCheckKey]) -> tuple[msg.AuditUse, ...]:
    """A node's audits in the manifest; those with a selected check are requested."""
    return tuple(
        msg.AuditUse(
            use.name,
            use.args_hash,
            use.position,
            is_requested=assets.check_by_audit.get((node, use.position)) in selected,
        )
        for use in assets.audits_of(node)
    )


def _run_config(context: dg.AssetExecutionContext) -> SQLMeshRunConfig:
    op = context.op_execution_context
    # Dagster gives a run that repeats failed assets the config of the failed run, which may be for other assets.
    if not repeats_failed_assets(context.run):
        refuse_config_of_other_ops(context.run.run_config, {node.name for node in op.job_def.nodes})
    return run_config(config_of_run(context.run.run_config, op.op_handle.name, op.op_def.name, op.op_config))


def _run_started_at(context: dg.AssetExecutionContext) -> int:
    """The start of the Dagster run. It is the same in all of its steps, so that they have the same execution time."""
    record = context.instance.get_run_record_by_id(context.run.run_id)
    assert record is not None, "a step's own run is always on record"
    started = record.start_time or record.create_timestamp.timestamp()
    return int(started * 1000)
