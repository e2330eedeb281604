"""How attributes of `defs.yaml` are declared and resolved, and the values in their templates."""

import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, ClassVar, get_type_hints

import dagster as dg
from dagster.components.resolved.errors import ResolutionException
from jinja2 import StrictUndefined
from pydantic import ConfigDict, StrictBool, TypeAdapter, ValidationError

from dg_sqlmesh_component.config.yaml_text import yaml_block
from dg_sqlmesh_component.protocol.errors import ConfigurationError
from dg_sqlmesh_component.protocol.formatting import block, did_you_mean

_SWITCHES = {"true": True, "false": False}


class Attributes(dg.Resolvable):
    """A dataclass whose fields are the keys of a mapping in `defs.yaml`. Its docstring describes the mapping."""

    yaml_path: ClassVar[str]
    _declaring: ClassVar[type]
    _secret: ClassVar[Collection[str]]

    def __init_subclass__(cls, path: str | None = None, secret: Collection[str] = (), **options: Any) -> None:
        """Declare a mapping; a class without a path is a subclass of a user's, and its own fields are not converted.

        Args:
            path: Where the mapping is in `defs.yaml`, for errors; empty for the attributes at the top.
            secret: Keys whose values are not shown.
        """
        super().__init_subclass__(**options)
        if path is not None:
            cls.yaml_path, cls._declaring, cls._secret = path, cls, secret

    def __post_init__(self) -> None:
        """Convert fields to their declared types, and refuse values that cannot be converted or are too small or large.

        Dagster checks `defs.yaml` as it is written, where each template is a string, and does not check components made
        in Python. The text `"4"`, from an environment variable, becomes a number where a number is declared. The
        number 4, which a template makes of that text, becomes text where text is declared.
        """
        start = f"{self.yaml_path}." if self.yaml_path else ""
        for name, adapter in _adapters(self._declaring).items():
            value = getattr(self, name)
            try:
                converted = adapter.validate_python(value)
            except ValidationError as error:
                shown = f"of type {type(value).__name__}" if name in self._secret else shortened(value)
                reasons = "; ".join(dict.fromkeys(problem["msg"] for problem in error.errors(include_url=False)))
                raise ConfigurationError(f"`{start}{name}` in defs.yaml is {shown}. {reasons}.") from None
            for path in switches_as_numbers(value, converted, name):
                raise ConfigurationError(f"`{start}{'.'.join(path)}` in defs.yaml is true or false. Write a number.")
            object.__setattr__(self, name, converted)


def switches_as_numbers(written: object, read: object, *path: str) -> Iterator[tuple[str, ...]]:
    """The paths of true and false that pydantic has read as 1 and 0."""
    if isinstance(written, bool) and type(read) in (int, float):
        yield path
    for key, value in written.items() if isinstance(written, Mapping) else ():
        yield from switches_as_numbers(
            value, read.get(key) if isinstance(read, dict) else getattr(read, key, None), *path, key
        )


@cache
def _adapters(declaring: type) -> dict[str, TypeAdapter[Any]]:
    types, annotated = get_type_hints(declaring), get_type_hints(declaring, include_extras=True)
    # pydantic accepts no configuration for a dataclass.
    return {
        key.name: TypeAdapter(annotated[key.name], config=None if is_dataclass(types[key.name]) else _ARBITRARY)
        for key in fields(declaring)
        if key.init
    }


_ARBITRARY = ConfigDict(arbitrary_types_allowed=True, coerce_numbers_to_str=True, allow_inf_nan=False)


def described(description: str, *examples: Any, written_as: Any = None) -> dg.Resolver:
    """Dagster's default resolver of an attribute. `written_as` is the type in YAML, if it is not that of the field."""
    resolver: dg.Resolver = dg.Resolver.default(
        description=description, examples=list(examples), model_field_type=written_as
    )
    return resolver


def described_text(description: str, *examples: Any) -> dg.Resolver:
    """The resolver of an attribute that is text, a list of texts, or a mapping to texts."""
    return dg.Resolver(as_text, inject_before_resolve=False, description=description, examples=list(examples))


class _Unset(StrictUndefined):
    """A variable that is not set. It counts as false, as in `env.A or env.B`. Any other use is an error."""

    def __bool__(self) -> bool:  # type: ignore[override]
        return False


class Variables:
    """`env` in templates. A variable that is not set is an error, unless the template has a default.

    Dagster's own `env` renders it as None, which would mean the attribute's default, or as the text `None`.

    Attributes:
        unset: The names of variables that a template has used and that are not set.
    """

    def __init__(self, *, may_be_empty: bool = True) -> None:
        self._may_be_empty = may_be_empty
        self.unset: list[str] = []

    def __call__(self, name: str, default: Any = ...) -> Any:
        value = os.environ.get(name)
        if value or (value == "" and self._may_be_empty):
            return value
        if default is not ...:
            return default
        self.unset.append(name)
        return _Unset(hint=f"The environment variable {name} is not set. Set it or {_GIVE_DEFAULT}")

    def __getattr__(self, name: str) -> Any:
        if name.startswith(("jinja", "__")):  # Jinja and Python look for marks of their own
            raise AttributeError(name)
        return self(name)


