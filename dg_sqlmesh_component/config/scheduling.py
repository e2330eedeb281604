"""Attributes that the mappings of `defs.yaml` with a schedule or a sensor share.

No `from __future__ import annotations`: Dagster reads the annotations of the dataclasses as objects.
"""

from typing import Annotated, Literal

import dagster as dg

DefaultStatus = Annotated[
    Literal["RUNNING", "STOPPED"],
    dg.Resolver.default(
        description='Whether it is on before it is switched on or off under "Automation" in Dagster\'s UI. '
        "Default: STOPPED.",
        examples=["RUNNING"],
    ),
]

TimeZone = Annotated[
    str | None,
    dg.Resolver.default(description="Time zone of `cron`. Default: UTC.", examples=["Europe/Berlin"]),
]

RunTags = Annotated[
    dict[str, str],
    dg.Resolver.default(
        description="Tags of the runs, without keys that Dagster or this component sets. Default: none.",
        examples=[{"team": "data"}],
    ),
]
