"""The tables that SQLMesh reads and does not compute, and the patterns that name them."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from dg_sqlmesh_component.config.mappings import unmatched
from dg_sqlmesh_component.protocol.manifest import split_fqn


@dataclass(frozen=True)
class ExternalTable:
    """A table that SQLMesh does not compute: `external` in a template.

    Attributes:
        catalog: Empty if the engine has no catalogs.
        table_name: All parts, unquoted and dotted.
    """

    catalog: str
    schema: str
    name: str
    table_name: str

    @classmethod
    def of(cls, fqn: str) -> "ExternalTable":
        """Create it from SQLMesh's quoted name."""
        parts = split_fqn(fqn)
        catalog, schema, name = ("", "", *parts)[-3:]
        return cls(catalog, schema, name, ".".join(parts))


NO_TABLE = "no model reads an external table of that name"


def matching_tables(
    patterns: Iterable[str], fqns: Collection[str], attribute: str, place: str = "defs.yaml"
) -> list[str]:
    """The external tables that models read and that match a name or pattern, by fqn.

    Raises a ConfigurationError if a pattern matches none.
    """
    matching: dict[str, None] = {}
    for pattern in patterns:
        found = [fqn for fqn in fqns if matches(fqn, pattern)]
        if not found:
            known = {".".join(split_fqn(fqn)[-2:]) for fqn in fqns}
            raise unmatched(attribute, pattern, NO_TABLE, known, place)
        matching |= dict.fromkeys(found)
    return list(matching)


def matches(fqn: str, pattern: str) -> bool:
    name, text = ".".join(split_fqn(fqn)).casefold(), pattern.replace('"', "").casefold()
    return fnmatchcase(name, text) or fnmatchcase(name, f"*.{text}")
