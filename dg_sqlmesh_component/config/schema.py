"""A JSON schema of `defs.yaml` with which `dg check yaml` names the wrong key."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from pydantic import BaseModel

Schema = dict[str, Any]

_TEMPLATE = r"\{[{%]"
"""A text with this is a template, whose value is not known yet."""


@cache
def with_named_errors(model: type[BaseModel]) -> type[BaseModel]:
    """A subclass of the attributes' model, whose JSON schema went through `name_errors`."""

    def model_json_schema(_: type[BaseModel], *args: Any, **options: Any) -> Schema:
        return name_errors(model.model_json_schema(*args, **options))

    members = {"__module__": model.__module__, "model_json_schema": classmethod(model_json_schema)}
    return type(model.__name__, (model,), members)


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
