"""Tags of a SQLMesh model that set properties of its asset (ADR-0006)."""

from dataclasses import dataclass
from typing import Annotated

import dagster as dg

from dg_sqlmesh_component.config.mappings import described
from dg_sqlmesh_component.config.validation import convert_to_declared_types
from dg_sqlmesh_component.protocol.errors import ConfigurationError


@dataclass(frozen=True)
class TagConvention(dg.Resolvable):
    """The form of tags that set Dagster properties: `<prefix><separator><property><separator><value>`."""

    prefix: Annotated[str, described("The beginning of such a tag.", "dagster", "dg")] = "dagster"
    separator: Annotated[
        str, described("The text between the parts of such a tag; the value may contain it.", ":", "/")
    ] = ":"

    def __post_init__(self) -> None:
        convert_to_declared_types(self, TagConvention, "tag_convention")
        if not self.prefix or not self.separator:
            raise ConfigurationError("`tag_convention` in defs.yaml needs a prefix and a separator that are not empty.")

    def split(self, tag: str) -> tuple[str, str] | None:
        """The property and its value, which may contain the separator; None for an ordinary tag."""
        start = f"{self.prefix}{self.separator}"
        if not tag.startswith(start):
            return None
        property_, _, value = tag.removeprefix(start).partition(self.separator)
        return property_, value
