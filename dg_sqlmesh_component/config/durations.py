"""Durations in `defs.yaml`."""

from __future__ import annotations

from datetime import timedelta
from typing import TypeAlias

from pydantic import StrictFloat, StrictInt, TypeAdapter, ValidationError

from dg_sqlmesh_component.protocol.errors import ConfigurationError

LONGEST_DURATION = timedelta(days=366)

WrittenDuration: TypeAlias = str | StrictInt | StrictFloat
"""A duration as YAML contains it."""

_DURATION = TypeAdapter(timedelta)


def duration(attribute: str, value: object) -> timedelta:
    """A value from YAML as a duration.

    Args:
        attribute: The attribute of `defs.yaml`, for errors.

    Raises:
        ConfigurationError: It is no duration, negative, or longer than a year.
    """
    parsed = _parsed(value)
    if parsed is None:
        raise ConfigurationError(
            f"`{attribute}` in defs.yaml is {value!r}. Write seconds, or text such as 2h, 90m, 1 day or PT1H30M."
        )
    if not timedelta(0) <= parsed <= LONGEST_DURATION:
        raise ConfigurationError(
            f"`{attribute}` in defs.yaml is {value!r}. It must not be negative or longer than "
            f"{LONGEST_DURATION.days} days."
        )
    return parsed


def _parsed(value: object) -> timedelta | None:
    if isinstance(value, bool):
        return None
    # `2h` is the ISO 8601 duration `PT2H` without its beginning.
    for written in (value, f"PT{value.strip().upper()}") if isinstance(value, str) else (value,):
        try:
            return _DURATION.validate_python(written)
        except ValidationError:
            continue
    return None
