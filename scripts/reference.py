"""Write component.yaml and docs/attributes.md from the declarations of the attributes in `config/`.

python scripts/reference.py
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields
from datetime import timedelta
from pathlib import Path
from typing import Any, get_args, get_type_hints

import dagster as dg
import yaml

from dg_sqlmesh_component import SQLMeshProjectComponent
from dg_sqlmesh_component.config.attribute_types import SQLMeshProjectArgs
from dg_sqlmesh_component.config.component_attributes import ComponentAttributes
from dg_sqlmesh_component.config.mappings import Attributes

REPOSITORY = Path(__file__).resolve().parents[1]
COLUMNS = 120
SHOWN = {"project.path": "templates/starter"}
"""Values of required attributes in component.yaml, which loads."""

YAML_HEAD = """\
# Every attribute of the component, with its default. docs/index.md leads to pages that explain them.
# In a Dagster project, these lines are in a file named defs.yaml. Only `project` is required.
# Paths are relative to the file that contains them.
# `make reference` writes this file from the declarations in dg_sqlmesh_component/config/.
type: dg_sqlmesh_component.SQLMeshProjectComponent

attributes:
"""
PAGE_HEAD = """\
# Attributes of `defs.yaml`

Every attribute, with its default. Only `project` is required. `make reference` writes this page from the declarations \
in the package, and the editor's completion (`dg utils configure-editor`) shows the same texts.

Any value may be a template, for example `"{{ env.SQLMESH_ENVIRONMENT }}"`. In `project`, `select`, lists and the \
`tags` of runs, text stays as you write it, for example `"1.10"`. Elsewhere, such as in `op.tags`, Dagster reads it as \
a Python value, here the number 1.1. There, write `"'1.10'"`.
"""


@dataclass(frozen=True)
class Attribute:
    """One attribute as it is declared.

    Attributes:
        path: Its keys, separated by dots.
        default: Its default; MISSING if it is required.
        keys: The attributes of its mapping; empty for any other value.
        is_null: Whether its default is null, although it may be a mapping.
    """

    path: str
    description: str
    examples: list[Any]
    default: Any
    keys: list[Attribute]
    is_null: bool

    @property
    def name(self) -> str:
        return self.path.rpartition(".")[2]


def declared(attributes: type, path: str = "") -> list[Attribute]:
    """The attributes that a class declares."""
    types = get_type_hints(attributes, include_extras=True)
    return [_declared(f"{path}{field.name}", field, types[field.name]) for field in fields(attributes) if field.init]


def _declared(path: str, field: Any, annotation: Any) -> Attribute:
    resolver = next((of for of in getattr(annotation, "__metadata__", ()) if isinstance(of, dg.Resolver)), None)
    mapping = SQLMeshProjectArgs if path == "project" else _mapping(annotation)
    default = field.default if field.default_factory is MISSING else field.default_factory()
    return Attribute(
        path,
        (resolver.description if resolver else None) or "",
        list((resolver.examples if resolver else None) or ()),
        default,
        declared(mapping, f"{path}.") if mapping else [],
        is_null=default is None,
    )


def _mapping(annotation: Any) -> type | None:
    """The class of a mapping in an annotation."""
    inner = getattr(annotation, "__origin__", annotation)
    members = (annotation.__origin__,) if hasattr(annotation, "__metadata__") else (annotation,)
    for member in [*members, *get_args(inner)]:
        if isinstance(member, type) and issubclass(member, Attributes):
            return member
    return None


def reference_yaml() -> str:
    """The text of component.yaml."""
    return YAML_HEAD + "\n".join(
        "\n".join([f"  # -- {group} --", *("\n".join(["", *_yaml(attribute, "  ")]) for attribute in attributes), ""])
        for group, attributes in _groups()
    )


def names_by_topic() -> dict[str, list[str]]:
    """The attributes by topic, as the component's docstring lists them."""
    listed = (SQLMeshProjectComponent.__doc__ or "").partition("Attributes by topic:")[2].split("- **")[1:]
    return {topic.partition("**: ")[0]: re.findall(r"`(\w+)`", topic) for topic in listed}


def _groups() -> Iterator[tuple[str, list[Attribute]]]:
    """The attributes by topic."""
    attributes = {attribute.name: attribute for attribute in declared(ComponentAttributes)}
    for group, names in names_by_topic().items():
        yield group, [attributes[name] for name in names]


def _yaml(attribute: Attribute, indent: str) -> Iterator[str]:
    yield from _comment(attribute.description, indent)
    if attribute.keys and not attribute.is_null:
        yield f"{indent}{attribute.name}:"
        for key in attribute.keys:
            yield from _yaml(key, f"{indent}  ")
        return
    for key in attribute.keys:
        yield from _comment(f"{key.name}: {key.description}", indent, "  ")
    yield f"{indent}{attribute.name}: {_value(SHOWN.get(attribute.path, attribute.default))}"


def _comment(text: str, indent: str, within: str = "") -> list[str]:
    lines = textwrap.wrap(text, COLUMNS - len(indent) - len(within) - 2, break_on_hyphens=False)
    return [f"{indent}# {within}{line}" for line in lines]


def _value(value: Any) -> str:
    if isinstance(value, timedelta):
        value = int(value.total_seconds())
    text: str = yaml.safe_dump(value, default_flow_style=True, width=1_000, allow_unicode=True, sort_keys=False)
    return text.removesuffix("...\n").strip()


def reference_page() -> str:
    """The text of docs/attributes.md."""
    return PAGE_HEAD + "".join(
        f"\n## {group}\n" + "".join(map(_section, attributes)) for group, attributes in _groups()
    )


def _section(attribute: Attribute) -> str:
    lines = [f"\n### `{attribute.path}`\n", f"{attribute.description}\n"]
    lines.append(" ".join(f"{fact[0].upper()}{fact[1:]}." for fact in _facts(attribute)) + "\n")
    for key in attribute.keys:
        lines += _item(key)
    return "\n".join(lines) + ("\n" if attribute.keys else "")


def _item(attribute: Attribute, indent: str = "") -> list[str]:
    facts = f" ({'; '.join(_facts(attribute))})"
    lines = [f"{indent}- **`{attribute.name}`**{facts}: {attribute.description}"]
    for key in attribute.keys:
        lines += _item(key, f"{indent}    ")
    return lines


def _facts(attribute: Attribute) -> list[str]:
    """What the description does not say."""
    facts = ["required"] if attribute.default is MISSING else []
    if attribute.default is not MISSING and not attribute.keys and "Default: " not in attribute.description:
        facts.append(f"default: `{_value(attribute.default)}`")
    return [*facts, f"for example {_examples(attribute)}"]


def _examples(attribute: Attribute) -> str:
    return ", ".join(f"`{_value(example)}`" for example in attribute.examples)


if __name__ == "__main__":
    (REPOSITORY / "component.yaml").write_text(reference_yaml())
    (REPOSITORY / "docs" / "attributes.md").write_text(reference_page())
