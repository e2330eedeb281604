"""Errors in `defs.yaml` that name the wrong key: in its JSON schema, for `dg check yaml`, and when Dagster loads it."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from pydantic import BaseModel, ValidationError, model_validator
from pydantic.functional_validators import ModelWrapValidatorHandler
from pydantic_core import ErrorDetails, InitErrorDetails

from dg_sqlmesh_component.config.component_attributes import EXAMPLE

Schema = dict[str, Any]

_TEMPLATE = r"\{[{%]"
"""A text with this is a template, whose value is not known yet."""

_WRONG_TYPES = {
    "bool_type": "a boolean",
    "dict_type": "a mapping",
    "float_type": "a number",
    "int_type": "a number",
    "list_type": "a list",
    "model_type": "a mapping",
    "string_type": "text",
}
"""What pydantic expected, by the type of its error."""

_RENAMED = {("execution", "allow_restate"): "write `restate: true` in place of `execution.allow_restate: true`"}
"""What to write in place of a key that an earlier version had."""


@cache
def with_named_errors(model: type[BaseModel]) -> type[BaseModel]:
    """A subclass of the attributes' model whose errors name the wrong key."""

    def model_json_schema(_: type[BaseModel], *args: Any, **options: Any) -> Schema:
        return {**name_errors(model.model_json_schema(*args, **options)), "examples": [EXAMPLE]}

    def validate(_: type[BaseModel], value: Any, handler: ModelWrapValidatorHandler[BaseModel]) -> BaseModel:
        try:
            return handler(value)
        except ValidationError as error:
            errors = without_repetitions(error.errors(include_url=False), value)
            raise ValidationError.from_exception_data(error.title, errors) from None

    members = {
        "__module__": model.__module__,
        "model_json_schema": classmethod(model_json_schema),
        "validate_attributes": model_validator(mode="wrap")(classmethod(validate)),  # type: ignore[arg-type]
    }
    return type(model.__name__, (model,), members)


def without_repetitions(errors: Sequence[ErrorDetails], written: Any) -> list[InitErrorDetails]:
    """One error for each wrong value. For a union, pydantic reports one for each of its members."""
    by_path: dict[tuple[int | str, ...], list[ErrorDetails]] = {}
    for error in errors:
        by_path.setdefault(_written_path(error["loc"], written), []).append(error)
    kept: list[InitErrorDetails] = []
    for path, found in by_path.items():
        others = [error for error in found if error["type"] not in _WRONG_TYPES]
        has_error_inside = any(other != path and other[: len(path)] == path for other in by_path)
        for error in others:
            location = (*path, error["loc"][-1]) if error["type"] == "missing" else path
            if path in _RENAMED:
                error = {**error, "type": "value_error", "ctx": {"error": _RENAMED[path]}}
            kept.append({"ctx": {}, **error, "loc": location})  # type: ignore[typeddict-unknown-key]
        if not others and not has_error_inside:
            types = " or ".join(dict.fromkeys(_WRONG_TYPES[error["type"]] for error in found))
            # Dagster copies each error by its type, so it must be one of pydantic's.
            context = {"error": f"write {types}"}
            kept.append({"type": "value_error", "ctx": context, "loc": path, "input": found[0]["input"]})
    return kept


def _written_path(location: tuple[int | str, ...], written: Any) -> tuple[int | str, ...]:
    """The keys of a location, without the names of union members that pydantic puts between them."""
    path = []
    for key in location:
        if (isinstance(written, Mapping) and key in written) or (isinstance(written, list) and isinstance(key, int)):
            path.append(key)
            written = written[key]  # type: ignore[index]
    return tuple(path)


def name_errors(schema: Schema) -> Schema:
    """A schema whose errors name the wrong key. It accepts the same values, except wrong words of an enumeration.

    Dagster accepts a template for every value, so every value is a union (`anyOf`). If no member of a union fits, a
    validator does not report why. Here a value must fit the member of its own type (`if`, `then`). The unions stay,
    because `dg utils inspect-component` and Dagster's UI show them, but they accept every value of such a type.
    """
    definitions = schema.get("$defs", {})
    return {key: _shaped(value, definitions) for key, value in schema.items()}


def _shaped(node: Any, definitions: Mapping[str, Schema]) -> Any:
    if isinstance(node, list):
        return [_shaped(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    shaped = {key: _shaped(value, definitions) for key, value in node.items()}
    return _shaped_union(shaped, definitions) if "anyOf" in shaped else shaped


def _shaped_union(node: Schema, definitions: Mapping[str, Schema]) -> Schema:
    members: list[Schema] = node["anyOf"]
    rest = {key: value for key, value in node.items() if key != "anyOf"}
    if all(member.keys() == {"type"} for member in members):
        return {**rest, "type": list(dict.fromkeys(member["type"] for member in members))}
    types = [_type_of(member, definitions) for member in members]
    passing: list[Schema] = []
    required: list[Schema] = []
    for member, kind in zip(members, types):
        if kind == "object" and types.count(kind) == 1:
            passing.extend([member, {"type": kind}] if "$ref" in member else [{"type": kind}])
            required.append({"if": {"type": kind}, "then": member})
        elif kind == "array" and "enum" in member.get("items", {}):
            passing.append({**member, "items": {"type": member["items"].get("type", "string")}})
            required.append({"if": {"type": kind}, "then": member})
        elif kind == "string" and "enum" in member:
            passing.append(member)
            is_plain = {"type": kind, "not": {"pattern": _TEMPLATE}}
            required.append({"if": is_plain, "then": {"enum": member["enum"]}})
        else:
            passing.append(member)
    return {**rest, "anyOf": passing, **({"allOf": required} if required else {})}


def _type_of(member: Schema, definitions: Mapping[str, Schema]) -> str | None:
    reference = member.get("$ref")
    kind = (definitions[reference.rpartition("/")[2]] if reference else member).get("type")
    return kind if isinstance(kind, str) else None
