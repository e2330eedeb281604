"""A plan that is updating the environment while a run begins."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from dg_sqlmesh_component.protocol.errors import EvaluationError
from dg_sqlmesh_component.protocol.formatting import counted
from dg_sqlmesh_component.worker.commands import how_to_finish_plan
from dg_sqlmesh_component.worker.explain import unfinished_plan

if TYPE_CHECKING:
    from dg_sqlmesh_component.worker.evaluate.evaluation import EvaluationContext


def name_unfinished_plan(context: EvaluationContext) -> None:
    """Log which plan is updating the environment. SQLMesh waits for it and logs nothing."""
    request, environment = context.request, context.stored_environment()
    if environment.finalized_ts is None:
        apply_job = request.deploy_jobs[1] if request.deploy_jobs else None
        remedy = how_to_finish_plan(request.project, request.environment, environment.plan_id, apply_job)
        context.tracker.pipe.log(
            "warning",
            f"Plan {environment.plan_id} is updating environment {request.environment}. This run waits for it, for "
            f"{counted(request.environment_timeout, 'second')} at most (`execution.environment_timeout` in "
            f"defs.yaml). {remedy}",
        )


def await_finalized_environment(context: EvaluationContext) -> None:
    """Wait for a plan that is updating the environment, as SQLMesh's run does: until then, views may mix two plans.

    Raises:
        EnvironmentNotReadyError: The plan has not finished in time.
    """
    wait = context.config.run
    for _ in range(max(1, wait.environment_check_max_wait // wait.environment_check_interval)):
        if context.stored_environment().finalized_ts:
            return
        if context.tracker.pipe.is_cancelled:
            raise EvaluationError("The evaluation of audits was cancelled.")
        time.sleep(wait.environment_check_interval)
    raise unfinished_plan(context.request.project, context.request.environment)
