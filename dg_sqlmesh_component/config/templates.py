"""Values of this package in templates of `defs.yaml`."""

from dataclasses import fields
from typing import Any

from dagster.components.resolved.errors import ResolutionException

from dg_sqlmesh_component.protocol.formatting import did_you_mean


class TemplateScope:
    """A dataclass in a template. A wrong attribute is an error; Jinja would render an empty text."""

    def __init__(self, name: str, value: Any) -> None:
        self._name = name
        self._value = value

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("_") or hasattr(self._value, attribute):
            return getattr(self._value, attribute)
        suggestion = did_you_mean(attribute, [field.name for field in fields(self._value)])
        raise ResolutionException(f"`{self._name}` has no attribute {attribute!r} in a template.{suggestion}")

    def __str__(self) -> str:
        return str(self._value)
