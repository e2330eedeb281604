"""Types, bounds and crons of attributes after templates are rendered.

Dagster checks `defs.yaml` as it is written, where each template is a string, and does not check components made in
Python.
"""

import dataclasses
from collections.abc import Collection
from functools import lru_cache
from typing import Any, get_type_hints

import dagster as dg
from pydantic import ConfigDict, TypeAdapter, ValidationError

from dg_sqlmesh_component.protocol.errors import ConfigurationError

_ARBITRARY = ConfigDict(arbitrary_types_allowed=True, coerce_numbers_to_str=True)
_LONGEST_VALUE = 60


def convert_to_declared_types(
    declared: Any, declaring: type, attribute: str = "", *, secret: Collection[str] = ()
) -> None:
    """Convert the fields of a dataclass to their declared types. A value that cannot be converted is refused.

    The text `"4"`, from an environment variable, becomes a number where a number is declared. The number 4, which a
    template makes of that text, becomes text where text is declared.

    Args:
        declared: The instance; its fields are replaced in place.
        declaring: The dataclass that declares the fields. Fields that a subclass adds are not converted.
        attribute: The attribute of `defs.yaml` that contains the fields; empty at the top.
        secret: Fields whose values are not shown.
    """
    for name, adapter in _adapters(declaring).items():
        value = getattr(declared, name)
        try:
            converted = adapter.validate_python(value)
        except ValidationError as error:
            shown = f"of type {type(value).__name__}" if name in secret else shortened(value)
            reasons = "; ".join(dict.fromkeys(problem["msg"] for problem in error.errors(include_url=False)))
            path = f"{attribute}.{name}" if attribute else name
            raise ConfigurationError(f"`{path}` in defs.yaml is {shown}. {reasons}.") from None
        object.__setattr__(declared, name, converted)


def require_at_least(attribute: str, declared: object, **bounds: int) -> None:
    """Refuse numbers below their bounds, and NaN. A field may be None."""
    for name, least in bounds.items():
        number = getattr(declared, name)
        if number is not None and not number >= least:
            raise ConfigurationError(f"`{attribute}.{name}` in defs.yaml is {number}; it must be at least {least}.")


def check_cron_and_time_zone(attribute: str, cron: str, time_zone: str | None) -> None:
    """Refuse `cron` or `timezone` of a mapping if Dagster does not accept it."""
    if not _is_accepted(cron, None):
        raise ConfigurationError(
            f"`{attribute}.cron` in defs.yaml is {cron!r}, which Dagster does not accept as a cron. Write five "
            "fields, for example '0 6 * * *', or an alias such as '@daily'."
        )
    if not _is_accepted(cron, time_zone):
        raise ConfigurationError(
            f"`{attribute}.timezone` in defs.yaml is {time_zone!r}, which is no time zone. Write a name such as "
            "'Europe/Berlin'."
        )


def _is_accepted(cron: str, time_zone: str | None) -> bool:
    try:
        dg.ScheduleDefinition(job_name="any", cron_schedule=cron, execution_timezone=time_zone)
    except dg.DagsterInvalidDefinitionError:
        return False
    return True


@lru_cache
def _adapters(declaring: type) -> dict[str, TypeAdapter[Any]]:
    types, annotated = get_type_hints(declaring), get_type_hints(declaring, include_extras=True)
    return {
        # pydantic accepts no configuration for a dataclass.
        field.name: TypeAdapter(
            annotated[field.name], config=None if dataclasses.is_dataclass(types[field.name]) else _ARBITRARY
        )
        for field in dataclasses.fields(declaring)
        if field.init
    }


def shortened(value: object) -> str:
    """The value as an error shows it."""
    shown = repr(value)
    return shown if len(shown) <= _LONGEST_VALUE else f"{shown[:_LONGEST_VALUE]}..."
