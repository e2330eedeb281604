"""`schedule` in `defs.yaml`."""

from dataclasses import dataclass, field
from typing import Annotated

import dagster as dg

from dg_sqlmesh_component.config.mappings import described
from dg_sqlmesh_component.config.scheduling import DefaultStatus, RunTags, TimeZone
from dg_sqlmesh_component.config.validation import check_cron_and_time_zone, convert_to_declared_types
from dg_sqlmesh_component.protocol.errors import ConfigurationError


@dataclass
class Schedule(dg.Resolvable):
    """Schedules that launch runs of the models with pending intervals."""

    name: Annotated[
        str | None,
        described(
            "Name of the schedule. A schedule for a time zone other than UTC adds its name: "
            "`<name>_europe_berlin`. Default: `<op name>_schedule`.",
            "shop",
        ),
    ] = None
    default_status: DefaultStatus = "STOPPED"
    tags: RunTags = field(default_factory=dict)
    cron: Annotated[
        str | None,
        described(
            "When to look for pending intervals, as a cron expression. Default: whenever the cron of a model ticks.",
            "0 6 * * *",
        ),
    ] = None
    timezone: TimeZone = None

    def __post_init__(self) -> None:
        convert_to_declared_types(self, Schedule, "schedule")
        if self.cron is not None:
            check_cron_and_time_zone("schedule", self.cron, self.timezone)
        elif self.timezone is not None:
            raise ConfigurationError(
                "`schedule.timezone` in defs.yaml is the time zone of `schedule.cron`, which is not set. Without it, "
                "each model has its own cron and time zone. Set `schedule.cron` too, or remove `schedule.timezone`."
            )
