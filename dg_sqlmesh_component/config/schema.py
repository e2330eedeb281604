"""Errors that point at the offending key of `defs.yaml`: in its JSON schema, for `dg check yaml`, and in a load."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from pydantic import BaseModel, ValidationError, model_validator
from pydantic.functional_validators import ModelWrapValidatorHandler
from pydantic_core import ErrorDetails, InitErrorDetails

from dg_sqlmesh_component.config.attribute_types import NOT_OF_ONE_MODEL
from dg_sqlmesh_component.config.component_attributes import EXAMPLE
from dg_sqlmesh_component.config.mappings import switches_as_numbers
from dg_sqlmesh_component.config.yaml_text import yaml_line
from dg_sqlmesh_component.protocol.formatting import did_you_mean

Schema = dict[str, Any]

_PLAIN_TEXT = {"type": "string", "not": {"pattern": r"\{[{%]"}}
"""Text that is no template. The value of a template is not known yet."""

_TYPES = {
    "boolean": "true, false",
    "integer": "a number",
    "number": "a number",
    "array": "a list",
    "object": "a mapping",
    "string": "text",
}
"""How an error names a type of JSON schema. Null is not named: no attribute needs it."""

_OF_A_TYPE = {"items", "minimum", "maximum", "exclusiveMinimum"}
"""Keys of JSON schema that concern values of one type only."""

_WRONG_TYPES = {f"{kind}_type" for kind in ("bool", "dict", "float", "int", "list", "model", "string", "tuple")}
"""Types of pydantic's errors for a value of another type. For a union, each of its members reports one."""


@cache
def with_named_errors(model: type[BaseModel]) -> type[BaseModel]:
    """A subclass of the attributes' model whose errors point at the offending key."""

    def model_json_schema(_: type[BaseModel], *args: Any, **options: Any) -> Schema:
        return {**name_errors(model.model_json_schema(*args, **options)), "examples": [EXAMPLE]}

    def validate(_: type[BaseModel], value: Any, handler: ModelWrapValidatorHandler[BaseModel]) -> BaseModel:
        try:
            read = handler(value)
        except ValidationError as error:
            errors = without_repetitions(error.errors(include_url=False), value, model.model_json_schema())
            raise ValidationError.from_exception_data(error.title, errors) from None
        for path in switches_as_numbers(value, read):
            wrong = InitErrorDetails(type="value_error", ctx={"error": "write a number"}, loc=path, input=True)
            raise ValidationError.from_exception_data(model.__name__, [wrong])
        return read

    members = {
        "__module__": model.__module__,
        "model_json_schema": classmethod(model_json_schema),
        "validate_attributes": model_validator(mode="wrap")(classmethod(validate)),  # type: ignore[arg-type]
    }
    return type(model.__name__, (model,), members)


def without_repetitions(errors: Sequence[ErrorDetails], written: Any, schema: Schema) -> list[InitErrorDetails]:
    """One error for each wrong value. For a union, pydantic reports one for each of its members."""
    by_path: dict[tuple[int | str, ...], list[ErrorDetails]] = {}
    for error in errors:
        by_path.setdefault(_written_path(error["loc"], written), []).append(error)
    kept: list[InitErrorDetails] = []
    for path, found in by_path.items():
        others = [error for error in found if error["type"] not in _WRONG_TYPES]
        has_error_inside = any(other != path and other[: len(path)] == path for other in by_path)
        for error in others:
            if error["type"] == "extra_forbidden":
                kept.append(_ours(path, error, _unknown_key(path, schema)))
                continue
            location = (*path, error["loc"][-1]) if error["type"] == "missing" else path
            context = error.get("ctx", {})
            kept.append(InitErrorDetails(type=error["type"], loc=location, input=error["input"], ctx=context))
        if not others and not has_error_inside:
            kept.append(_ours(path, found[0], f"write {_expected(_at(path, schema), schema)}"))
    return kept


def _ours(path: tuple[int | str, ...], error: ErrorDetails, sentence: str) -> InitErrorDetails:
    # Dagster copies each error by its type, so it must be one of pydantic's.
    return {"type": "value_error", "ctx": {"error": sentence}, "loc": path, "input": error["input"]}


def _unknown_key(path: tuple[int | str, ...], schema: Schema) -> str:
    members = _members(_at(path[:-1], schema), schema)
    known = [name for member in members for name in member.get("properties", {})]
    reason = NOT_OF_ONE_MODEL.get(str(path[-1]))
    return "there is no such attribute." + (f" {reason}" if reason else did_you_mean(str(path[-1]), known))


def _at(path: Sequence[int | str], schema: Schema) -> Schema:
    """The schema of the value at a path; empty if it has none."""
    node = schema
    for key in path:
        inner = (_inside(member, key) for member in _members(node, schema))
        node = next((found for found in inner if found), {})
    return node


def _inside(node: Schema, key: int | str) -> Schema:
    values = node.get("properties", {}).get(key) or node.get(
        "items" if isinstance(key, int) else "additionalProperties"
    )
    return values if isinstance(values, dict) else {}