_GIVE_DEFAULT = "give a default: \"{{ env('NAME', 'value') }}\"."


def as_text(context: dg.ResolutionContext, written: Any) -> Any:
    """Text as it is written, or as its template renders it, which must not be empty, except as a value of a mapping.

    Dagster's resolver evaluates each text as a Python literal, also one without a template: `"1.10"` becomes 1.1,
    `"True"` a boolean, and a password in quotes loses them. Only a template in place of a list or a mapping may render
    to one.
    """
    if isinstance(written, Mapping):
        return {key: _rendered(context.at_path(key), value) for key, value in written.items()}
    if isinstance(written, (list, tuple)):
        return [as_text(context.at_path(number), item) for number, item in enumerate(written)]
    text = _rendered(context, written, list, tuple, dict)
    if text == "" and written:
        where = ".".join(map(str, context.path)).removeprefix("attributes.")
        raise ConfigurationError(
            f"`{where}` in defs.yaml is {written!r}, which resolves to nothing. Set the variable that it names or "
            f"{_GIVE_DEFAULT}"
        )
    return text


def _rendered(context: dg.ResolutionContext, written: Any, *kept: type) -> Any:
    """The text of a template. A value of the types `kept` stays, to be refused or to be the whole attribute."""
    if not isinstance(written, str):
        return written
    text = written.removesuffix("\n")  # as Jinja does
    if not _TEMPLATE.search(text):
        return text
    value: Any = context.resolve_value(text)  # raises an error for a name that does not exist
    if value is None or isinstance(value, kept):
        return value
    return context.resolve_value(f"{text}\0", as_type=str)[:-1]  # no Python literal has a null character


_TEMPLATE = re.compile(r"\{[{%]")


def mapping(
    attributes: type[dg.Resolvable],
    *examples: Any,
    path: str = "",
    description: str = "",
    is_optional: bool = False,
    is_on: bool = False,
    is_item: bool = False,
    shorthand: tuple[str, Any] | None = None,
) -> dg.Resolver:
    """The resolver of an attribute whose value is a mapping. It resolves to an instance of a class.

    Dagster accepts text for every attribute, because text may be a template. Its own resolver of a mapping fails for
    text with an error that names neither the attribute nor the value.

    Args:
        examples: At least one is a mapping. The first one is in the error. If one is true or false, the attribute is a
            switch: true means a mapping without keys, false and null mean None, which is the default.
        is_on: Whether true is the default of a switch. Then null is refused: it could mean both.
        is_item: Whether the attribute is a list of such mappings. The example of an error is then a list too.
        path, description: Those of a class that is none of ours.
        is_optional: Whether null is allowed. It means None, which is the default.
        shorthand: A key and the type of its value, if that value alone is allowed too. Any other text than true and
            false is such a value.
    """
    model: Any = attributes.model()
    is_switch = any(isinstance(example, bool) for example in examples)
    allows_null = is_optional or (is_switch and not is_on)
    if issubclass(attributes, Attributes):
        path, description = attributes.yaml_path, " ".join((attributes.__doc__ or "").split())
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
        if isinstance(value, attributes) or (value is None and allows_null):
            return value
        raise not_a_mapping(path, value, [example] if is_item else example, allowed)

    field_type: Any = StrictBool | model if is_switch else model
    field_type = field_type | None if allows_null else field_type
    if key is not None:
        field_type = field_type | key_type
    return dg.Resolver(
        resolve,
        model_field_type=field_type,
        inject_before_resolve=False,
        description=description,
        examples=list(examples),
    )


def not_a_mapping(attribute: str, value: object, example: Any, allowed: str = "a mapping") -> ConfigurationError:
    """The error for a value that is none of the allowed ones."""
    written = block(yaml_block({attribute.rpartition(".")[2]: example}))
    return ConfigurationError(
        f"`{attribute}` in defs.yaml is {shortened(value)}. Write {allowed}, for example:{written}"
    )


def unmatched(
    attribute: str, name: str, problem: str, known: Iterable[str], place: str = "defs.yaml"
) -> ConfigurationError:
    """The error for a name in `defs.yaml` or a run config that nothing in the project has."""
    suggestion = did_you_mean(name, known) or " The project has none."
    return ConfigurationError(f"`{attribute}` in {place} names {name!r}, but {problem}.{suggestion}")


def _switched(value: Any) -> Any:
    """The boolean that text means, because the value of a variable is text. Any other value stays."""
    return _SWITCHES.get(value.lower(), value) if isinstance(value, str) else value


def shortened(value: object) -> str:
    """The value as an error shows it."""
    shown = repr(value)
    return shown if len(shown) <= _LONGEST_VALUE else f"{shown[:_LONGEST_VALUE]}..."


_LONGEST_VALUE = 60


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
