"""Attributes that the mappings of `defs.yaml` with a schedule or a sensor share."""

from typing import Annotated, Literal, TypeAlias

from dg_sqlmesh_component.config.mappings import described

DefaultStatus: TypeAlias = Annotated[
    Literal["RUNNING", "STOPPED"],
    described(
        'RUNNING: on before anybody has switched it on or off in Dagster. STOPPED: turn it on under "Automation" in '
        "Dagster's UI. Default: STOPPED.",
        "RUNNING",
    ),
]

TimeZone: TypeAlias = Annotated[str | None, described("Time zone of `cron`. Default: UTC.", "Europe/Berlin")]

RunTags: TypeAlias = Annotated[
    dict[str, str],
    described("Tags of the runs, without keys that Dagster or this component sets. Default: none.", {"team": "data"}),
]
