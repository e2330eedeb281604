"""How attributes of `defs.yaml` are resolved."""

import json
from collections.abc import Mapping
from typing import Any

import dagster as dg
from pydantic import StrictBool

from dg_sqlmesh_component.config.validation import shortened
from dg_sqlmesh_component.protocol.errors import ConfigurationError
from dg_sqlmesh_component.protocol.formatting import block

_SWITCHES = {"true": True, "false": False}


def described(description: str, *examples: Any, written_as: Any = None) -> dg.Resolver:
    """Dagster's default resolver of an attribute, with its description and examples.

    Args:
        written_as: The type in YAML, if it differs from that of the field.
    """
    resolver: dg.Resolver = dg.Resolver.default(
        description=description, examples=list(examples), model_field_type=written_as
    )
    return resolver


def mapping(
    attribute: str,
    attributes: type[dg.Resolvable],
    *,
    description: str,
    examples: list[Any],
    is_optional: bool = False,
    is_switch: bool = False,
    shorthand: tuple[str, Any] | None = None,
) -> dg.Resolver:
    """The resolver of an attribute whose value is a mapping. It resolves to an instance of a class.

    Dagster accepts text for every attribute, because text may be a template. Its own resolver of a mapping fails for
    text with an error that names neither the attribute nor the value.

    Args:
        attributes: The class, whose fields are the keys of the mapping.
        examples: At least one is a mapping. The first one is in the error.
        is_optional: Whether null is allowed. It means None.
        is_switch: Whether true and false are allowed, too. true means a mapping without keys, false and null mean None.
        shorthand: A key and the type of its value, if that value alone is allowed too. Any other text than true and
            false is such a value.
    """
    model: Any = attributes.model()
    example = next(example for example in examples if isinstance(example, Mapping))
    allowed = "true, false or a mapping" if is_switch else "a mapping"
    key, key_type = shorthand or (None, None)

    def resolve(context: dg.ResolutionContext, written: Any) -> Any:
        value: Any = context.resolve_value(written) if isinstance(written, str) else written
        if is_switch:
            value = _switched(value)
            if isinstance(value, bool):
                return attributes() if value else None
        if key is not None and isinstance(value, (str, int, float)) and not isinstance(value, bool):
            value = {key: value}
        if isinstance(value, Mapping):  # from a template
            value = model.model_validate(value)
        if isinstance(value, model):
            return attributes.resolve_from_model(context, value)
        if isinstance(value, attributes) or (value is None and (is_optional or is_switch)):
            return value
        raise not_a_mapping(attribute, value, example, allowed)

    field_type: Any = StrictBool | model | None if is_switch else model | None if is_optional else model
    if key is not None:
        field_type = field_type | key_type
    return dg.Resolver(
        resolve, model_field_type=field_type, inject_before_resolve=False, description=description, examples=examples
    )


def not_a_mapping(
    attribute: str, value: object, example: Mapping[str, Any], allowed: str = "a mapping"
) -> ConfigurationError:
    """The error for a value that is none of the allowed ones."""
    keys = "".join(f"\n  {key}: {json.dumps(setting)}" for key, setting in example.items())  # JSON is YAML
    written = block(f"{attribute.rpartition('.')[2]}:{keys}")
    return ConfigurationError(
        f"`{attribute}` in defs.yaml is {shortened(value)}. Write {allowed}, for example:{written}"
    )


def _switched(value: Any) -> Any:
    """The boolean that text means, because the value of a variable is text. Any other value stays."""
    return _SWITCHES.get(value.lower(), value) if isinstance(value, str) else value
