"""How tags of a SQLMesh model set properties of its asset (ADR-0006).

Dagster reads these annotations as objects, so they must not be postponed.
"""

from dataclasses import dataclass
from typing import Annotated

import dagster as dg


@dataclass(frozen=True)
class TagConvention(dg.Resolvable):
    """How a model's tags set Dagster properties: `<prefix><separator><property><separator><value>`."""

    prefix: Annotated[
        str,
        dg.Resolver.default(description="What such a tag begins with.", examples=["dagster", "dg"]),
    ] = "dagster"
    separator: Annotated[
        str,
        dg.Resolver.default(
            description="What stands between its parts; the value may contain it.", examples=[":", "/"]
        ),
    ] = ":"

    def split(self, tag: str) -> tuple[str, str] | None:
        """The property and its value, which may hold the separator; None for an ordinary tag."""
        parts = tag.split(self.separator, 2)
        if parts[0] != self.prefix:
            return None
        return (parts[1] if len(parts) > 1 else "", parts[2] if len(parts) > 2 else "")
