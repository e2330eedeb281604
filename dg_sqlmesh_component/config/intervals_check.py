"""`intervals_check` in `defs.yaml`.

No `from __future__ import annotations`: Dagster reads the annotations of the dataclass as objects.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated

import dagster as dg

from dg_sqlmesh_component.config.durations import WrittenDuration, duration


@dataclass
class IntervalsCheck(dg.Resolvable):
    """The check `sqlmesh_intervals_complete` of every incremental model."""

    slack: Annotated[
        timedelta,
        dg.Resolver.default(
            model_field_type=WrittenDuration,
            description="How long an interval may be missing before the check fails, from the first tick of the "
            "model's cron after its end: seconds, or text such as 2h, 90m, 1 day or PT1H30M (ISO 8601). Default: 0.",
            examples=["6h", 3600],
        ),
    ] = timedelta(0)

    def __post_init__(self) -> None:
        self.slack = duration("intervals_check.slack", self.slack)
