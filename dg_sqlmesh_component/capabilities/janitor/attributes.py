"""The attribute `janitor`."""

from dataclasses import dataclass, field
from typing import Annotated, TypeAlias

from dg_sqlmesh_component.config.mappings import Attributes, described, described_text, mapping
from dg_sqlmesh_component.config.scheduling import DefaultStatus, RunTags, TimeZone, check_cron_and_time_zone


@dataclass
class Janitor(Attributes, path="janitor"):
    """A job and a schedule for SQLMesh's janitor.

    The janitor deletes expired environments and tables, and compacts intervals. Write true, or a mapping with
    options. Default: no janitor.
    """

    cron: Annotated[str, described("When the job runs. Default: every day at 4:00.", "0 4 * * *", "30 2 * * 0")] = (
        "0 4 * * *"
    )
    timezone: TimeZone = None
    default_status: DefaultStatus = "STOPPED"
    name: Annotated[
        str | None,
        described_text(
            "Name of the job and of its step. The schedule is `<name>_schedule`. Default: `<op>_janitor`, "
            "for example `sqlmesh_shop_janitor`.",
            "clean_up_shop",
        ),
    ] = None
    tags: RunTags = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_cron_and_time_zone("janitor", self.cron, self.timezone)


JanitorAttribute: TypeAlias = Annotated[
    Janitor | None,
    mapping(Janitor, True, {"cron": "30 2 * * 0", "timezone": "Europe/Berlin", "default_status": "RUNNING"}),
]
