"""What a declared value must be, also where a template, or Python, has made it.

Dagster checks the types of a declaration as it is written; a template is a string there, whatever comes of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from functools import lru_cache
from typing import Any, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from dg_sqlmesh_component.protocol.errors import DeclarationError

_ARBITRARY = ConfigDict(arbitrary_types_allowed=True, coerce_numbers_to_str=True)
_LONGEST_VALUE = 60


def take_declared_types(declared: Any, declaring: type, attribute: str = "", *, secret: Collection[str] = ()) -> None:
    """Make the fields what they are declared as: `"4"`, of an environment variable, is a number where one belongs.

    And 4, which a template makes of it, is text where that belongs.

    Args:
        declared: The instance; its fields are replaced in place.
        declaring: The dataclass that declares the fields; those that a subclass adds are its own affair.
        attribute: Where the fields stand in `defs.yaml`; empty at its top.
        secret: Fields whose values are not shown.

    Raises:
        DeclarationError: A value cannot be made what it must be.
    """
    for name, adapter in _adapters(declaring).items():
        value = getattr(declared, name)
        try:
            taken = adapter.validate_python(value)
        except ValidationError as error:
            shown = f"of type {type(value).__name__}" if name in secret else _shortened(value)
            reasons = "; ".join(dict.fromkeys(one["msg"] for one in error.errors(include_url=False)))
            place = f"{attribute}.{name}" if attribute else name
            raise DeclarationError(f"`{place}` in defs.yaml is {shown}. {reasons}.") from None
        object.__setattr__(declared, name, taken)


def require_at_least(attribute: str, declared: object, **bounds: int) -> None:
    """Refuse numbers below their bounds; a field without a value has none.

    Raises:
        DeclarationError: A number is too small.
    """
    for name, least in bounds.items():
        said = getattr(declared, name)
        if said is not None and said < least:
            raise DeclarationError(f"`{attribute}.{name}` in defs.yaml is {said}; it must be at least {least}.")


@lru_cache
def _adapters(declaring: type) -> dict[str, TypeAdapter[Any]]:
    hints = get_type_hints(declaring)
    return {
        one.name: TypeAdapter(hints[one.name], config=None if _has_own_config(hints[one.name]) else _ARBITRARY)
        for one in dataclasses.fields(declaring)
        if one.init
    }


def _has_own_config(hint: Any) -> bool:
    """Whether pydantic refuses to be told how to see this type."""
    return dataclasses.is_dataclass(hint)


def _shortened(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= _LONGEST_VALUE else f"{shown[:_LONGEST_VALUE]}..."
