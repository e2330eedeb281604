"""The jobs for plans: `<op>_plan` shows one, `<op>_apply` applies it. `<op>_preview` shows a pull request."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import dagster as dg

from dg_sqlmesh_component.config.plans import Deploy, Preview
from dg_sqlmesh_component.dagster_internals import failures_without_traceback
from dg_sqlmesh_component.definitions.op import refuse_reserved_tags
from dg_sqlmesh_component.definitions.settings import Settings
from dg_sqlmesh_component.plan.preview import close_preview, show_preview
from dg_sqlmesh_component.plan.step import apply_plan, show_plan

_NAMES = dg.Array(str)


def build_deploy_jobs(configured: Deploy, settings: Settings) -> dg.Definitions:
    """The jobs. No schedule or sensor starts them: a person or CI does."""
    refuse_reserved_tags("deploy.tags", configured.tags)
    environment = settings.environment
    allow_destructive = dg.Field(
        _NAMES, default_value=[], description="Models whose tables may lose columns with their values."
    )
    allow_revert = dg.Field(
        _NAMES, default_value=[], description="Models that may go back to an older definition, on purpose."
    )
    allow_drop_dependents = dg.Field(
        _NAMES,
        default_value=[],
        description="Models whose views may be replaced although PostgreSQL then drops others.",
    )
    allow_lost_intervals = dg.Field(
        _NAMES, default_value=[], description="Models that may show fewer intervals than before."
    )
    allowed = {
        "allow_destructive": allow_destructive,
        "allow_revert": allow_revert,
        "allow_drop_dependents": allow_drop_dependents,
        "allow_lost_intervals": allow_lost_intervals,
    }
    plan = _graph(
        settings.plan_job,
        f"Shows what the files of this deployment would do to environment {environment}, and applies nothing.",
        lambda context: show_plan(context, settings),
        allowed,
        pool=None,
    )
    apply = _graph(
        settings.apply_job,
        f"Applies the plan of this deployment's files to environment {environment}, if its digest is approved.",
        lambda context: apply_plan(context, settings),
        {
            "digest": dg.Field(
                dg.StringSource, description=f"The digest of the reviewed plan, from {settings.plan_job}."
            ),
            **allowed,
            "over_budget": dg.Field(
                bool, default_value=False, description="Whether to apply a plan above `budget` in defs.yaml."
            ),
        },
        pool=settings.pool,
    )
    return dg.Definitions(jobs=[graph.to_job(tags=dict(configured.tags)) for graph in (plan, apply)])


def build_preview_jobs(configured: Preview, settings: Settings) -> dg.Definitions:
    """The jobs `<op>_preview` and `<op>_preview_close`. No schedule or sensor starts them: CI or a person does."""
    refuse_reserved_tags("preview.tags", configured.tags)
    name = settings.job_name("preview")
    preview = _graph(
        name,
        "Creates or updates the environment of a pull request from prod, and compares its data with prod.",
        lambda context: show_preview(context, settings),
        {
            "allow_pending": dg.Field(
                bool, default_value=False, description="Whether models of prod that it reads may lack intervals."
            ),
            "over_budget": dg.Field(
                bool, default_value=False, description="Whether to compute a preview above `budget` in defs.yaml."
            ),
        },
        pool=settings.pool,
    )
    close = _graph(
        f"{name}_close",
        "Deletes the environment of a pull request, with the tables that only it uses.",
        lambda context: close_preview(context, settings),
        {},
        pool=settings.pool,
    )
    return dg.Definitions(jobs=[graph.to_job(tags=dict(configured.tags)) for graph in (preview, close)])


def _graph(
    name: str,
    description: str,
    compute: Callable[[dg.OpExecutionContext], Iterator[Any]],
    config: Mapping[str, Any],
    pool: str | None,
) -> dg.GraphDefinition:
    """One op of the same name."""

    def run_plan(context: dg.OpExecutionContext) -> Iterator[Any]:
        with failures_without_traceback(context):
            yield from compute(context)

    # Dagster looks at the annotation itself to decide which kind of context to pass.
    run_plan.__annotations__ = {"context": dg.OpExecutionContext}
    # Dagster allows no op of the job's own name, but its use in the job may have it. The run config names the use.
    op = dg.op(
        name=f"{name}_op", description=description, config_schema=dict(config), pool=pool, out=dg.Out(dg.Nothing)
    )(run_plan)
    use = dg.NodeInvocation(op.name, alias=name)
    return dg.GraphDefinition(name=name, node_defs=[op], dependencies={use: {}}, description=description)
