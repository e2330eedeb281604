"""What templates in `defs.yaml` see of our values."""

from dataclasses import fields
from difflib import get_close_matches
from typing import Any

from dagster.components.resolved.errors import ResolutionException


class TemplateScope:
    """A dataclass as a template sees it: a wrong attribute is an error, where Jinja would render nothing for it."""

    def __init__(self, name: str, value: Any) -> None:
        self._name = name
        self._value = value

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("_") or hasattr(self._value, attribute):
            return getattr(self._value, attribute)
        known = [one.name for one in fields(self._value)]
        close = get_close_matches(attribute, known) or known
        raise ResolutionException(
            f"`{self._name}` has no attribute {attribute!r} in a template. Did you mean {' or '.join(close)}?"
        )

    def __str__(self) -> str:
        return str(self._value)
