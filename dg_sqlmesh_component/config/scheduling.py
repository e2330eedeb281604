"""What the attributes of schedules and sensors have in common."""

import os
from dataclasses import replace
from datetime import timedelta
from typing import Annotated, Any, Literal, TypeAlias

import dagster as dg

from dg_sqlmesh_component.config.mappings import described, described_text
from dg_sqlmesh_component.protocol.errors import ConfigurationError

SHORTEST_INTERVAL = timedelta(seconds=30)
"""How often Dagster's daemon evaluates a sensor at most."""

DefaultStatus: TypeAlias = Annotated[
    Literal["RUNNING", "STOPPED"],
    described(
        'RUNNING: on, unless somebody has turned it off in Dagster. STOPPED: turn it on under "Automation" in '
        "Dagster's UI. A branch deployment of Dagster+ ignores RUNNING. Default: STOPPED.",
        "RUNNING",
    ),
]
TimeZone: TypeAlias = Annotated[str | None, described("Time zone of `cron`. Default: UTC.", "Europe/Berlin")]
RunTags: TypeAlias = Annotated[
    dict[str, str],
    described_text(
        "Tags of the runs, without keys that Dagster or this component sets. Default: none.", {"team": "data"}
    ),
]
"""The attribute `tags` of a job's runs."""


def off_in_branch_deployment(configured: Any) -> Any:
    """The attribute as it is in this deployment: STOPPED in a branch deployment of Dagster+, which would run prod.

    Args:
        configured: An attribute of `defs.yaml`. One that has nothing RUNNING is returned itself.
    """
    is_branch = os.environ.get("DAGSTER_CLOUD_IS_BRANCH_DEPLOYMENT") == "1"
    is_running = getattr(configured, "default_status", None) == "RUNNING"
    return replace(configured, default_status="STOPPED") if is_branch and is_running else configured


def check_cron_and_time_zone(attribute: str, cron: str, time_zone: str | None) -> None:
    """Refuse `cron` or `timezone` of a mapping if Dagster does not accept it."""
    if not _is_accepted(cron, None):
        raise ConfigurationError(
            f"`{attribute}.cron` in defs.yaml is {cron!r}, which Dagster does not accept as a cron. Write five "
            "fields, for example '0 6 * * *', or an alias such as '@daily'."
        )
    if not _is_accepted(cron, time_zone):
        raise ConfigurationError(
            f"`{attribute}.timezone` in defs.yaml is {time_zone!r}, which is no time zone. Write a name such as "
            "'Europe/Berlin'."
        )


def _is_accepted(cron: str, time_zone: str | None) -> bool:
    try:
        dg.ScheduleDefinition(job_name="any", cron_schedule=cron, execution_timezone=time_zone)
    except dg.DagsterInvalidDefinitionError:
        return False
    return True
