"""When an asset is stale."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated

import dagster as dg

from dg_sqlmesh_component.config.durations import Duration, OptionalDuration, WrittenDuration
from dg_sqlmesh_component.config.mappings import described
from dg_sqlmesh_component.config.validation import convert_to_declared_types
from dg_sqlmesh_component.protocol.errors import ConfigurationError


@dataclass
class Freshness(dg.Resolvable):
    """The time after which an asset without a new materialization is stale, on top of the longest gap of its cron."""

    slack: Annotated[
        Duration,
        described(
            "How much longer than the longest time between two ticks of its cron an asset may be without a "
            "materialization: seconds, or text such as 2h, 90m, 1 day or PT1H30M (ISO 8601). Choose more than the "
            "time from a tick to the end of the run. Required.",
            "2h",
            7200,
            written_as=WrittenDuration,
        ),
    ]
    warn_slack: Annotated[
        OptionalDuration,
        described(
            "A shorter slack, after which Dagster shows a warning. Default: no warning.",
            "1h",
            written_as=WrittenDuration | None,
        ),
    ] = None

    def __post_init__(self) -> None:
        convert_to_declared_types(self, Freshness, "freshness")
        if self.warn_slack is not None and self.warn_slack >= self.slack:
            raise ConfigurationError(
                f"`freshness.warn_slack` in defs.yaml is {self.warn_slack}. It must be shorter than "
                f"`freshness.slack`, which is {self.slack}."
            )

    def policy(self, longest_gap: timedelta) -> dg.FreshnessPolicy:
        """The policy of an asset, by the longest time between two ticks of its cron."""
        warn_window = None if self.warn_slack is None else longest_gap + self.warn_slack
        return dg.FreshnessPolicy.time_window(longest_gap + self.slack, warn_window)
