"""Durations in `defs.yaml`."""

from contextlib import suppress
from datetime import timedelta
from typing import Annotated, TypeAlias

from pydantic import PlainValidator, StrictFloat, StrictInt, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

LONGEST_DURATION = timedelta(days=366)

WrittenDuration: TypeAlias = str | StrictInt | StrictFloat
"""A duration as YAML contains it."""

_DURATION = TypeAdapter(timedelta)


def duration_of(value: object) -> timedelta:
    """A duration as `Duration` describes it. Raise pydantic's error if it is none."""
    spellings = [] if isinstance(value, bool) else [value]
    if isinstance(value, str):
        spellings.append(f"PT{value.strip().upper()}")  # `2h` is the ISO 8601 duration `PT2H` without its beginning
    for written in spellings:
        with suppress(ValidationError):
            duration = _DURATION.validate_python(written)
            if not timedelta(0) <= duration <= LONGEST_DURATION:
                raise PydanticCustomError(
                    "duration", f"It must not be negative or longer than {LONGEST_DURATION.days} days"
                )
            return duration
    raise PydanticCustomError("duration", "Write seconds, or text such as 2h, 90m, 1 day or PT1H30M")


Duration: TypeAlias = Annotated[timedelta, PlainValidator(duration_of)]
