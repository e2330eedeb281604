"""The attribute `schedule`."""

from dataclasses import dataclass, field
from typing import Annotated, Any, TypeAlias

from dg_sqlmesh_component.config.mappings import Attributes, described, described_text, mapping
from dg_sqlmesh_component.config.scheduling import DefaultStatus, RunTags, TimeZone, check_cron_and_time_zone
from dg_sqlmesh_component.protocol.errors import ConfigurationError


@dataclass
class Schedule(Attributes, path="schedule"):
    """Schedules that launch a run of the models with pending intervals, when the cron of a model ticks.

    Write true, or a mapping with options. Default: none.
    """

    name: Annotated[
        str | None,
        described_text(
            "Name of the schedule, which keeps its ticks and whether it is on if `op.name` changes. A schedule for a "
            "time zone other than UTC adds its name: `<name>_europe_berlin`. The job is `<name>_job`. Default: "
            "`<op>_schedule`, and `<op>_job` for the job.",
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
    on_sources: Annotated[
        bool,
        described(
            "Whether a sensor, `<name>_on_sources`, also requests the models that an asset makes ready when it loads "
            "one of their sources, within a minute. It needs `external_models.wait`. Default: false.",
            True,
        ),
    ] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cron is not None:
            check_cron_and_time_zone("schedule", self.cron, self.timezone)
        elif self.timezone is not None:
            raise ConfigurationError(
                "`schedule.timezone` in defs.yaml is the time zone of `schedule.cron`, which is not set. Without it, "
                "each model has its own cron and time zone. Set `schedule.cron` too, or remove `schedule.timezone`."
            )


ScheduleAttribute: TypeAlias = Annotated[
    Schedule | None, mapping(Schedule, True, {"default_status": "RUNNING", "tags": {"team": "data"}})
]


def refuse_with_automation(attributes: Any) -> None:
    """Refuse a component with both.

    Raises:
        ConfigurationError: Both are set.
    """
    if attributes.schedule is not None and attributes.automation is not None:
        raise ConfigurationError(
            "defs.yaml has both `schedule` and `automation`, so Dagster would request each model twice. Remove one "
            "of them."
        )
