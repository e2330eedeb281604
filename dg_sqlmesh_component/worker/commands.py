"""Shell commands of SQLMesh that a message names."""

from __future__ import annotations

import shlex

from sqlmesh.core import constants as c
from sqlmesh.core.context import Context
from sqlmesh.core.environment import Environment

from dg_sqlmesh_component.protocol.bootstrap import sqlmesh_program
from dg_sqlmesh_component.protocol.formatting import block
from dg_sqlmesh_component.protocol.messages import OpenProject


def sqlmesh_command(project: OpenProject, *words: str) -> str:
    """The shell command that runs `sqlmesh` with these words, from any folder."""
    folder = project.working_directory or project.paths[0]
    paths = project.paths if project.paths != (folder,) else ()
    options = [option for path in paths for option in ("-p", path)]
    if project.gateway:
        options += ["--gateway", project.gateway]
    if project.config:
        options += ["--config", project.config]
    return f"cd {shlex.quote(folder)} && {shlex.join([sqlmesh_program(), *options, *words])}"


def plan_command(project: OpenProject, environment: str, context: Context, *, is_new: bool = False) -> str:
    """The shell command of the plan that updates or creates the environment."""
    default = Environment.sanitize_name(context.config.default_target_environment)
    arguments = [] if environment == default else [environment]
    # If the local files equal prod, SQLMesh creates another environment only with this option.
    options = ["--include-unmodified"] if is_new and environment != c.PROD else []
    return sqlmesh_command(project, "plan", *arguments, *options)


def how_to_finish_plan(
    project: OpenProject, environment: str, plan_id: str | None = None, apply_job: str | None = None
) -> str:
    """What to do if a plan was interrupted after it had begun to change the environment.

    `apply_job` is the job that may have applied it.
    """
    command = block(sqlmesh_command(project, "plan", environment))
    if apply_job is None or plan_id is None:
        return f"If that plan was interrupted, apply it again:{command}"
    return (
        f"If that plan was interrupted, finish it. Was it applied by the job {apply_job}? Its run has the tag "
        f"`sqlmesh/plan_id: {plan_id}`: launch that run again. With `take_back: true`, {apply_job} takes the plan "
        f"back, or says why it cannot. If it was not applied by this job, apply it again:{command}"
    )
