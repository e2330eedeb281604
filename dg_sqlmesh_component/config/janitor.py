"""When and where SQLMesh's janitor runs: `janitor` in `defs.yaml`."""

from dataclasses import dataclass, field
from typing import Annotated

import dagster as dg

from dg_sqlmesh_component.config.mappings import described
from dg_sqlmesh_component.config.run_config import sanitized_environment
from dg_sqlmesh_component.config.scheduling import DefaultStatus, RunTags, TimeZone
from dg_sqlmesh_component.config.validation import check_cron_and_time_zone, convert_to_declared_types
from dg_sqlmesh_component.protocol.errors import ConfigurationError


@dataclass
class Janitor(dg.Resolvable):
    """A job that runs SQLMesh's janitor, and its schedule."""

    cron: Annotated[str, described("When the job runs. Default: every day at 4:00.", "0 4 * * *", "30 2 * * 0")] = (
        "0 4 * * *"
    )
    timezone: TimeZone = None
    default_status: DefaultStatus = "STOPPED"
    name: Annotated[
        str | None,
        described(
            "Name of the job. Its op is `<name>_op`, and the schedule is `<name>_schedule`. Default: "
            "`<op>_janitor`, for example `sqlmesh_shop_janitor`.",
            "clean_up_shop",
        ),
    ] = None
    tags: RunTags = field(default_factory=dict)
    environment: Annotated[
        str | None,
        described(
            "Delete only this environment, if it has expired. SQLMesh then deletes no tables of models and "
            "does not compact intervals. It needs SQLMesh 0.236.0. Default: everything that has expired.",
            "dev",
        ),
    ] = None

    def __post_init__(self) -> None:
        convert_to_declared_types(self, Janitor, "janitor")
        if self.environment is not None and sanitized_environment(self.environment) == "prod":
            raise ConfigurationError(
                f"`janitor.environment` in defs.yaml is {self.environment!r}, which never expires, so nothing would be "
                "deleted. Name another environment, or remove `janitor.environment` to delete everything that has "
                "expired."
            )
        check_cron_and_time_zone("janitor", self.cron, self.timezone)
