"""`polling_sensor` in `defs.yaml`."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated

import dagster as dg

from dg_sqlmesh_component.config.durations import Duration, WrittenDuration
from dg_sqlmesh_component.config.mappings import described
from dg_sqlmesh_component.config.scheduling import DefaultStatus
from dg_sqlmesh_component.config.validation import convert_to_declared_types
from dg_sqlmesh_component.protocol.errors import ConfigurationError

SHORTEST_INTERVAL = timedelta(seconds=30)
"""How often Dagster's daemon evaluates a sensor at most."""


@dataclass
class PollingSensor(dg.Resolvable):
    """A sensor that records runs and plans made outside of Dagster."""

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
        convert_to_declared_types(self, PollingSensor, "polling_sensor")
        if self.interval < SHORTEST_INTERVAL:
            raise ConfigurationError(
                f"`polling_sensor.interval` in defs.yaml is {self.interval}. Dagster evaluates sensors every "
                f"{SHORTEST_INTERVAL.seconds} seconds at most. Write a longer interval, for example 5m."
            )
