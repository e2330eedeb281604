"""The jobs for plans: `<op>_plan` shows one, `<op>_apply` applies it. `<op>_preview` shows a pull request."""

from __future__ import annotations

import dagster as dg

from dg_sqlmesh_component.capabilities.plans.attributes import Deploy, Preview
from dg_sqlmesh_component.capabilities.plans.names import apply_job, plan_job
from dg_sqlmesh_component.capabilities.plans.preview_step import close_preview, show_preview
from dg_sqlmesh_component.capabilities.plans.step import execute_apply_step, execute_plan_step
from dg_sqlmesh_component.config.attribute_types import Selection, selectors
from dg_sqlmesh_component.definitions.op import graph_of_op, refuse_reserved_tags
from dg_sqlmesh_component.definitions.settings import Settings
from dg_sqlmesh_component.protocol.errors import ConfigurationError

_ALLOWED = {
    "allow_destructive": "Models whose tables may lose columns with their values.",
    "allow_revert": "Models that may go back to an older definition, on purpose.",
    "allow_drop_dependents": "Views of others that PostgreSQL may drop, because they read a view that is replaced.",
    "allow_lost_intervals": "Models that may show fewer rows than before.",
}


def build_deploy_jobs(configured: Deploy, settings: Settings) -> dg.Definitions:
    """The jobs. No schedule or sensor starts them: a person or CI does."""
    refuse_reserved_tags("deploy.tags", configured.tags)
    environment, execute = settings.environment, lambda context: execute_plan_step(context, settings)
    allowed = {option: dg.Field(dg.Array(str), default_value=[], description=text) for option, text in _ALLOWED.items()}
    allowed["select"] = _select(configured.select)
    digest = dg.Field(
        dg.StringSource, is_required=False, description=f"The digest of the reviewed plan, from {plan_job(settings)}."
    )
    back = "Instead of a digest: whether to show what the environment showed before a plan that has not finished."
    plan = graph_of_op(
        plan_job(settings),
        f"Shows what the files of this deployment would do to environment {environment}, and applies nothing.",
        execute,
        allowed,
    )
    apply = graph_of_op(
        apply_job(settings),
        f"Applies the plan of this deployment's files to environment {environment}, if its digest is approved.",
        lambda context: execute_apply_step(context, settings),
        {
            "digest": digest,
            "take_back": _switch(back),
            **allowed,
            "over_budget": _switch("Whether to apply a plan above `budget` in defs.yaml."),
        },
        pool=settings.pool,
    )
    return dg.Definitions(jobs=[graph.to_job(tags=dict(configured.tags)) for graph in (plan, apply)])


def _select(default: Selection) -> dg.Field:
    return dg.Field(
        dg.Array(str),
        default_value=list(selectors(default)),
        description="Models that are taken from the files, in SQLMesh's model selection language. All others stay as "
        "they are in prod. Empty: all models are taken from the files.",
    )


def build_preview_jobs(configured: Preview, settings: Settings) -> dg.Definitions:
    """The jobs `<op>_preview` and `<op>_preview_close`. No schedule or sensor starts them: CI or a person does."""
    refuse_reserved_tags("preview.tags", configured.tags)
    if configured.environment.name == settings.environment:
        raise ConfigurationError(
            f"`preview.environment` in defs.yaml is {settings.environment}, the environment of the component itself, "
            'which a preview would replace. Write another name, for example "pr_{{ env.PULL_REQUEST }}".'
        )
    description = "The name of the environment, in place of the variables in `preview.environment` of defs.yaml."
    environment = dg.Field(dg.StringSource, is_required=False, description=description)
    name = settings.job_name("preview")
    preview = graph_of_op(
        name,
        "Creates or updates the environment of a pull request from prod, and compares its data with prod.",
        lambda context: show_preview(context, settings),
        {
            "allow_pending": _switch("Whether models of prod that it reads may lack intervals."),
            "over_budget": _switch("Whether to compute a preview above `budget` in defs.yaml."),
            "select": _select(configured.select),
            "environment": environment,
        },
        pool=settings.pool,
    )
    close = graph_of_op(
        f"{name}_close",
        "Deletes the environment of a pull request, with the tables that only it uses.",
        lambda context: close_preview(context, settings),
        {"environment": environment},
        pool=settings.pool,
    )
    return dg.Definitions(jobs=[graph.to_job(tags=dict(configured.tags)) for graph in (preview, close)])


def _switch(description: str) -> dg.Field:
    return dg.Field(bool, default_value=False, description=description)
