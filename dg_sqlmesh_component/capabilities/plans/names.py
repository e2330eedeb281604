"""The names of the jobs for plans."""

from __future__ import annotations

from dg_sqlmesh_component.definitions.settings import Settings


def plan_job(settings: Settings) -> str:
    """The job that shows a plan, if there is one (`deploy`)."""
    return settings.job_name("plan")


def apply_job(settings: Settings) -> str:
    """The job that applies a plan, if there is one (`deploy`)."""
    return settings.job_name("apply")


def names_of_jobs(settings: Settings) -> tuple[str, str] | None:
    """As in `Ports`."""
    return None if settings.attributes.deploy is None else (plan_job(settings), apply_job(settings))
