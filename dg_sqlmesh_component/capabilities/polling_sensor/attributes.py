"""The attribute `polling_sensor`."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, TypeAlias

from dg_sqlmesh_component.config.durations import Duration, WrittenDuration
from dg_sqlmesh_component.config.mappings import Attributes, described, mapping
from dg_sqlmesh_component.config.scheduling import SHORTEST_INTERVAL, DefaultStatus
from dg_sqlmesh_component.protocol.errors import ConfigurationError


@dataclass
class PollingSensor(Attributes, path="polling_sensor"):
    """A sensor that records what the `sqlmesh` command, CI or another deployment has computed and promoted.

    Write true, the time between two ticks, or a mapping with options. Default: none.
    """

    interval: Annotated[
        Duration,
        described(
            "The time between two ticks: seconds, or text such as 10m, 1h or PT5M (ISO 8601). Default: 5m.",
            "10m",
            600,
            written_as=WrittenDuration,
        ),
    ] = timedelta(minutes=5)
    default_status: DefaultStatus = "STOPPED"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.interval < SHORTEST_INTERVAL:
            raise ConfigurationError(
                f"`polling_sensor.interval` in defs.yaml is {self.interval}. Dagster evaluates sensors every "
                f"{SHORTEST_INTERVAL.seconds} seconds at most. Write a longer interval, for example 5m."
            )


PollingSensorAttribute: TypeAlias = Annotated[
    PollingSensor | None,
    mapping(
        PollingSensor,
        True,
        "10m",
        {"interval": "10m", "default_status": "RUNNING"},
        shorthand=("interval", WrittenDuration),
    ),
]
