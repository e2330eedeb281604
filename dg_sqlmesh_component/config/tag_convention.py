"""How tags of a SQLMesh model set properties of its asset (ADR-0006).

Dagster reads these annotations as objects, so they must not be postponed.
"""

from dataclasses import dataclass
from typing import Annotated

import dagster as dg

from dg_sqlmesh_component.config.validation import take_declared_types
from dg_sqlmesh_component.protocol.errors import DeclarationError


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

    def __post_init__(self) -> None:
        take_declared_types(self, TagConvention, "tag_convention")
        if not self.prefix or not self.separator:
            raise DeclarationError("`tag_convention` in defs.yaml needs a prefix and a separator that are not empty.")

    def split(self, tag: str) -> tuple[str, str] | None:
        """The property and its value, which may hold the separator; None for an ordinary tag."""
        start = f"{self.prefix}{self.separator}"
        if not tag.startswith(start):
            return None
        property_, _, value = tag.removeprefix(start).partition(self.separator)
        return property_, value
