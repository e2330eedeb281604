"""What a step's selection and its run config mean to SQLMesh: one request."""

from __future__ import annotations

from collections.abc import Set

import dagster as dg

from dg_sqlmesh_component.config.attributes import Execution
from dg_sqlmesh_component.config.project import SQLMeshProject
from dg_sqlmesh_component.config.run_config import (
    SQLMeshRunConfig,
    chosen_environment,
    config_of_run,
    refuse_what_does_nothing,
)
from dg_sqlmesh_component.dagster_internals import assets_of_run, repeats_failed_assets
from dg_sqlmesh_component.definitions.project_assets import PARTITIONED, ProjectAssets
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.errors import DeclarationError
from dg_sqlmesh_component.run.recorder import told_checks


def run_tags(request: msg.EvaluationRequest) -> dict[str, str]:
    """What the run was told, as tags of the run, by which runs can be found."""
    said = {
        "environment": request.environment,
        "ignore_cron": "true" if request.ignore_cron else None,
        "start": request.start,
        "end": request.end,
        "skip_janitor": None if request.skip_janitor else "false",
    }
    return {f"sqlmesh/{name}": value for name, value in said.items() if value is not None}


def build_request(
    context: dg.AssetExecutionContext,
    project: SQLMeshProject,
    assets: ProjectAssets,
    execution: Execution,
    *,
    count_rows: bool,
    query_characters: int,
) -> msg.EvaluationRequest:
    """What the step's selection means to SQLMesh.

    A selected asset is a model to run; its audits come with it. A selected check of an asset that is
    not selected is an audit to evaluate without running the model.

    Args:
        count_rows: Whether to count the rows of each executed model's table.
        query_characters: How much is kept of the query of an audit that was evaluated.

    Raises:
        DeclarationError: The run config says what cannot be done, or an asset has partitions.
    """
    for spec in context.assets_def.specs:  # `post_processing` may have given them some
        if spec.partitions_def is not None:
            raise DeclarationError(f"The asset {spec.key.to_user_string()} {PARTITIONED}")
    models = {assets.fqn_by_key[key] for key in context.selected_asset_keys}
    nodes = models | assets.audited_externals(models)
    standalone: set[str] = set()
    audit_only: set[str] = set()
    for check in told_checks(context):
        node = assets.node_by_check[check]
        if node in assets.standalone_audits and assets.fqn_by_key[check.asset_key] in models:
            standalone.add(node)
        elif node not in nodes:
            audit_only.add(node)
    standalone |= {name for name, reader in assets.unchecked_standalone_audits.items() if reader in models}
    config = _run_config(context)
    environment = chosen_environment(config, assets.manifest.environment, tuple(execution.environments))
    # Of the whole run: a step of it that has only checks is given the config of the others.
    runs_models = not assets.fqn_by_key.keys().isdisjoint(assets_of_run(context))
    # What is repeated Dagster has chosen, and it gives that the config of the failed run.
    is_repeated = repeats_failed_assets(context.run)
    refuse_what_does_nothing(config, environment, runs_models=runs_models or is_repeated)
    return msg.EvaluationRequest(
        project=project.opening,
        environment=environment,
        models=tuple(fqn for fqn in assets.parents_first if fqn in nodes),
        standalone_audits=tuple(sorted(standalone)),
        audit_only={node: _uses(assets, node, context.selected_asset_check_keys) for node in sorted(audit_only)},
        execution_time=_run_started_at(context),
        external_models=frozenset(
            fqn for fqn in nodes | audit_only if fqn in assets.models and assets.models[fqn].is_external
        ),
        start=config.start,
        end=config.end,
        ignore_cron=config.ignore_cron,
        skip_janitor=config.skip_janitor,
        concurrent_tasks=execution.concurrent_tasks,
        count_rows=count_rows,
        query_characters=query_characters,
        holder=f"Dagster run {context.run.run_id}",
        overlap_timeout=execution.overlap_timeout,
        environment_timeout=execution.environment_timeout,
        described_as=msg.DescribedAs(
            assets.manifest.gateway,
            None if project.opening.environment else assets.manifest.environment,
            frozenset(assets.specs),
            assets.read_beyond(models),
        ),
    )


def _uses(assets: ProjectAssets, node: str, selected: Set[dg.AssetCheckKey]) -> tuple[msg.AuditUse, ...]:
    """A node's audits as the local project has them, and which of them are selected."""
    return tuple(
        msg.AuditUse(
            use.name, use.args, use.position, is_requested=assets.check_by_audit.get((node, use.position)) in selected
        )
        for use in assets.audits_of(node)
    )


def _run_config(context: dg.AssetExecutionContext) -> SQLMeshRunConfig:
    """What the run was told; an overridden schema may know more than concerns us."""
    op = context.op_execution_context
    said = config_of_run(context.run.run_config, op.op_handle.name, op.op_def.name, op.op_config)
    return SQLMeshRunConfig(**{name: said[name] for name in SQLMeshRunConfig.model_fields if name in said})


def _run_started_at(context: dg.AssetExecutionContext) -> int:
    """The Dagster run's start, the same in all of its steps and processes, so that one run is one point in time."""
    record = context.instance.get_run_record_by_id(context.run.run_id)
    assert record is not None, "a step's own run is always on record"
    started = record.start_time or record.create_timestamp.timestamp()
    return int(started * 1000)
