"""When an asset is stale.

No `from __future__ import annotations`: Dagster reads the annotations of the dataclass as objects.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated

import dagster as dg

from dg_sqlmesh_component.config.durations import WrittenDuration, duration
from dg_sqlmesh_component.protocol.errors import ConfigurationError


@dataclass
class Freshness(dg.Resolvable):
    """The time after which an asset without a new materialization is stale, on top of the longest gap of its cron."""

    slack: Annotated[
        timedelta,
        dg.Resolver.default(
            model_field_type=WrittenDuration,
            description="How much longer than the longest time between two ticks of its cron an asset may be without a "
            "materialization: seconds, or text such as 2h, 90m, 1 day or PT1H30M (ISO 8601). Choose more than the "
            "time from a tick to the end of the run. Required.",
            examples=["2h", 7200],
        ),
    ]
    warn_slack: Annotated[
        timedelta | None,
        dg.Resolver.default(
            model_field_type=WrittenDuration | None,
            description="A shorter slack, after which Dagster shows a warning. Default: no warning.",
            examples=["1h"],
        ),
    ] = None

    def __post_init__(self) -> None:
        self.slack = duration("freshness.slack", self.slack)
        if self.warn_slack is not None:
            self.warn_slack = duration("freshness.warn_slack", self.warn_slack)
            if self.warn_slack >= self.slack:
                raise ConfigurationError(
                    f"`freshness.warn_slack` in defs.yaml is {self.warn_slack}. It must be shorter than "
                    f"`freshness.slack`, which is {self.slack}."
                )

    def policy(self, longest_gap: timedelta) -> dg.FreshnessPolicy:
        """The policy of an asset, by the longest time between two ticks of its cron."""
        warn_window = None if self.warn_slack is None else longest_gap + self.warn_slack
        return dg.FreshnessPolicy.time_window(longest_gap + self.slack, warn_window)