def _members(node: Schema, schema: Schema) -> list[Schema]:
    """The members of a union; any other node is its only one."""
    return [_resolved(member, schema) for member in node.get("anyOf", [node])]


def _resolved(node: Schema, schema: Schema) -> Schema:
    reference = node.get("$ref")
    resolved: Schema = schema["$defs"][reference.rpartition("/")[2]] if reference else node
    return resolved


def _types(node: Schema, schema: Schema) -> list[str]:
    return list(dict.fromkeys(member["type"] for member in _members(node, schema) if "type" in member))


def _words(node: Schema) -> list[Any]:
    """The words of an enumeration."""
    words: list[Any] = node.get("enum", [])
    return [node["const"]] if "const" in node else words


def _expected(node: Schema, schema: Schema) -> str:
    """What to write, for example `true, false or a mapping, for example {slack: '6h'}`."""
    examples, types = node.get("examples", []), _types(node, schema)
    if len(types) > 1 and "string" in types and not any(isinstance(example, str) for example in examples):
        types.remove("string")  # only for templates
    named = list(dict.fromkeys(_TYPES[kind] for kind in types if kind in _TYPES))
    text = " or ".join(", ".join(named).rsplit(", ", 1)) or "a value of another type"
    mapping = next((example for example in examples if isinstance(example, Mapping)), None)
    return text if mapping is None else f"{text}, for example {yaml_line(mapping)}"


def _written_path(location: tuple[int | str, ...], written: Any) -> tuple[int | str, ...]:
    """The keys of a location, without the names of union members that pydantic puts between them."""
    path = []
    for key in location:
        if (isinstance(written, Mapping) and key in written) or (isinstance(written, list) and isinstance(key, int)):
            path.append(key)
            written = written[key]  # type: ignore[index]
    return tuple(path)


def name_errors(schema: Schema) -> Schema:
    """A schema whose errors point at the offending key. It accepts the same values, except wrong words of an enum.

    Dagster accepts a template for every value, so every value is a union (`anyOf`). If no member of a union fits, a
    validator does not report why. Here a value must fit the member of its own type (`if`, `then`), and a value of
    another type has an error with our text. The unions stay, because `dg utils inspect-component` and Dagster's UI show
    them, but they accept every value.
    """
    shaper = _Shaper(schema)
    shaped: Schema = shaper.shaped(schema)
    return {**shaped, "$defs": {**shaped["$defs"], **shaper.mappings}} if shaper.mappings else shaped


class _Shaper:
    """Rewrites the unions of a schema."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        # Definitions of mappings that are members of a union. They accept every value that is no mapping.
        self.mappings: dict[str, Schema] = {}

    def shaped(self, node: Any) -> Any:
        if isinstance(node, list):
            return [self.shaped(item) for item in node]
        if not isinstance(node, dict):
            return node
        shaped = {key: self.shaped(value) for key, value in node.items()}
        return self._union(node, shaped) if "anyOf" in node else shaped

    def _union(self, node: Schema, shaped: Schema) -> Schema:
        members: list[Schema] = shaped["anyOf"]
        kinds = [member.get("type") for member in _members(node, self._schema)]
        # Without a type, or with two mappings, no `if` tells which member is meant.
        if None in kinds or kinds.count("object") > 1:
            return shaped
        rest = {key: value for key, value in shaped.items() if key != "anyOf"}
        types = _types(node, self._schema)
        words = [word for member in members for word in _words(member)]
        required: list[Schema] = [{"if": _PLAIN_TEXT, "then": {"enum": words}}] if words else []
        if "object" not in types:
            for member in members:
                rest |= {key: value for key, value in member.items() if key in _OF_A_TYPE}
            return {**rest, "type": types, **({"allOf": required} if required else {})}
        mapping = self._mapping(node["anyOf"][kinds.index("object")], node)
        required.append({"if": {"type": "object"}, "then": mapping})
        # The only keyword whose error is a text of the schema.
        required.append({"if": {"not": {"type": types}}, "then": {"const": _expected(node, self._schema)}})
        return {**rest, "anyOf": [mapping, *({"type": kind} for kind in types)], "allOf": required}

    def _mapping(self, member: Schema, union: Schema) -> Schema:
        """The reference to a mapping's definition."""
        values = member.get("additionalProperties")
        kinds = _types(values, self._schema) if isinstance(values, dict) else []
        name = member["$ref"].rpartition("/")[2] if "$ref" in member else "_".join(["Mapping", *kinds])
        definition = {"title": name, **self.shaped(_resolved(member, self._schema))}
        examples = [example for example in union.get("examples", []) if isinstance(example, Mapping)]
        self.mappings[name] = {key: value for key, value in definition.items() if key != "type"}
        # `dg utils inspect-component --defs-yaml-example-values` shows it.
        self.mappings[name]["examples"] = examples[:1] if "$ref" in member else [{}]
        return {"$ref": f"#/$defs/{name}"}
